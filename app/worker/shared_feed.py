"""Keeps a worker's board of shared windows: its own partitions tell it directly, those of others by their topic.

What a partition of this worker has added is on the board before it is committed. It follows from the partition's log
alone, so the partition's next owner would add the same (docs/adr/0015).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from aiokafka import TopicPartition

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import read_to_end, to_batch
from app.core.batches import RecordBatch
from app.core.shared.board import SharedBoard
from app.kafka_access import KafkaAccess
from schemas.refusal import RefusedRecordError

log = logging.getLogger("streamgauge.worker")

_POLL_MS = 500


class SharedFeed:
    """Keeps the board of a worker, and follows the partitions of other workers.

    Parameters
    ----------
    topic
        ``<p>.shared``.
    fail
        Called with the reason when the topic can no longer be followed.
    refusals
        Counts the records that no worker of the pipeline wrote.
    latest_ms
        Says how far a partition can have come by now.
    """

    def __init__(
        self,
        kafka: KafkaAccess,
        topic: str,
        board: SharedBoard,
        fail: Callable[[str], None],
        *,
        refusals: Refusals,
        latest_ms: Callable[[], int],
    ) -> None:
        self.board = board
        self._kafka = kafka
        self._topic = topic
        self._fail = fail
        self._refusals = refusals
        self._latest_ms = latest_ms
        #: Where to go on, by partition; None: at the first record.
        self._followed: dict[int, int | None] = {}
        self._following: asyncio.Task[None] | None = None
        self._listeners: set[Callable[[], None]] = set()
        self._told = board.low_ms, board.high_ms

    def listen(self, listener: Callable[[], None]) -> None:
        """Have ``listener`` called when partitions have come further."""
        self._listeners.add(listener)

    def listen_no_more(self, listener: Callable[[], None]) -> None:
        self._listeners.discard(listener)

    def tell(self) -> None:
        """Call the listeners if a partition that they may wait for has come further."""
        reached = self.board.low_ms, self.board.high_ms
        if reached != self._told:
            self._told = reached
            for listener in self._listeners:
                listener()

    async def own(self, partitions: Iterable[int]) -> None:
        """Follow all partitions but these, which this worker owns from now on."""
        await self.stop()
        others = set(self.board.added_ms) - set(partitions)
        for partition in others - self._followed.keys():
            self.board.hear_anew(partition)
        self._followed = {partition: self._followed.get(partition) for partition in sorted(others)}
        if self._followed:
            self._following = asyncio.create_task(self._guard(), name="shared-windows")

    async def read_own(self, partition: int) -> None:
        """Read what former owners of a partition have added, once they are fenced."""
        self.board.hear_anew(partition)
        async for batch in read_to_end(self._kafka, [self._topic], partition):
            self._hear(batch)
        self.board.caught_up(partition)

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    async def _guard(self) -> None:
        try:
            await self._follow()
        except Exception as error:  # crash only: without the others, events would wait for ever
            log.exception("Following %s failed", self._topic)
            self._fail(f"{self._topic} could not be followed: {error!r}")

    async def _follow(self) -> None:
        consumer = new_consumer(self._kafka)
        await consumer.start()
        try:
            tps = {partition: TopicPartition(self._topic, partition) for partition in self._followed}
            consumer.assign(list(tps.values()))
            for partition, offset in self._followed.items():
                if offset is not None:
                    consumer.seek(tps[partition], offset)
            anew = [tp for partition, tp in tps.items() if self.board.is_anew(partition)]
            ends = await consumer.end_offsets(anew)
            while True:
                for tp, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                    self._hear(to_batch(tp, records))
                    self._followed[tp.partition] = records[-1].offset + 1
                for tp in list(ends):
                    if await consumer.position(tp) >= ends[tp]:
                        del ends[tp]
                        self.board.caught_up(tp.partition)
                self.tell()
        finally:
            await consumer.stop()

    def _hear(self, batch: RecordBatch) -> None:
        latest_ms = self._latest_ms()
        for offset, key, value in zip(batch.offsets.tolist(), batch.keys, batch.values, strict=True):
            try:
                self.board.hear(batch.partition, key, value, latest_ms)
            except RefusedRecordError as error:
                self._refusals.note(batch.topic, batch.partition, offset, error)
