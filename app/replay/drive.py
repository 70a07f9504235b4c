"""Drives the flow of partitions over logs that end, without Kafka or a clock.

The steps are those of a worker that reads the same logs. They do not depend on where batches are cut or how partitions
interleave, not by a bit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from app.core.batches import Ints, Promise, RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.intake.merge import BEGINNING_MS, END_MS
from app.core.scoring import UNSCORED, ActiveModel, ModelRun, ModelSelector, cut_runs
from app.core.shared.board import SharedBoard
from app.flow.step import FlowOutput, Step
from app.pipeline import STEP_EVENTS, PartitionPipeline, new_board
from schemas.pipeline.spec import Limits, Pipeline

#: Who scores the events of a partition; None: only features are outputs.
ModelsOf = Callable[[int], ModelSelector | None]


class NoModelError(RuntimeError):
    """Events are to be scored and no model is ready."""


@dataclass(slots=True)
class PartitionRun:
    """A flow, who scores (None: nobody), and the logs that it is to run over."""

    flow: PartitionPipeline
    models: ModelSelector | None
    events: Iterable[RecordBatch] = ()
    labels: Iterator[RecordBatch] = field(default_factory=lambda: iter(()))
    events_are_over: bool = False


def new_flow(
    pipeline: Pipeline,
    plan: FeaturePlan,
    partition: int,
    models: ModelSelector | None,
    *,
    outputs: FlowOutput = FlowOutput.REPLAYED,
    board: SharedBoard | None = None,
) -> PartitionPipeline:
    """A flow that nothing will be drained from; without models it stops before scoring.

    Rejections have no limit here: nothing is published, and the caller learns their number.
    """
    if models is not None and not models.is_ready():
        raise NoModelError(f"No model version can score partition {partition}; name one.")
    unlimited = replace(pipeline, limits=Limits(consecutive=sys.maxsize, share=1.0, of_last=sys.maxsize))
    return PartitionPipeline(
        unlimited,
        plan,
        partition,
        outputs=outputs if models is not None else FlowOutput.NONE,
        board=board,
    )


def drive_partitions(runs: Sequence[PartitionRun], board: SharedBoard | None, now_ms: int) -> Iterator[Step]:
    """Run partitions over their logs to the end: one after the other, or side by side where they share windows.

    Labels are read only when events wait for them, and of partitions side by side the one that is behind reads next.
    So memory holds about one batch of each.
    """
    group = _Group(board, now_ms)
    group.runs.extend(runs)
    reading = {run.flow.partition: (run, _feed(run, now_ms)) for run in runs}
    while reading:
        partition = min(reading, key=board.added_ms.__getitem__) if board is not None else next(iter(reading))
        run, feed = reading[partition]
        if next(feed, False):
            yield from group.step(run)
        else:
            del reading[partition]
            yield from group.end(run)
    yield from group.finish()


def drive(
    pipeline: Pipeline,
    plan: FeaturePlan,
    batches: Iterable[RecordBatch | Promise],
    models_of: ModelsOf,
    now_ms: int,
) -> Iterator[Step]:
    """Run all partitions over batches as they come, each topic partition in its order.

    Memory holds the records that wait: for labels that belong before them and, where windows are shared, for the
    other partitions or a promise.
    """
    board = new_board(plan, range(pipeline.partitions))
    group = _Group(board, now_ms)
    runs: dict[int, PartitionRun] = {}
    for batch in batches:
        if isinstance(batch, Promise):
            yield from group.come_to(batch.until_ms)
            continue
        run = runs.get(batch.partition)
        if run is None:
            models = models_of(batch.partition)
            run = runs[batch.partition] = PartitionRun(
                new_flow(pipeline, plan, batch.partition, models, board=board), models
            )
            group.runs.append(run)
        if batch.topic == pipeline.topics.labels:
            run.flow.receive_labels(batch, now_ms)
        else:
            run.flow.receive_events(batch)
        yield from group.step(run)
    for run in group.runs:
        run.flow.merge.let_go(run.flow.merge.events_received)
        yield from group.end(run)
    yield from group.finish()


def _feed(run: PartitionRun, now_ms: int) -> Iterator[bool]:
    """Give a flow its logs bit by bit; the caller steps it after each."""
    flow = run.flow
    for batch in run.events:
        flow.receive_events(batch)
        yield True
        while flow.merge.has_events:
            more = next(run.labels, None)
            if more is None:
                flow.merge.let_go(flow.merge.events_received)
            else:
                flow.receive_labels(more, now_ms)
            yield True
    run.events_are_over = True
    for more in run.labels:
        flow.receive_labels(more, now_ms)
        yield True


class _Group:
    """Flows that run side by side; when one has come further, those that waited for it are stepped, too."""

    def __init__(self, board: SharedBoard | None, now_ms: int) -> None:
        self.runs: list[PartitionRun] = []
        self._board = board
        self._now_ms = now_ms
        self._low_ms = BEGINNING_MS

    def step(self, run: PartitionRun) -> Iterator[Step]:
        yield from self._steps(run)
        yield from self._others()
        if self._board is None and run.events_are_over:
            yield from self._finish(run)

    def end(self, run: PartitionRun) -> Iterator[Step]:
        """Both logs of a flow are over."""
        yield from self._steps(run)
        run.flow.come_to()
        yield from self._others()
        if self._board is None:
            yield from self._finish(run)

    def come_to(self, until_ms: int) -> Iterator[Step]:
        """Nothing older follows in any partition, those without a flow included."""
        if self._board is None:
            return
        flows = {run.flow.partition: run.flow for run in self.runs}
        for partition in self._board.added_ms:
            if partition not in flows:
                self._board.come_to(partition, until_ms)
                self._board.score_to(partition, until_ms)
            elif not flows[partition].merge.has_events:
                flows[partition].come_to(until_ms)
        yield from self._others()

    def finish(self) -> Iterator[Step]:
        """All logs are over."""
        if self._board is not None:
            for partition in self._board.added_ms:
                self._board.come_to(partition, END_MS)
            for run in self.runs:
                yield from self._finish(run)

    def _others(self) -> Iterator[Step]:
        if self._board is not None and self._board.low_ms > self._low_ms:
            self._low_ms = self._board.low_ms
            for run in self.runs:
                yield from self._steps(run)

    def _steps(self, run: PartitionRun) -> Iterator[Step]:
        while (step := run.flow.step(run.models, STEP_EVENTS, self._now_ms)) is not None:
            yield step

    def _finish(self, run: PartitionRun) -> Iterator[Step]:
        yield from self._steps(run)
        step = run.flow.finish(self._now_ms)
        if step is not None:
            yield step


class RecordedSelector:
    """Scores each event with the version that scored it when it was recorded.

    An event without a recorded score gets the version of the event before it (the first event: that of the first
    score). It is left unscored if the stream may have left it so.

    Parameters
    ----------
    starts
        Source offsets at which another version takes over, ascending, with its name.
    models
        The versions named, ready to score.
    unscored_before_ms
        Event times below which events may have been left unscored: one before the first start, and one from each start
        on.
    early
        Offsets of the events below these times that were scored nevertheless.
    """

    def __init__(
        self,
        starts: Sequence[tuple[int, str]],
        models: Mapping[str, ActiveModel],
        unscored_before_ms: Sequence[int] = (),
        early: Ints | None = None,
    ) -> None:
        self._offsets = np.array([offset for offset, _ in starts], np.int64)
        self._models = [models[version] for _, version in starts]
        self._unscored_before_ms = np.array(unscored_before_ms, np.int64)
        self._early = early if early is not None else np.zeros(0, np.int64)

    def is_ready(self) -> bool:
        return bool(self._models)

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:
        started = np.searchsorted(self._offsets, offsets, side="right")
        places = np.maximum(started - 1, 0)
        if len(self._unscored_before_ms):
            is_below = event_time_ms < self._unscored_before_ms[started]
            places[is_below & ~np.isin(offsets, self._early)] = UNSCORED
        return cut_runs(self._models, places)
