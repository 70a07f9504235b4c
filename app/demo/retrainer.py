"""Has a new version trained and promoted in mid-stream, and waits until it scores.

While it is being trained the stream goes on but is held to a fixed rate: at full speed the year would be over before
the training is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.adapters.kafka.topic_reader import follow
from app.demo.course import Course, DemoError, Retrain, Sent
from app.demo.training import ModelCommand, format_day, two_months_before
from app.settings import Settings
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.wire import ModelStatus, decode_json

#: Events a second at most while a version is being trained: some three weeks of flights pass by in that time.
HELD_RATE = 1_500
#: Share of the stream that is kept back until a training under way has ended, so that its version still has work.
RESERVE = 0.1
SWAP_DEADLINE_S = 60.0


class Retrainer:
    """The versions of one demo: which one scores, and the one that is being trained.

    Parameters
    ----------
    sent
        What has been sent; each new version is noted there.
    say
        Is told what a person should know, in sentences.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Settings,
        course: Course,
        sent: Sent,
        log_folder: Path,
        *,
        say: Callable[[str], None],
    ) -> None:
        self._pipeline = pipeline
        self._settings = settings
        self._course = course
        self._sent = sent
        self._log_folder = log_folder
        self._say = say
        self._statuses: dict[tuple[str, str], ModelStatus] = {}
        #: Who scores.
        self.champion = ""
        #: What is being trained on, in words; "": nothing is.
        self.training = ""
        #: Events a second that the stream is held to; None: nothing holds it.
        self.held_to: int | None = None
        self._expected_at = 0.0
        self._next_at = 0.0
        #: Set once a first training has begun.
        self.asked = asyncio.Event()
        self._trained = asyncio.Event()
        #: Set while no training is under way, or its version has taken over.
        self.may_finish = asyncio.Event()
        self._trained.set()
        self.may_finish.set()

    async def follow_statuses(self) -> None:
        """Read what workers say of versions, for ever."""
        async for batch in follow(self._settings.kafka_access, self._pipeline.topics.model_status):
            for value in batch.values if batch is not None else ():
                with suppress(RefusedRecordError):
                    status = decode_json(value, ModelStatus)
                    if status.version is not None:
                        self._statuses[status.version, status.status] = status

    async def wait_status(self, version: str, word: str) -> None:
        """Wait until a worker says so of a version; DemoError when it refuses it or says nothing."""
        until = time.monotonic() + SWAP_DEADLINE_S
        while (version, word) not in self._statuses:
            refused = self._statuses.get((version, "refused"))
            if refused is not None:
                raise DemoError(f"The worker refused version {version}: {refused.why}")
            if time.monotonic() > until:
                logs = self._log_folder
                raise DemoError(f"Version {version} was not {word} within {SWAP_DEADLINE_S:g} s: see {logs}.")
            await asyncio.sleep(0.05)

    async def hold_back(self, events: int) -> None:
        """Wait until so many more events may go; at once when nothing is being trained."""
        held_to = self.held_to
        if held_to is None:
            return
        now_s = time.monotonic()
        if now_s > self._expected_at:  # a slow training should not find the year over either
            held_to = max(50, held_to // 4)
        # Sending takes its time too; what it took is not waited for again.
        self._next_at = max(self._next_at, now_s - 0.5) + events / held_to
        await asyncio.sleep(self._next_at - now_s)
        if self._sent.share_of(self._course) > 1 - RESERVE:
            await self._trained.wait()

    async def retrain(self, end_ms: int, why: str) -> None:
        """Train on the last two closed months, promote, wait for the swap; the stream goes on meanwhile, held."""
        course, sent = self._course, self._sent
        from_ms, to_ms = two_months_before(end_ms)
        span = f"{format_day(from_ms)} to {format_day(to_ms - 1)}"
        share = sent.share_of(course)
        left = sent.events * (1 - share) / max(share, 1e-9)
        held_to = int(max(50, min(HELD_RATE, left / (1.5 * course.expected_training_s))))
        started_at, started_ms, began = sent.events, sent.at_ms, time.monotonic()
        self._expected_at = began + course.expected_training_s
        self._trained.clear()
        self.may_finish.clear()
        self.training, self.held_to = span, held_to
        self.asked.set()
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
            await self.wait_status(version, "serving")
        finally:
            command.stop()
            self.training, self.held_to = "", None
            self._trained.set()
            self.may_finish.set()
        seconds = time.monotonic() - began
        self.champion = version
        sent.retrains.append(
            Retrain(version, from_ms, to_ms, why, seconds, started_at, started_ms, sent.events, held_to)
        )
        self._say(f"Version {version} took over after {seconds:.1f} s, in mid-stream; full speed again.")
