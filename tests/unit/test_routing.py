"""Laws of routing: each entity in one partition, nothing lost or doubled, in the order of the logs and of time."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

import app.core.entities.routing
from app.core.batches import RecordBatch
from app.core.entities.copies import Copy, read_origin
from app.core.entities.routing import Place, Routed, Routing, least_promise
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER

START_MS = 1_700_000_000_000
PARTITIONS = 3

#: Value, key and headers of a record.
Record = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]


@pytest.fixture(scope="module")
def shop(small_pipeline: Pipeline) -> Pipeline:
    events = replace(small_pipeline.events, repartition=True)
    return replace(small_pipeline, partitions=PARTITIONS, events=events)


def by_java(entity: str) -> int:
    return int((murmur2(entity.encode()) & 0x7FFFFFFF) % PARTITIONS)


def event(entity: str, at: int, key: bytes | None = None) -> Record:
    body = {"order_id": f"o{at}", "ordered_ms": START_MS + at, "customer": entity, "amount": 1.5, "items": 1}
    return json.dumps(body).encode(), key, (("from", b"shop"),)


def label(entity: str | None, at: int, key: bytes | None = None) -> Record:
    body: dict[str, Any] = {"event_id": f"o{at}", "label": 1, "label_time_ms": START_MS + at}
    if entity is not None:
        body["customer"] = entity
    return json.dumps(body).encode(), key, ()


def promise(at: int) -> Record:
    return None, None, ((WATERMARK_HEADER, str(START_MS + at).encode()),)


@dataclass
class World:
    """Logs that are all there, and what a router has fetched of them and written so far."""

    pipeline: Pipeline
    logs: dict[Place, list[Record]]
    most: int = 5
    fetched: dict[Place, int] = field(default_factory=lambda: defaultdict(int))
    written: list[Routed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.routing = Routing(self.pipeline)

    def fetch(self, place: Place, count: int) -> None:
        start = self.fetched[place]
        records = self.logs.get(place, [])[start : start + count]
        if records:
            self.fetched[place] += len(records)
            values, keys, headers = (list(column) for column in zip(*records, strict=True))
            offsets = np.arange(start, start + len(records), dtype=np.int64)
            stamps = np.full(len(records), START_MS, dtype=np.int64)
            self.routing.add(RecordBatch(*place, offsets, stamps, keys, values, headers))
        behind = {at for at in self.routing.places if self.fetched[at] < len(self.logs.get(at, []))}
        while (routed := self.routing.take(self.most, behind)) is not None:
            self.written.append(routed)
            self.check()
        self.check()

    def check(self) -> None:
        """What is queued is what was fetched and not written yet."""
        reached: dict[Place, int] = defaultdict(int)
        for routed in self.written:
            reached |= routed.label_ends | routed.event_ends
        queued = {place: self.fetched[place] - reached[place] for place in self.routing.places}
        assert self.routing.rows == sum(queued.values())
        for place, count in queued.items():
            assert self.routing.is_empty(place) == (count == 0)
            assert (self.routing.queued_bytes(place) == 0) == (count == 0)

    def finish(self) -> None:
        for place in self.routing.places:
            self.fetch(place, 1000)

    def copies(self, kind: str) -> list[tuple[int, Copy]]:
        """Partition and copy, as written; within one write the partitions one after the other."""
        return [
            (partition, copy)
            for routed in self.written
            for partition, copies in getattr(routed, kind).items()
            for copy in copies
        ]


ENTITIES = st.sampled_from([f"c{number}" for number in range(7)])
KEYS = st.sampled_from([None, b"", b"c1", b"other"])
BAD = st.sampled_from([(None, b"k", ()), (b"", None, ()), (b"{", b"c1", ()), event("", 5), (b"[1]", None, ())])
TIMES = st.integers(0, 12)
EVENTS = st.lists(st.one_of(st.builds(event, ENTITIES, TIMES, KEYS), BAD), max_size=8)
LABELS = st.lists(
    st.one_of(st.builds(label, st.one_of(st.none(), ENTITIES), TIMES, KEYS), st.builds(promise, TIMES), BAD), max_size=6
)
FETCHES = st.lists(st.tuples(st.integers(0, 2 * PARTITIONS - 1), st.integers(1, 4)), max_size=30)


def logs_of(pipeline: Pipeline, events: list[list[Record]], labels: list[list[Record]]) -> dict[Place, list[Record]]:
    topics = pipeline.topics
    return {Place(topics.sent_events, k): log for k, log in enumerate(events)} | {
        Place(topics.sent_labels, k): log for k, log in enumerate(labels)
    }


def entity_of(record: Record) -> str | None:
    """By hand, of an event or a label: what its value says, or else the key of a label that is not its event's id."""
    try:
        body = json.loads(record[0] or b"")
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    if "label" in body and "customer" not in body:
        return None if (record[1] or b"").decode() == body["event_id"] else (record[1] or b"").decode() or None
    return body["customer"] or None


@given(
    st.lists(EVENTS, min_size=PARTITIONS, max_size=PARTITIONS),
    st.lists(LABELS, min_size=PARTITIONS, max_size=PARTITIONS),
    FETCHES,
    st.integers(1, 6),
)
def test_each_record_is_copied_once_as_it_is_to_the_partition_of_its_entity(
    shop: Pipeline, events: list[list[Record]], labels: list[list[Record]], fetches: list[tuple[int, int]], most: int
) -> None:
    logs = logs_of(shop, events, labels)
    world = World(shop, logs, most)
    for number, count in fetches:
        world.fetch(world.routing.places[number], count)
    world.finish()
    for kind, topic in (("events", shop.topics.sent_events), ("labels", shop.topics.sent_labels)):
        seen: dict[int, list[int]] = defaultdict(list)
        for partition, (key, value, time_ms, headers) in world.copies(kind):
            origin = read_origin(headers)
            assert origin is not None
            record = logs[Place(topic, origin[0])][origin[1]]
            assert (value, key, tuple(headers[1:])) == record
            assert time_ms == START_MS
            entity = entity_of(record)
            assert partition == (by_java(entity) if entity is not None else origin[0])
            seen[origin[0]].append(origin[1])
        marks = {place: {n for n, record in enumerate(log) if is_promise(record)} for place, log in logs.items()}
        for partition in range(PARTITIONS):
            place = Place(topic, partition)
            assert sorted(seen[partition]) == [n for n in range(len(logs[place])) if n not in marks[place]]
    # What is written of a partition, to whichever partition, says how far that has come, and goes on from there.
    reached: dict[Place, int] = defaultdict(int)
    for routed in world.written:
        ends = routed.label_ends | routed.event_ends
        for place, end in ends.items():
            assert end > reached[place]
            reached[place] = end
    assert reached == {place: len(log) for place, log in logs.items() if log}


def is_promise(record: Record) -> bool:
    return any(name == WATERMARK_HEADER for name, _ in record[2])


@given(st.lists(EVENTS, min_size=PARTITIONS, max_size=PARTITIONS), FETCHES)
def test_no_record_overtakes_one_of_its_own_partition(
    shop: Pipeline, events: list[list[Record]], fetches: list[tuple[int, int]]
) -> None:
    world = World(shop, logs_of(shop, events, []))
    for number, count in fetches:
        world.fetch(world.routing.places[number], count)
    world.finish()
    order: dict[tuple[int, int], list[int]] = defaultdict(list)
    for partition, copy in world.copies("events"):
        origin = read_origin(copy[3])
        assert origin is not None
        order[partition, origin[0]].append(origin[1])
    assert all(offsets == sorted(offsets) for offsets in order.values())


IN_ORDER = st.lists(st.tuples(TIMES, ENTITIES), max_size=10).map(sorted)


@given(
    st.lists(IN_ORDER, min_size=PARTITIONS, max_size=PARTITIONS),
    st.lists(IN_ORDER, min_size=PARTITIONS, max_size=PARTITIONS),
    FETCHES,
    st.integers(1, 6),
)
def test_a_backlog_in_order_comes_out_in_order_however_it_is_fetched(
    shop: Pipeline,
    events: list[list[tuple[int, str]]],
    labels: list[list[tuple[int, str]]],
    fetches: list[tuple[int, int]],
    most: int,
) -> None:
    logs = logs_of(
        shop,
        [[event(entity, at) for at, entity in log] for log in events],
        [[label(entity, at) for at, entity in log] for log in labels],
    )
    world = World(shop, logs, most)
    for number, count in fetches:
        world.fetch(world.routing.places[number], count)
    world.finish()
    newest_event = -1
    for routed in world.written:
        of_labels = [time_of(copy) for copies in routed.labels.values() for copy in copies]
        of_events = [time_of(copy) for copies in routed.events.values() for copy in copies]
        assert all(time > newest_event for time in of_labels)  # not after an event that should see it
        assert all(time >= newest_event for time in of_events)
        newest_event = max([newest_event, *of_events])
        taken = of_labels + of_events
        assert sum(time < max(taken) for time in taken) < most  # more of the same time alone
        for copies in (*routed.events.values(), *routed.labels.values()):
            times = [time_of(copy) for copy in copies]
            assert times == sorted(times)


def time_of(copy: Copy) -> int:
    body = json.loads(copy[1] or b"")
    return int(body.get("ordered_ms") or body["label_time_ms"]) - START_MS


def test_what_all_partitions_promise_comes_after_all_that_was_before_it(shop: Pipeline) -> None:
    world = World(
        shop,
        logs_of(
            shop,
            [[event("a", 1), event("b", 9)], [event("c", 4)], []],
            [[label("a", 2), promise(5), label("b", 7)], [promise(8)], [promise(6)]],
        ),
    )
    world.finish()
    told: list[Any] = []
    promised: dict[int, int] = {}
    for routed in world.written:
        promised |= routed.promises
        told += [time_of(copy) for copies in routed.events.values() for copy in copies]
        least = least_promise(promised, PARTITIONS)
        if least is not None:
            told.append(("all promise", least - START_MS))
            promised = {}
    assert told == [1, 4, ("all promise", 5), 9]


def test_a_time_that_is_not_believed_holds_nothing_up(shop: Pipeline) -> None:
    far = event("a", 400 * 86_400_000)
    world = World(shop, logs_of(shop, [[far, event("a", 2)], [event("b", 1)], []], []))
    world.fetch(world.routing.places[0], 1)
    assert not world.written  # partition 1 has more than was fetched
    world.fetch(world.routing.places[1], 1)
    assert [len(copies) for routed in world.written for copies in routed.events.values()] == [1]
    world.finish()
    assert len(world.copies("events")) == 3


def test_a_queue_counts_its_records_until_all_that_came_with_them_are_taken(shop: Pipeline) -> None:
    """Of each a hundred bytes beside its value: its key, its headers, and what holds them."""
    routing, place = Routing(shop), Place(shop.topics.sent_events, 1)
    values, later = ([event("a", at)[0] for at in times] for times in ((0, 1), (3, 4, 5)))
    at = np.arange(3, dtype=np.int64)
    routing.add(RecordBatch(*place, at, START_MS + at, [b"a", b"a", b"a"], [None, *values]))
    routing.add(RecordBatch(*place, at + 3, START_MS + at, [b"a", b"a", b"a"], later))
    sizes = [sum(map(len, filter(None, of))) + 300 for of in (values, later)]
    found = []
    for most in (2, 2, 1, 9):
        found.append((routing.rows, routing.queued_bytes(place), routing.is_empty(place)))
        assert routing.take(most, ()) is not None
    found.append((routing.rows, routing.queued_bytes(place), routing.is_empty(place)))

    assert found == [
        (6, sum(sizes), False),
        (4, sum(sizes), False),
        (2, sizes[1], False),
        (1, sizes[1], False),
        (0, 0, True),
    ]
    routing.add(RecordBatch(*place, at + 6, START_MS + at, [b"a", b"a", b"a"], later))
    routing.clear()
    assert (routing.rows, routing.queued_bytes(place), routing.is_empty(place)) == (0, 0, True)


def test_promises_of_one_time_go_together_and_are_as_new_as_the_newest_of_their_records(shop: Pipeline) -> None:
    routing = Routing(shop)
    for partition, (at, stamp_ms) in enumerate([(5, 70), (5, 90), (6, 80)]):
        offsets, stamps = np.array([40 + partition]), np.array([START_MS + stamp_ms])
        place = Place(shop.topics.sent_labels, partition)
        routing.add(RecordBatch(*place, offsets, stamps, [None], [None], [promise(at)[2]]))

    first, second = routing.take(9, ()), routing.take(9, ())

    assert first is not None
    assert second is not None
    assert (first.promises, first.promised_at_ms) == ({0: START_MS + 5, 1: START_MS + 5}, START_MS + 90)
    assert first.label_ends == {Place(shop.topics.sent_labels, 0): 41, Place(shop.topics.sent_labels, 1): 42}
    assert (second.promises, second.promised_at_ms) == ({2: START_MS + 6}, START_MS + 80)
    assert routing.take(9, ()) is None


def test_a_promise_goes_as_soon_as_all_have_come_as_far(shop: Pipeline) -> None:
    routing = Routing(shop)
    places = [Place(shop.topics.sent_labels, partition) for partition in range(2)]
    for place in places:
        routing.add(RecordBatch(*place, np.array([0]), np.array([START_MS]), [None], [None], [promise(5)[2]]))
    event_place = Place(shop.topics.sent_events, 0)
    routing.add(RecordBatch(*event_place, np.array([0]), np.array([START_MS]), [None], [event("a", 6)[0]]))

    routed = routing.take(9, {places[1]})  # more is to come there, of that time or later

    assert routed is not None
    assert routed.promises == {0: START_MS + 5, 1: START_MS + 5}
    assert routing.take(9, {places[1]}) is None
    assert routing.take(9, {event_place}) is not None


def test_an_entity_goes_to_the_same_partition_when_more_came_than_are_remembered(
    shop: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.core.entities.routing, "_MOST_KNOWN", 4)
    routing = Routing(shop)
    names = [f"c{number % 9}" for number in range(30)]
    at = np.arange(len(names), dtype=np.int64)
    values = [event(name, 1)[0] for name in names]
    routing.add(RecordBatch(shop.topics.sent_events, 1, at, START_MS + at, [None] * len(at), values))

    assert len(routing._known) <= 4
    routed = routing.take(99, ())
    assert routed is not None
    assert {
        partition: [json.loads(copy[1] or b"")["customer"] for copy in copies]
        for partition, copies in routed.events.items()
    } == {partition: [name for name in names if by_java(name) == partition] for partition in range(PARTITIONS)}


def test_what_stands_for_unreadable_records_says_so_in_its_copy(shop: Pipeline) -> None:
    routing = Routing(shop)
    at = np.array([7], dtype=np.int64)
    headers = [(("streamgauge-unreadable", b""),)]
    routing.add(RecordBatch(shop.topics.sent_events, 1, at, at, [None], [None], headers, {0: ("it is damaged", 99)}))
    routed = routing.take(10, ())
    assert routed is not None
    assert routed.events == {
        1: [(None, None, 7, [("streamgauge-origin", b"1/7"), ("streamgauge-unreadable", b"99 it is damaged")])]
    }
