"""The board of shared windows: whatever is added, heard, told anew and swept, a window is the sum of its tiles."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.intake.merge import BEGINNING_MS
from app.core.shared.board import PLACE, TILE, TIMES, SharedBoard
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from app.core.shared.totals import Amounts
from app.core.tiles.keys import KeyIndex
from schemas.refusal import RefusedRecordError
from schemas.wire import SharedTile, SharedTimes

STORES = (
    SharedStore("events", ("shop",), 10, None, b"aaaa"),
    SharedStore("events", ("shop",), 5, None, b"bbbb"),
    SharedStore("events", ("town",), 10, None, b"cccc"),
)
COLUMNS = (
    SharedColumn(0, 0, 10, 3, 0, "sum"),
    SharedColumn(1, 0, 10, 1, 7, "sum"),
    SharedColumn(2, 1, 5, 2, 0, "sum"),
    SharedColumn(3, 2, 10, 2, 10, "sum"),
)
PLAN = SharedPlan(STORES, COLUMNS)
REACH_MS = 40  # three tiles of ten, and the one that an event is in; two of ten that end ten before it, and that one
SHOPS = "abc"
PARTITIONS = 3

#: What a partition adds to a tile, by key: a count and a sum.
AMOUNTS = st.dictionaries(st.sampled_from(SHOPS), st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=1)
PARTITION = st.integers(0, PARTITIONS - 1)
TILES = st.integers(-2, 9)
STEPS = st.lists(
    st.tuples(st.just("add"), st.just(0), st.integers(0, 2), TILES, AMOUNTS)
    | st.tuples(st.just("hear"), st.integers(1, 2), st.integers(0, 2), TILES, st.integers(0, 1), st.none() | AMOUNTS)
    | st.tuples(st.just("tell"), st.integers(1, 2))
    | st.tuples(st.just("forget"), PARTITION)
    | st.tuples(st.just("read"), st.lists(st.integers(0, 12), min_size=1, max_size=4))
    | st.tuples(st.just("sweep"), st.integers(-60, 12)),
    max_size=25,
)


def time_record(added_ms: int, scored_ms: int) -> tuple[bytes, bytes]:
    return TIMES + PLAN.name, msgspec.msgpack.encode(SharedTimes(added_ms, scored_ms))


def tile_record(store: int, tile: int, piece: int, of: dict[str, tuple[int, int]] | None) -> tuple[bytes, bytes | None]:
    key = TILE + STORES[store].name + PLACE.pack(tile, piece)
    if of is None:
        return key, None
    counts, sums = (np.array([pair[k] for pair in of.values()], dtype="<i8").tobytes() for k in (0, 1))
    return key, msgspec.msgpack.encode(SharedTile([KeyIndex().encode(name) for name in of], counts, sums))


@dataclass
class World:
    """A board, its readers, and what has been added, by store and tile, partition and piece."""

    board: SharedBoard = field(default_factory=lambda: SharedBoard(PLAN, range(PARTITIONS)))
    added: dict[tuple[int, int, int, int], Counter[tuple[str, int]]] = field(default_factory=dict)
    unheard: dict[int, list[tuple[tuple[int, int, int, int], Any]]] = field(default_factory=lambda: defaultdict(list))
    now_ms: int = 0

    def __post_init__(self) -> None:
        self.cursors = [self.board.new_cursor(column) for column in COLUMNS]

    def add(self, partition: int, store: int, tile: int, of: dict[str, tuple[int, int]]) -> None:
        index = self.board.indexes[STORES[store].key]
        codes = np.array([index.add(name) for name in of], dtype=np.int64)
        values = np.array(list(of.values()), dtype=np.int64).T
        self.board.add(store, tile, partition, Amounts.add_up(codes, values))
        found = self.added.setdefault((store, tile, partition, 0), Counter())
        for name, pair in of.items():
            for row in (0, 1):
                found[name, row] += pair[row]

    def hear(self, partition: int, store: int, tile: int, piece: int, of: dict[str, tuple[int, int]] | None) -> None:
        self.board.hear(partition, *tile_record(store, tile, piece, of))
        self.unheard[partition].append(((store, tile, partition, piece), of))

    def tell(self, partition: int) -> None:
        scored_ms = self.board.scored_ms[partition]
        self.board.hear(partition, *time_record(self.now_ms, scored_ms))
        for place, of in self.unheard.pop(partition, []):
            self.added.pop(place, None)
            if of is not None:
                self.added[place] = Counter({(name, row): pair[row] for name, pair in of.items() for row in (0, 1)})

    def forget(self, partition: int) -> None:
        scored_ms = self.board.scored_ms[partition]
        self.board.forget(partition)
        assert self.board.added_ms[partition] == self.board.scored_ms[partition] == BEGINNING_MS
        self.board.score_to(partition, scored_ms)
        self.unheard.pop(partition, None)
        self.added = {place: found for place, found in self.added.items() if place[2] != partition}

    def read(self, steps: list[int]) -> None:
        """A few events, each so much later than the one before, of all keys and of one that is unknown."""
        times = np.repeat(self.now_ms + np.cumsum(steps), len(SHOPS) + 1)
        self.now_ms = int(times[-1])
        for column, cursor in zip(COLUMNS, self.cursors, strict=True):
            index = self.board.indexes[STORES[column.store].key]
            codes = index.find([np.array([*SHOPS, "unknown"] * len(steps), dtype=object)])
            expected = [
                [
                    self.sum_of(column, int(time_ms), name, row)
                    for time_ms, name in zip(times, [*SHOPS, "?"] * len(steps), strict=True)
                ]
                for row in (0, 1)
            ]
            found = cursor.read(codes, times)
            assert (found.tolist(), found.dtype) == (expected, np.int64)

    def sum_of(self, column: SharedColumn, time_ms: int, name: str, row: int) -> int:
        """Of the tiles that end at or before the event's time less the delay, the last few."""
        ends_ms = time_ms - column.delay_ms
        last = max(tile for tile in range(-9, 99) if (tile + 1) * column.hop_ms <= ends_ms)
        return sum(
            found[name, row]
            for (store, tile, _, _), found in self.added.items()
            if store == column.store and last - column.tiles < tile <= last
        )

    def sweep(self, before_ms: int) -> None:
        """All has been scored but what is as late as the last event read, or a little earlier; or all beyond it."""
        scored_ms = max(self.board.scored_ms[0], self.now_ms - before_ms)
        self.now_ms = max(self.now_ms, scored_ms)
        for partition in range(PARTITIONS):
            self.board.score_to(partition, scored_ms)
        self.board.sweep()

    def check(self) -> None:
        for partition in range(PARTITIONS):
            expected: dict[tuple[int, int], set[int]] = defaultdict(set)
            for store, tile, owner, piece in self.added:
                if owner == partition:
                    expected[store, tile].add(piece)
            pieces = self.board.pieces(partition)
            assert all(expected[place] == found for place, found in pieces.items())
            for store, tile in set(expected) - set(pieces):  # swept
                assert (tile + 1) * STORES[store].hop_ms <= self.board.floor_ms
            for store, tile in pieces:
                total: Counter[tuple[str, int]] = Counter()
                for place, found in self.added.items():
                    if place[:3] == (store, tile, partition):
                        total.update(found)
                amounts = self.board.contribution(store, tile, partition)
                index = self.board.indexes[STORES[store].key]
                names = [index.decode(index.encoded(code)) for code in amounts.codes.tolist()]
                assert amounts.values.tolist() == [[total[name, row] for name in names] for row in (0, 1)]
                assert set(names) == {name for name, _ in total}


@pytest.mark.slow
@settings(max_examples=80)
@given(STEPS)
def test_a_window_is_the_sum_of_what_all_have_added_to_its_tiles(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    for what, *arguments in [*steps, ("read", [3, 9]), ("read", [0, 4, 10, 1])]:
        getattr(world, what)(*arguments)
        world.check()


def filled() -> World:
    world = World()
    for tile, name in ((0, "a"), (4, "b")):
        world.add(0, 0, tile, {name: (1, tile)})
    return world


@pytest.mark.parametrize(("scored_ms", "is_there"), [(10 + REACH_MS - 1, True), (10 + REACH_MS, False)])
def test_a_tile_goes_with_its_keys_when_no_event_can_read_it_any_more(scored_ms: int, is_there: bool) -> None:
    world = filled()
    for partition in range(PARTITIONS):
        world.board.score_to(partition, scored_ms)
    world.board.sweep()

    assert world.board.floor_ms == scored_ms - REACH_MS
    assert ((0, 0) in world.board.pieces(0)) is is_there
    assert (0, 4) in world.board.pieces(0)
    codes = world.board.indexes["shop",].find([np.array(["a", "b"], dtype=object)])
    assert (codes >= 0).tolist() == [is_there, True]


def test_what_a_partition_has_added_is_told_from_what_others_have() -> None:
    world = World()
    world.add(0, 0, 1, {"a": (1, 5)})
    world.hear(1, 0, 1, 0, {"a": (2, 7)})
    world.hear(1, 0, 1, 3, {"b": (4, 8)})
    world.tell(1)
    world.check()
    tile = (0, 1)
    assert [world.board.pieces(partition) for partition in range(3)] == [{tile: {0}}, {tile: {0, 3}}, {}]
    sums = [world.board.contribution(*tile, partition).values.tolist() for partition in range(3)]
    assert sums == [[[1], [5]], [[2, 4], [7, 8]], [[], []]]
    world.read([25])
    world.forget(1)
    world.read([0])
    assert [world.board.pieces(partition) for partition in range(3)] == [{tile: {0}}, {}, {}]


def test_one_partition_that_has_not_scored_keeps_all_tiles() -> None:
    world = filled()
    for partition in range(PARTITIONS - 1):
        world.board.score_to(partition, 10_000)
    world.board.sweep()

    assert set(world.board.pieces(0)) == {(0, 0), (0, 4)}


def test_all_have_come_as_far_as_the_slowest_and_the_fastest() -> None:
    board = SharedBoard(PLAN, range(PARTITIONS))
    assert (board.low_ms, board.high_ms) == (BEGINNING_MS, BEGINNING_MS)
    for partition, added_ms in ((0, 5), (1, 9), (2, 7), (0, 6), (1, 8)):
        board.come_to(partition, added_ms)
    assert (board.low_ms, board.high_ms) == (6, 9)  # nobody goes back
    board.hear(1, *time_record(3, 2))  # but one whose state was lost
    assert (board.low_ms, board.high_ms, board.scored_ms[1]) == (3, 7, 2)


def test_a_partition_that_is_heard_anew_counts_with_the_last_times_that_it_tells() -> None:
    board = SharedBoard(PLAN, range(2))
    board.come_to(0, 50)
    board.hear(1, *tile_record(0, 1, 0, {"a": (1, 1)}))
    board.hear_anew(1)
    assert (board.is_anew(0), board.is_anew(1)) == (False, True)
    board.hear(1, *tile_record(0, 2, 0, {"a": (1, 1)}))
    for times in ((20, 10), (30, 15)):
        board.hear(1, *time_record(*times))
    assert set(board.pieces(1)) == {(0, 2)}
    assert (board.low_ms, board.scored_ms[1]) == (BEGINNING_MS, BEGINNING_MS)
    board.caught_up(1)
    assert (board.low_ms, board.scored_ms[1], board.is_anew(1)) == (30, 15, False)


def test_a_partition_that_told_nothing_when_heard_anew_has_not_come_anywhere() -> None:
    board = SharedBoard(PLAN, range(2))
    board.hear_anew(1)
    board.caught_up(1)

    assert board.added_ms[1] == BEGINNING_MS


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [(None, b"", "bad_key"), (b"?what", b"x", "bad_key"), (TILE + b"aaaa" + b"short", None, "bad_key")],
)
def test_what_is_no_record_of_this_topic_is_refused(key: bytes | None, value: bytes | None, reason: str) -> None:
    board = SharedBoard(PLAN, range(1))

    with pytest.raises(RefusedRecordError) as refused:
        board.hear(0, key, value)

    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "key",
    [TILE + b"zzzz" + PLACE.pack(1, 0), TIMES + b"zzzz", TIMES + b"aaaa", TIMES + b"aaaa" + PLACE.pack(1, 0), b"?what"],
)
def test_records_of_other_features_and_tombstones_are_passed_over(key: bytes) -> None:
    board = SharedBoard(PLAN, range(1))
    board.hear(0, key, None if key[:1] == b"?" else b"x")
    board.hear(0, *time_record(1, 1))

    assert board.pieces(0) == {}


def test_a_window_over_many_keys_is_exact_for_each() -> None:
    """More keys than at first, some of them new when the window has been read, with sums that no float holds."""
    world = World()
    index, cursor = world.board.indexes["shop",], world.cursors[0]
    assert cursor.read(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)).tolist() == [[], []]
    for keys in (3, 40, 130):
        codes = np.array([index.add(f"shop {number}") for number in range(keys)])
        values = np.stack((np.ones(keys, dtype=np.int64), 2**58 + np.arange(keys)))
        world.board.add(0, 1, 0, Amounts.add_up(codes, values))
        counts, sums = cursor.read(codes, np.full(keys, 25)).tolist()
        times = [sum(number < each <= keys for each in (3, 40, 130)) for number in range(keys)]
        assert counts == times
        assert sums == [count * (2**58 + number) for number, count in enumerate(times)]
    for _ in range(9):
        cursor.read(codes, np.full(keys, 25))
    assert cursor._sums.shape[1] <= 2 * index.capacity, "it grows with the keys alone"


def test_many_small_contributions_are_one() -> None:
    world = World()
    for number in range(40):
        world.add(0, 0, 1, {"abc"[number % 3]: (1, number)})
        assert all(len(found._parts) <= 16 for found in world.board._stores[0].tiles[1].values())
    world.check()
    world.read([25])
