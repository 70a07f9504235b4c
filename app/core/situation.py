"""What a verdict is about: everything that is known of one window of one model version."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.core.silences import NOTHING_SILENT, Silence

if TYPE_CHECKING:
    from app.core.attribution import Share
    from app.core.faults.fault import Fault
    from app.core.verdict_words import Change


@dataclass(frozen=True)
class SegmentChange:
    """A metric that has signalled in a segment ("origin=EWR"): how far it moved there, on how many events."""

    segment: str
    metric: str
    effect: float
    n: int


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
    """A measure of performance (higher is better) in the window, realised or estimated, and its limit.

    ``predecessor``: None where the version is not so new that it can be rolled back, or nothing is known of one before.
    """

    measure: str
    value: float
    limit: float = math.nan
    predecessor: Predecessor | None = None

    @property
    def is_below_limit(self) -> bool:
        return self.value < self.limit


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
        Of `app.core.faults.find.find_faults`, the strongest first.
    score_before, score_now
        Mean scores.
    attribution
        Of `app.core.attribution.attribute`.
    p_calibration, calibration_effect, calibration_distance
        Of the test that labels come out as scored; the effect is the share of positives less what the scores say, the
        distance how far the two are apart on average, wherever scores are too high or too low.
    p_prior, rate_before, rate_now
        Of the test that the share of positive labels is training's, and the shares.
    p_conditional
        Of the test that scores given the label are distributed as in training.
    alpha
        What the window may spend on the three p-values each, and on that of the predecessor.
    least_calibration, least_rate
        Smallest effects that matter, of the calibration and of the rate.
    performance
        Where it is known or estimated.
    fewest
        Events below which nothing is judged.
    has_reference
        Whether training's counts are known.
    events
        What an event is called, in the plural.
    silence
        What is not compared.
    """

    n: int
    n_reference: int
    changes: tuple[Change, ...] = ()
    segments: tuple[SegmentChange, ...] = ()
    faults: tuple[Fault, ...] = ()
    score_before: float = math.nan
    score_now: float = math.nan
    attribution: tuple[Share, ...] = ()
    p_calibration: float = math.nan
    calibration_effect: float = math.nan
    calibration_distance: float = 0.0
    p_prior: float = math.nan
    rate_before: float = math.nan
    rate_now: float = math.nan
    p_conditional: float = math.nan
    alpha: float = 0.001
    least_calibration: float = 0.02
    least_rate: float = 0.02
    performance: Performance | None = None
    fewest: int = 200
    has_reference: bool = True
    events: str = "events"
    silence: Silence = NOTHING_SILENT

    def change(self, metric: str) -> Change | None:
        return next((change for change in self.changes if change.metric == metric), None)

    @property
    def is_enough(self) -> bool:
        """Whether there are events enough to judge."""
        return min(self.n, self.n_reference) >= self.fewest

    @property
    def score_moved(self) -> bool:
        return self.change("score") is not None

    @property
    def calibration_moved(self) -> bool:
        size = max(abs(self.calibration_effect), self.calibration_distance)
        return self.p_calibration < self.alpha and size >= self.least_calibration

    @property
    def rate_moved(self) -> bool:
        return self.p_prior < self.alpha and abs(self.rate_now - self.rate_before) >= self.least_rate

    @property
    def better_predecessor(self) -> Predecessor | None:
        """The version before, if it surely did better."""
        before = self.performance.predecessor if self.performance is not None else None
        if before is None or self.performance is None or not before.value > self.performance.value:
            return None
        return before if before.p_value < self.alpha else None

    @property
    def features(self) -> tuple[Change, ...]:
        """The features that have signalled, the most moved first."""
        moved = (change for change in self.changes if change.kind in {"numeric", "category"})
        return tuple(sorted(moved, key=lambda change: -change.effect))
