"""Faust's consumer, with what one fetch gave of a partition wrapped into one message.

Pinned to faust-streaming 0.15.3; what is overridden here is said at each place.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from app.adapters.kafka.batch_handler import Fetched
from app.adapters.kafka.clients import new_member
from app.adapters.kafka.lean_consumer import LeanConsumer
from app.adapters.kafka.topic_reader import to_batch

if TYPE_CHECKING:
    from app.adapters.kafka.batch_app import BatchApp

#: How long one fetch may wait. A partition that is resumed meanwhile waits this long at the most.
_FETCH_TIMEOUT_S = 0.05


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The consumer in Faust's thread: committed records only, and the app's way of sharing partitions."""

    app: BatchApp
    #: Fetches taken out of aiokafka's buffer in this epoch, by partition.
    drained: Counter[TP]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.drained = Counter()

    def set_shutdown(self) -> None:
        """Tell who waits for the thread to end; nobody does if Kafka was away so long that the loop is closed."""
        with contextlib.suppress(RuntimeError):
            super().set_shutdown()

    def _create_worker_consumer(self, transport: Any) -> LeanConsumer:  # noqa: ARG002  # Faust's signature
        conf = self.app.conf
        return new_member(
            self.app.kafka,
            conf.id,
            self.app.sharing,
            client_id=conf.broker_client_id,
            group_instance_id=conf.consumer_group_instance_id,
            max_poll_interval_ms=int((conf.broker_max_poll_interval or 300) * 1000),
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            fetch_max_wait_ms=500,
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109  # Faust's signature
        max_records: int | None = None,
    ) -> Mapping[TP, list[Any]]:
        """As in Faust, but never longer than the timeout.

        While a rebalance is under way, aiokafka's fetcher waits for the new assignment. It comes when the revocation is
        over, and that (`BatchConsumer.on_partitions_revoked`) waits for this fetch. Cancelling it loses nothing:
        aiokafka takes records out of its buffer only after it has waited.
        """
        limit = (timeout or 0.0) + _FETCH_TIMEOUT_S
        try:
            return await asyncio.wait_for(self._drain(consumer, active_partitions, timeout, max_records), limit)
        except TimeoutError:
            return {}

    async def _drain(self, consumer: Any, *arguments: Any) -> Mapping[TP, list[Any]]:
        fetched: Mapping[TP, list[Any]] = await super()._fetch_records(consumer, *arguments)
        self.drained.update(tp for tp, records in fetched.items() if records)  # no await between this and the positions
        return fetched

    async def progress(self, tp: TP) -> tuple[int | None, int]:
        """Position of a partition, and how many fetches of it were taken out, both at the same moment."""
        position_and_fetches: tuple[int | None, int] = await self.call_thread(self._progress, tp)
        return position_and_fetches

    async def _progress(self, tp: TP) -> tuple[int | None, int]:
        subscription = self._ensure_consumer()._subscription.subscription  # noqa: SLF001  # positions as they are now
        assignment = subscription.assignment if subscription is not None else None
        place = TopicPartition(*tp)
        position = None
        if assignment is not None and place in assignment.tps and assignment.state_value(place).has_valid_position:
            position = assignment.state_value(place).position
        return position, self.drained[tp]

    def stay_in_group(self) -> None:
        """Count as reading while all is paused: after max_poll_interval without a fetch, aiokafka leaves the group."""
        if self._consumer is not None:
            self._consumer._subscription._last_fetch_ended = time.monotonic()  # noqa: SLF001  # the only place

    @property
    def heard_s(self) -> float:
        """See `LeanConsumer.heard_s`."""
        return self._consumer.heard_s if self._consumer is not None else -math.inf

    async def end_offset(self, tp: TP) -> int:
        """Offset after the last committed record of a partition, asked of the broker now."""
        consumer = self._ensure_consumer()
        ends: dict[TopicPartition, int] = await self.call_thread(consumer.end_offsets, [TopicPartition(*tp)])
        return ends[TopicPartition(*tp)]


class BatchConsumer(driver.Consumer):
    """Faust's consumer, with fetches wrapped and the handler called at each change of assignment."""

    app: BatchApp
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._epoch = 0
        self._is_new_assignment = False
        self._sequences: dict[TP, int] = {}
        self._seeking = asyncio.Lock()
        self.has_sought = asyncio.Event()
        #: Since when a rebalance is under way (the loop's time).
        self.unassigned_since: float | None = None

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        fetched = await super()._getmany(active_partitions, min(timeout, _FETCH_TIMEOUT_S))
        return {tp: [self._wrap(tp, records)] for tp, records in fetched.items() if records}

    def _wrap(self, tp: TP, records: list[Any]) -> Fetched:
        sequence = self._sequences[tp] = self._sequences.get(tp, 0) + 1
        batch = to_batch(tp, records)
        size = sum(map(len, filter(None, batch.values))) + 100 * len(batch)
        return Fetched(batch, self._epoch, sequence, size)

    def _to_message(self, tp: TP, record: Fetched) -> ConsumerMessage:
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=int(record.records.offsets[-1]),
            timestamp=0.0,
            timestamp_type=0,
            headers=None,
            key=b"",
            value=record,  # type: ignore[arg-type]  # bytes to Faust's own schemas; ours passes it through
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:  # noqa: ASYNC109
        """As in Faust, but while all partitions are paused it looks again after milliseconds, not after a second."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # mode takes any waitable
        self.not_waiting_next_records.clear()
        try:
            active = self._get_active_partitions()
            if not active:
                self._thread.stay_in_group()
                await self.sleep(0.005)
                return {}, active
            return await self._getmany(active, timeout), active
        finally:
            self.not_waiting_next_records.set()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Faust stops the flow only when something is revoked. A member that had nothing would fetch its new partitions
        # before the handler has taken over. Faust resumes the flow when the assignment is complete.
        self.unassigned_since = self.unassigned_since or asyncio.get_running_loop().time()
        self.stop_flow()
        await self.wait_for_stopped_flow()
        self._epoch += 1
        self._sequences.clear()
        self._thread.drained.clear()  # nothing is being fetched: the flow stands still
        await self.app.handler.revoked(revoked)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._is_new_assignment = True
        self.unassigned_since = None
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Called when Faust is ready to fetch: first the handler takes over, then the committed offsets are read."""
        async with self._seeking:
            if not self._is_new_assignment:
                return
            self._is_new_assignment = False
            self.has_sought.clear()
            assignment = set(self.assignment())
            offsets = await self.app.handler.assigned(assignment, self._epoch)
            await super().perform_seek()
            if offsets:
                await self._thread.seek_wait(
                    {TopicPartition(*tp): at for tp, at in offsets.items() if tp in assignment}
                )
            self.has_sought.set()

    async def end_offset(self, tp: TP) -> int:
        """Offset after the last committed record of a partition, asked of the broker now."""
        return await self._thread.end_offset(tp)

    async def seek_to(self, offsets: dict[TP, int]) -> None:
        await self._thread.seek_wait({TopicPartition(*tp): at for tp, at in offsets.items()})

    @property
    def heard_s(self) -> float:
        """See `LeanConsumer.heard_s`."""
        return self._thread.heard_s

    async def read_to(self, tp: TP, offset: int) -> bool:
        """Whether everything of a partition before ``offset`` has been fetched and has come to this thread."""
        position, drained = await self._thread.progress(tp)
        return position is not None and position >= offset and drained == self.fetches(tp)

    def fetches(self, tp: TP) -> int:
        """How many fetches of a partition were wrapped in this epoch."""
        return self._sequences.get(tp, 0)


class BatchTransport(driver.Transport):
    Consumer = BatchConsumer
