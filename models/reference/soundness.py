"""Checks of counts in the cells of a reference, and of references themselves, whoever wrote them.

Counts come from topics and references from files that others can write to. Unsound ones would raise an error, or give
wrong results, much later: in a test of drift, in the middle of a window's report.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.reference.units import COUNT_UNITS, LARGEST_UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from models.reference.error_hours import ErrorHours
    from models.reference.reference import Counts, MetricCells, Reference

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

#: Cells of all metrics: 4 000 metrics of 1 000. A number in a file must not ask for gigabytes.
MOST_CELLS = 2**22
#: Events of one count: as many records of such counts as there can be add up without an overflow.
MOST_EVENTS = 2**40
#: Of all segments together: a quarter of a gigabyte.
_MOST_CELLS_OF_SEGMENTS = 2**25
#: Of the log loss of one label: that of a certain and wrong score, which is 34.5, and room for rounding.
_LARGEST_LOSS = 36 * COUNT_UNITS
#: How far apart the log odds of chances of 1e-9 and of 1 - 1e-9 are.
_LARGEST_LOG_ODDS = 42.0


class SparseCounts(NamedTuple):
    """`models.reference.reference.Counts` by the cells that hold something: flat positions, ascending, and counts."""

    n: int
    cells: Ints
    values: Ints
    sums: Ints
    minima: Floats
    maxima: Floats
    outcome_cells: Ints
    outcome_values: Ints
    log_loss_sum: int
    n_correct: int

    @classmethod
    def of(cls, counts: Counts) -> SparseCounts:
        flat, outcomes = counts.counts.ravel(), counts.outcomes.ravel()
        cells, outcome_cells = np.flatnonzero(flat), np.flatnonzero(outcomes)
        return cls(
            counts.n,
            cells,
            flat[cells],
            counts.sums,
            counts.minima,
            counts.maxima,
            outcome_cells,
            outcomes[outcome_cells],
            counts.log_loss_sum,
            counts.n_correct,
        )


def find_fault_without_reference(counts: SparseCounts) -> str:
    """Say in one sentence what is wrong with counts, whatever their reference; "" when nothing is."""
    return next(_faults_of_any(counts), "")


class CellLaws:
    """The laws of counts in the cells of one reference."""

    def __init__(self, reference: Reference) -> None:
        sizes = np.array([metric.size for metric in reference.metrics])
        self._names = reference.names
        self._width, self._score_cells = reference.width, reference.score_cells
        self._is_cell = (np.arange(self._width) <= sizes[:, None]).ravel()
        self._is_missing = (np.arange(self._width) == sizes[:, None]).ravel()

    def find_fault(self, counts: SparseCounts) -> str:
        """Say in one sentence what is wrong with counts of this reference; "" when nothing is."""
        return next(self._faults(counts), "")

    def _faults(self, counts: SparseCounts) -> Iterator[str]:
        yield from _faults_of_any(counts)
        n, cells, values = counts.n, counts.cells, counts.values
        if len(counts.sums) != len(self._names):
            yield f"it has {len(counts.sums)} metrics, and its version {len(self._names)}"
        if len(cells) and (cells[-1] >= len(self._is_cell) or not self._is_cell[cells].all()):
            yield "something is counted in a cell that its version does not have"
        if len(counts.outcome_cells) and counts.outcome_cells[-1] >= 2 * self._score_cells:
            yield "labels are counted in a cell that the score does not have"
        metrics = cells // self._width
        totals = np.bincount(metrics, values, len(self._names))
        if (totals[:-1] != n).any():
            metric = int((totals[:-1] != n).argmax())
            yield f"the cells of {self._names[metric]} hold {totals[metric]:.0f} values of {n} events"
        present = np.bincount(metrics, np.where(self._is_missing[cells], 0, values), len(self._names))
        has_range = ~np.isnan(counts.minima)
        if (has_range != (present > 0)).any() or not (counts.minima[has_range] <= counts.maxima[has_range]).all():
            yield "a minimum and a maximum do not fit the values"
        if (np.abs(counts.sums.astype(np.float64)) > np.minimum(present * LARGEST_UNITS, 2.0**62)).any():
            yield "a sum is more than its values can add up to"
        if counts.outcome_values.sum() > present[-1]:
            yield "more labels were joined to scores than came"


def _faults_of_any(counts: SparseCounts) -> Iterator[str]:
    if not 0 <= counts.n <= MOST_EVENTS:
        yield f"it counts {counts.n} events"
    for cells, values in ((counts.cells, counts.values), (counts.outcome_cells, counts.outcome_values)):
        if len(cells) != len(values):
            yield f"{len(cells)} cells and {len(values)} counts do not make a sketch"
        if len(cells):
            if (cells[1:] <= cells[:-1]).any() or cells[-1] >= MOST_CELLS:
                yield f"its cells do not ascend, or not below {MOST_CELLS}"
            if values.min() < 1 or values.max() > MOST_EVENTS:
                yield "a cell holds less than one event, or more than can be"
    if not 2 <= len(counts.sums) == len(counts.minima) == len(counts.maxima):
        yield f"it has {len(counts.sums)} sums, {len(counts.minima)} minima and {len(counts.maxima)} maxima"
    n_labels = int(counts.outcome_values.sum())
    if not 0 <= counts.n_correct <= n_labels:
        yield f"{counts.n_correct} decisions of {n_labels} were right"
    if not 0 <= counts.log_loss_sum <= n_labels * _LARGEST_LOSS:
        yield "the log loss is none of these labels"


def find_fault_of_metrics(metrics: tuple[MetricCells, ...], n_segments: int, n_blocks: int) -> str:
    """Say what is wrong with what decides how large a reference is; "" when nothing is.

    Nothing large is made for it. ``n_blocks``: of labels, see `models.reference.reference.Reference`.
    """
    return next(_faults_of_metrics(metrics, n_segments, n_blocks), "")


def find_fault_of_reference(reference: Reference) -> str:
    """Say what is wrong with a reference whose metrics are sound; "" when nothing is."""
    return next(_faults_of_reference(reference), "")


def _faults_of_metrics(metrics: tuple[MetricCells, ...], n_segments: int, n_blocks: int) -> Iterator[str]:
    kinds = [metric.kind for metric in metrics]
    if kinds[-2:] != ["score", "outcome"] or not {*kinds[:-2]} <= {"numeric", "category"}:
        yield "its metrics are not features, then the score, then the outcome"
    if len({metric.name for metric in metrics}) < len(metrics):
        yield "two metrics have the same name"
    for metric in metrics:
        yield from _faults_of_metric(metric)
    if metrics[-1].codes != 2:
        yield "the outcome has not two labels"
    cells = len(metrics) * (max(metric.size for metric in metrics) + 1)
    if (
        cells > MOST_CELLS
        or n_blocks * 2 * metrics[-2].size > MOST_CELLS
        or cells * n_segments > _MOST_CELLS_OF_SEGMENTS
    ):
        yield f"it has {cells} cells in {n_segments} segments, and {n_blocks} blocks of labels, which is too much"


def _faults_of_metric(metric: MetricCells) -> Iterator[str]:
    if not all(isinstance(word, str) for word in (metric.name, *metric.values)):
        yield "a metric or a value has no name"
    if type(metric.codes) is not int or not 0 <= metric.codes <= MOST_CELLS:
        yield f"{metric.name} has {metric.codes!r:.40} codes"
    if metric.edges.ndim != 1 or not np.isfinite(metric.edges).all() or (np.diff(metric.edges) <= 0).any():
        yield f"the edges of {metric.name} do not ascend"
    if metric.is_coded == (metric.codes == 0) or (metric.is_coded and len(metric.edges)):
        yield f"{metric.name} has the cells of another kind of metric"
    if not (0 < metric.scale <= COUNT_UNITS and math.frexp(metric.scale)[0] == 0.5):
        yield f"the scale of {metric.name} is no power of two up to {COUNT_UNITS}"


def _faults_of_reference(reference: Reference) -> Iterator[str]:
    if not math.isfinite(reference.threshold):
        yield "the threshold is no number"
    effects = [reference.design_effects, *([] if reference.tail_effects is None else [reference.tail_effects])]
    if not all((np.isfinite(effect) & (effect > 0)).all() for effect in effects):
        yield "a design effect is no positive number"
    if np.isinf(reference.profiles).any():
        yield "a mean score is infinite"
    if not 1 <= reference.label_effect < math.inf:
        yield "the design effect of labels is less than 1, or no number"
    yield from _faults_of_errors(reference.errors, reference.training)
    blocks = reference.outcome_blocks
    if (blocks < 0).any() or (blocks > reference.training.outcomes).any():
        yield "a block of labels is no part of those of training"
    if (blocks.sum(axis=0) > reference.training.outcomes).any():
        yield "the blocks of labels do not add up to those of training"
    for segment, counts in reference.by_segment():
        fault = reference.laws.find_fault(SparseCounts.of(counts))
        if fault:
            yield f"{fault} ({segment})"
        if counts.n > reference.n:
            yield f"segment {segment} has more events than all"


def _faults_of_errors(errors: ErrorHours, training: Counts) -> Iterator[str]:
    if (errors.wrong < 0).any() or (errors.wrong > errors.events).any():
        yield "an hour has more wrong decisions than decisions, or less than none"
    if (errors.events > MOST_EVENTS).any():
        yield "an hour has more decisions than can be"
    n, wrong = int(errors.events.sum()), int(errors.wrong.sum())
    if n and (n, wrong) != (training.n_labels, training.n_labels - training.n_correct):
        yield f"the hours have {n} decisions, {wrong} of them wrong, and training has others"
    if not np.isfinite(errors.log_odds).all() or (np.abs(errors.log_odds) > _LARGEST_LOG_ODDS).any():
        yield "the log odds of an error in an hour are no number, or none that can be"
    if errors.differ and not 0 < wrong < n:
        yield "its hours differ, and none of their decisions was wrong, or all were"
    if not 1 <= errors.effect < math.inf:
        yield "the design effect of errors is less than 1, or no number"
