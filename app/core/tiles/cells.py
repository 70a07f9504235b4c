"""Cells of tiles, many rows in one heap: what a key keeps costs what it has, not what its largest window could hold.

A row is a chunk of consecutive cells in the order of their tiles, with room for a few more. Of a sum, a cell holds what
came before it, so that any range of tiles is one subtraction; differences are exact though the running sums wrap
around. Of a maximum, a row is a tree: leaves in their order, and above each pair its larger one.

Rows are written in place where tiles come in order; a row that overflows, or takes a tile in between, is written anew
without the cells that no window reaches any more.

Over 350 lines: everything that knows how cells lie in the heap, and nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints

#: Older than any tile, and far enough from the end of int64 to subtract from.
NEVER = -(2**61)
#: The maximum of nothing.
EMPTY = int(np.iinfo(np.int64).min)

_ROOMS = np.array(sorted({size for k in range(40) for size in (2**k, 3 * 2**k // 2)}), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells with their own values: ``group`` (ascending) numbers their rows, and tiles ascend within each group.

    ``sums`` is n x sums, ``maxima`` n x maxima, ``carried`` n x carried (what belongs to a maximum of the same column).
    """

    group: Ints
    tiles: Ints
    sums: Ints
    maxima: Ints
    carried: Ints

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, which: NDArray[np.bool_] | Ints) -> Cells:
        return Cells(self.group[which], self.tiles[which], self.sums[which], self.maxima[which], self.carried[which])


class TileCells:
    """The cells of one store.

    Parameters
    ----------
    sums, maxima, carried
        Columns of each kind; the first ``carried`` maxima carry a value along.
    ring
        Cells whose tile is this much older than their row's newest may be dropped; None: none may.
    """

    def __init__(self, sums: int, maxima: int, carried: int, ring: int | None) -> None:
        self._ring = ring
        self._starts = np.zeros(0, dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.int32)
        self._rooms = np.zeros(0, dtype=np.int32)
        self._totals = np.zeros((0, sums), dtype=np.int64)
        self._tiles = np.zeros(0, dtype=np.int64)
        self._before = np.zeros((0, sums), dtype=np.int64)
        self._maxima = np.zeros((0, maxima), dtype=np.int64)
        self._carried = np.zeros((0, carried), dtype=np.int64)
        self._nodes = np.zeros((0, maxima), dtype=np.int64)
        self._end = 0
        self._free: dict[int, list[int]] = {}
        self._extend(64)

    @property
    def state_bytes(self) -> int:
        """Memory of the arrays."""
        rows = self._starts.nbytes + self._lengths.nbytes + self._rooms.nbytes + self._totals.nbytes
        return rows + sum(array.nbytes for array in self._heap())

    def _heap(self) -> tuple[Ints, ...]:
        return self._tiles, self._before, self._maxima, self._carried, self._nodes

    def reserve_rows(self, rows: int) -> None:
        """Have at least this many rows; new ones are empty."""
        missing = rows - len(self._starts)
        if missing > 0:
            size = len(self._starts) + max(missing, len(self._starts) // 8, 16)
            for array in (self._starts, self._lengths, self._rooms, self._totals):
                _resize(array, size)

    # -- reading -----------------------------------------------------------------------------------------------------

    def newest(self, rows: Ints) -> Ints:
        """Tile of each row's last cell; NEVER for an empty row."""
        lengths = self._lengths[rows]
        last = self._tiles[np.maximum(self._starts[rows] + lengths - 1, 0)]
        return np.where(lengths > 0, last, NEVER)

    def count_upto(self, rows: Ints, bounds: Ints) -> Ints:
        """How many cells of each row have a tile up to the bound; ``bounds``: (any number of) x rows."""
        lengths = self._lengths[rows]
        counts = np.zeros(bounds.shape, dtype=np.int64)
        before = self._starts[rows] - 1
        step = 1 << int(lengths.max(initial=0)).bit_length() >> 1
        while step:
            further = np.minimum(counts + step, lengths)
            tiles = self._tiles.take(before + further, mode="clip")  # -1: of an empty row, whose count stays 0
            np.copyto(counts, further, where=(tiles <= bounds) & (further > counts))
            step >>= 1
        return counts

    def sums_before(self, rows: Ints, places: Ints) -> Ints:
        """Running sums up to a place of each row (a result of `count_upto`), x sums."""
        sums: Ints = self._before.take(self._starts[rows] + places, axis=0, mode="clip")
        is_end = places >= self._lengths[rows]
        sums[is_end] = self._totals[np.broadcast_to(rows, places.shape)[is_end]]
        return sums

    def totals(self, rows: Ints) -> Ints:
        """Running sums up to the end of each row."""
        totals: Ints = self._totals[rows]
        return totals

    def largest(self, rows: Ints, low: Ints, high: Ints, column: int) -> Ints:
        """The maximum of a column over the places low … high - 1 of each row; EMPTY where there are none."""
        largest = np.full(len(rows), EMPTY, dtype=np.int64)
        start, room = self._starts[rows], self._rooms[rows]
        low, high = low + room, high + room
        at = np.flatnonzero(low < high)
        while len(at):
            left = at[low[at] & 1 == 1]
            largest[left] = np.maximum(largest[left], self._node(start[left], room[left], low[left], column))
            low[left] += 1
            right = at[high[at] & 1 == 1]
            high[right] -= 1
            largest[right] = np.maximum(largest[right], self._node(start[right], room[right], high[right], column))
            low[at] >>= 1
            high[at] >>= 1
            at = at[low[at] < high[at]]
        return largest

    def _node(self, start: Ints, room: Ints, node: Ints, column: int) -> Ints:
        is_leaf = node >= room
        leaf = self._maxima[start + np.where(is_leaf, node - room, 0), column]
        largest: Ints = np.where(is_leaf, leaf, self._nodes[start + np.where(is_leaf, 0, node), column])
        return largest

    def carried_at(self, rows: Ints, places: Ints, column: int) -> Ints:
        """What the maximum of one cell carries."""
        carried: Ints = self._carried[self._starts[rows] + places, column]
        return carried

    def tiles_at(self, rows: Ints, places: Ints) -> Ints:
        """Tiles of single cells, which must be there."""
        tiles: Ints = self._tiles[self._starts[rows] + places]
        return tiles

    def has(self, rows: Ints, tiles: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Whether each row has a cell of the tile, and its place."""
        places = self.count_upto(rows, tiles) - 1
        there = places >= 0
        there[there] = self.tiles_at(rows[there], places[there]) == tiles[there]
        return there, places

    def read(self, rows: Ints) -> Cells:
        """All cells of rows; ``group`` is the position in ``rows``."""
        lengths = self._lengths[rows].astype(np.int64)
        group = np.repeat(np.arange(len(rows)), lengths)
        ends = np.cumsum(lengths)
        place = np.arange(len(group)) - np.repeat(ends - lengths, lengths)
        at = np.repeat(self._starts[rows], lengths) + place
        before = self._before[at]
        sums = np.empty_like(before)
        sums[:-1] = before[1:] - before[:-1]
        last = ends[lengths > 0] - 1
        sums[last] = self._totals[rows[lengths > 0]] - before[last]
        return Cells(group, self._tiles[at], sums, self._maxima[at], self._carried[at])

    def read_at(self, rows: Ints, places: Ints) -> Cells:
        """Single cells; ``group`` is their position."""
        at = self._starts[rows] + places
        sums = self.sums_before(rows, places + 1) - self._before[at]
        return Cells(np.arange(len(rows)), self._tiles[at], sums, self._maxima[at], self._carried[at])

    # -- writing -----------------------------------------------------------------------------------------------------

    def add(self, rows: Ints, more: Cells) -> tuple[Ints, Ints]:
        """Merge cells into rows (of which none appears twice).

        Returns
        -------
        Row and tile of the cells that were dropped as too old.
        """
        row = rows[more.group]
        there, places = self.has(row, more.tiles)
        if there.any():
            self._add_to(row[there], places[there], more.take(there))
        if there.all():
            return _NOTHING, _NOTHING
        new = more.take(~there)
        fits = np.ones(len(rows), dtype=bool)
        fits[new.group[new.tiles < self.newest(rows[new.group])]] = False
        wanted = np.bincount(new.group, minlength=len(rows))
        fits &= self._lengths[rows] + wanted <= self._rooms[rows]
        in_order = fits[new.group]
        if in_order.any():
            self._append(rows, new.take(in_order))
        if in_order.all():
            return _NOTHING, _NOTHING
        return self._rewrite(rows, new.take(~in_order))

    def _add_to(self, rows: Ints, places: Ints, more: Cells) -> None:
        starts = self._starts[rows]
        after = self._lengths[rows] - places - 1
        if after.any():
            of_row = np.repeat(np.arange(len(rows)), after)
            step = np.arange(len(of_row)) - np.repeat(np.cumsum(after) - after, after)
            np.add.at(self._before, (starts + places + 1)[of_row] + step, more.sums[of_row])
        first = _firsts(rows)
        self._totals[rows[first]] += np.add.reduceat(more.sums, first, axis=0)
        at = starts + places
        for column in range(more.carried.shape[1]):
            newer = more.maxima[:, column] >= self._maxima[at, column]
            self._carried[at[newer], column] = more.carried[newer, column]
        if more.maxima.shape[1]:
            self._maxima[at] = np.maximum(self._maxima[at], more.maxima)
            self._climb(starts, self._rooms[rows], places, more.maxima)

    def _append(self, rows: Ints, more: Cells) -> None:
        row = rows[more.group]
        first = _firsts(more.group)
        counts = np.diff(np.append(first, len(more)))
        nth = np.arange(len(more)) - np.repeat(first, counts)
        places = self._lengths[row] + nth
        at = self._starts[row] + places
        self._tiles[at] = more.tiles
        if len(first) == len(more):
            self._before[at] = self._totals[row]
        else:
            running = _running(more.sums)
            self._before[at] = self._totals[row] + running[:-1] - np.repeat(running[first], counts, axis=0)
        self._totals[row[first]] += np.add.reduceat(more.sums, first, axis=0)
        self._carried[at] = more.carried
        self._lengths[row[first]] += counts.astype(np.int32)
        if more.maxima.shape[1]:
            self._maxima[at] = more.maxima
            self._climb(self._starts[row], self._rooms[row], places, more.maxima)

    def _rewrite(self, rows: Ints, more: Cells) -> tuple[Ints, Ints]:
        """Write the rows of ``more`` anew, with its cells (none of which is there) and without those too old."""
        ranks, group = np.unique(more.group, return_inverse=True)
        rows = rows[ranks]
        kept = self.read(rows)
        if len(kept):
            group = np.concatenate((kept.group, group))
            tiles = np.concatenate((kept.tiles, more.tiles))
            order = np.lexsort((tiles, group))
            merged = Cells(
                group[order],
                tiles[order],
                np.concatenate((kept.sums, more.sums))[order],
                np.concatenate((kept.maxima, more.maxima))[order],
                np.concatenate((kept.carried, more.carried))[order],
            )
        else:
            merged = Cells(group, more.tiles, more.sums, more.maxima, more.carried)
        dropped = _NOTHING, _NOTHING
        if self._ring is not None:
            last = np.append(merged.group[1:] != merged.group[:-1], True)
            is_old = merged.tiles <= merged.tiles[last][merged.group] - self._ring
            if is_old.any():
                dropped = rows[merged.group[is_old]], merged.tiles[is_old]
                merged = merged.take(~is_old)
        lengths = np.bincount(merged.group, minlength=len(rows))
        self._make_room(rows, lengths)
        first = np.cumsum(lengths) - lengths
        place = np.arange(len(merged)) - np.repeat(first, lengths)
        starts, rooms = self._starts[rows], self._rooms[rows]
        at = starts[merged.group] + place
        running = _running(merged.sums)
        self._tiles[at] = merged.tiles
        self._before[at] = running[:-1] - np.repeat(running[first], lengths, axis=0)
        self._totals[rows] = running[first + lengths] - running[first]
        self._lengths[rows] = lengths
        self._carried[at] = merged.carried
        if merged.maxima.shape[1]:
            every = np.repeat(starts, rooms) + np.arange(int(rooms.sum()))
            every -= np.repeat(np.cumsum(rooms, dtype=np.int64) - rooms, rooms)
            self._nodes[every] = EMPTY
            self._maxima[at] = merged.maxima
            self._climb(starts[merged.group], rooms[merged.group], place, merged.maxima)
        return dropped

    def clear(self, rows: Ints) -> None:
        """Empty rows and take back their room."""
        for start, room in zip(self._starts[rows].tolist(), self._rooms[rows].tolist(), strict=True):
            if room:
                self._free.setdefault(room, []).append(start)
        self._lengths[rows] = 0
        self._rooms[rows] = 0
        self._totals[rows] = 0
        self._starts[rows] = 0

    def _climb(self, starts: Ints, rooms: NDArray[np.int32], places: Ints, maxima: Ints) -> None:
        """Raise the nodes above leaves to at least their maxima."""
        node = (rooms.astype(np.int64) + places) >> 1
        while len(node):
            up = node > 0
            starts, node, maxima = starts[up], node[up], maxima[up]
            np.maximum.at(self._nodes, starts + node, maxima)
            node >>= 1

    def _make_room(self, rows: Ints, lengths: Ints) -> None:
        """Give new chunks to rows that lack room for their ``lengths`` in cells; their old ones are taken back."""
        small = np.flatnonzero(lengths > self._rooms[rows])
        if not len(small):
            return
        rows, wanted = rows[small], lengths[small]
        for start, room in zip(self._starts[rows].tolist(), self._rooms[rows].tolist(), strict=True):
            if room:
                self._free.setdefault(room, []).append(start)
        # A quarter more than needed: the cost of moving a row is spread over the cells that come until it moves again.
        rooms = _ROOMS[np.searchsorted(_ROOMS, wanted + wanted // 4)]
        starts = np.empty(len(rows), dtype=np.int64)
        for room in np.unique(rooms).tolist():
            which = np.flatnonzero(rooms == room)
            free = self._free.get(room, [])
            reused = min(len(free), len(which))
            if reused:
                starts[which[:reused]] = free[-reused:]
                del free[-reused:]
            fresh = which[reused:]
            starts[fresh] = self._end + room * np.arange(len(fresh))
            self._end += room * len(fresh)
        self._starts[rows] = starts
        self._rooms[rows] = rooms
        if self._end > len(self._tiles):
            self._extend(max(self._end, len(self._tiles) * 9 // 8))

    def _extend(self, size: int) -> None:
        for array in self._heap():
            _resize(array, size)


def _resize(array: NDArray[np.generic], size: int) -> None:
    """More rows at the end, zero, without a second copy of the array (the allocator moves pages, not bytes)."""
    array.resize((size, *array.shape[1:]), refcheck=False)


def _firsts(group: Ints) -> Ints:
    """Where a new group begins."""
    return np.flatnonzero(np.concatenate(([True], group[1:] != group[:-1])))


def _running(values: Ints) -> Ints:
    """Running sums of columns, with a leading row of zeros."""
    sums = np.zeros((len(values) + 1, values.shape[1]), dtype=np.int64)
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


_NOTHING = np.zeros(0, dtype=np.int64)
