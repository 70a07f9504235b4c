"""Follows ``<p>.entities``, which says in which partitions which entities were seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import partitions_of, to_batch
from app.core.batches import RecordBatch
from app.core.entities.directory import EntityDirectory
from app.core.records.rules import RecordRules, check_readable
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError

log = logging.getLogger("streamgauge.entities")

_POLL_MS = 200


class EntityFeed:
    """Keeps the entity directory of one process.

    Parameters
    ----------
    refusals
        Counts the records that no partition wrote.
    on_change
        Called when the directory has heard something.
    """

    def __init__(
        self,
        kafka: KafkaAccess,
        pipeline: Pipeline,
        refusals: Refusals,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = EntityDirectory(pipeline.drift.slice_ms, RecordRules.of(pipeline))
        #: Set when all that the topic held at the start has been read.
        self.is_read = asyncio.Event()
        self._refusals = refusals
        self._kafka = kafka
        self._topic = pipeline.topics.entities
        self._on_change = on_change

    async def run(self) -> None:
        """Follow the topic until cancelled."""
        consumer = new_consumer(self._kafka)
        await consumer.start()
        try:
            tps = await partitions_of(consumer, self._topic)
            ends = await consumer.end_offsets(tps)
            consumer.assign(tps)
            while True:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                for tp, records in fetched.items():
                    self._hear(to_batch(tp, records))
                if fetched:
                    self._settle()
                    await asyncio.sleep(0)
                if not self.is_read.is_set() and all([await consumer.position(tp) >= ends[tp] for tp in tps]):
                    self.is_read.set()
                    self._on_change()
        finally:
            await consumer.stop()

    def _hear(self, batch: RecordBatch) -> None:
        for position, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            try:
                check_readable(batch, position)
                self.directory.hear(batch.partition, key, value)
            except RefusedRecordError as error:
                self._refusals.note(self._topic, batch.partition, int(batch.offsets[position]), error)

    def _settle(self) -> None:
        before = self.directory.straying
        self.directory.settle()
        if self.directory.straying > before == 0:
            log.warning(
                "An entity is seen in more than one partition, so its windows are wrong: %s. Key the events by entity,"
                " with one partitioner in all producers; `streamgauge check` looks at the topic.",
                self.directory.examples()[0],
            )
        self._on_change()
