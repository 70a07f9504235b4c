"""When each value of a field was last seen with a key: what makes a distinct count a sum over tiles.

A value counts in the tile in which it was seen last. When it is seen again, that tile has one less and the newer one
has one more; so the values seen since a tile are a sum, exact and in the order of the updates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Column, Ints
from app.core.tiles.cells import NEVER, Cells, TileCells
from app.core.tiles.hash_runs import hash64

#: In place of a hash: the update has no value.
NO_VALUE = 0

_MOST_REMEMBERED = 100_000


class Hasher:
    """Values as 64-bit numbers that are the same in every process: numbers one to one, texts by BLAKE2b."""

    def __init__(self) -> None:
        self._known: dict[str | None, int] = {None: NO_VALUE}

    def hash(self, column: Column) -> Ints:
        """One number per row, `NO_VALUE` for what is missing."""
        if column.dtype != object:
            bits = (column.astype(np.float64) + 0.0).view(np.int64)
            # 0.0 has no bit set: what no number has (the lowest NaN) stands for it.
            numbers: Ints = np.where(np.isfinite(column), np.where(bits == NO_VALUE, -1, bits), NO_VALUE)
            return numbers
        known = self._known
        values = column.tolist()
        try:
            return np.array([known[value] for value in values], dtype=np.int64)
        except KeyError:
            if len(known) > _MOST_REMEMBERED:
                known.clear()
                known[None] = NO_VALUE
            known.update({value: _hash_text(value) for value in set(values) if value not in known})
            return np.array([known[value] for value in values], dtype=np.int64)


def _hash_text(value: str) -> int:
    return hash64(value.encode()) or 1


class Sighted(NamedTuple):
    """What sightings add: rows (ascending), hashes (ascending and once in each), and by how much their tile grows."""

    rows: Ints
    hashes: Ints
    gains: Ints


class Sightings:
    """Per row, the values seen and the tile in which each was seen last."""

    def __init__(self) -> None:
        self._cells = TileCells(sums=1, maxima=0, carried=0, ring=None)  # "tiles" are hashes, the sum is the last tile

    @property
    def state_bytes(self) -> int:
        """Memory of the arrays."""
        return self._cells.state_bytes

    def reserve_rows(self, rows: int) -> None:
        self._cells.reserve_rows(rows)

    def look(self, rows: Ints, hashes: Ints, tiles: Ints) -> tuple[Ints, Sighted]:
        """What it would be to see values, in order; nothing changes.

        Returns
        -------
        Per sighting, the tile in which its value had been seen last before it (NEVER for a new one); and what `note`
        takes, once they are seen.
        """
        order = np.lexsort((hashes, rows))  # stable: in order within a row and value
        row, value, tile = rows[order], hashes[order], tiles[order]
        is_first = np.concatenate(([True], (row[1:] != row[:-1]) | (value[1:] != value[:-1])))
        first = np.flatnonzero(is_first)
        rank = np.cumsum(is_first) - 1
        known, places = self._cells.has(row[first], value[first])
        stored = np.full(len(first), NEVER)
        if known.any():
            stored[known] = self._cells.read_at(row[first][known], places[known]).sums[:, 0]
        # A running maximum of each value's tiles: the lowest is lifted to the highest of the value before.
        lift = rank * (int(tile.max()) - int(tile.min()))
        newest = np.maximum.accumulate(tile + lift) - lift
        previous = np.empty_like(newest)
        previous[1:] = newest[:-1]
        previous[first] = NEVER
        previous = np.maximum(previous, stored[rank])
        last = np.maximum(stored, newest[np.append(first[1:], len(row)) - 1])
        seen: Ints = np.empty_like(previous)
        seen[order] = previous
        return seen, Sighted(row[first], value[first], last - np.where(known, stored, 0))

    def note(self, sighted: Sighted) -> None:
        """Values were seen, as `look` said."""
        distinct, group = np.unique(sighted.rows, return_inverse=True)
        none = np.zeros((len(sighted.rows), 0), dtype=np.int64)
        self._cells.add(distinct, Cells(group, sighted.hashes, sighted.gains[:, None], none, none))

    def restore(self, rows: Ints, hashes: Ints, tiles: Ints) -> None:
        """Take sightings as they were written; of a value that is there twice, the later tile counts."""
        if len(rows):
            self.note(self.look(rows, hashes, tiles)[1])

    def read(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Position in ``rows``, last tile and hash of each value, by row and tile."""
        cells = self._cells.read(rows)
        order = np.lexsort((cells.sums[:, 0], cells.group))
        return cells.group[order], cells.sums[order, 0], cells.tiles[order]

    def keep(self, rows: Ints, chosen: Callable[[Ints, Ints], NDArray[np.bool_]]) -> None:
        """Forget the values of rows that are not chosen by position in ``rows`` and last tile."""
        cells = self._cells.read(rows)
        keep = chosen(cells.group, cells.sums[:, 0])
        if not keep.all():
            self._cells.clear(rows)
            self.note(Sighted(rows[cells.group[keep]], cells.tiles[keep], cells.sums[keep, 0]))

    def clear(self, rows: Ints) -> None:
        self._cells.clear(rows)
