"""Copies what a pipeline's topics hold now, or a stretch of them, into a recording."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec
import numpy as np

from app.adapters.kafka.bounded_reader import read_between, reading
from app.adapters.recordings.file import EVENTS, LABELS, MODEL_UPDATES, SCORES, RecordingWriter, describe
from app.core.batches import RecordBatch
from app.core.replay.bounds import OPEN, Bound
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.ranges import Offset
from schemas.refusal import UNREADABLE, RefusedRecordError
from schemas.wire import ModelStatus, decode_json

#: A score's time stamp is of its worker's clock, an event's of its producer's. The first may be behind by this.
_CLOCK_SKEW_MS = 3_600_000


class _Source(msgspec.Struct):
    offset: Offset


class _Head(msgspec.Struct):
    source: _Source


_HEAD = msgspec.json.Decoder(_Head)


async def record_topics(
    kafka: KafkaAccess,
    pipeline: Pipeline,
    path: Path,
    now_ms: int,
    *,
    begin: Bound = OPEN,
    end: Bound = OPEN,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Record the committed records that the topics hold now; return how many of each kind.

    Parameters
    ----------
    begin, end
        The stretch: from the first event whose Kafka time stamp (or offset) is not before ``begin`` to the last one
        before the first that is not before ``end``. Labels are bounded by times only: with offsets, all labels are
        taken. The scores of these events and all model updates are taken, too.
    progress
        Is given the number of records of each batch.
    """
    topics = pipeline.topics
    by_time = (Bound(begin.time_ms), Bound(end.time_ms))
    counts = dict.fromkeys([EVENTS, *([LABELS] if pipeline.labels is not None else []), SCORES, MODEL_UPDATES], 0)
    stretches: dict[int, tuple[int, int]] = {}
    with RecordingWriter(path, describe(pipeline, now_ms, begin, end)) as writer:

        def add(kind: str, batch: RecordBatch) -> None:
            if len(batch):
                writer.add(kind, batch)
                counts[kind] += len(batch)
                progress(len(batch))

        with reading(kafka):
            for partition, began in (await _read_beginnings(kafka, topics.model_status)).items():
                writer.note_beginning(partition, *began)
            bounds = {topics.events: (begin, end), topics.model_updates: (OPEN, OPEN)}
            if pipeline.labels is not None:
                bounds[topics.labels] = by_time
            kinds = {topics.events: EVENTS, topics.labels: LABELS, topics.model_updates: MODEL_UPDATES}
            async with aclosing(read_between(kafka, bounds)) as batches:
                async for batch in batches:
                    kind = kinds[batch.topic]
                    add(kind, batch)
                    if kind == EVENTS:
                        first, last = int(batch.offsets[0]), int(batch.offsets[-1])
                        stretches[batch.partition] = stretches.get(batch.partition, (first, 0))[0], last + 1
            since = OPEN if begin.time_ms is None else Bound(begin.time_ms - _CLOCK_SKEW_MS)
            async with aclosing(read_between(kafka, {topics.scores: (since, OPEN)})) as batches:
                async for batch in batches:  # also scores of later events: the stream goes on while it is recorded
                    add(SCORES, _of(batch, stretches.get(batch.partition, (0, 0))))
    return counts


async def _read_beginnings(kafka: KafkaAccess, topic: str) -> dict[int, tuple[int, int]]:
    """Offsets of events and labels, by partition, at which workers began that were told where to begin."""
    beginnings: dict[int, tuple[int, int]] = {}
    async with aclosing(read_between(kafka, {topic: (OPEN, OPEN)})) as batches:
        async for batch in batches:
            for value in batch.values:
                with suppress(RefusedRecordError):
                    status = decode_json(value, ModelStatus)
                    if status.status == "began" and status.partition is not None and status.offset is not None:
                        beginnings[status.partition] = status.offset, status.label_offset or 0
    return beginnings


def _of(batch: RecordBatch, stretch: tuple[int, int]) -> RecordBatch:
    """The scores of the events at offsets ``stretch``; a partition's scores are in the order of its events."""
    sources = np.array([_source_offset(value) for value in batch.values], dtype=np.int64)
    inside = np.flatnonzero((sources >= stretch[0]) & (sources < stretch[1]))
    if not len(inside):
        return batch.cut(0, 0)
    return batch.between(int(batch.offsets[inside[0]]), int(batch.offsets[inside[-1]]) + 1)


def _source_offset(value: bytes | None) -> int:
    try:
        return _HEAD.decode(value or b"").source.offset
    except UNREADABLE:
        return -1  # not written by a worker
