"""Records of the state topic that are no tiles: how far a partition had come, events without a label, open tiles."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from schemas.ranges import EARLIEST_TABLE_MS, END_MS, LATEST_TABLE_MS, ComeToMs, Int64, Name, Offset, TimeMs
from schemas.refusal import UNREADABLE, RefusedRecordError, need_value, refuse_unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Ints

#: Ids in one record of those that were forgotten; a number of such records is eight bytes of a key.
FORGOTTEN_IDS = 512
_FORGOTTEN_KEY_BYTES = 9
_MOST_FORGOTTEN = 2**62
_MOST_OFFSET = 2**62
#: Whatever reading or restoring a damaged record may raise; what they have begun, the next record sets right.
DAMAGE = (*UNREADABLE, ValueError, TypeError, LookupError, AttributeError, struct.error)
#: A generation is four bytes of a key, and there must be many after it.
MOST_GENERATION = 2**31
_Generation = Annotated[int, msgspec.Meta(ge=0, le=MOST_GENERATION)]
#: Numbers that records are counted up from.
_Sequence = Annotated[int, msgspec.Meta(ge=-1, le=2**62)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Rejected(msgspec.Struct):
    consecutive: _Number
    ago: list[Annotated[int, msgspec.Meta(ge=-(2**31), le=2**53)]]


class _RejectedOf(msgspec.Struct):
    events: _Rejected
    labels: _Rejected


#: As `schemas.ranges.VersionName`; "" of an event that nobody scored.
_VersionOrNone = Annotated[str, msgspec.Meta(pattern=r"^([0-9A-Za-z][0-9A-Za-z.+_-]{0,99})?\Z")]


class _Meta(msgspec.Struct):
    """What every record has that says how far a partition had come; `app.pipeline` reads it as a dict."""

    event_watermark_ms: ComeToMs
    label_watermark_ms: ComeToMs
    promised_ms: ComeToMs
    position: tuple[Offset | None, Offset | None]
    feature_set: Name
    generation: _Generation
    pipeline: str
    rejected: _RejectedOf
    shared: tuple[ComeToMs, Offset, Offset] | None = None
    repartition: tuple[Offset, _Sequence, Offset] | None = None
    by_entity: bool = False
    scored: dict[_VersionOrNone, ComeToMs] = {}


class _Sent(msgspec.Struct, array_like=True):
    offset: Offset
    at_ms: Int64
    digest: Int64
    event_time_ms: TimeMs
    version: _VersionOrNone
    score: float
    decision: bool
    stale: bool


class _Event(msgspec.Struct, array_like=True):
    effective_ms: ComeToMs
    event_time_ms: TimeMs
    version: _VersionOrNone
    score: float
    fields: list[str | float | int | bool | None]
    segments: list[_Number]


def read_meta(value: bytes | None, feature_set: str, needed: Sequence[str], latest_ms: int) -> dict[str, Any]:
    """How far a partition had come; RefusedRecordError when it does not say so.

    Parameters
    ----------
    feature_set, needed
        What a record of this feature set must say besides; one of another is not gone on from.
    latest_ms
        How far it can have come.
    """
    try:
        meta: dict[str, Any] = msgspec.msgpack.decode(need_value(value), type=dict)
        said = msgspec.convert(meta, _Meta)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    missing = [what for what in needed if meta.get(what) is None]
    if missing and said.feature_set == feature_set:
        raise RefusedRecordError("inconsistent", f"It does not say how far {' and '.join(missing)} windows were.")
    shared_ms = said.shared[0] if said.shared is not None else latest_ms
    scored_ms = said.scored.values()
    come_to_ms = max(said.event_watermark_ms, said.label_watermark_ms, said.promised_ms, shared_ms, *scored_ms)
    if come_to_ms > latest_ms:
        raise RefusedRecordError("out_of_range", f"It says to have come to {come_to_ms}, and {latest_ms} can be.")
    return meta


def check_order(before: Sequence[int | None], now: Sequence[int | None]) -> None:
    """Refuse offsets to go on from that are before those of the record before: an old record was written again."""
    pairs = zip(before, now, strict=False)
    if any(earlier is not None and later is not None and later < earlier for earlier, later in pairs):
        raise RefusedRecordError("inconsistent", f"It goes on at {now}, and the record before it at {before}.")


def read_forgotten(key: bytes, value: bytes | None, latest_ms: int) -> tuple[int, Ints | None]:
    """Number of a record of forgotten ids, and their hashes and times [n x 2]; None: it is cleared."""
    number = int.from_bytes(key[1:], "big")
    if len(key) != _FORGOTTEN_KEY_BYTES or number > _MOST_FORGOTTEN:
        raise RefusedRecordError("bad_key", f"No record of forgotten ids has the key {key[:40]!r}.")
    if value is None:
        return number, None
    if not 0 < len(value) <= 16 * FORGOTTEN_IDS or len(value) % 16:
        raise RefusedRecordError("inconsistent", f"{len(value)} bytes are no ids and times.")
    rows = np.frombuffer(value, "<i8").astype(np.int64).reshape(-1, 2)
    if int(rows[:, 1].max()) > latest_ms:
        raise RefusedRecordError("out_of_range", f"An id was forgotten of {rows[:, 1].max()}, and {latest_ms} can be.")
    return number, rows


def read_sent_key(key: bytes) -> tuple[int, str]:
    """Offset and id of an event that was sent once; ``key``: one letter, eight bytes, and the id."""
    offset = int.from_bytes(key[1:9], "big")
    try:
        event_id = key[9:].decode()
    except UnicodeDecodeError as error:
        raise refuse_unreadable(error) from None
    if not event_id or offset > _MOST_OFFSET:
        raise RefusedRecordError("bad_key", f"No event that was sent once has the key {key[:40]!r}.")
    return offset, event_id


def read_sent(value: bytes, offset: int) -> tuple[Any, ...]:
    """The event of an offset that was sent once, as `app.core.intake.sent_once.SentEvent` has it."""
    try:
        sent = msgspec.msgpack.decode(value, type=_Sent)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    if not math.isfinite(sent.score) or sent.offset != offset:
        raise RefusedRecordError("inconsistent", "It is not the event of its key.")
    return msgspec.structs.astuple(sent)


def check_open_tile(key: bytes, value: bytes | None, form: struct.Struct) -> None:
    """Refuse what is no tile that is still open; ``key``: the name of a store, and a window key."""
    try:
        values: Any = msgspec.msgpack.decode(key[4:], type=list[str | float | int | bool])
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    if not values or (value is not None and len(value) != form.size):
        raise RefusedRecordError("inconsistent", "It is no tile of a shared window.")
    if value is not None and max(map(abs, form.unpack(value))) > 2**62:
        raise RefusedRecordError("out_of_range", "A tile that is open holds what cannot be.")


def read_event(
    value: bytes,
    texts: Sequence[bool] | None,
    n_segments: int | None,
    *,
    latest_ms: int = END_MS,
    times_ms: tuple[int, int] = (EARLIEST_TABLE_MS, LATEST_TABLE_MS),
) -> tuple[Any, ...]:
    """A scored event that waits for its label.

    Parameters
    ----------
    texts
        Whether each of the fields that are kept is a text; None: whatever they are.
    n_segments
        How many segments there are; None: any number.
    latest_ms
        How far the partition can have come.
    times_ms
        Earliest and latest time of an event: its label is counted in the slice of that.
    """
    try:
        event = msgspec.msgpack.decode(value, type=_Event)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    if event.effective_ms > latest_ms:
        raise RefusedRecordError("out_of_range", f"An event waits from {event.effective_ms}, and {latest_ms} can be.")
    if not times_ms[0] <= event.event_time_ms <= times_ms[1] or event.effective_ms < event.event_time_ms:
        raise RefusedRecordError("out_of_range", f"An event of {event.event_time_ms} waits from {event.effective_ms}.")
    if math.isinf(event.score):
        raise RefusedRecordError("out_of_range", "A score is infinite.")
    kinds = [isinstance(field, str) for field in event.fields]
    fits = texts is None or (
        len(kinds) == len(texts)
        and all(kind == text or field is None for kind, text, field in zip(kinds, texts, event.fields, strict=True))
    )
    if not fits or (n_segments is not None and max(event.segments, default=-1) >= n_segments):
        raise RefusedRecordError("inconsistent", "The fields or segments of an event are not those of this pipeline.")
    return (
        event.effective_ms,
        event.event_time_ms,
        event.version,
        event.score,
        tuple(event.fields),
        tuple(event.segments),
    )
