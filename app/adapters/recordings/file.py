"""Recordings: what a pipeline's topics held, in one Parquet file for replays, training and sending it again.

A row is a record. A row group holds records of one kind ("events", "labels", "scores", "model-updates") and one
partition, in offset order. The footer lists the row groups: so each log is read by itself, and memory holds one row
group of each. A file appears under its name when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.core.batches import RecordBatch
from app.core.replay.bounds import OPEN, Bound
from schemas.pipeline.spec import Pipeline

EVENTS, LABELS, SCORES, MODEL_UPDATES = KINDS = ("events", "labels", "scores", "model-updates")

_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.dictionary(pa.int8(), pa.string()), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())]))),
    ]
)
_FOOTER = b"streamgauge"
#: A row group is written when a log's buffer reaches either limit.
GROUP_ROWS = 20_000
GROUP_BYTES = 4 << 20
#: The limit of all buffers together; beyond it the largest buffer is written early.
BUFFER_BYTES = 128 << 20
_NO_END = 2**62


class RecordingError(RuntimeError):
    """A file that is no recording, or one that cannot be written or used; one sentence that says what to do."""


class About(msgspec.Struct, frozen=True):
    """What a recording says of itself.

    ``from_ms``/``to_ms``: record time stamps at which it begins and ends; ``from_offsets``/``to_offsets``: offsets of
    the events topic, by partition. None: open. ``began``: offsets of events and labels, by partition, at which workers
    were told to begin, if not at the first record.
    """

    pipeline: str
    digest: str
    feature_set: str
    partitions: int
    recorded_at_ms: int
    from_ms: int | None = None
    to_ms: int | None = None
    version: int = 1
    from_offsets: dict[int, int] | None = None
    to_offsets: dict[int, int] | None = None
    began: dict[int, tuple[int, int]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether it holds all that the topics held."""
        return self.from_ms is None and self.to_ms is None and not self.from_offsets and not self.to_offsets


class Group(msgspec.Struct, frozen=True, array_like=True):
    """One row group: the log it belongs to, its rows and its first offset."""

    kind: str
    partition: int
    rows: int
    first_offset: int


class _Footer(msgspec.Struct):
    about: About
    groups: list[Group]


class _Waiting:
    """The rows of one log that are not written yet."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bytes | None, bytes | None, Any]] = []
        self.size_bytes = 0


class RecordingWriter:
    """Writes a recording; when its context ends in an error, there is no file.

    Parameters
    ----------
    path
        The file; an existing one is refused.
    """

    def __init__(self, path: Path, about: About) -> None:
        if path.exists():
            raise RecordingError(f"{path} exists; name another file, or remove it.")
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._about = about
        self._groups: list[Group] = []
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._size_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(self._partial, _SCHEMA, compression="zstd")
        except OSError as error:
            raise RecordingError(f"{path} cannot be written: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        else:
            with suppress(OSError, pa.ArrowException):
                self._file.close()
            self._partial.unlink(missing_ok=True)

    def add(self, kind: str, batch: RecordBatch) -> None:
        """Append records to a log, in offset order."""
        waiting = self._waiting.setdefault((kind, batch.partition), _Waiting())
        headers = batch.headers or [()] * len(batch)
        for offset, time_ms, key, value, pairs in zip(
            batch.offsets.tolist(), batch.timestamps_ms.tolist(), batch.keys, batch.values, headers, strict=True
        ):
            size = len(key or b"") + len(value or b"") + 64
            waiting.rows.append((offset, time_ms, key, value, [{"name": n, "value": v} for n, v in pairs] or None))
            waiting.size_bytes += size
            self._size_bytes += size
            if len(waiting.rows) >= GROUP_ROWS or waiting.size_bytes >= GROUP_BYTES:
                self._write(kind, batch.partition)
        while self._size_bytes > BUFFER_BYTES:
            largest = max(self._waiting, key=lambda log: self._waiting[log].size_bytes)
            self._write(*largest)

    def note_beginning(self, partition: int, offset: int, label_offset: int) -> None:
        """Note where a worker began to read a partition."""
        began = {**self._about.began, partition: (offset, label_offset)}
        self._about = msgspec.structs.replace(self._about, began=began)

    def _write(self, kind: str, partition: int) -> None:
        waiting = self._waiting[kind, partition]
        if not waiting.rows:
            return
        n = len(waiting.rows)
        offsets, times, keys, values, headers = zip(*waiting.rows, strict=True)
        arrays = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, dtype=np.int8)), pa.array([kind])),
            pa.array(np.full(n, partition, dtype=np.int32)),
            pa.array(offsets, pa.int64()),
            pa.array(times, pa.int64()),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
            pa.array(headers, _SCHEMA.field("headers").type),
        ]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), row_group_size=n)
        self._groups.append(Group(kind, partition, n, offsets[0]))
        self._size_bytes -= waiting.size_bytes
        waiting.rows.clear()
        waiting.size_bytes = 0

    def _finish(self) -> None:
        for log in list(self._waiting):
            self._write(*log)
        footer = msgspec.json.encode(_Footer(self._about, self._groups))
        self._file.add_key_value_metadata({_FOOTER: footer})
        self._file.close()
        self._partial.rename(self._path)


class RecordedLog(Protocol):
    """The logs of a recording, or of a part of one."""

    @property
    def about(self) -> About: ...

    @property
    def partitions(self) -> list[int]: ...

    def read(self, kind: str, partition: int, pipeline: Pipeline | None = None) -> Iterator[RecordBatch]: ...


class Recording:
    """A recording, open for reading; any number of its logs may be read at the same time.

    Parameters
    ----------
    as_streamed
        Events and labels begin where workers began to read them; earlier records were not part of their stream.
    """

    def __init__(self, path: Path, *, as_streamed: bool = False) -> None:
        self.path = path
        self._as_streamed = as_streamed
        try:
            metadata = pq.read_metadata(path)
            footer = msgspec.json.decode((metadata.metadata or {})[_FOOTER], type=_Footer)
        except OSError as error:
            raise RecordingError(f"{path} cannot be read: {error}.") from error
        except (pa.ArrowException, KeyError, msgspec.MsgspecError) as error:
            raise RecordingError(
                f"{path} is no recording of streamgauge; make one with `streamgauge record`."
            ) from error
        if len(footer.groups) != metadata.num_row_groups:
            raise RecordingError(f"{path} lists {len(footer.groups)} row groups and has {metadata.num_row_groups}.")
        self.about = footer.about
        self._groups = footer.groups

    @property
    def partitions(self) -> list[int]:
        """The partitions that have events or labels."""
        return sorted({group.partition for group in self._groups if group.kind in {EVENTS, LABELS}})

    @property
    def leaves_out(self) -> bool:
        """Whether events before the beginning of the stream are passed over."""
        return self._as_streamed and bool(self.about.began)

    def count(self, kind: str, partition: int | None = None) -> int:
        """How many records of a kind there are."""
        groups = [group for group in self._groups if group.kind == kind and partition in {None, group.partition}]
        begun = {number for number in {group.partition for group in groups} if self._first_offset(kind, number)}
        whole = sum(group.rows for group in groups if group.partition not in begun)
        return whole + sum(len(batch) for number in begun for batch in self.read(kind, number))

    def _first_offset(self, kind: str, partition: int) -> int:
        """The first offset that is to be read."""
        began = self.about.began.get(partition) if self._as_streamed else None
        return began[(EVENTS, LABELS).index(kind)] if began is not None and kind in {EVENTS, LABELS} else 0

    def read(
        self,
        kind: str,
        partition: int,
        pipeline: Pipeline | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[RecordBatch]:
        """One log, a row group at a time: its offsets start…stop - 1. Row groups outside are not read."""
        places = [n for n, group in enumerate(self._groups) if (group.kind, group.partition) == (kind, partition)]
        firsts = [self._groups[place].first_offset for place in places]
        after = [*firsts[1:], _NO_END][: len(firsts)]
        last = _NO_END if stop is None else stop
        start = max(start, self._first_offset(kind, partition))
        places = [n for n, at, end in zip(places, firsts, after, strict=True) if end > start and at < last]
        if not places:
            return
        topic = f"{(pipeline.name if pipeline else self.about.pipeline)}.{kind}"
        with pq.ParquetFile(self.path) as file:
            for place in places:
                table = file.read_row_group(place, columns=["offset", "timestamp_ms", "key", "value", "headers"])
                batch = _to_batch(table, topic, partition).between(start, last)
                if len(batch):
                    yield batch

    def check_fits(self, pipeline: Pipeline) -> None:
        """RecordingError when the recording is of another pipeline."""
        if self.about.pipeline != pipeline.name:
            raise RecordingError(
                f"{self.path} is a recording of {self.about.pipeline}, not of {pipeline.name}; give --pipeline"
                f" {self.about.pipeline}."
            )


def _to_batch(table: Any, topic: str, partition: int) -> RecordBatch:
    headers = table["headers"]
    pairs = None
    if headers.null_count < len(headers):
        pairs = [tuple((pair["name"], pair["value"]) for pair in row or ()) for row in headers.to_pylist()]
    return RecordBatch(
        topic=topic,
        partition=partition,
        offsets=table["offset"].to_numpy(),
        timestamps_ms=table["timestamp_ms"].to_numpy(),
        keys=table["key"].to_pylist(),
        values=table["value"].to_pylist(),
        headers=pairs,
    )


def describe(pipeline: Pipeline, now_ms: int, begin: Bound = OPEN, end: Bound = OPEN) -> About:
    """What a recording of this pipeline, made now between two bounds, says of itself."""
    return About(
        pipeline.name,
        pipeline.digest,
        pipeline.feature_set,
        pipeline.partitions,
        now_ms,
        from_ms=begin.time_ms,
        to_ms=end.time_ms,
        from_offsets=dict(begin.offsets) or None,
        to_offsets=dict(end.offsets) or None,
    )


def to_json(recording: Recording) -> dict[str, Any]:
    """What a recording holds, for ``--json``."""
    counts = {kind: recording.count(kind) for kind in KINDS}
    return {"path": str(recording.path), **json.loads(msgspec.json.encode(recording.about)), "records": counts}
