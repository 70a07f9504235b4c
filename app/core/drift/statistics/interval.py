"""A window's deciles against the central range of the same deciles in past windows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.core.batches import Floats


class Interval(NamedTuple):
    """Per decile: the range of its past, -1 / 0 / 1 for below / inside / above it, and how far outside in [0, 1)."""

    low: Floats
    high: Floats
    side: NDArray[np.int64]
    effect: Floats


def interval(past: Floats, current: Floats, low: float = 2.5, high: float = 97.5) -> Interval:
    """Compare each decile with the ``low`` … ``high`` percentiles of its past values.

    With T past windows and no drift, about 2 / (T + 1) of the deciles leave the 2.5 … 97.5 % range while T < 39, not 5
    %: the percentiles then lie between the two most extreme values. Report it as what it is, and ask for several
    deciles at once.

    Parameters
    ----------
    past
        Deciles of T >= 1 past windows, T x 10.
    current
        Deciles of the window under test.
    low, high
        Percentiles, interpolated linearly between order statistics.

    Returns
    -------
    ``effect`` = e / (e + w) for a decile outside by e of a range of width w (1 when w = 0), else 0.

    Examples
    --------
    The past is 0, 10, …, 40, so 25 … 75 % is 10 … 30; 40 is outside by 10 of 20:

    >>> result = interval(np.array([[0.0], [10.0], [20.0], [30.0], [40.0]]), np.array([40.0]), 25, 75)
    >>> result.low.item(), result.high.item(), result.side.item(), round(result.effect.item(), 3)
    (10.0, 30.0, 1, 0.333)
    """
    ordered = np.sort(past, axis=0)
    least, most = _percentile(ordered, low), _percentile(ordered, high)
    outside = np.maximum(np.maximum(least - current, current - most), 0.0)
    side = (current > most).astype(np.int64) - (current < least)
    effect = np.divide(outside, outside + (most - least), out=np.zeros_like(outside), where=outside > 0)
    return Interval(least, most, side, effect)


def _percentile(ordered: Floats, percent: float) -> Floats:
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    between: Floats = below + (place - math.floor(place)) * (above - below)
    return between


def rank_p_value(past: Floats, current: Floats) -> Floats:
    """How often a decile is as far out among its past values without drift, whatever its law.

    Of T past values and the current one each is the most extreme with probability 1 / (T + 1), so the p-value is 2 k /
    (T + 1) when the current one is the k-th from its end: it cannot be below 2 / (T + 1), and a level alpha needs T >=
    2 / alpha - 1 windows of history (39 for 5 %). Two-sided; equal values count against the signal.

    Parameters
    ----------
    past
        Deciles of T >= 1 past windows, T x 10.
    current
        Deciles of the window under test.

    Examples
    --------
    >>> rank_p_value(np.array([[1.0], [2.0], [3.0]]), np.array([9.0])).tolist()
    [0.5]

    References
    ----------
    S. Wilks, "Determination of sample sizes for setting tolerance limits", Ann. Math. Statist. 12, 1941.
    """
    from_below = 1 + np.count_nonzero(past <= current, axis=0)
    from_above = 1 + np.count_nonzero(past >= current, axis=0)
    p_value: Floats = np.minimum(2 * np.minimum(from_below, from_above) / (len(past) + 1), 1.0)
    return p_value
