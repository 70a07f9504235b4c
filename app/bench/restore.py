"""How fast a worker gets its state back through Kafka, and how much memory a worker with many entities takes.

Black box, on real workers: each event is of a card of its own, so as many events make as many entities with three
windows. The time from the start of a process to its owning all partitions, less the same with an empty changelog, is
what the state took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from app.adapters.kafka.topic_reader import read_to_end
from app.bench.contestants import OURS
from app.bench.lane import DEADLINE_S, BenchError, Child, Lane, wait_until_scored
from app.bench.probe import PARTITIONS_METRIC, find_address, read_metric
from app.bench.run import BenchRun
from app.bench.workload import ENTITIES, PARTITIONS

#: Starts that are timed, with state and without, in turns; the fastest of each counts, for all delays are added ones.
_STARTS = 3
#: What the goal is about; a run of the usual size has as many.
FULL_ENTITIES = 1_000_000


async def measure_restore(run: BenchRun) -> None:
    """Fill a changelog by half as many entities again as a run has events, and time workers that start on it."""
    entities = run.sizes.events * 3 // 2
    async with (
        run.lane(ENTITIES, "empty", "exactly_once") as (empty, empty_path),
        run.lane(ENTITIES, "restore", "exactly_once") as (lane, path),
    ):
        run.say(f"restore: a worker makes {entities:,} entities")
        await run.load(lane, entities)
        children = OURS.start(lane, path, run.say)
        try:
            await wait_until_scored(lane, children, entities, commits=True)
            built_rss = _rss(children)
        finally:
            _stop(children)
        keys = await _count_keys(lane)
        run.say(f"restore: {keys:,} keys, {_STARTS} starts")
        with_state, without = [], []
        for _ in range(_STARTS):
            with_state.append(await _start(run, lane, path))
            without.append(await _start(run, empty, empty_path))
    seconds = min(at for at, _ in with_state) - min(at for at, _ in without)
    if seconds <= 0:
        raise BenchError("the state took no time that can be told from the start's own: give more events by --events")
    rss, empty_rss = max(rss for _, rss in with_state), min(rss for _, rss in without)
    largest_rss = max(rss, built_rss)
    add = run.figures.add
    add("restore.entities", entities, "entities", "Restore: entities, three windows each")
    add("restore.keys", keys, "keys", "Restore: keys of the changelog")
    add("restore.seconds", seconds, "s", "Restore: time for all partitions, through Kafka")
    add("restore.rate_keys", keys / seconds, "keys/s", "Restore: keys, through Kafka")
    add("restore.rate_entities", entities / seconds, "entities/s", "Restore: entities, through Kafka")
    add("restore.worker_rss", largest_rss / 1e6, "MB", "Memory of a worker with them, the larger of built and restored")
    add("restore.entity_bytes", (largest_rss - empty_rss) / entities, "bytes", "Memory of a worker per entity")
    if entities >= FULL_ENTITIES:
        add("restore.worker_rss_1m", largest_rss / 1e6, "MB", "Memory of a worker with 1 000 000 entities or more")


async def _start(run: BenchRun, lane: Lane, path: Path) -> tuple[float, int]:
    """Seconds from the start of a worker to its working on all partitions, and its memory then."""
    started = time.monotonic()
    children = OURS.start(lane, path, run.say)
    try:
        address = await find_address(children[0])
        while await read_metric(address, PARTITIONS_METRIC) < PARTITIONS:
            children[0].check()
            if time.monotonic() - started > DEADLINE_S:
                raise BenchError(f"no partitions within {DEADLINE_S:.0f} s: {children[0].last_words()}")
            await asyncio.sleep(0.01)
        return time.monotonic() - started, _rss(children)
    finally:
        _stop(children)


async def _count_keys(lane: Lane) -> int:
    keys: set[tuple[int, bytes]] = set()
    async for batch in read_to_end(lane.settings.kafka_access, [lane.topics.state]):
        keys.update((batch.partition, key) for key in batch.keys if key is not None)
    return len(keys)


def _rss(children: Sequence[Child]) -> int:
    return sum(int(psutil.Process(child.process.pid).memory_info().rss) for child in children)


def _stop(children: Sequence[Child]) -> None:
    for child in children:
        child.stop()
