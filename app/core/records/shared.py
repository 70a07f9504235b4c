"""Records of ``<p>.shared``: what a partition has added to a tile, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.records.columns import most_tile, read_column, read_keys
from schemas.ranges import END_MS
from schemas.refusal import RefusedRecordError
from schemas.wire import SharedTile, SharedTimes, decode_packed

if TYPE_CHECKING:
    import struct

    from app.core.batches import Ints


def read_times(value: bytes | None, latest_ms: int = END_MS) -> SharedTimes:
    """How far a partition has come; ``latest_ms``: what can be."""
    times = decode_packed(value, SharedTimes)
    if max(times.added_ms, times.scored_ms) > latest_ms:
        raise RefusedRecordError(
            "out_of_range", f"It says to have come to {max(times.added_ms, times.scored_ms)}, and {latest_ms} can be."
        )
    return times


def read_tile(value: bytes, size: int) -> tuple[list[Any], Ints]:
    """Keys (over so many fields) of a tile, and counts and sums [2 x n] of each."""
    tile = decode_packed(value, SharedTile)
    n = len(tile.keys)
    keys = read_keys(tile.keys, size)
    return keys, np.stack((read_column(tile.counts, n, "counts", 0), read_column(tile.sums, n, "sums")))


def read_place(data: bytes, form: struct.Struct, hop_ms: int) -> tuple[int, int]:
    """Tile of this length, and number of the piece, at the end of a record's key."""
    if len(data) != form.size:
        raise RefusedRecordError("bad_key", f"The key names a tile in {len(data)} bytes and not in {form.size}.")
    tile, piece = form.unpack(data)
    if abs(tile) > most_tile(hop_ms):
        raise RefusedRecordError("bad_key", f"Tile {tile} cannot be.")
    return tile, piece
