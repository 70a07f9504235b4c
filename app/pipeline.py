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
from dataclasses import astuple, dataclass
from itertools import pairwise

import msgspec
import numpy as np

from app.core.batches import EventBatch, Floats, Ints, RecordBatch, Rejection
from app.core.counts.label_tally import LabelTally
from app.core.entities.directory import EntityDirectory
from app.core.entities.guard import EntityGuard
from app.core.entities.log import EntityLog
from app.core.features.plan import FeaturePlan
from app.core.features.state_log import META, TILES, Generation, Restored, StateReader
from app.core.intake.decode import EventDecoder, LabelDecoder
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import BEGINNING_MS, END_MS, Merged, TimeMerge, no_labels
from app.core.intake.pending import PendingEvents, Scored
from app.core.records.rules import RecordRules
from app.core.scoring import ActiveModel, ModelSelector
from app.core.shared.board import SharedBoard
from app.core.shared.held import Ready
from app.core.shared.part import SharedPart
from app.core.shared.repartition import Repartition
from app.core.tiles.row_cache import RowCache, Snapshot
from app.flow.counts import FlowCounts
from app.flow.encoder import ScoreEncoder
from app.flow.letters import Letters, in_order
from app.flow.step import Step, versions_of
from models.reference.reference import Reference
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord

#: Most events of one step: bounds how long a worker's event loop is busy.
STEP_EVENTS = 5_000

#: Events of a partition that may wait for other partitions before no more are read.
_MOST_HELD = 20_000

#: Why an event is refused whose entity belongs to another partition.
WRONG_PARTITION = "wrong_partition"


@dataclass(slots=True)
class _Queued:
    """One batch of the events topic, decoded, with its stateless features."""

    records: RecordBatch
    events: EventBatch
    matrix: Floats
    rejections: deque[Rejection]
    end_offset: int


@dataclass(frozen=True, slots=True)
class Position:
    """Next offset to read of each of the partition's topics; None: nothing was read yet."""

    events: int | None
    labels: int | None


class PartitionPipeline:
    """The flow of one partition: its queues, its state, its counts.

    Parameters
    ----------
    with_scores
        False: stop before scoring (for training sets); no model is needed then.
    with_drain
        False: nothing will be drained, so neither changelog nor counts are kept.
    with_outgoing
        False: scores are wanted as arrays alone, not as records to publish.
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
        with_scores: bool = True,
        with_drain: bool = True,
        with_outgoing: bool = True,
        board: SharedBoard | None = None,
        rows: RowCache | None = None,
        directory: EntityDirectory | None = None,
        term_ms: int = 0,
    ) -> None:
        self.partition = partition
        self._pipeline = pipeline
        self._plan = plan
        self._with_scores = with_scores
        self._with_drain = with_drain
        self._encoder = ScoreEncoder(pipeline, partition) if with_outgoing else None
        self._decode_events = EventDecoder(pipeline.events).decode
        self._decode_labels = LabelDecoder(pipeline).decode
        self._rows = rows
        self._state = plan.new_state(with_changelog=with_drain, rows=rows)
        horizon_ms = self._horizon_ms = pipeline.labels.horizon_ms if pipeline.labels else 0
        self._pending = PendingEvents(horizon_ms, with_changelog=with_drain)
        self._generation = Generation()
        self.shared: SharedPart[_Queued] | None = None
        if plan.shared:
            board = board or SharedBoard(plan.shared, [partition])
            most = _MOST_HELD if with_drain else None
            parts, repartition = plan.shared.repartitioned(), None
            if parts and with_drain:
                repartition = Repartition(parts, pipeline.feature_set, partition, len(board.added_ms), term_ms)
            self.shared = SharedPart(board, partition, horizon_ms, plan.outcome_fields, repartition, most_held=most)
        self._to_share: list[tuple[bytes, bytes | None]] = []
        self._to_repartition: list[tuple[int, bytes]] = []
        self._event_watermark_ms = self._label_watermark_ms = BEGINNING_MS
        self.merge: TimeMerge[_Queued] = TimeMerge(with_labels=pipeline.labels is not None)
        self._letters = Letters(pipeline)
        self._labels_end: int | None = None
        self._events_end: int | None = None
        #: Whether the restored state is of other topics: `repartition` was switched on or off.
        self.has_other_input = False
        self._promised_ms = BEGINNING_MS
        self.entities: EntityLog | None = None
        #: What records must satisfy, whoever wrote them.
        self.rules = RecordRules.of(pipeline)
        if with_drain and pipeline.watches_entities:
            self.entities = EntityLog(pipeline.remember_ms, self.rules)
        self._guard = EntityGuard(directory, partition) if directory is not None else None
        self._counts = FlowCounts(pipeline, partition, self.entities, is_kept=with_drain)

    @property
    def labels(self) -> LabelTally:
        """The labels as they are applied."""
        return self._counts.labels

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive_events(self, records: RecordBatch, clock_ms: int | None = None) -> None:
        """Decode a batch of the events topic, compute its stateless features and queue it.

        Parameters
        ----------
        clock_ms
            Time of the reader's clock, as a bound on event times; None in a replay (`app.core.records.event_time`).
        """
        events, rejections = self._decode_events(records, clock_ms)
        misplaced = self._find_misplaced(events)
        if misplaced:
            rejections = in_order(rejections, misplaced, events, records)
            events = events.take(np.setdiff1d(np.arange(len(events)), [each.position for each in misplaced]))
        matrix, failed = self._plan.compute(events)
        if failed:
            good = np.setdiff1d(np.arange(len(events)), [rejection.position for rejection in failed])
            rejections = in_order(rejections, failed, events, records)
            events, matrix = events.take(good), matrix[good]
        queued = _Queued(records, events, matrix, deque(rejections), int(records.offsets[-1]) + 1)
        self.merge.add_events(queued, events.event_time_ms)

    def _find_misplaced(self, events: EventBatch) -> list[Rejection]:
        """Refuse the events of entities that belong to another partition; that they were here is told all the same."""
        found = self._guard.find_misplaced(events.entity) if self._guard is not None else []
        if found and self.entities is not None:
            times_ms = np.maximum(events.event_time_ms[[row for row, _ in found]], self._event_watermark_ms)
            self.entities.see([events.entity[row] for row, _ in found], np.maximum.accumulate(times_ms))
        return [
            Rejection(
                row,
                "validate",
                WRONG_PARTITION,
                f"{events.entity[row][:100]} belongs to partition {home}, which saw it first; this is partition"
                f" {self.partition}.",
            )
            for row, home in found
        ]

    def receive_labels(self, records: RecordBatch, now_ms: int, clock_ms: int | None = None) -> None:
        """Decode a batch of the labels topic and queue it; its rejections go out with the labels before them."""
        labels, rejections = self._decode_labels(records, clock_ms)
        self._letters.add_labels(records, rejections, now_ms)
        self._labels_end = int(records.offsets[-1]) + 1
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
        if self._with_scores and (models is None or not models.is_ready()):
            return None
        ready = self._take(most, stale) if self.shared is None else self.shared.take(most)
        if ready is None:
            return self._labels_only()
        step = self._process(ready.merged, models, now_ms, stale=ready.is_stale)
        self._promised_ms = max(self._promised_ms, ready.promised_ms)
        queued = ready.merged.payload
        if queued is not None:
            self._reject(queued, ready.merged, step, now_ms)
        if self.shared is not None and not self._with_drain:
            self.shared.settle(self._event_watermark_ms, self._events_end or 0)
        return step

    def _take(self, most: int, stale: range) -> Ready[_Queued] | None:
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
            self.shared.add(merged, _events_of(merged.payload, merged), is_stale=first in stale)

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
        self._promised_ms = max(self._promised_ms, until_ms)
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

    def _process(self, merged: Merged[_Queued], models: ModelSelector | None, now_ms: int, *, stale: bool) -> Step:
        queued = merged.payload
        events, matrix = _rows_of(queued, merged) if queued is not None else self._nothing()
        came_to_ms = self._event_watermark_ms
        if len(events):
            self._event_watermark_ms = int(merged.times_ms[-1])
        if len(merged.labels):
            self._label_watermark_ms = int(merged.label_times_ms[-1])
        joined = JoinedLabels.join(merged, events, self._pending, self._plan.outcome_fields, came_to_ms)
        label_times_ms = self._label_times(merged, came_to_ms)
        self._check_inputs(merged, events, joined, label_times_ms)
        self._plan.apply(matrix, events, joined.outcomes(self._plan.outcome_fields, events), self._state)
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
        self._counts.add_outcomes(step, segments, versions)
        self._counts.last_scored.come_to(len(events))
        self._pending.expire(self._event_watermark_ms)
        if self._plan.can_reject_late:
            step.leave_out(rejected)
        step.dead_letters = self._letters.take_labels(self._first_label_offset(), merged.labels)
        return step

    def _score(self, step: Step, rows: slice, model: ActiveModel) -> None:
        step.scores[rows] = model.scorer.score(step.matrix[rows])
        step.runs.append((rows.start, rows.stop, model))
        self._counts.add_scored(step, rows, model)

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
        merged: Merged[_Queued],
        segments: list[tuple[int, ...]],
        versions: list[tuple[int, int, str]],
        came_to_ms: int,
    ) -> None:
        """Keep the run's events until their labels come, except those whose label is in this very run."""
        if self._pipeline.labels is None:
            return
        fields = [step.events.columns[name].tolist() for name in self._plan.outcome_fields]
        rows = list(zip(*fields, strict=True)) if fields else [()] * len(step.events)
        effective, times, scores = merged.times_ms.tolist(), step.events.event_time_ms.tolist(), step.scores.tolist()
        own_rows = step.labels.own_rows
        for start, stop, version in versions:
            for row in range(start, stop):
                if row not in own_rows:
                    scored = Scored(effective[row], times[row], version, scores[row], rows[row], segments[row])
                    self._pending.add(step.events.event_id[row], scored, effective[row - 1] if row else came_to_ms)

    def _check_inputs(
        self, merged: Merged[_Queued], events: EventBatch, joined: JoinedLabels, label_times_ms: Ints
    ) -> None:
        """Count the labels of a run, then see its entities: what a label finds came before it."""
        if self._with_drain and len(merged.labels):
            self._counts.labels.add(merged, events, joined, label_times_ms)
        if self.entities is not None:
            self.entities.see(events.entity, merged.times_ms)

    def _label_times(self, merged: Merged[_Queued], came_to_ms: int) -> Ints:
        """Effective times of a run's labels, and not before what `drain_sketch` may have said by then."""
        watermarks = np.append(came_to_ms, merged.times_ms)[merged.before] - self._horizon_ms
        times: Ints = np.maximum(merged.label_times_ms, watermarks)
        return times

    def know(self, version: str, reference: Reference) -> None:
        """Give the cells of a version whose events may still be waiting for labels (after a restart)."""
        self._counts.know(version, reference)

    def begin_at(self, events: int, labels: int | None) -> None:
        """Begin a partition of which nothing was processed at these offsets, not at the first there are."""
        self._events_end, self._labels_end = events, labels

    # -- out ---------------------------------------------------------------------------------------------------------

    def position(self) -> Position:
        """Where to go on reading after a commit of all that was stepped through."""
        waiting = self._first_label_offset(), self._letters.first_label_offset
        return Position(self._events_end, min((at for at in waiting if at is not None), default=self._labels_end))

    def drain_sketch(self) -> SketchRecord | None:
        """What was counted since the last drain, and how far this partition has come; None if neither moved."""
        watermark = max(self._event_watermark_ms, self._promised_ms)
        # Older than the horizon, an event's label counts no more: no labels at all hold nothing back for longer.
        label_watermark = max(self._label_watermark_ms, self._promised_ms, watermark - self._horizon_ms)
        return self._counts.drain(watermark, label_watermark)

    def drain_state(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records since the last drain: touched tiles, touched pending events, and where they are valid."""
        meta = {
            "event_watermark_ms": self._event_watermark_ms,
            "label_watermark_ms": self._label_watermark_ms,
            "promised_ms": self._promised_ms,
            "position": astuple(self.position()),
            "feature_set": self._pipeline.feature_set,
            "generation": self._generation.number,
            "pipeline": self._pipeline.digest,
            "rejected": self._letters.to_state(),
        }
        meta["scored"] = self._counts.last_scored.to_state(self._event_watermark_ms - self._horizon_ms)
        if self._pipeline.events.repartition:
            meta["by_entity"] = True
        changes = [(TILES + key, value) for key, value in self._state.drain_changes()]
        if self.shared is not None:
            topic, opened, asked = self.shared.drain(self._event_watermark_ms, self._events_end or 0)
            self._to_share.extend(topic)
            self._to_repartition.extend(asked)
            changes.extend(opened)
            meta["shared"] = self.shared.contributor.position()
            if self.shared.repartition is not None:
                meta["repartition"] = self.shared.repartition.position()
        changes.extend(self._pending.drain_changes())
        last = (META, msgspec.msgpack.encode(meta))
        if self._rows is not None:
            self._rows.put_log([*(change for change in changes if change[0][:1] != TILES), last])
            self._rows.seal()
        return [*self._generation.clear_some(), *self._generation.name(changes), last]

    def state_committed(self, position: int, now_ms: int) -> None:
        """What was drained first, and not yet said so of, has been committed.

        Parameters
        ----------
        position
            Offset of the changelog up to which it holds no more than that.
        now_ms
            Processing time.
        """
        if self.shared is not None:
            self.shared.committed()
        if self._rows is not None:
            self._rows.commit()
            if self._rows.wants_write:
                self._rows.write(Snapshot(self._pipeline.feature_set, self._generation.number, position, now_ms))

    def drain_shared(self) -> list[tuple[bytes, bytes | None]]:
        """What the other partitions are to know, as of the last `drain_state`; it goes out with that."""
        records, self._to_share = self._to_share, []
        return records

    def drain_repartition(self) -> list[tuple[int, bytes]]:
        """Partitions of ``<p>.repartition`` and what they are to hear, as `drain_shared`."""
        records, self._to_repartition = self._to_repartition, []
        return records

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
        latest_ms = self.rules.latest_come_to_ms(clock_ms)
        needed = ["shared"] if self.shared is not None else []
        if self.shared is not None and self.shared.repartition is not None:
            needed.append("repartition")
        horizon_ms = self._pipeline.labels.horizon_ms if self._pipeline.labels else 0
        types = {field.name: field.type for field in self._pipeline.events.fields}
        texts = tuple(types.get(name) == "string" for name in self._plan.outcome_fields)
        return StateReader(
            self._pipeline.feature_set,
            lambda: self._plan.new_state(with_changelog=self._with_drain, rows=self._rows),
            lambda: PendingEvents(
                horizon_ms,
                with_changelog=self._with_drain,
                texts=texts,
                n_segments=len(self._counts.segments.names),
                latest_ms=latest_ms,
                times_ms=(self.rules.earliest_ms, self.rules.latest_ms),
            ),
            latest_ms=latest_ms,
            needed=tuple(needed),
            keeps_other=self.shared is not None,
            cache=self._rows,
        )

    def go_on_from(self, reader: StateReader) -> Restored:
        """Take over a state that was read to its end, before anything is received; say what was left aside."""
        restored = reader.finish()
        meta = reader.meta
        self._state, self._pending, self._generation = reader.state, reader.pending, reader.generation
        if not meta:
            if self.shared is not None:
                self.shared.contributor.begin_anew()
            return restored
        self.has_other_input = meta.get("by_entity", False) != self._pipeline.events.repartition
        self._promised_ms = meta["promised_ms"]
        self._counts.last_scored.from_state(meta.get("scored", {}))
        self._events_end, self._labels_end = meta["position"]
        self._event_watermark_ms, self._label_watermark_ms = meta["event_watermark_ms"], meta["label_watermark_ms"]
        if self.shared is not None:
            self.shared.contributor.restore(meta["shared"], list(reader.others.items()), self._pending)
            if self.shared.repartition is not None:
                self.shared.repartition.restore(meta["repartition"])
        if meta.get("pipeline") == self._pipeline.digest:  # a mended file starts with a clean slate
            self._letters.restore(meta["rejected"])
        self.merge = TimeMerge(
            with_labels=self._pipeline.labels is not None,
            event_watermark_ms=meta["event_watermark_ms"],
            label_watermark_ms=meta["label_watermark_ms"],
        )
        return restored

    def _reject(self, queued: _Queued, merged: Merged[_Queued], step: Step, now_ms: int) -> None:
        until = queued.end_offset if merged.last else int(queued.events.offsets[merged.stop])
        rejections = queued.rejections
        offsets = queued.records.offsets
        rejected = []
        while rejections and int(offsets[rejections[0].position]) < until:
            rejected.append(rejections.popleft())
        self._letters.add_events(queued.records, rejected, step, now_ms)
        self._events_end = until


def _between(start: int, stop: int, rejected: list[int]) -> list[tuple[int, int]]:
    """The stretches of start … stop - 1 without the rows ``rejected``."""
    edges = [start - 1, *(row for row in rejected if start <= row < stop), stop]
    return [(before + 1, after) for before, after in pairwise(edges) if before + 1 < after]


def _rows_of(queued: _Queued, merged: Merged[_Queued]) -> tuple[EventBatch, Floats]:
    whole = merged.start == 0 and merged.stop == len(queued.events)
    return _events_of(queued, merged), queued.matrix if whole else queued.matrix[merged.start : merged.stop].copy()


def _events_of(queued: _Queued, merged: Merged[_Queued]) -> EventBatch:
    if merged.start == 0 and merged.stop == len(queued.events):
        return queued.events
    return queued.events.take(np.arange(merged.start, merged.stop, dtype=np.int64))


def new_board(plan: FeaturePlan, partitions: Iterable[int]) -> SharedBoard | None:
    """What flows of these partitions share; None when they share nothing."""
    return SharedBoard(plan.shared, partitions) if plan.shared else None
