"""Counts of many groups of events at once, such as segments: for each group what `models.reference.counting` gives.

Groups may be many and small, so nothing here is done group by group: an event's cell is found once for each metric, and
one tally over group, metric and cell serves all groups. Only what is not 0 is kept, so a batch of events costs no more
than its size, whatever the number of groups. All that is added up is an integer: the order does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.reference.counting import arrange, count_ordered, fixed_point, judge_labels
from models.reference.reference import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.reference.reference import Floats, Ints, Reference

#: Up to this many cells per value, counting in all cells is faster than sorting the values.
_CELLS_PER_THING = 8


@dataclass(eq=False)
class GroupedCounts:
    """`Counts` of each of several groups.

    Parameters
    ----------
    keys
        Of the groups, ascending.
    shape
        Metrics and cells of one group's counts.
    score_cells
        Cells of the score.
    n, log_loss_sum, n_correct
        Per group.
    cells, values
        What is not 0 of groups x metrics x cells, flattened: ascending positions, and the counts there.
    outcome_cells, outcome_values
        The same of groups x labels x score cells.
    sums, minima, maxima
        Groups x metrics.
    """

    keys: Ints
    shape: tuple[int, int]
    score_cells: int
    n: Ints
    cells: Ints
    values: Ints
    outcome_cells: Ints
    outcome_values: Ints
    sums: Ints
    minima: Floats
    maxima: Floats
    log_loss_sum: Ints
    n_correct: Ints

    @classmethod
    def zeros(cls, keys: Ints, shape: tuple[int, int], score_cells: int) -> GroupedCounts:
        """Count no events of these groups."""
        groups, metrics = len(keys), shape[0]
        nothing = np.zeros(0, np.int64)
        return cls(
            keys=keys,
            shape=shape,
            score_cells=score_cells,
            n=np.zeros(groups, np.int64),
            cells=nothing,
            values=nothing,
            outcome_cells=nothing,
            outcome_values=nothing,
            sums=np.zeros((groups, metrics), np.int64),
            minima=np.full((groups, metrics), np.nan),
            maxima=np.full((groups, metrics), np.nan),
            log_loss_sum=np.zeros(groups, np.int64),
            n_correct=np.zeros(groups, np.int64),
        )

    @classmethod
    def merge(cls, parts: Sequence[GroupedCounts]) -> GroupedCounts:
        """Count the events of all parts (at least one) together; exact, in any order."""
        if len(parts) == 1:
            return parts[0]
        whole = cls.zeros(
            np.unique(np.concatenate([part.keys for part in parts])), parts[0].shape, parts[0].score_cells
        )
        places = [whole.keys.searchsorted(part.keys) for part in parts]
        for part, at in zip(parts, places, strict=True):
            whole.n[at] += part.n
            whole.sums[at] += part.sums
            whole.minima[at] = np.fmin(whole.minima[at], part.minima)
            whole.maxima[at] = np.fmax(whole.maxima[at], part.maxima)
            whole.log_loss_sum[at] += part.log_loss_sum
            whole.n_correct[at] += part.n_correct
        size, outcome_size = whole.sizes
        whole.cells, whole.values = _add_up(
            [_move(part.cells, at, size) for part, at in zip(parts, places, strict=True)],
            [part.values for part in parts],
        )
        whole.outcome_cells, whole.outcome_values = _add_up(
            [_move(part.outcome_cells, at, outcome_size) for part, at in zip(parts, places, strict=True)],
            [part.outcome_values for part in parts],
        )
        return whole

    @property
    def sizes(self) -> tuple[int, int]:
        """Positions of one group in ``cells`` and in ``outcome_cells``."""
        return self.shape[0] * self.shape[1], 2 * self.score_cells

    def bounds(self) -> tuple[Ints, Ints]:
        """Where each group begins in ``cells`` and in ``outcome_cells``, and where the last one ends."""
        edges = np.arange(len(self.keys) + 1)
        size, outcome_size = self.sizes
        return self.cells.searchsorted(edges * size), self.outcome_cells.searchsorted(edges * outcome_size)

    def split(self) -> dict[int, Counts]:
        """The counts of each group by its key."""
        counts_by_key = {}
        size, outcome_size = self.sizes
        starts, outcome_starts = self.bounds()
        for place, key in enumerate(self.keys.tolist()):
            counts = Counts.zeros(*self.shape, self.score_cells)
            here = slice(starts[place], starts[place + 1])
            counts.counts.reshape(-1)[self.cells[here] - place * size] = self.values[here]
            here = slice(outcome_starts[place], outcome_starts[place + 1])
            counts.outcomes.reshape(-1)[self.outcome_cells[here] - place * outcome_size] = self.outcome_values[here]
            counts.sums, counts.minima, counts.maxima = self.sums[place], self.minima[place], self.maxima[place]
            counts.n, counts.log_loss_sum = int(self.n[place]), int(self.log_loss_sum[place])
            counts.n_correct = int(self.n_correct[place])
            counts_by_key[key] = counts
        return counts_by_key


def count_groups(reference_cells: Reference, matrix: Floats, scores: Floats, keys: Ints) -> list[GroupedCounts]:
    """Count events in the cells of a reference, by groups.

    Parameters
    ----------
    matrix, scores
        Events x features, and the score of each event.
    keys
        Ways to group x events: the group of each event.

    Returns
    -------
    For each way the counts of its groups; none without events.
    """
    if not len(scores):
        return []
    located = _Located.of(reference_cells, matrix, scores)
    return [_count_one_way(reference_cells, _Groups(groups), located) for groups in keys]


def count_outcome_groups(reference_cells: Reference, scores: Floats, labels: Floats, keys: Ints) -> GroupedCounts:
    """Count labels that have just arrived, by groups of their events (``n`` is 0: no new events).

    Parameters
    ----------
    scores, labels, keys
        Score, label and group of each labelled event.
    """
    groups = _Groups(keys)
    counts = groups.zeros(reference_cells)
    if not len(keys):
        return counts
    metric, width = reference_cells.metrics[-1], reference_cells.width
    judged = judge_labels(reference_cells, scores, labels)
    row = (len(reference_cells.metrics) - 1) * width
    counts.cells, counts.values = _tally(groups.place * counts.sizes[0] + row + judged.positions)
    counts.sums[:, -1] = groups.add(np.where(judged.is_label, judged.positions, 0) * int(metric.scale))
    values = np.where(judged.is_label, judged.positions, np.nan)
    counts.minima[:, -1], counts.maxima[:, -1] = groups.least(values), groups.most(values)
    known = judged.is_known
    places = groups.place[known] * counts.sizes[1]
    counts.outcome_cells, counts.outcome_values = _tally(places + judged.outcome_cells[known])
    counts.log_loss_sum[:] = groups.add(judged.log_loss)
    counts.n_correct[:] = groups.add(judged.is_correct.astype(np.int64))
    return counts


class _Groups:
    """Which group each event belongs to: ``place`` is that of its key among the ``keys``."""

    def __init__(self, keys: Ints) -> None:
        self._order = np.argsort(keys, kind="stable")
        ordered = keys[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
        self.keys = ordered[self._starts]
        self.n = np.diff(self._starts, append=len(keys))
        self.place = np.empty(len(keys), np.int64)
        self.place[self._order] = np.repeat(np.arange(len(self.keys)), self.n)

    def zeros(self, reference_cells: Reference) -> GroupedCounts:
        shape = len(reference_cells.metrics), reference_cells.width
        return GroupedCounts.zeros(self.keys, shape, reference_cells.score_cells)

    def add(self, values: Ints) -> Ints:
        """Sum per group of values [… x events]; integers, so in any order."""
        return np.add.reduceat(values.take(self._order, axis=-1), self._starts, axis=-1)

    def least(self, values: Floats) -> Floats:
        """Minimum per group; NaN where there is no value."""
        return _one_nan(np.fmin.reduceat(values.take(self._order, axis=-1), self._starts, axis=-1))

    def most(self, values: Floats) -> Floats:
        return _one_nan(np.fmax.reduceat(values.take(self._order, axis=-1), self._starts, axis=-1))


class _Located(NamedTuple):
    """Events [metrics x events]: values, and what they add to sums; their order by value, and their cells in it."""

    values: Floats
    units: Ints
    ranks: NDArray[np.intp]
    cells: Ints

    @classmethod
    def of(cls, reference_cells: Reference, matrix: Floats, scores: Floats) -> _Located:
        values = arrange(reference_cells, matrix, scores)
        # Ordering the values, and looking the edges up in them, costs a fifth of looking each up among the edges.
        ranks = np.argsort(values, axis=1)
        counts = count_ordered(reference_cells, np.take_along_axis(values, ranks, axis=1))
        cells = np.repeat(np.arange(counts.size), counts.ravel()).reshape(values.shape)
        return cls(values, fixed_point(reference_cells, values.copy()), ranks, cells)


def _count_one_way(reference_cells: Reference, groups: _Groups, located: _Located) -> GroupedCounts:
    counts = groups.zeros(reference_cells)
    counts.n = groups.n
    positions = groups.place.take(located.ranks) * counts.sizes[0] + located.cells
    counts.cells, counts.values = _tally(positions.ravel())
    counts.sums[:, :-1] = groups.add(located.units).T
    counts.minima[:, :-1], counts.maxima[:, :-1] = groups.least(located.values).T, groups.most(located.values).T
    return counts


def _tally(positions: Ints) -> tuple[Ints, Ints]:
    """Distinct positions, ascending, and how often each comes."""
    if positions.max(initial=0) > _CELLS_PER_THING * len(positions):
        return np.unique(positions, return_counts=True)
    counts = np.bincount(positions)
    cells = np.flatnonzero(counts)
    return cells, counts[cells]


def _add_up(cells: list[Ints], values: list[Ints]) -> tuple[Ints, Ints]:
    joined, amounts = np.concatenate(cells), np.concatenate(values)
    if not len(joined):
        return joined, amounts
    order = np.argsort(joined, kind="stable")  # of runs that ascend, so that this only merges them
    joined = joined[order]
    starts = np.flatnonzero(np.diff(joined, prepend=-1))
    return joined[starts], np.add.reduceat(amounts[order], starts)


def _move(cells: Ints, places: Ints, size: int) -> Ints:
    """Positions of the same cells when group i has become number ``places[i]``."""
    group, cell = np.divmod(cells, size)
    moved: Ints = places[group] * size + cell
    return moved


def _one_nan(values: Floats) -> Floats:
    values[np.isnan(values)] = np.nan  # one NaN, whatever the bits of those in the data
    return values
