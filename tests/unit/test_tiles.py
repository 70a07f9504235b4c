from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.records.columns import MOST_TILE
from app.core.tiles.batch import KeyRuns, Reads, Updates
from app.core.tiles.cells import EMPTY, NEVER
from app.core.tiles.codec import UnreadableError
from app.core.tiles.keys import NULL, UNKNOWN, KeyIndex
from app.core.tiles.measures import FEATURE_UNITS, Layout, from_ordered, to_fixed_point, to_ordered
from app.core.tiles.range_sums import RangeMax, max_between, sum_below
from app.core.tiles.store import TileStore, WindowRead
from app.core.tiles.stored import StoredTiles

RING, RETAIN, SIZES = 4, 7, (1, 3, 4)
LAYOUT = Layout((("count", None), ("sum", "value")), ())


@dataclass
class OneByOne:
    """The laws of the tile store, an operation at a time, on plain dicts."""

    ring: int = RING
    retain: int = RETAIN
    clock: float = float("-inf")
    tiles: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def read(self, key: str, tile: int, size: int) -> tuple[int, int]:
        kept = self.tiles.get(key, {})
        newest = max(kept, default=float("-inf"))
        seen = [
            value
            for at, value in kept.items()
            if tile - size < at <= tile and at > newest - self.ring and at > self.clock - self.retain
        ]
        return sum(count for count, _ in seen), sum(total for _, total in seen)

    def update(self, key: str, tile: int, value: int) -> None:
        kept = self.tiles.get(key, {})
        if tile > max(kept, default=float("-inf")) - self.ring and tile > self.clock - self.retain:
            count, total = kept.get(tile, (0, 0))
            self.tiles.setdefault(key, {})[tile] = (count + 1, total + value)

    def pass_by(self, tile: int) -> None:
        self.clock = max(self.clock, tile)


Operation = tuple[bool, str, int, int]  # is a read, key, tile, value
operations = st.lists(
    st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(-3, 14), st.integers(-5, 9)), max_size=60
)
in_order = operations.map(lambda found: sorted(found, key=lambda operation: operation[2]))


def expected(found: list[Operation]) -> list[list[tuple[int, int]]]:
    oracle = OneByOne()
    answers = []
    for is_read, key, tile, value in found:
        if is_read:
            oracle.pass_by(tile)
            answers.append([oracle.read(key, tile, size) for size in SIZES])
        else:
            oracle.pass_by(tile)
            oracle.update(key, tile, value)
    return answers


class Store:
    """A tile store and its index, driven by lists of operations."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self.tiles = TileStore(LAYOUT, ring=RING, retain=RETAIN)
        self.stored = StoredTiles(b"tile", self.index, self.tiles)

    def run(self, found: list[Operation]) -> list[list[tuple[int, int]]]:
        updates = [(key, tile, value) for is_read, key, tile, value in found if not is_read]
        reads = [(key, tile) for is_read, key, tile, _ in found if is_read]
        before = [sum(o[0] for o in found[:at]) for at, operation in enumerate(found) if not operation[0]]
        codes = self.index.find_or_add([np.array([u[0] for u in updates], dtype=object)])
        self.tiles.reserve_rows(self.index.capacity)
        none = np.zeros((len(updates), 0), dtype=np.int64)
        changes = Updates(
            codes,
            np.array([u[1] for u in updates], dtype=np.int64),
            np.array(before, dtype=np.int64),
            np.array([(1, u[2]) for u in updates], dtype=np.int64).reshape(-1, 2),
            *(none, none, none),
        )
        read_codes = self.index.find([np.array([r[0] for r in reads], dtype=object)])
        read_tiles = np.array([r[1] for r in reads], dtype=np.int64)
        windows = self.tiles.process(read_codes, read_tiles, changes, tuple(map(WindowRead, SIZES)))
        return [[(int(seen.sums[at, 0]), int(seen.sums[at, 1])) for seen in windows] for at in range(len(reads))]

    def drain(self) -> list[tuple[bytes, bytes | None]]:
        return self.stored.drain()[0]

    def forget_quiet(self) -> list[tuple[bytes, bytes | None]]:
        codes = self.index.in_use()
        quiet = codes[self.tiles.quiet(codes)]
        records = self.stored.forget(quiet)
        for code in quiet.tolist():
            self.index.remove(code)
        return records


def cut(found: list[Operation], places: list[int]) -> Iterator[list[Operation]]:
    edges = [0, *sorted(place % (len(found) + 1) for place in places), len(found)]
    for start, stop in pairwise(edges):
        yield found[start:stop]


@pytest.mark.slow
@settings(max_examples=300)
@given(operations | in_order)
def test_a_batch_equals_its_operations_one_by_one(found: list[Operation]) -> None:
    assert Store().run(found) == expected(found)


@given(operations | in_order, st.lists(st.integers(0, 60), max_size=6))
def test_where_batches_are_cut_changes_nothing(found: list[Operation], places: list[int]) -> None:
    store = Store()

    assert [answer for batch in cut(found, places) for answer in store.run(batch)] == expected(found)


@pytest.mark.slow
@settings(max_examples=60)
@given(operations | in_order, st.lists(st.integers(0, 60), max_size=6), st.integers(0, 60))
def test_a_restored_store_goes_on_the_same(found: list[Operation], places: list[int], at: int) -> None:
    at %= len(found) + 1
    store, log = Store(), {}
    answers = []
    for batch in cut(found[:at], places):
        answers += store.run(batch)
        log.update(store.drain())
    restored = Store()
    restored.stored.restore(log)

    kept = {key for key, value in log.items() if value is not None}
    for each in (store, restored):
        assert set(each.stored.keys(each.index.in_use())) == kept
        codes = each.index.in_use()
        for encoded, row in zip(each.index.encoded_all(codes), each.stored.codec.encode_rows(codes), strict=True):
            cleared = sorted(name for name in kept if not StoredTiles.is_clock(name) and name[8:] == encoded)
            assert not row or each.stored.tombstones(encoded, row) == [(name, None) for name in cleared]
            assert bool(row) is bool(cleared)
            assert {StoredTiles.key_of(name) for name in cleared} <= {encoded}
    assert answers + restored.run(found[at:]) == expected(found)


@given(operations | in_order, st.lists(st.integers(0, 60), max_size=6))
def test_forgetting_quiet_keys_changes_nothing(found: list[Operation], places: list[int]) -> None:
    store, log = Store(), {}
    answers = []
    for batch in cut(found, places):
        answers += store.run(batch)
        log.update(store.drain())
        log.update(store.forget_quiet())
    assert answers == expected(found)
    kept = {key: value for key, value in log.items() if value is not None}
    assert len(kept) <= 1 + len(store.index) * RING, "a forgotten key leaves nothing in the changelog"
    restored = Store()
    restored.stored.restore(kept)
    probe: list[Operation] = [(True, key, 14, 0) for key in "abc"]
    assert restored.run(probe) == store.run(probe)


def test_a_window_of_three_tiles_worked_out_by_hand() -> None:
    store = Store()
    found: list[Operation] = [
        (True, "a", 10, 0),  # nothing yet
        (False, "a", 10, 2),
        (True, "a", 10, 0),  # 2
        (False, "a", 12, 5),
        (True, "a", 12, 0),  # tiles 10, 11, 12: 2 + 5
        (True, "a", 13, 0),  # tiles 11, 12, 13: 5
        (True, "a", 11, 0),  # late: tiles 9, 10, 11: 2
        (False, "a", 8, 9),  # older than the ring of four tiles (9 … 12): ignored
        (True, "a", 10, 0),  # 2
        (True, "b", 12, 0),  # another key
    ]

    three_tiles = [answer[1] for answer in store.run(found)]

    assert three_tiles == [(0, 0), (1, 2), (2, 7), (1, 5), (1, 2), (1, 2), (0, 0)]


def test_what_is_too_old_of_one_key_is_not_of_another() -> None:
    store = Store()
    store.run([(False, key, tile, 1) for key, tile in (("a", 6), ("b", 1), ("c", 2), ("b", 1), ("a", 3))])
    found = store.run([(True, key, tile, 0) for key, tile in (("a", 3), ("a", 6), ("b", 1), ("c", 2))])
    assert [of_four_tiles for _, _, of_four_tiles in found] == [(1, 1), (2, 2), (2, 2), (1, 1)]


def test_what_is_as_old_as_the_retention_is_not_seen() -> None:
    for distance, count in ((RETAIN - 1, 1), (RETAIN, 0)):
        store = Store()
        found: list[Operation] = [(False, "a", 0, 1), (True, "b", distance, 0), (True, "a", 0, 0)]

        assert store.run(found)[-1] == [(count, count)] * len(SIZES)
        assert store.run([(True, "a", 0, 0)]) == [[(count, count)] * len(SIZES)]
        assert store.tiles.quiet(np.array([0])).tolist() == [count == 0]


def test_a_restored_store_knows_how_late_it_is() -> None:
    store, restored = Store(), Store()
    store.run([(False, "a", 0, 1), (True, "b", RETAIN, 0)])
    restored.stored.restore(dict(store.drain()))

    assert restored.run([(True, "a", 0, 0)]) == [[(0, 0)] * len(SIZES)]


def test_forgetting_clears_the_records_that_were_written_and_no_others() -> None:
    store = Store()
    written: dict[bytes, bytes | None] = {}
    for key, tile in (("a", 0), ("b", 14), ("c", 29), ("d", 43)):
        store.run([(False, key, tile, 1)])
        written.update(store.drain())
        cleared = store.forget_quiet()
        assert all(written.pop(name) is not None for name, _ in cleared)
    assert len(written) == 1 + len(store.index)


def test_an_update_that_nothing_can_see_leaves_no_trace() -> None:
    store = Store()
    store.run([(True, "b", RETAIN, 0), (False, "a", 0, 1)])

    assert len(store.drain()) == 1  # the clock


def test_a_changelog_record_is_written_once_per_touched_cell() -> None:
    store = Store()
    store.run([(False, "a", 1, 1), (False, "a", 1, 1), (False, "a", 2, 1), (False, "b", 2, 1)])

    assert len(store.drain()) == 1 + 3  # the clock; a at tiles 1 and 2; b at tile 2
    assert store.drain() == []


def test_values_are_kept_to_a_millionth_and_cannot_overflow() -> None:
    fixed = to_fixed_point(np.array([0.5, 1e-6, -3.25, 1e300, -1e300]))

    assert fixed[:3].tolist() == [2**19, 1, -13 * 2**18]
    assert (np.abs(fixed[3:]) == 2**62).all()
    assert FEATURE_UNITS == 2**20


def test_a_key_with_a_null_is_no_key() -> None:
    index = KeyIndex()
    index.find_or_add([np.array(["a", "a"], dtype=object), np.array([1.0, np.nan])])

    codes = index.find([np.array(["a", "a", None, "b"], dtype=object), np.array([1.0, np.nan, 1.0, 1.0])])

    assert codes.tolist() == [0, NULL, NULL, UNKNOWN]
    assert len(index) == 1


def test_a_removed_code_is_used_again_and_its_key_is_unknown() -> None:
    index = KeyIndex()
    index.find_or_add([np.array(["a", "b"], dtype=object)])
    index.remove(0)

    assert index.find([np.array(["a"], dtype=object)]).tolist() == [UNKNOWN]
    assert index.find_or_add([np.array(["c"], dtype=object)]).tolist() == [0]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-9, 9)), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=10),
)
def test_sum_below_equals_a_loop(found: list[tuple[int, int]], queries: list[tuple[int, int, int]]) -> None:
    ranks = np.unique([rank for rank, _ in found], return_inverse=True)[1]
    weights = np.array([weight for _, weight in found], dtype=np.int64)
    edges = [sorted((a % (len(found) + 1), b % (len(found) + 1))) for a, b, _ in queries]
    bounds = [bound % (int(ranks.max()) + 2) for _, _, bound in queries]

    sums = sum_below(
        ranks, weights[:, None], np.array([a for a, _ in edges]), np.array([b for _, b in edges]), np.array(bounds)
    )

    assert sums[:, 0].tolist() == [
        sum(int(weights[i]) for i in range(start, stop) if ranks[i] < bound)
        for (start, stop), bound in zip(edges, bounds, strict=True)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-9, 9)), min_size=1, max_size=40),
    st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=10),
)
def test_max_between_equals_a_loop(found: list[tuple[int, int]], queries: list[tuple[int, int, int, int]]) -> None:
    ranks = np.unique([rank for rank, _ in found], return_inverse=True)[1]
    weights = np.array([weight for _, weight in found], dtype=np.int64)
    edges = [sorted((a % (len(found) + 1), b % (len(found) + 1))) for a, b, _, _ in queries]
    low, high = (
        [bound % (int(ranks.max()) + 2) for bound in side] for side in zip(*[q[2:] for q in queries], strict=True)
    )
    starts, ends = (np.array(side) for side in zip(*edges, strict=True))

    largest = max_between(ranks, weights, (starts, ends), (np.array(low), np.array(high)), -10)

    assert largest.tolist() == [
        max((int(weights[i]) for i in range(start, stop) if below <= ranks[i] < above), default=-10)
        for (start, stop), below, above in zip(edges, low, high, strict=True)
    ]
    assert RangeMax(weights, -10).between(starts, ends).tolist() == [
        max(weights[start:stop].tolist(), default=-10) for start, stop in edges
    ]


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 2, 5, 5]), st.integers(-4, 4), st.integers(-9, 9), st.sampled_from("yyyn")),
        min_size=9,
        max_size=25,
    ),
    st.lists(st.tuples(st.sampled_from([1, 2, 5, 0, 3, 7]), *[st.integers(0, 60)] * 3), min_size=5, max_size=9),
    st.sampled_from([2, 99]),
    st.booleans(),
)
def test_what_a_read_finds_of_the_updates_before_it_equals_a_loop(
    found: list[tuple[int, int, int, str]], asked: list[tuple[int, int, int, int]], most_seen: int, in_order: bool
) -> None:
    """Of each key the updates that count, at some places among all; and reads, of other keys too, anywhere."""
    if in_order:
        found.sort(key=lambda update: update[1])
    updates = [(place, *update[:3]) for place, update in enumerate(found) if update[3] == "y"] or [(0, *found[0][:3])]
    updates.sort(key=lambda update: update[1])  # by key, and then in order
    sequence, codes, tiles, weights = np.array(updates, dtype=np.int64).T
    keys, rank = np.unique(codes, return_inverse=True)
    runs = KeyRuns(keys, rank, sequence, tiles)
    most = min(most_seen, len(found))
    reads = [(code, seen % (most + 1), *sorted((a % 12 - 6, b % 12 - 6))) for code, seen, a, b in asked]
    read_codes, seen, low, high = np.array(reads, dtype=np.int64).T
    span = runs.locate(Reads(read_codes, high, seen, high))

    mine = [[u for u in updates if u[1] == code and u[0] < before] for code, before, *_ in reads]
    columns = np.stack((weights, np.ones_like(weights)), axis=1)
    upto = [[[u for u in of if u[2] <= read[at]] for of, read in zip(mine, reads, strict=True)] for at in (2, 3)]
    assert runs.sums_upto(span, columns, np.stack((low, high))).tolist() == [
        [[sum(u[3] for u in of), len(of)] for of in bound] for bound in upto
    ]
    assert runs.sums_before(span, columns).tolist() == [[sum(u[3] for u in of), len(of)] for of in mine]
    assert runs.largest(span, weights, low, high).tolist() == [
        max((u[3] for u in of if u not in below), default=EMPTY) for below, of in zip(*upto, strict=True)
    ]


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_floats_keep_their_order_and_bits_as_integers(values: list[float]) -> None:
    floats = np.array(values)
    numbers = to_ordered(floats)

    assert from_ordered(numbers).tobytes() == (floats + 0.0).tobytes()
    assert (np.argsort(numbers, kind="stable") == np.argsort(floats, kind="stable")).all()
    assert (np.argsort(~numbers, kind="stable") == np.argsort(-floats, kind="stable")).all()


def test_a_cleared_slot_is_dropped_of_its_key_alone() -> None:
    store = Store()
    store.run([(False, key, tile, 1) for key in "abc" for tile in (4, 5)])
    store.tiles.remove(store.index.find([np.array(["c"], dtype=object)]), np.array([5 % RING]))
    of_two_tiles = [sums[SIZES.index(3)] for sums in store.run([(True, key, 5, 0) for key in "abc"])]
    assert of_two_tiles == [(2, 2), (2, 2), (1, 1)]


def see(store: TileStore, found: list[tuple[int, int, int]], tile: int) -> list[int]:
    """After sightings of values (row, tile, hash) in one batch: how many different ones rows 0 and 1 see at a tile."""
    rows, tiles, hashes = np.array(found, dtype=np.int64).reshape(-1, 3).T
    none, n = np.zeros((len(rows), 0), dtype=np.int64), len(rows)
    sums = np.stack((np.ones_like(rows), np.zeros_like(rows)), axis=1)
    updates = Updates(rows, tiles, np.zeros(n, dtype=np.int64), sums, none, none, hashes[:, None])
    (seen,) = store.process(np.array([0, 1]), np.full(2, tile), updates, (WindowRead(RING),))
    return seen.sums[:, 1].tolist()


def test_values_of_a_cleared_row_or_slot_are_new_when_they_are_seen_again() -> None:
    layout = Layout((("count", None), ("distinct", "shop")), ())
    store = TileStore(layout, ring=RING, retain=RETAIN)
    store.reserve_rows(2)
    assert see(store, [(0, 4, 7), (0, 5, 8), (1, 4, 7), (1, 5, 8), (1, 5, 9)], 5) == [2, 3]
    store.clear(np.array([0]))
    assert see(store, [], 5) == [0, 3]
    assert see(store, [(0, 5, 8), (0, 5, 7)], 5) == [2, 3]
    store.remove(np.array([1]), np.array([5 % RING]))
    assert see(store, [], 5) == [2, 1]
    assert see(store, [(1, 5, 9), (1, 5, 7)], 5) == [2, 2]


@pytest.mark.parametrize("tile", [MOST_TILE, -MOST_TILE])
def test_the_outermost_tiles_are_restored(tile: int) -> None:
    store, other = Store(), Store()
    store.run([(False, "a", tile, 1)])
    other.stored.restore(dict(store.drain()))
    assert other.run([(True, "a", tile, 0)]) == [[(1, 1)] * len(SIZES)]


@pytest.mark.parametrize("value", [b"", b"short", b"x" * 25])
def test_a_value_that_is_no_cell_is_refused_and_changes_nothing(value: bytes) -> None:
    store = Store()
    other = Store()
    other.run([(False, "a", 1, 1)])
    key = other.drain()[-1][0]

    with pytest.raises(UnreadableError):
        store.stored.restore({key: value})

    assert store.run([(True, "a", 1, 0)]) == [[(0, 0)] * len(SIZES)]


CLOCK_KEY = b"tile" + b"\xff" * 4


def test_what_an_unreadable_record_is_about_stays_as_it_was() -> None:
    store = Store()
    store.run([(False, "a", 1, 1)])
    key = store.drain()[-1][0]
    with pytest.raises(UnreadableError):
        store.stored.restore({key: b"short"})
    assert store.run([(True, "a", 1, 0)]) == [[(1, 1)] * len(SIZES)]


@pytest.mark.parametrize("value", [b"", bytes(7), bytes(9), struct.pack("<q", MOST_TILE + 1)])
def test_a_clock_that_cannot_be_is_refused(value: bytes) -> None:
    store = Store()
    with pytest.raises(UnreadableError):
        store.stored.restore({CLOCK_KEY: value})
    assert store.tiles.clock == NEVER
    assert list(store.stored.keys(store.index.in_use())) == []


def test_a_clock_that_is_restored_never_goes_back_and_is_not_written_again() -> None:
    store = Store()
    for tile, clock in ((MOST_TILE, MOST_TILE), (5, MOST_TILE), (-3, MOST_TILE)):
        store.stored.restore({CLOCK_KEY: struct.pack("<q", tile)})
        assert store.tiles.clock == clock
        assert store.drain() == []


def test_a_record_at_the_place_of_the_clock_that_has_a_key_too_is_passed_over() -> None:
    store, other = Store(), Store()
    store.run([(False, "a", 1, 1)])
    key, value = store.drain()[-1]
    assert other.stored.restore({CLOCK_KEY + key[8:]: value, CLOCK_KEY + b"b": None}).tolist() == []
    assert len(other.index) == 0


def test_records_that_clear_unknown_keys_are_taken_whatever_their_number() -> None:
    store = Store()
    key = b"tile\0\0\0\1"
    rows = store.stored.restore({key + store.index.encode(f"key {n}"): None for n in range(50)})
    assert rows.tolist() == list(range(50))
    assert store.stored.codec.encode_rows(rows) == [b""] * 50


def test_a_slot_that_was_used_again_is_cleared_once() -> None:
    store = Store()
    store.run([(False, "a", tile, 1) for tile in range(RING)])
    store.run([(False, "a", RING, 1)])  # in the slot of the first, while its cell is still held
    assert store.tiles.cells.read(store.index.in_use()).tiles.tolist() == list(range(RING + 1))
    store.drain()
    records = store.stored.forget(store.index.in_use())
    assert len(records) == len({name for name, _ in records}) == RING


@pytest.mark.parametrize("jumps", [1, 3, 50])
def test_memory_is_bounded_when_keys_come_and_go(jumps: int) -> None:
    store = Store()
    for round_ in range(40):
        store.run([(False, f"key-{round_}-{n}", round_ * jumps * RETAIN, 1) for n in range(10)])
        store.drain()
        store.forget_quiet()

    assert len(store.index) == 10
    assert store.index.capacity <= 20
