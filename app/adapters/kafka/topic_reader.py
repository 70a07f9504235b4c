"""Reads topics without a consumer group, committed records only: to their end, or without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.lean_consumer import LeanConsumer
from app.adapters.kafka.record_batches import UnreadableRecord
from app.core.batches import RecordBatch
from app.core.entities.copies import read_stand_in
from app.kafka_access import KafkaAccess

_POLL_MS = 200


def to_batch(tp: TopicPartition, records: list[Any]) -> RecordBatch:
    """The record batch of what a consumer fetched of one partition."""
    has_headers = any(record.headers for record in records)
    return RecordBatch(
        topic=tp.topic,
        partition=tp.partition,
        offsets=np.array([record.offset for record in records], dtype=np.int64),
        timestamps_ms=np.array([record.timestamp for record in records], dtype=np.int64),
        keys=[record.key for record in records],
        values=[record.value for record in records],
        headers=[tuple(record.headers) for record in records] if has_headers else None,
        unreadable=_unreadable(records) if has_headers else {},
    )


def _unreadable(records: list[Any]) -> dict[int, tuple[str, int]]:
    """Which records only stand for unreadable ones, by position; on a topic by entity they are copies of such."""
    stand_ins = {}
    for position, record in enumerate(records):
        if record.value is None:
            is_one = isinstance(record, UnreadableRecord)
            known = (record.why, record.size_bytes) if is_one else read_stand_in(record.headers)
            if known is not None:
                stand_ins[position] = known
    return stand_ins


async def answers(kafka: KafkaAccess) -> bool:
    """Whether Kafka can be reached now."""
    consumer = new_consumer(kafka)
    try:
        async with asyncio.timeout(10):
            await consumer.start()
    except (KafkaError, TimeoutError):
        return False
    finally:
        await consumer.stop()
    return True


async def read_to_end(
    kafka: KafkaAccess,
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
        Says where to begin, given a partition's first offset and the offset after its last; None: at the first.
    """
    consumer = new_consumer(kafka)
    await consumer.start()
    try:
        tps = [
            tp for topic in topics for tp in await partitions_of(consumer, topic) if partition in (None, tp.partition)
        ]
        ends = await consumer.end_offsets(tps)
        starts = await consumer.beginning_offsets(tps)
        if begin is not None:
            starts = {tp: begin(starts[tp], ends[tp]) for tp in tps}
        async for batch in drain(consumer, {tp: (starts[tp], ends[tp]) for tp in tps}):
            yield batch
    finally:
        await consumer.stop()


async def follow(kafka: KafkaAccess, topic: str) -> AsyncIterator[RecordBatch | None]:
    """Every record of a topic from its beginning, without end; None whenever the end has been reached."""
    consumer = new_consumer(kafka)
    await consumer.start()
    try:
        tps = await partitions_of(consumer, topic)
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        while True:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
            for tp, records in fetched.items():
                yield to_batch(tp, records)
            if fetched:
                continue
            # No records for a while does not mean the end: a broker may take longer to answer.
            ends = {tp: end for tp, end in ends.items() if await consumer.position(tp) < end}
            if not ends:
                yield None
    finally:
        await consumer.stop()


async def partitions_of(consumer: LeanConsumer, topic: str) -> list[TopicPartition]:
    """The partitions of a topic in their order; LookupError when it does not exist."""
    await consumer._client._wait_on_metadata(topic)  # noqa: SLF001  # the only call that asks for a topic not subscribed to
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise LookupError(f"Topic {topic} does not exist; run `streamgauge migrate`.")
    return [TopicPartition(topic, number) for number in sorted(numbers)]


async def drain(
    consumer: LeanConsumer, stretches: Mapping[TopicPartition, tuple[int, int]]
) -> AsyncGenerator[RecordBatch, None]:
    """Assign partitions and read each from its first offset until its second is reached, as fetched.

    The last batch of a partition may hold records beyond its end.
    """
    consumer.assign(list(stretches))
    left = {}
    for tp, (start, stop) in stretches.items():
        if start < stop:
            consumer.seek(tp, start)
            left[tp] = stop
        else:
            consumer.pause(tp)
    while left:
        for tp, records in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
            yield to_batch(tp, records)
        for tp in list(left):
            # The end may be a transaction's marker, which is not a record.
            if await consumer.position(tp) >= left[tp]:
                del left[tp]
                consumer.pause(tp)
