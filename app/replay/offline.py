"""Runs the core without Kafka over a source or a recording.

The results are those of a stream: the same flow runs for each partition, over its records in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from app.adapters.recordings.file import EVENTS, LABELS, RecordedLog
from app.core.batches import Promise, RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ModelSelector
from app.flow.step import Step
from app.pipeline import new_board
from app.replay.drive import PartitionRun, drive, drive_partitions, new_flow
from schemas.pipeline.spec import Pipeline

#: Processing time of an offline run; nothing depends on it.
OFFLINE_MS = 0


def run(
    pipeline: Pipeline,
    plan: FeaturePlan,
    log: Iterable[RecordBatch | Promise],
    models: ModelSelector | Callable[[int], ModelSelector | None] | None,
    now_ms: int = OFFLINE_MS,
) -> Iterator[Step]:
    """Run batches of the events and labels topics through the core; at their end nothing waits any longer.

    Parameters
    ----------
    log
        Batches of each topic partition in their order; partitions and topics may interleave in any way.
    models
        Who scores; a function gives each partition its own. None: features alone.
    """
    models_of = models if callable(models) else lambda _: models
    yield from drive(pipeline, plan, log, models_of, now_ms)


def run_recording(
    pipeline: Pipeline,
    plan: FeaturePlan,
    recording: RecordedLog,
    models_of: Callable[[int], ModelSelector | None],
    now_ms: int = OFFLINE_MS,
) -> Iterator[Step]:
    """Run a recording, in bounded memory: one partition after the other, or side by side where they share windows."""
    board = new_board(plan, recording.partitions)
    runs = []
    for partition in recording.partitions:
        models = models_of(partition)
        labels = recording.read(LABELS, partition, pipeline) if pipeline.labels is not None else iter(())
        flow = new_flow(pipeline, plan, partition, models, board=board)
        runs.append(PartitionRun(flow, models, recording.read(EVENTS, partition, pipeline), labels))
    yield from drive_partitions(runs, board, now_ms)
