"""Runs the detectors of one version on its stream of errors, and reports what they find."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.drift.budget import OF_ERRORS
from app.core.drift.judgement import DriftResult, Judgement
from app.core.errors.cusum import Cusum
from app.core.errors.detectors import HourlyRate, TrainingErrors
from app.core.verdict.words import number_pair

if TYPE_CHECKING:
    from app.core.batches import Ints
    from app.core.errors.detectors import Detection, Detector, Make
    from app.core.errors.stream import Errors
    from app.core.findings import Subject
    from models.reference.reference import Reference
    from schemas.pipeline.spec import Drift, ErrorDetector
    from schemas.wire import DriftReport

#: When a change happened is known to within this number of events …
_STRIDE = 16
#: … but no further back than this many times that number.
_MARKS = 4_096

#: The fewest events between false alarms, whatever the budget allows: a CUSUM needs room to tell a change from chance.
FEWEST_EVENTS = 1_000.0
#: The metric of the reports.
ERROR = "error"


def make_cusum(wanted: ErrorDetector, training: TrainingErrors) -> Detector:
    """Make the one detector that needs nothing but the core."""
    if wanted.detector != "cusum":
        raise ValueError(f"the core has no detector {wanted.detector!r}; whoever makes the monitor hands it in")
    return Cusum(training, learn=int(wanted.settings["learn"]))


def training_errors_of(reference: Reference, training: Window, drift: Drift) -> TrainingErrors:
    """What training says of the error rate, and the events between false alarms that the budget allows.

    Four tenths of the budget are for sequential detectors. Where it is per time, labels are taken to come as often as
    in training; when that has no times, its labels stand for one such period. Errors may come in bursts that labels do
    not show, and one training set shows less than all of their own: the larger of both design effects counts.
    """
    n = reference.training.n_labels
    budget = drift.false_alarms
    if budget.per_events is not None:
        events = float(budget.per_events)
    else:
        assert budget.per_ms is not None
        length_ms = training.end_ms - training.start_ms
        events = n * budget.per_ms / length_ms if length_ms > 0 else float(n)
    arl = max(events / (budget.number * OF_ERRORS), FEWEST_EVENTS)
    errors = reference.errors
    effect = max(float(reference.design_effects[-1]), errors.effect)
    hourly = HourlyRate(errors.events, errors.log_odds) if errors.differ else None
    return TrainingErrors(n, n - reference.training.n_correct, arl, effect, hourly)


@dataclass(eq=False)
class _Watching:
    """A detector, and the number of the first event that it saw."""

    name: str
    key: str
    detector: Detector
    started: int = 0


class ErrorWatch:
    """The detectors of one version.

    Parameters
    ----------
    wanted
        What the pipeline file asks for.
    make
        Makes each.
    maturity_ms
        An error counts this long after its event, or when its label comes, if that is later.
    """

    def __init__(
        self, wanted: tuple[ErrorDetector, ...], training: TrainingErrors, make: Make, maturity_ms: int = 0
    ) -> None:
        self._maturity_ms = maturity_ms
        self._detectors = [
            _Watching(detector.detector, _key(detector), make(detector, training)) for detector in wanted
        ]
        self._seen = 0
        self._times: Ints = np.zeros(0, np.int64)  # of every `_STRIDE`-th event
        self._first = 0

    def observe(self, errors: Errors, about: Subject) -> list[DriftReport]:
        """Take the next errors; ``about`` says whose reports these are."""
        if not len(errors.wrong):
            return []
        start = self._seen
        self._seen += len(errors.wrong)
        marked = errors.times_ms[-start % _STRIDE :: _STRIDE]
        self._times = np.append(self._times, marked)
        reports = []
        for watching in self._detectors:
            for detection in watching.detector.observe(errors.wrong, errors.hours):
                position_ms = int(errors.times_ms[watching.started + detection.position - start])
                # The change is one of events; labels only decide when it is noticed.
                change_ms = min(self._time_at(watching.started + detection.change), position_ms) - self._maturity_ms
                reports.append(_report(about, watching.name, detection, change_ms, position_ms))
        surplus = len(self._times) - _MARKS
        if surplus > 0:
            self._times, self._first = self._times[surplus:], self._first + surplus
        return reports

    def _time_at(self, event: int) -> int:
        return int(self._times[max(event // _STRIDE - self._first, 0)])

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as values that JSON keeps."""
        return {
            "seen": self._seen,
            "first": self._first,
            "times": b64encode(self._times.astype("<i8").tobytes()).decode(),
            "detectors": {
                watching.key: [watching.started, watching.detector.snapshot()] for watching in self._detectors
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave; a detector that is new, or set otherwise, starts without a past."""
        self._seen, self._first = state["seen"], state["first"]
        self._times = np.frombuffer(b64decode(state["times"]), "<i8").astype(np.int64)
        for watching in self._detectors:
            watching.started = self._seen
            if watching.key in state["detectors"]:
                watching.started, saved = state["detectors"][watching.key]
                watching.detector.restore(saved)


def _key(wanted: ErrorDetector) -> str:
    return json.dumps([wanted.detector, wanted.settings], sort_keys=True)


def _report(about: Subject, test: str, detection: Detection, change_ms: int, position_ms: int) -> DriftReport:
    since_change, before_change = detection.rate_since, detection.rate_before
    since = str(np.datetime64(change_ms, "ms").astype("M8[D]"))
    was, is_ = number_pair(100 * before_change, 100 * since_change)
    words = f"the decisions are wrong in {is_} % of {detection.n_since} cases since {since}, {was} % before"
    verdict = DriftResult(
        statistic=detection.statistic,
        p_value=None,
        threshold=detection.threshold,
        effect=since_change - before_change,
        signal="DRIFT" if detection.rose else "NONE",
        note=words if detection.rose else f"{words}: fewer than before, from here on compared with the new rate",
    )
    (report,) = replace(about, window=Window(change_ms, position_ms)).reports(
        [Judgement(ALL, ERROR, test, detection.n_before, detection.n_since, verdict)]
    )
    return report
