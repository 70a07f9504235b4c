"""Fit the reference of a version on its training data: freeze the cells, count in them, measure how events depend."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from models.reference.counting import count, count_outcomes
from models.reference.dependence import FEWEST_WINDOWS, Span, design_effect, effect_of_residuals, tail_effect
from models.reference.error_hours import ErrorHours, fit_error_hours
from models.reference.reference import GRID, OUTCOME, SCORE, Counts, Floats, Ints, MetricCells, Reference
from models.reference.units import COUNT_UNITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.reference.segments import Segments
    from models.reference.training_events import FeatureColumn, TrainingEvents

#: Blocks of labelled events in their order. They are longer than most dependence, and enough to see how they differ.
OUTCOME_BLOCKS = 32

#: Groups of scores within which labels are expected alike: how many labels of the rarer kind a group needs, and how
#: many groups there are at most.
_LABELS_A_GROUP, _MOST_GROUPS = 20, 50

# In units, a value of the training range is at most 2**32, so 2**31 of them fit an int64 sum.
_RANGE_BITS = 32


def fit_reference(
    events: TrainingEvents,
    columns: Sequence[FeatureColumn],
    bins: int,
    threshold: float = 0.5,
    segments: Segments | None = None,
) -> Reference:
    """Freeze the cells on the training data and count it in them.

    Parameters
    ----------
    columns
        What each column of the matrix holds.
    bins
        Most cells of a numeric feature besides "missing"; at least 8. The score has those of its grid in addition.
    threshold
        A score at or above it is a positive decision.
    segments
        What is counted by itself besides all events; None: nothing.
    """
    if bins < 8:
        raise ValueError(f"bins is {bins}; a metric needs at least 8 cells")
    events.check(columns)
    matrix, scores, outcomes = events.matrix, events.scores, events.outcomes
    edges = np.unique(np.concatenate([fit_edges(scores, bins), np.linspace(0, 1, GRID + 1), [threshold]]))
    metrics = (
        *(_fit_cells(column, values, bins) for column, values in zip(columns, matrix.T, strict=True)),
        MetricCells(SCORE, "score", edges, scale=_fit_scale(scores)),
        MetricCells(OUTCOME, "outcome", np.empty(0), codes=2),
    )
    width = max(metric.size for metric in metrics) + 1
    empty = Counts.zeros(len(metrics), width, len(edges) + 1)
    profiles = np.full((len(metrics), width), np.nan)
    effects, tails = np.ones(len(metrics)), np.ones(len(metrics))
    memories = [*(column.memory for column in columns), 0.0, 0.0]
    for row, (metric, values) in enumerate(zip(metrics, [*matrix.T, scores, outcomes], strict=True)):
        cells = _find_cells(metric, values)
        profiles[row, : metric.size + 1] = _mean_scores(cells, metric.size + 1, scores)
        is_there = cells < metric.size if metric.kind == "outcome" else slice(None)  # what never comes is no label
        span = events.span_of(is_there)
        span = None if span is None else span._replace(memory=memories[row])
        effects[row] = design_effect(cells[is_there], metric.size, in_order=not metric.is_coded, span=span)
        tails[row] = effects[row] if metric.is_coded else tail_effect(values, span)
        if metric.kind != "outcome":  # in a window, too, only labels are counted
            effects[row], tails[row] = (1 + (effect - 1) / events.share for effect in (effects[row], tails[row]))
    labelled = np.flatnonzero(np.isfinite(scores) & ~np.isnan(metrics[-1].codes_or_nan(outcomes)))
    blocks_of_rows = _cut(labelled, events.span)
    blocks = np.zeros((len(blocks_of_rows), *empty.outcomes.shape), np.int64)
    frozen = Reference(metrics, empty, threshold, effects, profiles, blocks)
    for block, rows in zip(blocks, blocks_of_rows, strict=True):
        block[:] = count_outcomes(frozen, scores[rows], outcomes[rows]).outcomes
    rows_by_segment = segments.split(matrix) if segments else ()
    score_cells = _find_cells(metrics[-2], scores)[labelled]
    return replace(
        frozen,
        training=count(frozen, matrix, scores, outcomes),
        segments={name: count(frozen, matrix[rows], scores[rows], outcomes[rows]) for name, rows in rows_by_segment},
        errors=_fit_errors(events, threshold),
        label_effect=_effect_of_labels(score_cells, outcomes[labelled], events.span_of(labelled)),
        tail_effects=tails,
    )


def _fit_cells(column: FeatureColumn, values: Floats, bins: int) -> MetricCells:
    if column.kind == "category":
        return MetricCells(column.name, "category", np.empty(0), column.codes, values=tuple(column.values))
    return MetricCells(column.name, "numeric", fit_edges(values, bins), scale=_fit_scale(values))


def _effect_of_labels(in_cells: Ints, labels: Floats, span: Span | None) -> float:
    """How many labels count as one, beyond what the cells of their scores explain.

    Neighbouring cells are joined into as many groups as there are labels of the rarer kind to tell them apart.
    """
    groups = int(min(max(min(labels.sum(), (1 - labels).sum()) // _LABELS_A_GROUP, 1), _MOST_GROUPS))
    ranks = np.argsort(np.argsort(in_cells, kind="stable"), kind="stable")
    group = ranks * groups // max(len(labels), 1)
    n = np.maximum(np.bincount(group, minlength=groups), 1)
    residuals = labels - (np.bincount(group, labels, minlength=groups) / n)[group]
    # False positives and false negatives that come together leave the number of positives, but change their scores.
    of_order = residuals * (ranks / max(len(labels), 1) - 0.5)
    return max(effect_of_residuals(values, span) for values in (residuals, of_order))


def _cut(rows: Ints, span: Span | None) -> list[Ints]:
    """Cut labelled events into blocks of consecutive ones.

    Each holds whole windows where there are enough, so that what repeats in each window does not make blocks differ.
    """
    if span is None or not len(rows):
        return np.array_split(rows, OUTCOME_BLOCKS)
    starts = span.of(rows).starts()
    windows_a_block = -(-len(starts) // OUTCOME_BLOCKS)
    if len(starts) // windows_a_block < FEWEST_WINDOWS:
        return np.array_split(rows, OUTCOME_BLOCKS)
    return np.split(rows, starts[windows_a_block::windows_a_block])


def fit_edges(values: Floats, bins: int) -> Floats:
    """At most ``bins - 1`` interior edges from the finite values.

    Examples
    --------
    Two distinct values make five cells: below, 0, between, 1, above.

    >>> fit_edges(np.array([0.0, 1.0, 1.0]), 8).tolist() == [0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)]
    True
    """
    # Below the largest float, so that each has a successor; + 0.0 makes 0.0 of -0.0.
    distinct, frequency = np.unique(values[np.abs(values) < np.finfo(np.float64).max] + 0.0, return_counts=True)
    if not len(distinct):
        return np.empty(0)
    if 2 * len(distinct) < bins:
        own_cell = np.ones(len(distinct), dtype=bool)
    else:
        own_cell = frequency * (bins // 4) > frequency.sum()  # fewer than bins/4 of them: less than half of the edges
    atoms = distinct[own_cell]
    spread = np.repeat(distinct[~own_cell], frequency[~own_cell])
    n_free = bins - 1 - 2 * len(atoms) - 2  # two are for the ends of the range
    edges = [atoms, np.nextafter(atoms, np.inf), distinct[:1], np.nextafter(distinct[-1:], np.inf)]
    if len(spread):
        # Exact values of the data, not interpolated ones: an edge is then a value that occurs.
        ranks = np.arange(1, n_free + 1) * len(spread) // (n_free + 1)
        edges.append(spread[ranks])
    joined: Floats = np.unique(np.concatenate(edges))
    return joined


def _fit_errors(events: TrainingEvents, threshold: float) -> ErrorHours:
    """Where the decisions whose label is known were wrong."""
    scores, outcomes = events.scores, events.outcomes
    is_known = np.isfinite(scores) & np.isin(outcomes, (0, 1))
    wrong = (scores[is_known] >= threshold) != (outcomes[is_known] == 1)
    times_ms = None if events.times_ms is None else events.times_ms[is_known]
    return fit_error_hours(wrong, times_ms, events.span_of(is_known))


def _find_cells(metric: MetricCells, values: Floats) -> Ints:
    if not metric.is_coded:
        held = metric.edges.searchsorted(values, side="right")
        return np.where(np.isnan(values), metric.size, held)
    codes = metric.codes_or_nan(values)
    return np.where(np.isnan(codes), metric.size, codes).astype(np.int64)


def _mean_scores(cells: Ints, n_cells: int, scores: Floats) -> Floats:
    is_known = np.isfinite(scores)
    n = np.bincount(cells[is_known], minlength=n_cells)
    totals = np.bincount(cells[is_known], weights=scores[is_known], minlength=n_cells)
    return np.where(n > 0, totals / np.maximum(n, 1), np.nan)


def _fit_scale(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    _, exponent = math.frexp(largest)  # largest < 2**exponent
    return float(min(COUNT_UNITS, 2.0 ** (_RANGE_BITS - exponent)))
