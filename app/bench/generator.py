"""Sends events at a steady rate, whatever becomes of them: an open loop, in a process of its own.

Event n is due at start + n / rate; what is due is sent once a millisecond, as one record batch to the next partition.
Nothing waits for a score, and an event that goes out late keeps the time at which it was due, so a stall of the broker
or of a contestant shows in the latencies of all events that it held up.

    python -m app.bench.generator    with KAFKA, INPUT, WORKLOAD, RATE, SECONDS, FIRST; BY_KEY=1: by their keys instead

Prints {"start_ns": …} (monotonic clock) when it starts and {"late_p99_ms": …} when it has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import numpy as np

from app.adapters.kafka.clients import new_producer
from app.adapters.sources.source import Partitioner
from app.bench.workload import HOOKED, PARTITIONS, STATELESS, Workload
from app.kafka_access import KafkaAccess

_TICK_NS = 1_000_000
#: Events of one batch, when more are due.
_MOST_AT_ONCE = 1_500
_WORKLOADS = {workload.name: workload for workload in (STATELESS, *HOOKED)}


async def send_steadily(
    producer: Any, topic: str, workload: Workload, *, rate: int, seconds: float, first: int, by_key: bool = False
) -> None:
    """Send events ``first``, ``first`` + 1, … at ``rate``; ``by_key``: to the partitions of their keys."""
    partition_of = Partitioner(PARTITIONS)
    total = int(rate * seconds)
    workload.event(first)  # draws the numbers, before the clock runs
    start_ns = time.monotonic_ns() + 100_000_000
    _say({"start_ns": start_ns})
    sent, tick = 0, 0
    late_ms: list[float] = []
    while sent < total:
        now_ns = time.monotonic_ns()
        due = min(total, 1 + (now_ns - start_ns) * rate // 1_000_000_000) if now_ns >= start_ns else 0
        if due > sent:
            due = min(due, sent + _MOST_AT_ONCE)
            batches: dict[int, Any] = {}
            for number in range(first + sent, first + due):
                key, value, time_ms = workload.event(number)
                partition = partition_of(key) if by_key else tick % PARTITIONS
                if partition not in batches:
                    batches[partition] = producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=time_ms)
            late_ms.append((now_ns - start_ns) / 1e6 - sent * 1000 / rate)
            for partition, batch in batches.items():
                await producer.send_batch(batch, topic, partition=partition)
            sent, tick = due, tick + 1
        tick_ns = _TICK_NS * PARTITIONS if by_key else _TICK_NS  # as many batches a second
        next_ns = max(now_ns - now_ns % tick_ns + tick_ns, start_ns + sent * 1_000_000_000 // rate)
        await asyncio.sleep(max(0, next_ns - time.monotonic_ns()) / 1e9)
    await producer.flush()
    _say({"late_p99_ms": float(np.percentile(late_ms, 99))})


def _say(what: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    producer = new_producer(KafkaAccess(os.environ["KAFKA"]), enable_idempotence=False, acks=1, max_batch_size=500_000)
    await producer.start()
    workload = _WORKLOADS[os.environ["WORKLOAD"]]
    rate, seconds, first = int(os.environ["RATE"]), float(os.environ["SECONDS"]), int(os.environ["FIRST"])
    try:
        by_key = "BY_KEY" in os.environ
        await send_steadily(
            producer, os.environ["INPUT"], workload, rate=rate, seconds=seconds, first=first, by_key=by_key
        )
    finally:
        await producer.stop()


if __name__ == "__main__":
    asyncio.run(_main())
