"""What the counts of a numeric metric say of its distribution, and how far apart two of them are at least.

Two metrics have different cells, so neither distribution is known at the other's edges: only between two of its own
values. Distances here are those that remain whatever the values do inside of a cell; atoms need no special care.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from models.reference.units import LARGEST_UNITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from app.core.batches import Floats, Ints
    from app.core.features.paths import Path
    from models.reference.reference import MetricCells

#: With fewer values nothing is said of a shape.
FEWEST_FOR_A_SHAPE = 20
#: A mean that is off by a standard deviation weighs as much as shares that are off by this: for a normal law moved
#: a little, the largest difference of shares is phi(0) = 0.4 of the move.
_SHARE_PER_DEVIATION = 0.4
_FEWEST_EXPECTED = 3.0


@dataclass(frozen=True, eq=False)
class Law:
    """A distribution function that is known at some points.

    Parameters
    ----------
    n
        Values that it was counted from.
    points, below
        Ascending points x and P(X < x) there.
    mean
        Of the values, each saturated at ±``cap``.
    cap
        Where sums saturate; a mean can only be compared under the same cap.
    missing
        Share of events without a value.
    """

    n: int
    points: Floats
    below: Floats
    mean: float
    cap: float
    missing: float

    @classmethod
    def of(cls, cells: MetricCells, counts: Ints, total: int, minimum: float, maximum: float) -> Law:
        """Read it from the counts of a numeric metric ("missing" included), the sum in fixed point, the extremes."""
        present = counts[: cells.size]
        n = int(present.sum())
        n_missing = int(counts[cells.size])
        below = np.cumsum(present)[:-1] / max(n, 1)
        inside = (cells.edges > minimum) & (cells.edges <= maximum)
        first, last = [minimum] if math.isfinite(minimum) else [], []
        if math.isfinite(maximum) and maximum < np.finfo(np.float64).max:
            last = [math.nextafter(maximum, math.inf)]
        points = np.concatenate([first, cells.edges[inside], last])
        shares = np.concatenate([[0.0] * len(first), below[inside], [1.0] * len(last)])
        return cls(
            n=n,
            points=points,
            below=shares,
            mean=total / cells.scale / n if n else math.nan,
            cap=LARGEST_UNITS / cells.scale,
            missing=n_missing / max(n + n_missing, 1),
        )

    @property
    def reach(self) -> float:
        """The largest absolute value of its points; 0 without any."""
        return float(np.abs(self.points).max(initial=0.0))

    @cached_property
    def masses(self) -> Floats:
        """The masses of the stretches between neighbouring points."""
        return np.diff(self.below)

    @cached_property
    def middles(self) -> Floats:
        return self.points[:-1] / 2 + self.points[1:] / 2

    def moments(self, cap: float) -> tuple[float, float]:
        """Mean and standard deviation with values saturated at ±cap, those between two points counted in the middle."""
        values = np.clip(self.middles, -cap, cap)
        total = float(self.masses.sum())
        if total <= 0:
            return math.nan, math.nan
        with np.errstate(invalid="ignore"):  # of infinite values there is no deviation
            mean = float(self.masses @ values) / total
            return mean, math.sqrt(float(self.masses @ (values - mean) ** 2) / total)

    def scaled(self, factor: float, offset: float) -> Law:
        """The law of ``factor * X + offset``; the factor is not 0."""
        if factor > 0:
            points, below = self.points * factor + offset, self.below
        else:  # P(-X < -x) = P(X > x) = 1 - P(X < the next float)
            points, below = np.nextafter(self.points[::-1] * factor + offset, np.inf), 1.0 - self.below[::-1]
        return Law(self.n, points, below, self.mean * factor + offset, math.inf, self.missing)

    def mapped(self, function: Callable[[Floats], Floats]) -> Law:
        """The law of a rising function of X; where that is not a number, the value is missing.

        The mean is estimated: that of the middles of the cells, and what these were off before, stretched as the
        deviation is. For ``scaled`` it is exact.
        """
        points = function(self.points)
        is_number = ~np.isnan(points)
        lost = float(self.below[is_number][0]) if is_number.any() else 1.0
        below = (self.below[is_number] - lost) / max(1.0 - lost, 1e-12)
        rest = Law(round(self.n * (1 - lost)), points[is_number], below, math.nan, math.inf, self.missing + lost)
        mean, deviation = self.moments(math.inf)
        mean_then, deviation_then = rest.moments(math.inf)
        if deviation > 0 and math.isfinite(deviation_then):
            error = (self.mean - mean) / deviation if math.isfinite(self.mean) else 0.0
            return replace(rest, mean=mean_then + error * deviation_then)
        return rest

    def bounds(self, points: Floats) -> tuple[Floats, Floats]:
        """The least and the most that P(X < x) can be."""
        padded = np.concatenate([[0.0], self.below, [1.0]])
        low = padded[np.searchsorted(self.points, points, "right")]
        high = padded[np.searchsorted(self.points, points, "left") + 1]
        return low, high


def remade(law: Law, undone: Path, done: Path, factor: float = 1.0, offset: float = 0.0) -> Law:
    """The law of ``done(factor * undone⁻¹(X) + offset)``: the field of X, converted, and computed into a metric."""

    def function(values: Floats) -> Floats:
        return done.forward(undone.backward(values) * factor + offset)

    if undone.is_linear and done.is_linear:
        at_zero, at_one = function(np.array([0.0, 1.0])).tolist()
        return law.scaled(at_one - at_zero, at_zero)
    if (undone.is_rising == done.is_rising) == (factor > 0):
        return law.mapped(function)
    return law.scaled(-1.0, 0.0).mapped(lambda values: function(-values))


def distance(window: Law, training: Law) -> float:
    """How far a window is from what training says: in [0, 1], near 0 without drift.

    The largest of

    * the difference of shares below any point that no values inside of the cells could make smaller;
    * the share of the window's values that are where training has hardly any, and the reverse (a column of few
      distinct values is known by them, wherever it turns up);
    * the difference of the means, as shares: it speaks where the window's cells do not reach, since of values in an
      outer cell the mean and the extremes are still exact;
    * the difference of the shares of missing values.

    Examples
    --------
    Halves in [0, 1) and [1, 2) against everything in [1, 2):

    >>> from models.reference.reference import MetricCells
    >>> cells = MetricCells("x", "numeric", np.array([0.0, 1.0, 2.0]), scale=1.0)
    >>> training = Law.of(cells, np.array([0, 5, 5, 0, 0]), 10, 0.0, 1.9)
    >>> window = Law.of(cells, np.array([0, 0, 4, 0, 0]), 6, 1.0, 1.9)
    >>> distance(window, training)
    0.5
    >>> distance(training, training)
    0.0
    """
    return max(_differences(window, training))


def distance_within(window: Law, training: Law, most: float) -> float | None:
    """The `distance`, if it is at most ``most``; otherwise None: one of its parts mostly shows that at once."""
    apart = 0.0
    for difference in _differences(window, training):
        if difference > most:
            return None
        apart = max(apart, difference)
    return apart


def _differences(window: Law, training: Law) -> Iterator[float]:
    yield abs(window.missing - training.missing)
    yield _beyond(window, training)
    yield _beyond(training, window)
    yield _strange(window, training)
    yield _strange(training, window)
    mean, deviation = training.moments(window.cap)
    if math.isfinite(window.mean) and deviation > 0:
        error = abs(window.mean - mean) / deviation - _error_of_middles(training, window.cap, mean, deviation)
        yield min(1.0, _SHARE_PER_DEVIATION * error)


def gap(one: Law, other: Law) -> float:
    """The parts of `distance` that are about shares of values: the first two."""
    return max(_beyond(one, other), _beyond(other, one), _strange(one, other), _strange(other, one))


def _error_of_middles(training: Law, cap: float, mean: float, deviation: float) -> float:
    """How far, in deviations, the mean of the middles is from the exact one, where that is known under the same cap."""
    if not math.isfinite(training.mean) or training.cap > cap or math.isinf(training.cap):
        return 0.0
    return abs(training.mean - mean) / deviation


def _beyond(one: Law, other: Law) -> float:
    if not len(one.points):
        return 0.0
    low, high = other.bounds(one.points)
    return float(np.maximum(np.maximum(one.below - high, low - one.below), 0.0).max())


def _strange(one: Law, other: Law) -> float:
    """The share of ``one`` in stretches where ``other`` has less than a fifth of that, wherever in its cells it lies.

    Stretches where ``other`` would be expected to have fewer than three values are left out: none is no surprise there
    (e**-3 = 5 %).
    """
    if len(one.points) < 2:
        return 0.0
    low, high = other.bounds(one.points)
    most = np.maximum(high[1:] - low[:-1], 0.0)
    strange = (one.masses * other.n >= _FEWEST_EXPECTED) & (most < one.masses / 5)
    return float(one.masses[strange].sum())
