"""How far workers are behind, when producers of events use transactions."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP

from app.adapters.kafka.lag import LagReader, Position
from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from schemas.topics import Topic

TOPIC, GROUP = "lag-events", "lag-group"
SCORED, ABORTED, BEHIND = (TP(TOPIC, partition) for partition in range(3))


async def fill(kafka: KafkaAccess) -> None:
    """Per partition: two records committed, as many that an abort took back, and two that nobody has scored."""
    await ensure_topics(kafka, [Topic(TOPIC, 3)])
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, transactional_id="lag-producer")
    await producer.start()
    try:
        async with producer.transaction():
            for tp in (SCORED, ABORTED, BEHIND):
                for _ in range(2):
                    await producer.send_and_wait(TOPIC, b"event", partition=tp.partition)
        await producer.begin_transaction()
        for _ in range(2):
            await producer.send_and_wait(TOPIC, b"event", partition=ABORTED.partition)
        await producer.abort_transaction()
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.servers, group_id=GROUP, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(*tp) for tp in (SCORED, ABORTED, BEHIND)])
        committed = {SCORED: 2, ABORTED: 2, BEHIND: 1}
        await consumer.commit({TopicPartition(*tp): offset for tp, offset in committed.items()})
    finally:
        await consumer.stop()


async def test_who_reads_as_a_group_is_counted_until_they_leave(kafka: KafkaAccess) -> None:
    await ensure_topics(kafka, [Topic("lag-read", 2)])
    reader = LagReader(kafka)
    await reader.start()
    consumers = [
        AIOKafkaConsumer("lag-read", bootstrap_servers=kafka.servers, group_id="lag-readers") for _ in range(2)
    ]
    try:
        for n, consumer in enumerate(consumers, 1):
            await consumer.start()
            assert await reader.members("lag-readers") == n
        for n, consumer in enumerate(consumers, 1):
            await consumer.stop()
            assert await reader.members("lag-readers") == len(consumers) - n
        assert await reader.members("lag-nobody") == 0
    finally:
        await asyncio.gather(*(consumer.stop() for consumer in consumers))
        await reader.stop()


async def test_markers_and_aborted_records_are_nothing_to_score(kafka: KafkaAccess) -> None:
    await fill(kafka)
    reader = LagReader(kafka)
    await reader.start()
    try:
        committed = await reader.positions(GROUP, [SCORED, ABORTED, BEHIND])
        assert committed == {SCORED: Position(2, 3), ABORTED: Position(2, 6), BEHIND: Position(1, 3)}
        assert await reader.past_markers(committed) == committed  # they may be moving
        stood = {SCORED: Position(3, 3), ABORTED: Position(6, 6), BEHIND: Position(1, 3)}
        assert await reader.past_markers(committed) == stood
        assert await reader.past_markers(committed) == stood
        moved = committed | {SCORED: Position(2, 9)}
        assert await reader.past_markers(moved) == stood | {SCORED: Position(2, 9)}
    finally:
        await reader.stop()
