"""What the owner of a partition does for repartitioned windows: it answers for its keys, and reads answers to its own.

Both follow from committed records. So nothing here is part of a transaction, and two owners at once do no harm
(docs/adr/0019).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import TopicPartition
from faust.types import TP

from app.adapters.kafka.clients import new_bulk_producer, new_consumer, output_options
from app.adapters.kafka.log_bounds import GroupBounds
from app.adapters.kafka.refusals import Refusals
from app.core.records.event_time import CLOCK_SKEW_MS
from app.core.records.rules import RecordRules
from app.core.shared.answerer import Answerer
from app.core.shared.repartition import Repartition
from app.kafka_access import KafkaAccess
from app.worker.repartition_upkeep import AnsweredMark, LogSweeper
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError

log = logging.getLogger("streamgauge.worker")

_POLL_MS = 500


class RepartitionFeed:
    """Reads one partition of the topic of questions and of the topic of answers.

    Parameters
    ----------
    repartition
        What the input partition has asked; takes the answers.
    wake
        Called when answers have come.
    fail
        Called with the reason when it cannot go on.
    refusals
        Counts the records that no worker of the pipeline wrote.
    now_ms
        Processing time.
    delete_s
        How often what nobody needs any more is deleted from the two topics.
    """

    def __init__(
        self,
        kafka: KafkaAccess,
        pipeline: Pipeline,
        repartition: Repartition,
        wake: Callable[[], None],
        fail: Callable[[str], None],
        *,
        refusals: Refusals,
        now_ms: Callable[[], int],
        delete_s: float = 10.0,
    ) -> None:
        self._kafka = kafka
        self._compression = pipeline.compression
        self._asked = TopicPartition(pipeline.topics.repartition, repartition.source)
        self._answers = TopicPartition(pipeline.topics.answers, repartition.source)
        self._answerer = Answerer(repartition.plan, pipeline.feature_set, range(pipeline.partitions))
        self._repartition = repartition
        self._wake = wake
        self._fail = fail
        self._refusals = refusals
        self._now_ms = now_ms
        self._rules = RecordRules.of(pipeline)
        group, partitions = f"streamgauge-{pipeline.name}-answers", range(pipeline.partitions)
        self._answered = AnsweredMark(kafka, group, self._asked.topic, self._asked.partition, partitions)
        self._sweeper = LogSweeper(kafka, delete_s)
        #: Where the questions ended when this began to read them: it answers nothing before that. None: it is past it.
        self._end: int | None = 0
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, once the state has been restored."""
        self._running = asyncio.create_task(self._guard(), name=f"repartition-{self._asked.partition}")

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def bounds(self) -> dict[TP, GroupBounds]:
        """What the questions' topic holds, all partitions, and how far each has been answered."""
        return await self._answered.bounds()

    async def _guard(self) -> None:
        try:
            await self._run()
        except Exception as error:  # crash only: without answers, events would wait for ever
            log.exception("Repartition %s failed", self._asked.partition)
            self._fail(f"Partition {self._asked.partition}: repartitioned windows cannot go on: {error!r}")

    async def _run(self) -> None:
        consumer = new_consumer(self._kafka)
        producer = new_bulk_producer(
            self._kafka, **output_options(f"{self._asked.topic}-{self._asked.partition}", self._compression)
        )
        try:
            await consumer.start()
            await producer.start()
            await self._answered.start()
            consumer.assign([self._asked, self._answers])
            consumer.seek(self._answers, self._repartition.answers.position(0))
            await self._begin_answering(consumer)
            while True:
                self._hear(await consumer.getmany(timeout_ms=_POLL_MS))
                if self._answerer.is_outdated:
                    self._answerer = self._answerer.begin_anew()
                    await self._begin_answering(consumer)
                if self._end is not None and await consumer.position(self._asked) >= self._end:
                    log.info("Repartition %s: %s entries", self._asked.partition, self._answerer.entries())
                    self._end = None
                if self._end is None:
                    asked_to = await consumer.position(self._asked)
                    await self._answer(producer)
                    self._answered.move(asked_to)
                    self._sweeper.sweep_if_due(self._find_needed)
                await asyncio.sleep(0)
        finally:
            await consumer.stop()
            await producer.stop()
            await self._answered.stop()
            await self._sweeper.stop()

    async def _begin_answering(self, consumer: Any) -> None:
        first = await consumer.beginning_offsets([self._asked])
        end = await consumer.end_offsets([self._asked])
        consumer.seek(self._asked, first[self._asked])
        self._end = end[self._asked]

    def _hear(self, records: dict[TopicPartition, list[Any]]) -> None:
        now_ms = self._now_ms()
        latest_ms, newest_term = self._rules.latest_come_to_ms(now_ms), now_ms + CLOCK_SKEW_MS
        for record in records.get(self._asked, []):
            with self._refusing(self._asked, record):
                self._answerer.hear(record.offset, record.value, latest_ms, newest_term)
        answers = records.get(self._answers, [])
        for record in answers:
            with self._refusing(self._answers, record):
                self._repartition.hear(record.offset, record.value, newest_term)
        if answers:
            self._wake()

    @contextmanager
    def _refusing(self, tp: TopicPartition, record: Any) -> Iterator[None]:
        try:
            yield
        except RefusedRecordError as error:
            self._refusals.note(tp.topic, tp.partition, record.offset, error)

    async def _answer(self, producer: Any) -> None:
        topic = self._answers.topic
        sent = [await producer.send(topic, value, partition=to) for to, value in self._answerer.answer()]
        if sent:
            await asyncio.gather(*sent)

    def _find_needed(self) -> dict[TopicPartition, int | None]:
        """The first offset of each log that somebody still needs."""
        return {
            self._asked: self._answerer.needed_place(),
            self._answers: self._repartition.answers.position(self._answerer.next_offset(self._asked.partition)),
        }
