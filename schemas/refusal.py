"""A record of a topic that is none of ours: anybody may write to a topic, and nothing that is there ends a process."""

from __future__ import annotations

import msgspec

#: What decoding raises, whatever the bytes: deep ones a RecursionError, a length that lies a MemoryError.
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError, MemoryError)


class RefusedRecordError(ValueError):
    """A record that is passed over, with a sentence.

    ``reason`` is one of:

    - ``tombstone``, ``empty``: no value where there must be one; one of no bytes.
    - ``malformed``: not the JSON or MessagePack that the bytes should be, or nested too deep.
    - ``wrong_type``: another type, a missing or an unknown field.
    - ``out_of_range``: a number, time, name or length that cannot be.
    - ``inconsistent``: parts that do not fit each other, or do not add up.
    - ``foreign``: well formed, but of another partition, topic, model or feature set.
    - ``bad_key``, ``bad_header``: key or headers are not those of such a record.
    - ``unreadable_batch``: Kafka's own batch cannot be unpacked.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def refuse_unreadable(error: Exception) -> RefusedRecordError:
    """The refusal for what decoding has raised (`UNREADABLE`)."""
    words = " ".join(str(error).split())[:300] or type(error).__name__
    if not isinstance(error, msgspec.ValidationError):
        return RefusedRecordError("malformed", words)
    signs = (" >= ", " <= ", "of length", "matching regex", "out of range")
    is_range = any(sign in words for sign in signs)
    return RefusedRecordError("out_of_range" if is_range else "wrong_type", words)


def need_value(value: bytes | None) -> bytes:
    """The bytes of a value; RefusedRecordError when there are none."""
    if value is None:
        raise RefusedRecordError("tombstone", "The record has no value.")
    if not value:
        raise RefusedRecordError("empty", "The record's value is empty.")
    return value
