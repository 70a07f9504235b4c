"""Sends the year as fast as the worker takes it, and has the model retrained when the monitor asks for it.

The source could run ahead of the worker by minutes; the lag is bounded, so that memory is, and so that an alert is
about what was sent just now. While a version is being trained it is held to a fixed rate (`app.demo.retrainer`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError

from app.adapters.http.client import MonitorClient, MonitorError
from app.adapters.kafka.event_producer import EventProducer
from app.adapters.sources.source import EVENT, EncodedRecord, SourceError, read_source
from app.clock import wall_clock_ms
from app.core.counts.calendar import Calendar
from app.demo.course import Course, DemoError, Progress, Sent
from app.demo.lag_watch import LagWatch
from app.demo.retrainer import Retrainer
from app.demo.training import TrainingFailedError
from app.exits import StackError
from app.settings import Settings
from schemas.pipeline.spec import Pipeline

#: How far the stream may be ahead of the worker, in events.
MOST_LAG = 20_000
#: Event time between two promises to all partitions, so that one without events holds no window back.
PROMISE_EVERY_MS = 2 * 86_400_000
#: How far past the maturity of a window the stream goes before the monitor has reported it: months pass in seconds,
#: and an alert should find the stream near what it is about.
MOST_LEAD_MS = 7 * 86_400_000
#: Records sent at a time; few while the stream is held, to hold it smoothly.
PIECE, HELD_PIECE = 4_000, 500
POLL_S = 0.25


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
        self._show = show
        self._watch = LagWatch(pipeline, settings.kafka_access)
        self._retrainer = Retrainer(pipeline, settings, course, self.sent, log_folder, say=say)
        self._is_all_sent = False
        self._promised_ms = course.from_ms
        self._reported_ms = 0
        self._is_waiting = False
        self._calendar = Calendar.parse(pipeline.drift.window, pipeline.drift.slice_ms)

    async def run(self, champion: str) -> Sent:
        """Stream everything; returns when all is sent and no training is under way. ``champion``: who scores first."""
        self._retrainer.champion = champion
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [
                    tasks.create_task(self._retrainer.follow_statuses()),
                    tasks.create_task(self._watch_lag()),
                    tasks.create_task(self._watch_monitor()),
                ]
                await self._retrainer.wait_status(champion, "loaded")
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
                    piece = chunk[start : start + (PIECE if self._retrainer.held_to is None else HELD_PIECE)]
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
            await self._retrainer.may_finish.wait()
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
            await self._retrainer.asked.wait()  # a short stream would be over before anyone saw that it has come so far
        await self._retrainer.hold_back(sum(record.kind == EVENT for record in piece))

    # -- watching ------------------------------------------------------------------------------------------------------

    async def _watch_lag(self) -> None:
        recent: deque[tuple[float, int]] = deque(maxlen=int(3 / POLL_S))
        async with self._watch:
            before = (time.monotonic(), 0)
            while True:
                await self._watch.look()
                state = (time.monotonic(), self._watch.processed)
                if self._retrainer.held_to is None and not self._is_waiting and state[1]:
                    self.sent.free_seconds += state[0] - before[0]
                    self.sent.free_events += state[1] - before[1]
                before = state
                recent.append(state)
                span = recent[-1][0] - recent[0][0]
                rate = (recent[-1][1] - recent[0][1]) / span if span else 0.0
                lag = max(0, self.sent.events - self._watch.processed)
                self._show(
                    Progress(
                        self.sent.share_of(self._course),
                        self.sent.events,
                        rate,
                        lag,
                        self.sent.at_ms,
                        self._retrainer.training,
                    ),
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
                        retraining = tasks.create_task(self._retrainer.retrain(*wish))
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
            f" AND version = '{self._retrainer.champion}' AND window_end IS NOT NULL ORDER BY end_ms LIMIT 1"
        )
