"""Do the labels come out as the scores said? What tells concept drift from a drift of the scores alone.

Three questions to the labelled events of a window, each with its own p-value:

* *calibration*: given the score, are labels as frequent as in the reference?
* *prior*: has the rate of positives moved?
* *conditional*: do positives, and negatives, still get the scores that they got in the reference?

==================== =========== ======= ===========
kind of drift        calibration prior   conditional
==================== =========== ======= ===========
none                 holds       holds   holds
of the inputs only   holds       may go  goes
of the label's prior goes        goes    holds
of the concept       goes        may go  goes
==================== =========== ======= ===========

Labels that come early for some scores leave the calibration as it is and move the other two; labels that come early
for one label (positives first) look like a moved prior until the window is mature; ``arrived`` corrects the first test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtr

from app.core.batches import Floats, Ints
from app.core.drift.ks import ks

#: Cells are pooled until each pool expects so many of either label, in the smaller set ...
_FEWEST_EXPECTED = 5.0
#: ... into at most so many pools.
_MOST_POOLS = 10


@dataclass(frozen=True)
class LabelCheck:
    """What the labelled events of a window say of the reference. p-values of no drift; NaN where nothing can be said.

    Parameters
    ----------
    n_labels
        Labelled events of the window.
    p_calibration
        Do labels come out as the scores say? The smaller one of the tests of direction and of shape, doubled.
    p_direction
        Of the total of positives alone.
    p_shape
        Chi-square over pools of cells.
    rate_gap
        The rate of positives less that of reference events with the same scores, in [-1, 1]; 0 without drift.
    effect
        Mean over events of how far their pool's rate is from that, to either side, beyond what chance gives; >= 0, and
        about 0 without drift.
    p_prior, rate_change
        Has the share of positives moved against the reference, and by how much, in [-1, 1]?
    p_conditional
        Have the scores of positives or of negatives moved? The smaller of two Kolmogorov-Smirnov tests, doubled.
    distance
        The larger of their two distances, in [0, 1].
    """

    n_labels: int
    p_calibration: float
    p_direction: float
    p_shape: float
    rate_gap: float
    effect: float
    p_prior: float
    rate_change: float
    p_conditional: float
    distance: float

    @property
    def direction(self) -> str:
        """What the labels say of the scores, in words."""
        if math.isnan(self.rate_gap):
            return "too few labels to say"
        if self.rate_gap == 0:
            return "as many positives as the scores say"
        return f"{'more' if self.rate_gap > 0 else 'fewer'} positives than the scores say"


def check_labels(
    reference_outcomes: Ints,
    outcomes: Ints,
    design_effect: float = 1.0,
    arrived: tuple[float, float] = (1.0, 1.0),
    *,
    score_effect: float = 1.0,
) -> LabelCheck:
    """Test the labelled events of a window against the reference.

    The calibration is tested within the score cells, so that scores may drift as they like: of the T events of a cell
    in both sets together, K of them positive, m of the window's have K m / T positives, as drawn without replacement.
    The reference is a sample like the window, and its own uncertainty is part of that draw.

    Parameters
    ----------
    reference_outcomes, outcomes
        Label x score cell, of the reference (rows that the model had not seen) and of the window's labelled events.
    design_effect
        How many autocorrelated events count as one: "rate" of `app.core.estimation.design_effects`.
    arrived
        The shares of the labels 0 and 1 that are here at the window's age (see `app.core.estimation.compare`): the
        reference is thinned alike for the test of the calibration.
    score_effect
        How many events count as one for the score, which resembles itself where labels do not.

    Examples
    --------
    One cell; 2 of 4 positives before, 4 of 4 now: 6 of 8, so 3 are due among four, with variance
    4 * 4 * 6 * 2 / (8 * 8 * 7).

    >>> check = check_labels(np.array([[2], [2]]), np.array([[0], [4]]))
    >>> check.rate_gap, check.direction
    (0.5, 'more positives than the scores say')
    >>> check.p_direction == float(2 * ndtr(-1 / math.sqrt(4 * 4 * 6 * 2 / (8 * 8 * 7))))
    True

    References
    ----------
    N. Mantel, W. Haenszel, "Statistical aspects of the analysis of data from retrospective studies of disease", J. Nat.
    Cancer Inst. 22, 1959.
    """
    kept = np.ones(2) if arrived[0] == arrived[1] else np.array(arrived) / max(arrived)
    thinned = reference_outcomes * kept[:, None]
    p_direction, p_shape, rate_gap, effect = _calibration(thinned, outcomes, max(design_effect, 1.0))
    p_prior, rate_change = _prior(reference_outcomes, outcomes, max(design_effect, 1.0))
    p_conditional, distance = _conditional(reference_outcomes, outcomes, max(design_effect, score_effect, 1.0))
    return LabelCheck(
        n_labels=int(outcomes.sum()),
        p_calibration=_smaller_doubled([p_direction, p_shape]),
        p_direction=p_direction,
        p_shape=p_shape,
        rate_gap=rate_gap,
        effect=effect,
        p_prior=p_prior,
        rate_change=rate_change,
        p_conditional=p_conditional,
        distance=distance,
    )


def _calibration(reference: Floats, outcomes: Ints, design_effect: float) -> tuple[float, float, float, float]:
    """The p-values of direction and of shape, the gap of the rates, and the effect."""
    n, m = reference.sum(axis=0), outcomes.sum(axis=0)
    positives = reference[1] + outcomes[1]
    total = n + m
    (both,) = np.nonzero((n > 0) & (m > 0))
    n, m, positives, total = n[both], m[both], positives[both], total[both]
    rate = positives / total
    pools = _pool(np.minimum(n, m) * np.array([1 - rate, rate]))
    residuals = np.bincount(pools, outcomes[1, both] - m * rate)
    variances = np.bincount(pools, m * n * rate * (1 - rate) / (total - 1)) * design_effect
    # A difference of the rates of d moves a residual by d n m / T: the weights of Mantel and Haenszel.
    weights = np.bincount(pools, n * m / total)
    if not variances.sum() > 0:
        return (math.nan,) * 4
    gap = float(residuals.sum() / weights.sum())
    p_direction = float(2 * ndtr(-abs(residuals.sum()) / math.sqrt(variances.sum())))
    varied = variances > 0
    p_shape = float(chdtrc(int(varied.sum()), float((residuals[varied] ** 2 / variances[varied]).sum())))
    # A centred normal number is sqrt(2 / pi) of its deviation away from 0, in the mean.
    beyond_chance = np.abs(residuals) - math.sqrt(2 / math.pi) * np.sqrt(variances)
    effect = max(float((np.bincount(pools, m) * beyond_chance / weights).sum()) / float(m.sum()), 0.0)
    return p_direction, p_shape, gap, effect


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


def _prior(reference: Ints, outcomes: Ints, design_effect: float) -> tuple[float, float]:
    """Two shares of positives: the normal test with the common share, and their difference."""
    n_reference, n = int(reference.sum()), int(outcomes.sum())
    if not n_reference or not n:
        return math.nan, math.nan
    change = float(outcomes[1].sum()) / n - float(reference[1].sum()) / n_reference
    common = float(outcomes[1].sum() + reference[1].sum()) / (n + n_reference)
    variance = common * (1 - common) * (1 / n + 1 / n_reference) * design_effect
    return (float(2 * ndtr(-abs(change) / math.sqrt(variance))) if variance > 0 else math.nan), change


def _conditional(reference: Ints, outcomes: Ints, design_effect: float) -> tuple[float, float]:
    """Two Kolmogorov-Smirnov tests, of the scores of either label, with n counted in independent events."""
    p_values, distances = [], []
    for before, now in zip(reference, outcomes, strict=True):
        if before.any() and now.any():
            found = ks(before, now, design_effect)
            distances.append(float(found.statistic))
            p_values.append(float(found.p_value))
    return _smaller_doubled(p_values), max(distances, default=math.nan)


def _smaller_doubled(p_values: list[float]) -> float:
    known = [p for p in p_values if not math.isnan(p)]
    return min(min(known) * len(known), 1.0) if known else math.nan
