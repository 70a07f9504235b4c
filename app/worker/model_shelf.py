"""The shelf of a worker: follows the model-update topic, verifies what it names, keeps the champions ready to score.

Reading, checking and warming up happen in threads, beside the event loop and with a limit of time; what is refused
leaves the champions as they are, and the status topic says why. When it is tried again: `models.versions.attempts`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_producer
from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import follow
from app.adapters.own_thread import run_apart
from app.core.scoring import ActiveModel, ChampionTimeline
from app.kafka_access import KafkaAccess
from models.reference.reference import Reference
from models.versions.attempts import Attempt, Attempts, Content, content_of
from models.versions.manifest import ManifestError
from models.versions.registry import RegistryError, Stamp, find, stamp_of
from models.versions.timeline import Timeline
from models.versions.trial import Trial
from models.versions.verify import Expected, RefusedModelError, verify
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelStatus, ModelUpdate, encode_json

log = logging.getLogger("streamgauge.models")

#: Reading, trying and warming up a version take no longer: the trial alone may take a minute (`models.versions.trial`).
VERIFY_S = 180.0
#: Versions that are tried at a time: one that takes long holds up none behind it.
_LANES = 2
#: Refusals that say nothing of the version: it may be tried again as it is.
_PASSING = frozenset({"no_trial"})


@dataclass(frozen=True)
class _Verdict:
    """``stamp``: of files that need not be tried again; None: trying again may help."""

    model: ActiveModel | None
    why: str = ""
    seconds: float = 0.0
    stamp: Stamp | None = None


class _Lane:
    """One verification: the process that it tries in, so that who gives it up can end that."""

    def __init__(self, trial: Trial | None) -> None:
        self.trial = trial
        self.has_ended = threading.Event()
        self._is_over = False

    def open(self) -> Trial:
        self.trial = self.trial or Trial()
        if self._is_over:  # given up while it started
            self.trial.close()
        return self.trial

    def give_up(self) -> None:
        self._is_over = True
        if self.trial is not None:
            self.trial.close()


class ModelShelf:
    """Keeps the champions of a pipeline loaded.

    Parameters
    ----------
    worker
        Name that this process signs its status records with.
    trial
        Tries the versions that are there at the start, and is closed after them; later ones have their own.
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
        #: Records that are none of ours, of all topics that this worker reads.
        self.refusals = Refusals()
        self._pipeline = pipeline
        self._kafka = kafka
        self._worker = worker
        self._now_ms = now_ms
        self._timeline = Timeline()
        self._attempts = Attempts()
        self._loaded: dict[Content, ActiveModel] = {}
        #: What is to be tried: first what never was, from the last on: a thousand that are nowhere hold up none.
        self._to_try: asyncio.PriorityQueue[tuple[bool, int, Attempt]] = asyncio.PriorityQueue()
        self._numbers = count()
        self._lanes: list[asyncio.Task[None]] = []
        #: Processes to try in, started and idle: their start takes seconds.
        self._idle_trials = [trial] if trial is not None else []
        self._untold: list[ModelStatus] = []
        self._producer: AIOKafkaProducer | None = None
        self._following: asyncio.Task[None] | None = None
        self._changed: Callable[[], None] = lambda: None

    async def start(self, changed: Callable[[], None], failed: Callable[[str], None]) -> None:
        """Read the timeline up to now, then go on following it.

        Parameters
        ----------
        changed
            Called after each swap.
        failed
            Called with the reason when it can be followed no longer.
        """
        self._changed = changed
        self._producer = new_producer(self._kafka)
        await self._producer.start()
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
        self._end_trials()
        if self._producer is not None:
            await self._producer.stop()

    async def tell_serving(self, version: str, partition: int, offset: int) -> None:
        """Say on the status topic where a version scored its first event of a partition."""
        await self._tell(self._status(version, "serving", partition=partition, offset=offset))

    def describe_beginning(self, partition: int, offset: int, label_offset: int | None) -> bytes:
        """A record for the status topic: where a partition begins of which nothing was processed before."""
        about = {"partition": partition, "offset": offset, "label_offset": label_offset}
        return encode_json(self._status(None, "began", **about))

    @staticmethod
    def _on_end(task: asyncio.Task[None], failed: Callable[[str], None]) -> None:
        """A worker that hears of no models any more looks as if all were well."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("Following the model updates failed", exc_info=error)
            failed(f"The model updates can be followed no longer: {error!r:.300}")

    def _end_trials(self) -> None:
        while self._idle_trials:
            self._idle_trials.pop().close()

    async def _follow(self, caught_up: asyncio.Event) -> None:
        pending: list[ModelUpdate] = []
        async for batch in follow(self._kafka, self._pipeline.topics.model_updates):
            if batch is not None:
                pending.extend(update for _, update in self.refusals.decode(batch, ModelUpdate))
                if not caught_up.is_set():
                    continue
            # Up to the first end they belong together: who reads them anew does not score with the first of them.
            fresh, pending = pending, []
            for update in fresh:
                self._timeline.observe(update)
                self._attempts.announce(update)
            if fresh:
                # Who was rolled back is tried, too, after the champions: labels of what it scored are to come.
                self._attempts.want([*self._timeline.announced, *self._timeline.champions])
                self._publish()
            self._try_what_is_due()
            await self._tell_the_rest()
            if not self._attempts.is_running:
                self._end_trials()
            if not self._attempts.has_untried:  # what is tried again may be tried for ever
                caught_up.set()

    # -- trying --------------------------------------------------------------------------------------------------------

    def _try_what_is_due(self) -> None:
        for attempt in self._attempts.due(self._loaded, _now()):
            attempt.is_running = True
            is_again, number = bool(attempt.why), next(self._numbers)
            self._to_try.put_nowait((is_again, number if is_again else -number, attempt))

    async def _try_in_turn(self) -> None:
        while True:
            *_, attempt = await self._to_try.get()
            await self._try(attempt)

    async def _try(self, attempt: Attempt) -> None:
        """Verify a version; whatever happens, it is a verdict about this version alone."""
        update = attempt.update
        if content_of(update) in self._loaded:  # from another place, meanwhile
            attempt.is_running = False
            return
        lane = _Lane(self._idle_trials.pop() if self._idle_trials else None)
        verdict: _Verdict | None
        try:
            verdict = await run_apart(lambda: self._look(attempt, lane), VERIFY_S, f"model-{update.version}")
        except TimeoutError:
            lane.give_up()
            attempt.given_up = lane.has_ended
            words = f"timeout: It could not be read and verified within {VERIFY_S:g} s; does its folder answer?"
            verdict = _Verdict(None, words, VERIFY_S)
        except asyncio.CancelledError:
            lane.give_up()
            raise
        except Exception as error:
            lane.give_up()
            log.exception("Verifying %s %s failed", update.model, update.version)
            verdict = _Verdict(None, f"error: It could not be verified: {error!r:.300}.")
        else:
            if lane.trial is not None and lane.trial.is_alive:
                self._idle_trials.append(lane.trial)
            else:
                lane.give_up()
        attempt.is_running = False
        if verdict is None:
            attempt.wait(_now())
        elif verdict.model is not None:
            self._loaded[content_of(update)] = verdict.model
            self._note(update, "loaded", verdict)
            self._publish()
        elif attempt.refuse(verdict.why, verdict.stamp, _now()):
            self._note(update, "refused", verdict)

    def _look(self, attempt: Attempt, lane: _Lane) -> _Verdict | None:
        """Called in a thread. None: the files are those that were refused."""
        try:
            stamp = stamp_of(attempt.update.uri)
            if attempt.stamp is not None and stamp == attempt.stamp:
                return None
            if not attempt.why and (why := attempt.refused.get(stamp)):
                return _Verdict(None, why, stamp=stamp)
            return self._verify(attempt.update, lane)
        finally:
            lane.has_ended.set()

    def _verify(self, update: ModelUpdate, lane: _Lane) -> _Verdict:
        started = time.monotonic()
        stamp = stamp_of(update.uri)
        expected = Expected(
            self._pipeline.feature_set, self._pipeline.feature_names, (update.model, update.version), update.sha256
        )
        try:
            entry = find(update.uri)
            manifest = entry.manifest
            # First, as an announcement may name the files of any version: their artifact is not even read.
            expected.check(manifest)
            verified = verify(manifest, entry.read_artifact(), expected, trial=lane.open())
            reference = manifest.read_reference()
        except RegistryError as error:
            return _Verdict(None, str(error), time.monotonic() - started)
        except RefusedModelError as error:
            lasting = None if error.reason in _PASSING else stamp
            return _Verdict(None, str(error), time.monotonic() - started, lasting)
        except ManifestError as error:
            return _Verdict(None, f"reference: {error}", time.monotonic() - started, stamp)
        model = ActiveModel(
            model=update.model,
            version=update.version,
            role="champion",
            feature_set=manifest.feature_set,
            threshold=self._pipeline.model.threshold,
            scorer=verified.scorer,
            reference=reference,
        )
        return _Verdict(model, seconds=time.monotonic() - started)

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

    # -- telling -------------------------------------------------------------------------------------------------------

    def _note(self, update: ModelUpdate, status: str, verdict: _Verdict) -> None:
        log.info("Model %s %s %s %s", update.model, update.version, status, verdict.why)
        record = self._status(
            update.version,
            status,
            why=verdict.why[:2_000],
            seconds=verdict.seconds,
            uri=update.uri,
            sha256=update.sha256,
        )
        self._untold.append(record)

    async def _tell_the_rest(self) -> None:
        """Tell all at once, in their order: each would wait for the answer to the one before it."""
        telling, self._untold = self._untold, []
        answers = await asyncio.gather(*map(self._tell, telling), return_exceptions=True)
        failed = {place: answer for place, answer in enumerate(answers) if isinstance(answer, BaseException)}
        self._untold[:0] = [telling[place] for place in failed]
        for error in failed.values():
            if not isinstance(error, KafkaError):
                raise error
        if failed:
            log.warning("What became of %d versions cannot be told now: %r", len(failed), next(iter(failed.values())))

    def _status(self, version: str | None, status: str, **about: object) -> ModelStatus:
        return ModelStatus(
            worker=self._worker,
            model=self._pipeline.model.name,
            version=version,
            status=status,  # type: ignore[arg-type]  # one of the words of the contract
            at_ms=self._now_ms(),
            **about,  # type: ignore[arg-type]  # fields of the record
        )

    async def _tell(self, record: ModelStatus) -> None:
        if self._producer is not None:
            topic = self._pipeline.topics.model_status
            await self._producer.send_and_wait(topic, encode_json(record), key=self._worker.encode())


def _now() -> float:
    return asyncio.get_running_loop().time()
