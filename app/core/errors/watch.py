"""The detectors of one version on its stream of errors, and what they find as drift reports."""

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

#: Between false alarms, however much the budget allows: a CUSUM needs room to tell a change from chance.
FEWEST_EVENTS = 1_000.0
#: The metric of the reports.
ERROR = "error"


def make_cusum(wanted: ErrorDetector, baseline: TrainingErrors) -> Detector:
    """Make the one detector that needs nothing but the core."""
    if wanted.detector != "cusum":
        raise ValueError(f"the core has no detector {wanted.detector!r}; whoever makes the monitor hands it in")
    return Cusum(baseline, learn=int(wanted.settings["learn"]))


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
        self, wanted: tuple[ErrorDetector, ...], baseline: TrainingErrors, make: Make, maturity_ms: int = 0
    ) -> None:
        self._maturity_ms = maturity_ms
        self._detectors = [_Watching(each.detector, _key(each), make(each, baseline)) for each in wanted]
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
        for each in self._detectors:
            for found in each.detector.observe(errors.wrong, errors.hours):
                position_ms = int(errors.times_ms[each.started + found.position - start])
                # What has changed are events, and when it is noticed depends on labels.
                change_ms = min(self._time_at(each.started + found.change), position_ms) - self._maturity_ms
                reports.append(_report(about, each.name, found, change_ms, position_ms))
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
            "detectors": {each.key: [each.started, each.detector.snapshot()] for each in self._detectors},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave; a detector that is new, or set otherwise, starts without a past."""
        self._seen, self._first = state["seen"], state["first"]
        self._times = np.frombuffer(b64decode(state["times"]), "<i8").astype(np.int64)
        for each in self._detectors:
            each.started = self._seen
            if each.key in state["detectors"]:
                each.started, saved = state["detectors"][each.key]
                each.detector.restore(saved)


def _key(wanted: ErrorDetector) -> str:
    return json.dumps([wanted.detector, wanted.settings], sort_keys=True)


def _report(about: Subject, test: str, found: Detection, change_ms: int, position_ms: int) -> DriftReport:
    now, before = found.rate_since, found.rate_before
    since = str(np.datetime64(change_ms, "ms").astype("M8[D]"))
    was, is_ = number_pair(100 * before, 100 * now)
    words = f"the decisions are wrong in {is_} % of {found.n_since} cases since {since}, {was} % before"
    verdict = DriftResult(
        statistic=found.statistic,
        p_value=None,
        threshold=found.threshold,
        effect=now - before,
        signal="DRIFT" if found.rose else "NONE",
        note=words if found.rose else f"{words}: fewer than before, from here on compared with the new rate",
    )
    (report,) = replace(about, window=Window(change_ms, position_ms)).reports(
        [Judgement(ALL, ERROR, test, found.n_before, found.n_since, verdict)]
    )
    return report
