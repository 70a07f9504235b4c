"""What one transaction counts segment by segment, beside the counts of all events (`app.core.counts.sketches`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.reference.grouped_counts import GroupedCounts, count_groups, count_outcome_groups
from schemas.wire import SketchDelta

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.core.batches import Floats, Ints
    from models.reference.reference import Reference
    from models.reference.segments import Segments


class SegmentBuffer:
    """Counts per version, slice and segment, until they are drained.

    Parameters
    ----------
    model
        Name of the model.
    slice_ms
        Length of a slice of event time.
    segments
        The segments of the pipeline.
    """

    def __init__(self, model: str, slice_ms: int, segments: Segments) -> None:
        self._model = model
        self._slice_ms = slice_ms
        self._segments = segments
        self._counted: dict[str, list[GroupedCounts]] = {}

    def add_scored(self, version: str, reference: Reference, starts: Ints, matrix: Floats, scores: Floats) -> None:
        """Count scored events of one version; ``starts``: of their slices."""
        keys = self._keys(starts, self._segments.find(matrix))
        self._counted.setdefault(version, []).extend(count_groups(reference, matrix, scores, keys))

    def add_labelled(  # noqa: PLR0917  # as `add_scored`, and what the labels are
        self,
        version: str,
        reference: Reference,
        starts: Ints,
        scores: Floats,
        labels: Floats,
        segments: Sequence[Sequence[int]],
    ) -> None:
        """Count labels that have arrived; ``segments``: numbers of those that each event belongs to."""
        events = np.repeat(np.arange(len(segments)), list(map(len, segments)))
        numbers = np.array([number for event in segments for number in event], dtype=np.int64)
        chosen = self._segments.is_chosen[numbers]  # events that wait since the file named other columns have others
        events, numbers = events[chosen], numbers[chosen]
        if len(events):
            counted = count_outcome_groups(
                reference, scores[events], labels[events], self._keys(starts[events], numbers)
            )
            self._counted.setdefault(version, []).append(counted)

    def drain(self) -> Iterator[SketchDelta]:
        """Give what was counted since the last drain, ordered by version, slice and segment."""
        counted, self._counted = self._counted, {}
        for version in sorted(counted):
            if counted[version]:
                yield from self._pack(version, GroupedCounts.merge(counted[version]))

    def _keys(self, starts: Ints, numbers: Ints) -> Ints:
        """One number for slice and segment, in that order."""
        return starts // self._slice_ms * len(self._segments.names) + numbers

    def _pack(self, version: str, grouped: GroupedCounts) -> Iterator[SketchDelta]:
        names = self._segments.names
        size, outcome_size = grouped.sizes
        bounds, outcome_bounds = (ends.tolist() for ends in grouped.bounds())
        cells, values = (grouped.cells % size).astype("<u4"), grouped.values.astype("<i8")
        outcome_cells = (grouped.outcome_cells % outcome_size).astype("<u4")
        outcome_values = grouped.outcome_values.astype("<i8")
        sums = grouped.sums.astype("<i8")
        minima, maxima = grouped.minima.astype("<f8"), grouped.maxima.astype("<f8")
        for place, key in enumerate(grouped.keys.tolist()):
            slice_number, number = divmod(key, len(names))
            here, there = slice(*bounds[place : place + 2]), slice(*outcome_bounds[place : place + 2])
            yield SketchDelta(
                model=self._model,
                version=version,
                segment=names[number],
                slice_start_ms=slice_number * self._slice_ms,
                n=int(grouped.n[place]),
                cells=cells[here].tobytes(),
                counts=values[here].tobytes(),
                sums=sums[place].tobytes(),
                minima=minima[place].tobytes(),
                maxima=maxima[place].tobytes(),
                outcome_cells=outcome_cells[there].tobytes(),
                outcome_counts=outcome_values[there].tobytes(),
                log_loss_sum=int(grouped.log_loss_sum[place]),
                n_correct=int(grouped.n_correct[place]),
            )
