"""What a consumer does while no broker answers, or none leads."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.kafka_access import KafkaAccess
from schemas.topics import Topic

SECONDS = 2.0


async def test_a_leader_is_asked_for_ten_times_a_second_and_no_more(
    kafka: KafkaAccess, caplog: pytest.LogCaptureFixture
) -> None:
    def updates() -> int:
        return sum("Sending metadata request" in record.message for record in caplog.records)

    caplog.set_level(logging.DEBUG, logger="aiokafka")
    await ensure_topics(kafka, [Topic("away", 1)])
    consumer = new_consumer(kafka)
    await consumer.start()
    try:
        caplog.set_level(logging.DEBUG, logger="aiokafka.client")
        consumer.assign([TopicPartition("away", 7)])  # there is none, so nobody leads it
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(SECONDS)
        seconds = asyncio.get_running_loop().time() - started
        assert 2 <= updates() <= 10 * seconds + 2
    finally:
        await consumer.stop()


async def test_a_consumer_stops_while_no_broker_answers(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """aiokafka's own would end who stops it, too, as if that one had been cancelled."""
    broker = EmbeddedKafka(home=tmp_path, cache=cache)
    await asyncio.to_thread(broker.start)
    try:
        await ensure_topics(broker.access, [Topic("away", 1)])
        consumer = new_consumer(broker.access)
        await consumer.start()
        consumer.assign([TopicPartition("away", 0)])
        assert not await consumer.getmany(timeout_ms=200)
    finally:
        await asyncio.to_thread(broker.stop)
    while not any("Failed fetch messages" in record.message for record in caplog.records):
        await consumer.getmany(timeout_ms=5)
    await consumer.stop()  # a fetch waits to be tried again
