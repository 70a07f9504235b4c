"""Reads stretches of topics, committed records only, without a consumer group: nobody notices.

A stretch is bounded by offsets, or by times: a time stands for the first record whose Kafka time stamp is not before
it. The bounds are looked up once, at the start. Then the stretch is read once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.lean_consumer import LeanConsumer
from app.adapters.kafka.topic_reader import drain, partitions_of
from app.core.batches import RecordBatch
from app.core.replay.bounds import Bound, names
from app.exits import StackError
from app.kafka_access import KafkaAccess


async def read_between(
    kafka: KafkaAccess, bounds: Mapping[str, tuple[Bound, Bound]]
) -> AsyncGenerator[RecordBatch, None]:
    """The committed records of each topic from its first bound up to its second, partition by partition as fetched.

    Raises
    ------
    LookupError
        When a topic does not exist.
    """
    consumer = new_consumer(kafka)
    await consumer.start()
    try:
        stretches: dict[TopicPartition, tuple[int, int]] = {}
        for topic, (begin, end) in bounds.items():
            stretches |= await _find_stretches(consumer, topic, begin, end)
        async for fetched in drain(consumer, stretches):
            _, stop = stretches[TopicPartition(fetched.topic, fetched.partition)]
            batch = fetched.between(0, stop)
            if len(batch):
                yield batch
    finally:
        await consumer.stop()


@contextmanager
def reading(kafka: KafkaAccess) -> Iterator[None]:
    """Turn errors of reading Kafka within this context into a StackError."""
    try:
        yield
    except LookupError as error:
        raise StackError(str(error)) from error
    except KafkaError as error:
        raise StackError(f"Kafka at {kafka} could not be read: {error!r:.200}.") from error


async def _find_stretches(
    consumer: LeanConsumer, topic: str, begin: Bound, end: Bound
) -> dict[TopicPartition, tuple[int, int]]:
    tps = await partitions_of(consumer, topic)
    oldest, newest = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    starts = await _place(consumer, tps, begin, oldest, newest)
    stops = await _place(consumer, tps, end, newest, newest)
    return {
        tp: (max(starts[tp], oldest[tp]), min(stops[tp], newest[tp])) for tp in tps if names(begin, end, tp.partition)
    }


async def _place(
    consumer: LeanConsumer,
    tps: list[TopicPartition],
    bound: Bound,
    otherwise: Mapping[TopicPartition, int],
    newest: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    if bound.time_ms is None:
        return {tp: bound.offsets.get(tp.partition, otherwise[tp]) for tp in tps}
    records = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, bound.time_ms)))
    return {tp: records[tp].offset if records.get(tp) is not None else newest[tp] for tp in tps}
