"""How well a version predicted, from the counts of its labelled events.

Nothing here needs the events themselves: rank measures come from label x score-bin counts, sums from fixed point.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from models.units import FIXED_POINT

if TYPE_CHECKING:
    from app.core.batches import Ints
    from models.reference import Counts

#: Two-sided 95 % of the standard normal distribution.
NORMAL_95 = 1.959963984540054


class Measure(NamedTuple):
    """A measure of performance and its 95 % range (NaN where none is computed)."""

    name: str
    realised: float
    low: float
    high: float


def measure(counts: Counts) -> list[Measure]:
    """Compute AUC, log loss and accuracy of the labelled events; NaN where they do not determine one.

    The range of the AUC is Hanley and McNeil's, a normal approximation with their exponential-score variance, not
    DeLong's; that of the accuracy is Wilson's; the log loss has none, since its spread is not counted.
    """
    n_labels = counts.n_labels
    n_negative, n_positive = (int(count) for count in counts.outcomes.sum(axis=1))
    area = auc(counts.outcomes)
    accuracy = counts.n_correct / n_labels if n_labels else math.nan
    return [
        Measure("auc", area, *hanley_mcneil(area, n_positive, n_negative)),
        Measure("log_loss", counts.log_loss_sum / FIXED_POINT / n_labels if n_labels else math.nan, math.nan, math.nan),
        Measure("accuracy", accuracy, *wilson(accuracy, n_labels)),
    ]


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


def hanley_mcneil(area: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """Compute the 95 % range of an AUC, cut to [0, 1]; NaN for a NaN.

    Examples
    --------
    A = 1/2: Q1 = Q2 = 1/3, so with 10 and 10 the variance is (1/4 + 2 * 9 * (1/3 - 1/4)) / 100 = 0.0175.

    >>> low, high = hanley_mcneil(0.5, 10, 10)
    >>> round((high - low) / (2 * 1.959963984540054), 6) == round(math.sqrt(0.0175), 6)
    True

    References
    ----------
    J. Hanley, B. McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
    Radiology 143, 1982.
    """
    if math.isnan(area):
        return math.nan, math.nan
    half = NORMAL_95 * math.sqrt(hanley_mcneil_variance(area, n_positive, n_negative))
    return max(area - half, 0.0), min(area + half, 1.0)


def hanley_mcneil_variance(area: float, n_positive: int, n_negative: int) -> float:
    """Compute the variance of an AUC of independent events (see `hanley_mcneil`); at least one of either is needed."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    sums = area * (1 - area) + (n_positive - 1) * (first - area**2) + (n_negative - 1) * (second - area**2)
    return max(sums / (n_positive * n_negative), 0.0)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % range of a share of n; NaN without any.

    References
    ----------
    E. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22, 1927.
    """
    if n == 0:
        return math.nan, math.nan
    middle = (share + NORMAL_95**2 / (2 * n)) / (1 + NORMAL_95**2 / n)
    half = NORMAL_95 / (1 + NORMAL_95**2 / n) * math.sqrt(share * (1 - share) / n + NORMAL_95**2 / (4 * n * n))
    return max(middle - half, 0.0), min(middle + half, 1.0)
