"""Count events in the cells of a reference, and labels as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.reference import FIXED_POINT, Counts

if TYPE_CHECKING:
    from models.reference import Floats, Reference

# Beyond it a value is saturated in sums (its minimum and maximum stay exact): 256 times the range of training.
_LARGEST_UNITS = float(2**40)
# As scikit-learn's log_loss did: a certain and wrong score costs 34.5, not infinity.
_SMALLEST_PROBABILITY = 1e-15


def count(reference_cells: Reference, matrix: Floats, scores: Floats, outcomes: Floats | None = None) -> Counts:
    """Count events in the cells of a reference.

    Parameters
    ----------
    matrix, scores
        Events x features, and the score of each event.
    outcomes
        Their labels when they are known already (training); otherwise `count_outcomes` adds them as they arrive.
    """
    metrics = reference_cells.metrics
    n, n_columns = len(scores), len(metrics) - 1
    if n == 0:
        return reference_cells.zeros()
    columns = np.empty((n_columns, n))
    columns[:-1] = matrix.T
    columns[-1] = scores
    columns += 0.0  # -0.0 becomes 0.0: otherwise a minimum would show which of them came first
    for row in reference_cells.coded_rows:
        columns[row] = metrics[row].without_strangers(columns[row])
    # Looking the edges up in the sorted values costs an eighth of looking the values up among the edges (5 000 events).
    columns.sort(axis=1)
    n_missing = np.isnan(columns).sum(axis=1)
    below = np.empty((n_columns, reference_cells.width), np.int64)
    below[:] = (n - n_missing)[:, None]
    for row, (size, ladder) in enumerate(reference_cells.ladders):
        below[row, :size] = columns[row].searchsorted(ladder)
    counts = reference_cells.zeros()
    counts.n = n
    counts.counts[:-1] = below
    counts.counts[:-1, 1:] -= below[:, :-1]
    rows = np.arange(n_columns)
    counts.counts[rows, reference_cells.sizes] = n_missing
    (present,) = np.nonzero(n_missing < n)  # the others stay NaN: one NaN, whatever the bits of those in the data
    counts.minima[present] = columns[present, 0]
    counts.maxima[present] = columns[present, (n - n_missing - 1)[present]]
    scales = reference_cells.scales[:, None]
    np.clip(columns, -_LARGEST_UNITS / scales, _LARGEST_UNITS / scales, out=columns)
    columns *= scales
    np.rint(columns, out=columns)
    columns[np.isnan(columns)] = 0.0
    counts.sums[:-1] = columns.astype(np.int64).sum(axis=1)
    return counts if outcomes is None else counts + count_outcomes(reference_cells, scores, outcomes)


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
    codes = metric.without_strangers(labels)
    is_label = ~np.isnan(codes)
    positions = np.where(is_label, codes, metric.size).astype(np.int64)
    counts.counts[-1, : metric.size + 1] = np.bincount(positions, minlength=metric.size + 1)
    known = is_label & ~np.isnan(scores)
    label, score = positions[known], scores[known]
    if is_label.any():
        present = positions[is_label]
        counts.sums[-1] = int(present.sum()) * int(metric.scale)
        counts.minima[-1], counts.maxima[-1] = float(present.min()), float(present.max())
    n_cells = reference_cells.score_cells
    held = reference_cells.metrics[-2].edges.searchsorted(score, side="right")
    counts.outcomes = np.bincount(label * n_cells + held, minlength=2 * n_cells).reshape(2, n_cells)
    likelihood = np.maximum(np.where(label == 1, score, 1.0 - score), _SMALLEST_PROBABILITY)
    counts.log_loss_sum = int(np.rint(-np.log(likelihood) * FIXED_POINT).astype(np.int64).sum())
    counts.n_correct = int(((score >= reference_cells.threshold) == (label == 1)).sum())
    return counts
