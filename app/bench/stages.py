"""Where a worker's CPU goes: samples of its stacks, summed by stage.

`STAGES` is the one place that says which code is which stage. Of a sample's frames, the innermost that fits a rule says
where it belongs.
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
_TABLE = "CPU µs per event by stage, exactly once"

#: Stage -> rules: "path", or "path:function"; a path that ends in a slash is a folder.
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "commit",
        (
            "app/adapters/kafka/publisher.py",
            "aiokafka/producer/",
            "app/core/tiles/codec.py",
            "app/core/features/state_log.py",
            "app/pipeline.py:drain_state",
            "app/pipeline.py:drain_sketch",
            "app/worker/outbox.py:_commit",
        ),
    ),
    ("encode", ("app/flow/encoder.py",)),
    ("drift statistics", ("app/core/counts/", "models/reference/", "app/flow/counts.py")),
    ("score", ("models/scoring/", "app/core/scoring.py")),
    ("features", ("app/core/features/", "app/core/tiles/", "app/core/shared/")),
    ("decode", ("app/core/intake/decode.py", "app/pipeline.py:receive_events")),
    (
        "fetch",
        (
            "aiokafka/consumer/",
            "app/adapters/kafka/batch_app.py",
            "app/adapters/kafka/batch_consumer.py",
            "app/adapters/kafka/topic_reader.py",
            "faust/",
        ),
    ),
    (
        "merge and flow",
        (
            "app/pipeline.py",
            "app/flow/",
            "app/core/",
            "app/worker/",
            "app/replay/drive.py",
        ),
    ),
)
#: What fits no rule is fetching in Faust's consumer thread, committing in a connection of another, and else this.
EVENT_LOOP = "event loop"
#: Not work on events, wherever in a stack it is: imports, the model on its way, an agent's inspection of its module.
_LEFT_OUT = (
    "<frozen importlib",
    "importlib/",
    "app/worker/model_shelf.py",
    "app/worker/model_loader.py",
    "app/worker/model_statuses.py",
    "app/adapters/sources/features.py",
    "inspect.py",
    "app/cli/__init__.py",
)
#: A thread that waits is no CPU time, though a busy machine's sampler may take it for some.
_WAITS = ("selectors.py:select", "concurrent/futures/thread.py:_worker", "threading.py:wait")

_FRAME = re.compile(r"(?P<function>.*) \((?P<path>.*?)(?::\d+)?\)\Z")


@dataclass(frozen=True)
class Frame:
    """A line of a stack: a function, its class left out, and its file."""

    function: str
    path: str

    def fits(self, rule: str) -> bool:
        """Whether a rule means it."""
        path, _, function = rule.partition(":")
        if path.endswith("/") or path.startswith("<"):
            is_there = f"/{path}" in f"/{self.path}"
        else:
            is_there = f"/{self.path}".endswith(f"/{path}")
        return is_there and function in {"", self.function}


def stage_of(stack: str) -> str | None:
    """The stage of one collapsed stack, outermost frame first; None when it is no work on events.

    Examples
    --------
    >>> stage_of("MainThread;Flow.step (app/pipeline.py:9);Logit.score (models/scoring/scorer.py:7)")
    'score'
    """
    matches = [match for match in map(_FRAME.match, stack.split(";")) if match]
    frames = [Frame(match["function"].rpartition(".")[2], match["path"]) for match in matches]
    if frames and any(map(frames[-1].fits, _WAITS)):
        return None
    if any(frame.fits(rule) for frame in frames for rule in _LEFT_OUT):
        return None
    for frame in reversed(frames):
        for stage, rules in STAGES:
            if any(map(frame.fits, rules)):
                return stage
    if ": Thread-" in stack.partition(";")[0]:
        return "fetch"
    return "commit" if any("aiokafka/" in frame.path for frame in frames) else EVENT_LOOP


def sum_stages(lines: Iterable[str]) -> Counter[str]:
    """Samples by stage, of py-spy's raw output: a stack and its count on each line."""
    samples: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        stage = stage_of(stack)
        if stack and stage is not None:
            samples[stage] += int(count)
    return samples


async def measure_stages(run: BenchRun) -> None:
    """Microseconds of CPU per event and stage, stateless and with windows."""
    spy = ensure_python(run.settings.cache, "py-spy", run.say).with_name("py-spy")
    for workload in (STATELESS, WINDOWS):
        run.say(f"profile: {workload.help}, {run.sizes.events:,} events")
        async with run.lane(workload, "profile", OURS.delivery) as (lane, pipeline):
            await run.load(lane, run.sizes.events)
            run.report.mkdir(parents=True, exist_ok=True)
            raw = (run.report / f"stacks-{workload.name}.txt").absolute()  # a flame graph can be drawn of it
            samples, cpu_us = await _profile(run, lane, spy, pipeline, raw)
        total = samples.total()
        if not total:
            raise BenchError("py-spy sampled nothing")
        for stage in [*(name for name, _ in STAGES), EVENT_LOOP]:
            name = f"profile.{workload.name}.{stage.replace(' ', '-')}"
            run.figures.add_cell(name, cpu_us * samples[stage] / total, "µs", (_TABLE, stage, workload.name))
        run.figures.add_cell(f"profile.{workload.name}.all", cpu_us, "µs", (_TABLE, "all", workload.name))


async def _profile(run: BenchRun, lane: Lane, spy: Path, pipeline: Path, raw: Path) -> tuple[Counter[str], float]:
    command = ["record", "--format", "raw", "--threads", "--rate", str(_HERTZ), "--output", str(raw), "--"]
    sampler = lane.start([str(spy), *command, *worker_command(pipeline)])
    try:
        child = await _find_worker(sampler)
        try:
            with Meter([child.pid]) as meter:
                await wait_until_scored(lane, [sampler], run.sizes.events, commits=True)
        finally:
            child.terminate()  # py-spy writes what it has when its child ends
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
