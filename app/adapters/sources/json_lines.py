"""JSON lines as records to send: each line is a value, sent as it is, even if it is not JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from app.adapters.sources.source import EVENT, EncodedRecord, SourceError
from schemas.pipeline.spec import Pipeline

_READ_BYTES = 1 << 20


def read_lines(stream: BinaryIO, pipeline: Pipeline, kind: str) -> Iterator[list[EncodedRecord]]:
    """Read lines as they become available.

    The key is the line's entity field, which labels must have, too. An event without it is sent without a key and
    becomes a dead letter.

    Raises
    ------
    SourceError
        For a label without an entity: it would not find its event.
    """
    read = getattr(stream, "read1", stream.read)
    rest, number = b"", 0
    while data := read(_READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        yield [_to_record(line, number + place + 1, pipeline, kind) for place, line in enumerate(lines) if line.strip()]
        number += len(lines)
    if rest.strip():
        yield [_to_record(rest, number + 1, pipeline, kind)]


def _to_record(line: bytes, number: int, pipeline: Pipeline, kind: str) -> EncodedRecord:
    events = pipeline.events
    try:
        value: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    fields = value if isinstance(value, dict) else {}
    entity = fields.get(events.entity)
    if kind != EVENT and entity is None and pipeline.partitions > 1:
        raise SourceError(
            f'Line {number} has no "{events.entity}"; a label goes where its event went, so it needs that field.'
        )
    time_ms = fields.get(events.time if kind == EVENT else "label_time_ms")
    return EncodedRecord(
        kind,
        None if entity is None else str(entity).encode(),
        time_ms if isinstance(time_ms, int) else 0,
        line.rstrip(b"\r"),
    )
