"""What a producer of transactions asks the broker for, and in which order."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.kafka.transactional_producer import TransactionalProducer
from app.kafka_access import KafkaAccess
from schemas.topics import Topic

SCORES, STATE, LETTERS, EVENTS = topics = [f"turns-{name}" for name in ("scores", "state", "letters", "events")]
GROUP = "turns-group"
COMMIT = ["ProduceRequest", "TxnOffsetCommitRequest", "EndTxnRequest"]
OPEN = ["AddOffsetsToTxnRequest", "AddPartitionsToTxnRequest"]


@dataclass
class Asked:
    what: str
    begun: float
    ended: float


def listen(producer: TransactionalProducer) -> list[Asked]:
    """What is asked from now on, as it is answered."""
    asked, send = [], producer.client.send

    async def heard(node: int, request: Any, **options: Any) -> Any:
        begun = time.monotonic()
        try:
            return await send(node, request, **options)
        finally:
            asked.append(Asked(type(request).__name__, begun, time.monotonic()))

    producer.client.send = heard
    return asked


async def transact(producer: TransactionalProducer, number: int, written: list[str], asked: list[Asked]) -> None:
    """One transaction, opened a while before its commit; of the first, nobody knows what will be in it."""
    producer.open()
    limit = time.monotonic() + (0.1 if number == 1 else 3)
    while time.monotonic() < limit and not {one.what for one in asked} >= set(OPEN):  # noqa: ASYNC110  # nobody tells
        await asyncio.sleep(0.01)
    sent = []
    for topic in written:
        batch = producer.create_batch()
        batch.append(key=None, value=b"%d" % number, timestamp=None)
        sent.append(await producer.send_batch(batch, topic, partition=0))
    consumed = producer.send_offsets_to_transaction({TopicPartition(EVENTS, 0): number}, GROUP)
    await asyncio.gather(*sent, consumed)
    await producer.commit_transaction()


def names_of(asked: list[Asked]) -> list[str]:
    """In their order, but for batches and offsets, of which either may come first."""
    names = [one.what for one in asked]
    while names[:2] == OPEN[:1] * 2:  # the markers of the last transaction were not all written yet
        del names[0]
    names[-3:-1] = sorted(names[-3:-1])
    return names


async def transactions(kafka: KafkaAccess, written: list[list[str]]) -> list[list[Asked]]:
    """What each of several transactions asked for."""
    await ensure_topics(kafka, [Topic(topic, 1) for topic in topics])
    producer = TransactionalProducer(GROUP, bootstrap_servers=kafka.servers, transactional_id="turns", acks="all")
    asked_of = []
    async with producer:
        asked = listen(producer)
        for number, names in enumerate(written, 1):
            await transact(producer, number, names, asked)
            asked_of.append([one for one in asked if one.what in OPEN + COMMIT])
            asked.clear()
    return asked_of


async def committed(kafka: KafkaAccess, topic: str) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with consumer:
        consumer.assign([TopicPartition(topic, 0)])
        fetched = await consumer.getmany(timeout_ms=5_000)
    return [record.value for records in fetched.values() for record in records]


def test_a_transaction_is_opened_before_its_commit_and_the_broker_is_asked_one_thing_at_a_time(
    kafka: KafkaAccess,
) -> None:
    usual, more = [SCORES, STATE], [SCORES, STATE, LETTERS]
    kinds = [usual] * 10 + [more] + [usual] * 2
    asked_of = asyncio.run(transactions(kafka, kinds))

    for first, second in itertools.pairwise(itertools.chain.from_iterable(asked_of)):
        assert first.ended <= second.begun, f"{first.what} and {second.what} at the same time"
    steps = [names_of(asked) for asked in asked_of]
    assert steps[1:10] == [OPEN + COMMIT] * 9  # the same partitions as in the transaction before it
    assert steps[10].count("AddPartitionsToTxnRequest") == 2  # a partition that comes late
    assert steps[11:] == [OPEN + COMMIT] * 2

    for topic in more:
        expected = [b"%d" % number for number, names in enumerate(kinds, 1) if topic in names]
        assert asyncio.run(committed(kafka, topic)) == expected


def test_offsets_alone_make_a_transaction(kafka: KafkaAccess) -> None:
    [asked] = asyncio.run(transactions(kafka, [[]]))
    assert names_of(asked) == [*OPEN[:1], *COMMIT[1:]]
