"""The shelf of a worker: follows the model-update topic, loads what it names, keeps the champions ready to score.

A version that is refused leaves the champions as they are, and the status topic says why. `models.versions.attempts`
decides when it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count

from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import follow
from app.core.scoring import ActiveModel, ChampionTimeline
from app.kafka_access import KafkaAccess
from app.worker.model_loader import ModelLoader
from app.worker.model_statuses import ModelStatuses
from app.worker.pace import clock_s
from models.reference.reference import Reference
from models.versions.attempts import Attempt, Attempts, Content, content_of
from models.versions.timeline import Timeline
from models.versions.trial import Trial
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelUpdate

log = logging.getLogger("streamgauge.models")

#: Versions that are tried at a time, so that one that takes long does not hold up the others.
_LANES = 2


class ModelShelf:
    """Keeps the champions of a pipeline loaded.

    Parameters
    ----------
    worker
        Name that this process signs its status records with.
    trial
        Tries the versions that are there at the start, and is closed after them; later versions have processes of their
        own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        kafka: KafkaAccess,
        worker: str,
        now_ms: Callable[[], int],
        trial: Trial | None = None,
    ) -> None:
        self.champions = ChampionTimeline()
        self.references: dict[str, Reference] = {}
        #: The refused records of all topics that this worker reads.
        self.refusals = Refusals()
        self.statuses = ModelStatuses(pipeline, kafka, worker, now_ms)
        self._pipeline = pipeline
        self._kafka = kafka
        self._loader = ModelLoader(pipeline, trial)
        self._timeline = Timeline()
        self._attempts = Attempts()
        self._loaded: dict[Content, ActiveModel] = {}
        #: What is to be tried: first what never was, the newest first, so that a thousand that are nowhere delay none.
        self._to_try: asyncio.PriorityQueue[tuple[bool, int, Attempt]] = asyncio.PriorityQueue()
        self._numbers = count()
        self._lanes: list[asyncio.Task[None]] = []
        self._following: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None

    async def start(self, changed: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Read the timeline up to now, then go on following it.

        Parameters
        ----------
        changed
            Called after each swap.
        failed
            Called with the reason when it can no longer be followed.
        """
        self._changed = changed
        await self.statuses.start()
        self._lanes = [asyncio.create_task(self._try_in_turn(), name=f"lane-{number}") for number in range(_LANES)]
        for lane in self._lanes:
            lane.add_done_callback(lambda task: self._on_end(task, failed))
        caught_up = asyncio.Event()
        self._following = asyncio.create_task(self._follow(caught_up), name="model-updates")
        self._following.add_done_callback(lambda task: self._on_end(task, failed))
        reached = asyncio.create_task(caught_up.wait())
        await asyncio.wait([reached, self._following], return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()

    async def stop(self) -> None:
        running = [*self._lanes, *([self._following] if self._following is not None else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._loader.end_trials()
        await self.statuses.stop()

    @staticmethod
    def _on_end(task: asyncio.Task[None], failed: Callable[[str], None]) -> None:
        """Say so when a task has failed: a worker that hears of no more models looks healthy."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Following the model updates failed", exc_info=error)
            failed(f"The model updates can be followed no longer: {error!r:.300}")

    async def _follow(self, caught_up: asyncio.Event) -> None:
        pending: list[ModelUpdate] = []
        async for batch in follow(self._kafka, self._pipeline.topics.model_updates):
            if batch is not None:
                pending.extend(update for _, update in self.refusals.decode(batch, ModelUpdate))
                if not caught_up.is_set():
                    continue
            # The updates before the first end belong together: a worker that starts does not score with the oldest.
            fresh, pending = pending, []
            for update in fresh:
                self._timeline.observe(update)
                self._attempts.announce(update)
            if fresh:
                # Versions that were rolled back are tried, too, after the champions: labels of their events will come.
                self._attempts.want([*self._timeline.announced, *self._timeline.champions])
                self._publish()
            self._try_what_is_due()
            await self.statuses.tell_the_rest()
            if not self._attempts.is_running:
                self._loader.end_trials()
            if not self._attempts.has_untried:  # a version that was refused may be tried again for ever
                caught_up.set()

    def _try_what_is_due(self) -> None:
        for attempt in self._attempts.due(self._loaded, clock_s()):
            attempt.is_running = True
            is_again, number = bool(attempt.why), next(self._numbers)
            self._to_try.put_nowait((is_again, number if is_again else -number, attempt))

    async def _try_in_turn(self) -> None:
        while True:
            *_, attempt = await self._to_try.get()
            await self._try(attempt)

    async def _try(self, attempt: Attempt) -> None:
        update = attempt.update
        if content_of(update) in self._loaded:  # from another place, meanwhile
            attempt.is_running = False
            return
        result = await self._loader.load(attempt)
        attempt.is_running = False
        if result is None:
            attempt.wait(clock_s())
        elif result.model is not None:
            self._loaded[content_of(update)] = result.model
            self.statuses.note(update, "loaded", result.why, result.seconds)
            self._publish()
        elif attempt.refuse(result.why, result.stamp, clock_s()):
            self.statuses.note(update, "refused", result.why, result.seconds)

    def _publish(self) -> None:
        """Swap the champions for what the timeline says and what is loaded."""
        self.references |= {version: model.reference for (_, version, _), model in self._loaded.items()}
        ready = [
            replace(model, valid_from_ms=update.valid_from_ms)
            for update in self._timeline.champions
            if (model := self._loaded.get(content_of(update))) is not None
        ]
        self.champions = ChampionTimeline(ready, self._pipeline.model.score_from_ms)
        self._changed()
