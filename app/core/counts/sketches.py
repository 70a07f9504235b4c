"""Counts on the wire: what a transaction adds to the sketches topic, and how such deltas become counts again.

`pack` codes counts as a `SketchDelta`; a `Sketch` merges deltas, in any order, without knowing the reference of their
version. What a worker counts in a transaction is collected in `app.core.counts.buffer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from app.core.intake.merge import BEGINNING_MS
from models.reference.reference import Counts, Reference
from models.reference.soundness import MOST_CELLS, SparseCounts
from schemas.wire import DelayCounts, ErrorRun, LabelCounts, SketchDelta, SketchRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from app.core.batches import Floats, Ints

#: What a record of the sketches topic may hold; a topic takes 1 MiB by default.
MOST_RECORD_BYTES = 512 << 10
#: Of a delta, besides its arrays: names and numbers; and of delays, which have no names.
_DELTA_BYTES = 400
_NUMBERS_BYTES = 32

#: The segment that every event belongs to.
ALL = "all"


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


def split_record(record: SketchRecord, most_bytes: int = MOST_RECORD_BYTES) -> Iterator[SketchRecord]:
    """The record in parts of about ``most_bytes``: a transaction over a backlog may count in thousands of slices.

    Only the last part says how far the partition has come: before it, nothing may close.
    """
    part, size = _nothing_of(record), 0
    for piece, piece_bytes in _pieces(record, most_bytes):
        if size and size + piece_bytes > most_bytes:
            yield part
            part, size = _nothing_of(record), 0
        if isinstance(piece, ErrorRun):
            part.errors.append(piece)
        elif isinstance(piece, LabelCounts):
            part.labels.append(piece)
        elif isinstance(piece, DelayCounts):
            part.delays.append(piece)
        else:
            part.deltas.append(piece)
        size += piece_bytes
    part.watermark_ms, part.label_watermark_ms = record.watermark_ms, record.label_watermark_ms
    part.unscored, part.unscored_since_ms = record.unscored, record.unscored_since_ms
    yield part


def _nothing_of(record: SketchRecord) -> SketchRecord:
    return SketchRecord(record.partition, BEGINNING_MS, BEGINNING_MS, [], [], 0, [], [])


def _pieces(
    record: SketchRecord, most_bytes: int
) -> Iterator[tuple[ErrorRun | LabelCounts | DelayCounts | SketchDelta, int]]:
    """What a record is made of, and how many bytes each takes."""
    for run in _cut_errors(record.errors, most_bytes):
        yield run, len(run.times_ms) + len(run.decisions) + len(run.hours) + _DELTA_BYTES
    for labels in _cut_strangers(record.labels, most_bytes):
        yield labels, len(labels.strangers) + _DELTA_BYTES
    for delays in record.delays:
        yield delays, len(delays.cells) + len(delays.counts) + _NUMBERS_BYTES
    for delta in record.deltas:
        arrays = (delta.cells, delta.counts, delta.sums, delta.minima, delta.maxima, delta.outcome_cells)
        yield delta, sum(map(len, arrays)) + len(delta.outcome_counts) + _DELTA_BYTES


def _cut_strangers(counts: list[LabelCounts], most_bytes: int) -> Iterator[LabelCounts]:
    most = max(most_bytes // 8, 1) * 8
    for labels in counts:
        yield LabelCounts(labels.slice_start_ms, labels.n, labels.too_late, labels.unknown, labels.strangers[:most])
        for at in range(most, len(labels.strangers), most):
            yield LabelCounts(labels.slice_start_ms, 0, 0, 0, labels.strangers[at : at + most])


def _cut_errors(runs: list[ErrorRun], most_bytes: int) -> Iterator[ErrorRun]:
    most = max(most_bytes // 10, 1)
    for run in runs:
        for at in range(0, len(run.decisions), most):
            rows = slice(at, at + most)
            yield ErrorRun(run.version, run.times_ms[8 * at : 8 * (at + most)], run.decisions[rows], run.hours[rows])


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
        cells, values = _positions(delta.cells, delta.counts, MOST_CELLS)
        outcome_cells, outcome_values = _positions(delta.outcome_cells, delta.outcome_counts, MOST_CELLS)
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

    def to_sparse(self) -> SparseCounts:
        """Give the counts as what `models.reference.soundness` looks at."""
        cells, outcome_cells = np.flatnonzero(self.cells), np.flatnonzero(self.outcomes)
        return SparseCounts(
            self.n,
            cells,
            self.cells[cells],
            self.sums,
            self.minima,
            self.maxima,
            outcome_cells,
            self.outcomes[outcome_cells],
            self.log_loss_sum,
            self.n_correct,
        )

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
        """Code the whole sketch as one delta, of which `add` makes the same sketch."""
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
