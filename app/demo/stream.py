"""Sends the year as fast as the worker takes it, and has the model retrained when the monitor asks for it.

The source could run ahead of the worker by minutes; the lag is bounded, so that memory is, and so that an alert is
about what was sent just now. While a version is being trained the stream goes on but is held to a fixed rate: at full
speed the year would be over before the training is.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.http.client import MonitorClient, MonitorError
from app.adapters.kafka.clients import new_admin, new_consumer
from app.adapters.kafka.event_producer import EventProducer
from app.adapters.kafka.lag import worker_group
from app.adapters.kafka.topic_reader import follow
from app.adapters.sources.source import EVENT, EncodedRecord, SourceError, read_source
from app.clock import wall_clock_ms
from app.core.counts.calendar import Calendar
from app.demo.training import ModelCommand, TrainingFailedError, format_day, two_months_before
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import ModelStatus, decode_json

#: How far the stream may be ahead of the worker, in events.
MOST_LAG = 20_000
#: Events a second at most while a version is being trained: some three weeks of flights pass by in that time.
HELD_RATE = 1_500
#: Event time between two promises to all partitions, so that one without events holds no window back.
PROMISE_EVERY_MS = 2 * 86_400_000
#: How far past the maturity of a window the stream goes before the monitor has reported it: months pass in seconds,
#: and an alert should find the stream near what it is about.
MOST_LEAD_MS = 7 * 86_400_000
#: Share of the stream that is kept back until a training under way has ended, so that its version still has work.
RESERVE = 0.1
#: Records sent at a time; few while the stream is held, to hold it smoothly.
PIECE, HELD_PIECE = 4_000, 500
POLL_S = 0.25
SWAP_DEADLINE_S = 60.0


class DemoError(RuntimeError):
    """The demo cannot go on; one sentence that says why and where to look."""


@dataclass(frozen=True)
class Progress:
    """How far the stream is. ``share`` in [0, 1]; ``training`` names what is being trained, if anything."""

    share: float
    events: int
    events_per_second: float
    lag: int
    at_ms: int
    training: str


@dataclass(frozen=True)
class Retrain:
    """A version made in mid-stream.

    ``started_at``, ``swapped_at``: events sent when training began and when the version scored; ``started_ms``: event
    time of the former.
    """

    version: str
    from_ms: int
    to_ms: int
    why: str
    seconds: float
    started_at: int
    started_ms: int
    swapped_at: int
    held_to: int


@dataclass(frozen=True)
class Course:
    """What to stream, and when to retrain.

    Parameters
    ----------
    limit
        Events at most; None: all from ``from_ms`` to ``to_ms``.
    retrain_at
        Retrain once so many events are sent, whatever the monitor says.
    most_retrains
        No more than so many.
    expected_training_s
        How long a training takes, to choose the rate that the stream is held to.
    """

    from_ms: int
    to_ms: int
    limit: int | None
    family: str
    retrain_at: int | None
    most_retrains: int
    expected_training_s: float


@dataclass
class Sent:
    """What was sent, and how fast it was taken while nothing held it back."""

    events: int = 0
    labels: int = 0
    at_ms: int = 0
    last_event_ms: int = 0
    seconds: float = 0.0
    free_events: int = 0
    free_seconds: float = 0.0
    retrains: list[Retrain] = field(default_factory=list)


class Streamer:
    """Streams one course through a running stack.

    Parameters
    ----------
    say
        Is told what a person should know, in sentences.
    show
        Is told how far it is, a few times a second.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        monitor: MonitorClient,
        course: Course,
        log_folder: Path,
        *,
        say: Callable[[str], None],
        show: Callable[[Progress], None],
    ) -> None:
        self.sent = Sent()
        self._pipeline = pipeline
        self._settings = settings
        self._monitor = monitor
        self._course = course
        self._log_folder = log_folder
        self._say = say
        self._show = show
        self._watch = LagWatch(pipeline, settings.kafka_access)
        self._training = ""
        self._held_to: int | None = None
        self._asked = asyncio.Event()
        self._is_all_sent = False
        self._next_at = self._expected_at = 0.0
        self._promised_ms = course.from_ms
        self._reported_ms = 0
        self._is_waiting = False
        self._calendar = Calendar.parse(pipeline.drift.window, pipeline.drift.slice_ms)
        #: No training is under way / none, and its version has taken over.
        self._trained, self._may_finish = asyncio.Event(), asyncio.Event()
        self._statuses: dict[tuple[str, str], ModelStatus] = {}
        self._champion = ""

    async def run(self, champion: str) -> Sent:
        """Stream everything; returns when all is sent and no training is under way. ``champion``: who scores first."""
        self._champion = champion
        self._trained.set()
        self._may_finish.set()
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(self._follow_statuses()),
                    tasks.create_task(self._watch_lag()),
                    tasks.create_task(self._watch_monitor()),
                ]
                await self._wait_status(champion, "loaded")
                await self._send_all()
                for helper in helpers:
                    helper.cancel()
        except* (DemoError, TrainingFailedError, MonitorError, StackError, SourceError, KafkaError) as several:
            first: BaseException = several
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise DemoError(str(first)) from several
        self.sent.seconds = time.monotonic() - began
        return self.sent

    # -- sending -------------------------------------------------------------------------------------------------------

    async def _send_all(self) -> None:
        course, sent = self._course, self.sent
        async with EventProducer(self._settings.kafka_access, self._pipeline, wall_clock_ms) as producer:
            chunks = read_source(self._pipeline, course.from_ms, course.to_ms, course.limit)
            while chunk := await asyncio.to_thread(next, chunks, None):
                start = 0
                while start < len(chunk):
                    piece = chunk[start : start + (PIECE if self._held_to is None else HELD_PIECE)]
                    start += len(piece)
                    await self._regulate(piece)
                    await producer.send_encoded(piece)
                    if piece[-1].time_ms >= self._promised_ms + PROMISE_EVERY_MS:
                        self._promised_ms = piece[-1].time_ms
                        await producer.promise(self._promised_ms)
                    sent.events, sent.labels = producer.events, producer.labels
                    sent.at_ms = piece[-1].time_ms
                    sent.last_event_ms = max(
                        (record.time_ms for record in piece if record.kind == EVENT), default=sent.last_event_ms
                    )
            self._is_all_sent = True
            await self._may_finish.wait()
            await producer.promise(self._end_of_all_ms())

    def _end_of_all_ms(self) -> int:
        """Work out a time that closes the last window and lets its labels be mature: nothing follows, so it is true."""
        return self._calendar.window_at(self.sent.last_event_ms).end_ms + self._settled_after_ms

    @property
    def _settled_after_ms(self) -> int:
        """How long after its end everything about a window can be said."""
        return max(self._pipeline.drift.grace_ms, self._pipeline.performance.maturity_ms)

    async def _regulate(self, piece: list[EncodedRecord]) -> None:
        """Wait until this piece may go."""
        while self.sent.events - self._watch.processed > MOST_LAG:
            await self._watch.next_look()
        must_be_reported_ms = self._calendar.window_at(
            piece[0].time_ms - self._settled_after_ms - MOST_LEAD_MS
        ).start_ms
        while must_be_reported_ms > max(self._reported_ms, self._course.from_ms):
            self._is_waiting = True
            await self._watch.next_look()
        self._is_waiting = False
        at = self._course.retrain_at
        if at is not None and self.sent.events >= at:
            await self._asked.wait()  # a short stream would be over before anyone saw that it has come so far
        held_to = self._held_to
        if held_to is not None:
            now = time.monotonic()
            if now > self._expected_at:  # a slow training should not find the year over either
                held_to = max(50, held_to // 4)
            # Sending takes its time too; what it took is not waited for again.
            self._next_at = max(self._next_at, now - 0.5) + sum(record.kind == EVENT for record in piece) / held_to
            await asyncio.sleep(self._next_at - now)
            if self._share() > 1 - RESERVE:
                await self._trained.wait()

    def _share(self) -> float:
        course = self._course
        by_time = (self.sent.at_ms - course.from_ms) / (course.to_ms - course.from_ms) if self.sent.at_ms else 0.0
        by_count = self.sent.events / course.limit if course.limit else 0.0
        return min(1.0, max(by_time, by_count))

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch_lag(self) -> None:
        recent: deque[tuple[float, int]] = deque(maxlen=int(3 / POLL_S))
        async with self._watch:
            before = (time.monotonic(), 0)
            while True:
                await self._watch.look()
                now = (time.monotonic(), self._watch.processed)
                if self._held_to is None and not self._is_waiting and now[1]:
                    self.sent.free_seconds += now[0] - before[0]
                    self.sent.free_events += now[1] - before[1]
                before = now
                recent.append(now)
                span = recent[-1][0] - recent[0][0]
                rate = (recent[-1][1] - recent[0][1]) / span if span else 0.0
                lag = max(0, self.sent.events - self._watch.processed)
                self._show(
                    Progress(self._share(), self.sent.events, rate, lag, self.sent.at_ms, self._training),
                )
                await asyncio.sleep(POLL_S)

    async def _watch_monitor(self) -> None:
        """Retrain when the monitor asks for it, one version after the other."""
        course = self._course
        retraining: asyncio.Task[None] | None = None
        seen_ms = 0
        async with asyncio.TaskGroup() as tasks:
            while True:
                reported_ms = await asyncio.to_thread(self._find_reported)
                if (retraining is None or retraining.done()) and not self._is_all_sent:
                    wish = await self._find_wish() if len(self.sent.retrains) < course.most_retrains else None
                    if wish is not None:
                        retraining = tasks.create_task(self._retrain(*wish))
                        await asyncio.sleep(0)  # it says at once that it is under way
                # Alerts are looked for once a round: of a window that is reported now, surely by the next one.
                self._reported_ms, seen_ms = seen_ms, reported_ms
                await asyncio.sleep(POLL_S)

    async def _find_wish(self) -> tuple[int, str] | None:
        """Find a reason to retrain: the end of the window that it is about, and the reason in words."""
        at = self._course.retrain_at
        if at is not None and not self.sent.retrains and self.sent.events >= at:
            return self.sent.last_event_ms, f"asked for at {at:,} events"
        for alert in await asyncio.to_thread(self._find_alerts):
            return alert["end_ms"], alert["message"]
        return None

    def _find_reported(self) -> int:
        """Find the end of the newest window that the monitor has said everything about."""
        rows = self._monitor.query(
            "SELECT toUnixTimestamp64Milli(max(window_end)) AS end_ms FROM performance"  # noqa: S608  # names of our own
            f" WHERE pipeline = '{self._pipeline.name}' AND label_maturity IS NOT NULL"
        )
        return int(rows[0]["end_ms"])

    def _find_alerts(self) -> list[dict[str, Any]]:
        """Find alerts that want the present champion replaced; those of its predecessors have had their answer."""
        return self._monitor.query(
            "SELECT message, toUnixTimestamp64Milli(window_end) AS end_ms FROM alerts"  # noqa: S608  # names of our own
            f" WHERE pipeline = '{self._pipeline.name}' AND state = 'raised' AND action = 'retrain'"
            f" AND version = '{self._champion}' AND window_end IS NOT NULL ORDER BY end_ms LIMIT 1"
        )

    async def _follow_statuses(self) -> None:
        async for batch in follow(self._settings.kafka_access, self._pipeline.topics.model_status):
            for value in batch.values if batch is not None else ():
                with suppress(RefusedRecordError):
                    status = decode_json(value, ModelStatus)
                    if status.version is not None:
                        self._statuses[status.version, status.status] = status

    async def _wait_status(self, version: str, word: str) -> None:
        until = time.monotonic() + SWAP_DEADLINE_S
        while (version, word) not in self._statuses:
            refused = self._statuses.get((version, "refused"))
            if refused is not None:
                raise DemoError(f"The worker refused version {version}: {refused.why}")
            if time.monotonic() > until:
                logs = self._log_folder
                raise DemoError(f"Version {version} was not {word} within {SWAP_DEADLINE_S:g} s: see {logs}.")
            await asyncio.sleep(0.05)

    # -- retraining ----------------------------------------------------------------------------------------------------

    async def _retrain(self, end_ms: int, why: str) -> None:
        """Train on the last two closed months, release, wait for the swap; the stream goes on meanwhile, held."""
        course = self._course
        from_ms, to_ms = two_months_before(end_ms)
        span = f"{format_day(from_ms)} to {format_day(to_ms - 1)}"
        left = self.sent.events * (1 - self._share()) / max(self._share(), 1e-9)
        held_to = int(max(50, min(HELD_RATE, left / (1.5 * course.expected_training_s))))
        started_at, started_ms, began = self.sent.events, self.sent.at_ms, time.monotonic()
        self._expected_at = began + course.expected_training_s
        self._trained.clear()
        self._may_finish.clear()
        self._training = span
        self._held_to = held_to
        self._asked.set()
        self._say(f"Retraining on {span} ({why}); the stream goes on, held to {held_to:,} events/s meanwhile.")
        command = ModelCommand(
            ["train", "--family", course.family, "--from", format_day(from_ms), "--to", format_day(to_ms), "--promote"],
            str(self._pipeline.path),
            self._settings,
            self._log_folder / "training.log",
        )
        try:
            version = str((await asyncio.to_thread(command.wait))["version"])
            self._trained.set()  # what was kept back may go: the new version needs events to begin with
            await self._wait_status(version, "serving")
        finally:
            command.stop()
            self._training = ""
            self._held_to = None
            self._trained.set()
            self._may_finish.set()
        seconds = time.monotonic() - began
        self._champion = version
        self.sent.retrains.append(
            Retrain(version, from_ms, to_ms, why, seconds, started_at, started_ms, self.sent.events, held_to)
        )
        self._say(f"Version {version} took over after {seconds:.1f} s, in mid-stream; full speed again.")


class LagWatch:
    """How far the worker's group has come, by its committed offsets."""

    def __init__(self, pipeline: Pipeline, kafka: KafkaAccess) -> None:
        self.processed = 0
        self.labels_lag = 0
        self.events_lag = 0
        topics = pipeline.topics
        self._looked = asyncio.Event()
        self._group = worker_group(pipeline.name)
        self._kafka = kafka
        self._events = [TopicPartition(topics.sent_events, k) for k in range(topics.partitions)]
        self._labels = [TopicPartition(topics.sent_labels, k) for k in range(topics.partitions)]

    async def __aenter__(self) -> Self:
        # Made here, as they belong to the running event loop.
        self._admin = new_admin(self._kafka)
        self._consumer = new_consumer(self._kafka)
        await self._admin.start()
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def look(self) -> None:
        """Ask Kafka; sets what this object says."""
        committed = await self._admin.list_consumer_group_offsets(self._group)
        ends = await self._consumer.end_offsets(self._events + self._labels)
        at = {tp: max(0, commit.offset) for tp, commit in committed.items()}
        self.processed = sum(at.get(tp, 0) for tp in self._events)
        self.events_lag = sum(ends[tp] for tp in self._events) - self.processed
        self.labels_lag = sum(ends[tp] - at.get(tp, 0) for tp in self._labels)
        self._looked.set()
        self._looked = asyncio.Event()

    async def next_look(self) -> None:
        """Wait until what this object says is fresh."""
        await self._looked.wait()
