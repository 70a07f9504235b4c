"""Sends events and labels to a pipeline's topics: when an event is there, so is every label before it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_bulk_producer
from app.adapters.sources.source import (
    EVENT,
    WATERMARK,
    EncodedRecord,
    Partitioner,
    encode,
    watermark_header,
    watermark_partitions,
)
from app.exits import StackError
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.source import SourceRecord


class EventProducer:
    """Sends chunks of records in the order of their times.

    Within a chunk, labels are sent and acknowledged before its events are sent: they may arrive earlier than their
    time, never later. A watermark record is sent when everything before it has been acknowledged.

    Attributes
    ----------
    events, labels, watermarks
        Records sent so far; a watermark counts once, however many partitions it goes to.
    newest_ms
        Largest time sent so far; None before the first.
    """

    def __init__(self, kafka: KafkaAccess, pipeline: Pipeline, now_ms: Callable[[], int]) -> None:
        self.events = 0
        self.labels = 0
        self.watermarks = 0
        self.newest_ms: int | None = None
        self._kafka = kafka
        self._topics = pipeline.topics
        self._partition_of = Partitioner(pipeline.partitions)
        self._now_ms = now_ms
        self._sent: list[asyncio.Future[Any]] = []
        self._producer: AIOKafkaProducer | None = None

    async def __aenter__(self) -> Self:
        # Made here because it belongs to the running event loop.
        self._producer = new_bulk_producer(self._kafka)
        try:
            await self._producer.start()
        except (KafkaError, OSError) as error:
            await self._producer.stop()
            raise StackError(f"Kafka at {self._kafka} does not answer ({error!r:.200}): check that it runs.") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            assert self._producer is not None
            await self._producer.stop()

    async def send(self, chunk: Iterable[SourceRecord]) -> None:
        """Send records of a source, in the order of their times."""
        await self.send_encoded(encode(chunk))

    async def send_encoded(self, chunk: Sequence[EncodedRecord]) -> None:
        """Send records that are bytes already, in the order of their times."""
        start = 0
        for place, record in enumerate(chunk):
            if record.kind == WATERMARK:
                await self._send_stretch(chunk[start:place])
                await self._send_watermark(record)
                start = place + 1
        await self._send_stretch(chunk[start:])

    async def promise(self, time_ms: int) -> None:
        """Send a watermark to every partition: nothing older than ``time_ms`` follows."""
        await self._send_watermark(EncodedRecord(WATERMARK, None, time_ms, None))

    async def flush(self) -> None:
        """Wait until everything sent has been acknowledged.

        Raises
        ------
        StackError
            When Kafka refuses a batch; what was sent before may be there.
        """
        sent, self._sent = self._sent, []
        try:
            await asyncio.gather(*sent)
        except KafkaError as error:
            raise StackError(f"Kafka at {self._kafka} refused a batch: {error!r:.200}.") from error

    async def _send_stretch(self, records: Sequence[EncodedRecord]) -> None:
        if not records:
            return
        parts: dict[tuple[bool, int], list[EncodedRecord]] = defaultdict(list)
        for record in records:
            partition = self._partition_of(record.key) if record.partition is None else record.partition
            parts[record.kind == EVENT, partition].append(record)
        is_event_parts = sorted(parts)
        for is_event, partition in is_event_parts:
            if not is_event:
                await self._send_log(self._topics.sent_labels, partition, parts[is_event, partition])
                self.labels += len(parts[is_event, partition])
        # The events of the last chunk were on their way meanwhile; they are waited for here, too.
        await self.flush()
        for is_event, partition in is_event_parts:
            if is_event:
                await self._send_log(self._topics.sent_events, partition, parts[is_event, partition])
                self.events += len(parts[is_event, partition])
        newest_ms = max(record.time_ms for record in records)
        self.newest_ms = newest_ms if self.newest_ms is None else max(newest_ms, self.newest_ms)

    async def _send_watermark(self, record: EncodedRecord) -> None:
        await self.flush()
        marked = record._replace(headers=watermark_header(record.time_ms))
        for partition in watermark_partitions(record, self._topics.partitions):
            await self._send_log(self._topics.sent_labels, partition, [marked])
        await self.flush()
        self.watermarks += 1

    async def _send_log(self, topic: str, partition: int, records: Sequence[EncodedRecord]) -> None:
        producer, now_ms = self._producer, self._now_ms()
        assert producer is not None
        batch = producer.create_batch()
        count = 0
        try:
            for record in records:
                headers = list(record.headers)  # aiokafka takes nothing but a list
                if batch.append(key=record.key, value=record.value, timestamp=now_ms, headers=headers) is None:
                    self._sent.append(await producer.send_batch(batch, topic, partition=partition))
                    batch, count = producer.create_batch(), 0
                    if batch.append(key=record.key, value=record.value, timestamp=now_ms, headers=headers) is None:
                        raise StackError(
                            f"A record of {len(record.value or b'')} bytes for {topic} is larger than a batch may be."
                        )
                count += 1
            if count:
                self._sent.append(await producer.send_batch(batch, topic, partition=partition))
        except KafkaError as error:
            raise StackError(f"Kafka at {self._kafka} refused a batch for {topic}: {error!r:.200}.") from error
