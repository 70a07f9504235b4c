"""What one transaction of a worker counts, per version, slice of event time and segment, until it is drained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.counts.segments import SegmentBuffer
from app.core.counts.sketches import ALL, pack
from models.reference.counting import count, count_outcomes
from models.reference.error_hours import hours_of
from schemas.wire import ErrorRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from app.core.batches import Floats, Ints
    from models.reference.reference import Counts, Reference
    from models.reference.segments import Segments
    from schemas.wire import SketchDelta

#: Events, and labels, are counted this many at a time: a few cost nearly as much as a thousand.
_AT_ONCE = 8_000


def slice_starts(time_ms: Ints, slice_ms: int) -> Ints:
    """Start of the slice [start, start + slice_ms) that holds each time; slices are aligned to 1970 UTC."""
    return time_ms // slice_ms * slice_ms


@dataclass(eq=False)
class _Waiting:
    """Events of one version, or labels, that wait to be counted: runs of arrays with the event times first."""

    reference: Reference
    runs: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    n: int = 0

    def add(self, *arrays: NDArray[Any]) -> bool:
        """Take a run; True when it is time to count."""
        self.runs.append(arrays)
        self.n += len(arrays[0])
        return self.n >= _AT_ONCE

    def joined(self) -> list[NDArray[Any]]:
        return [np.concatenate(arrays) for arrays in zip(*self.runs, strict=True)]


class SketchBuffer:
    """What one transaction of a worker counts, per version and slice.

    Parameters
    ----------
    model
        Name of the model.
    slice_ms
        Length of a slice of event time.
    segments
        What is counted by itself besides all events; None: nothing.
    """

    def __init__(self, model: str, slice_ms: int, segments: Segments | None = None) -> None:
        self._model = model
        self._slice_ms = slice_ms
        self._by_segment = SegmentBuffer(model, slice_ms, segments) if segments else None
        self._counts: dict[tuple[str, int], Counts] = {}
        self._scored: dict[str, _Waiting] = {}
        self._labelled: dict[str, _Waiting] = {}
        self._errors: dict[str, list[tuple[Ints, NDArray[np.uint8], Ints]]] = {}

    def add_scored(
        self, version: str, reference: Reference, event_time_ms: Ints, matrix: Floats, scores: Floats
    ) -> None:
        """Count scored events of one version in the slices of their event times; the arrays must stay as they are."""
        scored = self._scored.setdefault(version, _Waiting(reference))
        if scored.add(event_time_ms, matrix, scores):
            self._count_scored(version)

    def add_labelled(  # noqa: PLR0917  # as `add_scored`, and what the labels are
        self,
        version: str,
        reference: Reference,
        event_time_ms: Ints,
        scores: Floats,
        labels: Floats,
        segments: Sequence[Sequence[int]] = (),
    ) -> None:
        """Count labels that have arrived in the slices, and the ``segments``, of the events they belong to."""
        labelled = self._labelled.setdefault(version, _Waiting(reference))
        if labelled.add(event_time_ms, scores, labels):
            self._count_labelled(version)
        if self._by_segment is not None:
            starts = slice_starts(event_time_ms, self._slice_ms)
            self._by_segment.add_labelled(version, reference, starts, scores, labels, segments)

    def add_errors(
        self, version: str, time_ms: Ints, wrong: NDArray[np.bool_], is_positive: NDArray[np.bool_], event_time_ms: Ints
    ) -> None:
        """Note decisions whose labels were applied, in that order; ``time_ms``: from when each counts."""
        if len(time_ms):
            decisions = wrong.astype(np.uint8) + 2 * is_positive.astype(np.uint8)
            self._errors.setdefault(version, []).append((time_ms, decisions, event_time_ms))

    def drain_errors(self) -> list[ErrorRun]:
        """Give the decisions since the last drain, a run per version."""
        errors, self._errors = self._errors, {}
        return [
            ErrorRun(
                version,
                np.concatenate(times_ms).astype("<i8").tobytes(),
                np.concatenate(decisions).tobytes(),
                hours_of(np.concatenate(event_time_ms)).astype(np.uint8).tobytes(),
            )
            for version, runs in sorted(errors.items())
            for times_ms, decisions, event_time_ms in [zip(*runs, strict=True)]
        ]

    def drain(self) -> list[SketchDelta]:
        """Give the deltas since the last drain: all events', then the segments', ordered by version and slice."""
        for version in list(self._scored):
            self._count_scored(version)
        for version in list(self._labelled):
            self._count_labelled(version)
        counts, self._counts = self._counts, {}
        whole = [pack(self._model, version, ALL, start, counts[version, start]) for version, start in sorted(counts)]
        return whole if self._by_segment is None else [*whole, *self._by_segment.drain()]

    def _count_scored(self, version: str) -> None:
        scored = self._scored.pop(version)
        times, matrix, scores = scored.joined()
        starts = slice_starts(times, self._slice_ms)
        for start, here in _by_slice(starts):
            self._add(version, start, count(scored.reference, matrix[here], scores[here]))
        if self._by_segment is not None:
            self._by_segment.add_scored(version, scored.reference, starts, matrix, scores)

    def _count_labelled(self, version: str) -> None:
        labelled = self._labelled.pop(version)
        times, scores, labels = labelled.joined()
        for start, here in _by_slice(slice_starts(times, self._slice_ms)):
            self._add(version, start, count_outcomes(labelled.reference, scores[here], labels[here]))

    def _add(self, version: str, start_ms: int, counts: Counts) -> None:
        held = self._counts.get((version, start_ms))
        self._counts[version, start_ms] = counts if held is None else held + counts


def _by_slice(starts: Ints) -> Iterator[tuple[int, Ints | slice]]:
    """Each slice's start and where its events are."""
    if len(starts) == 0:
        return
    if (starts == starts[0]).all():
        yield int(starts[0]), slice(None)
        return
    order = np.argsort(starts, kind="stable")
    ordered = starts[order]
    for here in np.split(order, np.flatnonzero(np.diff(ordered)) + 1):
        yield int(starts[here[0]]), here
