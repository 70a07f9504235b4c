"""How far the workers of the demo have come, by the committed offsets of their group."""

from __future__ import annotations

import asyncio
from typing import Self

from faust.types import TP

from app.adapters.kafka.lag import LagReader, worker_group
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline


class LagWatch:
    """What has been processed and what is left, as of the last `look`; numbers of records."""

    def __init__(self, pipeline: Pipeline, kafka: KafkaAccess) -> None:
        self.processed = 0
        self.events_lag = 0
        self.labels_lag = 0
        topics = pipeline.topics
        self._looked = asyncio.Event()
        self._group = worker_group(pipeline.name)
        self._kafka = kafka
        self._events = [TP(topics.sent_events, partition) for partition in range(topics.partitions)]
        self._labels = [TP(topics.sent_labels, partition) for partition in range(topics.partitions)]

    async def __aenter__(self) -> Self:
        self._reader = LagReader(self._kafka)  # made here, as its clients belong to the running event loop
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reader.stop()

    async def look(self) -> None:
        """Ask Kafka; sets what this object says."""
        positions = await self._reader.positions(self._group, self._events + self._labels)
        self.processed = sum(positions[tp].next_offset for tp in self._events)
        self.events_lag = sum(positions[tp].lag for tp in self._events)
        self.labels_lag = sum(positions[tp].lag for tp in self._labels)
        self._looked.set()
        self._looked = asyncio.Event()

    async def next_look(self) -> None:
        """Wait until what this object says is fresh."""
        await self._looked.wait()
