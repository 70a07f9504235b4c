"""The monitor: a Faust app that brings what workers publish into ClickHouse, and says what has moved.

One monitor of a pipeline works (`app.monitor.watch`); others stand by (`ExclusiveAssignor`). One that wrongly believes
that it still is the one is fenced at its next checkpoint or block (`app.monitor.reign`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from faust.types import TP

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.alert_answers import NotAtWorkError
from app.adapters.http.monitor import Sources
from app.adapters.http.worker import Health, Sample, refusal_samples
from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble, end_soon, fail_if_crashed, get_to_work
from app.adapters.kafka.batch_app import BatchApp, Fetched, SkippedBatchError
from app.adapters.kafka.clients import new_producer
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.exclusive_assignor import ExclusiveAssignor
from app.adapters.kafka.lag import LagReader, Position, router_group, worker_group
from app.adapters.kafka.refusals import Refusals
from app.core.counts.idleness import Idleness, Sight
from app.core.input_checks import InputCounts
from app.core.labels.maturity_setting import say_too_short
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.kafka_access import KafkaAccess
from app.monitor.model_history import KnownVersion, ModelHistory
from app.monitor.takeover import Bounds, take_over
from app.monitor.watch import MonitorContext, MonitorTerm, Pace
from app.ports import FencedError, WarehouseError
from schemas.pipeline.spec import Pipeline

log = logging.getLogger("streamgauge.monitor")

Clock = Callable[[], int]

#: How long a person waits for the answer to an acknowledgement.
ANSWER_S = 20.0
#: Versions of which the status says what is wrong; it counts them all.
_MOST_SHOWN = 20


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
        self.pace = pace
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
        self.producer = new_producer(kafka)
        #: Of all topics that it reads.
        self.refusals = Refusals()
        self.entities: EntityFeed | None = None
        if pipeline.watches_entities:
            self.entities = EntityFeed(kafka, pipeline, self.refusals, self._on_entities)
        self.around = MonitorContext(
            pipeline, self.app, warehouse, self.producer, now_ms, pace, self._on_end, self.refusals, self.entities
        )
        self.history = ModelHistory(pipeline, kafka, warehouse, self._on_version, self.refusals)
        self.lag_reader = LagReader(kafka)
        #: The one at work; None while standing by or starting.
        self.watch: MonitorTerm | None = None
        self.versions: dict[str, KnownVersion] = {}
        #: How many workers there are; None: not known.
        self.workers: int | None = None
        self.worker_positions: dict[TP, Position] = {}
        #: Of the router (`[events] repartition`), in what is sent.
        self.router_positions: dict[TP, Position] = {}
        self.own_positions: dict[TP, Position] = {}
        self.exit_code = 0
        self.failure = ""
        self.stopping = asyncio.Event()
        self._idleness = Idleness(pace.idle_after)

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
                    await asyncio.wait_for(self.stopping.wait(), self.pace.housekeeping)
        finally:
            await self._shut_down(background)
        return self.exit_code

    async def _get_to_work(self, background: list[asyncio.Task[None]]) -> None:
        """Start, until at work or standing by; or fail, when Kafka fails or is silent meanwhile."""

        async def start() -> None:
            await self.producer.start()
            await self.lag_reader.start()
            background.append(self._start(self.history.follow_updates(), "model-updates"))
            background.append(self._start(self.history.follow_statuses(), "model-status"))
            if self.entities is not None:
                background.append(self._start(self.entities.run(), "entities"))
            await self.app.start()

        await get_to_work(self, self._kafka, start(), lambda: self.watch is not None or self.is_standby)

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
        watch, self.watch = self.watch, None
        if watch is not None:
            await watch.let_go(finish=not self.failure)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await end_soon(self.app.stop(), self.producer.stop(), self.lag_reader.stop())

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
        if self.watch is None:
            raise NotAtWorkError("This monitor is not at work (yet): ask again, or ask the one that is.")
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.watch.acknowledge(alert_id, by, why)
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
                lambda warehouse: take_over(warehouse, self.pipeline, owner, self.around.now_ms())
            )
        except WarehouseError as error:
            if not self.stopping.is_set():
                self.fail(str(error), error.exit_code)
            return None
        try:
            firsts = await self.lag_reader.firsts(sorted(partitions))
            bounds = {tp: Bounds(firsts[tp], await self.app.end_offset(tp)) for tp in partitions}
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._kafka, error)), EXIT_RETRY)
            return None
        watch = MonitorTerm(self.around, epoch, reign, legacy, bounds)
        for version in self.versions.values():
            watch.register(version)
        self.watch = watch
        watch.start()
        log.info("Monitoring %s from %s", self.pipeline.name, {f"{t}/{p}": at for (t, p), at in watch.starts.items()})
        return watch.starts

    async def revoked(self, partitions: set[TP]) -> None:  # noqa: ARG002  # all or none
        await self._drop()

    def received(self, fetched: Fetched) -> None:
        if self.watch is None or self.watch.epoch != fetched.epoch:
            return  # of an assignment that is over: it will be read again
        try:
            self.watch.receive(fetched)
        except SkippedBatchError as error:
            self.fail(str(error), EXIT_RETRY)

    async def _drop(self) -> None:
        watch, self.watch = self.watch, None
        if watch is not None:
            await watch.let_go(finish=False)

    def _on_version(self, version: KnownVersion) -> None:
        self.versions[version.version] = version
        if self.watch is not None:
            self.watch.register(version)

    def _on_entities(self) -> None:
        if self.watch is not None:
            self.watch.notice()

    # -- housekeeping --------------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        if fail_if_crashed(self, self._kafka):
            return
        pipeline, topics = self.pipeline, self.pipeline.topics
        tps = [TP(topics.events, partition) for partition in range(pipeline.partitions)]
        group = worker_group(pipeline.name)
        try:
            committed = await self.lag_reader.positions(group, tps)
            self.workers = await self.lag_reader.members(group)
            routed: dict[TP, Position] = {}
            if topics.by_entity:
                sent = [topics.sent_events] + ([topics.sent_labels] if pipeline.labels is not None else [])
                places = [TP(topic, partition) for topic in sent for partition in range(pipeline.partitions)]
                routed = await self.lag_reader.positions(router_group(pipeline.name), places)
            positions = await self.lag_reader.past_markers(committed | routed)
            self.worker_positions = {tp: positions[tp] for tp in committed}
            self.router_positions = {tp: positions[tp] for tp in routed}
            watch = self.watch
            if watch is None:
                self.own_positions = {}
                return
            ends = await self.lag_reader.ends(list(watch.starts))
            self.own_positions = {tp: await self._own_position(watch, tp, end) for tp, end in ends.items()}
        except Exception as error:  # noqa: BLE001  # numbers for people: the broker may be away for a while
            log.warning("The lag cannot be read now: %r", error)
        else:
            self._find_idle(watch, committed)

    async def _own_position(self, watch: MonitorTerm, tp: TP, end: int) -> Position:
        """Offsets that transactions use up count as handled when all before them is."""
        handled = watch.next_offset(tp)
        is_done = not watch.is_holding(tp) and await self.app.read_to(tp, end)
        return Position(max(handled, end) if is_done else handled, end)

    def _find_idle(self, watch: MonitorTerm, committed: dict[TP, Position]) -> None:
        sights: dict[int, Sight] = {}
        for tp, position in self.worker_positions.items():
            sketches = self.own_positions.get(TP(self.pipeline.topics.sketches, tp.partition))
            is_done = position.lag == 0 and sketches is not None and sketches.lag == 0
            sights[tp.partition] = Sight(committed[tp], is_done, watch.core.windows.has_reported(tp.partition))
        for partition in self._idleness.observe(sights, time.monotonic()):
            watch.declare_idle(partition)


# -- what is told of a monitor -----------------------------------------------------------------------------------------


def sources(monitor: Monitor) -> Sources:
    """What `MonitorHttp` serves of a monitor."""
    return Sources(
        pipeline=monitor.pipeline.name,
        health=lambda: _health(monitor),
        samples=lambda: _samples(monitor),
        status=lambda: _status(monitor),
        lag=lambda: _lag(monitor),
        acknowledge=monitor.acknowledge,
    )


def _health(monitor: Monitor) -> Health:
    """Live until it fails: starting it again does not mend a warehouse. Ready when it is at work, and all is well."""
    why = monitor.failure or monitor.warehouse.error
    if not why and monitor.watch is None:
        why = "another monitor is at work" if monitor.is_standby else "no partitions yet"
    return Health(live=not monitor.failure, ready=not why, why=why)


def _status(monitor: Monitor) -> dict[str, Any]:
    watch = monitor.watch
    windows = watch.core.windows if watch is not None else None
    standby = "standing by" if monitor.is_standby else "starting"
    champion = monitor.history.standings.champion()
    refused, unread = monitor.history.standings.refused(), monitor.history.unreadable
    return {
        "pipeline": monitor.pipeline.name,
        "state": "at work" if watch is not None else standby,
        "workers": monitor.workers,
        "champion": champion.version if champion is not None else None,
        "refused_versions": _newest(refused),
        "refused_versions_total": len(refused),
        "versions": sorted(monitor.versions),
        "versions_without_manifest": _newest(unread),
        "versions_without_manifest_total": len(unread),
        "watermark": _iso(windows.watermark_ms) if windows is not None else None,
        "label_watermark": _iso(windows.label_watermark_ms) if windows is not None else None,
        "windows_open": windows.n_open if windows is not None else None,
        "late_events": windows.n_too_late if windows is not None else None,
        "unscored_events": windows.n_unscored if windows is not None else None,
        "labels": _labels(monitor),
        "entities": _entities(monitor),
        "router": _router(monitor),
        "rows": monitor.around.rows,
        "warehouse_error": monitor.warehouse.error,
        "refused_records": monitor.refusals.by_topic(),
    }


def _newest(versions: dict[str, str]) -> dict[str, str]:
    """The last of them: anybody may announce thousands."""
    return dict(reversed([*islice(reversed(versions.items()), _MOST_SHOWN)]))


def _labels(monitor: Monitor) -> dict[str, Any] | None:
    """Labels since the beginning of the topic, and those that found no event; None: there are no labels."""
    if monitor.watch is None or monitor.pipeline.labels is None:
        return None
    core = monitor.watch.core
    counts = core.inputs.totals
    law = core.delays.recent_law(core.windows.label_watermark_ms or 0)
    return {
        "delays": {str(label): law.summary(label) for label in (0, 1)},
        "maturity_too_short": say_too_short(
            law, monitor.pipeline.performance.maturity_ms, monitor.pipeline.labels.horizon_ms
        ),
        "applied": counts.labels,
        "without_event": counts.without_event,
        "share": counts.without_event / counts.labels if counts.labels else None,
        "other_partition": counts.other_partition,
        "too_late": counts.too_late,
        "unknown": counts.unknown,
    }


def _entities(monitor: Monitor) -> dict[str, Any] | None:
    """The entities that are remembered, and those of them in several partitions; None: nobody must know."""
    if monitor.entities is None or not monitor.entities.is_read.is_set():
        return None
    directory = monitor.entities.directory
    examples = list(map(str, directory.examples()))
    return {"seen": directory.entities, "in_several_partitions": directory.straying, "examples": examples}


def _router(monitor: Monitor) -> dict[str, Any] | None:
    """How far what is sent is copied to the partitions of its entities; None: it is scored where it is."""
    if not monitor.pipeline.events.repartition:
        return None
    positions = monitor.router_positions
    topics = sorted({topic for topic, _ in positions})
    return {topic: {"lag": sum(at.lag for (name, _), at in positions.items() if name == topic)} for topic in topics}


def _lag(monitor: Monitor) -> dict[str, Any]:
    def listed(positions: dict[TP, Position]) -> list[dict[str, Any]]:
        return [
            {"topic": topic, "partition": partition, "next": at.next_offset, "end": at.end, "lag": at.lag}
            for (topic, partition), at in sorted(positions.items())
        ]

    listed_router = {"router": listed(monitor.router_positions)} if monitor.pipeline.events.repartition else {}
    return {"worker": listed(monitor.worker_positions), "monitor": listed(monitor.own_positions), **listed_router}


def _samples(monitor: Monitor) -> Iterator[Sample]:
    watch = monitor.watch
    yield Sample("streamgauge_monitor_active", float(watch is not None), {})
    yield Sample("streamgauge_monitor_warehouse_up", float(not monitor.warehouse.error), {})
    yield Sample("streamgauge_monitor_warehouse_down_seconds", monitor.warehouse.down_seconds, {})
    yield Sample("streamgauge_monitor_warehouse_failures_total", monitor.warehouse.failures, {})
    for table, rows in sorted(monitor.around.rows.items()):
        yield Sample("streamgauge_monitor_rows_total", rows, {"table": table})
    yield from _lag_samples(monitor)
    yield from refusal_samples("streamgauge_monitor_refused_total", monitor.refusals.by_topic())
    if monitor.entities is not None and monitor.entities.is_read.is_set():
        directory = monitor.entities.directory
        yield Sample("streamgauge_monitor_entities", directory.entities, {})
        yield Sample("streamgauge_monitor_entities_in_several_partitions", directory.straying, {})
    if watch is not None:
        yield Sample("streamgauge_monitor_held_bytes", watch.held_bytes, {})
        yield Sample("streamgauge_monitor_lost_records_total", watch.n_lost, {})
        for outcome, count in _outcomes(watch.core.inputs.totals).items():
            yield Sample("streamgauge_monitor_labels_total", count, {"outcome": outcome})
        windows = watch.core.windows
        yield Sample("streamgauge_monitor_open_windows", windows.n_open, {})
        yield Sample("streamgauge_monitor_late_events_total", windows.n_too_late, {})
        if windows.watermark_ms is not None:
            yield Sample("streamgauge_monitor_watermark_seconds", windows.watermark_ms / 1000, {})


def _lag_samples(monitor: Monitor) -> Iterator[Sample]:
    for name, positions in (
        ("streamgauge_monitor_lag", monitor.own_positions),
        ("streamgauge_monitor_router_lag", monitor.router_positions),
    ):
        for (topic, partition), position in sorted(positions.items()):
            yield Sample(name, position.lag, {"topic": topic, "partition": str(partition)})
    if monitor.workers is not None:
        yield Sample("streamgauge_monitor_workers", monitor.workers, {})
    for (_, partition), position in sorted(monitor.worker_positions.items()):
        yield Sample("streamgauge_worker_lag", position.lag, {"partition": str(partition)})


def _outcomes(counts: InputCounts) -> dict[str, int]:
    return {
        "joined": counts.labels - counts.without_event,
        "other_partition": counts.other_partition,
        "too_late": counts.too_late,
        "unknown": counts.unknown,
    }


def _iso(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    try:
        time_utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    except OverflowError:  # before the first event a watermark is before all times
        return None
    return time_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
