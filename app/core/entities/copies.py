"""What a record on a topic by entity says of itself: where the record that it is a copy of was sent."""

from __future__ import annotations

from collections.abc import Iterable

from app.core.batches import Header
from schemas.ranges import MOST_PARTITIONS
from schemas.topics import ORIGIN_HEADER, UNREADABLE_HEADER

#: Key, value, time stamp in ms and headers of a record.
Copy = tuple[bytes | None, bytes | None, int, list[Header]]

#: Digits of a number in a header; more are none of ours. That of bytes is a count that a dead letter can hold.
_MOST_DIGITS = 18
_MOST_SIZE_DIGITS = 15


def origin_header(partition: int, offset: int) -> Header:
    """Where the original is."""
    return ORIGIN_HEADER, b"%d/%d" % (partition, offset)


def read_origin(headers: Iterable[tuple[str, bytes | None]]) -> tuple[int, int] | None:
    """Partition and offset of the original; None: it is not a copy.

    Examples
    --------
    >>> read_origin([origin_header(3, 120)])
    (3, 120)
    """
    data = next((data for name, data in headers if name == ORIGIN_HEADER), None)
    partition, _, offset = (data or b"").partition(b"/")
    is_one = all(part.isdigit() and len(part) <= _MOST_DIGITS for part in (partition, offset))
    return (int(partition), int(offset)) if is_one and int(partition) < MOST_PARTITIONS else None


def stand_in_header(why: str, size_bytes: int) -> Header:
    """The header of a copy of what stands for unreadable records; ``size_bytes``: of their batch as it was sent."""
    return UNREADABLE_HEADER, f"{size_bytes} {why}".encode()


def read_stand_in(headers: Iterable[tuple[str, bytes | None]]) -> tuple[str, int] | None:
    """Why the records that a copy stands for cannot be read, and the size of their batch; None: it stands for none.

    Examples
    --------
    >>> read_stand_in([stand_in_header("the zstd batch is damaged", 12)])
    ('the zstd batch is damaged', 12)
    """
    data = next((data for name, data in headers if name == UNREADABLE_HEADER), None)
    size, _, why = (data or b"").decode(errors="replace").partition(" ")
    is_one = size.isascii() and size.isdigit() and len(size) <= _MOST_SIZE_DIGITS
    return (why, int(size)) if is_one else None
