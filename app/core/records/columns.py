"""Columns of records as bytes, and keys of windows: read and checked before anything is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from schemas.refusal import UNREADABLE, RefusedRecordError, refuse_unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Ints

#: Of any store: at a hop of a millisecond, that is beyond what a table of times can hold.
MOST_TILE = 2**44
#: Sums in fixed point; counts are far below.
_MOST = 2**62
_KEY = msgspec.msgpack.Decoder(list[str | float | int | bool]).decode


def most_tile(hop_ms: int) -> int:
    """The last tile of this length that can be, as far from 1970 as the first."""
    return MOST_TILE // hop_ms


def read_column(data: bytes, n: int, what: str, low: int = -_MOST, high: int = _MOST) -> Ints:
    """``n`` whole numbers from ``low`` to ``high``; RefusedRecordError when they are not."""
    if len(data) != 8 * n:
        raise RefusedRecordError("inconsistent", f"{len(data)} bytes of {what} do not fit {n} rows.")
    values = np.frombuffer(data, dtype="<i8").astype(np.int64)
    if n and not low <= int(values.min()) <= int(values.max()) <= high:
        raise RefusedRecordError("out_of_range", f"{what} are from {values.min()} to {values.max()}.")
    return values


def read_keys(keys: Sequence[bytes], size: int) -> list[Any]:
    """Keys of a window over so many fields, as `app.core.tiles.keys.KeyIndex` has them; a refusal when any is none."""
    try:
        columns = list(map(_KEY, keys))
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None
    if any(len(values) != size for values in columns):
        raise RefusedRecordError("inconsistent", f"A key has not {size} values, as its window.")
    return [values[0] for values in columns] if size == 1 else list(map(tuple, columns))
