"""How much a positive at each score speaks for scores that tell positives from negatives less well."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import expit, logit

from app.core.batches import Floats, Ints
from models.reference.counting import SMALLEST_PROBABILITY

#: Of so many independent positives, how much one at each score cell speaks for scores that tell less.
Weights = Callable[[float], Floats]
#: The share of positives that have become like any event, by which the order is asked: as many as can just be found
#: among n, which is some number of deviations of a share of them; within bounds.
_STRAYS_BY_ROOT, _FEWEST_STRAYS, _MOST_STRAYS = 0.7, 0.05, 0.5
#: How near the line of log odds is found, in at most so many steps, none of which is longer than this.
_NEAR, _STEPS, _LONGEST_STEP = 1e-7, 60, 2.0


def order_weights(reference_outcomes: Ints, mean_scores: Floats) -> Weights:
    """How much a positive at each score speaks for scores that tell less.

    The weight is the sum of two things, each in units of its deviation over the positives:

    * the logarithm of how much likelier a positive is there if some positives have become like any event. This is the
      best test for the few positives that are where scores say hardly any are.
    * its rank among the negatives, which is what the AUC counts.

    The fewer positives there are, the more of them must have strayed to be noticed; the test is the best one for so
    many. What a score means is a line in its log odds, fitted to the reference. These are two numbers, so the weights
    know next to nothing of the labels that are tested.

    Parameters
    ----------
    mean_scores
        Per cell; NaN where there are none.
    """
    negative, positive = reference_outcomes.astype(np.float64)
    if not (negative.any() and positive.any()):
        return lambda positives: np.zeros(len(negative))  # noqa: ARG005
    known = np.flatnonzero(~np.isnan(mean_scores))
    score = (
        np.interp(np.arange(len(negative)), known, mean_scores[known]) if len(known) else np.full(len(negative), 0.5)
    )
    log_odds = logit(np.clip(score, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY))
    overall = math.log(positive.sum() / negative.sum())
    likeness = overall - _fit_line(log_odds, negative, positive)  # of any event, relative to a positive
    ranks = _in_deviations(-(np.cumsum(negative) - negative / 2), positive)

    def weigh(positives: float) -> Floats:
        share = min(max(_STRAYS_BY_ROOT / math.sqrt(max(positives, 1)), _FEWEST_STRAYS), _MOST_STRAYS)
        strays = np.logaddexp(math.log(1 - share), math.log(share) + likeness)
        return _in_deviations(strays, positive) + ranks

    return weigh


def _in_deviations(weights: Floats, positive: Floats) -> Floats:
    centred = weights - weights @ positive / positive.sum()
    deviation = math.sqrt(float(centred**2 @ positive / positive.sum()))
    return centred / deviation if deviation > 0 else np.zeros(len(weights))


def _fit_line(log_odds: Floats, negative: Floats, positive: Floats) -> Floats:
    """Log odds of a positive per cell: a + b x the log odds of its score, by maximum likelihood."""
    n = negative + positive
    line = np.array([0.0, 1.0])
    columns = np.stack([np.ones(len(n)), log_odds])
    for _ in range(_STEPS):
        chances = expit(line @ columns)
        slope = columns @ (positive - n * chances)
        curve = (columns * (n * chances * (1 - chances))) @ columns.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        line += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if np.abs(step).max() < _NEAR:
            break
    return np.asarray(line @ columns)
