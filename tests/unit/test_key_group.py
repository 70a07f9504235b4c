"""Keys of a group of stores: which are in memory, on disk or forgotten, and how often that is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from rows_in_memory import RowsInMemory

import app.core.tiles.key_group
from app.core.tiles.batch import Updates
from app.core.tiles.key_group import KeyGroup
from app.core.tiles.measures import Layout
from app.core.tiles.row_cache import RowCache, Snapshot
from app.core.tiles.store import TileStore, WindowRead
from app.core.tiles.stored import Change

STORE = b"tile"
RING, RETAIN = 4, 64
#: Tiles between two looks at what is quiet.
BETWEEN = RETAIN // 16


class WatchedRows(RowsInMemory):
    """Rows that count how often, and of how many at most, a store's rows are looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.scans: list[int] = []

    def scan(self, prefix: bytes, after: bytes, most: int) -> list[tuple[bytes, bytes]]:
        self.scans.append(most)
        return super().scan(prefix, after, most)


class World:
    def __init__(self, most_keys: int | None = None) -> None:
        self.disk = WatchedRows()
        self.cache = RowCache(self.disk, most_keys) if most_keys is not None else None
        self.group = KeyGroup({STORE: TileStore(Layout((("count", None),), ()), ring=RING, retain=RETAIN)}, self.cache)
        self.log: dict[bytes, bytes | None] = {}

    def update(self, names: Sequence[str], tile: int) -> None:
        codes = self.group.find_or_add([np.array(names, dtype=object)])
        n = len(codes)
        none = np.zeros((n, 0), dtype=np.int64)
        one, zeros = np.ones((n, 1), dtype=np.int64), np.zeros(n, dtype=np.int64)
        updates = Updates(codes, np.full(n, tile), zeros, one, none, none, none)
        self.group.stores[STORE].tiles.process(zeros[:0], zeros[:0], updates, (WindowRead(RING),))

    def read(self, names: Sequence[str], tile: int) -> list[int]:
        codes = self.group.find([np.array(names, dtype=object)])
        self.group.reserve_rows()
        none = np.zeros((0, 0), dtype=np.int64)
        nothing = np.zeros(0, dtype=np.int64)
        updates = Updates(nothing, nothing, nothing, np.zeros((0, 1), dtype=np.int64), none, none, none)
        tiles = np.full(len(codes), tile)
        (seen,) = self.group.stores[STORE].tiles.process(codes, tiles, updates, (WindowRead(RING),))
        return [int(count) for count in seen.sums[:, 0]]

    def drain(self) -> list[Change]:
        """End a transaction; all of it goes to disk."""
        changes = self.group.drain()
        self.log.update(changes)
        if self.cache is not None:
            self.cache.seal()
            self.cache.commit()
            self.cache.write(Snapshot("set", 1, 1, 1))
        return changes

    @property
    def on_disk(self) -> int:
        return sum(key.startswith(b"r") for key in self.disk.entries)

    def knows(self, name: str) -> bool:
        return self.group.index.has_encoded(self.group.index.encode(name))

    def kept(self) -> set[bytes]:
        """Encoded keys with a cell in the changelog."""
        return {key[8:] for key, value in self.log.items() if value is not None and len(key) > 8}


def names(start: int, stop: int) -> list[str]:
    return [f"k{number:03}" for number in range(start, stop)]


def test_keys_are_looked_through_once_per_part_of_the_retention() -> None:
    world = World(most_keys=100)
    looked = []
    for tile in range(3 * (BETWEEN + 1)):
        for _ in range(2):
            world.disk.scans.clear()
            world.update(["a"], tile)
            world.drain()
            looked.append(len(world.disk.scans))

    assert looked == [int(turn % (2 * (BETWEEN + 1)) == 0) for turn in range(len(looked))]


def test_a_key_is_forgotten_when_it_has_been_quiet_for_the_retention() -> None:
    world = World()
    world.update(["a"], 0)
    world.update(["b"], BETWEEN + 1)
    world.drain()
    world.update(["c"], RETAIN - 1)
    world.drain()
    assert world.knows("a")
    world.update(["c"], RETAIN + BETWEEN)
    world.drain()

    assert [world.knows(name) for name in "abc"] == [False, True, True]
    assert len(world.kept()) == 2


def test_keys_that_were_not_used_for_longest_leave_memory_and_come_back_from_disk() -> None:
    world = World(most_keys=16)
    world.update(names(0, 16), 1)
    world.drain()
    assert len(world.group.index) == 16  # as many as may be
    world.update(names(16, 20), 1)
    assert world.read(names(0, 4), 1) == [1] * 4  # used again, though only read
    world.drain()

    assert len(world.group.index) == 16 * 7 // 8
    assert all(map(world.knows, names(0, 4) + names(16, 20)))
    world.update(names(0, 20), 2)
    assert world.read([*names(0, 20), "unknown"], 2) == [2] * 20 + [0]


@pytest.mark.parametrize("seed", range(5))
def test_of_keys_that_were_used_one_after_the_other_the_last_ones_stay(seed: int) -> None:
    order = [names(0, 40)[place] for place in np.random.default_rng(seed).permutation(40)]
    world = World(most_keys=16)
    world.update(names(0, 40), 1)
    for name in order:
        world.read([name], 1)
    world.drain()

    assert {name for name in order if world.knows(name)} == set(order[-14:])


def test_disk_holds_how_far_the_operations_of_a_store_had_come() -> None:
    world = World(most_keys=16)
    world.update(["a"], 7)
    world.drain()

    assert world.cache is not None
    assert world.cache.read_clocks() == [(STORE, (7).to_bytes(8, "little"))]


@pytest.mark.parametrize(("tile", "cleared"), [(RETAIN - 1, 0), (RETAIN, 8)])
def test_keys_on_disk_are_quiet_as_soon_as_those_in_memory(tile: int, cleared: int) -> None:
    world = World(most_keys=4)
    world.update(names(0, 8), 0)
    world.drain()
    world.update(["later"], tile)

    assert sum(value is None for _, value in world.drain()) == cleared


def test_quiet_keys_on_disk_are_cleared_a_few_per_drain_and_those_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.tiles.key_group, "_SCANNED_PER_DRAIN", 3)
    world = World(most_keys=8)
    world.update(names(0, 7), 0)
    world.drain()
    world.update(names(7, 14), 0)
    world.drain()
    world.update(names(14, 28), 10)
    world.drain()
    world.update(names(28, 36), RETAIN)  # what was at tile 0 is quiet now
    in_memory = sum(map(world.knows, names(0, 14)))
    cleared = []
    for turn in range(30):
        if turn == 15:  # the next look finds what the one under way had passed
            world.update(names(36, 37), RETAIN + BETWEEN + 1)
        world.disk.scans.clear()
        cleared.append(sum(value is None for _, value in world.drain()))
        assert len(world.disk.scans) <= 1
        assert set(world.disk.scans) <= {3}

    assert in_memory == 0
    assert sum(cleared) == 14
    assert max(cleared) == 3
    assert world.on_disk == len(world.kept()) == 23
    assert world.read(names(14, 28), 10) == [1] * 14


def test_a_group_that_is_restored_piece_by_piece_has_all_keys_but_those_of_which_nothing_is_left() -> None:
    world = World()
    world.update(names(0, 5), 1)
    world.drain()
    world.update(["k000", "k001", "k003", "k004"], 2)
    world.drain()
    gone = next(key for key in world.log if key.endswith(world.group.index.encode("k002")))
    changes: list[Change] = [*world.log.items(), (gone, None)]
    for most in (None, 2):
        again = World(most)
        for change in changes:
            again.group.restore(STORE, dict([change]))
        again.group.finish_restore()

        assert again.knows("k002") is False
        assert again.read(names(0, 5), 2) == [2, 2, 0, 2, 2]
        assert len(again.group.index) <= (most or 4) + 2


@pytest.mark.parametrize("seed", range(3))
def test_of_keys_that_are_restored_the_last_ones_stay_in_memory(seed: int) -> None:
    world = World()
    world.update(names(0, 40), 1)
    world.drain()
    order = [names(0, 40)[place] for place in np.random.default_rng(seed).permutation(40)]
    again = World(most_keys=16)
    for at, name in enumerate(order, start=1):
        encoded = world.group.index.encode(name)
        again.group.restore(STORE, {key: value for key, value in world.log.items() if key.endswith(encoded)})
        held = len(again.group.index)
        assert min(at, 14) <= held <= 16
        assert {each for each in order if again.knows(each)} == set(order[at - held : at])
    again.group.finish_restore()
    again.drain()
    assert again.read(names(0, 40), 1) == [1] * 40


def test_a_group_takes_the_clock_of_its_own_stores_alone() -> None:
    world = World()
    world.group.restore_clock(b"else", (99).to_bytes(8, "little"))
    world.group.restore_clock(STORE, (RETAIN).to_bytes(8, "little"))
    world.update(["a"], 0)

    assert world.read(["a"], 0) == [0]  # it came too late to be seen
    assert world.group.stores[STORE].tiles.clock == RETAIN
