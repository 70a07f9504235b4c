"""A pipeline's source as records that can be sent or run: encoded, keyed, and in the order of their times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from app.adapters.sources.python_features import load_function
from app.core.batches import Header, Promise, RecordBatch
from schemas.partitioning import partition_of
from schemas.pipeline.spec import Pipeline, PipelineError
from schemas.source import Records, SourceRecord
from schemas.topics import WATERMARK_HEADER

EVENT, LABEL, WATERMARK = "event", "label", "watermark"


class SourceError(RuntimeError):
    """What a source yields cannot be sent; one sentence."""


class EncodedRecord(NamedTuple):
    """A record as bytes. ``partition``: where it goes; None: as its key says. ``headers`` are sent with it."""

    kind: str
    key: bytes | None
    time_ms: int
    value: bytes | None
    partition: int | None = None
    headers: tuple[Header, ...] = ()


def load_source(pipeline: Pipeline) -> Records:
    """The function that the pipeline file names as its source.

    Raises
    ------
    PipelineError
        When it names no source, or one that cannot be loaded.
    """
    if pipeline.source is None:
        raise PipelineError(
            f'{pipeline.path}: source is missing; name one as source = "file.py:function", or give a file.'
        )
    records: Records = load_function(pipeline.source, pipeline)
    return records


def encode(chunk: Iterable[SourceRecord]) -> list[EncodedRecord]:
    """Records of a source with their values as JSON."""
    to_json = msgspec.json.Encoder().encode
    return [
        EncodedRecord(
            record.kind,
            None if record.key is None else record.key.encode(),
            record.time_ms,
            None if record.value is None else to_json(record.value),
        )
        for record in chunk
    ]


class Partitioner:
    """Gives each key the partition that Kafka's own clients give it."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._known: dict[bytes | None, int] = {None: 0}  # without a key there is no order to keep

    def __call__(self, key: bytes | None) -> int:
        partition = self._known.get(key)
        if partition is None:
            partition = partition_of(key or b"", self._partitions)  # None has been known from the start
            if len(self._known) < 100_000:  # bounds memory; hashing again is only slower
                self._known[key] = partition
        return partition


def watermark_header(time_ms: int) -> tuple[Header, ...]:
    """The headers of a watermark record."""
    return ((WATERMARK_HEADER, str(time_ms).encode()),)


def watermark_partitions(record: EncodedRecord, partitions: int) -> Iterable[int]:
    """The partitions that a watermark record speaks of."""
    return range(partitions) if record.partition is None else (record.partition,)


def cut_batches(chunks: Iterable[Sequence[EncodedRecord]], pipeline: Pipeline) -> Iterator[RecordBatch]:
    """The logs that these records would be if they were sent, as batches; labels come first in each chunk.

    A record's Kafka time stamp is its own time, as if it had been sent when it happened.
    """
    for batch in cut_with_promises(chunks, pipeline):
        if isinstance(batch, RecordBatch):
            yield batch


def cut_with_promises(chunks: Iterable[Sequence[EncodedRecord]], pipeline: Pipeline) -> Iterator[RecordBatch | Promise]:
    """As `cut_batches`, with a promise after each chunk: as a source is in order, nothing older follows."""
    topics, partition_of = pipeline.topics, Partitioner(pipeline.partitions)
    ends: dict[tuple[str, int], int] = defaultdict(int)
    for chunk in chunks:
        parts: dict[tuple[str, int], list[EncodedRecord]] = defaultdict(list)
        for record in chunk:
            if record.kind == WATERMARK:
                for partition in watermark_partitions(record, pipeline.partitions):
                    parts[LABEL, partition].append(record._replace(headers=watermark_header(record.time_ms)))
            else:
                partition = partition_of(record.key) if record.partition is None else record.partition
                parts[record.kind, partition].append(record)
        for kind, partition in sorted(parts, key=lambda part: (part[0] == EVENT, part[1])):
            records, start = parts[kind, partition], ends[kind, partition]
            ends[kind, partition] = start + len(records)
            yield RecordBatch(
                topic=topics.events if kind == EVENT else topics.labels,
                partition=partition,
                offsets=np.arange(start, start + len(records), dtype=np.int64),
                timestamps_ms=np.array([record.time_ms for record in records], dtype=np.int64),
                keys=[record.key for record in records],
                values=[record.value for record in records],
                headers=[record.headers for record in records] if any(record.headers for record in records) else None,
            )
        if chunk:
            yield Promise(max(record.time_ms for record in chunk))


def read_source(
    pipeline: Pipeline, from_ms: int | None, to_ms: int | None, limit: int | None = None
) -> Iterator[list[EncodedRecord]]:
    """The records of the pipeline's source, encoded; SourceError when it fails."""
    records = load_source(pipeline)
    try:
        for chunk in records(from_ms, to_ms, limit):
            yield encode(chunk)
    except (OSError, ValueError, TypeError, LookupError, msgspec.MsgspecError) as error:
        raise SourceError(f"The source {pipeline.source} of {pipeline.path} failed: {error}.") from error
