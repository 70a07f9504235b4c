"""Another unit in a share of the events: one producer of several, or a part of the window's days.

A window is then a mixture, (1 - f) x training + f x training in another unit. For each conversion f is fitted to the
cells. A conversion is believed where

* the two parts are apart: training and converted training have hardly a value in common (`_APART`);
* no share below any point differs from the mixture's by more than chance, plus what either part may have drifted;
* the window's mean, and its extreme where the converted values end, are the mixture's, too: they are all that is
  known of values beyond the outer cells;
* f is surely more than `mixture.LEAST_SHARE`, and the mixture explains by far most of what has moved;
* a plain shift and another spread do not explain the window just as well.

Each of these is far tighter than for a change of all values: a new group of customers is a mixture, too, and only
what is surely training's own shape in a known unit is no such group.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from app.core.faults.conversions import CONVERSIONS, Conversion, how, in_brackets
from app.core.faults.fault import Fault, percent
from app.core.faults.law import FEWEST_FOR_A_SHAPE, gap
from app.core.faults.mixture import LEAST_SHARE, SURE, Mixtures, bounds, inner

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from app.core.batches import Floats
    from app.core.faults.law import Law
    from app.core.faults.scale import Scale

#: Training and the other unit differ by at least this in the share below some point, of what is not nought.
_APART = 0.95
#: By what share of its values either part may have drifted: beside a large factor, and beside one that a group may
#: have, too. Its mean may have drifted by as many deviations.
_FAR_FACTOR = 20.0
_DRIFT_IF_FAR = 0.05
_DRIFT = 0.02
#: How many converted values may be expected beyond the window's extreme; it would be one, were their tail known.
_FEWEST_BEYOND, _MOST_BEYOND = 0.01, 30.0
_TAIL = 0.01
#: What is less may have been rounded to nought.
_ROUNDED = 0.5
_SHOWS_SOME = 0.2
#: A conversion is told by its shape where this share of its values is among training's, or else by a mean that is known
#: to within a quarter of what it would be by itself.
_INSIDE = 0.5
_NEAR_MEAN = 0.25
#: A mixture's log likelihood is higher by at least this than that of a shift and another spread.
_CLEARER = 6.0
#: Conversions whose log likelihoods are nearer cannot be told apart. Hundredths and thousandths are commoner.
_LIKE = 3.0
_COMMON = math.log(10)
_TENS = frozenset({100.0, 1 / 100, 1000.0, 1 / 1000})
#: A shift and a spread are estimated from at least this share of the values.
_KNOWN = 0.6


def find_mixed_unit(name: str, scale: Scale, design_effect: float = 1.0, events: str = "events") -> Fault | None:
    """Name the unit that a share of the window's values is in; None where it is none, or all.

    Parameters
    ----------
    scale
        The metric's laws in training and in the window.
    design_effect
        How many events of the window count as one.
    events
        What events are called, in the plural.

    Returns
    -------
    A fault as strong as that share.
    """
    n = scale.window.n / max(design_effect, 1.0)
    if min(scale.training.n, n * LEAST_SHARE) < FEWEST_FOR_A_SHAPE or len(scale.window.points) < 4:
        return None
    if gap(scale.window, scale.training) < LEAST_SHARE:
        return None
    conversions = [conversion for conversion in CONVERSIONS if scale.is_possible(conversion)]
    mixtures = _Mixtures(scale, conversions, n)
    believed = [at for at in np.flatnonzero(mixtures.are_near).tolist() if mixtures.is_believed(at)]
    if not believed or max(map(mixtures.of_cells, believed)) < _plain_likelihood(scale, n) + _CLEARER:
        return None
    likelihoods = {at: mixtures.likelihood(at) for at in believed}
    best = max(believed, key=likelihoods.__getitem__)
    alike = [conversions[at] for at in believed if likelihoods[at] >= likelihoods[best] - _LIKE and at != best]
    share = float(mixtures.shares[best])
    words = [
        f"{how(conversion, 'what it was')}{in_brackets(conversion, *scale.extremes)}"
        for conversion in (conversions[best], *alike)
    ]
    start = f"`{name}` looks as if in another unit in {percent(round(share, 2))} of the {events}"
    doubt = "; which one cannot be told" if len(words) > 1 else ""
    return Fault("unit_changed", (name,), f"{start}{doubt}: {', or '.join(words)}.", share)


class _Mixtures:
    """The mixtures of training and of each conversion of it that are nearest to the window."""

    def __init__(self, scale: Scale, conversions: Sequence[Conversion], n: float) -> None:
        self._scale, self._conversions = scale, conversions
        self._laws: dict[int, Law] = {}
        factors = np.array([conversion.factor for conversion in conversions])[:, None]
        offsets = np.array([conversion.offset for conversion in conversions])[:, None]
        field = scale.path.backward(inner(scale.window))
        with np.errstate(all="ignore"):
            undone = scale.path.forward((field - offsets) / factors)
        low, high = bounds(scale.training, np.where(np.isnan(undone), -np.inf, undone))
        falls = factors < 0
        low, high = np.where(falls, 1 - high, low), np.where(falls, 1 - low, high)
        self._drift = np.where(np.maximum(np.abs(factors), 1 / np.abs(factors)) >= _FAR_FACTOR, _DRIFT_IF_FAR, _DRIFT)
        self._fits = Mixtures(scale.window, scale.training, low, high, n, self._drift)
        self.shares = self._fits.shares
        #: Which of them may be believed, by the shares below each point.
        self.are_near = self._fits.are_near & (self._fits.apart >= _APART * max(1 - _at_zero(scale), 1e-9))

    def is_believed(self, at: int) -> bool:
        """Whether the mean and the ends, which shares below points cannot show, fit the conversion and tell it."""
        off, error, drift = self._mean(at)
        return self._is_told(at) and self._ends_fit(at) and not off > SURE * error + drift

    def _ends_fit(self, at: int) -> bool:
        """Whether the window ends where the converted values do, where these are beyond training's."""
        return self._keeps_sign(at) and all(_FEWEST_BEYOND <= expected <= _MOST_BEYOND for expected in self._beyond(at))

    def _keeps_sign(self, at: int) -> bool:
        """Whether the window keeps away from nought where training does, but for rounding: no unit changes that."""
        factor, offset = self._conversions[at][1:]
        low, high = (extreme * factor + offset for extreme in self._scale.extremes)
        ends = self._scale.path.backward(self._scale.window.points[[0, -1]])
        is_rounded = min(abs(low), abs(high)) < _ROUNDED and self._shows(at) >= _SHOWS_SOME
        if low * self._scale.extremes[0] <= 0 or low * high <= 0 or is_rounded:
            return True
        return bool((ends * low > 0).all())

    def _beyond(self, at: int) -> Iterator[float]:
        """How many converted values are expected beyond each end of the window that they have made: about one."""
        training, window = self._scale.training, self._scale.window
        law = self._convert(at)
        n = float(self.shares[at]) * window.n
        if law.points[0] < training.points[0]:
            yield _nearest(n, _tails(law.points, law.below, float(window.points[0]), law.n))
        if law.points[-1] > training.points[-1]:
            yield _nearest(n, _tails(-law.points[::-1], 1 - law.below[::-1], -float(window.points[-1]), law.n))

    def _is_told(self, at: int) -> bool:
        """Whether something tells this conversion from others: its shape, its mean, or that it is a common one."""
        conversion, share = self._conversions[at], float(self.shares[at])
        if self._shows(at) >= _INSIDE or (abs(conversion.factor) in _TENS and any(True for _ in self._beyond(at))):
            return True
        _, error, drift = self._mean(at)
        moved = share * abs(self._convert(at).mean)
        return SURE * error + drift <= _NEAR_MEAN * moved

    def _convert(self, at: int) -> Law:
        if at not in self._laws:
            self._laws[at] = self._scale.convert(self._conversions[at])
        return self._laws[at]

    def _shows(self, at: int) -> float:
        """The share of the converted values that is not in the fullest cell: of these the window shows the shape."""
        return 1 - float(np.diff(self._fits.new[at], prepend=0.0, append=1.0).max())

    def _mean(self, at: int) -> tuple[float, float, float]:
        """How far the window's mean is from the mixture's, its standard error, and what drift may make of it."""
        training, window, share = self._scale.training, self._scale.window, float(self.shares[at])
        law = self._convert(at)
        if not math.isfinite(window.mean) or window.reach >= window.cap / 4:
            return math.nan, math.nan, math.nan
        (_, one), (_, other) = training.moments(math.inf), law.moments(math.inf)
        mean = (1 - share) * training.mean + share * law.mean
        # Without what lies between the two: the share is that of these very events, but for its error.
        within = ((1 - share) * one**2 + share * other**2) / self._fits.n
        variance = within + (self._fits.errors[at] * (training.mean - law.mean)) ** 2
        drift = float(self._drift[at, 0]) * ((1 - share) * one + share * other)
        return abs(window.mean - mean), math.sqrt(variance), drift

    def of_cells(self, at: int) -> float:
        return _likelihood(self._fits.n, self._fits.detection, self._fits.mixed[at])

    def likelihood(self, at: int) -> float:
        """The logarithm of the likelihood of the cells, the mean and the ends, and of how common the conversion is."""
        off, error, drift = self._mean(at)
        mean = 0.0 if math.isnan(off) or not off else -(off**2) / (2 * (error**2 + drift**2))
        ends = sum(math.log(expected) - expected for expected in self._beyond(at))
        return self.of_cells(at) + mean + ends + (_COMMON if abs(self._conversions[at].factor) in _TENS else 0.0)


def _nearest(n: float, shares: Iterable[float]) -> float:
    """How many of n values may lie beyond a point, for the tail (it is not known) that makes this nearest to one."""
    return min((n * share for share in shares), key=lambda number: abs(math.log(number)))


def _tails(points: Floats, below: Floats, point: float, n: int) -> list[float]:
    """The share below a point in the last hundredth of the values or beyond, for several tails.

    Exponential ones, and powers of the distance from the middle, or from nought.
    """
    inner_at = min(int(np.searchsorted(below, _TAIL)), len(points) - 1)
    if point >= points[inner_at]:
        return [max(float(np.interp(point, points, below)), 1e-300)]
    places = [(float(points[0]), float(points[inner_at]), point)]
    middle = float(np.interp(0.5, below, points))
    for origin in (middle, 0.0):
        if origin > places[0][1]:
            start, end, at = (-math.log(origin - place) for place in places[0])
            places.append((start, end, at))
    least, most = math.log(1 / (n + 1)), math.log(below[inner_at])
    logs = [least + (most - least) * (at - start) / (end - start) for start, end, at in places]
    return [math.exp(min(max(log, -600.0), 0.0)) for log in logs]


def _at_zero(scale: Scale) -> float:
    """The share of values that are nought in any unit."""
    nought = scale.path.forward(np.zeros(1))
    low, high = (scale.training.bounds(point)[at] for at, point in enumerate((nought, np.nextafter(nought, np.inf))))
    return float(high[0] - low[0]) if math.isfinite(nought[0]) else 0.0


def _plain_likelihood(scale: Scale, n: float) -> float:
    """The log likelihood of the cells if the window is training, or its logarithm, shifted and spread otherwise."""
    training, window = scale.training, scale.window
    least, most = float(window.below[1]), float(window.below[-2])  # what is in the outer cells is hardly known
    likelihoods = [-math.inf]
    if most - least < _KNOWN:
        return -math.inf
    levels = np.linspace(max(least, 0.02), min(most, 0.98), 19)
    trained, detected = (np.interp(levels, law.below, law.points) for law in (training, window))
    for forward, backward in ((np.asarray, np.asarray), (np.log, np.exp)):
        with np.errstate(all="ignore"):
            old, new, points = forward(trained), forward(detected), forward(window.points[1:-1])
        if not (np.isfinite(old) & np.isfinite(new)).all() or np.ptp(old) <= 0:
            continue
        slope, shift = np.polyfit(old, new, 1)
        if slope <= 0:
            continue
        below = np.add(*bounds(training, backward((points - shift) / slope))) / 2
        likelihoods.append(_likelihood(n, window.below[1:-1], below))
    return max(likelihoods)


def _likelihood(n: float, shares: Floats, below: Floats) -> float:
    """The log likelihood of shares below points of ``n`` values, where they are expected to be ``below``."""
    expected = np.maximum(np.diff(below, prepend=0.0, append=1.0), 1e-9)
    return n * float(np.diff(shares, prepend=0.0, append=1.0) @ np.log(expected))
