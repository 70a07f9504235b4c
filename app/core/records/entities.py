"""Records of ``<p>.entities``: what they are called, and what they may say."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from schemas.refusal import RefusedRecordError
from schemas.wire import EntityChunk, decode_packed

if TYPE_CHECKING:
    from app.core.records.rules import RecordRules

#: Entities in one record.
CHUNK = 64
#: Of a name, as people are told it.
NAME_CHARACTERS = 64
_KEY = struct.Struct(">qI")
_MOST_GENERATION = 1 << 40
#: Far below what the key can hold: there must be one after it.
_MOST_NUMBER = 1 << 31


class Place(NamedTuple):
    """Where a record belongs in the log of its partition: a generation, and the record's number in it."""

    generation: int
    number: int

    def to_key(self) -> bytes:
        return _KEY.pack(*self)


def read_entities(key: bytes | None, value: bytes | None, rules: RecordRules) -> tuple[Place, EntityChunk | None]:
    """The place of a record and its entities; None: it is cleared. RefusedRecordError when no partition wrote it."""
    if key is None or len(key) != _KEY.size:
        raise RefusedRecordError("bad_key", f"Its key is not of {_KEY.size} bytes.")
    place = Place(*_KEY.unpack(key))
    if not -_MOST_GENERATION < place.generation < _MOST_GENERATION:
        raise RefusedRecordError("bad_key", f"Its key is of generation {place.generation}.")
    if place.number > _MOST_NUMBER:
        raise RefusedRecordError("bad_key", f"Its key is of record {place.number} of a generation.")
    if value is None:
        return place, None
    chunk = decode_packed(value, EntityChunk)
    if not len(chunk.hashes) == len(chunk.first_seen_ms) == 8 * len(chunk.names):
        raise RefusedRecordError("inconsistent", f"{len(chunk.names)} names do not fit the hashes and times.")
    times = np.frombuffer(chunk.first_seen_ms, "<i8")
    if len(times) and not rules.earliest_ms <= int(times.min()) <= int(times.max()) <= rules.latest_ms:
        raise RefusedRecordError("out_of_range", f"Its entities were seen from {times.min()} to {times.max()}.")
    return place, chunk
