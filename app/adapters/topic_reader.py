"""Reads topics without a consumer group: to their end, or on and on. Committed records only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.lean_consumer import LeanConsumer
from app.core.batches import RecordBatch

_POLL_MS = 200


def to_batch(tp: TopicPartition, found: list[Any]) -> RecordBatch:
    """The record batch of what a consumer fetched of one partition."""
    has_headers = any(record.headers for record in found)
    return RecordBatch(
        topic=tp.topic,
        partition=tp.partition,
        offsets=np.array([record.offset for record in found], dtype=np.int64),
        timestamps_ms=np.array([record.timestamp for record in found], dtype=np.int64),
        keys=[record.key for record in found],
        values=[record.value for record in found],
        headers=[tuple(record.headers) for record in found] if has_headers else None,
    )


def new_consumer(bootstrap: str) -> LeanConsumer:
    """A consumer without a group that reads committed records from the beginning."""
    return LeanConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
        fetch_max_wait_ms=100,
    )


async def answers(bootstrap: str) -> bool:
    """Whether Kafka can be reached now."""
    consumer = new_consumer(bootstrap)
    try:
        async with asyncio.timeout(10):
            await consumer.start()
    except (KafkaError, TimeoutError):
        return False
    finally:
        await consumer.stop()
    return True


async def read_to_end(
    bootstrap: str,
    topics: list[str],
    partition: int | None = None,
    begin: Callable[[int, int], int] | None = None,
) -> AsyncIterator[RecordBatch]:
    """Every committed record that the topics hold now, partition by partition as fetched.

    Parameters
    ----------
    partition
        Only this one; None: all.
    begin
        Where to begin, given the offsets of a partition's first record and after its last; None: at the first.
    """
    consumer = new_consumer(bootstrap)
    await consumer.start()
    try:
        tps = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(await _partitions(consumer, topic))
            if partition in (None, number)
        ]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        first = await consumer.beginning_offsets(tps)
        if begin is not None:
            first = {tp: begin(first[tp], ends[tp]) for tp in tps}
            for tp in tps:
                consumer.seek(tp, first[tp])
        open_tps = {tp for tp in tps if ends[tp] > first[tp]}
        consumer.pause(*[tp for tp in tps if tp not in open_tps])
        while open_tps:
            for tp, found in (await consumer.getmany(*open_tps, timeout_ms=_POLL_MS)).items():
                yield to_batch(tp, found)
            for tp in list(open_tps):
                if (
                    await consumer.position(tp) >= ends[tp]
                ):  # the end may be a transaction marker, which is not a record
                    open_tps.discard(tp)
                    consumer.pause(tp)
    finally:
        await consumer.stop()


async def follow(bootstrap: str, topic: str) -> AsyncIterator[RecordBatch | None]:
    """Every record of a topic from the beginning and on; None whenever the end has been reached."""
    consumer = new_consumer(bootstrap)
    await consumer.start()
    try:
        tps = [TopicPartition(topic, number) for number in sorted(await _partitions(consumer, topic))]
        consumer.assign(tps)
        while True:
            found = await consumer.getmany(timeout_ms=_POLL_MS)
            for tp, records in found.items():
                yield to_batch(tp, records)
            if not found:
                yield None
    finally:
        await consumer.stop()


async def _partitions(consumer: LeanConsumer, topic: str) -> set[int]:
    await consumer._client._wait_on_metadata(topic)  # noqa: SLF001  # the only call that asks for a topic not subscribed to
    found: set[int] | None = consumer.partitions_for_topic(topic)
    if not found:
        raise LookupError(f"Topic {topic} does not exist; run `streamgauge migrate`.")
    return found
