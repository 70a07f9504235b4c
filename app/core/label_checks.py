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
for one label (positives first) look like a moved prior until the window is mature. `arrived` corrects the first test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, kolmogorov, ndtr

from app.core.batches import Floats, Ints
from app.core.calibration import Calibration
from app.core.drift.ks import ks

#: Cells are pooled until each pool expects so many of either label ...
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
        Positives beyond those expected, per labelled event, in [-1, 1]: above 0, there are more than the scores say.
    effect
        Mean over events of how far their pool's rate is from what the scores say, beyond what chance gives; >= 0,
        and 0 for what is no more than chance.
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
    calibration: Calibration,
    reference_outcomes: Ints,
    outcomes: Ints,
    arrived: tuple[float, float] = (1.0, 1.0),
) -> LabelCheck:
    """Test the labelled events of a window against the reference.

    Parameters
    ----------
    calibration
        Of ``reference_outcomes``; its uncertainty and design effect are part of every p-value.
    reference_outcomes, outcomes
        Label x score cell, of the reference and of the window's labelled events so far.
    arrived
        The shares of the labels 0 and 1 that are here at the window's age (see `app.core.estimation.compare`).
    """
    n_labels = int(outcomes.sum())
    p_direction, p_shape, rate_gap, effect = _calibration(calibration.among_arrived(arrived), outcomes)
    p_prior, rate_change = _prior(reference_outcomes, outcomes, calibration.design_effect)
    p_conditional, distance = _conditional(reference_outcomes, outcomes, calibration.design_effect)
    return LabelCheck(
        n_labels=n_labels,
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


def _calibration(calibration: Calibration, outcomes: Ints) -> tuple[float, float, float, float]:
    """The p-values of direction and of shape, the gap of the rates, and the effect."""
    n = outcomes.sum(axis=0)
    if not n.any() or np.isnan(calibration.probability).any():
        return (math.nan,) * 4
    p = calibration.probability
    pools = _pool(np.array([n * (1 - p), n * p]))
    # Pool x cell: the labels of that cell, so that every figure below is a product with it.
    membership = (np.arange(pools.max() + 1)[:, None] == pools).astype(np.float64)
    residuals = membership @ (outcomes[1] - n * p)
    covariance = np.diag(membership @ (n * p * (1 - p))) * calibration.design_effect
    covariance += calibration.covariance(membership * n)
    total = float(residuals.sum())
    p_direction = float(2 * ndtr(-abs(total) / math.sqrt(covariance.sum())))
    p_shape = float(chdtrc(len(residuals), max(float(residuals @ np.linalg.solve(covariance, residuals)), 0.0)))
    n_labels = int(n.sum())
    # A centred normal number is sqrt(2 / pi) of its deviation away from 0, in the mean.
    by_chance = math.sqrt(2 / math.pi) * np.sqrt(np.diag(covariance)).sum()
    effect = max(float(np.abs(residuals).sum() - by_chance), 0.0) / n_labels
    return p_direction, p_shape, total / n_labels, effect


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
        n, m = int(before.sum()), int(now.sum())
        if n and m:
            distance = ks(before, now).statistic
            distances.append(distance)
            p_values.append(float(kolmogorov(math.sqrt(n * m / (n + m) / design_effect) * distance)))
    return _smaller_doubled(p_values), max(distances, default=math.nan)


def _smaller_doubled(p_values: list[float]) -> float:
    known = [p for p in p_values if not math.isnan(p)]
    return min(min(known) * len(known), 1.0) if known else math.nan
