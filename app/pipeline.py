"""The whole flow of one partition on one screen: records in, scores, dead letters, state and sketches out.

::

    receive_events ─▶ decode ─▶ features (stateless) ─┐                       features
                                                      ├─▶ merge ─▶ windows ─▶ made of ─▶ score ─▶ Step
    receive_labels ─▶ decode ─────────────────────────┘   │   ▲    them                   └─▶ sketches, pending ─▶ drain
                                                          ▼   │
                                  where windows are shared: add, wait for the other partitions

Pure: no IO and no clock (processing time is an argument), so a worker, a replay and a training set run the same code
and give the same bits, wherever the batches are cut.

Over 350 lines: the flow and what changes with it in one transaction (state, positions) stay together; what it is made
of stands in `app.flow`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from app.core.batches import EventBatch, Floats, Ints, RecordBatch
from app.core.counts.label_tally import LabelTally
from app.core.entities.directory import EntityDirectory
from app.core.entities.log import EntityLog
from app.core.features.plan import FeaturePlan
from app.core.features.state_log import Restored, StateReader
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import BEGINNING_MS, END_MS, Merged, TimeMerge, no_labels
from app.core.intake.pending import Scored
from app.core.intake.sent_once import SentOnce
from app.core.records.rules import RecordRules
from app.core.scoring import ActiveModel, ModelSelector
from app.core.shared.board import SharedBoard
from app.core.shared.held import Ready
from app.core.shared.part import SharedPart
from app.core.shared.repartition import Repartition
from app.core.tiles.row_cache import RowCache
from app.flow.counts import FlowCounts
from app.flow.encoder import ScoreEncoder
from app.flow.inputs import FlowInputs, QueuedEvents
from app.flow.letters import Letters, in_order
from app.flow.marks import Marks, Position
from app.flow.preview import FlowPreview, Preview
from app.flow.state import FlowState
from app.flow.step import FlowOutput, Step, versions_of
from models.reference.reference import Reference
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord

#: Most events of one step: bounds how long a worker's event loop is busy.
STEP_EVENTS = 5_000

#: Events of a partition that may wait for other partitions before no more are read.
_MOST_HELD = 20_000


class PartitionPipeline:
    """The flow of one partition: its queues, its state, its counts.

    Parameters
    ----------
    outputs
        What is outputs of it.
    board
        What the partitions share, for a pipeline with windows that are shared; None: this partition is alone.
    rows
        The rows of the windows that are on disk; None: all are in memory.
    directory
        Where each entity was seen: events of one that belongs to another partition are refused. None: none are.
    term_ms
        Names the state if it begins empty now: processing time. For windows that are repartitioned.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        partition: int,
        *,
        outputs: FlowOutput = FlowOutput.ALL,
        board: SharedBoard | None = None,
        rows: RowCache | None = None,
        directory: EntityDirectory | None = None,
        term_ms: int = 0,
    ) -> None:
        self.partition = partition
        self._pipeline = pipeline
        self._plan = plan
        self._outputs = outputs
        is_drained = FlowOutput.STATE in outputs
        self._encoder = ScoreEncoder(pipeline, partition) if FlowOutput.RECORDS in outputs else None
        self._marks = Marks(pipeline.horizon_ms)
        #: What records must satisfy, whoever wrote them.
        self.rules = RecordRules.of(pipeline)
        self.entities: EntityLog | None = None
        if is_drained and pipeline.watches_entities:
            self.entities = EntityLog(pipeline.remember_ms, self.rules)
        self._inputs = FlowInputs(pipeline, plan, partition, self._marks, entities=self.entities, directory=directory)
        self.merge: TimeMerge[QueuedEvents] = TimeMerge(with_labels=pipeline.labels is not None)
        self.shared: SharedPart[QueuedEvents] | None = None
        if plan.shared:
            board = board or SharedBoard(plan.shared, [partition])
            parts, repartition = plan.shared.repartitioned(), None
            if parts and is_drained:
                repartition = Repartition(parts, pipeline.feature_set, partition, len(board.added_ms), term_ms)
            self.shared = SharedPart(
                board,
                partition,
                self._marks.horizon_ms,
                plan.label_fields,
                repartition,
                most_held=_MOST_HELD if is_drained else None,
            )
        self._state = FlowState(pipeline, plan, self.shared, rows, is_drained=is_drained)
        self._preview = FlowPreview(plan, self._inputs, self.merge, self._state, self._marks)
        #: Whether the restored state is of other topics: `repartition` was switched on or off.
        self.has_other_input = False
        self._letters = Letters(pipeline)
        self._counts = FlowCounts(pipeline, partition, self.entities, is_kept=is_drained)

    @property
    def labels(self) -> LabelTally:
        """The labels as they are applied."""
        return self._counts.labels

    @property
    def sent(self) -> SentOnce:
        """The events that were sent to be scored once."""
        return self._state.sent

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive_events(self, records: RecordBatch, clock_ms: int | None = None) -> None:
        """Decode a batch of the events topic, compute its stateless features and queue it.

        Parameters
        ----------
        clock_ms
            Time of the reader's clock, as a bound on event times; None in a replay (`app.core.records.event_time`).
        """
        queued = self._inputs.read_events(records, clock_ms, self._state.sent)
        self.merge.add_events(queued, queued.events.event_time_ms)

    def receive_labels(self, records: RecordBatch, now_ms: int, clock_ms: int | None = None) -> None:
        """Decode a batch of the labels topic and queue it; its rejections go out with the labels before them."""
        labels, rejections = self._inputs.read_labels(records, clock_ms)
        self._letters.add_labels(records, rejections, now_ms)
        self.merge.add_labels(labels)

    # -- through -----------------------------------------------------------------------------------------------------

    def step(self, models: ModelSelector | None, most: int, now_ms: int, stale: range = range(0)) -> Step | None:
        """Process the next run of at most ``most`` events; None when none may go yet.

        Parameters
        ----------
        models
            Who scores; events wait while it is not ready.
        stale
            Running numbers of events that go although their labels may be missing; their scores say so.

        Raises
        ------
        TooManyDeadLettersError
            Before anything of this step is published.
        """
        self.share(stale)
        if FlowOutput.SCORES in self._outputs and (models is None or not models.is_ready()):
            return None
        ready = self._take(most, stale) if self.shared is None else self.shared.take(most)
        if ready is None:
            return self._labels_only()
        step = self._process(ready.merged, models, now_ms, stale=ready.is_stale)
        self._marks.promise(ready.promised_ms)
        queued = ready.merged.payload
        if queued is not None:
            rejections, self._marks.events_end = queued.take_rejections(ready.merged)
            self._letters.add_events(queued.records, rejections, step, now_ms)
        if self.shared is not None and FlowOutput.STATE not in self._outputs:
            self.shared.settle(self._marks.event_watermark_ms, self._marks.events_end or 0)
        return step

    @property
    def wants_drain(self) -> bool:
        """Whether previews have filled the memory for keys."""
        return self._state.windows.is_full

    def preview(self, records: RecordBatch, models: ModelSelector, clock_ms: int) -> Preview:
        """Score events as if each came next; nothing changes. See `FlowPreview.of`."""
        return self._preview.of(records, models, clock_ms)

    def _take(self, most: int, stale: range) -> Ready[QueuedEvents] | None:
        first = self.merge.events_taken
        merged = self.merge.take(most)
        return Ready(merged, is_stale=first in stale) if merged is not None else None

    def share(self, stale: range = range(0)) -> None:
        """Add what is merged to the shared windows at once; it may wait for the others before it is scored.

        `step` does so too: for whoever wants to tell the others before.
        """
        while self.shared is not None and not self.shared.is_full:
            first = self.merge.events_taken
            merged = self.merge.take(_MOST_HELD)
            if merged is None or merged.payload is None:
                return
            self.shared.add(merged, merged.payload.events_of(merged), is_stale=first in stale)

    @property
    def takes_no_more(self) -> bool:
        """Whether what was received before must go first."""
        return self.merge.has_events or (self.shared is not None and self.shared.is_full)

    def keep_promise(self, until_ms: int, now_ms: int) -> Step | None:
        """Apply the labels queued up to a watermark record, once every event before it has been processed."""
        if self.shared is not None:
            self.come_to(until_ms, promised_ms=until_ms)
            return None  # it goes in its turn, by `step`
        merged = self.merge.take_labels(until_ms)
        self._marks.promise(until_ms)
        return self._process(merged, None, now_ms, stale=False) if merged is not None else None

    def come_to(self, until_ms: int = END_MS, promised_ms: int = BEGINNING_MS) -> None:
        """Where windows are shared: nothing of this partition before ``until_ms`` follows, so nobody need wait for it.

        Only when all events received have been merged.
        """
        if self.shared is not None:
            labels = self.merge.take_labels(until_ms) or Merged.of_labels(*no_labels())
            self.shared.come_to(labels, self._nothing()[0], until_ms, promised_ms)

    def finish(self, now_ms: int) -> Step | None:
        """Apply the labels after the last event, at the end of logs that nothing follows."""
        merged = self.merge.take_labels(END_MS)
        if merged is None:
            return self._labels_only()
        return self._process(merged, None, now_ms, stale=False)

    def _process(self, merged: Merged[QueuedEvents], models: ModelSelector | None, now_ms: int, *, stale: bool) -> Step:
        queued = merged.payload
        events, matrix = queued.rows_of(merged) if queued is not None else self._nothing()
        came_to_ms = self._marks.event_watermark_ms
        if len(events):
            self._marks.event_watermark_ms = int(merged.times_ms[-1])
        if len(merged.labels):
            self._marks.label_watermark_ms = int(merged.label_times_ms[-1])
        joined = JoinedLabels.join(merged, events, self._state.pending, self._plan.label_fields, came_to_ms)
        label_times_ms = self._label_times(merged, came_to_ms)
        self._check_inputs(merged, events, joined, label_times_ms)
        self._plan.apply(matrix, events, joined.to_rows(self._plan.label_fields, events), self._state.windows)
        if self.shared is not None:
            self.shared.fill(matrix, events, merged.times_ms)
        failed = self._plan.derive(matrix, events.event_time_ms, events.columns)
        rejected = [rejection.position for rejection in failed]
        if queued is not None and failed:
            queued.rejections = deque(in_order(queued.rejections, failed, events, queued.records))
        step = Step(self.partition, events, matrix, np.full(len(events), np.nan), [], joined, events, is_stale=stale)
        if models is not None:
            for run in models.runs(events.offsets, events.event_time_ms):
                for start, stop in _between(run.start, run.stop, rejected):
                    self._score(step, slice(start, stop), run.model)
            self._counts.add_unscored(step, rejected)
            if self._encoder is not None:
                self._encoder.encode(step, now_ms)
        segments, versions = self._counts.segments_of(step), versions_of(step, rejected)
        self._remember(step, merged, segments, versions, came_to_ms)
        self._counts.last_scored.begin(versions, merged.times_ms)
        self._counts.add_labels(step, segments, versions)
        self._counts.last_scored.come_to(len(events))
        self._state.pending.expire(self._marks.event_watermark_ms)
        if self._plan.can_reject_late:
            step.leave_out(rejected)
        step.dead_letters = self._letters.take_labels(self._first_label_offset(), merged.labels)
        return step

    def _score(self, step: Step, rows: slice, model: ActiveModel) -> None:
        step.scores[rows] = model.scorer.score(step.matrix[rows])
        step.runs.append((rows.start, rows.stop, model))
        self._counts.add_scored(step, rows, model)
        if self._state.sent:
            scored = range(rows.start, rows.stop)
            self._state.sent.note_scores(
                step.events,
                step.scores,
                scored,
                version=model.version,
                threshold=model.threshold,
                is_stale=step.is_stale,
            )

    def _nothing(self) -> tuple[EventBatch, Floats]:
        return self._plan.no_events(), np.zeros((0, len(self._pipeline.features)))

    def _labels_only(self) -> Step | None:
        letters = self._letters.take_labels(self._first_label_offset())
        if not letters:
            return None
        events, matrix = self._nothing()
        return Step(self.partition, events, matrix, np.zeros(0), [], JoinedLabels(), events, dead_letters=letters)

    def _first_label_offset(self) -> int | None:
        """Offset of the first label that is queued or held, not applied."""
        held = self.shared.held.first_label_offset() if self.shared is not None else None
        return self.merge.first_label_offset() if held is None else held

    def _remember(
        self,
        step: Step,
        merged: Merged[QueuedEvents],
        segments: list[tuple[int, ...]],
        versions: list[tuple[int, int, str]],
        came_to_ms: int,
    ) -> None:
        """Keep the run's events until their labels come, except those whose label is in this very run."""
        if self._pipeline.labels is None:
            return
        fields = [step.events.columns[name].tolist() for name in self._plan.label_fields]
        rows = list(zip(*fields, strict=True)) if fields else [()] * len(step.events)
        effective, times, scores = merged.times_ms.tolist(), step.events.event_time_ms.tolist(), step.scores.tolist()
        own_rows, wait = step.labels.own_rows, self._state.pending.add
        for start, stop, version in versions:
            for row in range(start, stop):
                if row not in own_rows:
                    scored = Scored(effective[row], times[row], version, scores[row], rows[row], segments[row])
                    wait(step.events.event_id[row], scored, effective[row - 1] if row else came_to_ms)

    def _check_inputs(
        self, merged: Merged[QueuedEvents], events: EventBatch, joined: JoinedLabels, label_times_ms: Ints
    ) -> None:
        """Count the labels of a run, then see its entities: what a label finds came before it."""
        if FlowOutput.STATE in self._outputs and len(merged.labels):
            self._counts.labels.add(merged, events, joined, label_times_ms)
        if self.entities is not None:
            self.entities.see(events.entity, merged.times_ms)

    def _label_times(self, merged: Merged[QueuedEvents], came_to_ms: int) -> Ints:
        """Effective times of a run's labels, and not before what `drain_sketch` may have said by then."""
        watermarks = np.append(came_to_ms, merged.times_ms)[merged.before] - self._marks.horizon_ms
        times: Ints = np.maximum(merged.label_times_ms, watermarks)
        return times

    def know(self, version: str, reference: Reference) -> None:
        """Give the cells of a version whose events may still be waiting for labels (after a restart)."""
        self._counts.know(version, reference)

    def begin_at(self, events: int, labels: int | None) -> None:
        """Begin a partition of which nothing was processed at these offsets, not at the first there are."""
        self._marks.events_end, self._marks.labels_end = events, labels

    # -- out ---------------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Where to go on reading after a commit of all that was stepped through."""
        waiting = self._first_label_offset(), self._letters.first_label_offset
        labels = min((offset for offset in waiting if offset is not None), default=self._marks.labels_end)
        return Position(self._marks.events_end, labels)

    def drain_sketch(self) -> SketchRecord | None:
        """What was counted since the last drain, and how far this partition has come; None if neither moved."""
        return self._counts.drain(*self._marks.for_counts())

    def drain_state(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records since the last drain: touched tiles, touched pending events, and where they are valid."""
        meta = {
            **self._marks.to_state(self.position()),
            "feature_set": self._pipeline.feature_set,
            "generation": self._state.generation,
            "pipeline": self._pipeline.digest,
            "rejected": self._letters.to_state(),
            "scored": self._counts.last_scored.to_state(self._marks.event_watermark_ms - self._marks.horizon_ms),
        }
        if self._pipeline.events.repartition:
            meta["by_entity"] = True
        return self._state.drain(self._marks, meta)

    def state_committed(self, position: int, now_ms: int) -> None:
        """What was drained first, and not yet said so of, has been committed.

        Parameters
        ----------
        position
            Offset of the changelog up to which it holds no more than that.
        now_ms
            Processing time.
        """
        self._state.committed(position, now_ms)

    def drain_shared(self) -> list[tuple[bytes, bytes | None]]:
        """What the other partitions are to know, as of the last `drain_state`; it goes out with that."""
        return self._state.drain_shared()

    def drain_repartition(self) -> list[tuple[int, bytes]]:
        """Partitions of ``<p>.repartition`` and what they are to hear, as `drain_shared`."""
        return self._state.drain_repartition()

    def drain_entities(self) -> list[tuple[bytes, bytes | None]]:
        """Records of ``<p>.entities`` since the last call, of the entities seen in what was stepped through."""
        return self.entities.drain() if self.entities is not None else []

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> Restored:
        """Rebuild the state from its whole changelog, before anything is received."""
        reader = self.state_reader()
        reader.take_changes(list(records))
        return self.go_on_from(reader)

    def state_reader(self, clock_ms: int | None = None) -> StateReader:
        """What takes the changelog batch by batch, for `go_on_from`.

        ``clock_ms``: as a bound on how far the partition can have come; None: there is no clock.
        """
        return self._state.reader(self.rules, len(self._counts.segments.names), clock_ms)

    def go_on_from(self, reader: StateReader) -> Restored:
        """Take over a state that was read to its end, before anything is received; say what was left aside."""
        restored = self._state.go_on_from(reader)
        meta = reader.meta
        if not meta:
            return restored
        self.has_other_input = meta.get("by_entity", False) != self._pipeline.events.repartition
        self._marks.restore(meta)
        self.merge.go_on_from(self._marks.event_watermark_ms, self._marks.label_watermark_ms)
        self._counts.last_scored.from_state(meta.get("scored", {}))
        if meta.get("pipeline") == self._pipeline.digest:  # a mended file starts with a clean slate
            self._letters.restore(meta["rejected"])
        return restored


def _between(start: int, stop: int, rejected: list[int]) -> list[tuple[int, int]]:
    """The stretches of start … stop - 1 without the rows ``rejected``."""
    edges = [start - 1, *(row for row in rejected if start <= row < stop), stop]
    return [(before + 1, after) for before, after in pairwise(edges) if before + 1 < after]


def new_board(plan: FeaturePlan, partitions: Iterable[int]) -> SharedBoard | None:
    """What flows of these partitions share; None when they share nothing."""
    return SharedBoard(plan.shared, partitions) if plan.shared else None
