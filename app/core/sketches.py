"""Counts on the wire: what a transaction adds to the sketches topic, and how such deltas become counts again.

A `SketchBuffer` collects, in a worker, what one transaction counted, per version, event-time slice and segment, and
drains it into `SketchDelta`s. A `Sketch` merges deltas, in any order, without knowing the reference of their version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.merge import BEGINNING_MS
from app.core.segment_sketches import SegmentBuffer
from models.counting import count, count_outcomes
from models.reference import Counts, Reference
from schemas.wire import ErrorRun, SketchDelta, SketchRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from app.core.batches import Floats, Ints
    from models.segments import Segments

#: What a record of the sketches topic may hold; a topic takes 1 MiB by default.
MOST_RECORD_BYTES = 512 << 10
#: Of a delta, besides its arrays: names and numbers.
_DELTA_BYTES = 400

#: The segment that every event belongs to.
ALL = "all"

# A bad position must not ask for gigabytes: 4 million cells are 4 000 metrics of 1 000.
_MOST_CELLS = 2**22

#: Events, and labels, are counted so many at a time: a few cost nearly as much as a thousand.
_AT_ONCE = 8_000


def pack(model: str, version: str, segment: str, slice_start_ms: int, counts: Counts) -> SketchDelta:
    """Code counts as a delta; `unpack` gives the same counts back."""
    return Sketch(
        n=counts.n,
        cells=counts.counts.ravel(),
        sums=counts.sums,
        minima=counts.minima,
        maxima=counts.maxima,
        outcomes=counts.outcomes.ravel(),
        log_loss_sum=counts.log_loss_sum,
        n_correct=counts.n_correct,
    ).to_delta(model, version, segment, slice_start_ms)


def unpack(delta: SketchDelta, reference: Reference) -> Counts:
    """Give the counts of a delta in the cells of its version's reference."""
    sketch = Sketch()
    sketch.add(delta)
    return sketch.to_counts(reference)


def slice_starts(time_ms: Ints, slice_ms: int) -> Ints:
    """Start of the slice [start, start + slice_ms) that holds each time; slices are aligned to 1970 UTC."""
    return time_ms // slice_ms * slice_ms


def split_record(record: SketchRecord, most_bytes: int = MOST_RECORD_BYTES) -> Iterator[SketchRecord]:
    """The record in parts of about ``most_bytes``: a transaction over a backlog may count in thousands of slices.

    Only the last part says how far the partition has come: before it, nothing may close.
    """
    deltas: list[SketchDelta] = []
    errors: list[ErrorRun] = []
    size = 0
    for run in _cut_errors(record.errors, most_bytes):
        more = len(run.times_ms) + len(run.wrong) + _DELTA_BYTES
        if errors and size + more > most_bytes:
            yield SketchRecord(record.partition, BEGINNING_MS, BEGINNING_MS, [], errors)
            errors, size = [], 0
        errors.append(run)
        size += more
    for delta in record.deltas:
        more = sum(map(len, (delta.cells, delta.counts, delta.sums, delta.minima, delta.maxima, delta.outcome_cells)))
        more += len(delta.outcome_counts) + _DELTA_BYTES
        if (deltas or errors) and size + more > most_bytes:
            yield SketchRecord(record.partition, BEGINNING_MS, BEGINNING_MS, deltas, errors)
            deltas, errors, size = [], [], 0
        deltas.append(delta)
        size += more
    yield SketchRecord(record.partition, record.watermark_ms, record.label_watermark_ms, deltas, errors)


def _cut_errors(runs: list[ErrorRun], most_bytes: int) -> Iterator[ErrorRun]:
    most = max(most_bytes // 9, 1)
    for run in runs:
        for at in range(0, len(run.wrong), most):
            yield ErrorRun(run.version, run.times_ms[8 * at : 8 * (at + most)], run.wrong[at : at + most])


@dataclass(eq=False)
class Sketch:
    """The merged deltas of one version and window. Its flat count vectors grow to the highest cell seen."""

    n: int = 0
    cells: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    sums: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    minima: Floats = field(default_factory=lambda: np.zeros(0))
    maxima: Floats = field(default_factory=lambda: np.zeros(0))
    outcomes: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    log_loss_sum: int = 0
    n_correct: int = 0

    def add(self, delta: SketchDelta) -> None:
        """Merge a delta; ValueError, and nothing merged, when it is not whole."""
        cells, values = _positions(delta.cells, delta.counts, _MOST_CELLS)
        outcome_cells, outcome_values = _positions(delta.outcome_cells, delta.outcome_counts, _MOST_CELLS)
        sums = np.frombuffer(delta.sums, "<i8")
        minima, maxima = np.frombuffer(delta.minima, "<f8"), np.frombuffer(delta.maxima, "<f8")
        if not len(sums) == len(minima) == len(maxima) or (len(self.sums) and len(self.sums) != len(sums)):
            raise ValueError(
                f"sketch of version {delta.version} has {len(sums)} sums, {len(minima)} minima, {len(maxima)} maxima "
                f"beside {len(self.sums)} metrics; two models must not share a version number"
            )
        if not len(self.sums):
            self.sums = np.zeros(len(sums), np.int64)
            self.minima, self.maxima = np.full(len(sums), np.nan), np.full(len(sums), np.nan)
        self.cells = _add(self.cells, cells, values)
        self.outcomes = _add(self.outcomes, outcome_cells, outcome_values)
        self.sums += sums
        self.minima = np.fmin(self.minima, minima)
        self.maxima = np.fmax(self.maxima, maxima)
        self.n += delta.n
        self.log_loss_sum += delta.log_loss_sum
        self.n_correct += delta.n_correct

    def merge(self, other: Sketch) -> None:
        """Add the counts of another sketch of the same version."""
        for name in ("cells", "outcomes", "sums"):
            mine, more = getattr(self, name), getattr(other, name)
            whole = np.zeros(max(len(mine), len(more)), np.int64)
            whole[: len(mine)] += mine
            whole[: len(more)] += more
            setattr(self, name, whole)
        if not len(self.minima):
            self.minima, self.maxima = other.minima.copy(), other.maxima.copy()
        elif len(other.minima):
            self.minima, self.maxima = np.fmin(self.minima, other.minima), np.fmax(self.maxima, other.maxima)
        self.n += other.n
        self.log_loss_sum += other.log_loss_sum
        self.n_correct += other.n_correct

    def to_counts(self, reference: Reference) -> Counts:
        """Give the counts in the cells of the reference they were counted with; ValueError when they do not fit."""
        counts = reference.zeros()
        if (
            len(self.cells) > counts.counts.size
            or len(self.outcomes) > counts.outcomes.size
            or len(self.sums) not in {0, len(counts.sums)}
        ):
            raise ValueError(
                f"the counts have {len(self.sums)} metrics and reach cell {len(self.cells) - 1}, the reference has "
                f"{len(counts.sums)} metrics and {counts.counts.size} cells; register the reference they were made with"
            )
        counts.counts.reshape(-1)[: len(self.cells)] = self.cells
        counts.outcomes.reshape(-1)[: len(self.outcomes)] = self.outcomes
        if len(self.sums):
            counts.sums, counts.minima, counts.maxima = self.sums.copy(), self.minima.copy(), self.maxima.copy()
        counts.n, counts.log_loss_sum, counts.n_correct = self.n, self.log_loss_sum, self.n_correct
        return counts

    def to_delta(self, model: str, version: str, segment: str, start_ms: int) -> SketchDelta:
        """Code the whole sketch as one delta: what `add` makes the same sketch of."""
        cells, values = _sparse(self.cells)
        outcome_cells, outcome_values = _sparse(self.outcomes)
        return SketchDelta(
            model=model,
            version=version,
            segment=segment,
            slice_start_ms=start_ms,
            n=self.n,
            cells=cells,
            counts=values,
            sums=self.sums.astype("<i8").tobytes(),
            minima=self.minima.astype("<f8").tobytes(),
            maxima=self.maxima.astype("<f8").tobytes(),
            outcome_cells=outcome_cells,
            outcome_counts=outcome_values,
            log_loss_sum=self.log_loss_sum,
            n_correct=self.n_correct,
        )


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
        self._errors: dict[str, list[tuple[Ints, NDArray[np.bool_]]]] = {}

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

    def add_errors(self, version: str, time_ms: Ints, wrong: NDArray[np.bool_]) -> None:
        """Note the decisions whose labels were applied at these effective times, in their order."""
        self._errors.setdefault(version, []).append((time_ms, wrong))

    def drain_errors(self) -> list[ErrorRun]:
        """Give the decisions since the last drain, a run per version."""
        errors, self._errors = self._errors, {}
        return [
            ErrorRun(
                version,
                np.concatenate([times for times, _ in runs]).astype("<i8").tobytes(),
                np.concatenate([wrong for _, wrong in runs]).astype(np.uint8).tobytes(),
            )
            for version, runs in sorted(errors.items())
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


def _add(dense: Ints, cells: NDArray[np.intp], values: Ints) -> Ints:
    if len(cells) and int(cells.max()) >= len(dense):
        dense = np.append(dense, np.zeros(int(cells.max()) + 1 - len(dense), np.int64))
    np.add.at(dense, cells, values)
    return dense


def _sparse(dense: Ints) -> tuple[bytes, bytes]:
    cells = np.flatnonzero(dense)
    return cells.astype("<u4").tobytes(), dense[cells].astype("<i8").tobytes()


def _positions(cells: bytes, values: bytes, limit: int) -> tuple[NDArray[np.intp], Ints]:
    positions = np.frombuffer(cells, "<u4").astype(np.intp)
    numbers = np.frombuffer(values, "<i8").astype(np.int64)
    if len(positions) != len(numbers) or (len(positions) and int(positions.max()) >= limit):
        raise ValueError(f"{len(positions)} cells below {limit} and {len(numbers)} counts do not make a sketch")
    return positions, numbers
