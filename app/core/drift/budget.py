"""The budget of false alarms, and how a window spends its part of it.

"At most one false alarm per model in 30 days" is a rate. A window that ends every day gets a thirtieth of it: the
probability alpha that any of its hypotheses (metrics x segments x ways to look at them) is rejected though nothing has
moved. Within the window Benjamini and Hochberg's procedure holds it: when nothing has moved, it rejects anything at all
with probability alpha (of independent hypotheses, Simes; below of positively dependent ones), and when much has, at
most a share alpha of what it rejects is false. Over time each window has the same alpha, so the alarms of a stream
without drift are as far apart as declared, whatever the dependence between windows; why this and no other procedure is
in docs/adr/0020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from app.core.batches import Floats
    from schemas.pipeline.spec import FalseAlarms

#: Of a model's budget, where there are labels: for features and score, for the tests of the outcome, for what the
#: verdict asks of the labels, for the stream of errors.
OF_WINDOWS, OF_OUTCOMES, OF_LABELS, OF_ERRORS = 0.3, 0.05, 0.25, 0.4
#: A window longer than the budget's time could alarm for nothing each time; it gets no more than this.
MOST_ALPHA = 0.05


class Spent(NamedTuple):
    """Which hypotheses are rejected; ``threshold``: the p-value below which each would be."""

    rejected: NDArray[np.bool_]
    threshold: Floats


def alpha_of_window(budget: FalseAlarms, share: float, every_ms: float, n_events: int) -> float:
    """The probability of a false alarm that one window may have.

    Parameters
    ----------
    share
        Of the budget, for the tests in question.
    every_ms
        How far apart windows end, in event time.
    n_events
        How many events the window holds.

    Examples
    --------
    >>> from schemas.pipeline.spec import FalseAlarms
    >>> round(alpha_of_window(FalseAlarms(1, per_ms=30 * 86_400_000), 1.0, 86_400_000, 5_000), 6)
    0.033333
    >>> alpha_of_window(FalseAlarms(1, per_events=1_000_000), 0.5, 86_400_000, 5_000)
    0.0025
    """
    if budget.per_ms is not None:
        part = every_ms / budget.per_ms
    else:
        assert budget.per_events is not None
        part = n_events / budget.per_events
    return min(share * budget.number * part, MOST_ALPHA)


def of_windows(*, has_labels: bool, has_detectors: bool) -> float:
    """The part of the budget for features and score: all of it without labels, else what detectors leave of it.

    Examples
    --------
    >>> [of_windows(has_labels=True, has_detectors=has_detectors) for has_detectors in (True, False)]
    [0.3, 0.7]
    """
    if not has_labels:
        return 1.0
    return OF_WINDOWS if has_detectors else OF_WINDOWS + OF_ERRORS


def spend(p_values: Floats, weights: Floats, alpha: float) -> Spent:
    """Reject hypotheses by the weighted procedure of Benjamini and Hochberg.

    Parameters
    ----------
    p_values
        NaN: not testable; it takes no part, and nothing of the budget.
    weights
        How much of the budget each may have, relative to the others; positive.
    alpha
        What the window may spend.

    Examples
    --------
    The smallest may be 0.01, the two smallest 0.02, and so on; 0.018 goes with 0.004.

    >>> spend(np.array([0.018, 0.5, 0.004, 0.9, 0.04]), np.ones(5), 0.05).rejected.tolist()
    [True, False, True, False, False]

    References
    ----------
    Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 1995; C. Genovese, K.
    Roeder, L. Wasserman, "False discovery control with p-value weighting", Biometrika 93, 2006; R. Simes, "An improved
    Bonferroni procedure for multiple tests of significance", Biometrika 73, 1986.
    """
    testable = ~np.isnan(p_values)
    threshold = np.full(p_values.shape, np.nan)
    rejected = np.zeros(p_values.shape, dtype=bool)
    count = int(testable.sum())
    if count:
        share = weights[testable] / weights[testable].sum()
        weighted = np.sort(p_values[testable] / share)
        below = np.flatnonzero(weighted <= alpha * np.arange(1, count + 1))
        threshold[testable] = alpha * (int(below[-1]) + 1 if len(below) else 1) * share
        rejected[testable] = p_values[testable] <= threshold[testable]
    return Spent(rejected, threshold)
