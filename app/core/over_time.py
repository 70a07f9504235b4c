"""A metric's deciles against those of past windows: the trend and the interval, as textbooks have them and calibrated.

The calibrated ones look at the nine deciles d1 … d9 and say nine times the p-value of the clearest (Bonferroni); the
tenth is the maximum, which has a law of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.drift.deciles import DECILES
from app.core.drift.interval import Interval, interval, rank_p_value
from app.core.drift.trend import Trend, trend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.core.batches import Floats

#: Deciles that are tested together.
TESTED = 9


@dataclass(frozen=True, eq=False)
class Past:
    """What is known of one metric over time.

    ``times`` are the ordinals of the past windows and, last, of the window under test; ``deciles`` (T x 10) those of
    the former, ``current`` of the latter, ``reference`` of the reference.
    """

    times: Floats
    deciles: Floats
    current: Floats
    reference: Floats

    @cached_property
    def finite(self) -> Past:
        """The same without past windows that had no finite values."""
        usable = np.isfinite(self.deciles).all(axis=1)
        return Past(
            np.append(self.times[:-1][usable], self.times[-1:]), self.deciles[usable], self.current, self.reference
        )

    @cached_property
    def fitted(self) -> Trend:
        """A line through each decile, the window under test included."""
        return trend(self.times, np.vstack([self.deciles, self.current]))


class Told(NamedTuple):
    """What a test says; NaN where it says nothing. ``least``: the smallest p-value that such a past could give."""

    statistic: float
    p_value: float
    effect: float
    note: str
    least: float = 0.0


def look_for_trend(past: Past, minimum_history: float) -> Told:
    """Fit each decile over the windows, as many of them as are independent."""
    known = past.finite
    refusal = _refusal(known, max(minimum_history, 3))
    if refusal:
        return Told(math.nan, math.nan, math.nan, refusal)
    fitted = known.fitted
    clearest = int(np.argmin(fitted.dependent_p_value[:TESTED]))
    p_value = min(1.0, TESTED * float(fitted.dependent_p_value[clearest]))
    return _tell_trend(known, fitted, clearest, p_value)


def look_at_interval(past: Past) -> Told:
    """Rank each decile among those of its past."""
    known = past.finite
    refusal = _refusal(known, 1)
    if refusal:
        return Told(math.nan, math.nan, math.nan, refusal)
    p_values = rank_p_value(known.deciles, known.current)[:TESTED]
    p_value, least = (min(1.0, TESTED * float(each)) for each in (p_values.min(), 2 / (len(known.deciles) + 1)))
    outside = interval(known.deciles, known.current, 0, 100)
    note = _say_sides(outside, len(known.deciles))
    return Told(float(np.count_nonzero(outside.side)), p_value, float(outside.effect.max()), note, least)


def classic_interval(past: Past, settings: Mapping[str, float]) -> Told:
    """Count the deciles outside the central range of their past; the p-value is 0 where there is one, else 1."""
    known = past.finite
    refusal = _refusal(known, settings["minimum_history"])
    if refusal:
        return Told(math.nan, math.nan, math.nan, refusal)
    outside = interval(known.deciles, known.current, settings["low"], settings["high"])
    n_outside = int(np.count_nonzero(outside.side))
    note = _say_sides(outside, len(known.deciles))
    return Told(float(n_outside), 0.0 if n_outside else 1.0, float(outside.effect.max()), note)


def classic_trend(past: Past, settings: Mapping[str, float]) -> Told:
    """Fit each decile over the windows; the p-value is the smallest of the ten."""
    known = past.finite
    refusal = _refusal(known, max(settings["minimum_history"], 2))
    if refusal:
        return Told(math.nan, math.nan, math.nan, refusal)
    fitted = known.fitted
    clearest = int(np.argmin(fitted.p_value))
    return _tell_trend(known, fitted, clearest, float(fitted.p_value[clearest]))


def _tell_trend(past: Past, fitted: Trend, clearest: int, p_value: float) -> Told:
    spread = float(past.reference[8] - past.reference[0])
    change = float(fitted.beta[clearest]) * float(past.times[-1] - past.times[0])
    # Of a metric that did not vary in training, any change is as large as can be.
    effect = change / spread if spread > 0 else math.copysign(1.0, change) if change else 0.0
    note = f"{DECILES[clearest]} changes by {fitted.beta[clearest]:.4g} a window over {len(past.times)} windows"
    return Told(float(fitted.t_statistic[clearest]), p_value, effect, note)


def _say_sides(outside: Interval, n_past: int) -> str:
    words = [
        f"{', '.join(name for name, at in zip(DECILES, outside.side.tolist(), strict=True) if at == side)} {where}"
        for side, where in ((-1, "below"), (1, "above"))
        if side in outside.side
    ]
    return f"{' and '.join(words)} the interval of {n_past} past windows" if words else ""


def _refusal(past: Past, needed: float) -> str:
    if not np.isfinite(past.current).all():
        return "no finite values in the window"
    n_past = len(past.deciles)
    return f"too little history ({n_past} of {math.ceil(needed)} windows)" if n_past < needed else ""
