"""Records of the state topic that are no tiles: how far a partition had come, events without a label, open tiles."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from schemas.ranges import ComeToMs, Int64, Name, Offset, TimeMs
from schemas.refusal import UNREADABLE, RefusedRecordError, need_value, refuse_unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Whatever reading or restoring a damaged record may raise; what they have begun, the next record sets right.
DAMAGE = (*UNREADABLE, ValueError, TypeError, LookupError, AttributeError, struct.error)
#: A generation is four bytes of a key, and there must be one after it.
_Generation = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class _Rejected(msgspec.Struct):
    consecutive: _Number
    ago: list[Annotated[int, msgspec.Meta(ge=-(2**31), le=2**53)]]


class _Meta(msgspec.Struct):
    """What every record has that says how far a partition had come; `app.pipeline` reads it as a dict."""

    event_watermark_ms: ComeToMs
    label_watermark_ms: ComeToMs
    promised_ms: ComeToMs
    position: tuple[Offset | None, Offset | None]
    feature_set: Name
    generation: _Generation
    pipeline: str
    rejected: dict[str, _Rejected]
    shared: tuple[ComeToMs, Offset, Offset] | None = None
    repartition: tuple[Offset, Int64, Offset] | None = None
    by_entity: bool = False


class _Event(msgspec.Struct, array_like=True):
    effective_ms: ComeToMs
    event_time_ms: TimeMs
    version: str
    score: float
    fields: list[str | float | int | bool | None]
    segments: list[_Number]


def read_meta(value: bytes | None) -> dict[str, Any]:
    """How far a partition had come; RefusedRecordError when it does not say so."""
    try:
        meta: dict[str, Any] = msgspec.msgpack.decode(need_value(value), type=dict)
        msgspec.convert(meta, _Meta)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    return meta


def check_open_tile(key: bytes, value: bytes | None, form: struct.Struct) -> None:
    """Refuse what is no tile that is still open; ``key``: the name of a store, and a window key."""
    try:
        found: Any = msgspec.msgpack.decode(key[4:], type=list[str | float | int | bool])
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    if not found or (value is not None and len(value) != form.size):
        raise RefusedRecordError("inconsistent", "It is no tile of a shared window.")
    if value is not None and max(map(abs, form.unpack(value))) > 2**62:
        raise RefusedRecordError("out_of_range", "A tile that is open holds what cannot be.")


def read_event(value: bytes, texts: Sequence[bool] | None, n_segments: int | None) -> tuple[Any, ...]:
    """A scored event that waits for its label.

    Parameters
    ----------
    texts
        Whether each of the fields that are kept is a text; None: whatever they are.
    n_segments
        How many segments there are; None: any number.
    """
    try:
        event = msgspec.msgpack.decode(value, type=_Event)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
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
