"""Records of a partition's two topics, decoded; events with their stateless features, and what is refused of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from app.core.batches import EventBatch, Floats, Ints, LabelBatch, RecordBatch, Rejection
from app.core.entities.directory import EntityDirectory
from app.core.entities.guard import EntityGuard
from app.core.entities.log import EntityLog
from app.core.features.plan import FeaturePlan
from app.core.intake.decode import EventDecoder, LabelDecoder
from app.core.intake.merge import Merged
from app.core.intake.sent_once import SentOnce
from app.core.tiles.hash_runs import hash64
from app.flow.letters import in_order
from app.flow.marks import Marks
from schemas.pipeline.spec import Pipeline
from schemas.topics import ONCE_HEADER

#: Why an event is refused whose entity belongs to another partition.
WRONG_PARTITION = "wrong_partition"


@dataclass(slots=True)
class QueuedEvents:
    """One batch of the events topic, decoded, with its stateless features."""

    records: RecordBatch
    events: EventBatch
    matrix: Floats
    rejections: deque[Rejection]
    end_offset: int

    def rows_of(self, merged: Merged[QueuedEvents]) -> tuple[EventBatch, Floats]:
        """The events of a run, and their rows of the matrix."""
        events = self.events_of(merged)
        return events, self.matrix if events is self.events else self.matrix[merged.start : merged.stop].copy()

    def events_of(self, merged: Merged[QueuedEvents]) -> EventBatch:
        """The events of a run."""
        if merged.start == 0 and merged.stop == len(self.events):
            return self.events
        return self.events.take(np.arange(merged.start, merged.stop, dtype=np.int64))

    def take_rejections(self, merged: Merged[QueuedEvents]) -> tuple[list[Rejection], int]:
        """What is refused before the event after a run, and the offset up to which that is all."""
        until = self.end_offset if merged.last else int(self.events.offsets[merged.stop])
        offsets, taken = self.records.offsets, []
        while self.rejections and int(offsets[self.rejections[0].position]) < until:
            taken.append(self.rejections.popleft())
        return taken, until


class FlowInputs:
    """Decodes what one partition receives.

    Parameters
    ----------
    entities
        Where the entities of refused events are noted all the same; None: entities are not watched.
    directory
        Where each entity was seen: events of one that belongs to another partition are refused. None: none are.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        partition: int,
        marks: Marks,
        *,
        entities: EntityLog | None,
        directory: EntityDirectory | None,
    ) -> None:
        self._partition = partition
        self._plan = plan
        self._marks = marks
        self._entities = entities
        self._guard = EntityGuard(directory, partition) if directory is not None else None
        self._decode_events = EventDecoder(pipeline.events).decode
        self._decode_labels = LabelDecoder(pipeline).decode

    def read_events(self, records: RecordBatch, clock_ms: int | None, sent: SentOnce) -> QueuedEvents:
        """Events with their stateless features.

        Parameters
        ----------
        clock_ms
            As in `PartitionPipeline.receive_events`.
        sent
            Knows which events were sent once: another record of one is refused.
        """
        events, rejections = self._decode_events(records, clock_ms)
        misplaced = self._find_misplaced(events)
        if misplaced and self._entities is not None:
            rows = [rejection.position for rejection in misplaced]
            times_ms = np.maximum(events.event_time_ms[rows], self._marks.event_watermark_ms)
            self._entities.see([events.entity[row] for row in rows], np.maximum.accumulate(times_ms))
        events, rejections = _leave_out(misplaced, events, rejections, records)
        if records.headers is not None:
            repeated = sent.find_repeated(events, _sent_once(records, events))
            events, rejections = _leave_out(repeated, events, rejections, records)
        return self._compute(records, events, rejections)

    def preview_events(self, records: RecordBatch, clock_ms: int) -> QueuedEvents:
        """As `read_events`, of records that are in no topic: nobody is told of their entities."""
        events, rejections = self._decode_events(records, clock_ms)
        events, rejections = _leave_out(self._find_misplaced(events), events, rejections, records)
        return self._compute(records, events, rejections)

    def read_labels(self, records: RecordBatch, clock_ms: int | None) -> tuple[LabelBatch, list[Rejection]]:
        """Labels, and what is refused of them."""
        labels, rejections = self._decode_labels(records, clock_ms)
        self._marks.labels_end = int(records.offsets[-1]) + 1
        return labels, rejections

    def _compute(self, records: RecordBatch, events: EventBatch, rejections: list[Rejection]) -> QueuedEvents:
        matrix, failed = self._plan.compute(events)
        if failed:
            rejections = in_order(rejections, failed, events, records)
            good = _rows_without(events, failed)
            events, matrix = events.take(good), matrix[good]
        return QueuedEvents(records, events, matrix, deque(rejections), int(records.offsets[-1]) + 1)

    def _find_misplaced(self, events: EventBatch) -> list[Rejection]:
        """Refuse the events of entities that belong to another partition."""
        misplaced = self._guard.find_misplaced(events.entity) if self._guard is not None else []
        return [
            Rejection(
                row,
                "validate",
                WRONG_PARTITION,
                f"{events.entity[row][:100]} belongs to partition {home}, which saw it first; this is partition"
                f" {self._partition}.",
            )
            for row, home in misplaced
        ]


def _sent_once(records: RecordBatch, events: EventBatch) -> Iterator[tuple[int, int, int]]:
    """The events that were sent once: row, time stamp of the record, digest of its bytes."""
    marked = {place for place, of in enumerate(records.headers or ()) for name, _ in of if name == ONCE_HEADER}
    if not marked:
        return
    for row, position in enumerate(np.searchsorted(records.offsets, events.offsets).tolist()):
        if position in marked:
            yield row, int(records.timestamps_ms[position]), hash64(records.values[position] or b"")


def _leave_out(
    refused: list[Rejection], events: EventBatch, rejections: list[Rejection], records: RecordBatch
) -> tuple[EventBatch, list[Rejection]]:
    """Events without those that are refused (by their rows), and all rejections by their records."""
    if not refused:
        return events, rejections
    return events.take(_rows_without(events, refused)), in_order(rejections, refused, events, records)


def _rows_without(events: EventBatch, rejections: list[Rejection]) -> Ints:
    rows: Ints = np.setdiff1d(np.arange(len(events)), [rejection.position for rejection in rejections])
    return rows
