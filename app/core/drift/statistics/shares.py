"""Tests of shares: of each category, of missing values, of values outside of the range of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import betainc, chdtrc, gammaln, ndtr

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints

#: Below so many expected events, tails are summed instead of taken from the normal law.
_FEW = 50


class ChiSquare(NamedTuple):
    """``statistic`` >= 0, its ``p_value`` without drift, and ``effect``: Cramer's V in [0, 1]."""

    statistic: Floats
    p_value: Floats
    effect: Floats


class Change(NamedTuple):
    """A share of the detection, or what it is beyond the reference's, and the ``p_value`` of no drift."""

    statistic: Floats
    p_value: Floats


def chi_square(reference: Ints, detection: Ints, design_effect: Floats | float = 1.0) -> ChiSquare:
    """Compute Pearson's chi^2 of the two windows' counts per group.

    Join groups of few events first (`app.core.drift.statistics.psi.group_cells`): its law holds from about five
    expected in each.

    Parameters
    ----------
    reference, detection
        Counts per group along the last axis. Any axes before it hold independent pairs of windows.
    design_effect
        How many events count as one (`models.reference.dependence`).

    Returns
    -------
    NaN where either window is empty; 0 with p-value 1 where there is one group.

    Examples
    --------
    Expected are 3, 3 and 1, 1 where 4, 2 and 0, 2 are: 1/3 + 1/3 + 1 + 1, and V^2 = (8/3) / 8.

    >>> result = chi_square(np.array([4, 2]), np.array([0, 2]))
    >>> round(float(result.statistic), 6), round(float(result.effect) ** 2, 6)
    (2.666667, 0.333333)

    References
    ----------
    H. Cramer, "Mathematical Methods of Statistics", Princeton 1946, chapter 30.
    """
    n, m = reference.sum(axis=-1), detection.sum(axis=-1)
    both = reference + detection
    groups = np.count_nonzero(both, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # For two windows chi^2 is n m times the sum of (p_b - q_b)^2 / (counts of both).
        apart = reference / n[..., None] - detection / m[..., None]
        statistic = n * m * np.sum(apart**2 / np.maximum(both, 1), axis=-1)
        p_value = chdtrc(np.maximum(groups - 1, 1), statistic / design_effect)
        effect = np.sqrt(statistic / (n + m))
    return ChiSquare(statistic, p_value, effect)


def change_of_share(
    some: Ints | int, n: Ints | int, some_now: Ints | int, m: Ints | int, design_effect: Floats | float = 1.0
) -> Change:
    """Compare ``some`` of n events of the reference with ``some_now`` of m.

    Given how many there are in both, those of the detection are hypergeometric without drift. With 50 expected in each
    of the four fields, the p-value is the normal law's; with fewer, twice the smaller tail of the binomial law, which
    is wider, so that p is too large rather than too small. Two-sided.

    Parameters
    ----------
    some, n, some_now, m
        Numbers of events, or arrays of them.
    design_effect
        How many events count as one (`models.reference.dependence`); the binomial law is continued to fractions of
        events.

    Returns
    -------
    NaN where either window is empty.

    Examples
    --------
    None of 900 before, 3 of 100 now: each of the three was to be one of the 100 with probability 1/10.

    >>> result = change_of_share(0, 900, 3, 100)
    >>> round(float(result.statistic), 6), round(float(result.p_value), 6)
    (0.03, 0.002)
    """
    some, n, some_now, m = (np.asarray(count) for count in (some, n, some_now, m))
    with np.errstate(divide="ignore", invalid="ignore"):
        total, part = some + some_now, m / (n + m)
        rest = n + m - total
        change = some_now / m - some / n
        spread = np.sqrt(total * rest / (n + m) ** 2 * (1 / n + 1 / m) * design_effect)
        normal = 2 * ndtr(-np.abs(change) / spread)
        few = np.where(total <= rest, total, rest) / design_effect
        few_now = np.where(total <= rest, some_now, m - some_now) / design_effect
        binomial = 2 * np.minimum(_at_most(few_now, few, part), _at_most(few - few_now, few, 1 - part))
        is_many = np.minimum(total, rest) * np.minimum(part, 1 - part) >= _FEW * design_effect
        p_value = np.where(is_many, normal, np.minimum(binomial, 1.0))
    return Change(change, np.where(np.isnan(change), np.nan, p_value))


def _at_most(k: Floats, n: Floats, p: Floats) -> Floats:
    """P(X <= k) of a binomial X, continued to fractions."""
    at_most: Floats = betainc(np.maximum(n - k, 0.0), k + 1, 1 - p)
    return at_most


def beyond_range(n: Ints, beyond: Ints, m: Ints, design_effect: Floats | float = 1.0) -> Change:
    """Judge that ``beyond`` of m values are above the largest of n (or below the smallest) by chance.

    Whatever the law of the values: of all n + m in a random order, the first ``beyond`` belong to the detection with
    probability m / (n + m) * (m - 1) / (n + m - 1) * … The p-value is one-sided.

    Parameters
    ----------
    n, beyond, m
        Numbers of events, or arrays of them.
    design_effect
        How many events count as one (`models.reference.dependence`).

    Returns
    -------
    NaN where either window is empty.

    Examples
    --------
    >>> round(float(beyond_range(np.array(9), np.array(1), np.array(1)).p_value), 12)
    0.1

    References
    ----------
    P. Rosenbaum, "Exact, nonparametric methods in quality control: exceedance statistics", 1954.
    """
    with np.errstate(invalid="ignore"):
        share = np.where(n > 0, beyond / m, np.nan)
    trained, some, detected = n / design_effect, beyond / design_effect, m / design_effect
    total = trained + detected
    logarithm = gammaln(detected + 1) - gammaln(detected - some + 1) - gammaln(total + 1) + gammaln(total - some + 1)
    return Change(share, np.where(np.isnan(share), np.nan, np.minimum(1.0, np.exp(logarithm))))
