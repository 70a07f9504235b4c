"""The router: copies events and labels to topics in which each entity has one partition, exactly once (ADR 0033).

Every worker has a router, and one of them is at work: the consumer group gives it all partitions, and its
transactional id fences the one that had them before. Copies and the offsets of their originals are committed in one
transaction. Any error ends the worker (crash only).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble, end_soon
from app.adapters.kafka.clients import new_member
from app.adapters.kafka.exclusive_assignor import ExclusiveAssignor
from app.adapters.kafka.lag import read_commits, router_group
from app.adapters.kafka.log_bounds import LogBounds
from app.adapters.kafka.publisher import OutputTooLargeError, PartitionPublisher, PublishError
from app.adapters.kafka.topic_reader import to_batch
from app.core.entities.copies import Copy
from app.core.entities.routing import Place, Routed, Routing, least_promise
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.kafka_access import KafkaAccess
from app.worker.input_offsets import Beginning, UnusableInputError
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER

log = logging.getLogger("streamgauge.worker")

#: A partition is paused when more than this is queued of it, and resumed at half of it.
_QUEUE_BYTES = 8 << 20
#: What may be queued of all partitions together.
_ALL_BYTES = 256 << 20
#: Records of one fetch, and of one transaction.
_MOST = 10_000
#: Records that are read or written before others have their turn.
_SLICE = 2_000
_POLL_MS = 200
_AGAIN_S = 0.5
#: How long a router that must stop may take to end its transaction.
_END_S = 5.0
_MOST_DIGITS = 18


class Router(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Copies the records of its pipeline while its group gives it all partitions; otherwise it stands by.

    Parameters
    ----------
    fail
        Ends the whole worker: why, and with which exit code.
    session_s
        How long it may be silent before another one takes over.
    beginning
        Where it begins to read what was sent.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        kafka: KafkaAccess,
        now_ms: Callable[[], int],
        fail: Callable[[str, int], None],
        *,
        session_s: float,
        beginning: Beginning,
    ) -> None:
        self._pipeline = pipeline
        self._kafka = kafka
        self._fail = fail
        self._beginning = beginning
        self._group = router_group(pipeline.name)
        self._routing = Routing(pipeline)
        self._tps = [TP(*place) for place in self._routing.places]
        self._consumer = new_member(
            kafka,
            self._group,
            ExclusiveAssignor(now_ms()),
            max_partition_fetch_bytes=1 << 20,
            fetch_max_wait_ms=100,
            rebalance_timeout_ms=20_000,
            max_poll_interval_ms=2**31 - 1,  # a router that stands by reads nothing
            session_timeout_ms=int(session_s * 1000),
            heartbeat_interval_ms=int(session_s * 1000 / 4),
        )
        self._work: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._paused: set[Place] = set()
        #: What each partition of the labels promises (ms).
        self._promises: dict[int, int] = {}
        self._offsets: dict[TP, int] = {}
        self._ends: dict[TP, int] = {}
        #: Records copied and committed since the start.
        self.routed = 0

    @property
    def lag(self) -> int:
        """Records still to be copied, as far as is known; 0 for a router that stands by."""
        return sum(max(0, end - self._offsets.get(tp, end)) for tp, end in self._ends.items()) if self._work else 0

    async def start(self) -> None:
        """Join the group; the work begins when it is given."""
        await self._consumer.start()
        self._consumer.subscribe(sorted({place.topic for place in self._routing.places}), listener=self)

    async def stop(self) -> None:
        """Leave the group."""
        await self._end_work()
        await self._consumer.stop()

    # -- ConsumerRebalanceListener -------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Any) -> None:  # noqa: ARG002  # all or none
        await self._end_work()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        if assigned:
            self._work = asyncio.create_task(self._guard(set(assigned)), name="router")

    # -- the work ------------------------------------------------------------------------------------------------------

    async def _end_work(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            # A transaction that is left open hides what follows it until it times out or another router starts.
            try:
                async with asyncio.timeout(_END_S), self._writing:
                    work.cancel()
            except TimeoutError:
                work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _guard(self, assigned: set[TopicPartition]) -> None:
        try:
            self._check(assigned)
            await self._route()
        except (UnusableInputError, OutputTooLargeError) as error:
            self._fail(str(error), EXIT_CONFIG)
        except PublishError as error:
            self._fail(f"The router was stopped: {error} It goes on from its last commit.", EXIT_RETRY)
        except KAFKA_TROUBLE as error:
            self._fail(f"The router was stopped: {describe_trouble(self._kafka, error)}", EXIT_RETRY)
        except Exception as error:  # crash only
            log.exception("The router failed")
            self._fail(f"The router failed: {error!r}", EXIT_RETRY)

    def _check(self, assigned: set[TopicPartition]) -> None:
        topics = self._pipeline.topics
        if beyond := sorted({tp.partition for tp in assigned} - set(range(topics.partitions))):
            raise UnusableInputError(
                f"{topics.sent_events} or {topics.sent_labels} has got partitions {beyond} beyond the"
                f" {topics.partitions} of {self._pipeline.path}: give the pipeline a new name and topics of the new"
                " size, and replay the events into it."
            )

    async def _route(self) -> None:
        pipeline = self._pipeline
        self._routing.clear()
        publisher = PartitionPublisher(
            self._kafka,
            self._group,
            self._group,  # the same transactional id for every router: it fences the one before
            0,
            interval_ms=pipeline.commit_interval_ms,
            compression=pipeline.compression,
            early=None,
        )
        logs = LogBounds(self._kafka, self._group)
        try:
            await publisher.start()
            await logs.start()
            await self._take_over(publisher, logs)
            await self._copy(publisher, logs)
        finally:
            await end_soon(publisher.stop(), logs.stop())

    async def _take_over(self, publisher: PartitionPublisher, logs: LogBounds) -> None:
        """Find where to go on, now that no other router can commit."""
        commits = await read_commits(self._kafka, self._group)
        self._promises = {
            tp.partition: int(at.metadata)
            for tp, at in commits.items()
            if tp.topic == self._pipeline.topics.sent_labels and _is_time(at.metadata)
        }
        bounds = {
            tp: bound._replace(committed=commits[tp].offset if tp in commits else None)
            for tp, bound in (await logs.bounds(self._tps)).items()
        }
        begin: dict[TP, int] = {}
        if self._beginning.at_ms and not commits:
            begin = await self._beginning.find(logs, bounds)
        self._offsets = self._beginning.choose_starts({}, bounds, begin)
        self._ends = {tp: bound.end for tp, bound in bounds.items()}
        if begin:
            await publisher.commit(self._marked(self._offsets))
        for tp, offset in self._offsets.items():
            self._consumer.seek(TopicPartition(*tp), offset)
        self._consumer.resume(*self._consumer.paused())
        self._paused.clear()
        log.info("The router is at work here; it goes on at %s", {f"{t}/{k}": n for (t, k), n in self._offsets.items()})

    async def _copy(self, publisher: PartitionPublisher, logs: LogBounds) -> None:
        loop, interval_s = asyncio.get_running_loop(), self._pipeline.commit_interval_ms / 1000
        due = 0.0
        behind: set[Place] = set()
        while True:
            if not behind:
                await asyncio.sleep(due - loop.time())
            fetched = await self._consumer.getmany(timeout_ms=_POLL_MS, max_records=_MOST)
            for tp, records in fetched.items():
                batch = to_batch(tp, records)
                for start in range(0, len(batch), _SLICE):
                    self._routing.add(batch.cut(start, start + _SLICE))
                    await asyncio.sleep(0)
            if not self._routing.rows:
                continue
            self._regulate()
            try:
                behind = await self._find_behind(logs)
            except KAFKA_TROUBLE as error:  # a partition without a leader, say: nothing goes past it
                log.warning("Nothing is copied until all that is sent can be read again: %r", error)
                await asyncio.sleep(_AGAIN_S)
                continue
            due = loop.time() + interval_s
            while (routed := self._routing.take(_MOST, behind)) is not None:
                async with self._writing:
                    await self._write(publisher, routed)
            if not behind and not self._routing.rows:  # only markers of transactions may be left
                self._ends = dict(self._offsets)
            self._regulate()

    def _regulate(self) -> None:
        """Pause a partition when enough of it is queued, and resume it when little is left."""
        most = min(_QUEUE_BYTES, _ALL_BYTES // len(self._routing.places))
        for place in self._routing.places:
            size = self._routing.queued_bytes(place)
            if size > most and place not in self._paused:
                self._paused.add(place)
                self._consumer.pause(TopicPartition(*place))
            elif size <= most // 2 and place in self._paused:
                self._paused.discard(place)
                self._consumer.resume(TopicPartition(*place))

    async def _find_behind(self, logs: LogBounds) -> set[Place]:
        """Partitions that hold more than has been fetched.

        Asked only after what is queued was fetched: so an event is copied after every label that was there before it.
        """
        self._ends = await logs.ends(self._tps)
        return {
            Place(*tp) for tp, end in self._ends.items() if await self._consumer.position(TopicPartition(*tp)) < end
        }

    # -- out -----------------------------------------------------------------------------------------------------------

    async def _write(self, publisher: PartitionPublisher, routed: Routed) -> None:
        """Write labels first: no batch of a later transaction is there before all of an earlier one can be read."""
        topics = self._pipeline.topics
        if routed.promises:
            await self._promise(publisher, routed)
            return
        for topic, copies, ends in (
            (topics.labels, routed.labels, routed.label_ends),
            (topics.events, routed.events, routed.event_ends),
        ):
            if not ends:
                continue
            for partition, records in copies.items():
                for start in range(0, len(records), _SLICE):
                    await publisher.send_copies(topic, partition, records[start : start + _SLICE])
                    await asyncio.sleep(0)
            await self._commit(publisher, ends)
            self.routed += sum(map(len, copies.values()))

    async def _promise(self, publisher: PartitionPublisher, routed: Routed) -> None:
        """Take note of promises; when all partitions promise more than before, tell all partitions."""
        n, before = self._pipeline.partitions, least_promise(self._promises, self._pipeline.partitions)
        for partition, time_ms in routed.promises.items():
            self._promises[partition] = max(time_ms, self._promises.get(partition, time_ms))
        promise = least_promise(self._promises, n)
        if promise is not None and (before is None or promise > before):
            mark: Copy = None, None, routed.promised_at_ms, [(WATERMARK_HEADER, str(promise).encode())]
            for partition in range(n):
                await publisher.send_copies(self._pipeline.topics.labels, partition, [mark])
        await self._commit(publisher, routed.label_ends)

    async def _commit(self, publisher: PartitionPublisher, ends: Mapping[Place, int]) -> None:
        offsets = {TP(*place): end for place, end in ends.items()}
        await publisher.commit(self._marked(offsets))
        self._offsets |= offsets

    def _marked(self, offsets: Mapping[TP, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Offsets, and what the labels before them have promised."""
        labels = self._pipeline.topics.sent_labels
        return {
            TopicPartition(*tp): OffsetAndMetadata(
                offset, str(self._promises.get(tp.partition, "")) if tp.topic == labels else ""
            )
            for tp, offset in offsets.items()
        }


def _is_time(text: str | None) -> bool:
    digits = (text or "").removeprefix("-")
    return digits.isdigit() and len(digits) <= _MOST_DIGITS
