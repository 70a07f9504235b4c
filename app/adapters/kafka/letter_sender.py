"""Sends dead letters back to the partitions they came from, each once.

One transaction holds some records and, on the topic of letters that were sent back, their places: both or neither. Each
pipeline has one transactional id. A sender that starts later fences the other, and only then reads what that one has
committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced

from app.adapters.kafka.bounded_reader import read_between, reading
from app.adapters.kafka.clients import new_consumer, new_producer
from app.adapters.kafka.record_batches import UnreadableRecord
from app.adapters.kafka.topics_admin import ensure_topics
from app.core.entities.copies import read_stand_in
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules
from app.core.replay.bounds import OPEN
from app.core.replay.letter_selection import Place, address
from app.exits import StackError
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import DeadLetter, SentBack, decode_json

_TRANSACTION_TIMEOUT_MS = 30_000
_FETCH_SECONDS = 30.0


async def read_letters(kafka: KafkaAccess, pipeline: Pipeline) -> tuple[list[tuple[Place, DeadLetter]], int]:
    """All dead letters in the order of their partitions, and how many records of their topic are none of ours."""
    letters: list[tuple[Place, DeadLetter]] = []
    reader = OutputReader(RecordRules.of(pipeline))
    foreign = 0
    topic = pipeline.topics.dead_letters
    with reading(kafka):
        async with aclosing(read_between(kafka, {topic: (OPEN, OPEN)})) as batches:
            async for batch in batches:
                headers = batch.headers or [()] * len(batch)
                for offset, key, value, pairs in zip(
                    batch.offsets.tolist(), batch.keys, batch.values, headers, strict=True
                ):
                    try:
                        letters.append(((batch.partition, offset), reader.letter(batch.partition, key, value, pairs)))
                    except RefusedRecordError:
                        foreign += 1
    return sorted(letters, key=lambda placed: placed[0]), foreign


async def read_done(kafka: KafkaAccess, pipeline: Pipeline) -> set[Place]:
    """Places of the letters that were sent back; none while their topic does not exist."""
    done: set[Place] = set()
    with suppress(LookupError):
        async with aclosing(read_between(kafka, {pipeline.topics.replayed: (OPEN, OPEN)})) as batches:
            async for batch in batches:
                for value in batch.values:
                    with suppress(RefusedRecordError):  # such a record says of no letter that it was sent
                        sent = decode_json(value, SentBack)
                        done.add((sent.partition, sent.offset))
    return done


class LetterSender:
    """Sends dead letters back; once its context is entered, no other sender of the pipeline can send.

    Raises
    ------
    StackError
        When Kafka refuses, or when another sender has started meanwhile; what was not committed was not sent.
    """

    def __init__(self, kafka: KafkaAccess, pipeline: Pipeline, now_ms: Callable[[], int]) -> None:
        self._kafka = kafka
        self._pipeline = pipeline
        self._now_ms = now_ms
        self._producer = new_producer(
            kafka,
            transactional_id=f"streamgauge-{pipeline.name}-replay-dead-letters",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            max_request_size=4 << 20,
        )

    async def __aenter__(self) -> Self:
        ledger = [topic for topic in self._pipeline.topics.all() if topic.name == self._pipeline.topics.replayed]
        await ensure_topics(self._kafka, ledger, replication=None)
        try:
            await self._producer.start()
        except KafkaError as error:
            raise StackError(f"Kafka at {self._kafka} gives no transaction: {error!r:.200}.") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._producer.stop()

    async def send(self, letters: Sequence[tuple[Place, DeadLetter]]) -> None:
        """Send letters back in one transaction."""
        producer, ledger = self._producer, self._pipeline.topics.replayed
        try:
            async with producer.transaction():
                sent = []
                for (partition, offset), letter in letters:
                    whole = letter if not letter.cut_bytes else await self._read_whole(letter)
                    topic, to, headers = address(whole, self._pipeline.topics)
                    sent.append(await producer.send(topic, whole.value, key=whole.key, partition=to, headers=headers))
                    value = msgspec.json.encode(SentBack(partition, offset, self._now_ms()))
                    key = f"{partition}/{offset}".encode()
                    sent.append(await producer.send(ledger, value, key=key, partition=0))
                await asyncio.gather(*sent)
        except ProducerFenced as error:
            raise StackError(
                "Another replay-dead-letters of this pipeline has started, and this one ends: look whether that one has"
                " sent what you want, or run this again when it has ended."
            ) from error
        except KafkaError as error:
            raise StackError(
                f"Kafka refused the records ({error!r:.200}): what was not committed was not sent; run this again."
            ) from error

    async def _read_whole(self, letter: DeadLetter) -> DeadLetter:
        """The whole record of a letter that was cut, read at its source."""
        source = letter.source
        tp = TopicPartition(source.topic, source.partition)
        consumer = new_consumer(self._kafka)
        await consumer.start()
        try:
            consumer.assign([tp])
            oldest = (await consumer.beginning_offsets([tp]))[tp]
            record: Any = None
            if oldest <= source.offset:
                consumer.seek(tp, source.offset)
                record = await asyncio.wait_for(consumer.getone(tp), _FETCH_SECONDS)
            if why := _why_unreadable(record):
                raise StackError(
                    f"{source.topic} {source.partition}, {why}: it cannot be sent back; have its producer send"
                    " it again, and name the other --reason to send back."
                )
            if record is None or record.offset != source.offset:
                raise StackError(
                    f"The record at {source.topic} {source.partition}/{source.offset} was too large for its dead"
                    " letter, and Kafka holds it no more: it cannot be sent back."
                )
        finally:
            await consumer.stop()
        return msgspec.structs.replace(
            letter, key=record.key, value=record.value, headers=tuple(record.headers), cut_bytes=0
        )


def _why_unreadable(record: Any) -> str:
    """Why this stands for records that cannot be read; "" for a record, and for None."""
    if isinstance(record, UnreadableRecord):
        return record.why
    stand_in = read_stand_in(record.headers) if record is not None and record.value is None else None
    return stand_in[0] if stand_in is not None else ""
