"""One tile store and its part of the changelog: what is written of it, and how it comes back.

A record's key is the store's name, a slot (tile modulo ring, 4 bytes) and the encoded key; its value is the cell.
The changelog holds of a key the cells that are kept of it: one that is dropped is followed by a tombstone, unless a
newer tile has taken its slot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import numpy as np

from app.core.batches import Ints
from app.core.records.columns import MOST_TILE
from app.core.tiles.cells import NEVER
from app.core.tiles.codec import TileCodec, UnreadableError
from app.core.tiles.keys import KeyIndex
from app.core.tiles.store import TileStore

NAME_BYTES = 4
_SLOT_BYTES = 4
_HEAD_BYTES = NAME_BYTES + _SLOT_BYTES

#: In place of a slot: the record of the newest tile of all operations.
_CLOCK_SLOT = b"\xff\xff\xff\xff"

Change = tuple[bytes, bytes | None]


class StoredTiles:
    """A tile store, the index of its keys, and the name of its records.

    Parameters
    ----------
    name
        Front of its changelog keys, `NAME_BYTES` long; a store of another name does not read its records.
    """

    def __init__(self, name: bytes, index: KeyIndex, tiles: TileStore) -> None:
        self.name = name
        self.tiles = tiles
        self.codec = TileCodec(tiles)
        self._index = index
        self._logged_clock = tiles.clock
        self._slot_bytes = [name + struct.pack(">I", slot) for slot in range(tiles.ring)]

    def drain(self) -> tuple[list[Change], Ints]:
        """The records of what was touched since the last call, and the rows they are of."""
        records: list[Change] = []
        if self.tiles.clock != self._logged_clock:
            self._logged_clock = self.tiles.clock
            records.append((self.name + _CLOCK_SLOT, struct.pack("<q", self.tiles.clock)))
        rows, slots = self.tiles.take_changes()
        if not len(rows):
            return records, rows
        distinct, of_row = np.unique(rows, return_inverse=True)
        encoded, head = self._index.encoded_all(distinct), self._slot_bytes
        keys = [head[slot] + encoded[row] for row, slot in zip(of_row.tolist(), slots.tolist(), strict=True)]
        there, places = self.tiles.find_slots(rows, slots)
        if there.all():
            records.extend(zip(keys, self.codec.encode_cells(rows, places), strict=True))
        else:
            values = iter(self.codec.encode_cells(rows[there], places[there]))
            records.extend((key, next(values) if is_there else None) for key, is_there in zip(keys, there, strict=True))
        return records, distinct

    def forget(self, rows: Ints) -> list[Change]:
        """Clear rows (after a drain); return the records that clear the changelog."""
        cells = self.tiles.cells.read(rows)
        slots = np.unique(cells.group * self.tiles.ring + cells.tiles % self.tiles.ring)
        encoded, head = self._index.encoded_all(rows), self._slot_bytes
        self.tiles.clear(rows)
        return [
            (head[slot] + encoded[row], None)
            for row, slot in zip(*(part.tolist() for part in np.divmod(slots, self.tiles.ring)), strict=True)
        ]

    def keys(self, rows: Ints) -> Iterator[bytes]:
        """The keys of the records that the changelog holds, of the clock and of rows."""
        if self.tiles.clock != NEVER:
            yield self.name + _CLOCK_SLOT
        cells = self.tiles.cells.read(rows)
        encoded, head = self._index.encoded_all(rows), self._slot_bytes
        slots = (cells.tiles % self.tiles.ring).tolist()
        yield from (head[slot] + encoded[row] for row, slot in zip(cells.group.tolist(), slots, strict=True))

    def tombstones(self, encoded: bytes, row: bytes) -> list[Change]:
        """The records that clear what the changelog holds of a key, given its encoded row."""
        slots = {tile % self.tiles.ring for tile in self.codec.tiles_of(row)}
        return [(self._slot_bytes[slot] + encoded, None) for slot in sorted(slots)]

    def restore(self, records: Mapping[bytes, bytes | None]) -> Ints:
        """Take records of this store, as they follow those restored before; return the rows that they are of.

        Raises
        ------
        UnreadableError
            When a record is not of this store; nothing is changed then.
        """
        clock = records.get(self.name + _CLOCK_SLOT)
        if clock is not None:
            self.set_clock(clock)
        values = {key: value for key, value in records.items() if value is not None and not self.is_clock(key)}
        gone = [key for key, value in records.items() if value is None and not self.is_clock(key)]
        cleared = self._remove(gone)
        if not values:
            return cleared
        keys = [key[_HEAD_BYTES:] for key in values]
        try:
            rows = self._codes(keys)
        except (ValueError, TypeError) as error:  # msgspec's errors are ValueErrors
            raise UnreadableError(f"a key is not one of the window's ({error})") from error
        self.tiles.reserve_rows(self._index.capacity)
        self.codec.insert(rows, list(values.values()))
        return np.union1d(rows, cleared)

    def set_clock(self, value: bytes) -> None:
        """Take the newest tile of all operations as it was written; it never goes back."""
        if len(value) != 8:
            raise UnreadableError("a clock is not of 8 bytes")
        clock = struct.unpack("<q", value)[0]
        if clock > MOST_TILE:
            raise UnreadableError(f"no tile can be {clock}")
        self.tiles.clock = max(self.tiles.clock, clock)
        self._logged_clock = self.tiles.clock

    @staticmethod
    def is_clock(record: bytes) -> bool:
        """Whether a record's key is that of the clock."""
        return record[NAME_BYTES:_HEAD_BYTES] == _CLOCK_SLOT

    @staticmethod
    def key_of(record: bytes) -> bytes:
        """The encoded window key in a record's key."""
        return record[_HEAD_BYTES:]

    def _remove(self, keys: list[bytes]) -> Ints:
        """Drop the cells of slots that were cleared; return the rows that they are of."""
        codes = self._codes([key[_HEAD_BYTES:] for key in keys])
        self.tiles.reserve_rows(self._index.capacity)
        slots = np.array([int.from_bytes(key[NAME_BYTES:_HEAD_BYTES], "big") for key in keys], dtype=np.int64)
        if keys:
            self.tiles.remove(codes, slots)
        return np.unique(codes)

    def _codes(self, encoded: list[bytes]) -> Ints:
        return np.fromiter(map(self._index.add_encoded, encoded), dtype=np.int64, count=len(encoded))
