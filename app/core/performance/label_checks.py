"""Tests of labels against scores, which tell concept drift from other drifts, also where positives are rare.

Four questions to the labelled events of a window, each with its own p-value:

* *direction*: given the score, are positives as frequent as in the reference, on the whole?
* *order*: whatever their rate, do the scores tell positives from negatives as well as they did?
* *shape*: whatever their rate, are positives as frequent at each score, relative to the others?
* *prior*: has the rate of positives moved?

==================== ========= ============ =======
kind of drift        direction order, shape prior
==================== ========= ============ =======
none                 holds     hold         holds
of the inputs only   holds     hold         may go
of the label's prior goes      hold         goes
of the concept       may go    go           may go
==================== ========= ============ =======

Order and shape compare odds: where only the prior moves, Bayes' rule multiplies the odds of all scores by one number,
and they see nothing. A change of concept that makes positives more or less frequent by the same factor at all scores
looks like a moved prior. Scores and labels cannot tell the two apart.

Where positives are rare, each test must be right in its tail, and a normal law is not: the sums are skewed. Their tails
are taken from the gamma law with the same three moments. Labels may come early for some scores: that changes the prior
alone. Or one of the labels may come early (positives first): that looks like a moved prior until the window is mature,
and ``arrived`` corrects the direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import chdtrc, gammainc, gammaincc, ndtr

from app.core.batches import Floats, Ints
from app.core.performance.loss_tails import find_lower_tail, law_of_means
from app.core.performance.order_weights import Weights

#: The shares of the labels 0 and 1 that are here, where all are.
ALL_ARRIVED = (1.0, 1.0)
#: Cells are pooled until each pool expects so many of either label, in the smaller set ...
_FEWEST_EXPECTED = 5.0
#: ... into at most so many pools.
_MOST_POOLS = 10
#: From this p-value on, the tail of the order is taken for what it is.
_LIKELY = 0.1
#: Below this skewness a sum is normal.
_LEAST_SKEW = 1e-3
#: A factor of all odds is looked for within e to this power, to this share of the positives, in so many steps.
_MOST_LOG_ODDS, _NEAR, _STEPS = 30.0, 1e-7, 60


@dataclass(frozen=True)
class LabelCheck:
    """What the labelled events of a window say of the reference. p-values of no drift; NaN where nothing can be said.

    Parameters
    ----------
    n_labels
        Labelled events of the window.
    p_direction
        Are there as many positives as reference events with the same scores had?
    p_order
        Do scores tell labels apart as well as they did? One-sided: small where they do so less well.
    p_shape
        Chi-square over pools of cells: are the odds as they were, but for one factor?
    rate_gap
        The rate of positives less that of reference events with the same scores, in [-1, 1]; 0 without drift.
    effect
        Mean over events of how far their pool's rate is from what one factor explains, to either side, beyond what
        chance gives; >= 0, and about 0 without drift.
    p_prior, rate_change
        Has the share of positives moved against the reference, and by how much, in [-1, 1]?
    """

    n_labels: int
    p_direction: float
    p_order: float
    p_shape: float
    rate_gap: float
    effect: float
    p_prior: float
    rate_change: float

    @property
    def direction(self) -> str:
        """What the labels say of the scores, in words."""
        if math.isnan(self.rate_gap):
            return "too few labels to say"
        if self.rate_gap == 0:
            return "as many positives as the scores say"
        return f"{'more' if self.rate_gap > 0 else 'fewer'} positives than the scores say"


class _Cells(NamedTuple):
    """Cells of the score that both sets have events in: labelled events and positives of the reference and the window.

    ``n`` and ``k`` of the reference, ``m`` and ``j`` of the window.
    """

    n: Floats
    k: Floats
    m: Floats
    j: Floats


def check_labels(
    reference_outcomes: Ints,
    outcomes: Ints,
    weights: Weights,
    design_effect: float = 1.0,
    arrived: tuple[float, float] = ALL_ARRIVED,
    *,
    prior_effect: float = 1.0,
) -> LabelCheck:
    """Test the labelled events of a window against the reference.

    All but the prior is tested within the score cells, so that scores may drift as they like: of the T events of a cell
    in both sets together, K of them positive, m of the window's have K m / T positives, as drawn without replacement.
    The reference is a sample like the window, and its own uncertainty is part of that draw.

    Parameters
    ----------
    reference_outcomes, outcomes
        Label x score cell, of the reference (rows that the model had not seen) and of the window's labelled events.
    weights
        Of the reference, by `app.core.performance.order_weights`.
    design_effect
        How many autocorrelated events count as one: "rate" of `app.core.performance.estimation.design_effects`.
    arrived
        The shares of the labels 0 and 1 that are here at the window's age (see
        `app.core.performance.estimation.compare`): the reference is thinned alike.
    prior_effect
        How many events count as one for the share of positives, which may wander with the scores.

    Examples
    --------
    One cell; 20 of 40 positives before, 30 of 40 now: 50 of 80, so 25 are due among forty, with variance
    40 * 40 * 50 * 30 / (80 * 80 * 79).

    >>> check = check_labels(np.array([[20], [20]]), np.array([[10], [30]]), lambda positives: np.zeros(1))
    >>> check.rate_gap, check.direction
    (0.25, 'more positives than the scores say')
    >>> check.p_direction == float(2 * ndtr(-5 / math.sqrt(40 * 40 * 50 * 30 / (80 * 80 * 79))))
    True

    References
    ----------
    N. Mantel, W. Haenszel, "Statistical aspects of the analysis of data from retrospective studies of disease", J. Nat.
    Cancer Inst. 22, 1959; N. Breslow, N. Day, "Statistical Methods in Cancer Research" I, IARC 1980, sections 4.4 and
    4.5 (homogeneity of odds ratios, and their trend).
    """
    design_effect = max(design_effect, 1.0)
    thinned = reference_outcomes * thinning(arrived)[:, None]
    n, m = thinned.sum(axis=0), outcomes.sum(axis=0).astype(np.float64)
    (both,) = np.nonzero((n > 0) & (m > 0))
    cells = _Cells(n[both], thinned[1, both], m[both], outcomes[1, both].astype(np.float64))
    p_direction, gap = _direction(cells, design_effect)
    p_order, p_shape, effect = _beside_the_rate(
        cells, weights(float(cells.j.sum()) / design_effect)[both], design_effect
    )
    p_prior, change = _prior(thinned, outcomes, max(design_effect, prior_effect))
    return LabelCheck(int(outcomes.sum()), p_direction, p_order, p_shape, gap, effect, p_prior, change)


def thinning(arrived: tuple[float, float]) -> Floats:
    """What to multiply a reference's labels 0 and 1 by, so that they are as a window's of which such shares are here.

    Only their ratio matters.
    """
    return np.ones(2) if arrived[0] == arrived[1] else np.array(arrived) / max(arrived)


def _direction(cells: _Cells, design_effect: float) -> tuple[float, float]:
    """The total of positives against that of reference events with the same scores: p-value, and gap of the rates."""
    n, k, m, j = cells
    total = n + m
    rate = (k + j) / total
    residual = float((j - m * rate).sum())
    variances = m * n * rate * (1 - rate) / np.maximum(total - 1, 1)
    if not variances.sum() > 0:
        return math.nan, math.nan
    # A difference of the rates of d moves a residual by d n m / T: the weights of Mantel and Haenszel.
    gap = residual / float((n * m / total).sum())
    third = float((variances * (1 - 2 * rate) * (n - m) / total).sum())
    below, above = _tails(residual, float(variances.sum()), third, design_effect)
    none, every = _ends(m, rate, design_effect)
    return min(1.0, 2 * min(max(below, none), max(above, every))), gap


def _beside_the_rate(cells: _Cells, weights: Floats, design_effect: float) -> tuple[float, float, float]:
    """The p-values of order and of shape, and the effect: what is left when the odds may have one factor."""
    due = _share_out(cells)
    rate = (cells.k + cells.j) / (cells.n + cells.m)
    variances = _spread(due, cells.n, cells.m, cells.k + cells.j)
    information = float(variances.sum())
    if not information > 0:
        return math.nan, math.nan, math.nan
    residuals = cells.j - due
    skew = (1 - 2 * rate) * (cells.n - cells.m) / (cells.n + cells.m)
    centred = weights - float(weights @ variances) / information
    variance, third = float(centred**2 @ variances), float(centred**3 @ (variances * skew))
    p_order = math.nan
    if variance > _NEAR * information:
        value = float(centred @ residuals)
        p_order = _tails(value, variance, third, design_effect)[1]
        if p_order < _LIKELY:
            z = value / math.sqrt(variance * design_effect)
            p_order = _tail_of_positives(weights, due, z, information / design_effect)
    pools = _pool(np.minimum(cells.n, cells.m) * np.array([1 - rate, rate]))
    of_pools, spread = np.bincount(pools, residuals), np.bincount(pools, variances) * design_effect
    varied = spread > 0
    free = int(varied.sum()) - 1
    p_shape = float(chdtrc(free, float((of_pools[varied] ** 2 / spread[varied]).sum()))) if free else math.nan
    # A centred normal number is sqrt(2 / pi) of its deviation away from 0, in the mean.
    beyond_chance = np.abs(of_pools) - math.sqrt(2 / math.pi) * np.sqrt(spread)
    reach = np.bincount(pools, cells.n * cells.m / (cells.n + cells.m))
    effect = max(float((np.bincount(pools, cells.m) * beyond_chance / reach).sum()) / float(cells.m.sum()), 0.0)
    return p_order, p_shape, effect


def _tail_of_positives(weights: Floats, due: Floats, z: float, n: float) -> float:
    """How often the mean weight of so many positives is as high, in its deviations: by its saddlepoint.

    The positives lie in the cells as they are due. A gamma law of three moments has more in its tail than such a mean,
    whose summands are bounded: a handful of positives, all of them where hardly any should be, says more than that.
    """
    (there,) = np.nonzero(due)
    shares, weights = due[there] / due.sum(), weights[there]
    mean = float(shares @ weights)
    value = mean + z * math.sqrt(float(shares @ (weights - mean) ** 2) / n)
    most = float(weights.max())
    if value >= most:  # all of them are where it is highest
        return math.pow(float(shares[weights == most].sum()), n)
    return find_lower_tail(-value, law_of_means([(n, shares, -weights)], 0.0, 0.0))


def _share_out(cells: _Cells) -> Floats:
    """The positives that the window's events of each cell would have if the odds of all had changed by one factor.

    The factor is the one that gives as many as there are in all; the sum rises with it.
    """
    n, k, m, j = cells
    total, positives = float(j.sum()), k + j
    if total <= 0 or total >= float(np.minimum(m, positives).sum()):
        return j.copy()  # the factor is 0 or infinity: nothing is left to say
    low, high = -_MOST_LOG_ODDS, _MOST_LOG_ODDS
    middle, due = 0.0, j
    for _ in range(_STEPS):
        due = _due(math.exp(middle), n, m, positives)
        short = total - float(due.sum())
        if abs(short) < _NEAR * total:
            break
        low, high = (middle, high) if short > 0 else (low, middle)
        # Newton's step, by the variance of the sum; half way between the bounds where it leads beyond them.
        step = middle + short / max(float(_spread(due, n, m, positives).sum()), 1e-300)
        middle = step if low < step < high else (low + high) / 2
    return due


def _spread(due: Floats, n: Floats, m: Floats, positives: Floats) -> Floats:
    """The variances of positives of the window, of cells that have either label in either set."""
    parts = np.stack([due, m - due, positives - due, n - positives + due])
    harmonic = 1 / (1 / np.maximum(parts, 1e-300)).sum(axis=0)
    return np.where((parts > 0).all(axis=0), harmonic, 0.0)


def _due(factor: float, n: Floats, m: Floats, positives: Floats) -> Floats:
    """X with x (n - K + x) = factor (m - x) (K - x), from 0 to min(m, K)."""
    a, b, c = 1 - factor, n - positives + factor * (m + positives), -factor * m * positives
    root = np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))
    return np.clip(-2 * c / np.maximum(b + root, 1e-300), 0.0, np.minimum(m, positives))


def _tails(value: float, variance: float, third: float, design_effect: float) -> tuple[float, float]:
    """How often a sum of these moments about 0 is as low as a value, and as high: of the gamma law that has them.

    Events that count for less than one make the sum wider, and as skewed as that of fewer events.
    """
    deviation = math.sqrt(variance * design_effect)
    z = value / deviation
    skew = third / variance**1.5 * math.sqrt(design_effect)
    if abs(skew) < _LEAST_SKEW:
        return float(ndtr(z)), float(ndtr(-z))
    shape = 4 / skew**2
    at = max(shape + math.copysign(z, z * skew) * math.sqrt(shape), 0.0)
    up = float(gammaincc(shape, at)), float(gammainc(shape, at))
    return (up[1], up[0]) if skew > 0 else up


def _ends(m: Floats | Ints, rate: Floats, design_effect: float) -> tuple[float, float]:
    """How likely it is that none of the events are positive, and that all are: no tail is less.

    The gamma law ends before that where the events that are most likely to be positive are few.
    """
    varied = (rate > 0) & (rate < 1)
    none, every = (float(m[varied] @ np.log(chances[varied])) for chances in (1 - rate, rate))
    return math.exp(none / design_effect), math.exp(every / design_effect)


def _pool(expected: Floats) -> Ints:
    """Number pools of neighbouring cells that expect enough of either label; what is left over joins the last one."""
    share = float(expected.sum()) / _MOST_POOLS
    pool, negative, positive = 0, 0.0, 0.0
    pools = []
    for more_negative, more_positive in expected.T.tolist():
        pools.append(pool)
        negative, positive = negative + more_negative, positive + more_positive
        if min(negative, positive) >= _FEWEST_EXPECTED and negative + positive >= share:
            pool, negative, positive = pool + 1, 0.0, 0.0
    return np.minimum(np.array(pools, np.int64), max(pool - 1, 0))


def _prior(reference: Floats, outcomes: Ints, design_effect: float) -> tuple[float, float]:
    """Two shares of positives, as drawn without replacement from both together: p-value, and their difference."""
    n, m = int(reference.sum()), int(outcomes.sum())
    if not n or not m:
        return math.nan, math.nan
    change = int(outcomes[1].sum()) / m - int(reference[1].sum()) / n
    rate = int(outcomes[1].sum() + reference[1].sum()) / (n + m)
    variance = m * n * rate * (1 - rate) / (n + m - 1)
    if not variance > 0:
        return math.nan, change
    third = variance * (1 - 2 * rate) * (n - m) / (n + m)
    below, above = _tails(int(outcomes[1].sum()) - m * rate, variance, third, design_effect)
    none, every = _ends(np.array([m]), np.array([rate]), design_effect)
    return min(1.0, 2 * min(max(below, none), max(above, every))), change
