"""Where a worker's CPU goes: samples of its stacks, summed by stage.

`STAGES` is the one place that says which code is which stage. A sample belongs to the first rule that fits any of its
frames, looked at from the innermost outwards.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.bench.contestants import OURS, worker_command
from app.bench.lane import BenchError, Child, Lane, Meter, Race, wait_until_scored
from app.bench.outputs import Outputs
from app.bench.peer_tools import ensure_python
from app.bench.run import BenchRun
from app.bench.workload import STATELESS, WINDOWS

_HERTZ = 250
#: The thread in which Faust's consumer runs; what there belongs to no other stage is fetching.
_CONSUMER_THREAD = "consumer"

#: Stage -> frames: "path" or "path:function"; a path is a file, or with a slash at its end a folder.
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "commit",
        (
            "app/adapters/publisher.py", "aiokafka/producer/", "app/pipeline.py:drain_state",
            "app/pipeline.py:drain_sketch", "app/worker.py:_commit", "app/partition_task.py:_commit",
            "app/worker.py:commit_offsets", "app/core/tile_log.py",
        ),
    ),
    ("encode", ("app/pipeline.py:_encode_scores", "app/core/encode.py")),
    ("drift statistics", ("app/core/sketches.py", "models/reference.py", "app/pipeline.py:_count_outcomes")),
    ("score", ("models/scorer.py", "models/folding.py", "app/core/scoring.py")),
    (
        "features",
        (
            "app/core/features.py", "app/core/expressions.py", "app/core/lookups.py", "app/core/windows.py",
            "app/core/tiles.py", "app/core/tile_batch.py", "app/core/tile_cells.py", "app/core/range_sums.py",
            "app/core/keys.py", "app/core/measures.py", "app/core/sightings.py",
        ),
    ),
    ("decode", ("app/core/decode.py", "app/pipeline.py:receive_events")),
    (
        "fetch",
        ("aiokafka/consumer/", "app/adapters/faust_batches.py", "app/adapters/topic_reader.py", "faust/"),
    ),
    (
        "start-up",
        ("<frozen importlib", "app/adapters/model_feed.py", "models/verify.py", "app/cli/", "app/bootstrap.py:"),
    ),
    (
        "merge and flow",
        (
            "app/pipeline.py", "app/core/", "app/worker.py", "app/partition_task.py", "app/drive.py",
        ),
    ),
    ("event loop", ("asyncio/", "selectors.py", "mode/", "aiokafka/", "threading.py", "concurrent/")),
)  # fmt: skip
#: Not part of the work on events.
_LEFT_OUT = "start-up"

_FRAME = re.compile(r"(?P<function>.*) \((?P<path>.*?)(?::\d+)?\)\Z")


@dataclass(frozen=True)
class Frame:
    """A line of a stack."""

    function: str
    path: str

    def fits(self, rule: str) -> bool:
        """Whether a rule of `STAGES` means it."""
        path, _, function = rule.partition(":")
        where = f"/{self.path}"
        is_there = f"/{path}" in where if path.endswith("/") or path.startswith("<") else where.endswith(f"/{path}")
        return is_there and function in {"", self.function}


def stage_of(stack: str) -> str:
    """The stage of one collapsed stack, outermost frame first.

    Examples
    --------
    >>> stage_of("run (asyncio/base_events.py:1);_process (app/pipeline.py:9);score (models/scorer.py:7)")
    'score'
    """
    frames = [Frame(found["function"], found["path"]) for found in map(_FRAME.match, stack.split(";")) if found]
    # Starting anything runs under the command line's own frames, as all work does: only inner frames tell those apart.
    inner = [frame for frame in frames if not frame.path.startswith("app/cli/") and "__main__" not in frame.path]
    for frame in reversed(inner):
        for stage, rules in STAGES:
            if stage != "event loop" and any(map(frame.fits, rules)):
                return stage
    if _CONSUMER_THREAD in stack.partition(";")[0].lower():
        return "fetch"
    # Both ends of a connection look alike on the main loop, which has the producers' alone.
    if any("aiokafka" in frame.path for frame in inner):
        return "commit"
    return "event loop"


def sum_stages(lines: Iterable[str]) -> Counter[str]:
    """Samples by stage, of py-spy's raw output: a stack and its count on each line."""
    samples: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if stack:
            samples[stage_of(stack)] += int(count)
    return samples


async def measure_stages(run: BenchRun) -> None:
    """Microseconds of CPU per event and stage, stateless and with windows."""
    spy = ensure_python(run.settings.cache, "py-spy", run.say).with_name("py-spy")
    for workload in (STATELESS, WINDOWS):
        run.say(f"profile: {workload.help}, {run.sizes.events:,} events")
        async with run.lane(workload, "profile", OURS.delivery) as (lane, pipeline):
            await run.load(lane, run.sizes.events)
            raw = lane.folder / "stacks.txt"
            samples, cpu_us = await _profile(run, lane, spy, pipeline, raw)
        total = sum(count for stage, count in samples.items() if stage != _LEFT_OUT)
        if not total:
            raise BenchError("py-spy sampled nothing")
        for stage in [name for name, _ in STAGES if name != _LEFT_OUT]:
            name = f"profile.{workload.name}.{stage.replace(' ', '-')}"
            run.figures.add(name, cpu_us * samples[stage] / total, "µs", f"Profile, {workload.name}: {stage}, µs/event")
        run.figures.add(f"profile.{workload.name}.all", cpu_us, "µs", f"Profile, {workload.name}: all, µs/event")


async def _profile(run: BenchRun, lane: Lane, spy: Path, pipeline: Path, raw: Path) -> tuple[Counter[str], float]:
    command = ["record", "--format", "raw", "--threads", "--rate", str(_HERTZ), "--output", str(raw), "--"]
    sampler = lane.start([str(spy), *command, *worker_command(pipeline)])
    try:
        child = await _find_worker(sampler)
        with Meter([child.pid]) as meter:
            await wait_until_scored(lane, [sampler], run.sizes.events, commits=True)
        child.terminate()
        await asyncio.to_thread(sampler.process.wait, 60)
    finally:
        sampler.stop()
    outputs = await Outputs.read(lane)
    return _read_stages(raw, sampler), Race.of("profile", outputs.appended_ms, meter).cpu_us


def _read_stages(raw: Path, sampler: Child) -> Counter[str]:
    if not raw.exists():
        raise BenchError(f"py-spy wrote nothing: {sampler.last_words()}")
    return sum_stages(raw.read_text().splitlines())


async def _find_worker(sampler: Child) -> psutil.Process:
    """The worker that py-spy started (being its parent, it needs no right to look at others)."""
    for _ in range(600):
        sampler.check()
        children: Sequence[psutil.Process] = psutil.Process(sampler.process.pid).children()
        if children:
            return children[0]
        await asyncio.sleep(0.05)
    raise BenchError(f"py-spy did not start the worker: {sampler.last_words()}")
