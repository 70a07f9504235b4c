"""The cells of a tile store as bytes: values of a changelog's records, and whole rows for a store on disk.

A cell is a run of little-endian int64: its tile, its sums, its maxima, what these carry, and per distinct count the
hashes of the values that were seen last in it (as many as the count says). A row is its cells, one after the other,
oldest first.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from app.core.batches import Ints
from app.core.records.columns import MOST_TILE
from app.core.tiles.cells import Cells
from app.core.tiles.store import TileStore


class UnreadableError(ValueError):
    """Bytes that are not cells of the store."""


class TileCodec:
    """Encodes and decodes what one store keeps."""

    def __init__(self, store: TileStore) -> None:
        layout = store.layout
        self._store = store
        self._sums = 1 + len(layout.sums)
        self._maxima = self._sums + len(layout.maxima)
        self._width = self._maxima + layout.carried
        self._distinct = [column for column, _ in layout.distinct]

    def encode_cells(self, rows: Ints, places: Ints) -> list[bytes]:
        """Single cells of rows."""
        cells = self._store.cells.read_at(rows, places)
        return self._slices(*self._encode(rows, cells))

    def encode_rows(self, rows: Ints) -> list[bytes]:
        """All cells of each row (each row once); b"" for an empty one."""
        cells = self._store.cells.read(rows)
        packed, ends = self._encode(rows[cells.group], cells)
        last = np.searchsorted(cells.group, np.arange(len(rows)), side="right")
        return self._slices(packed, np.concatenate(([0], ends))[last])

    def _encode(self, rows: Ints, cells: Cells) -> tuple[bytes, Ints]:
        matrix = np.concatenate((cells.tiles[:, None], cells.sums, cells.maxima, cells.carried), axis=1)
        lists = [self._hashes(place, rows, cells.tiles) for place in range(len(self._distinct))]
        if not lists:
            return matrix.astype("<i8", copy=False).tobytes(), 8 * self._width * np.arange(1, len(matrix) + 1)
        for column, (counts, _) in zip(self._distinct, lists, strict=True):
            matrix[:, 1 + column] = counts
        lengths = self._width + sum((counts for counts, _ in lists), np.zeros(len(matrix), dtype=np.int64))
        ends = np.cumsum(lengths)
        flat = np.empty(int(ends[-1]) if len(ends) else 0, dtype="<i8")
        at = ends - lengths
        flat[at[:, None] + np.arange(self._width)] = matrix
        at = at + self._width
        for counts, hashes in lists:
            flat[np.repeat(at, counts) + _steps(counts)] = hashes
            at = at + counts
        return flat.tobytes(), 8 * ends

    def _hashes(self, place: int, rows: Ints, tiles: Ints) -> tuple[Ints, Ints]:
        """How many values were seen last in each cell, and their hashes."""
        distinct, group = np.unique(rows, return_inverse=True)
        owner, last, hashes = self._store.sightings[place].read(distinct)
        low = int(min(last.min(initial=0), tiles.min(initial=0)))
        width = int(max(last.max(initial=0), tiles.max(initial=0))) - low + 2
        places, wanted = owner * width + (last - low), group * width + (tiles - low)
        first = np.searchsorted(places, wanted)
        counts = np.searchsorted(places, wanted, side="right") - first
        return counts, hashes[np.repeat(first, counts) + _steps(counts)]

    @staticmethod
    def _slices(packed: bytes, ends: Ints) -> list[bytes]:
        return [packed[start:stop] for start, stop in pairwise([0, *ends.tolist()])]

    # -- back --------------------------------------------------------------------------------------------------------

    def tiles_of(self, row: bytes) -> list[int]:
        """The tiles of an encoded row."""
        tiles: list[int] = self._decode([row])[0][:, 0].tolist()
        return tiles

    def newest_of(self, row: bytes) -> int:
        """The newest tile of an encoded row."""
        return (
            max(self.tiles_of(row)) if self._distinct else struct.unpack_from("<q", row, len(row) - 8 * self._width)[0]
        )

    def insert(self, rows: Ints, values: Sequence[bytes]) -> None:
        """Put encoded cells (any number of each row, a tile of a row once) over what rows have of those tiles.

        Raises
        ------
        UnreadableError
            When the bytes are not cells of this store; nothing is changed then.
        """
        matrix, of_value, lists = self._decode(values)
        if len(matrix) and max(abs(int(matrix[:, 0].min())), abs(int(matrix[:, 0].max()))) > MOST_TILE:
            raise UnreadableError("a cell is of a tile that cannot be")
        row = rows[of_value]
        store = self._store
        order = np.lexsort((matrix[:, 0], row))
        row, matrix = row[order], matrix[order]
        distinct, group = np.unique(row, return_inverse=True)
        sums = matrix[:, 1 : self._sums].copy()
        there, places = store.cells.has(row, matrix[:, 0])
        if there.any():
            sums[there] -= store.cells.read_at(row[there], places[there]).sums
        more = Cells(
            group, matrix[:, 0], sums, matrix[:, self._sums : self._maxima], matrix[:, self._maxima : self._width]
        )
        for place, (cells, hashes) in enumerate(lists):
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            at = back[cells]
            store.sightings[place].restore(row[at], hashes, matrix[at, 0])
        store.insert(distinct, more)

    def _decode(self, values: Sequence[bytes]) -> tuple[Ints, Ints, list[tuple[Ints, Ints]]]:
        """Cells x width; the value that each is from; per distinct count, cell and hash of each value seen."""
        packed = b"".join(values)
        width = 8 * self._width
        if not self._distinct:
            lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
            if (lengths % width).any() or not lengths.all():
                raise UnreadableError(f"a value is not made of cells of {width} bytes")
            matrix = np.frombuffer(packed, dtype="<i8").reshape(-1, self._width).astype(np.int64)
            return matrix, np.repeat(np.arange(len(values)), lengths // width), []
        if len(packed) % 8:
            raise UnreadableError("a value is not made of words of 8 bytes")
        flat = np.frombuffer(packed, dtype="<i8").astype(np.int64)
        starts, of_value = self._walk(flat, values)
        at = np.array(starts, dtype=np.int64)
        matrix = flat[at[:, None] + np.arange(self._width)]
        at = at + self._width
        lists = []
        for column in self._distinct:
            counts = matrix[:, 1 + column]
            lists.append((np.repeat(np.arange(len(at)), counts), flat[np.repeat(at, counts) + _steps(counts)]))
            at = at + counts
        return matrix, np.array(of_value, dtype=np.int64), lists

    def _walk(self, flat: Ints, values: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Where cells of different lengths begin, and the value that each is from."""
        words = flat.tolist()
        starts: list[int] = []
        of_value: list[int] = []
        at = stop = 0
        for number, value in enumerate(values):
            stop += len(value) // 8
            while at < stop:
                starts.append(at)
                of_value.append(number)
                counts = [words[at + 1 + column] for column in self._distinct] if at + self._width <= stop else [-1]
                at += self._width + sum(counts)
                if min(counts) < 0 or at > stop:
                    raise UnreadableError("a value ends within a cell")
            if len(value) % 8 or not value:
                raise UnreadableError("a value is not made of cells")
        return starts, of_value


def _steps(counts: Ints) -> Ints:
    """0, 1, … in each run; ``counts``: how long the runs are."""
    steps: Ints = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return steps
