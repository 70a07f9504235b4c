"""The scores that events would have if they came next: the same code and state as the stream's, and nothing changes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Column, EventBatch, Floats, Ints, LabelRows, RecordBatch, Rejection
from app.core.features.plan import FeaturePlan
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import TimeMerge, first_labels, no_labels
from app.core.scoring import ActiveModel, ModelSelector
from app.flow.inputs import FlowInputs, QueuedEvents
from app.flow.letters import in_order
from app.flow.marks import Marks, Position
from app.flow.state import FlowState

#: Labels received and not yet applied that a preview looks at: bounds its time while labels are far ahead of events.
MOST_LABELS = 256

_NO_LABELS = LabelRows(no_labels()[1], no_labels()[1], {})


@dataclass(frozen=True, slots=True)
class Preview:
    """Events, each as if it came next by itself. Events, matrix, scores, models and ``is_stale`` stay aligned.

    ``rows``: the position of each event among the records; every other record is in ``rejections`` (by that position).
    ``models``: who scored each event; None where no version is to, and its score is NaN.
    ``position``: the state that was read is that after the events before this offset, and the labels before this one.
    ``is_stale``: other partitions have not come as far as the event's shared windows reach.
    """

    rows: Ints
    events: EventBatch
    matrix: Floats
    scores: Floats
    models: list[ActiveModel | None]
    is_stale: NDArray[np.bool_]
    rejections: list[Rejection]
    position: Position


class FlowPreview:
    """Previews of one partition: what belongs to it is read, and left as it is."""

    def __init__(
        self,
        plan: FeaturePlan,
        inputs: FlowInputs,
        merge: TimeMerge[QueuedEvents],
        state: FlowState,
        marks: Marks,
    ) -> None:
        self._plan = plan
        self._inputs = inputs
        self._merge = merge
        self._state = state
        self._marks = marks

    def of(self, records: RecordBatch, models: ModelSelector, clock_ms: int) -> Preview:
        """Score records of events as if each came next: after what was processed, and after the labels before it.

        Parameters
        ----------
        records
            At least one, with the time stamps that they would have; their offsets ascend and mean nothing else.
        clock_ms
            Time of the reader's clock, as a bound on event times.
        """
        queued = self._inputs.preview_events(records, clock_ms)
        events, matrix, rejections = queued.events, queued.matrix, list(queued.rejections)
        times_ms = np.maximum(events.event_time_ms, self._marks.event_watermark_ms)
        labels, seen, labels_end = self._labels_before(times_ms, events)
        self._plan.peek(matrix, events, labels, seen, self._state.windows)
        is_stale = np.zeros(len(events), dtype=bool)
        if self._state.shared is not None:
            is_stale = ~self._state.shared.peek(matrix, events, times_ms)
        failed = self._plan.derive(matrix, events.event_time_ms, events.columns)
        if failed:
            rejections = in_order(rejections, failed, events, records)
            good = np.setdiff1d(np.arange(len(events)), [rejection.position for rejection in failed])
            events, matrix, is_stale = events.take(good), matrix[good], is_stale[good]
        scores = np.full(len(events), np.nan)
        by: list[ActiveModel | None] = [None] * len(events)
        for run in models.runs(events.offsets, events.event_time_ms):
            scores[run.start : run.stop] = run.model.scorer.score(matrix[run.start : run.stop])
            by[run.start : run.stop] = [run.model] * (run.stop - run.start)
        rows = np.searchsorted(records.offsets, events.offsets)
        position = Position(self._marks.events_end, labels_end)
        return Preview(rows, events, matrix, scores, by, is_stale, rejections, position)

    def _labels_before(self, times_ms: Ints, events: EventBatch) -> tuple[LabelRows, Ints, int | None]:
        """Labels that were received and not applied yet, as far as they find their events.

        Returns
        -------
        The labels, how many of them come before each of these effective times, and the offset before which labels
        were looked at.
        """
        shared = self._state.shared
        if not self._merge.queued_labels and (shared is None or not shared.held):
            return _NO_LABELS, np.zeros_like(times_ms), self._marks.labels_end
        held = shared.held.labels() if shared is not None else ()
        labels, label_times_ms, left_out = first_labels(chain(held, self._merge.queued()), MOST_LABELS)
        end = self._marks.labels_end if left_out is None else left_out
        fields = self._plan.label_fields
        places, values = JoinedLabels.ahead(labels, self._state.pending, fields, self._marks.event_watermark_ms)
        if not places:
            return _NO_LABELS, np.zeros_like(times_ms), end
        columns: dict[str, Column] = {"label": labels.label[places]}
        for name, of_name in zip(fields, values, strict=True):
            columns[name] = np.array(of_name, dtype=events.columns[name].dtype)
        rows = LabelRows(np.zeros(len(places), dtype=np.int64), labels.label_time_ms[places], columns)
        return rows, np.searchsorted(label_times_ms[places], times_ms, side="right"), end
