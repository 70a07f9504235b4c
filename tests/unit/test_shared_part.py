"""One partition's part in the shared windows, by itself: what it adds, tells and takes up again, by plain loops.

Over 300 lines: the model of one partition serves all that is tested of it.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.core.shared.contributor
from app.core.batches import EventBatch, LabelBatch
from app.core.intake.merge import BEGINNING_MS, Merged
from app.core.intake.pending import PendingEvents, Scored
from app.core.shared.board import PLACE, TILE, TIMES, SharedBoard
from app.core.shared.contributor import Contributor, Records, SharedReader, window_values
from app.core.shared.labels import SharedLabels
from app.core.shared.part import SharedPart
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from app.core.shared.repartition import Repartition
from app.core.tiles.keys import KeyIndex
from schemas.wire import AnswersRecord, KeyAnswers, RepartitionRecord, SharedTile, SharedTimes

STORES = (
    SharedStore("events", ("shop",), 10, None, b"cccc"),
    SharedStore("events", ("shop", "town"), 4, "amount", b"ssss"),
    SharedStore("labels", ("shop",), 10, "label", b"llll"),
)
PLAN = SharedPlan(
    STORES,
    (
        SharedColumn(0, 0, 10, 2, 0, "count"),
        SharedColumn(1, 1, 4, 3, 5, "mean"),
        SharedColumn(2, 2, 10, 1, 0, "sum"),
    ),
)
REACH_MS = 30  # two tiles of ten, and the one that an event is in
HORIZON_MS = 25
FIELDS = ("amount", "shop", "town")
NAN = float("nan")


@dataclass(frozen=True)
class Thing:
    """An event, or a label of the event of this id; both logs have come to ``time_ms`` with it."""

    is_event: bool
    time_ms: int
    id: str
    shop: str | None = None
    town: str | None = None
    amount: float = NAN
    label: float = NAN


#: Whether it is an event, how much later than what came before, its id, where, how much, and what came true.
THINGS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 12),
        st.sampled_from("uv"),
        st.sampled_from(["a", "b", "b", None]),
        st.sampled_from(["x", "y", "y", None]),
        st.sampled_from([1.0, -2.5, 2.0**-20, NAN, float("inf")]),
        st.sampled_from([0.0, 1.0]),
    ),
    min_size=8,
    max_size=30,
)


def in_time(found: list[tuple[Any, ...]]) -> list[Thing]:
    """A label is later than the events before it."""
    now_ms, things = 0, []
    for is_event, later_ms, id_, shop, town, amount, label in found:
        now_ms += later_ms + (not is_event)
        event = Thing(True, now_ms, id_, shop, town, amount)
        things.append(event if is_event else Thing(False, now_ms, id_, label=label))
    return things


Kept = dict[tuple[bytes, int], dict[Any, list[int]]]


@dataclass
class Plain:
    """By the definition, a thing at a time: by name of the store and tile, what there is of each key."""

    tiles: Kept = field(default_factory=lambda: defaultdict(dict))
    waiting: dict[str, Thing] = field(default_factory=dict)
    horizon_ms: int = HORIZON_MS
    event_ms: int = BEGINNING_MS

    def add(self, thing: Thing) -> None:
        event = self.meet(thing)
        if thing.is_event:
            if thing.shop is not None:
                self._add(b"cccc", thing.time_ms // 10, thing.shop, 1)
            if thing.shop is not None and thing.town is not None and np.isfinite(thing.amount):
                self._add(b"ssss", thing.time_ms // 4, (thing.shop, thing.town), int(thing.amount * 2**20))
        elif event is not None and event.shop is not None:
            self._add(b"llll", thing.time_ms // 10, event.shop, int(thing.label * 2**20))

    def meet(self, thing: Thing) -> Thing | None:
        """The event that a label is of: the last of its id, if it has no label yet and is not too old."""
        event = self.waiting.pop(thing.id, None)
        if thing.is_event:
            self.waiting[thing.id], self.event_ms = thing, thing.time_ms
            return None
        return None if event is None or event.time_ms < self.event_ms - self.horizon_ms else event

    def _add(self, name: bytes, tile: int, key: Any, amount: int) -> None:
        found = self.tiles[name, tile].setdefault(key, [0, 0])
        found[0] += 1
        found[1] += amount

    def ended(self, after_ms: int, until_ms: int) -> Kept:
        """The tiles that ended after the one time, and at or before the other."""
        return {
            (name, tile): found
            for (name, tile), found in self.tiles.items()
            if after_ms < (tile + 1) * hop_of(name) <= until_ms
        }


def hop_of(name: bytes) -> int:
    return {store.name: store.hop_ms for store in STORES}[name]


def offset_of(number: int) -> int:
    """Of the event or label of this number: a transactional topic has a gap after every fourth one here."""
    return number // 4 * 5 + number % 4


def offsets_of(first: int, count: int) -> Any:
    return np.array([offset_of(number) for number in range(first, first + count)], dtype=np.int64)


def run_of(things: list[Thing], first_event: int, first_label: int) -> tuple[Merged[None], EventBatch]:
    """A run as it comes from the merge."""
    events, labels = [t for t in things if t.is_event], [t for t in things if not t.is_event]
    before, seen = [], 0
    for thing in things:
        seen += thing.is_event
        if not thing.is_event:
            before.append(seen)
    times = np.array([t.time_ms for t in events], dtype=np.int64)
    label_times = np.array([t.time_ms for t in labels], dtype=np.int64)
    offsets, values = offsets_of(first_label, len(labels)), np.array([t.label for t in labels])
    batch = LabelBatch(offsets, label_times, [t.id for t in labels], values, [None] * len(labels))
    merged: Merged[None] = Merged(
        None, 0, len(events), last=True, before=np.array(before, dtype=np.int64), labels=batch, times_ms=times,
        label_times_ms=label_times,
    )  # fmt: skip
    columns = {
        "shop": np.array([t.shop for t in events], dtype=object),
        "town": np.array([t.town for t in events], dtype=object),
        "amount": np.array([t.amount for t in events], dtype=np.float64),
    }
    ids = [t.id for t in events]
    return merged, EventBatch(offsets_of(first_event, len(events)), times, ids, ids, columns)


def told(topic: dict[bytes, bytes]) -> Kept:
    """What the topic says of tiles, all pieces together."""
    kept: Kept = defaultdict(dict)
    for key, value in topic.items():
        if key[:1] != TILE:
            continue
        tile, _ = struct.unpack(">qH", key[5:])
        record = msgspec.msgpack.decode(value, type=SharedTile)
        numbers = (np.frombuffer(raw, "<i8").tolist() for raw in (record.counts, record.sums))
        for encoded, *pair in zip(record.keys, *numbers, strict=True):
            name = KeyIndex().decode(encoded)
            assert name not in kept[key[1:5], tile], "a key is in one piece alone"
            kept[key[1:5], tile][name] = pair
    return {place: found for place, found in kept.items() if found}


def logged(changelog: dict[bytes, bytes]) -> Kept:
    """What the changelog says of tiles."""
    kept: Kept = defaultdict(dict)
    for key, value in changelog.items():
        assert key[:1] == b"o"
        tile, *pair = struct.unpack("<qqq", value)
        kept[key[1:5], tile][KeyIndex().decode(key[5:])] = pair
    return dict(kept)


def pending_of(plain: Plain, fields: tuple[str, ...]) -> PendingEvents:
    """The events that wait where scoring has come so far."""
    pending = PendingEvents(plain.horizon_ms, with_changelog=False)
    for id_, event in plain.waiting.items():
        kept = tuple(getattr(event, name) for name in fields)
        pending.add(id_, Scored(event.time_ms, event.time_ms, "1", 0.5, kept), event.time_ms)
    pending.expire(plain.event_ms)
    return pending


@dataclass
class Partition:
    """The only partition of its pipeline, what it has written, and the point from which events are scored again."""

    things: list[Thing]
    plain: Plain = field(default_factory=Plain)
    topic: dict[bytes, bytes] = field(default_factory=dict)
    changelog: dict[bytes, bytes] = field(default_factory=dict)
    position: tuple[int, int, int] | None = None
    floor_ms: int = BEGINNING_MS
    at: int = 0
    scored: tuple[int, Plain] = field(default_factory=lambda: (0, Plain()))

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.board = SharedBoard(PLAN, [0])
        self.part = Contributor(self.board, 0, HORIZON_MS, FIELDS, with_drain=True)

    def run(self, count: int) -> None:
        """Add so many things, and on to the next event: labels go with the first event that is not older."""
        events = [place for place in range(self.at, len(self.things)) if self.things[place].is_event]
        stop = next((place for place in events if place + 1 >= self.at + count), max(events, default=self.at - 1)) + 1
        things = self.things[self.at : stop]
        seen = self.things[: self.at]
        first_event = sum(thing.is_event for thing in seen)
        self.part.add(*run_of(things, first_event, len(seen) - first_event))
        for place, thing in enumerate(things, self.at):
            if place >= self.added:
                self.plain.add(thing)
        self.at += len(things)
        self.added = max(self.added, self.at)

    added: int = 0

    def drain(self, scored_back_ms: int) -> None:
        """Commit, and say that all is scored but the newest; what is read again after a crash begins here or before."""
        floor_ms = self.board.floor_ms
        self.write(*self.part.drain(self.part.added_ms - scored_back_ms))
        self.position = self.part.position()
        self.board.score_to(0, self.part.scored_ms)
        self.check(floor_ms)
        topic, changes = self.part.drain(self.part.scored_ms)  # only what has no reader left by now
        assert changes == []
        assert all(value is None for key, value in topic if key[:1] == TILE)
        self.write(topic, changes)
        self.check(self.board.floor_ms)

    def write(self, topic: Records, changes: Records) -> None:
        for log, records in ((self.topic, topic), (self.changelog, changes)):
            for key, value in records:
                log.pop(key, None)
                if value is not None:
                    log[key] = value

    def check(self, floor_ms: int) -> None:
        added_ms = self.part.added_ms
        assert told(self.topic) == self.plain.ended(floor_ms, added_ms)
        assert logged(self.changelog) == self.plain.ended(added_ms, 10**9)
        names = {store.name: number for number, store in enumerate(STORES)}
        for (name, tile), expected in self.plain.ended(self.board.floor_ms, 10**9).items():
            index = self.board.indexes[STORES[names[name]].key]
            found = self.board.contribution(names[name], tile, 0)
            keys = [index.decode(index.encoded(code)) for code in found.codes.tolist()]
            assert dict(zip(keys, found.values.T.tolist(), strict=True)) == expected
        if added_ms > BEGINNING_MS:
            times = msgspec.msgpack.decode(self.topic[TIMES + PLAN.name], type=SharedTimes)
            assert (times.added_ms, times.scored_ms) == (added_ms, self.part.scored_ms)
        assert not self.part.has_news

    def score(self) -> None:
        """Scoring has come as far as the last commit: it goes on from here."""
        plain = Plain()
        if self.position is not None:
            for thing in self.things[: self.at]:
                plain.add(thing)
            self.scored = self.at, plain

    def crash(self, *, with_state: bool) -> None:
        """A new owner goes on from what was committed, or adds everything anew."""
        self.begin()
        for key, value in [*self.topic.items()]:
            self.board.hear(0, key, value)
        position = self.position
        if not with_state or position is None:
            self.part.begin_anew()
            self.at, self.added, self.position = 0, 0, None
            self.scored, self.plain, self.changelog = (0, Plain()), Plain(), {}
            return
        self.at, scored = self.scored
        others: Records = [(b"p", b"x"), (b"ozzzza", bytes(24)), (b"occcc" + KeyIndex().encode("gone"), None)]
        self.part.restore(position, [*others, *self.changelog.items()], pending_of(scored, FIELDS))
        self.added = self.committed
        self.plain = Plain()
        for thing in self.things[: self.added]:
            self.plain.add(thing)

    @property
    def committed(self) -> int:
        """How many things had been added when they were last committed."""
        assert self.position is not None
        _, next_event, next_label = self.position
        events, labels = 0, 0
        for place, thing in enumerate(self.things):
            if offset_of(events if thing.is_event else labels) >= (next_event if thing.is_event else next_label):
                return place
            events, labels = events + thing.is_event, labels + (not thing.is_event)
        return len(self.things)


def follow(partition: Partition, words: list[tuple[str, int]]) -> None:
    for word, number in words:
        if word == "run":
            partition.run(number)
        elif word == "drain":
            partition.drain(number)
            if number != 5:
                partition.score()
        else:
            partition.crash(with_state=number > 0)


WORDS = st.lists(
    st.tuples(st.just("run"), st.integers(1, 9))
    | st.tuples(st.just("drain"), st.sampled_from([0, 5, 40]))
    | st.tuples(st.just("crash"), st.integers(0, 5)),
    max_size=6,
)
LAST_WORDS = [
    *[("run", 4), ("drain", 0), ("crash", 1)],
    *[("run", 5), ("drain", 5), ("crash", 1)],
    *[("run", 99), ("drain", 40)],
]


@pytest.mark.slow
@pytest.mark.parametrize("piece_bytes", [80, 250_000])
@settings(max_examples=40)
@given(found=THINGS, words=WORDS)
def test_what_is_told_and_logged_is_what_the_logs_say_whoever_reads_them_again(
    piece_bytes: int, found: list[tuple[Any, ...]], words: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.core.shared.contributor, "_PIECE_BYTES", piece_bytes)
        follow(Partition(in_time(found)), [*words, *LAST_WORDS])


@pytest.mark.slow
@pytest.mark.parametrize("fields", [(), FIELDS])
@settings(max_examples=40)
@given(found=THINGS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9), restart=st.integers(0, 6))
def test_a_label_finds_the_last_event_of_its_id_once_and_within_the_horizon(
    fields: tuple[str, ...], found: list[tuple[Any, ...]], sizes: list[int], restart: int
) -> None:
    things, wanted = in_time(found), fields[1:]
    plain = Plain(horizon_ms=5)
    labels = SharedLabels(5, fields, wanted)
    at = 0
    for number, size in enumerate([*sizes, len(things)]):
        if number == restart:
            labels = SharedLabels(5, fields, wanted)
            labels.restore(pending_of(plain, fields))
        run = things[at : at + size]
        at += size
        outcomes, places = labels.join(*run_of(run, 0, 0))
        met = [(plain.meet(thing), thing) for thing in run]
        assert places.tolist() == [
            place for place, event in enumerate(e for e, t in met if not t.is_event) if event is not None
        ]
        assert set(outcomes) == {"label", *wanted}
        assert outcomes["label"].tolist() == [t.label for event, t in met if event is not None]
        for name in wanted:
            assert outcomes[name].tolist() == [getattr(event, name) for event, _ in met if event is not None]
        assert all(time_ms >= plain.event_ms - 5 for time_ms, _ in labels._waiting.values()), "the rest is forgotten"


# -- what is added, by hand --------------------------------------------------------------------------------------------


def event_at(time_ms: int, id_: str = "u", **of: Any) -> Thing:
    return Thing(True, time_ms, id_, **{"shop": "a", "town": "x", "amount": 1.0, **of})


def totals_of(board: SharedBoard, store: int) -> dict[int, list[int]]:
    """Count and sum of each tile, of all keys of partition 0."""
    tiles = [tile for number, tile in board.pieces(0) if number == store]
    return {tile: board.contribution(store, tile, 0).values.sum(axis=1).tolist() for tile in sorted(tiles)}


def test_an_event_that_is_late_for_its_tile_is_counted_and_its_tile_is_told_again() -> None:
    partition = Partition([event_at(12, "v"), event_at(17, "w"), event_at(20), event_at(31)])
    partition.run(1)
    partition.part.come_to(20)
    partition.drain(0)
    assert partition.part.late == 0
    partition.run(1)  # the tile from 10 on has ended, and that of four from 16 on
    assert partition.part.late == 2
    partition.drain(0)
    partition.run(1)
    assert partition.part.late == 2  # at 20 no tile has ended that holds it
    partition.drain(0)
    assert totals_of(partition.board, 0) == {1: [2, 2], 2: [1, 1]}


def test_how_far_a_partition_has_come_never_goes_back() -> None:
    partition = Partition([event_at(12)])
    partition.part.come_to(20)
    partition.part.come_to(15)
    partition.run(1)
    assert (partition.part.added_ms, partition.board.added_ms[0]) == (20, 20)


@pytest.mark.parametrize(("time_ms", "is_added"), [(9, False), (10, True)])
def test_what_ended_before_the_floor_is_not_added(time_ms: int, *, is_added: bool) -> None:
    partition = Partition([event_at(time_ms)])
    partition.board.score_to(0, 10 + REACH_MS)
    partition.run(1)
    assert partition.board.floor_ms == 10
    assert (totals_of(partition.board, 0) == {1: [1, 1]}) is is_added
    assert partition.part.late == 0


def test_what_nobody_reads_any_more_is_cleared_from_the_topic_once() -> None:
    partition = Partition([event_at(5), event_at(12), event_at(24, shop=None), event_at(25, town=None), event_at(55)])
    partition.run(5)
    told_first, _ = partition.part.drain(55)
    tiles = {key for key, value in told_first if key[:1] == TILE and value is not None}
    assert {(key[1:5], *PLACE.unpack(key[5:])) for key in tiles} == {
        *((b"cccc", 0, 0), (b"cccc", 1, 0), (b"cccc", 2, 0), (b"ssss", 1, 0), (b"ssss", 3, 0)),
    }
    partition.board.score_to(0, 50)  # up to 20 there is no reader left
    cleared, _ = partition.part.drain(55)
    assert {key for key, value in cleared if value is None} == tiles - {TILE + b"cccc" + PLACE.pack(2, 0)}
    assert partition.part.drain(55) == ([], [])
    assert sorted(totals_of(partition.board, 0)) == [2, 5]  # nor is the rest kept in memory


def test_what_was_said_of_scoring_stands_whoever_goes_on() -> None:
    partition = Partition([event_at(30)])
    partition.run(1)
    partition.drain(0)
    assert partition.part.scored_ms == 30
    partition.part.drain(20)
    assert partition.part.scored_ms == 30
    for with_state in (True, False):
        partition.crash(with_state=with_state)
        assert partition.part.scored_ms == 30


def test_a_new_owner_without_a_state_is_heard_as_one_that_has_come_nowhere() -> None:
    partition = Partition([event_at(5), event_at(30)])
    partition.run(2)
    partition.drain(0)
    partition.crash(with_state=False)
    assert totals_of(partition.board, 0) == {}
    assert partition.board.added_ms[0] == BEGINNING_MS
    cleared, _ = partition.part.drain(BEGINNING_MS)
    assert {key for key, value in cleared if value is None} == {key for key in partition.topic if key[:1] == TILE}
    assert all(value is not None for _, value in partition.part.drain(BEGINNING_MS)[0])


@pytest.mark.parametrize("limit", [60, 100, 100_000])
def test_the_pieces_of_a_tile_are_no_larger_than_they_may_be_and_no_more_than_it_takes(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(app.core.shared.contributor, "_PIECE_BYTES", limit)
    things = [event_at(3, shop=f"shop {number:02}") for number in range(40)]
    partition = Partition([*things, event_at(10)])
    partition.run(41)
    topic, _ = partition.part.drain(0)
    sizes = [len(value) for key, value in topic if key[:5] == TILE + b"cccc" and value is not None]
    key_bytes = len(KeyIndex().encode("shop 00"))
    assert max(sizes) <= limit + key_bytes + 24
    assert len(sizes) <= 1 + 40 * (key_bytes + 24) // limit
    partition.topic = {key: value for key, value in topic if value is not None}
    assert len(told(partition.topic)[b"cccc", 0]) == 40


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("count", [0.0, 4.0, 1.0]),
        ("rate", [0.0, 0.2, 0.05]),
        ("sum", [0.0, 1.5, -2.0]),
        ("mean", [NAN, 0.375, -2.0]),
    ],
)
def test_a_shared_window_says_what_its_count_and_sum_say(aggregate: str, expected: list[float]) -> None:
    """A window of twenty seconds: four values of 1.5 together, one of -2, and none."""
    column = SharedColumn(0, 0, 5_000, 4, 0, aggregate)
    counts, sums = np.array([0, 4, 1]), np.array([0, 3 * 2**19, -(2**21)])
    assert np.array_equal(window_values(column, counts, sums), expected, equal_nan=True)


REPARTITIONED = SharedPlan(
    (*STORES, SharedStore("events", ("town",), 10, None, b"rrrr", repartition=True)),
    (*PLAN.columns, SharedColumn(3, 3, 10, 2, 0, "count")),
)


@pytest.mark.parametrize("with_repartitioned", [False, True])
def test_an_event_sees_what_is_there_of_its_keys(*, with_repartitioned: bool) -> None:
    board = SharedBoard(REPARTITIONED, [0])
    part = Contributor(board, 0, HORIZON_MS, FIELDS, with_drain=False)
    seen = [
        event_at(1), event_at(8, town="y"), event_at(12, amount=4.0), event_at(13, shop="b", amount=8.0),
        Thing(False, 14, "u", label=3.0),
    ]  # fmt: skip
    part.add(*run_of(seen, 0, 0))
    reading = [event_at(21), event_at(21, shop=None), event_at(21, shop="new"), event_at(21, town=None)]
    merged, events = run_of(reading, 4, 1)
    matrix = np.full((4, 5), -1.0)
    SharedReader(board, with_repartitioned=with_repartitioned).fill(matrix, events, merged.times_ms)
    # Of a: at 1, 8 and 12. At 16 or before there is the amount of 12 alone, in the twelve that begin at 4. The label
    # is of the last event of its id, and in the tile of 10.
    by_town = [3.0, 3.0, 3.0, NAN] if with_repartitioned else [-1.0] * 4
    expected = [[3, NAN, 0, 3], [4, NAN, NAN, NAN], [0, NAN, 0, NAN], by_town, [-1] * 4]
    assert np.array_equal(matrix.T[[0, 1, 3, 4]], np.array(expected)[[0, 1, 3, 4]], equal_nan=True)


# -- put together ------------------------------------------------------------------------------------------------------


def part_of(partitions: int = 2, most_held: int | None = 99) -> SharedPart[None]:
    return SharedPart(SharedBoard(PLAN, range(partitions)), 0, HORIZON_MS, FIELDS, most_held=most_held)


def add_events(part: SharedPart[None], *times_ms: int, first: int = 0, is_stale: bool = False) -> None:
    part.add(*run_of([event_at(time_ms) for time_ms in times_ms], first, 0), is_stale=is_stale)


def take_all(part: SharedPart[None]) -> list[tuple[list[int], bool]]:
    """Times and staleness of each run that may read."""
    runs = []
    while (ready := part.take(99)) is not None:
        runs.append((ready.merged.times_ms.tolist(), ready.is_stale))
    return runs


def test_what_is_drained_is_remembered_until_then_and_elsewhere_not() -> None:
    """A replay never drains: it would remember all its tiles."""
    drained, replayed = part_of(), part_of(most_held=None)
    for part in (drained, replayed):
        add_events(part, 5, 12)
        assert part.has_news
    topic, changes, asked = drained.drain(BEGINNING_MS, 0)
    assert {key[:1] for key, _ in topic} == {TILE, TIMES}
    assert {key[1:5] for key, _ in changes} == {b"cccc", b"ssss"}
    assert asked == []
    assert not drained.has_news
    assert not replayed.contributor._touched


@pytest.mark.parametrize(("most_held", "is_full"), [(None, False), (2, True), (3, True), (4, False)])
def test_no_more_is_taken_when_so_many_events_wait(most_held: int | None, *, is_full: bool) -> None:
    part = part_of(most_held=most_held)
    assert not part.is_full
    add_events(part, 5, 5, 6)
    assert part.is_full is is_full


def test_an_event_waits_until_the_slowest_has_come_as_far_as_its_windows_reach() -> None:
    """At 37, the tiles of ten before 30 and those of four before 32 count."""
    part = part_of(partitions=3)
    part.board.come_to(1, 40)
    assert not part.is_blocked
    add_events(part, 37)
    for added_ms, is_blocked in ((3, True), (31, True), (32, False)):
        part.board.come_to(2, added_ms)
        assert part.is_blocked is is_blocked
        assert part.awaited == (2, added_ms)
        assert take_all(part) == ([] if is_blocked else [([37], False)])


@pytest.mark.parametrize(("other_ms", "expected"), [(4, None), (7, None), (8, 8), (14, 14)])
def test_a_silent_partition_is_moved_on_when_another_waits_for_its_next_tile(
    other_ms: int, expected: int | None
) -> None:
    part = part_of()
    add_events(part, 5)
    part.board.come_to(1, other_ms)
    assert part.others_ms == expected


@pytest.mark.parametrize(
    ("times_ms", "runs"),
    [
        ([30, 34], [([30, 34], False)]),
        ([12, 29], [([12, 29], True)]),
        ([12, 29, 30, 34], [([12, 29], True), ([30, 34], False)]),
    ],
    ids=["none", "all", "some"],
)
def test_events_from_before_what_was_said_to_be_scored_are_stale(
    times_ms: list[int], runs: list[tuple[list[int], bool]]
) -> None:
    part = part_of(partitions=1)
    empty = run_of([], 0, 0)
    part.come_to(*empty, 30, BEGINNING_MS)
    assert take_all(part) == [([], False)]
    part.drain(BEGINNING_MS, 0)
    add_events(part, *times_ms)
    part.come_to(*empty, 99, BEGINNING_MS)
    assert take_all(part) == [*runs, ([], False)]
    add_events(part, 100, first=9, is_stale=True)
    assert take_all(part) == [([100], True)]


def test_a_promise_comes_out_with_the_labels_that_it_was_made_for() -> None:
    part = part_of()
    part.come_to(*run_of([Thing(False, 12, "u", label=1.0)], 0, 0), 20, 17)
    ready = part.take(5)
    assert ready is not None
    assert (ready.promised_ms, len(ready.merged.labels), part.board.added_ms[0]) == (17, 1, 20)


def test_what_was_scored_counts_when_the_oldest_drain_has_been_committed() -> None:
    part = part_of(partitions=1)
    add_events(part, 12, 25)
    assert part.take(1) is not None
    part.drain(12, offset_of(1))  # the second is held
    assert part.take(1) is not None
    part.drain(25, offset_of(2))
    part.contributor.come_to(60)
    part.drain(25, offset_of(1))  # the second is to be read again
    part.drain(25, offset_of(1) + 1)  # and now all that was added is scored, silence too
    found = []
    for _ in range(4):
        found.append(part.board.scored_ms[0])
        part.committed()
    assert [*found, part.board.scored_ms[0]] == [BEGINNING_MS, 12, 25, 25, 60]


def test_where_nothing_is_drained_what_nobody_reads_is_forgotten_as_it_is_scored() -> None:
    part = part_of(partitions=1, most_held=None)
    add_events(part, 12, 45, 55)
    assert sorted(totals_of(part.board, 0)) == [1, 4, 5]
    assert part.take(2) is not None
    part.settle(45, offset_of(2))
    assert part.board.scored_ms[0] == 45
    assert part.board.floor_ms == 45 - REACH_MS
    assert part.take(2) is not None
    part.settle(55, offset_of(2) + 1)
    assert sorted(totals_of(part.board, 0)) == [4, 5]


def answer_to(*offsets: int) -> bytes:
    """So many values there are of each event's key: as many as its offset says, and ten."""
    counts = np.array(offsets, dtype="<i8") + 10
    amounts = np.concatenate((counts, 0 * counts)).tobytes()
    return msgspec.msgpack.encode(AnswersRecord("set", 7, [KeyAnswers(0, (counts - 10).tobytes(), amounts)]))


def test_events_of_repartitioned_windows_wait_for_answers_and_are_filled_with_them() -> None:
    repartition = Repartition(REPARTITIONED.repartitioned(), "set", 0, 1, 7)
    board = SharedBoard(REPARTITIONED, range(1))
    part: SharedPart[None] = SharedPart(board, 0, HORIZON_MS, FIELDS, repartition, most_held=9)
    assert not part.has_news
    merged, events = run_of([event_at(5), event_at(12), event_at(12, town=None), event_at(47)], 0, 0)
    part.add(merged, events, is_stale=False)
    assert part.has_news
    assert part.awaited == (None, 0)
    assert part.is_blocked
    repartition.hear(0, answer_to(0, 1))
    assert (part.awaited, part.is_blocked) == ((None, 3), False)  # one has no such key
    ready = part.take(2)
    assert ready is not None
    assert ready.merged.times_ms.tolist() == [5, 12]
    matrix = np.full((2, 4), -1.0)
    part.fill(matrix, events.take(np.arange(2)), ready.merged.times_ms)
    assert matrix[:, [0, 3]].tolist() == [[0.0, 10.0], [1.0, 11.0]]
    assert part.awaited == (None, 2 + 1)  # the third of all, and the fourth has no answer

    board.added_ms[0] = 12  # as if another owner had come on no further
    board.low_ms = 12
    assert part.take(9) is not None
    assert part.awaited == (0, 12)


def test_with_repartitioned_windows_questions_are_drained_and_answers_forgotten() -> None:
    repartition = Repartition(REPARTITIONED.repartitioned(), "set", 0, 1, 7)
    part: SharedPart[None] = SharedPart(
        SharedBoard(REPARTITIONED, range(1)), 0, HORIZON_MS, FIELDS, repartition, most_held=9
    )
    add_events(part, 5, 12)
    *_, asked = part.drain(BEGINNING_MS, 0)
    records = [msgspec.msgpack.decode(value, type=RepartitionRecord) for _, value in asked]
    assert [(r.added_ms, r.next_offset, len(r.parts), len(r.questions)) for r in records] == [(12, 0, 1, 1)]
    assert not part.contributor.has_news
    assert not part.has_news
    assert totals_of(part.board, 3) == {}, "what is repartitioned is not on the board"
    repartition.hear(0, answer_to(0))
    repartition.hear(1, answer_to(1))
    assert part.take(1) is not None
    part.drain(5, 1)
    part.committed()
    assert repartition.answers.position(0) == 0
    part.committed()
    assert repartition.answers.position(0) == 1, "an answer to an event that is scored may be deleted"
