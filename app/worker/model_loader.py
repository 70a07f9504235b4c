"""Loads one model version: reads it, verifies it and warms it up, beside the event loop and with a limit of time."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass

from app.adapters.own_thread import run_apart
from app.core.scoring import ActiveModel
from models.versions.attempts import Attempt
from models.versions.manifest import ManifestError
from models.versions.registry import RegistryError, Stamp, find, stamp_of
from models.versions.trial import Trial
from models.versions.verify import Expected, RefusedModelError, verify
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelUpdate

log = logging.getLogger("streamgauge.models")

#: Reading, trying and warming up a version take no longer: the trial alone may take a minute (`models.versions.trial`).
VERIFY_S = 180.0
#: Reasons that say nothing about the version: it may be tried again as it is.
_PASSING = frozenset({"no_trial"})


@dataclass(frozen=True)
class LoadResult:
    """A loaded model, or why it was refused.

    ``stamp``: of files that need not be tried again; None: trying again may help.
    """

    model: ActiveModel | None
    why: str = ""
    seconds: float = 0.0
    stamp: Stamp | None = None


class _Lane:
    """One verification and the process that it runs in, which ends with it when it takes too long."""

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


class ModelLoader:
    """Loads versions for one pipeline, several at a time if asked.

    Parameters
    ----------
    trial
        The process that the first version is tried in; where none is idle, one is started.
    """

    def __init__(self, pipeline: Pipeline, trial: Trial | None) -> None:
        self._pipeline = pipeline
        #: Processes to try in, started and idle: their start takes seconds.
        self._idle_trials = [trial] if trial is not None else []

    def end_trials(self) -> None:
        """End the processes that are idle."""
        while self._idle_trials:
            self._idle_trials.pop().close()

    async def load(self, attempt: Attempt) -> LoadResult | None:
        """Load an announced version; whatever happens concerns this version alone.

        None: the files are those that were refused.
        """
        update = attempt.update
        lane = _Lane(self._idle_trials.pop() if self._idle_trials else None)
        result: LoadResult | None
        try:
            result = await run_apart(lambda: self._look(attempt, lane), VERIFY_S, f"model-{update.version}")
        except TimeoutError:
            lane.give_up()
            attempt.given_up = lane.has_ended
            words = f"timeout: It could not be read and verified within {VERIFY_S:g} s; does its folder answer?"
            result = LoadResult(None, words, VERIFY_S)
        except asyncio.CancelledError:
            lane.give_up()
            raise
        except Exception as error:
            lane.give_up()
            log.exception("Verifying %s %s failed", update.model, update.version)
            result = LoadResult(None, f"error: It could not be verified: {error!r:.300}.")
        else:
            if lane.trial is not None and lane.trial.is_alive:
                self._idle_trials.append(lane.trial)
            else:
                lane.give_up()
        return result

    def _look(self, attempt: Attempt, lane: _Lane) -> LoadResult | None:
        """Called in a thread. None: the files are those that were refused."""
        try:
            stamp = stamp_of(attempt.update.uri)
            if attempt.stamp is not None and stamp == attempt.stamp:
                return None
            if not attempt.why and (why := attempt.refused.get(stamp)):
                return LoadResult(None, why, stamp=stamp)
            return self._verify(attempt.update, stamp, lane)
        finally:
            lane.has_ended.set()

    def _verify(self, update: ModelUpdate, stamp: Stamp, lane: _Lane) -> LoadResult:
        """Verify a version; ``stamp``: of its files, as they were before they are read."""
        started = time.monotonic()
        expected = Expected(
            self._pipeline.feature_set, self._pipeline.feature_names, (update.model, update.version), update.sha256
        )
        try:
            entry = find(update.uri)
            manifest = entry.manifest
            # Before the artifact is read: an announcement may name the files of another version.
            expected.check(manifest)
            verified = verify(manifest, entry.read_artifact(), expected, trial=lane.open())
            model = ActiveModel.champion(self._pipeline, manifest, verified.scorer)
        except RegistryError as error:
            return LoadResult(None, str(error), time.monotonic() - started)
        except RefusedModelError as error:
            lasting = None if error.reason in _PASSING else stamp
            return LoadResult(None, str(error), time.monotonic() - started, lasting)
        except ManifestError as error:
            return LoadResult(None, f"reference: {error}", time.monotonic() - started, stamp)
        return LoadResult(model, seconds=time.monotonic() - started)
