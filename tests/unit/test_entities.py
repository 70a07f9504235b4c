"""What partitions tell of their entities, and what is found: whatever dies, and in whatever order it is heard."""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import app.core.entities.log
from app.core.entities.directory import NOWHERE, EntityDirectory, Stray
from app.core.entities.log import EntityLog
from app.core.records.entities import CHUNK, Place, read_entities
from app.core.records.rules import RecordRules
from app.core.tiles.hash_runs import HashRuns, hash64
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import EntityChunk, decode_packed, encode_packed

SPAN_MS = 100
RULES = RecordRules(Topics("p", 4), "m", 0, 10**6, 0, 0)
Record = tuple[bytes, bytes | None]
Event = tuple[str, int]


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def hashes(*names: str) -> np.ndarray:
    return ints([hash64(name.encode()) for name in names])


@dataclass
class Topic:
    """Committed records of one partition, as a compacted topic keeps them."""

    records: list[Record] = field(default_factory=list)

    def compacted(self) -> list[Record]:
        newest = dict(self.records)
        return [(key, value) for key, value in newest.items() if value is not None]


class Owner:
    """Who has a partition: sees its events, and writes in transactions that may be lost with all that it knows."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.committed = 0
        self.take_over()

    def take_over(self) -> None:
        self.log = EntityLog(SPAN_MS, RULES)
        self.log.restore(self.topic.records)
        self.seen = self.committed

    def see(self, events: list[Event], cut: int) -> None:
        batch = events[self.seen : self.seen + cut]
        self.log.see([name for name, _ in batch], ints([time for _, time in batch]))
        self.seen += len(batch)

    def commit(self) -> None:
        self.topic.records += self.log.drain()
        self.committed = self.seen


class Reader:
    """Reads partitions on from where it was."""

    def __init__(self, topics: dict[int, Topic]) -> None:
        self.directory = EntityDirectory(1000, RULES)
        self._topics = topics
        self._read = dict.fromkeys(topics, 0)

    def read_on(self, partition: int) -> bool:
        """True when all of all partitions has been read."""
        records = self._topics[partition].records
        for key, value in records[self._read[partition] :]:
            self.directory.hear(partition, key, value)
        self._read[partition] = len(records)
        self.directory.settle()
        return all(self._read[each] == len(topic.records) for each, topic in self._topics.items())


def hear_all(directory: EntityDirectory, topics: dict[int, Topic]) -> EntityDirectory:
    for partition, topic in topics.items():
        for key, value in topic.records:
            directory.hear(partition, key, value)
    directory.settle()
    return directory


def partitions_of(logs: dict[int, list[Event]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for partition, events in logs.items():
        for name, _ in events:
            found[name].add(partition)
    return found


@st.composite
def a_course(draw: st.DrawFn) -> tuple[dict[int, list[Event]], list[tuple[int, str, int]]]:
    """Logs of partitions within one span, and what happens to their owners."""
    n = draw(st.integers(1, 4))
    names = st.sampled_from([f"card {number}" for number in range(draw(st.integers(1, 12)))])
    logs = {}
    for partition in range(n):
        events = draw(st.lists(st.tuples(names, st.integers(0, 9)), max_size=12))
        times = np.cumsum([step for _, step in events]).tolist() if events else []
        logs[partition] = [(name, min(int(time), SPAN_MS - 1)) for (name, _), time in zip(events, times, strict=True)]
    actions = st.tuples(st.integers(0, n - 1), st.sampled_from(["see", "commit", "crash", "read"]), st.integers(1, 5))
    return logs, draw(st.lists(actions, max_size=60))


@given(a_course())
def test_an_entity_is_said_to_stray_if_and_only_if_it_was_seen_in_two_partitions(
    course: tuple[dict[int, list[Event]], list[tuple[int, str, int]]],
) -> None:
    logs, actions = course
    topics = {partition: Topic() for partition in logs}
    owners = {partition: Owner(topics[partition]) for partition in logs}
    reader = Reader(topics)
    for partition, action, n in actions:
        owner = owners[partition]
        if action == "see":
            owner.see(logs[partition], n)
        elif action == "commit":
            owner.commit()
        elif action == "crash":
            owner.take_over()
        elif reader.read_on(partition):  # nothing committed is unread: it must have been noticed
            committed = {p: events[: owners[p].committed] for p, events in logs.items()}
            assert reader.directory.straying == sum(len(of) > 1 for of in partitions_of(committed).values())
    for partition, owner in owners.items():
        owner.see(logs[partition], 100)
        owner.commit()
        reader.read_on(partition)
    whole = hear_all(EntityDirectory(1000, RULES), topics)
    compact = EntityDirectory(1000, RULES)
    for partition, topic in reversed(topics.items()):
        for key, value in topic.compacted():
            compact.hear(partition, key, value)
    compact.settle()
    for directory in (reader.directory, whole, compact):
        check(directory, logs)
        assert +directory.strays == +whole.strays


def check(directory: EntityDirectory, logs: dict[int, list[Event]]) -> None:
    where = partitions_of(logs)
    straying = {name for name, partitions in where.items() if len(partitions) > 1}
    assert directory.entities == len(where)
    assert directory.straying == len(straying)
    assert sum(directory.strays.values()) == len(straying)
    assert {each.name for each in directory.examples()} <= straying
    assert len(directory.examples()) == min(len(straying), 10)
    for each in directory.examples():
        assert set(each.partitions) == where[each.name]
    for name, partitions in where.items():
        first = {p: min(time for other, time in logs[p] if other == name) for p in partitions}
        home = min(partitions, key=lambda p: (first[p], p))  # called at once
        assert directory.home_of(hashes(name)).tolist() == [home]
        for partition in logs:
            assert directory.is_elsewhere(hashes(name), ints([partition])).tolist() == [bool(partitions - {partition})]


class Naive:
    """What was heard of each entity, by name: its first time in each generation of each partition."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)

    def hear(self, partition: int, key: bytes, value: bytes | None) -> None:
        generation = int.from_bytes(key[:8], "big")
        if value is None:
            self.first.pop((partition, generation), None)
            return
        chunk = decode_packed(value, EntityChunk)
        for name, time_ms in zip(chunk.names, np.frombuffer(chunk.first_seen_ms, "<i8").tolist(), strict=True):
            here = self.first[partition, generation]
            here[name] = min(time_ms, here.get(name, time_ms))

    def where(self) -> dict[str, dict[int, int]]:
        found: dict[str, dict[int, int]] = defaultdict(dict)
        for (partition, _), names in self.first.items():
            for name, time_ms in names.items():
                found[name][partition] = min(time_ms, found[name].get(partition, time_ms))
        return found

    def strays(self) -> list[Stray]:
        where = self.where().items()
        return sorted(Stray(sorted(of.values())[1], name, tuple(sorted(of))) for name, of in where if len(of) > 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("span_ms", [400, 10_000], ids=["some are forgotten", "none is forgotten"])
def test_strays_are_told_by_slice_and_the_first_ten_by_name_also_when_some_are_forgotten(
    seed: int, span_ms: int
) -> None:
    chance = np.random.default_rng(seed)
    logs = {partition: EntityLog(span_ms, RULES) for partition in range(3)}
    directory, naive = EntityDirectory(100, RULES), Naive()
    time_ms = dict.fromkeys(logs, 0)
    homes: dict[str, int] = {}
    changes = 0
    for _ in range(60):
        partition = int(chance.integers(0, 3))
        steps = chance.integers(0, 20, size=6)
        names = [f"card {(time_ms[partition] // 40 + n) % 60}" for n in chance.integers(0, 20, size=6)]
        logs[partition].see(names, time_ms[partition] + np.cumsum(steps))
        time_ms[partition] += int(steps.sum())
        for key, value in logs[partition].drain():
            directory.hear(partition, key, value)
            naive.hear(partition, key, value)
        directory.settle()
        where, strays = naive.where(), naive.strays()
        assert (directory.entities, directory.straying) == (len(where), len(strays))
        slices = [stray.time_ms // 100 * 100 for stray in strays]
        assert +directory.strays == {start: slices.count(start) for start in set(slices)}
        examples = directory.examples()
        assert examples == [stray for stray in strays if stray in examples]
        if span_ms > 1000:  # one that strayed when there were ten before it has no name here any more
            assert examples == strays[:10]
        known = sorted(where)
        found = dict(zip(known, directory.home_of(hashes(*known)).tolist(), strict=True))
        assert found == {name: min((time, at) for at, time in where[name].items())[1] for name in known}
        if any(found.get(name) != home for name, home in homes.items()):
            assert directory.changes > changes
        homes, changes = found, directory.changes
        directory.settle()
        assert directory.changes == changes


def test_an_entity_that_does_not_stray_any_more_is_no_example() -> None:
    topics = {0: Topic(), 1: Topic()}
    owners = {partition: Owner(topic) for partition, topic in topics.items()}
    for partition, time_ms in ((0, 5), (1, 7)):
        owners[partition].see([("a", time_ms), ("b", time_ms + 40 * partition)], 2)
        owners[partition].commit()
    directory = hear_all(EntityDirectory(1000, RULES), topics)
    assert list(map(str, directory.examples())) == ["a is in partitions 0 and 1", "b is in partitions 0 and 1"]
    heard = len(topics[1].records)
    owners[1].see([("a", 7), ("b", 47), ("b", 250), ("c", 3 * SPAN_MS)], 2)
    owners[1].commit()
    for key, value in topics[1].records[heard:]:
        directory.hear(1, key, value)
    directory.settle()
    assert directory.straying == 1
    assert list(map(str, directory.examples())) == ["b is in partitions 0 and 1"]
    assert directory.examples()[0].time_ms == 250


@given(
    events=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 60)), min_size=1, max_size=80),
    cuts=st.lists(st.integers(1, 30), min_size=1),
)
def test_what_is_told_is_the_same_wherever_batches_are_cut_and_whoever_dies(
    events: list[Event], cuts: list[int]
) -> None:
    times = np.cumsum([step for _, step in events]).tolist()
    log = [(name, int(time)) for (name, _), time in zip(events, times, strict=True)]
    at_once, in_parts = Owner(Topic()), Owner(Topic())
    at_once.see(log, len(log))
    at_once.commit()
    turn = 0
    while in_parts.seen < len(log):
        in_parts.see(log, cuts[turn % len(cuts)])
        if turn % 3 == 1:
            in_parts.commit()
        elif turn % 7 == 3 and in_parts.committed:
            in_parts.take_over()
        turn += 1
    in_parts.commit()
    assert dict(in_parts.topic.compacted()) == dict(at_once.topic.compacted())
    # What is remembered: what was seen in the generation under way or in the one before.
    newest = log[-1][1] // SPAN_MS
    remembered = {name for name, time in log if time // SPAN_MS >= newest - 1}
    again = EntityLog(SPAN_MS, RULES)
    again.restore(in_parts.topic.compacted())
    directory = hear_all(EntityDirectory(1000, RULES), {0: in_parts.topic})
    assert directory.entities == len(remembered)
    for name in "abcdefgh":
        assert again.knows([name.encode()]).tolist() == [name in remembered]
        assert in_parts.log.knows([name.encode()]).tolist() == [name in remembered]
        assert directory.home_of(hashes(name)).tolist() == [0 if name in remembered else NOWHERE]


def records_of(log: list[Event]) -> dict[bytes, bytes]:
    """What a topic says of a log: of the newest generation and the one before, each entity with its first event."""
    newest = log[-1][1] // SPAN_MS
    first: dict[int, dict[str, int]] = {newest - 1: {}, newest: {}}
    for name, time_ms in log:
        first.get(time_ms // SPAN_MS, {}).setdefault(name, time_ms)
    found = {}
    for generation, names in first.items():
        for number, start in enumerate(range(0, len(names), 64)):
            some = list(names.items())[start : start + 64]
            told = [name[:64] for name, _ in some]
            seen = np.array([time_ms for _, time_ms in some], "<i8").tobytes()
            chunk = EntityChunk(hashes(*(name for name, _ in some)).tobytes(), seen, told)
            found[struct.pack(">qI", generation, number)] = encode_packed(chunk)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_topic_says_of_two_generations_when_each_entity_came_first(seed: int) -> None:
    chance = np.random.default_rng(seed)
    n = 700
    steps = chance.integers(0, 2, size=n) + (chance.random(n) < 0.01) * chance.integers(0, 3 * SPAN_MS, size=n)
    times = np.cumsum(steps).tolist()
    names = [f"card {(at // 3 + number) % 250:070}" for at, number in enumerate(chance.integers(0, 128, n).tolist())]
    log = list(zip(names, times, strict=True))
    owner = Owner(Topic())
    while owner.seen < n:
        owner.see(log, int(chance.integers(1, 60)))
        if chance.random() < 0.5:
            owner.commit()
            expected = records_of(log[: owner.seen])
            assert dict(owner.topic.compacted()) == expected
            assert owner.log.drain() == []
            newest = log[owner.seen - 1][1] // SPAN_MS
            known = {name for name, time_ms in log[: owner.seen] if time_ms // SPAN_MS >= newest - 1}
            every = sorted(set(names))
            assert owner.log.knows([name.encode() for name in every]).tolist() == [name in known for name in every]
        if chance.random() < 0.3:
            owner.take_over()


def test_texts_that_need_no_hash_are_bounded_and_show_in_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.entities.log, "_MOST_KNOWN", 10)
    log, topic = EntityLog(SPAN_MS, RULES), Topic()
    seen: list[Event] = []
    for turn in range(30):
        events = [(f"card {(3 * turn + n) % 40}", turn) for n in range(6)]
        log.see([name for name, _ in events], ints([time for _, time in events]))
        seen += events
        assert len(log._known) <= 10 + 6
        topic.records += log.drain()
        assert dict(topic.compacted()) == records_of(seen)
    assert len(log._known) > 6


def test_what_is_of_a_time_still_to_come_is_not_gone_on_from() -> None:
    topic = Topic()
    owner = Owner(topic)
    owner.see([("a", 0), ("b", SPAN_MS), ("c", 2 * SPAN_MS)], 3)
    owner.commit()
    for rules, latest_ms in ((RULES, 2 * SPAN_MS - 1), (replace(RULES, latest_ms=2 * SPAN_MS - 1), 10**6)):
        log = EntityLog(SPAN_MS, rules)
        log.restore(topic.compacted(), latest_ms)
        assert log.knows([b"a", b"b", b"c"]).tolist() == [False, True, False]
        log.see(["d"], ints([2 * SPAN_MS]))
        assert log.knows([b"a", b"b", b"c", b"d"]).tolist() == [False, True, False, True]
    log = EntityLog(SPAN_MS, RULES)
    log.restore(topic.compacted(), 2 * SPAN_MS)
    assert log.knows([b"a", b"b", b"c"]).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("key", "times_ms", "is_read"),
    [
        (struct.pack(">qI", 2**40 - 1, 2**31), [0, 10**6], True),
        (struct.pack(">qI", 1 - 2**40, 0), [0], True),
        (struct.pack(">qI", 0, 0), [], True),
        (struct.pack(">qI", 2**40, 0), [0], False),
        (struct.pack(">qI", -(2**40), 0), [0], False),
        (struct.pack(">qI", 0, 2**31 + 1), [0], False),
        (struct.pack(">qI", 0, 0), [0, 10**6 + 1], False),
        (struct.pack(">qI", 0, 0), [-1, 5], False),
    ],
)
def test_a_record_of_entities_is_of_a_place_and_of_times_that_can_just_be(
    key: bytes, times_ms: list[int], *, is_read: bool
) -> None:
    names = [f"n{at}" for at in range(len(times_ms))]
    chunk = EntityChunk(hashes(*names).tobytes(), ints(times_ms).tobytes(), names)
    directory = EntityDirectory(1000, RULES)
    if not is_read:
        with pytest.raises(RefusedRecordError):
            directory.hear(0, key, encode_packed(chunk))
        return
    assert read_entities(key, encode_packed(chunk), RULES) == (Place(*struct.unpack(">qI", key)), chunk)
    assert read_entities(key, None, RULES)[1] is None
    directory.hear(0, key, encode_packed(chunk))
    directory.settle()
    assert directory.entities == len(names)


def test_an_entity_that_comes_all_the_time_is_told_once_a_generation() -> None:
    owner = Owner(Topic())
    log = [(f"card {number % 200}", number) for number in range(1000)]
    written = 0
    while owner.seen < len(log):
        owner.see(log, 10)
        before = len(owner.topic.records)
        owner.commit()
        written += len(owner.topic.records) - before
    assert len(owner.topic.compacted()) == 2 * -(-SPAN_MS // CHUNK)
    assert all(not owner.log.drain() for _ in range(2))


def test_an_entity_that_moved_long_after_is_no_stray() -> None:
    topics = {0: Topic(), 1: Topic()}
    first, second = (Owner(topic) for topic in topics.values())
    first.see([("a", 5), ("b", 4 * SPAN_MS)], 2)
    second.see([("a", 4 * SPAN_MS)], 1)
    first.commit()
    second.commit()
    assert hear_all(EntityDirectory(1000, RULES), topics).straying == 0


def test_a_reader_that_heard_it_forgets_it_with_its_partition() -> None:
    topics = {0: Topic(), 1: Topic()}
    first, second = (Owner(topic) for topic in topics.values())
    first.see([("a", 5), ("b", 6)], 2)
    second.see([("a", 7)], 1)
    first.commit()
    second.commit()
    directory = hear_all(EntityDirectory(1000, RULES), topics)
    assert (directory.entities, directory.straying) == (2, 1)
    second.see([("a", 7), ("c", 3 * SPAN_MS)], 1)
    heard, changes = len(topics[1].records), directory.changes
    second.commit()
    for key, value in topics[1].records[heard:]:
        directory.hear(1, key, value)
    directory.settle()
    assert (directory.entities, directory.straying) == (3, 0)
    assert directory.changes > changes
    assert not +directory.strays
    changes = directory.changes
    directory.hear(0, struct.pack(">qI", 77, 0), None)  # what it has not heard
    directory.settle()
    assert (directory.entities, directory.changes) == (3, changes)
    for key, value in topics[1].records[:heard]:  # what was cleared may be heard again
        directory.hear(1, key, value)
    directory.settle()
    assert (directory.entities, directory.straying) == (3, 1)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"x", "bad_key"),
        (b"", b"x", "bad_key"),
        (b"k" * 12, b"x", "bad_key"),
        (b"\0" * 11, b"\x93\xc4\0\xc4\0\x90", "bad_key"),
        (b"\0" * 12, b"\x93\xc4\x01a\xc4\0\x90", "inconsistent"),
        (b"\0" * 12, b"\x93\xc4\0\xc4\0\x91\xa1a", "inconsistent"),
        (b"\0" * 12, b"\x93\xc4\0\xc4\0\x91\xff", "wrong_type"),
        (b"\0" * 12, b"\x93\xc4\0\xc4\0\x91\xa0", "out_of_range"),
        (b"\0" * 12, b"\x93\xc4\x08aaaaaaaa\xc4\x08aaaaaaaa\x91\xa1a", "out_of_range"),
        (b"\0" * 12, b"", "empty"),
    ],
)
def test_a_record_that_no_partition_wrote_is_refused(key: bytes | None, value: bytes, reason: str) -> None:
    directory, log = EntityDirectory(1000, RULES), EntityLog(SPAN_MS, RULES)
    with pytest.raises(RefusedRecordError) as refused:
        directory.hear(0, key, value)
    assert refused.value.reason == reason
    directory.settle()
    log.restore([(key, value)] if key is not None else [])
    log.see(["a"], ints([1]))
    assert len(log.drain()) == 1
    assert directory.entities == 0


def test_a_time_that_no_event_can_have_silences_no_log() -> None:
    far = EntityLog(SPAN_MS, replace(RULES, latest_ms=10**15))
    far.see(["x"], ints([10**15 - 1]))
    later = [(key, value) for key, value in far.drain() if value is not None]
    forged = [(key, later[0][1].replace(b"x", b"y")) for key, _ in later]
    log = EntityLog(SPAN_MS, RULES)
    log.restore([*later, *forged, (later[0][0], encode_packed(EntityChunk(b"", b"", [])))])
    log.see(["a"], ints([1]))
    assert len(log.drain()) == 1


def test_a_long_name_counts_whole_and_is_told_in_part() -> None:
    name = "n" * 100_000
    topics = {0: Topic(), 1: Topic()}
    for partition, topic in topics.items():
        owner = Owner(topic)
        owner.see([(name + "x", 1), (name + str(partition), 2)], 2)
        owner.commit()
    directory = hear_all(EntityDirectory(1000, RULES), topics)
    assert (directory.entities, directory.straying) == (3, 1)
    assert [str(each) for each in directory.examples()] == ["n" * 64 + " is in partitions 0 and 1"]
    assert all(len(value or b"") < 1000 for topic in topics.values() for _, value in topic.records)


@given(st.lists(st.lists(st.integers(-5, 5), max_size=20), max_size=8), st.integers(0, 2**32))
def test_runs_give_back_every_row(adds: list[list[int]], seed: int) -> None:
    runs, rows = HashRuns(1), []
    chance = np.random.default_rng(seed)
    for add in adds:
        values = chance.integers(0, 100, len(add)).tolist()
        runs.add(ints(add), ints(values)[None])
        rows += list(zip(add, values, strict=True))
    wanted = list(range(-6, 7))
    group, columns = runs.find(ints(wanted))
    found = sorted((wanted[at], value) for at, value in zip(group.tolist(), columns[0].tolist(), strict=True))
    assert found == sorted(rows)
    assert len(runs) == len(rows)
    assert runs.has(ints(wanted)).tolist() == [each in {key for key, _ in rows} for each in wanted]
    keys, values = runs.rows()
    assert sorted(zip(keys.tolist(), values[0].tolist(), strict=True)) == sorted(rows)
