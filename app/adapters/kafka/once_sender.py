"""Sends events for the scoring hook, one by one, with the header that has each scored once."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from app.adapters.kafka.answers import KAFKA_TROUBLE
from app.adapters.kafka.clients import new_producer
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.serving import SendFailedError
from schemas.topics import ONCE_HEADER

#: How long an event may take to be acknowledged.
_ACKNOWLEDGED_S = 1.5


class OnceSender:
    """Sends to the topic that producers write to. Connects with the first event."""

    def __init__(self, kafka: KafkaAccess, pipeline: Pipeline) -> None:
        self._kafka = kafka
        self._topics = pipeline.topics
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, partition: int, entity: str, event: bytes) -> None:
        """Send an event and wait until it is acknowledged.

        Parameters
        ----------
        partition
            Where the event is to be scored; it is copied there if that is not where it is sent (``[events]
            repartition``).

        Raises
        ------
        SendFailedError
        """
        by_entity = self._topics.by_entity
        try:
            async with asyncio.timeout(_ACKNOWLEDGED_S):
                producer = await self._connect()
                await producer.send_and_wait(
                    self._topics.sent_events,
                    event,
                    key=entity.encode(),
                    partition=None if by_entity else partition,
                    headers=[(ONCE_HEADER, b"")],
                )
        except (*KAFKA_TROUBLE, TimeoutError) as error:
            raise SendFailedError(f"{error!r:.200}") from error

    async def stop(self) -> None:
        """Let go of the connection."""
        if self._producer is not None:
            await self._producer.stop()

    async def _connect(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                producer = new_producer(self._kafka, linger_ms=0, request_timeout_ms=int(_ACKNOWLEDGED_S * 1000))
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer
