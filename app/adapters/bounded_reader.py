"""Reads stretches of topics without a consumer group: it joins, commits to and disturbs nobody. Committed records only.

Where a stretch begins and ends is asked once, at the start: by offset, or by the first record whose Kafka time stamp is
not before a time. Then it is read once, and that ends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import aiokafka
from aiokafka import TopicPartition

from app.adapters.recordings import cut_offsets
from app.adapters.topic_reader import new_consumer, to_batch
from app.core.batches import RecordBatch
from app.core.bounds import Bound, names

_POLL_MS = 200


async def read_between(bootstrap: str, bounds: Mapping[str, tuple[Bound, Bound]]) -> AsyncGenerator[RecordBatch, None]:
    """The committed records of each topic from its first bound up to its second, partition by partition as fetched.

    Raises
    ------
    LookupError
        When a topic does not exist.
    """
    consumer = new_consumer(bootstrap)
    await consumer.start()
    try:
        stretches: dict[TopicPartition, tuple[int, int]] = {}
        for topic, (begin, end) in bounds.items():
            stretches |= await _find_stretches(consumer, topic, begin, end)
        consumer.assign(list(stretches))
        left = {}
        for tp, (start, stop) in stretches.items():
            if start < stop:
                consumer.seek(tp, start)
                left[tp] = stop
            else:
                consumer.pause(tp)
        while left:
            for tp, found in (await consumer.getmany(*left, timeout_ms=_POLL_MS)).items():
                batch = cut_offsets(to_batch(tp, found), 0, left[tp])
                if len(batch):
                    yield batch
            for tp in list(left):
                # The end may be a transaction's marker, which is no record.
                if await consumer.position(tp) >= left[tp]:
                    del left[tp]
                    consumer.pause(tp)
    finally:
        await consumer.stop()


async def _find_stretches(
    consumer: aiokafka.AIOKafkaConsumer, topic: str, begin: Bound, end: Bound
) -> dict[TopicPartition, tuple[int, int]]:
    await consumer._client._wait_on_metadata(topic)  # noqa: SLF001  # the only call that asks for a topic not subscribed to
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise LookupError(f"Topic {topic} does not exist; run `streamgauge migrate`.")
    tps = [TopicPartition(topic, number) for number in sorted(numbers)]
    oldest, newest = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    starts = await _place(consumer, tps, begin, oldest, newest)
    stops = await _place(consumer, tps, end, newest, newest)
    return {
        tp: (max(starts[tp], oldest[tp]), min(stops[tp], newest[tp])) for tp in tps if names(begin, end, tp.partition)
    }


async def _place(
    consumer: aiokafka.AIOKafkaConsumer,
    tps: list[TopicPartition],
    bound: Bound,
    otherwise: Mapping[TopicPartition, int],
    newest: Mapping[TopicPartition, int],
) -> dict[TopicPartition, int]:
    if bound.time_ms is None:
        return {tp: bound.offsets.get(tp.partition, otherwise[tp]) for tp in tps}
    found = await consumer.offsets_for_times(dict.fromkeys(tps, max(0, bound.time_ms)))
    return {tp: found[tp].offset if found.get(tp) is not None else newest[tp] for tp in tps}
