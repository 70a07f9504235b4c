"""From the moment at which an event was due to be sent to that at which a read_committed consumer has its score."""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from aiokafka import TopicPartition
from numpy.typing import NDArray

from app.adapters.kafka.clients import new_consumer
from app.bench.contestants import OURS, OURS_AT_LEAST_ONCE, RAW, Contestant, kafka_streams
from app.bench.lane import MISHAPS, BenchError, Child, Lane, wait_until_scored
from app.bench.outputs import Said
from app.bench.run import BenchRun
from app.bench.workload import PARTITIONS, STATELESS, Workload

RATES = (2_000, 10_000)
WARM_UP_S = 5.0
#: What comes later than this after the last event was due counts as lost.
_PATIENCE_S = 30.0
#: One event a partition, scored before the clock runs: everybody has joined, and has its model.
_FIRST = PARTITIONS


@dataclass(frozen=True)
class Latencies:
    """Milliseconds by event, in the order in which they were due; the warm-up is left out."""

    ms: NDArray[np.float64]
    generator_late_p99_ms: float

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.ms, share))

    def tail_growth(self) -> float:
        """The second half's p99 by the first half's."""
        half = len(self.ms) // 2
        return float(np.percentile(self.ms[half:], 99) / np.percentile(self.ms[:half], 99))


async def measure_at(
    run: BenchRun,
    contestant: Contestant,
    workload: Workload,
    *,
    rate: int,
    seconds: float,
    watch: Callable[[Sequence[Child]], None] = lambda _: None,
) -> Latencies:
    """Latencies of one contestant at a steady rate. ``watch`` is told the processes when they have started."""
    run.say(f"latency: {contestant.title} at {rate:,} events/s for {seconds:.0f} s")
    children: list[Child] = []
    async with run.lane(workload, f"{contestant.name}-{rate}", contestant.delivery) as (lane, pipeline):
        await run.load(lane, _FIRST)
        try:
            children = contestant.start(lane, pipeline, run.say)
            await wait_until_scored(lane, children, _FIRST, commits=contestant.commits)
            watch(children)
            return await _measure(lane, children, rate, seconds)
        finally:
            for child in children:
                child.stop()


async def _measure(lane: Lane, children: list[Child], rate: int, seconds: float) -> Latencies:
    total = int(rate * (WARM_UP_S + seconds))
    consumer = new_consumer(lane.settings.kafka_access)
    await consumer.start()
    try:
        tps = [TopicPartition(*tp) for tp in lane.partitions(lane.topics.scores)]
        consumer.assign(tps)
        await consumer.seek_to_end(*tps)
        for tp in tps:
            await consumer.position(tp)
        extra = {"WORKLOAD": lane.workload.name, "RATE": str(rate), "SECONDS": str(WARM_UP_S + seconds)}
        generator = lane.start([sys.executable, "-P", "-m", "app.bench.generator"], {**extra, "FIRST": str(_FIRST)})
        children.append(generator)
        numbers, received_ns = await _read(consumer, total, children[:-1], WARM_UP_S + seconds)
    finally:
        await consumer.stop()
    said: dict[str, float] = {}
    for line in generator.log.read_text().splitlines():
        if line.startswith("{"):
            said |= json.loads(line)
    due_ns = said["start_ns"] + numbers * 1e9 / rate
    order = np.argsort(numbers, kind="stable")
    kept = order[numbers[order] >= rate * WARM_UP_S]
    return Latencies((received_ns - due_ns)[kept] / 1e6, said.get("late_p99_ms", 0.0))


async def _read(
    consumer: object, total: int, children: Sequence[Child], seconds: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number (from 0) of each event scored, and when it arrived."""
    decode = msgspec.json.Decoder(Said).decode
    numbers, received = array("q"), array("q")
    until = time.monotonic() + seconds + _PATIENCE_S
    while len(numbers) < total:
        fetched = await consumer.getmany(timeout_ms=200)  # type: ignore[attr-defined]  # aiokafka has no types
        now_ns = time.monotonic_ns()
        for records in fetched.values():
            for record in records:
                numbers.append(int(decode(record.value).event_id[1:]) - _FIRST)
                received.append(now_ns)
        if not fetched:
            for child in children:
                child.check()
            if time.monotonic() > until:
                raise BenchError(f"{total - len(numbers)} of {total} scores did not come: it cannot keep up")
        elif time.monotonic() > until:
            raise BenchError(f"it cannot keep up: {total - len(numbers)} of {total} scores were late")
    if len(set(numbers)) != total:
        raise BenchError("events were scored more than once")
    return np.array(numbers, dtype=np.float64), np.array(received, dtype=np.float64)


def add_latencies(run: BenchRun, name: str, place: tuple[str, str], found: Latencies) -> None:
    """Add the percentiles to the figures. ``place``: table and row."""
    for words, share in (("p50", 50), ("p99", 99), ("p99.9", 99.9)):
        run.figures.add_cell(f"{name}.{words}", found.percentile(share), "ms", (*place, words))
    late = found.generator_late_p99_ms
    run.figures.add_cell(f"{name}.generator_late", late, "ms", (*place, "generator late, p99"))


async def measure_latency(run: BenchRun) -> None:
    """Ours with both promises, the bare loop and Kafka Streams, at both rates."""
    for rate in RATES:
        for contestant in (OURS_AT_LEAST_ONCE, RAW, OURS, kafka_streams(1)):
            try:
                latency = await measure_at(run, contestant, STATELESS, rate=rate, seconds=run.sizes.seconds)
            except MISHAPS as error:
                run.figures.skip(f"latency at {rate}/s, {contestant.title}", str(error))
                continue
            place = f"Latency at {rate:,} events/s, from due to read committed, ms", contestant.title
            add_latencies(run, f"latency-{rate}.{contestant.name}", place, latency)
