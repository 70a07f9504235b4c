"""Sketch records: counts that must add up, in windows that can be, before any of them is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from app.core.counts.delay_law import N_CELLS
from app.core.counts.sketches import ALL
from models.reference.error_hours import HOURS
from models.reference.segments import Segments
from models.reference.soundness import MOST_EVENTS, SparseCounts, find_fault_without_reference
from schemas.refusal import RefusedRecordError
from schemas.wire import SketchRecord, decode_packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from app.core.records.rules import RecordRules
    from models.reference.soundness import CellLaws
    from schemas.pipeline.spec import Pipeline
    from schemas.wire import DelayCounts, ErrorRun, LabelCounts, SketchDelta

#: The most versions without a reference of which counts are held.
MOST_UNKNOWN = 100


def read_sketch(partition: int, value: bytes | None) -> SketchRecord:
    """The record in this partition of the topic, as far as its bytes say; `SketchRules` say the rest."""
    record = decode_packed(value, SketchRecord)
    if record.partition != partition:
        raise RefusedRecordError("foreign", f"It speaks of partition {record.partition}, and it lies in {partition}.")
    return record


class SketchRules:
    """What is checked of a sketch record before a monitor takes it.

    Parameters
    ----------
    pipeline
        Of the monitor: its partitions, model, segments and slices.
    rules
        As for all records.
    """

    def __init__(self, pipeline: Pipeline, rules: RecordRules) -> None:
        self._rules = rules
        self._partitions = pipeline.partitions
        self._slice_ms = pipeline.drift.slice_ms
        self._segments = frozenset((ALL, *Segments.of(pipeline).names))

    @property
    def latest_come_to_ms(self) -> int:
        """How far a partition can have come, by the pipeline file."""
        return self._rules.latest_come_to_ms(None)

    def check(
        self,
        record: SketchRecord,
        laws: Mapping[str, CellLaws],
        n_metrics: Mapping[str, int],
        clock_ms: int | None = None,
    ) -> SketchRecord:
        """The record as it may be counted: without the deltas of segments that the pipeline does not have (any more).

        Parameters
        ----------
        laws
            Of the versions whose reference is known.
        n_metrics
            How many metrics the counts have that are held of each other version; 0: none are held.
        clock_ms
            Time of the reader's clock; None: there is none.

        Raises
        ------
        RefusedRecordError
            When anything in it cannot be; nothing has been changed then.
        """
        if record.partition >= self._partitions:
            raise RefusedRecordError("foreign", f"Partition {record.partition} is none of the {self._partitions}.")
        latest_ms = self._rules.latest_come_to_ms(clock_ms)
        if max(record.watermark_ms, record.label_watermark_ms) > latest_ms:
            raise RefusedRecordError(
                "out_of_range",
                f"It says to have come to {record.watermark_ms} and with labels to {record.label_watermark_ms}; the"
                f" latest that is believed is {latest_ms}.",
            )
        since_ms = record.unscored_since_ms
        if since_ms is not None and not self._rules.earliest_ms <= since_ms <= latest_ms:
            raise RefusedRecordError("out_of_range", f"It left events of {since_ms} unscored.")
        new = named_versions(record) - laws.keys() - n_metrics.keys()
        if new and len(n_metrics) + len(new) > MOST_UNKNOWN:
            raise RefusedRecordError("foreign", f"{len(n_metrics) + len(new)} versions are unknown.")
        sizes = dict(n_metrics)
        for delta in record.deltas:
            self._check_delta(delta, laws.get(delta.version), sizes, latest_ms)
        for run in record.errors:
            self._check_run(run, latest_ms)
        for labels in record.labels:
            self._check_labels(labels, latest_ms)
        for delays in record.delays:
            self._check_delays(delays, latest_ms)
        known = [delta for delta in record.deltas if delta.segment in self._segments]
        if len(known) == len(record.deltas):
            return record
        return msgspec.structs.replace(record, deltas=known)

    def _check_delta(self, delta: SketchDelta, laws: CellLaws | None, sizes: dict[str, int], latest_ms: int) -> None:
        if delta.model != self._rules.model:
            raise RefusedRecordError(
                "foreign",
                f"It counts for model {delta.model!r:.200}, and the pipeline's is {self._rules.model!r}: give each"
                " model a pipeline of its own.",
            )
        if not self._rules.earliest_ms - self._slice_ms < delta.slice_start_ms <= latest_ms:
            raise RefusedRecordError(
                "out_of_range", f"It counts events of a slice that begins at {delta.slice_start_ms}."
            )
        try:
            counts = to_sparse(delta)
        except ValueError as error:
            raise RefusedRecordError("inconsistent", f"Version {delta.version:.40}: {error}.") from None
        if laws is not None:
            fault = laws.find_fault(counts)
        else:
            fault = find_fault_without_reference(counts)
            size = sizes[delta.version] = sizes.get(delta.version) or len(counts.sums)
            if not fault and size != len(counts.sums):
                fault = f"it has {len(counts.sums)} metrics, and what is held of the version has {size}"
        if fault:
            raise RefusedRecordError("inconsistent", f"Version {delta.version:.40}, {delta.segment:.40}: {fault}.")

    def _check_labels(self, labels: LabelCounts, latest_ms: int) -> None:
        if len(labels.strangers) % 8:
            raise RefusedRecordError("inconsistent", f"{len(labels.strangers)} bytes are no keys of strangers.")
        without_event = labels.too_late + labels.unknown + len(labels.strangers) // 8
        if labels.n > MOST_EVENTS or without_event > labels.n:
            raise RefusedRecordError("inconsistent", f"{without_event} of {labels.n} labels were without an event.")
        earliest_ms = self._rules.earliest_ms - self._rules.horizon_ms - self._slice_ms
        if not earliest_ms < labels.slice_start_ms <= latest_ms or labels.slice_start_ms % self._slice_ms:
            raise RefusedRecordError(
                "out_of_range", f"It counts labels of a slice that begins at {labels.slice_start_ms}."
            )

    def _check_delays(self, delays: DelayCounts, latest_ms: int) -> None:
        try:
            cells, counts = np.frombuffer(delays.cells, "<u4"), np.frombuffer(delays.counts, "<i8")
        except ValueError as error:
            raise RefusedRecordError("inconsistent", f"Delays of labels: {error}.") from None
        is_sound = (
            len(cells) == len(counts)
            and bool((cells < N_CELLS).all())
            and bool((cells[1:] > cells[:-1]).all())
            and bool(((counts > 0) & (counts <= MOST_EVENTS)).all())
        )
        if not is_sound:
            raise RefusedRecordError("inconsistent", "Cells of delays ascend, and each has its count of labels.")
        earliest_ms = self._rules.earliest_ms - self._slice_ms
        if not earliest_ms < delays.slice_start_ms <= latest_ms or delays.newest_ms > latest_ms:
            raise RefusedRecordError(
                "out_of_range",
                f"It counts delays of a slice that begins at {delays.slice_start_ms}, and labels up to"
                f" {delays.newest_ms}.",
            )

    def _check_run(self, run: ErrorRun, latest_ms: int) -> None:
        n = len(run.decisions)
        if len(run.times_ms) != 8 * n:
            raise RefusedRecordError("inconsistent", f"{len(run.times_ms)} bytes of times do not fit {n} decisions.")
        if len(run.hours) not in {0, n}:
            raise RefusedRecordError("inconsistent", f"{len(run.hours)} hours do not fit {n} decisions.")
        decisions, hours = np.frombuffer(run.decisions, np.uint8), np.frombuffer(run.hours, np.uint8)
        if (decisions > 3).any() or (hours >= HOURS).any():
            raise RefusedRecordError("inconsistent", "Of a run of errors, each is 0 to 3, in an hour of the week.")
        times = np.frombuffer(run.times_ms, "<i8")
        earliest_ms = self._rules.earliest_ms - self._rules.horizon_ms
        if len(times) and not earliest_ms <= times.min() <= times.max() <= latest_ms:
            raise RefusedRecordError("out_of_range", f"A run of errors is from {times.min()} to {times.max()}.")


def named_versions(record: SketchRecord) -> set[str]:
    """The versions that a record speaks of."""
    return {delta.version for delta in record.deltas} | {run.version for run in record.errors}


def to_sparse(delta: SketchDelta) -> SparseCounts:
    """The counts of a delta; ValueError when its bytes are not whole numbers."""
    return SparseCounts(
        delta.n,
        np.frombuffer(delta.cells, "<u4").astype(np.int64),
        np.frombuffer(delta.counts, "<i8"),
        np.frombuffer(delta.sums, "<i8"),
        np.frombuffer(delta.minima, "<f8"),
        np.frombuffer(delta.maxima, "<f8"),
        np.frombuffer(delta.outcome_cells, "<u4").astype(np.int64),
        np.frombuffer(delta.outcome_counts, "<i8"),
        delta.log_loss_sum,
        delta.n_correct,
    )
