"""Tests of shares: of each category, of missing values, of values outside of the range of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import bdtr, bdtrc, chdtrc, gammaln, ndtr

if TYPE_CHECKING:
    from app.core.batches import Ints

#: Below so many expected events, tails are summed instead of taken from the normal law.
_FEW = 50


class ChiSquare(NamedTuple):
    """``statistic`` >= 0, its ``p_value`` without drift, and ``effect``: Cramer's V in [0, 1]."""

    statistic: float
    p_value: float
    effect: float


class Change(NamedTuple):
    """A share of the detection, or what it is beyond the reference's, and the ``p_value`` of no drift."""

    statistic: float
    p_value: float


def chi_square(reference: Ints, detection: Ints) -> ChiSquare:
    """Compute Pearson's chi^2 of the two windows' counts per group.

    Join groups of few events first (`app.core.drift.psi.group_cells`): its law holds from about five expected in each.

    Returns
    -------
    NaN when either window is empty; 0 with p-value 1 when there is one group.

    Examples
    --------
    Expected are 3, 3 and 1, 1 where 4, 2 and 0, 2 are: 1/3 + 1/3 + 1 + 1, and V^2 = (8/3) / 8.

    >>> result = chi_square(np.array([4, 2]), np.array([0, 2]))
    >>> round(result.statistic, 6), round(result.effect**2, 6)
    (2.666667, 0.333333)

    References
    ----------
    H. Cramer, "Mathematical Methods of Statistics", Princeton 1946, chapter 30.
    """
    counts = np.stack([reference, detection]).astype(np.float64)
    counts = counts[:, counts.sum(axis=0) > 0]
    n, m = counts.sum(axis=1).tolist()
    groups = counts.shape[1]
    if n == 0 or m == 0:
        return ChiSquare(math.nan, math.nan, math.nan)
    expected = np.outer([n, m], counts.sum(axis=0)) / (n + m)
    statistic = float(np.sum((counts - expected) ** 2 / expected))
    p_value = float(chdtrc(groups - 1, statistic)) if groups > 1 else 1.0
    return ChiSquare(statistic, p_value, math.sqrt(statistic / (n + m)))


def change_of_share(some: int, n: int, some_now: int, m: int) -> Change:
    """Compare ``some`` of n events of the reference with ``some_now`` of m.

    Given how many there are in both, those of the detection are hypergeometric without drift. With 50 expected in each
    of the four fields, the p-value is the normal law's; with fewer, twice the smaller tail of the binomial law, which
    is wider, so that p is too large rather than too small. Two-sided.

    Returns
    -------
    NaN when either window is empty.

    Examples
    --------
    None of 900 before, 3 of 100 now: each of the three was to be one of the 100 with probability 1/10.

    >>> result = change_of_share(0, 900, 3, 100)
    >>> round(result.statistic, 6), round(result.p_value, 6)
    (0.03, 0.002)
    """
    if n == 0 or m == 0:
        return Change(math.nan, math.nan)
    total, part = some + some_now, m / (n + m)
    rest = n + m - total
    change = some_now / m - some / n
    if min(total, rest) * min(part, 1 - part) >= _FEW:
        spread = math.sqrt(total * rest / (n + m) ** 2 * (1 / n + 1 / m))
        return Change(change, 2 * float(ndtr(-abs(change) / spread)))
    few, few_now = (total, some_now) if total <= rest else (rest, m - some_now)
    least = bdtr(few_now, few, part)
    most = bdtrc(few_now - 1, few, part) if few_now else 1.0
    return Change(change, min(1.0, 2 * float(min(least, most))))


def beyond_range(n: int, beyond: int, m: int) -> Change:
    """Judge that ``beyond`` of m values are above the largest of n (or below the smallest) by chance.

    Whatever the law of the values: of all n + m in a random order, the first ``beyond`` belong to the detection with
    probability m / (n + m) * (m - 1) / (n + m - 1) * … The p-value is one-sided.

    Examples
    --------
    >>> round(beyond_range(9, 1, 1).p_value, 12)
    0.1

    References
    ----------
    P. Rosenbaum, "Exact, nonparametric methods in quality control: exceedance statistics", 1954.
    """
    if n == 0 or m == 0:
        return Change(math.nan, math.nan)
    logarithm = gammaln(m + 1) - gammaln(m - beyond + 1) - gammaln(n + m + 1) + gammaln(n + m - beyond + 1)
    return Change(beyond / m, float(min(1.0, math.exp(logarithm))))
