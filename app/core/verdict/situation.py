"""What a verdict is about: everything that is known of one window of one model version."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.core.drift.silences import NOTHING_SILENT, Silence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.core.faults.fault import Fault
    from app.core.verdict.attribution import Share
    from app.core.verdict.words import Change


@dataclass(frozen=True)
class SegmentChange:
    """A metric that has signalled in a segment ("origin=EWR"): how far it moved there, on how many events.

    ``times``: how many times as far as over all events, whether these have signalled or not.
    """

    segment: str
    metric: str
    effect: float
    n: int
    times: float = math.inf


@dataclass(frozen=True)
class Predecessor:
    """The version that scored before a new one, and how well.

    ``value``: of the measure of performance that it stands beside, on its own events. ``p_value``: of so large a
    difference if both are as good; NaN where that is not known. ``windows_ago``: in which window; 0: in the same.
    """

    version: str
    value: float
    p_value: float
    windows_ago: int


@dataclass(frozen=True)
class Performance:
    """A measure of performance (higher is better) in the window, and what is asked of it.

    ``is_realised``: by labels that are here; else it is estimated. ``expected``: what the scores of those labelled
    events promise; NaN where there are none. ``least``: the loss against that from which it matters. ``is_worse``:
    whether a loss that matters is sure, as alerts on what scores promise ask. ``limit``: the
    value below which somebody wants to be told; NaN: nobody does. ``predecessor``: None where the version is not so new
    that it can be rolled back, or nothing is known of one before.
    """

    measure: str
    value: float
    limit: float = math.nan
    predecessor: Predecessor | None = None
    expected: float = math.nan
    least: float = 0.0
    is_realised: bool = True
    is_worse: bool = False

    @property
    def is_below_limit(self) -> bool:
        return self.value < self.limit

    @property
    def loss(self) -> float:
        """How far it is below what the scores promise; NaN where that is not known."""
        return self.expected - self.value if self.is_realised else math.nan


@dataclass(frozen=True)
class Misfit:
    """What labels say against the scores of a window, or of a segment of it: tests, and how much it is worth.

    Parameters
    ----------
    p_direction, gap
        Are there as many positives as the scores say? The gap of the rates, in deviations of one outcome.
    rate_expected, rate_realised
        The share of positives as the scores say, and as it came.
    p_order, losses
        Do the scores tell outcomes apart as well as they promise? By measure of performance, what is lost, in units of
        the least loss that matters.
    p_shape, effect
        Are the odds as they were but for one factor? How far the rates are from that, in deviations of one outcome.
    segment
        "": of all events.
    n
        Labelled events.
    """

    p_direction: float = math.nan
    gap: float = 0.0
    rate_expected: float = math.nan
    rate_realised: float = math.nan
    p_order: float = math.nan
    losses: Mapping[str, float] = field(default_factory=dict)
    p_shape: float = math.nan
    effect: float = 0.0
    segment: str = ""
    n: int = 0

    @property
    def p_least(self) -> float:
        """The smallest p-value of order and direction; 1 where nothing is known."""
        return min((p for p in (self.p_order, self.p_direction) if not math.isnan(p)), default=1.0)

    @property
    def loses(self) -> bool:
        """Whether a measure has lost what matters."""
        return any(loss >= 1 for loss in self.losses.values())


@dataclass(frozen=True)
class ScoreChange:
    """The mean score in training and in the window, and what explains the change; NaN and empty: unknown.

    ``attribution``: of `app.core.verdict.attribution.attribute`.
    """

    reference: float = math.nan
    detection: float = math.nan
    attribution: tuple[Share, ...] = ()


@dataclass(frozen=True)
class RateChange:
    """The share of positive labels in training and in the window; NaN: unknown.

    ``p_value``: of the test that the share is training's.
    """

    reference: float = math.nan
    detection: float = math.nan
    p_value: float = math.nan

    @property
    def change(self) -> float:
        return self.detection - self.reference


@dataclass(frozen=True)
class Thresholds:
    """What is asked of a window before something is said of it.

    Parameters
    ----------
    alpha
        What the window may spend on what it asks of labels, and, by itself, on the comparison with the predecessor.
    rate
        The smallest change of the rate of positives that matters, relative to that of training.
    calibration
        The smallest gap between the rate of positives and what scores say that matters, in deviations of one outcome,
        the root of p (1 - p).
    fewest
        Events below which nothing is judged.
    """

    alpha: float = 0.001
    rate: float = 0.1
    calibration: float = 0.05
    fewest: int = 200


_THRESHOLDS = Thresholds()
_NO_SCORES = ScoreChange()
_NO_RATE = RateChange()

#: What of the alpha each question to the labels may spend: order, shape, direction and rate each, all segments
#: together; and what of a segment's the order.
_OF_ORDER, _OF_SHAPE, _OF_RATES, _OF_SEGMENTS = 0.5, 0.05, 0.1, 0.25
_ORDER_OF_SEGMENT = 0.7
#: The probability that a segment that is like the others is named for what is sure of all events.
_TO_NAME = 0.01


@dataclass(frozen=True)
class Situation:
    """What is known of one window of one model version. NaN and empty: unknown.

    Parameters
    ----------
    n, n_reference
        Events of the window and of training.
    changes
        The metrics that have signalled over all events, features, "score" and "outcome".
    segments
        What has signalled in segments.
    faults
        Of `app.core.faults.find.FaultFinder`, the strongest first.
    score
        The mean score, and what has moved it.
    misfit
        What labels say against the scores; None: nothing is known.
    misfits
        The same of each segment.
    rate
        The share of positive labels.
    thresholds
        What is asked before something is said.
    performance
        Where it is known or estimated.
    events
        What an event is called, in the plural.
    silence
        What is not compared.
    awaits_labels
        Whether labels will come that nothing is known of yet.
    """

    n: int
    n_reference: int
    changes: tuple[Change, ...] = ()
    segments: tuple[SegmentChange, ...] = ()
    faults: tuple[Fault, ...] = ()
    score: ScoreChange = _NO_SCORES
    misfit: Misfit | None = None
    misfits: tuple[Misfit, ...] = ()
    rate: RateChange = _NO_RATE
    thresholds: Thresholds = _THRESHOLDS
    performance: Performance | None = None
    events: str = "events"
    silence: Silence = NOTHING_SILENT
    awaits_labels: bool = False

    def change(self, metric: str) -> Change | None:
        return next((change for change in self.changes if change.metric == metric), None)

    @property
    def is_enough(self) -> bool:
        """Whether there are events enough to judge."""
        return min(self.n, self.n_reference) >= self.thresholds.fewest

    @property
    def score_moved(self) -> bool:
        return self.change("score") is not None

    @property
    def rate_moved(self) -> bool:
        """Whether positives are surely more or less frequent than in training, by what matters."""
        is_sure = self.rate.p_value < self.thresholds.alpha * _OF_RATES
        return is_sure and abs(self.rate.change) >= self.thresholds.rate * self.rate.reference

    @property
    def tells_less(self) -> bool:
        """Whether the scores surely tell outcomes apart less well than they promise, by what matters.

        What an alert calls worse than promised is so in the verdict, too.
        """
        misfit = self.misfit
        if misfit is None:
            return False
        if self.performance is not None and self.performance.is_worse:
            return True
        is_odd = misfit.p_shape < self.thresholds.alpha * _OF_SHAPE and misfit.effect >= self.thresholds.calibration
        return is_odd or (misfit.p_order < self.thresholds.alpha * _OF_ORDER and misfit.loses)

    @property
    def is_off(self) -> bool:
        """Whether there are surely more or fewer positives than the scores say, by what matters."""
        misfit = self.misfit
        if misfit is None:
            return False
        return misfit.p_direction < self.thresholds.alpha * _OF_RATES and abs(misfit.gap) >= self.thresholds.calibration

    @property
    def is_explained_by_rate(self) -> bool:
        """Whether the rate has changed as labels differ from scores: in direction, and in size to a factor of two."""
        misfit = self.misfit
        if misfit is None:
            return False
        change, gap = self.rate.change, misfit.rate_realised - misfit.rate_expected
        return change * gap > 0 and abs(gap) / 2 <= abs(change) <= 2 * abs(gap)

    @property
    def is_worse_than_faults(self) -> bool:
        """Whether scores tell less by more than faults explain.

        Of a pair of events that should be in order, a fault in a share f of the events reaches one at least in
        2 f of all pairs at most; so it takes at most 2 f from the AUC.
        """
        performance = self.performance
        if performance is None or not self.tells_less:
            return False
        return performance.loss > 2 * sum(fault.strength for fault in self.faults) * performance.expected

    @property
    def told_misfit(self) -> Misfit | None:
        """The misfit that shows a concept drift: that of all events where it is sure there, else that of a segment."""
        if self.tells_less or self.is_off or not self.misfit_segments:
            return self.misfit
        return self.misfit_segments[0]

    @property
    def misfit_segments(self) -> tuple[Misfit, ...]:
        """The segments in which labels surely speak against the scores, the surest first.

        Where a misfit is already sure of all events, less is asked of a segment to be named for it.
        """
        alpha = self.thresholds.alpha * _OF_SEGMENTS
        if self.tells_less or self.is_off:
            alpha = max(alpha, _TO_NAME)
        alpha /= max(len(self.misfits), 1)
        surely = [
            misfit
            for misfit in self.misfits
            if (misfit.p_order < alpha * _ORDER_OF_SEGMENT and misfit.loses)
            or (misfit.p_direction < alpha * (1 - _ORDER_OF_SEGMENT) and abs(misfit.gap) >= self.thresholds.calibration)
        ]
        return tuple(sorted(surely, key=lambda misfit: (misfit.p_least, misfit.segment)))

    @property
    def better_predecessor(self) -> Predecessor | None:
        """The version before, if it surely did better."""
        before = self.performance.predecessor if self.performance is not None else None
        if before is None or self.performance is None or not before.value > self.performance.value:
            return None
        return before if before.p_value < self.thresholds.alpha else None

    @property
    def features(self) -> tuple[Change, ...]:
        """The features that have signalled, the most moved first."""
        moved = (change for change in self.changes if change.kind in {"numeric", "category"})
        return tuple(sorted(moved, key=lambda change: -change.effect))
