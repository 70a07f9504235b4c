"""What partitions have added to the tiles of one store, and cursors that read windows of them."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakSet

import numpy as np

from app.core.batches import Ints
from app.core.shared.plan import SharedColumn
from app.core.tiles.keys import KeyIndex

#: Before any tile, and far enough from the end of int64 to subtract from.
_NEVER = -(2**61)
#: Parts of a contribution that are merged when there are more.
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Amounts:
    """Counts (row 0) and fixed-point sums (row 1) of keys, by ascending code."""

    codes: Ints
    values: Ints

    @classmethod
    def none(cls) -> Amounts:
        return cls(np.zeros(0, dtype=np.int64), np.zeros((2, 0), dtype=np.int64))

    @classmethod
    def add_up(cls, codes: Ints, values: Ints) -> Amounts:
        """One column for each code; ``values`` [2 x n] has one for each entry of ``codes``."""
        if not len(codes):
            return cls(codes, values)
        order = np.argsort(codes, kind="stable")
        sorted_codes = codes[order]
        first = np.flatnonzero(np.concatenate(([True], sorted_codes[1:] != sorted_codes[:-1])))
        return cls(sorted_codes[first], np.add.reduceat(values[:, order], first, axis=1))


def sum_amounts(parts: list[Amounts]) -> Amounts:
    """All parts together."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Amounts.none()
    return Amounts.add_up(
        np.concatenate([part.codes for part in parts]), np.concatenate([part.values for part in parts], axis=1)
    )


class _Contribution:
    """What one partition has added to one tile (or a piece of it, as read from the topic)."""

    __slots__ = ("_parts",)

    def __init__(self, *parts: Amounts) -> None:
        self._parts = list(parts)

    def add(self, amounts: Amounts) -> None:
        self._parts.append(amounts)
        if len(self._parts) > _PARTS:
            self._parts = [sum_amounts(self._parts)]

    def amounts(self) -> Amounts:
        if len(self._parts) > 1:
            self._parts = [sum_amounts(self._parts)]
        return self._parts[0]


#: Partition and number of the piece.
_Place = tuple[int, int]

_NOBODY: dict[_Place, _Contribution] = {}


class StoreTiles:
    """The tiles of one store, and the cursors over them."""

    def __init__(self) -> None:
        self.tiles: dict[int, dict[_Place, _Contribution]] = {}
        self.cursors: WeakSet[WindowCursor] = WeakSet()
        self.newest_read = _NEVER

    def add(self, tile: int, partition: int, amounts: Amounts) -> None:
        places = self.tiles.setdefault(tile, {})
        contribution = places.get((partition, 0))
        if contribution is None:
            places[partition, 0] = _Contribution(amounts)
        else:
            contribution.add(amounts)
        self._changed(tile, amounts)

    def put(self, tile: int, place: _Place, amounts: Amounts | None) -> None:
        places = self.tiles.setdefault(tile, {})
        old = places.pop(place, None)
        if old is not None:
            gone = old.amounts()
            self._changed(tile, Amounts(gone.codes, -gone.values))
        if amounts is not None:
            places[place] = _Contribution(amounts)
            self._changed(tile, amounts)
        if not places:
            del self.tiles[tile]

    def amounts(self, tile: int) -> list[Amounts]:
        """What each has added to a tile."""
        return [contribution.amounts() for contribution in self.tiles.get(tile, _NOBODY).values()]

    def between(self, above: int, up_to: int) -> list[int]:
        """The tiles that hold something, above < tile <= up_to."""
        if up_to - above > len(self.tiles):
            return [tile for tile in self.tiles if above < tile <= up_to]
        return [tile for tile in range(above + 1, up_to + 1) if tile in self.tiles]

    def drop_before(self, tile: int) -> None:
        for old in [number for number in self.tiles if number < tile]:
            del self.tiles[old]
        for cursor in self.cursors:
            cursor.forget_before(tile)

    def _changed(self, tile: int, by: Amounts) -> None:
        if tile <= self.newest_read:
            for cursor in self.cursors:
                cursor.amend(tile, by)


class WindowCursor:
    """The sums of one window over all keys, at the newest tile read so far: moved on, never computed anew."""

    def __init__(self, column: SharedColumn, store: StoreTiles, index: KeyIndex) -> None:
        self._column = column
        self._store = store
        self._index = index
        self._newest = _NEVER
        self._sums: Ints = np.zeros((2, 16), dtype=np.int64)

    def read(self, codes: Ints, times_ms: Ints) -> Ints:
        """Counts and sums [2 x n] of keys (negative: unknown) for events of effective times, which never go back."""
        if not len(codes):
            return np.zeros((2, 0), dtype=np.int64)
        self._grow()
        newest = self._column.newest_tiles(times_ms)
        self._move_to(int(newest[0]))
        known = np.maximum(codes, 0)
        sums = self._sums[:, known]
        if newest[-1] > newest[0]:
            sums += self._move_through(known, newest)
        sums[:, codes < 0] = 0
        return sums

    def amend(self, tile: int, by: Amounts) -> None:
        """Something was added to a tile that this window may hold already."""
        if self._newest - self._column.tiles < tile <= self._newest:
            self._grow()
            self._sums[:, by.codes] += by.values

    def forget_before(self, tile: int) -> None:
        """Tiles are gone; a window that holds one of them begins anew at its next read."""
        if self._newest - self._column.tiles < tile:
            self._newest = _NEVER

    def _move_to(self, newest: int) -> None:
        """Make the sums those of the window that ends with tile ``newest``."""
        size, at = self._column.tiles, self._newest
        if newest - at > size:
            self._sums[:] = 0
            at = newest - size
        else:
            self._add(self._store.between(at - size, newest - size), -1)
        self._add(self._store.between(at, newest), 1)
        self._newest = max(newest, self._newest)
        self._store.newest_read = max(self._store.newest_read, newest)

    def _add(self, tiles: list[int], sign: int) -> None:
        for tile in tiles:
            for amounts in self._store.amounts(tile):
                self._sums[:, amounts.codes] += sign * amounts.values

    def _move_through(self, codes: Ints, newest: Ints) -> Ints:
        """Move from the first event's window to the last one's; return what each one has more than the first.

        At once for all events: a tile comes with the first that sees it, and goes with the first that no longer does.
        """
        first, last, size = int(newest[0]), int(newest[-1]), self._column.tiles
        moves = [(tile, tile, 1) for tile in self._store.between(first, last)]
        moves += [(tile, tile + size, -1) for tile in self._store.between(first - size, last - size)]
        parts = [
            (at, amounts.codes, sign * amounts.values)
            for tile, at, sign in moves
            for amounts in self._store.amounts(tile)
        ]
        self._newest = last
        self._store.newest_read = max(self._store.newest_read, last)
        if not parts:
            return np.zeros((2, len(codes)), dtype=np.int64)
        moved = np.concatenate([part for _, part, _ in parts])
        values = np.concatenate([part for _, _, part in parts], axis=1)
        steps = np.unique(newest)
        at = np.repeat(np.searchsorted(steps, [at for at, _, _ in parts]), [len(part) for _, part, _ in parts])
        width = len(steps)
        places = moved * width + at
        order = np.argsort(places, kind="stable")
        running = np.zeros((2, len(order) + 1), dtype=np.int64)
        np.cumsum(values[:, order], axis=1, out=running[:, 1:])
        ends = np.searchsorted(places[order], codes * width + np.searchsorted(steps, newest), side="right")
        more = running[:, ends] - running[:, np.searchsorted(places[order], codes * width)]
        total = Amounts.add_up(moved, values)
        self._sums[:, total.codes] += total.values
        return more

    def _grow(self) -> None:
        missing = self._index.capacity - self._sums.shape[1]
        if missing > 0:
            more = max(missing, self._sums.shape[1])
            self._sums = np.concatenate((self._sums, np.zeros((2, more), dtype=np.int64)), axis=1)
