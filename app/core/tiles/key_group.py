"""The stores over one key: which keys are in memory, which are forgotten, which wait on disk.

Without a cache all keys are in memory. With one, a key that is not in memory is read before its operations, and after
each drain those unused for longest make room.
"""

from __future__ import annotations

import struct

import numpy as np

from app.core.batches import Column, Ints
from app.core.tiles.cells import NEVER
from app.core.tiles.keys import KeyIndex
from app.core.tiles.row_cache import RowCache
from app.core.tiles.store import TileStore
from app.core.tiles.stored import Change, StoredTiles

#: Keys on disk that are looked at per drain while quiet ones are searched for.
_SCANNED_PER_DRAIN = 500


class KeyGroup:
    """An index of keys and the stores that have a row for each.

    Parameters
    ----------
    stores
        By the names of their records.
    cache
        Where rows are that are not in memory; None: all are.
    """

    def __init__(self, stores: dict[bytes, TileStore], cache: RowCache | None) -> None:
        self.index = KeyIndex()
        self.stores = {name: StoredTiles(name, self.index, tiles) for name, tiles in stores.items()}
        self._cache = cache
        self._swept = dict.fromkeys(stores, NEVER)
        self._scans: dict[bytes, bytes] = {}
        self._used: Ints = np.zeros(0, dtype=np.int64)
        self._turn = 0

    # -- keys in memory ----------------------------------------------------------------------------------------------

    def find(self, columns: list[Column]) -> Ints:
        """The codes of keys; see `KeyIndex.find`."""
        self._fetch_unknown(columns)
        return self._use(self.index.find(columns))

    def find_or_add(self, columns: list[Column]) -> Ints:
        """The codes of keys that are updated; see `KeyIndex.find_or_add`."""
        self._fetch_unknown(columns)
        return self._use(self.index.find_or_add(columns))

    def _use(self, codes: Ints) -> Ints:
        self.reserve_rows()
        if self._cache is not None:
            self._turn += 1
            self._used[codes[codes >= 0]] = self._turn
        return codes

    def reserve_rows(self) -> None:
        """Have a row for each key."""
        for store in self.stores.values():
            store.tiles.reserve_rows(self.index.capacity)
        if self._cache is not None and len(self._used) < self.index.capacity:
            self._used = np.concatenate((self._used, np.zeros(self.index.capacity, dtype=np.int64)))

    def _fetch_unknown(self, columns: list[Column]) -> None:
        if self._cache is not None:
            self._fetch([self.index.encode(key) for key in self.index.unknown(columns)])

    def _fetch(self, keys: list[bytes]) -> None:
        """Read keys that are not in memory; those of which nothing is kept are left out."""
        if not keys or self._cache is None:
            return
        for name, store in self.stores.items():
            rows = [
                (key, row) for key, row in zip(keys, self._cache.read_rows(name, keys), strict=True) if row is not None
            ]
            codes = np.array([self.index.add_encoded(key) for key, _ in rows], dtype=np.int64)
            self.reserve_rows()
            if rows:
                self._used[codes] = self._turn
                store.codec.insert(codes, [row for _, row in rows])

    @property
    def is_full(self) -> bool:
        """Whether so many keys are in memory that a drain should make room."""
        return self._cache is not None and len(self.index) > 2 * self._cache.most_keys

    # -- changes -----------------------------------------------------------------------------------------------------

    def drain(self) -> list[Change]:
        """The changelog's records since the last drain."""
        records: list[Change] = []
        for store in self.stores.values():
            changes, rows = store.drain()
            records.extend(changes)
            self._note(store, rows)
        records.extend(self.sweep())
        self._make_room()
        return records

    def _note(self, store: StoredTiles, rows: Ints) -> None:
        """Hand rows to the cache as they are now."""
        if self._cache is None:
            return
        self._cache.put_rows(
            store.name, dict(zip(self.index.encoded_all(rows), store.codec.encode_rows(rows), strict=True))
        )
        self._cache.put_clock(store.name, struct.pack("<q", store.tiles.clock))

    def sweep(self) -> list[Change]:
        """Forget the keys that no event can see any more, now and then."""
        due = [
            store for store in self.stores.values()
            if store.tiles.clock - self._swept[store.name] > store.tiles.retain // 16
        ]  # fmt: skip  # one condition
        records: list[Change] = []
        if due:
            codes = self.index.in_use()
            for store in self.stores.values():
                self._swept[store.name] = store.tiles.clock
                codes = codes[store.tiles.quiet(codes)]
            if len(codes):
                keys = self.index.encoded_all(codes)
                for store in self.stores.values():
                    records.extend(store.forget(codes))
                    if self._cache is not None:
                        self._cache.put_rows(store.name, dict.fromkeys(keys))
                self._remove(codes)
        if self._cache is not None:
            for store in due:
                self._scans.setdefault(store.name, b"")
            records.extend(self._sweep_disk(self._cache))
        return records

    def _sweep_disk(self, cache: RowCache) -> list[Change]:
        """As `sweep`, for some of the keys on disk that are not in memory."""
        records: list[Change] = []
        for name, after in list(self._scans.items()):
            store = self.stores[name]
            rows, last = cache.scan_rows(name, after, _SCANNED_PER_DRAIN)
            oldest = store.tiles.clock - store.tiles.retain
            for key, row in rows:
                if store.codec.newest_of(row) <= oldest and not self.index.has_encoded(key):
                    records.extend(store.tombstones(key, row))
                    cache.put_rows(name, {key: None})
            if last is None:
                del self._scans[name]
            else:
                self._scans[name] = last
        return records

    def _make_room(self) -> None:
        """Drop from memory the rows that were unused for longest, after a drain: nothing has touched them since."""
        if self._cache is None or len(self.index) <= self._cache.most_keys:
            return
        codes = self.index.in_use()
        gone = len(codes) - self._cache.most_keys * 7 // 8
        codes = codes[np.argpartition(self._used[codes], gone - 1)[:gone]]
        for store in self.stores.values():
            store.tiles.clear(codes)
        self._remove(codes)

    def _remove(self, codes: Ints) -> None:
        for code in codes.tolist():
            self.index.remove(code)

    # -- restoring ---------------------------------------------------------------------------------------------------

    def restore(self, name: bytes, records: dict[bytes, bytes | None]) -> None:
        """Take records of one store, as they follow those restored before."""
        store = self.stores[name]
        if self._cache is not None:
            keys = dict.fromkeys(store.key_of(key) for key in records if not store.is_clock(key))
            self._fetch([key for key in keys if not self.index.has_encoded(key)])
        rows = store.restore(records)
        self.reserve_rows()
        if self._cache is not None:
            self._turn += 1
            self._used[rows] = self._turn
            # Rows may leave memory before the first drain. A cell that was dropped here stays in the changelog until
            # its slot is used again or its key, restored from there, is forgotten: nothing sees it.
            store.tiles.take_changes()
            self._note(store, rows)
            self._make_room()

    def restore_clock(self, name: bytes, value: bytes) -> None:
        """Take the newest tile of all operations, as it was handed to the cache."""
        if name in self.stores:
            self.stores[name].set_clock(value)

    def finish_restore(self) -> None:
        """Drop the keys of which nothing is left."""
        self.reserve_rows()
        codes = self.index.in_use()
        for store in self.stores.values():
            codes = codes[store.tiles.cells.newest(codes) == NEVER]
        self._remove(codes)
