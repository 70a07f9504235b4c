"""What all partitions have added to the shared windows, and how far each has come: one board per process.

A tile is the sum of what each partition has added to it. Contributions are absolute: a later one of the same partition
(and piece) takes the place of the earlier, so that hearing one twice changes nothing. What may be forgotten, and who
may say so: docs/adr/0023.

Over 300 lines: tiles and the cursors that move over them change together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np

from app.core.batches import Ints
from app.core.intake.merge import BEGINNING_MS, END_MS
from app.core.records.shared import read_place, read_tile, read_times
from app.core.shared.plan import NAME_BYTES, SharedColumn, SharedPlan
from app.core.tiles.keys import KeyIndex
from schemas.refusal import RefusedRecordError
from schemas.wire import SharedTimes

TILE, TIMES = b"t", b"w"

#: In a tile record's key after the name of its store: tile, and number of the piece.
PLACE = struct.Struct(">qH")

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


class SharedBoard:
    """Tiles and times of all partitions.

    Parameters
    ----------
    partitions
        Those that may add something: no event is read before all of them have come far enough.
    """

    def __init__(self, plan: SharedPlan, partitions: Iterable[int]) -> None:
        self.plan = plan
        self.indexes = {key: KeyIndex() for key in plan.keys}
        self.added_ms = dict.fromkeys(partitions, BEGINNING_MS)
        self.scored_ms = dict.fromkeys(self.added_ms, BEGINNING_MS)
        self.low_ms = self.high_ms = BEGINNING_MS
        self._stores = [_Tiles() for _ in plan.stores]
        self._by_name = {store.name: number for number, store in enumerate(plan.stores)}
        self._swept_ms = BEGINNING_MS
        #: Tiles of a transaction whose times have not been heard yet.
        self._unheard: dict[int, list[tuple[int, int, int, tuple[list[Any], Ints] | None]]] = {}
        #: Partitions that are heard anew, with the last times that they have told.
        self._anew: dict[int, SharedTimes | None] = {}

    # -- times -------------------------------------------------------------------------------------------------------

    def come_to(self, partition: int, added_ms: int) -> None:
        """A partition has added all it ever will to the tiles that end at or before ``added_ms``."""
        if added_ms > self.added_ms[partition]:
            self.added_ms[partition] = added_ms
            self.low_ms, self.high_ms = min(self.added_ms.values()), max(self.added_ms.values())

    def score_to(self, partition: int, scored_ms: int) -> None:
        """A partition will score no event before ``scored_ms`` any more, whatever happens: that is committed."""
        self.scored_ms[partition] = scored_ms

    def _set_times(self, partition: int, times: SharedTimes) -> None:
        """Replace what a partition has told before; one whose state was lost goes back."""
        self.added_ms[partition], self.scored_ms[partition] = times.added_ms, times.scored_ms
        self.low_ms, self.high_ms = min(self.added_ms.values()), max(self.added_ms.values())

    # -- tiles -------------------------------------------------------------------------------------------------------

    def add(self, store: int, tile: int, partition: int, amounts: Amounts) -> None:
        """A partition's further contribution to a tile."""
        self._stores[store].add(tile, partition, amounts)

    def contribution(self, store: int, tile: int, partition: int) -> Amounts:
        """All that a partition has added to a tile."""
        places = self._stores[store].tiles.get(tile, {})
        return sum_amounts(
            [contribution.amounts() for (owner, _), contribution in places.items() if owner == partition]
        )

    def pieces(self, partition: int) -> dict[tuple[int, int], set[int]]:
        """Store and tile of a partition's contributions, with the numbers of their pieces."""
        return {
            (number, tile): {piece for owner, piece in places if owner == partition}
            for number, store in enumerate(self._stores)
            for tile, places in store.tiles.items()
            if any(owner == partition for owner, _ in places)
        }

    def new_cursor(self, column: SharedColumn) -> WindowCursor:
        """A reader of one shared window, at a time of its own."""
        store = self._stores[column.store]
        cursor = WindowCursor(column, store, self.indexes[self.plan.stores[column.store].key])
        store.cursors.add(cursor)
        return cursor

    def forget(self, partition: int) -> None:
        """Forget what a partition has added, and how far it had come."""
        for store in self._stores:
            for tile, places in list(store.tiles.items()):
                for place in [place for place in places if place[0] == partition]:
                    store.put(tile, place, None)
        self._unheard.pop(partition, None)
        self._set_times(partition, SharedTimes(BEGINNING_MS, BEGINNING_MS))

    # -- the topic ---------------------------------------------------------------------------------------------------

    def hear_anew(self, partition: int) -> None:
        """Forget a partition: it is heard from its first record on, and events wait until `caught_up`."""
        self.forget(partition)
        self._anew[partition] = None

    def is_anew(self, partition: int) -> bool:
        """Whether a partition is being heard anew."""
        return partition in self._anew

    def caught_up(self, partition: int) -> None:
        """All that the topic held when a partition began to be heard anew has been heard: its times count from now on.

        Not before: compaction leaves times whose tiles it has removed, because later records take their place.
        """
        times = self._anew.pop(partition)
        if times is not None:
            self._set_times(partition, times)

    def hear(self, partition: int, key: bytes | None, value: bytes | None, latest_ms: int = END_MS) -> None:
        """Take a record of the topic's partition: those of a transaction count when its last one, the times, is heard.

        Records of other features are passed over.

        Parameters
        ----------
        latest_ms
            How far a partition can have come.

        Raises
        ------
        RefusedRecordError
            When it is none of ours; nothing has been changed then.
        """
        if key is None:
            raise RefusedRecordError("bad_key", "It has no key.")
        if key == TIMES + self.plan.name and value is not None:
            times = read_times(value, latest_ms)
            for number, tile, piece, of in self._unheard.pop(partition, ()):
                self._stores[number].put(tile, (partition, piece), None if of is None else self._amounts(number, *of))
            if partition in self._anew:
                self._anew[partition] = times
            else:
                self._set_times(partition, times)
        elif key[:1] == TILE and (tiles := self._by_name.get(key[1 : 1 + NAME_BYTES])) is not None:
            store = self.plan.stores[tiles]
            tile, piece = read_place(key[1 + NAME_BYTES :], PLACE, store.hop_ms)
            of = None if value is None else read_tile(value, len(store.key))
            self._unheard.setdefault(partition, []).append((tiles, tile, piece, of))
        elif key[:1] not in {TILE, TIMES} and value is not None:
            raise RefusedRecordError("bad_key", f"No record of this topic has the key {key[:40]!r}.")

    def _amounts(self, store: int, keys: list[Any], values: Ints) -> Amounts:
        add = self.indexes[self.plan.stores[store].key].add
        return Amounts.add_up(np.array(list(map(add, keys)), dtype=np.int64), values)

    # -- what nobody reads any more ----------------------------------------------------------------------------------

    @property
    def floor_ms(self) -> int:
        """What ended at or before this time has no reader left."""
        return min(self.scored_ms.values()) - self.plan.reach_ms

    def sweep(self) -> None:
        """Forget tiles without a reader, and keys without a tile, now and then."""
        floor_ms = self.floor_ms
        if floor_ms - self._swept_ms < self.plan.reach_ms // 16:
            return
        self._swept_ms = floor_ms
        for spec, store in zip(self.plan.stores, self._stores, strict=True):
            store.drop_before(floor_ms // spec.hop_ms)
        for key, index in self.indexes.items():
            used = [np.zeros(0, dtype=np.int64)]
            for spec, store in zip(self.plan.stores, self._stores, strict=True):
                if spec.key == key:
                    used += [
                        contribution.amounts().codes
                        for places in store.tiles.values()
                        for contribution in places.values()
                    ]
            for code in np.setdiff1d(index.in_use(), np.concatenate(used)).tolist():
                index.remove(code)


_NOBODY: dict[_Place, _Contribution] = {}


class _Tiles:
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

    def __init__(self, column: SharedColumn, store: _Tiles, index: KeyIndex) -> None:
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
