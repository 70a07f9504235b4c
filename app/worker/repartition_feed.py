"""What the owner of a partition does for repartitioned windows: it answers for its keys, and hears its own answers.

Both follow from committed records, so nothing here is part of a transaction, and two owners at once do no harm
(docs/adr/0019).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError
from faust.types import TP

from app.adapters.kafka.batch_app import Bounds
from app.adapters.kafka.clients import new_admin, new_bulk_producer, new_consumer, output_options
from app.adapters.kafka.log_bounds import LogBounds
from app.adapters.kafka.refusals import Refusals
from app.core.records.event_time import CLOCK_SKEW_MS
from app.core.records.rules import RecordRules
from app.core.shared.answerer import Answerer
from app.core.shared.repartition import Repartition
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError

log = logging.getLogger("streamgauge.worker")

_POLL_MS = 500
#: How often it says how far it has answered.
_SAY_S = 1.0


class RepartitionFeed:
    """Reads one partition of the two topics.

    Parameters
    ----------
    repartition
        The input partition's side: takes the answers.
    wake
        Called when answers have come.
    fail
        Called with the reason when it cannot go on.
    refusals
        Told of the records that are none of ours.
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
        self._partition = partition = repartition.source
        self._asked = TopicPartition(pipeline.topics.repartition, partition)
        self._answers = TopicPartition(pipeline.topics.answers, partition)
        self._answerer = Answerer(repartition.plan, pipeline.feature_set, range(pipeline.partitions))
        #: Its group says up to where the questions are answered, and is nobody's to read on from.
        self._answered = LogBounds(kafka, f"streamgauge-{pipeline.name}-answers")
        self._is_connected = asyncio.Event()
        self._all_asked = [TP(self._asked.topic, number) for number in range(pipeline.partitions)]
        self._repartition = repartition
        self._wake = wake
        self._fail = fail
        self._refusals = refusals
        self._now_ms = now_ms
        self._rules = RecordRules.of(pipeline)
        self._delete_s = delete_s
        #: Where the questions ended when it began to read them: nothing is answered before. None: it has passed it.
        self._end: int | None = 0
        self._said = 0
        self._saying: asyncio.Task[None] | None = None
        self._deleted: dict[TopicPartition, int] = {}
        self._running: asyncio.Task[None] | None = None
        self._deleting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, once the state has been restored."""
        self._running = asyncio.create_task(self._guard(), name=f"repartition-{self._partition}")

    async def stop(self) -> None:
        if self._saying is not None:
            await asyncio.wait({self._saying}, timeout=_SAY_S)
        tasks = [task for task in (self._running, self._deleting, self._saying) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def bounds(self) -> dict[TP, Bounds]:
        """What the questions' topic holds, all partitions, and how far each has been answered."""
        await self._is_connected.wait()
        return await self._answered.bounds(self._all_asked)

    async def _guard(self) -> None:
        try:
            await self._run()
        except Exception as error:  # crash only: without answers, events would wait for ever
            log.exception("Repartition %s failed", self._partition)
            self._fail(f"Partition {self._partition}: repartitioned windows cannot go on: {error!r}")

    async def _run(self) -> None:
        consumer = new_consumer(self._kafka)
        producer = new_bulk_producer(
            self._kafka, **output_options(f"{self._asked.topic}-{self._partition}", self._compression)
        )
        try:
            await consumer.start()
            await producer.start()
            await self._answered.start()
            self._is_connected.set()
            consumer.assign([self._asked, self._answers])
            consumer.seek(self._answers, self._repartition.answers.position(0))
            await self._begin_answering(consumer)
            delete_at = _now() + self._delete_s
            say_at = _now()
            while True:
                self._hear(await consumer.getmany(timeout_ms=_POLL_MS))
                if self._answerer.is_outdated:
                    self._answerer = self._answerer.begin_anew()
                    await self._begin_answering(consumer)
                if self._end is not None and await consumer.position(self._asked) >= self._end:
                    log.info("Repartition %s: %s entries", self._partition, self._answerer.entries())
                    self._end = None
                if self._end is None:
                    place = await consumer.position(self._asked)
                    await self._answer(producer)
                    if place > self._said and _now() > say_at and (self._saying is None or self._saying.done()):
                        say_at = _now() + _SAY_S
                        self._saying = asyncio.create_task(self._say(place))
                    if _now() > delete_at and (self._deleting is None or self._deleting.done()):
                        delete_at = _now() + self._delete_s
                        self._deleting = asyncio.create_task(self._delete())
                await asyncio.sleep(0)
        finally:
            await consumer.stop()
            await producer.stop()
            await self._answered.stop()

    async def _begin_answering(self, consumer: Any) -> None:
        first = await consumer.beginning_offsets([self._asked])
        end = await consumer.end_offsets([self._asked])
        consumer.seek(self._asked, first[self._asked])
        self._end = end[self._asked]

    def _hear(self, found: dict[TopicPartition, list[Any]]) -> None:
        now_ms = self._now_ms()
        latest_ms, newest_term = self._rules.latest_come_to_ms(now_ms), now_ms + CLOCK_SKEW_MS
        for record in found.get(self._asked, []):
            with self._refusing(self._asked, record):
                self._answerer.hear(record.offset, record.value, latest_ms, newest_term)
        answers = found.get(self._answers, [])
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

    async def _say(self, place: int) -> None:
        """Say that the questions before a place are answered, but for those that wait for an input partition."""
        try:
            await self._answered.commit(TP(*self._asked), place)
            self._said = place
        except KafkaError as error:
            log.debug("Repartition %s: could not say how far it is: %r", self._partition, error)

    async def _delete(self) -> None:
        """Delete what nobody needs any more; failing that, the topics are larger than they need be."""
        needed = {
            self._asked: self._answerer.needed_place(),
            self._answers: self._repartition.answers.position(self._answerer.next_offset(self._partition)),
        }
        places = {tp: place for tp, place in needed.items() if place and place > self._deleted.get(tp, 0)}
        if not places:
            return
        admin = new_admin(self._kafka)
        try:
            await admin.start()
            await admin.delete_records({tp: RecordsToDelete(place) for tp, place in places.items()})
            self._deleted |= places
        except KafkaError as error:
            log.warning("Old records of %s were not deleted: %r", " and ".join(tp.topic for tp in places), error)
        finally:
            await admin.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
