"""The monitor: a Faust app that brings what workers publish into ClickHouse, and says what has moved.

One monitor of a pipeline works (`app.monitor.term`); others stand by (`ExclusiveAssignor`). One that wrongly believes
that it still is the one is fenced at its next checkpoint or block (`app.monitor.reign`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from faust.types import TP

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.alert_answers import NotAtWorkError
from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble, end_soon, fail_if_crashed, get_to_work
from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import Fetched, SkippedBatchError
from app.adapters.kafka.clients import new_producer
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.exclusive_assignor import ExclusiveAssignor
from app.adapters.kafka.refusals import Refusals
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.kafka_access import KafkaAccess
from app.monitor.context import MonitorContext, Pace
from app.monitor.lag import PipelineLag
from app.monitor.model_history import KnownVersion, ModelHistory
from app.monitor.takeover import Bounds, take_over
from app.monitor.term import MonitorTerm
from app.ports import FencedError, WarehouseError
from schemas.pipeline.spec import Pipeline

log = logging.getLogger("streamgauge.monitor")

Clock = Callable[[], int]

#: How long a person waits for the answer to an acknowledgement.
ANSWER_S = 20.0


class Monitor:
    """A monitoring process: the `BatchHandler` of its Faust app."""

    def __init__(
        self,
        pipeline: Pipeline,
        kafka: KafkaAccess,
        warehouse: WarehouseThread,
        now_ms: Clock,
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        self.pipeline = pipeline
        self.warehouse = warehouse
        self._kafka = kafka
        topics = pipeline.topics
        self.group = f"streamgauge-{pipeline.name}-monitor"
        self.app = BatchApp(
            self.group,
            kafka,
            [topics.sketches, topics.scores, topics.dead_letters],
            self,
            sharing=ExclusiveAssignor(now_ms()),
        )
        refusals = Refusals()
        entities = EntityFeed(kafka, pipeline, refusals, self._on_entities) if pipeline.watches_entities else None
        self.context = MonitorContext(
            pipeline, self.app, warehouse, new_producer(kafka), now_ms, pace, self._on_end, refusals, entities
        )
        self.history = ModelHistory(pipeline, kafka, warehouse, self._on_version, refusals)
        self.lag = PipelineLag(kafka, pipeline, self.app, pace.idle_after)
        #: The term at work; None while standing by or starting.
        self.term: MonitorTerm | None = None
        self.versions: dict[str, KnownVersion] = {}
        self.exit_code = 0
        self.failure = ""
        self.stopping = asyncio.Event()

    @property
    def is_standby(self) -> bool:
        """Whether the group has given everything to another monitor."""
        return bool(self.app.unassigned)

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Work until `stop` or a failure; the exit code."""
        background: list[asyncio.Task[None]] = []
        try:
            await self._get_to_work(background)
            while not self.stopping.is_set():
                await self._keep_house()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), self.context.pace.housekeeping)
        finally:
            await self._shut_down(background)
        return self.exit_code

    async def _get_to_work(self, background: list[asyncio.Task[None]]) -> None:
        """Start, until at work or standing by; or fail, when Kafka fails or is silent meanwhile."""

        async def start() -> None:
            await self.context.producer.start()
            await self.lag.reader.start()
            background.append(self._start(self.history.follow_updates(), "model-updates"))
            background.append(self._start(self.history.follow_statuses(), "model-status"))
            if self.context.entities is not None:
                background.append(self._start(self.context.entities.run(), "entities"))
            await self.app.start()

        await get_to_work(self, self._kafka, start(), lambda: self.term is not None or self.is_standby)

    def stop(self) -> None:
        """Finish what is under way and return from `run`."""
        self.stopping.set()

    def fail(self, why: str, exit_code: int) -> None:
        """End the monitor because of an error."""
        if not self.failure:
            self.failure, self.exit_code = why, exit_code
            log.error("%s", why)
        self.stopping.set()

    async def _shut_down(self, background: list[asyncio.Task[None]]) -> None:
        self.warehouse.give_up()
        term, self.term = self.term, None
        if term is not None:
            await term.let_go(finish=not self.failure)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await end_soon(self.app.stop(), self.context.producer.stop(), self.lag.reader.stop())

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_end)
        return task

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """End the monitor when one of its tasks ended by an error."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        is_final = isinstance(error, (WarehouseError, ValueError)) and not getattr(error, "retryable", False)
        is_final &= not isinstance(error, FencedError)  # started again, it stands by
        if isinstance(error, KAFKA_TROUBLE):
            self.fail(str(describe_trouble(self._kafka, error)), EXIT_RETRY)
            return
        if not isinstance(error, WarehouseError):
            log.error("The task %s failed", task.get_name(), exc_info=error)
        if not self.stopping.is_set():
            self.fail(f"{task.get_name()}: {error}", EXIT_CONFIG if is_final else EXIT_RETRY)

    async def acknowledge(self, alert_id: str, by: str, why: str) -> None:
        """Note that a person has taken an alert on; `AcknowledgeError` or `NotAtWorkError` when it cannot be."""
        if self.term is None:
            raise NotAtWorkError("This monitor is not at work (yet): ask again, or ask the one that is.")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.term.acknowledge(alert_id, by, why)
        except TimeoutError:
            error = self.warehouse.error or "it has much to do"
            raise NotAtWorkError(f"The monitor could not save it within {ANSWER_S:g} s ({error}): ask again.") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise NotAtWorkError("The monitor stopped before it had saved that: ask again.") from None

    # -- BatchHandler --------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        await self._drop()
        if not partitions:
            return None
        owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:12]}"
        try:
            reign, legacy = await self.warehouse.call(
                lambda warehouse: take_over(warehouse, self.pipeline, owner, self.context.now_ms())
            )
        except WarehouseError as error:
            if not self.stopping.is_set():
                self.fail(str(error), error.exit_code)
            return None
        try:
            firsts = await self.lag.reader.firsts(sorted(partitions))
            bounds = {tp: Bounds(firsts[tp], await self.app.end_offset(tp)) for tp in partitions}
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._kafka, error)), EXIT_RETRY)
            return None
        term = MonitorTerm(self.context, epoch, reign, legacy, bounds)
        for version in self.versions.values():
            term.register(version)
        self.term = term
        term.start()
        log.info("Monitoring %s from %s", self.pipeline.name, {f"{t}/{p}": at for (t, p), at in term.starts.items()})
        return term.starts

    async def revoked(self, partitions: set[TP]) -> None:  # noqa: ARG002  # all or none
        await self._drop()

    def received(self, fetched: Fetched) -> None:
        if self.term is None or self.term.epoch != fetched.epoch:
            return  # of an assignment that is over: it will be read again
        try:
            self.term.receive(fetched)
        except SkippedBatchError as error:
            self.fail(str(error), EXIT_RETRY)

    async def _drop(self) -> None:
        term, self.term = self.term, None
        if term is not None:
            await term.let_go(finish=False)

    def _on_version(self, version: KnownVersion) -> None:
        self.versions[version.version] = version
        if self.term is not None:
            self.term.register(version)

    def _on_entities(self) -> None:
        if self.term is not None:
            self.term.notice()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        if fail_if_crashed(self, self._kafka):
            return
        try:
            await self.lag.read_groups()
            term = self.term
            await self.lag.read_own(term)
        except Exception as error:  # noqa: BLE001  # numbers for people: the broker may be away for a while
            log.warning("The lag cannot be read now: %r", error)
            return
        if term is not None:
            for partition in self.lag.find_idle(term):
                term.declare_idle(partition)
