"""Count events in the cells of a reference, and labels as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.reference.reference import Counts
from models.reference.units import COUNT_UNITS, LARGEST_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.reference.reference import Floats, Ints, Reference

# As scikit-learn's log_loss did: a certain and wrong score costs 34.5, not infinity.
SMALLEST_PROBABILITY = 1e-15


def count(reference_cells: Reference, matrix: Floats, scores: Floats, outcomes: Floats | None = None) -> Counts:
    """Count events in the cells of a reference.

    Parameters
    ----------
    matrix, scores
        Events x features, and the score of each event.
    outcomes
        Their labels when they are known already (training); otherwise `count_outcomes` adds them as they arrive.
    """
    n, n_columns = len(scores), len(reference_cells.metrics) - 1
    if n == 0:
        return reference_cells.zeros()
    columns = arrange(reference_cells, matrix, scores)
    # Looking the edges up in the sorted values costs an eighth of looking the values up among the edges (5 000 events).
    columns.sort(axis=1)
    counts = reference_cells.zeros()
    counts.n = n
    counts.counts[:-1] = count_ordered(reference_cells, columns)
    rows = np.arange(n_columns)
    n_missing = counts.counts[rows, reference_cells.sizes]
    (present,) = np.nonzero(n_missing < n)  # the others stay NaN: one NaN, whatever the bits of those in the data
    counts.minima[present] = columns[present, 0]
    counts.maxima[present] = columns[present, (n - n_missing - 1)[present]]
    counts.sums[:-1] = fixed_point(reference_cells, columns).sum(axis=1)
    return counts if outcomes is None else counts + count_outcomes(reference_cells, scores, outcomes)


def count_ordered(reference_cells: Reference, columns: Floats) -> Ints:
    """Values per cell [metrics x cells] of rows in ascending order, NaN last."""
    n = columns.shape[1]
    below = np.full((len(columns), reference_cells.width), n)
    for row, (size, ladder) in enumerate(reference_cells.ladders):
        below[row, :size] = columns[row].searchsorted(ladder)
    counts = below.copy()
    counts[:, 1:] -= below[:, :-1]
    return counts


def arrange(reference_cells: Reference, matrix: Floats, scores: Floats) -> Floats:
    """The metrics that events have, the score last, as rows: metrics x events, NaN for what is not a value."""
    columns = np.empty((len(reference_cells.metrics) - 1, len(scores)))
    columns[:-1] = matrix.T
    columns[-1] = scores
    columns += 0.0  # -0.0 becomes 0.0: otherwise a minimum would show which of them came first
    for row in reference_cells.coded_rows:
        columns[row] = reference_cells.metrics[row].codes_or_nan(columns[row])
    return columns


def fixed_point(reference_cells: Reference, columns: Floats) -> Ints:
    """What each value adds to the sum of its metric, 0 for a missing one; ``columns`` is used up."""
    scales = reference_cells.scales[:, None]
    np.clip(columns, -LARGEST_UNITS / scales, LARGEST_UNITS / scales, out=columns)
    columns *= scales
    np.rint(columns, out=columns)
    columns[np.isnan(columns)] = 0.0
    return columns.astype(np.int64)


def count_outcomes(reference_cells: Reference, scores: Floats, labels: Floats) -> Counts:
    """Count labels that have just arrived, for the slice of their events (``n`` is 0: no new events).

    A label that is neither 0 nor 1 counts as missing, and, like one whose score is NaN, not in the performance.

    Parameters
    ----------
    scores, labels
        Score and label of each labelled event.
    """
    metric = reference_cells.metrics[-1]
    counts = reference_cells.zeros()
    judged = judge_labels(reference_cells, scores, labels)
    counts.counts[-1, : metric.size + 1] = np.bincount(judged.positions, minlength=metric.size + 1)
    if judged.is_label.any():
        present = judged.positions[judged.is_label]
        counts.sums[-1] = int(present.sum()) * int(metric.scale)
        counts.minima[-1], counts.maxima[-1] = float(present.min()), float(present.max())
    n_cells = reference_cells.score_cells
    cells = judged.outcome_cells[judged.is_known]
    counts.outcomes = np.bincount(cells, minlength=2 * n_cells).reshape(2, n_cells)
    counts.log_loss_sum = int(judged.log_loss.sum())
    counts.n_correct = int(judged.is_correct.sum())
    return counts


class JudgedLabels(NamedTuple):
    """Labels one by one: what each adds to the counts.

    ``positions``: the label, or the position of "missing". ``is_known``: there are both a label and a score. Only there
    do ``outcome_cells`` (label x score cell, flattened) mean anything; ``log_loss`` and ``is_correct`` are 0 elsewhere.
    """

    positions: Ints
    is_label: NDArray[np.bool_]
    is_known: NDArray[np.bool_]
    outcome_cells: Ints
    log_loss: Ints
    is_correct: NDArray[np.bool_]


def judge_labels(reference_cells: Reference, scores: Floats, labels: Floats) -> JudgedLabels:
    metric = reference_cells.metrics[-1]
    codes = metric.codes_or_nan(labels)
    is_label = ~np.isnan(codes)
    positions = np.where(is_label, codes, metric.size).astype(np.int64)
    is_known = is_label & ~np.isnan(scores)
    label, score = np.where(is_known, positions, 0), np.where(is_known, scores, 0.0)
    score_cells = reference_cells.metrics[-2].edges.searchsorted(score, side="right")
    likelihood = np.maximum(np.where(label == 1, score, 1.0 - score), SMALLEST_PROBABILITY)
    log_loss = np.rint(-np.log(likelihood) * COUNT_UNITS).astype(np.int64)
    is_correct = (score >= reference_cells.threshold) == (label == 1)
    return JudgedLabels(
        positions=positions,
        is_label=is_label,
        is_known=is_known,
        outcome_cells=label * reference_cells.score_cells + score_cells,
        log_loss=np.where(is_known, log_loss, 0),
        is_correct=is_correct & is_known,
    )
