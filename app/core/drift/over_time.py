"""The deciles of metrics against those of past windows: the trend and the interval, of textbooks and calibrated.

The calibrated ones look at the nine deciles d1 … d9 and say nine times the p-value of the clearest (Bonferroni); the
tenth is the maximum, which has a law of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.drift.statistics.deciles import DECILES
from app.core.drift.statistics.interval import Interval, interval, rank_p_value
from app.core.drift.statistics.trend import Trend, trend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.core.batches import Floats, Ints

#: Deciles that are tested together.
TESTED = 9


@dataclass(frozen=True, eq=False)
class _Part:
    """Metrics that are known of the same past windows: which, and their R x 10 deciles then (T of them) and now."""

    rows: Sequence[int]
    times: Floats
    deciles: Floats
    current: Floats
    reference: Floats

    @property
    def n_past(self) -> int:
        return len(self.deciles)

    @cached_property
    def fitted(self) -> Trend:
        """A line through each decile, the window under test included; R x 10."""
        lines = trend(self.times, np.concatenate([self.deciles, self.current[None]]).reshape(len(self.times), -1))
        return Trend(*(line.reshape(-1, len(DECILES)) for line in lines))

    def beyond(self, low: float, high: float) -> Interval:
        """Each decile against a central range of its past; R x 10."""
        beyond = interval(self.deciles.reshape(self.n_past, -1), self.current.ravel(), low, high)
        shape = (len(self.rows), len(DECILES))
        return Interval(
            beyond.low.reshape(shape),
            beyond.high.reshape(shape),
            beyond.side.reshape(shape),
            beyond.effect.reshape(shape),
        )


@dataclass(frozen=True, eq=False)
class Past:
    """What is known of M metrics over time.

    ``times`` are the ordinals of the past windows and, last, of the window under test; ``deciles`` (T x M x 10) those
    of the former, NaN where a window does not know a metric, ``current`` (M x 10) of the latter, ``reference`` (M x 10)
    of the reference.
    """

    times: Floats
    deciles: Floats
    current: Floats
    reference: Floats

    @classmethod
    def side_by_side(cls, segments: Sequence[Past]) -> Past:
        """The metrics of several segments, segment after segment, over the same windows."""
        deciles, current, reference = (
            np.concatenate([getattr(past, name) for past in segments], axis=-2)
            for name in ("deciles", "current", "reference")
        )
        return cls(segments[0].times, deciles, current, reference)

    @cached_property
    def parts(self) -> list[_Part]:
        """The metrics that have finite values now, by the past windows that had such, too."""
        usable = np.asarray(np.isfinite(self.deciles).all(axis=2))
        by_windows: dict[bytes, list[int]] = {}
        for row in np.flatnonzero(np.isfinite(self.current).all(axis=1)).tolist():
            by_windows.setdefault(usable[:, row].tobytes(), []).append(row)
        parts = []
        for rows in by_windows.values():
            windows = usable[:, rows[0]]
            times = np.append(self.times[:-1][windows], self.times[-1])
            parts.append(_Part(rows, times, self.deciles[windows][:, rows], self.current[rows], self.reference[rows]))
        return parts


class PastResult(NamedTuple):
    """What a test says; NaN where it says nothing. ``least``: the smallest p-value that such a past could give."""

    statistic: float
    p_value: float
    effect: float
    note: str
    least: float = 0.0


def look_for_trend(past: Past, minimum_history: float) -> list[PastResult]:
    """Fit each decile over the windows, as many of them as are independent; one answer per metric."""

    def tell(part: _Part) -> list[PastResult]:
        p_values = part.fitted.dependent_p_value[:, :TESTED]
        clearest = np.argmin(p_values, axis=1)
        smallest = np.minimum(1.0, TESTED * p_values[np.arange(len(clearest)), clearest])
        return _tell_trends(part, clearest, smallest)

    return _each(past, max(minimum_history, 3), tell)


def look_at_interval(past: Past) -> list[PastResult]:
    """Rank each decile among those of its past; one answer per metric."""

    def tell(part: _Part) -> list[PastResult]:
        ranked = rank_p_value(part.deciles.reshape(part.n_past, -1), part.current.ravel())
        smallest = np.minimum(1.0, TESTED * ranked.reshape(-1, len(DECILES))[:, :TESTED].min(axis=1))
        least = min(1.0, TESTED * 2 / (part.n_past + 1))
        return _tell_intervals(part, part.beyond(0, 100), smallest, least)

    return _each(past, 1, tell)


def classic_interval(past: Past, settings: Mapping[str, float]) -> list[PastResult]:
    """Count the deciles outside the central range of their past; the p-value is 0 where there is one, else 1."""

    def tell(part: _Part) -> list[PastResult]:
        outside = part.beyond(settings["low"], settings["high"])
        return _tell_intervals(part, outside, np.where(outside.side.any(axis=1), 0.0, 1.0))

    return _each(past, settings["minimum_history"], tell)


def classic_trend(past: Past, settings: Mapping[str, float]) -> list[PastResult]:
    """Fit each decile over the windows; the p-value is the smallest of the ten."""

    def tell(part: _Part) -> list[PastResult]:
        clearest = np.argmin(part.fitted.p_value, axis=1)
        return _tell_trends(part, clearest, part.fitted.p_value[np.arange(len(clearest)), clearest])

    return _each(past, max(settings["minimum_history"], 2), tell)


def _each(past: Past, needed: float, tell: Callable[[_Part], list[PastResult]]) -> list[PastResult]:
    """What a test says of each metric, or why it says nothing."""
    told = [PastResult(math.nan, math.nan, math.nan, "no finite values in the window")] * len(past.current)
    for part in past.parts:
        if part.n_past < needed:
            words = f"too little history ({part.n_past} of {math.ceil(needed)} windows)"
            said = [PastResult(math.nan, math.nan, math.nan, words)] * len(part.rows)
        else:
            said = tell(part)
        for row, result in zip(part.rows, said, strict=True):
            told[row] = result
    return told


def _tell_trends(part: _Part, clearest: Ints, p_values: Floats) -> list[PastResult]:
    at = np.arange(len(clearest)), clearest
    spread = part.reference[:, 8] - part.reference[:, 0]
    slopes, statistics = part.fitted.beta[at], part.fitted.t_statistic[at]
    changes = slopes * (part.times[-1] - part.times[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of a metric that did not vary in training, any change is as large as can be.
        effects = np.where(spread > 0, changes / spread, np.sign(changes))
    names = [DECILES[decile] for decile in clearest.tolist()]
    return [
        PastResult(statistic, p_value, effect, f"{name} changes by {slope:.4g} a window over {len(part.times)} windows")
        for name, slope, statistic, p_value, effect in zip(
            names, slopes.tolist(), statistics.tolist(), p_values.tolist(), effects.tolist(), strict=True
        )
    ]


def _tell_intervals(part: _Part, outside: Interval, p_values: Floats, least: float = 0.0) -> list[PastResult]:
    numbers = np.count_nonzero(outside.side, axis=1).tolist()
    return [
        PastResult(float(number), p_value, effect, _say_sides(side, part.n_past) if number else "", least)
        for number, side, p_value, effect in zip(
            numbers, outside.side.tolist(), p_values.tolist(), outside.effect.max(axis=1).tolist(), strict=True
        )
    ]


def _say_sides(sides: list[int], n_past: int) -> str:
    words = [
        f"{', '.join(name for name, at in zip(DECILES, sides, strict=True) if at == side)} {where}"
        for side, where in ((-1, "below"), (1, "above"))
        if side in sides
    ]
    return f"{' and '.join(words)} the interval of {n_past} past windows"
