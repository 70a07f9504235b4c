"""A partition's publisher that was fenced: each of its calls says so, none leaves anything behind."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import TopicPartition

from app.adapters.kafka.publisher import PartitionPublisher, PublishError
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from schemas.topics import Topic

SCORES, EVENTS = "fenced-scores", TopicPartition("fenced-events", 0)


def new_publisher(kafka: KafkaAccess) -> PartitionPublisher:
    return PartitionPublisher(kafka, "fenced-group", "fenced-0", 0, interval_ms=75, compression="zstd", early=None)


async def write(publisher: PartitionPublisher, offset: int) -> None:
    await publisher.send(SCORES, [(None, b"%d" % offset, None)])
    await publisher.commit({EVENTS: offset + 1})


def test_who_was_fenced_can_neither_commit_nor_go_on_sending(kafka: KafkaAccess) -> None:
    async def scenario() -> list[bytes | None]:
        await ensure_topics(kafka, [Topic(SCORES, 1), Topic(EVENTS.topic, 1)])
        old, new = new_publisher(kafka), new_publisher(kafka)
        await old.start()
        try:
            await write(old, 1)
            await old.send(SCORES, [(None, b"lost in the fence", None)])
            await new.start()
            try:
                with pytest.raises(PublishError, match="refused the commit"):
                    await old.commit({EVENTS: 3})
                # By the time of the second call the client may not know it yet, and lets Kafka refuse it again.
                with pytest.raises(PublishError, match=r"takes nothing more|refused the commit"):
                    await write(old, 3)
                await write(new, 2)
            finally:
                await new.stop()
        finally:
            await old.stop()
        return [value async for batch in read_to_end(kafka, [SCORES]) for value in batch.values]

    assert asyncio.run(scenario()) == [b"1", b"2"]
