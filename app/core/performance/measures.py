"""How well a version predicted, from the counts of its labelled events, and how sure that is.

Nothing here needs the events themselves: rank measures come from label x score-bin counts, sums from fixed point.

A range holds the true value in 95 % of the cases, as far as labels are independent; where they err together for a
while, the calibration's design effects widen it. It has to be right for few positives, too: whether a window can decide
an alert's limit is read from it (`app.core.alerts.readings`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.reference.units import COUNT_UNITS
from schemas.pipeline.spec import RELATIVE_MEASURES

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.batches import Floats, Ints
    from app.core.performance.calibration import Calibration
    from models.reference.reference import Counts

#: Two-sided 95 % of the standard normal distribution.
NORMAL_95 = 1.959963984540054
#: Measures of which less is better; of all others more is.
LOWER_IS_BETTER = frozenset({"log_loss", "cost"})
#: Of fewer labels of a kind, nothing is known of what only such labels can show.
FEWEST_OF_EITHER = 10
#: Of the rarer label, so many events more of which the range of an AUC knows nothing.
_UNKNOWN_EVENTS = 2.0
#: Halvings of the interval in which a bound of the AUC lies.
_HALVINGS = 26


class Measure(NamedTuple):
    """A measure of performance and its range (NaN where it is not determined)."""

    name: str
    realised: float
    low: float
    high: float


def measure(counts: Counts, calibration: Calibration | None = None) -> list[Measure]:
    """Compute the measures of the labelled events; NaN where they do not determine one.

    AUC, log loss and accuracy; with a calibration also precision, recall and, where errors cost something, their cost.
    The range of the AUC is Newcombe's (`auc_range`), those of shares of events (accuracy, precision, recall) Wilson's,
    those of means of losses (log loss, cost) normal ones, where there are ten labels of either kind.

    Parameters
    ----------
    calibration
        What a score means, for the ranges of losses and for design effects, and which cells are decided how; without it
        there is neither.
    """
    n_labels = counts.n_labels
    log_loss = counts.log_loss_sum / COUNT_UNITS / n_labels if n_labels else math.nan
    losses = None if calibration is None else calibration.losses
    measures = [
        Measure("auc", auc(counts.outcomes), *auc_range(counts.outcomes, _reach(calibration, "auc"))),
        _mean_loss("log_loss", log_loss, counts.outcomes, calibration, losses),
        _share("accuracy", counts.n_correct, n_labels, calibration),
    ]
    if calibration is None:
        return measures
    (_, false_negative), (false_positive, true_positive) = (
        side.sum(axis=1).tolist() for side in np.split(counts.outcomes, [calibration.threshold_cell], axis=1)
    )
    measures.append(_share("precision", true_positive, false_positive + true_positive, calibration))
    measures.append(_share("recall", true_positive, false_negative + true_positive, calibration))
    if calibration.costs is not None:
        of_positive, of_negative = calibration.costs
        cost = (of_positive * false_positive + of_negative * false_negative) / n_labels if n_labels else math.nan
        measures.append(_mean_loss("cost", cost, counts.outcomes, calibration, calibration.cost_of_cells))
    return measures


def _reach(calibration: Calibration | None, name: str) -> float:
    """How far a range reaches, in deviations of independent labels."""
    effects = {} if calibration is None else calibration.design_effects
    return NORMAL_95 * math.sqrt(max(effects.get(name, 1.0), 1.0))


def _share(name: str, k: int, n: int, calibration: Calibration | None) -> Measure:
    share = k / n if n else math.nan
    return Measure(name, share, *wilson(share, n, _reach(calibration, name)))


def _mean_loss(
    name: str, mean: float, outcomes: Ints, calibration: Calibration | None, losses: Floats | None
) -> Measure:
    """``losses``: label x cell; None: not known, and no range is."""
    if calibration is None or losses is None:
        return Measure(name, mean, math.nan, math.nan)
    half = _reach(calibration, name) * _deviation_of_mean(outcomes, calibration, losses)
    return Measure(name, mean, max(mean - half, 0.0) if half >= 0 else math.nan, mean + half)


def loss_of(name: str, value: float, expected: float) -> float:
    """How much worse a value of a measure is than what was to be expected; negative: better."""
    return value - expected if name in LOWER_IS_BETTER else expected - value


def least_loss(name: str, minimum_effect: float, expected: float) -> float:
    """The smallest loss of a measure that matters, in its own unit (see `schemas.pipeline.spec.Performance`).

    Examples
    --------
    >>> least_loss("auc", 0.02, 0.87), least_loss("log_loss", 0.05, 0.5)
    (0.02, 0.025)
    """
    return minimum_effect * expected if name in RELATIVE_MEASURES else minimum_effect


def auc(outcomes: Ints) -> float:
    """Compute the area under the ROC curve: P(score of a positive > of a negative) + half of P(equal).

    Exact for the binned scores: one division of integers.

    Parameters
    ----------
    outcomes
        Counts, label (0, 1) x score bin.

    Returns
    -------
    In [0, 1]; NaN when either label is absent.

    Examples
    --------
    Negatives in bins 0 and 1, positives in 1 and 2. Of four pairs three are in order and one is a tie: 3.5 / 4.

    >>> import numpy as np
    >>> auc(np.array([[1, 1, 0], [0, 1, 1]]))
    0.875

    References
    ----------
    H. Mann, D. Whitney, "On a test of whether one of two random variables is stochastically larger", 1947.
    """
    negative, positive = (row.tolist() for row in outcomes)
    below = 0  # Python integers: pairs outgrow 64 bits
    doubled = 0
    for n_negative, n_positive in zip(negative, positive, strict=True):
        doubled += n_positive * (2 * below + n_negative)
        below += n_negative
    pairs = below * sum(positive)
    return doubled / (2 * pairs) if pairs else math.nan


def auc_range(outcomes: Ints, deviations: float = NORMAL_95) -> tuple[float, float]:
    """Compute the range of an AUC: the areas that are no further from the one found than chance would take them.

    Newcombe's method 5: the variance is that of each area in question and not of the one found, so that the range has a
    width even where all positives are on top. Where the scores show more spread than it takes them to have (DeLong's
    variance), it is as much wider; and as few events show little of that, the largest variance that there can be (that
    of Birnbaum and Klose) weighs in like two more of the rarer label.

    Parameters
    ----------
    outcomes
        Counts, label (0, 1) x score bin.
    deviations
        How far it reaches, in standard deviations.

    Returns
    -------
    In [0, 1]; NaN when either label is absent. At 95 % it misses to either side in at most 2 to 6 % of the cases, with
    three positives in at most 7 %, and where scores spread as those of a calibrated model do, in hardly any.

    Examples
    --------
    Three positives, all above a thousand negatives, may be those of a model with an AUC of 0.57.

    >>> low, high = auc_range(np.array([[1000, 0], [0, 3]]))
    >>> round(low, 2), high
    (0.57, 1.0)

    References
    ----------
    R. Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2:
    asymptotic methods and evaluation", Statistics in Medicine 25, 2006; E. DeLong et al., "Comparing the areas under
    two or more correlated receiver operating characteristic curves", Biometrics 44, 1988; Z. Birnbaum, O. Klose,
    "Bounds for the variance of the Mann-Whitney statistic", Ann. Math. Statist. 28, 1957.
    """
    negative, positive = (row.astype(np.float64) for row in outcomes)
    n_negative, n_positive = float(negative.sum()), float(positive.sum())
    if not n_negative or not n_positive:
        return math.nan, math.nan
    # For each bin, the share of the other label that an event of it is in order with.
    over = (np.cumsum(negative) - negative / 2) / n_negative
    under = (n_positive - np.cumsum(positive) + positive / 2) / n_positive
    area = float(positive @ over) / n_positive
    shown = sum(
        float(row @ (shares - area) ** 2) / n / max(n - 1, 1.0)
        for row, shares, n in ((positive, over, n_positive), (negative, under, n_negative))
    )
    taken = _newcombe_variance(area, n_positive, n_negative)
    spread = max(shown / taken, 1.0) if taken > 0 else 1.0
    rarer = min(n_positive, n_negative)
    weight = _UNKNOWN_EVENTS / (_UNKNOWN_EVENTS + rarer)

    def reach(other: float) -> float:
        of_taken = spread * _newcombe_variance(other, n_positive, n_negative)
        return deviations * math.sqrt(max(weight * other * (1 - other) / rarer + (1 - weight) * of_taken, 0.0))

    return _bound(area, 0.0, reach), _bound(area, 1.0, reach)


def _bound(area: float, end: float, reach: Callable[[float], float]) -> float:
    """The furthest from one area towards an end that is within its own reach of it."""
    inside, outside = area, end
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if abs(middle - area) <= reach(middle):
            inside = middle
        else:
            outside = middle
    return outside if outside == end else inside


def _newcombe_variance(area: float, n_positive: float, n_negative: float) -> float:
    """Hanley and McNeil's, with the mean of both numbers of events for either where they weigh the two spreads."""
    mean = (n_positive + n_negative) / 2
    spreads = (1 - area) / (2 - area) + area / (1 + area)
    return area * (1 - area) * (1 + (mean - 1) * spreads) / (n_positive * n_negative)


def hanley_mcneil_variance(area: float, n_positive: int, n_negative: int) -> float:
    """Compute the variance of an AUC of independent events; at least one of either is needed.

    References
    ----------
    J. Hanley, B. McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
    Radiology 143, 1982.
    """
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    sums = area * (1 - area) + (n_positive - 1) * (first - area**2) + (n_negative - 1) * (second - area**2)
    return max(sums / (n_positive * n_negative), 0.0)


def wilson(share: float, n: int, deviations: float = NORMAL_95) -> tuple[float, float]:
    """Compute Wilson's range of a share of n; NaN without any.

    References
    ----------
    E. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22, 1927.
    """
    if n == 0:
        return math.nan, math.nan
    square = deviations**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = deviations / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _deviation_of_mean(outcomes: Ints, calibration: Calibration, losses: Floats) -> float:
    """The standard deviation of a mean loss, from each cell's losses; NaN where it is not determined.

    Few labels of a kind say too little of it: without any positives the losses are all small and alike, and one that
    comes may cost more than all of them. So there have to be some of either, and it is that of the labels that came, or
    of those to be expected of the same scores, whichever is larger.
    """
    labelled = outcomes.sum(axis=0)
    n = int(labelled.sum())
    if np.isnan(calibration.probability).any() or min(outcomes.sum(axis=1).tolist()) < FEWEST_OF_EITHER:
        return math.nan
    expected = labelled * np.array([1 - calibration.probability, calibration.probability])
    variances = []
    for events in (outcomes, expected):
        mean = float((events * losses).sum()) / n
        variances.append(float((events * (losses - mean) ** 2).sum()) / n / (n - 1))
    return math.sqrt(max(variances))
