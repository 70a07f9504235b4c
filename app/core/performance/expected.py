"""The measures of events of which some have labels and others only probabilities, with their gradients.

A gradient says how much the measure moves when one event of a cell has label 1 instead of 0: to first order, all that
its variance needs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from app.core.batches import Floats
from app.core.performance.calibration import Calibration


class ExpectedMeasure(NamedTuple):
    """``value`` in [0, ``largest``], NaN where it is undefined; ``gradient`` per cell."""

    value: float
    gradient: Floats
    largest: float


def expected_measures(calibration: Calibration, expected: Floats, spread: Floats) -> dict[str, ExpectedMeasure]:
    """Compute AUC, accuracy, precision, recall, F1 and, where the calibration has what it takes, log loss and cost.

    And "positives", the share of positive labels: no measure, but what all of them are read beside.

    Parameters
    ----------
    expected
        Label x cell: the events of either label, known or to be expected.
    spread
        Per cell: the variance of that number; nought where all labels are known.
    """
    negative, positive = expected
    cells = expected.sum(axis=0)
    n, n_positive = float(cells.sum()), float(positive.sum())
    decided = calibration.decided
    true_yes, yes = float(positive @ decided), float(cells @ decided)
    right = true_yes + float(negative @ (1 - decided))
    measures = {
        "auc": ExpectedMeasure(*_auc(expected, spread), 1.0),
        "accuracy": ExpectedMeasure(*_ratio(right, n, 2 * decided - 1, 0.0), 1.0),
        "precision": ExpectedMeasure(*_ratio(true_yes, yes, decided, 0.0), 1.0),
        "recall": ExpectedMeasure(*_ratio(true_yes, n_positive, decided, 1.0), 1.0),
        "f1": ExpectedMeasure(*_ratio(2 * true_yes, yes + n_positive, 2 * decided, 1.0), 1.0),
    }
    if calibration.losses is not None:
        of_negative, of_positive = calibration.losses
        total = float((expected * np.where(cells > 0, calibration.losses, 0.0)).sum())
        measures["log_loss"] = ExpectedMeasure(*_ratio(total, n, of_positive - of_negative, 0.0), math.inf)
    of_cells = calibration.cost_of_cells
    if calibration.costs is not None and of_cells is not None:
        of_negative, of_positive = of_cells
        total = float(negative @ of_negative + positive @ of_positive)
        largest = max(calibration.costs)
        measures["cost"] = ExpectedMeasure(*_ratio(total, n, of_positive - of_negative, 0.0), largest)
    measures["positives"] = ExpectedMeasure(*_ratio(n_positive, n, np.ones_like(decided), 0.0), 1.0)
    return measures


def _ratio(above: float, below: float, above_moves: Floats, below_moves: float) -> tuple[float, Floats]:
    """A ratio and its gradient, from how much one more positive label moves either part."""
    if not below > 0:
        return math.nan, above_moves
    value = above / below
    return value, (above_moves - value * below_moves) / below


def _auc(expected: Floats, spread: Floats) -> tuple[float, Floats]:
    """Pairs in order of all pairs of a positive and a negative, ties half; an event makes no pair with itself."""
    negative, positive = expected
    n_negative, n_positive = negative.sum(), positive.sum()
    below = np.cumsum(negative) - negative / 2
    above = n_positive - np.cumsum(positive) + positive / 2
    with_itself = spread.sum()
    pairs = float(n_negative * n_positive - with_itself)
    if not pairs > 1e-9 * expected.sum():  # a single event, or one label only: rounding is all that is left
        return math.nan, below
    value = float(positive @ below - with_itself / 2) / pairs
    return min(max(value, 0.0), 1.0), (below - above - value * (n_negative - n_positive)) / pairs
