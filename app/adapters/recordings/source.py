"""A recording as a source: its events and labels in the order of their times, unchanged, to be sent again."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from app.adapters.recordings.file import EVENTS, LABELS, Recording
from app.adapters.sources.source import EVENT, LABEL, WATERMARK, EncodedRecord
from app.core.batches import RecordBatch
from app.core.intake.decode import EventDecoder, LabelDecoder
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER


class _Timed(NamedTuple):
    """Sorts by effective time, labels before events, and by log."""

    effective_ms: int
    is_event: bool
    partition: int
    offset: int
    record: EncodedRecord


def read_in_time(recording: Recording, pipeline: Pipeline, size: int = 10_000) -> Iterator[list[EncodedRecord]]:
    """Events and labels of a recording, unchanged, in the order of their effective times.

    A record that cannot be decoded follows the one before it in its log. With as many partitions as when it was
    recorded, each record keeps its partition; otherwise watermark records are left out, as each speaks of one
    partition.
    """
    keeps_partition = recording.about.partitions == pipeline.partitions
    logs = [
        _timed(recording.read(kind, partition, pipeline), pipeline, kind, keeps_partition=keeps_partition)
        for kind in (EVENTS, LABELS)
        for partition in recording.partitions
    ]
    chunk: list[EncodedRecord] = []
    for timed in heapq.merge(*logs, key=lambda timed: timed[:4]):
        chunk.append(timed.record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _timed(batches: Iterable[RecordBatch], pipeline: Pipeline, kind: str, *, keeps_partition: bool) -> Iterator[_Timed]:
    is_event = kind == EVENTS
    effective_ms = -(2**62)
    for batch in batches:
        times: dict[int, int] = {}
        if is_event:
            events, _ = EventDecoder(pipeline.events).decode(batch)
            times = dict(zip(events.offsets.tolist(), events.event_time_ms.tolist(), strict=True))
        else:
            labels, _ = LabelDecoder(pipeline).decode(batch)
            times = dict(zip(labels.offsets.tolist(), labels.label_time_ms.tolist(), strict=True))
        headers = batch.headers or [()] * len(batch)
        for offset, key, value, pairs in zip(batch.offsets.tolist(), batch.keys, batch.values, headers, strict=True):
            time_ms = times.get(offset, effective_ms)
            effective_ms = max(effective_ms, time_ms)
            partition = batch.partition if keeps_partition else None
            kind_of = EVENT if is_event else LABEL
            if not is_event and any(name == WATERMARK_HEADER for name, _ in pairs):
                if not keeps_partition:
                    continue
                kind_of = WATERMARK
            record = EncodedRecord(kind_of, key, effective_ms, value, partition, pairs)
            yield _Timed(effective_ms, is_event, batch.partition, offset, record)
