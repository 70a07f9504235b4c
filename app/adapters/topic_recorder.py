"""Copies what a pipeline's topics hold now into a recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from aiokafka.errors import KafkaError

from app.adapters.recordings import EVENTS, LABELS, MODEL_UPDATES, SCORES, RecordingWriter, describe
from app.adapters.stack_error import StackError
from app.adapters.topic_reader import read_to_end
from app.core.batches import RecordBatch
from schemas.pipeline import Pipeline


async def record_topics(
    bootstrap: str,
    pipeline: Pipeline,
    path: Path,
    now_ms: int,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Record the committed records that the topics hold now; how many of each kind.

    Parameters
    ----------
    from_ms, to_ms
        Only records whose Kafka time stamp is in this half-open range. Model updates are recorded whole.
    progress
        Is given the number of records of each batch.
    """
    topics = pipeline.topics
    kinds = {topics.events: EVENTS, topics.scores: SCORES, topics.model_updates: MODEL_UPDATES}
    if pipeline.labels is not None:
        kinds[topics.labels] = LABELS
    counts = dict.fromkeys(kinds.values(), 0)
    with RecordingWriter(path, describe(pipeline, now_ms, from_ms, to_ms)) as writer:
        try:
            async for batch in read_to_end(bootstrap, list(kinds)):
                kind = kinds[batch.topic]
                kept = batch if kind == MODEL_UPDATES else _within(batch, from_ms, to_ms)
                writer.add(kind, kept)
                counts[kind] += len(kept)
                progress(len(kept))
        except LookupError as error:
            raise StackError(str(error)) from error
        except KafkaError as error:
            raise StackError(f"Kafka at {bootstrap} could not be read: {error!r:.200}.") from error
    return counts


def _within(batch: RecordBatch, from_ms: int | None, to_ms: int | None) -> RecordBatch:
    if from_ms is None and to_ms is None:
        return batch
    times = batch.timestamps_ms
    keep = np.ones(len(batch), dtype=bool)
    if from_ms is not None:
        keep &= times >= from_ms
    if to_ms is not None:
        keep &= times < to_ms
    rows = np.flatnonzero(keep)
    places = rows.tolist()
    return RecordBatch(
        topic=batch.topic,
        partition=batch.partition,
        offsets=batch.offsets[rows],
        timestamps_ms=times[rows],
        keys=[batch.keys[row] for row in places],
        values=[batch.values[row] for row in places],
        headers=[batch.headers[row] for row in places] if batch.headers is not None else None,
    )
