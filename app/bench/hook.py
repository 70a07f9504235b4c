"""The scoring hook beside a stream: how long answers take, how many a worker gives, and what one costs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil

from app.bench.contestants import worker_command
from app.bench.lane import BenchError, Child, Lane, wait_until_scored
from app.bench.peer_tools import program
from app.bench.run import BenchRun
from app.bench.workload import HOOKED, STATELESS, Workload

#: Events a second of the stream beside.
STREAM_RATE = 5_000
#: Requests a second of the open loop.
RATE = 500
#: Events that are scored before anything is asked: windows hold something.
_FIRST = 20_000
_BACKLOG = 200_000
_CONNECTIONS = 16
_TABLE = "Scoring hook"


async def measure_hook(run: BenchRun) -> None:
    """Both models: beside the stream, in a closed loop, in lists, and while the worker catches up."""
    for workload in HOOKED:
        async with _serving(run, workload) as (lane, worker, url):
            seconds = run.sizes.seconds
            stream = await _start_stream(lane, 4 * (seconds + 8))
            for words, settings in {
                "500 requests/s": {"RATE": RATE, "SECONDS": seconds, "CONNECTIONS": _CONNECTIONS, "LIST": 1},
                "as many as it gives": {"RATE": 0, "SECONDS": seconds / 2, "CONNECTIONS": _CONNECTIONS, "LIST": 1},
                "lists of 100": {"RATE": 0, "SECONDS": seconds / 2, "CONNECTIONS": 4, "LIST": 100},
            }.items():
                run.say(f"hook: {words}")
                said = await _ask(lane, url, settings, worker)
                _add(run, workload, words, said, settings["LIST"])
            stream.stop()
            await _fill(lane, _BACKLOG)
            settings = {"RATE": RATE, "SECONDS": seconds / 4, "CONNECTIONS": _CONNECTIONS, "LIST": 1}
            run.say("hook: catching up")
            _add(run, workload, "catching up", await _ask(lane, url, settings, worker), 1)
    await _compare_cost(run)


async def _compare_cost(run: BenchRun) -> None:
    """CPU of a request, without a stream: ours, and the bare handler."""
    workload = HOOKED[0]
    settings = {"RATE": 0, "SECONDS": run.sizes.seconds / 2, "CONNECTIONS": _CONNECTIONS, "LIST": 1}
    async with _serving(run, workload) as (lane, worker, url):
        bare = lane.start([sys.executable, str(program("bare_hook.py"))], STATELESS.write_for_peers(lane.folder))
        try:
            for name, child, at in (("streamgauge", worker, url), ("aiohttp", bare, await _address(bare))):
                run.say(f"hook: {name} without a stream")
                said = await _ask(lane, at, settings, child)
                place = ("CPU of a request, closed loop of 16 connections", name)
                run.figures.add_cell(f"hook.{name}.cpu", said["cpu_us"], "µs", (*place, "µs CPU"))
                peak = said["requests"] / said["seconds"]
                run.figures.add_cell(f"hook.{name}.peak", peak, "/s", (*place, "requests/s"))
        finally:
            bare.stop()


def _add(run: BenchRun, workload: Workload, words: str, said: dict[str, float], list_of: float) -> None:
    name = f"hook.{workload.name}.{words.replace(' ', '-').replace('/', '-')}"
    place = (f"{_TABLE}, {workload.help}, beside {STREAM_RATE:,} events/s", words)
    for percentile in ("p50_ms", "p99_ms", "p999_ms"):
        run.figures.add_cell(f"{name}.{percentile[:-3]}", said[percentile], "ms", (*place, percentile[:-3]))
    run.figures.add_cell(f"{name}.rate", said["requests"] * list_of / said["seconds"], "/s", (*place, "events/s"))
    run.figures.add_cell(f"{name}.refused", said["refused"], "", (*place, "refused"))


@asynccontextmanager
async def _serving(run: BenchRun, workload: Workload) -> AsyncIterator[tuple[Lane, Child, str]]:
    """A worker that has scored some events, and where it is asked."""
    run.say(f"hook: {workload.help}")
    async with run.lane(workload, f"hook-{workload.name}", "exactly_once") as (lane, pipeline):
        await _fill(lane, _FIRST)
        worker = lane.start(worker_command(pipeline))
        try:
            await wait_until_scored(lane, [worker], _FIRST, commits=True)
            yield lane, worker, await _address(worker)
        finally:
            worker.stop()


async def _fill(lane: Lane, events: int) -> None:
    """Send events as fast as it goes."""
    sender = _start_generator(lane, rate=1_000_000, seconds=events / 1_000_000, first=0)
    await asyncio.to_thread(sender.process.wait)


async def _start_stream(lane: Lane, seconds: float) -> Child:
    stream = _start_generator(lane, rate=STREAM_RATE, seconds=seconds, first=_FIRST)
    while "start_ns" not in stream.log.read_text():
        stream.check()
        await asyncio.sleep(0.05)
    return stream


def _start_generator(lane: Lane, *, rate: int, seconds: float, first: int) -> Child:
    extra = {"WORKLOAD": lane.workload.name, "RATE": str(rate), "SECONDS": str(seconds), "FIRST": str(first)}
    return lane.start([sys.executable, "-P", "-m", "app.bench.generator"], {**extra, "BY_KEY": "1"})


async def _ask(lane: Lane, url: str, settings: dict[str, float], child: Child) -> dict[str, float]:
    """Ask as the settings say; what the asker said, and the CPU of ``child`` a request, in µs."""
    extra = {name: str(value) for name, value in settings.items()}
    extra |= {"URL": url, "WORKLOAD": lane.workload.name, "FIRST": str(_FIRST), "STREAM_RATE": str(STREAM_RATE)}
    process = psutil.Process(child.process.pid)
    before_s = sum(process.cpu_times()[:2])
    asker = lane.start([sys.executable, "-P", "-m", "app.bench.asker"], extra)
    await asyncio.to_thread(asker.process.wait)
    child.check()
    cpu_s = sum(process.cpu_times()[:2]) - before_s
    lines = [line for line in asker.log.read_text().splitlines() if line.startswith("{")]
    if not lines:
        raise BenchError(f"the asker said nothing: {asker.last_words()}")
    said: dict[str, float] = json.loads(lines[-1])
    return {**said, "cpu_us": cpu_s * 1e6 / said["requests"]}


async def _address(child: Child) -> str:
    """Where a process listens, by the line of JSON that it prints."""
    while True:
        child.check()
        for line in child.log.read_text(errors="replace").splitlines():
            if line.startswith("{") and '"http"' in line:
                return str(json.loads(line)["http"])
        await asyncio.sleep(0.05)
