"""What all partitions have added to the shared windows, and how far each has come: one board per process.

A tile is the sum of what each partition has added to it. Contributions are absolute: a later one of the same partition
(and piece) takes the place of the earlier, so that hearing one twice changes nothing. What may be forgotten, and who
may say so: docs/adr/0023.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from app.core.batches import Ints
from app.core.intake.merge import BEGINNING_MS, END_MS
from app.core.records.shared import read_place, read_tile, read_times
from app.core.shared.plan import NAME_BYTES, SharedColumn, SharedPlan
from app.core.shared.totals import Amounts, StoreTiles, WindowCursor, sum_amounts
from app.core.tiles.keys import KeyIndex
from schemas.refusal import RefusedRecordError
from schemas.wire import SharedTimes

TILE, TIMES = b"t", b"w"

#: In a tile record's key after the name of its store: tile, and number of the piece.
PLACE = struct.Struct(">qH")


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
        self._stores = [StoreTiles() for _ in plan.stores]
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
