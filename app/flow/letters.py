"""What is rejected of a partition's events and labels, as dead letters, and when there are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from app.core.batches import EventBatch, LabelBatch, RecordBatch, Rejection
from app.core.entities.copies import read_origin
from app.core.intake.rejection_limit import RejectionLimit
from app.flow.step import Step
from schemas.pipeline.spec import Pipeline
from schemas.wire import DeadLetter, Source


class Letters:
    """The dead letters of one partition."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._topics = pipeline.topics
        self._limits = {what: RejectionLimit(pipeline.limits, what) for what in ("events", "labels")}
        #: Of labels that were rejected and have not gone out.
        self._of_labels: deque[DeadLetter] = deque()

    @property
    def first_label_offset(self) -> int | None:
        """Offset of the first rejected label that has not gone out."""
        return self._of_labels[0].source.offset if self._of_labels else None

    def add_labels(self, records: RecordBatch, rejections: Iterable[Rejection], now_ms: int) -> None:
        """Keep what is rejected of the labels topic until it is its turn."""
        self._of_labels.extend(self._write(records, rejection, now_ms) for rejection in rejections)

    def take_labels(self, queued: int | None, applied: LabelBatch | None = None) -> list[DeadLetter]:
        """Rejected labels before the first ``queued`` one: after a restart, later ones would be rejected again.

        ``applied``: the labels that are applied with them.

        Raises
        ------
        TooManyDeadLettersError
            Before any of them goes out.
        """
        letters: list[DeadLetter] = []
        while self._of_labels and (queued is None or self._of_labels[0].source.offset < queued):
            letters.append(self._of_labels.popleft())
        good = applied.offsets[np.isfinite(applied.label)] if applied is not None else np.zeros(0, dtype=np.int64)
        self._limits["labels"].observe(good, [letter.source.offset for letter in letters], letters)
        return letters

    def add_events(self, records: RecordBatch, rejected: Iterable[Rejection], step: Step, now_ms: int) -> None:
        """Add what is rejected of the events of a run to its letters; raises as `take_labels`."""
        letters = [self._write(records, rejection, now_ms) for rejection in rejected]
        self._limits["events"].observe(step.events.offsets, [letter.source.offset for letter in letters], letters)
        step.dead_letters += letters

    def to_state(self) -> dict[str, Any]:
        """How many were rejected lately, for the changelog."""
        return {what: limit.state() for what, limit in self._limits.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for what, limit in self._limits.items():
            limit.restore(state[what])

    def _write(self, records: RecordBatch, rejection: Rejection, now_ms: int) -> DeadLetter:
        row = rejection.position
        _, unread_bytes = records.unreadable.get(row, ("", 0))
        return DeadLetter(
            source=Source(records.topic, records.partition, int(records.offsets[row])),
            stage=rejection.stage,  # type: ignore[arg-type]  # the stages of the core are those of the contract
            reason=rejection.reason,
            detail=rejection.detail + self._tell_origin(records, row),
            key=records.keys[row],
            value=records.values[row],
            record_time_ms=int(records.timestamps_ms[row]),
            rejected_at_ms=now_ms,
            cut_bytes=unread_bytes,
            headers=records.headers[row] if records.headers is not None else (),
        ).fit()

    def _tell_origin(self, records: RecordBatch, row: int) -> str:
        """Where the record was sent that a copy was made of (``[events] repartition``)."""
        topics = self._topics
        if not topics.by_entity or records.headers is None:
            return ""
        origin = read_origin(records.headers[row])
        topic = topics.sent_labels if records.topic == topics.labels else topics.sent_events
        return f" It was sent to {topic} {origin[0]}/{origin[1]}." if origin is not None else ""


def in_order(
    rejections: Iterable[Rejection], failed: list[Rejection], events: EventBatch, records: RecordBatch
) -> list[Rejection]:
    """Rejections of records, and of events by their rows, all by their positions in ``records``."""
    rows = np.searchsorted(records.offsets, events.offsets)
    moved = [Rejection(int(rows[r.position]), r.stage, r.reason, r.detail) for r in failed]
    return sorted([*rejections, *moved], key=lambda rejection: rejection.position)
