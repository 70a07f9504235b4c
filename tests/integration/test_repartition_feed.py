"""The owner of a part of the keys, on a real Kafka: it answers and deletes what nobody needs; another says the same."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from shared_cluster import PARTITIONS, Cluster, Setting
from shared_logs import NOW_MS, Logs, event

from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.core.shared.answerer import Answerer
from app.core.shared.repartition import Repartition
from app.kafka_access import KafkaAccess
from app.worker.repartition_feed import RepartitionFeed
from schemas.pipeline.spec import Pipeline


def questions_of(setting: Setting) -> list[bytes]:
    """What one part of the keys hears: most of it answered and scored, the end not."""
    logs = Logs.empty(PARTITIONS)
    for partition in range(PARTITIONS):
        logs.events[partition] = [event(f"e{n}", n // 2, "abcd"[n % 4], 1.0) for n in range(4_000)]
    cluster = Cluster(setting, logs, [0] * PARTITIONS)
    for start in range(0, 4_000, 4):
        for partition in range(PARTITIONS):
            flow = cluster.flows[partition]
            cluster.receive("events", partition, 4)
            flow.merge.let_go(flow.merge.events_received)
            cluster.step(partition, 10)
            cluster.commit(partition)
        for partition in range(PARTITIONS if start < 3_900 else 0):
            cluster.hear_questions(partition, 10)
            cluster.answer(partition)
            cluster.hear_answers(partition, 10)
    return cluster.asked[0][1]


async def produce(kafka: KafkaAccess, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers)
    await producer.start()
    for value in values:
        await producer.send(topic, value, partition=0)
    await producer.stop()


async def answers(kafka: KafkaAccess, pipeline: Pipeline) -> list[list[bytes]]:
    found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    async for batch in read_to_end(kafka, [pipeline.topics.answers]):
        found[batch.partition] += [value for value in batch.values if value is not None]
    return found


async def beginning(kafka: KafkaAccess, tp: TopicPartition) -> int:
    """Offset of the first record that is left."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.servers)
    await consumer.start()
    try:
        found: dict[TopicPartition, int] = await consumer.beginning_offsets([tp])
        return found[tp]
    finally:
        await consumer.stop()


async def test_a_new_owner_of_keys_reads_what_is_left_and_answers_the_same(kafka: KafkaAccess, tmp_path: Path) -> None:
    setting = Setting.read(tmp_path, "yyyyy")
    pipeline = replace(setting.pipeline, name=f"t{uuid.uuid4().hex[:10]}")
    plan, feature_set = setting.plan.shared.repartitioned(), pipeline.feature_set
    asked = questions_of(setting)
    alone = Answerer(plan, feature_set, range(PARTITIONS))
    for place, value in enumerate(asked):
        alone.hear(place, value)
    expected: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    for to, value in alone.answer():
        expected[to].append(value)
    assert all(expected)
    assert (alone.needed_place() or 0) > len(asked) // 2

    async def first_place() -> int:
        return await beginning(kafka, TopicPartition(pipeline.topics.repartition, 0))

    async def answer_until(rounds: int, *, until_deleted: bool) -> None:
        """Own the keys until their answers are there for that many times."""
        told: list[str] = []
        repartition = Repartition(plan, feature_set, 0, PARTITIONS, 1)
        feed = RepartitionFeed(
            kafka,
            pipeline,
            repartition,
            lambda: None,
            told.append,
            refusals=Refusals(),
            now_ms=lambda: NOW_MS,
            delete_s=0.2,
        )
        feed.start()
        async with asyncio.timeout(60):
            while await answers(kafka, pipeline) != [rounds * values for values in expected]:
                assert not told
                await asyncio.sleep(0.05)
            while until_deleted and await first_place() == 0:  # noqa: ASYNC110  # the broker tells nobody
                await asyncio.sleep(0.05)
            while not await says_that_all_is_answered(feed):  # noqa: ASYNC110  # it says so at its next turn
                await asyncio.sleep(0.05)
        await feed.stop()

    async def says_that_all_is_answered(feed: RepartitionFeed) -> bool:
        bounds = {tp.partition: found for tp, found in (await feed.bounds()).items()}
        assert bounds.keys() == set(range(PARTITIONS))
        return bounds[0].committed == bounds[0].end == len(asked) and bounds[1].committed is None

    await ensure_topics(kafka, pipeline.topics.all())
    await produce(kafka, pipeline.topics.repartition, asked)
    await answer_until(1, until_deleted=True)
    assert await first_place() > len(asked) // 2
    await answer_until(2, until_deleted=False)
