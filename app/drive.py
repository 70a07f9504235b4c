"""Drives the flow of partitions over logs that end: no Kafka, no clock.

The steps are those of a worker that reads the same logs: where the batches are cut and how partitions interleave
changes no bit of them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from app.core.batches import Ints, RecordBatch
from app.core.features import FeaturePlan
from app.core.scoring import ActiveModel, ModelRun, ModelSelector, cut_runs
from app.pipeline import PartitionPipeline, Step
from schemas.pipeline import Limits, Pipeline

#: Most events of one step: bounds how long a worker's event loop is busy.
STEP_EVENTS = 5_000

#: Who scores the events of a partition; None: only features are wanted.
ModelsOf = Callable[[int], ModelSelector | None]


class NoModelError(RuntimeError):
    """Events are to be scored and no model is ready."""


def new_flow(
    pipeline: Pipeline,
    plan: FeaturePlan,
    partition: int,
    models: ModelSelector | None,
    *,
    with_outgoing: bool = True,
) -> PartitionPipeline:
    """A flow of which nothing will be drained; without models it stops before scoring.

    Rejections have no limit here: nothing is published, and whoever runs it is told their number.
    """
    if models is not None and not models.is_ready():
        raise NoModelError(f"No model version can score partition {partition}; name one.")
    unlimited = replace(pipeline, limits=Limits(consecutive=sys.maxsize, share=1.0, of_last=sys.maxsize))
    return PartitionPipeline(
        unlimited,
        plan,
        partition,
        with_scores=models is not None,
        with_drain=False,
        with_outgoing=with_outgoing,
    )


def drive_partition(
    flow: PartitionPipeline,
    events: Iterable[RecordBatch],
    labels: Iterator[RecordBatch],
    models: ModelSelector | None,
    now_ms: int,
) -> Iterator[Step]:
    """Run one partition over its two logs to their ends.

    Labels are taken from their log only when events wait for them, so that memory holds a batch or so of each.
    """
    for batch in events:
        flow.receive_events(batch)
        yield from _steps(flow, models, now_ms)
        while flow.merge.has_events:
            more = next(labels, None)
            if more is None:
                flow.merge.release(flow.merge.events_received)
            else:
                flow.receive_labels(more, now_ms)
            yield from _steps(flow, models, now_ms)
    for more in labels:
        flow.receive_labels(more, now_ms)
        yield from _finish(flow, models, now_ms)
    yield from _finish(flow, models, now_ms)


def drive(
    pipeline: Pipeline,
    plan: FeaturePlan,
    batches: Iterable[RecordBatch],
    models_of: ModelsOf,
    now_ms: int,
) -> Iterator[Step]:
    """Run all partitions over batches as they come, each topic partition in its order.

    Memory holds what waits: the fewer records lie between an event and the labels before it, the less.
    """
    flows: dict[int, tuple[PartitionPipeline, ModelSelector | None]] = {}
    for batch in batches:
        if batch.partition not in flows:
            models = models_of(batch.partition)
            flows[batch.partition] = new_flow(pipeline, plan, batch.partition, models), models
        flow, models = flows[batch.partition]
        if batch.topic == pipeline.topics.labels:
            flow.receive_labels(batch, now_ms)
        else:
            flow.receive_events(batch)
        yield from _steps(flow, models, now_ms)
    for flow, models in flows.values():
        flow.merge.release(flow.merge.events_received)
        yield from _steps(flow, models, now_ms)
        yield from _finish(flow, models, now_ms)


def _steps(flow: PartitionPipeline, models: ModelSelector | None, now_ms: int) -> Iterator[Step]:
    while (step := flow.step(models, STEP_EVENTS, now_ms)) is not None:
        yield step


def _finish(flow: PartitionPipeline, models: ModelSelector | None, now_ms: int) -> Iterator[Step]:
    yield from _steps(flow, models, now_ms)
    step = flow.finish(now_ms)
    if step is not None:
        yield step


class RecordedSelector:
    """Scores each event with the version that scored it when it was recorded.

    An event without a recorded score gets the version of the one before it, or of the first.

    Parameters
    ----------
    starts
        Source offsets at which another version takes over, ascending, with its name.
    models
        The versions named, ready to score.
    """

    def __init__(self, starts: Sequence[tuple[int, str]], models: Mapping[str, ActiveModel]) -> None:
        self._offsets = [offset for offset, _ in starts]
        self._models = [models[version] for _, version in starts]

    def is_ready(self) -> bool:
        return bool(self._models)

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:  # noqa: ARG002  # by offset, not by time
        if len(self._models) == 1:
            return [ModelRun(0, len(offsets), self._models[0])]
        places = [max(0, bisect_right(self._offsets, offset) - 1) for offset in offsets.tolist()]
        return cut_runs([self._models[place] for place in places])
