"""Each part of repartitioned windows by itself, on random histories, beside plain loops over what was said."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pytest

from app.core.batches import EventBatch
from app.core.intake.merge import BEGINNING_MS
from app.core.shared import answerer as repartition_answerer
from app.core.shared import asker as repartition_asker
from app.core.shared.answerer import Answerer
from app.core.shared.answers import ComingAnswers
from app.core.shared.asker import Asker
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from app.core.shared.repartition import Repartition
from app.core.shared.tile_sums import TileSums, TooManyKeysError
from app.core.tiles.measures import FEATURE_UNITS
from schemas.refusal import RefusedRecordError
from schemas.wire import AnswersRecord, KeyAnswers, KeyQuestions, RepartitionRecord, StoreParts

SHOP, TOWN = ("shop",), ("shop", "town")
PLAN = SharedPlan(
    (
        SharedStore("events", SHOP, 10, "amount", b"aaaa", repartition=True),
        SharedStore("events", TOWN, 25, None, b"bbbb", repartition=True),
        SharedStore("events", SHOP, 40, "amount", b"cccc", repartition=True),
    ),
    (
        SharedColumn(1, 0, 10, 3, 0, "sum"),
        SharedColumn(3, 1, 25, 2, 7, "count"),
        SharedColumn(0, 2, 40, 1, 30, "mean"),
        SharedColumn(4, 0, 10, 1, 20, "mean"),
    ),
)
#: The farthest that a window looks back: two tiles of 40 and the delay.
REACH_MS = 110
SEEDS = pytest.mark.parametrize("seed", range(5))
Row = tuple[int, int, str | None, str | None]


def batch(rows: list[Row]) -> EventBatch:
    """Events of these offsets, times, shops and towns."""
    offsets, times, shops, towns = zip(*rows, strict=True) if rows else ((), (), (), ())
    names = [str(offset) for offset in offsets]
    columns = {"shop": np.array(shops, dtype=object), "town": np.array(towns, dtype=object)}
    return EventBatch(np.array(offsets, dtype=np.int64), np.array(times, dtype=np.int64), names, names, columns)


def ints(data: bytes) -> list[int]:
    return np.frombuffer(data, dtype="<i8").tolist()


def i8(values: Any) -> bytes:
    return np.array(values, dtype="<i8").tobytes()


def decoded(records: list[tuple[int, bytes]]) -> list[tuple[int, RepartitionRecord]]:
    return [(to, msgspec.msgpack.decode(value, type=RepartitionRecord)) for to, value in records]


def key_of(*values: str | None) -> bytes:
    return msgspec.msgpack.encode(list(values))


# -- what is asked -----------------------------------------------------------------------------------------------------


Rows = Counter[tuple[Any, ...]]


def add_some(chance: np.random.Generator, asker: Asker) -> Rows:
    """Add some rows to each store: what is added to the count and the sum of each key and tile."""
    added: Rows = Counter()
    for store in PLAN.stores:
        for _ in range(int(chance.integers(0, 3))):
            codes, tiles, totals = [], [], []
            for _ in range(8):
                key = tuple(f"{name}{chance.integers(9)}" for name in store.key)
                codes.append(asker.indexes[store.key].add(key[0] if len(key) == 1 else key))
                tiles.append(int(chance.integers(-2, 3)))
                totals.append(int(chance.integers(1, 9)))
                added[store.name, key_of(*key), tiles[-1], "n"] += 1
                added[store.name, key_of(*key), tiles[-1], "sum"] += totals[-1]
            asker.add(store.name, np.array(codes), np.array(tiles), np.array([[1] * 8, totals]))
    return added


def ask_some(chance: np.random.Generator, asker: Asker, offset: int) -> Rows:
    """Ask for some events, of which the first have been asked for: each question."""
    rows: list[Row] = [
        (
            offset + 2 * n,
            1000 + n,
            None if chance.random() < 0.2 else f"s{chance.integers(9)}",
            None if chance.random() < 0.3 else f"t{chance.integers(3)}",
        )
        for n in range(7)
    ]
    first = offset + int(chance.integers(0, 8))
    is_asked = asker.ask(batch(rows), np.array([row[1] for row in rows]), first)
    assert is_asked.tolist() == [[row[2] is not None for row in rows], [None not in row[2:] for row in rows]]
    keys = {(number, row): key_of(*row[2 : 3 + number]) for number in (0, 1) for row in rows}
    return Counter(
        (number, key, *row[:2])
        for (number, row), key in keys.items()
        if row[0] >= first and None not in row[2 : 3 + number]
    )


def said_in(record: RepartitionRecord) -> list[tuple[tuple[Any, ...], int]]:
    """Each row of a record with its count."""
    found: list[tuple[tuple[Any, ...], int]] = []
    for part in record.parts:
        for what, column in (("n", part.counts), ("sum", part.sums)):
            rows = zip(part.keys, ints(part.tiles), ints(column), strict=True)
            found += [((part.store, key, tile, what), value) for key, tile, value in rows]
    for question in record.questions:
        assert ints(question.offsets) == sorted(set(ints(question.offsets)))
        rows = zip(question.keys, ints(question.offsets), ints(question.times_ms), strict=True)
        found += [((question.key, key, offset, time), 1) for key, offset, time in rows]
    return found


@SEEDS
def test_each_row_goes_once_to_the_owner_of_its_key_and_the_times_with_the_last_record(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, size, partitions = np.random.default_rng(seed), 150, 1 + seed % 3
    monkeypatch.setattr(repartition_asker, "_RECORD_BYTES", size)
    asker = Asker(PLAN, "set", 2, partitions, 77)
    newest, told = [-1] * partitions, (BEGINNING_MS, BEGINNING_MS, 0)
    for turn in range(6):
        expected = add_some(chance, asker) if turn != 3 else Counter()
        asked: Rows = Counter()
        for part in range(int(chance.integers(1, 3)) if turn != 4 else 0):
            asked += ask_some(chance, asker, 40 * turn + 20 * part)
        assert asker.has_questions == bool(asked)
        times = (turn * 10, turn * 5, turn) if turn < 4 else told
        records = decoded(asker.drain(*times))
        assert asker.drain(*times) == []
        rows = [(to, row, value) for to, record in records for row, value in said_in(record)]
        assert {row: value for _, row, value in rows} == expected + asked
        assert len(rows) == len(expected + asked)
        assert all(crc32(row[1]) % partitions == to for to, row, _ in rows)
        for to in range(partitions):
            mine = [record for place, record in records if place == to]
            sequences = [newest[to], *(record.sequence for record in mine)]
            assert all(after == before + 1 for before, after in pairwise(sequences[turn > 0 :]))
            assert sequences == sorted(set(sequences))
            assert {(record.feature_set, record.source, record.term) for record in mine} == {("set", 2, 77)}
            said_times = [(record.added_ms, record.scored_ms, record.next_offset) for record in mine]
            assert said_times == [told] * (len(mine) - 1) + [times]
            bytes_of = [[32 + len(row[1]) for row, _ in said_in(record) if row[3] != "sum"] for record in mine]
            assert all(sum(each) < size + max(each, default=0) for each in bytes_of)
            assert len(mine) <= sum(map(sum, bytes_of)) // size + 1
            newest[to] = sequences[-1]
        told = times
    assert asker.position() == (77, max(newest))


def test_a_new_sequence_goes_on_after_the_highest_of_all_partitions() -> None:
    asker = Asker(PLAN, "set", 0, 2, 5)
    assert asker.position() == (5, -1)
    asker.restore((9, 30))
    assert asker.term_ms == 9
    assert [(to, record.term, record.sequence) for to, record in decoded(asker.drain(1, 1, 1))] == [
        (0, 9, 31),
        (1, 9, 31),
    ]
    assert asker.position() == (9, 31)


# -- sums --------------------------------------------------------------------------------------------------------------


def test_tiles_of_neighbouring_codes_and_beyond_what_a_place_can_name_do_not_mix() -> None:
    most, far = 2**24 - 1, 2**41
    codes, tiles = np.array([0, 1, most, 3]), np.array([5, 5, 5, 5])
    sums = TileSums()
    sums.add(codes[:0], tiles[:0], np.ones((2, 0), dtype=np.int64))
    assert sums.read(codes, tiles, 1).tolist() == [[0] * 4] * 2
    sums.drop_before(9)
    assert len(sums) == 0
    sums.add(codes[:3], tiles[:3], np.array([[1, 2, 3], [10, 20, 30]]))
    for newest in (-far, -1, 4, 8, 15, far):
        expected = [1, 2, 3, 0] if newest == 8 else [0] * 4
        assert sums.read(codes, np.full(4, newest), 4)[0].tolist() == expected
    assert sums.read(codes, tiles, far).tolist() == [[1, 2, 3, 0], [10, 20, 30, 0]]
    with pytest.raises(TooManyKeysError, match="16777216 keys"):
        sums.add(np.array([0, most + 1]), tiles[:2], np.ones((2, 2), dtype=np.int64))
    # The farthest tiles that are told apart, on both sides of the first; what is beyond counts to the last.
    edges, beyond = [5 - 2**38 + 1, 5 + 2**38 - 1], 5 + 2**38 + 100
    sums.add(np.array([2, 2]), np.array(edges), np.array([[1, 1], [2**60 + 1, 2**60 + 2]]))
    assert sums.read(np.array([2, 2]), np.array(edges), 2).tolist() == [[1, 1], [2**60 + 1, 2**60 + 2]]
    sums.add(np.array([2]), np.array([beyond]), np.array([[1], [1]]))
    assert sums.read(np.array([2, 2, 3]), np.array([edges[0], far, far]), 2 * far)[0].tolist() == [1, 3, 0]


def test_entries_of_one_key_and_tile_are_one_and_runs_stay_few() -> None:
    sums = TileSums()
    one = np.ones((2, 1), dtype=np.int64)
    for number in range(1000):
        sums.add(np.array([number]), np.array([0]), one)
        len(sums)
    assert len(sums) == 1000
    assert 1 < len(sums._runs) <= 6  # each is four times as long as the next
    marks = np.ones(1002, dtype=bool)
    sums.add(np.array([1001]), np.array([0]), one)
    sums.unmark(marks)
    assert np.flatnonzero(marks).tolist() == [1000]
    lengths = [len(run.places) for run in sums._runs]
    assert all(longer >= 4 * shorter for longer, shorter in pairwise(lengths))
    longest = sums._runs[0]
    sums.add(np.array([0]), np.array([0]), one)
    assert len(sums) == 1002  # twice until it is merged
    assert sums._runs[0] is longest
    sums.add(np.arange(1000), np.zeros(1000, dtype=np.int64), np.ones((2, 1000), dtype=np.int64))
    assert len(sums) == 1001
    sums.drop_before(0)
    assert len(sums) == 1001
    sums.drop_before(1)
    assert len(sums) == 0
    assert sums._runs == []


# -- what is answered --------------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """What a partition says in a random history: records in their order, and the events that it asks for."""

    number: int
    term: int = 3
    sequence: int = -1
    added_ms: int = 0
    scored_ms: int = 0
    next_offset: int = 0
    offset: int = 0
    newest_ms: int = 0
    times: dict[int, int] = field(default_factory=dict)

    def speak(self, chance: np.random.Generator) -> RepartitionRecord:
        keys = [key_of(f"s{n}") for n in range(4)], [key_of(f"s{n}", "t") for n in range(4)]
        parts, questions = [], []
        with_parts = chance.random() < 0.6
        for store, hop, of in ((b"aaaa", 10, 0), (b"bbbb", 25, 1), (b"cccc", 40, 0), (b"none", 1, 0)):
            n = int(chance.integers(0, 4))
            if n and with_parts:
                tiles = (self.added_ms + chance.integers(0, 60, size=n)) // hop
                rows = [keys[of][at] for at in chance.integers(0, 4, size=n).tolist()]
                counts, sums = chance.integers(0, 5, size=n), chance.integers(-9, 9, size=n)
                parts.append(StoreParts(store, rows, i8(tiles), i8(counts), i8(sums)))
        n = int(chance.integers(0, 4))
        offsets = [self.offset + 2 * place for place in range(n)]
        # Effective times never go back.
        self.newest_ms = max(self.newest_ms, self.added_ms)
        for at in offsets:
            self.newest_ms += int(chance.integers(0, 20))
            self.times[at] = self.newest_ms
        for key in (0, 1):
            asking = [at for at in offsets if chance.random() < 0.8]
            if asking:
                rows = [keys[key][at] for at in chance.integers(0, 4, size=len(asking)).tolist()]
                times = [self.times[at] for at in asking]
                questions.append(KeyQuestions(key, rows, i8(asking), i8(times)))
        self.offset += 2 * n
        self.sequence += int(chance.integers(1, 3))
        self.added_ms += int(chance.integers(0, 60))
        waiting = [at for at in self.times if at >= self.next_offset]
        if waiting and chance.random() < 0.6:
            self.next_offset = waiting[int(chance.integers(len(waiting) // 2, len(waiting)))]
            left = [self.times[at] for at in waiting if at >= self.next_offset]
            self.scored_ms = max(self.scored_ms, min(*left, self.added_ms))
        times = self.added_ms, self.scored_ms, self.next_offset
        return RepartitionRecord("set", self.number, self.term, self.sequence, *times, parts, questions)


class Naive:
    """All that was heard, and each question answered by a loop over it."""

    def __init__(self, sources: int) -> None:
        self.heard: list[tuple[int, RepartitionRecord]] = []
        self.open: dict[tuple[int, int, int], tuple[bytes, int]] = {}
        self.sources = sources

    def hear(self, place: int, record: RepartitionRecord) -> None:
        self.heard.append((place, record))
        for question in record.questions:
            for row in zip(question.keys, ints(question.offsets), ints(question.times_ms), strict=True):
                self.open[record.source, question.key, row[1]] = (row[0], row[2])

    def of(self, name: str, source: int, first: int) -> int:
        return max([first, *(getattr(record, name) for _, record in self.heard if record.source == source)])

    def answer(self) -> dict[tuple[int, int, int], list[list[int]]]:
        low_ms = min(self.of("added_ms", source, BEGINNING_MS) for source in range(self.sources))
        found = {}
        for (source, number, offset), (key, time) in list(self.open.items()):
            # All tiles that it may read are over: each window's, whichever key it is over.
            ends = [(time - column.delay_ms) // column.hop_ms * column.hop_ms for column in PLAN.columns]
            if offset < self.of("next_offset", source, 0):
                del self.open[source, number, offset]
            elif max(ends) <= low_ms:
                del self.open[source, number, offset]
                found[source, number, offset] = [
                    self.sum(column, key, end)
                    for column, end in zip(PLAN.columns, ends, strict=True)
                    if PLAN.stores[column.store].key == (SHOP, TOWN)[number]
                ]
        return found

    def sum(self, column: SharedColumn, key: bytes, end: int) -> list[int]:
        newest = end // column.hop_ms
        rows = [
            (count, total)
            for _, record in self.heard
            for part in record.parts
            if part.store == PLAN.stores[column.store].name
            for one, tile, count, total in zip(
                part.keys, ints(part.tiles), ints(part.counts), ints(part.sums), strict=True
            )
            if one == key and newest - column.tiles <= tile < newest
        ]
        return [sum(count for count, _ in rows), sum(total for _, total in rows)]

    def needed_place(self, group: int) -> int | None:
        floor = min(self.of("scored_ms", source, BEGINNING_MS) for source in range(self.sources)) - REACH_MS
        hops = {store.name: store.hop_ms for store in PLAN.stores}
        needed = []
        for source in range(self.sources):
            records = [(place, record) for place, record in self.heard if record.source == source]
            chunks = [records[at : at + group] for at in range(0, len(records), group)]
            first = self.of("next_offset", source, 0)
            still = [
                chunk[0][0]
                for chunk in chunks
                if chunk is chunks[-1]
                or any(
                    (tile + 1) * hops[part.store] > floor
                    for _, record in chunk
                    for part in record.parts
                    if part.store in hops
                    for tile in ints(part.tiles)
                )
                or any(at >= first for _, record in chunk for q in record.questions for at in ints(q.offsets))
            ]
            if not still:
                return None
            needed.append(still[0])
        return min(needed)


def sizes_of(records: list[tuple[int, bytes]]) -> dict[tuple[int, int], list[int]]:
    """Bytes of the numbers in each record, by source and key."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for source, value in records:
        for answer in msgspec.msgpack.decode(value, type=AnswersRecord).answers:
            found[source, answer.key].append(len(answer.offsets) + len(answer.amounts))
    return found


def answers_of(records: list[tuple[int, bytes]], terms: dict[int, int]) -> dict[tuple[int, int, int], list[list[int]]]:
    found: dict[tuple[int, int, int], list[list[int]]] = {}
    for source, value in records:
        record = msgspec.msgpack.decode(value, type=AnswersRecord)
        assert (record.feature_set, record.term) == ("set", terms[source])
        for answer in record.answers:
            offsets = ints(answer.offsets)
            amounts = np.frombuffer(answer.amounts, dtype="<i8").reshape(-1, 2, len(offsets))
            for at, offset in enumerate(offsets):
                assert (source, answer.key, offset) not in found
                found[source, answer.key, offset] = amounts[:, :, at].tolist()
    return found


@pytest.mark.slow
@SEEDS
def test_each_question_is_answered_once_when_all_have_come_far_enough_with_the_sums_of_what_was_heard(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, group = np.random.default_rng(seed), 1 + seed % 3
    size = 1 if seed == 4 else 120
    monkeypatch.setattr(repartition_answerer, "_RECORD_BYTES", size)
    sources = [_Source(number, term=3 + number) for number in range(3)]
    terms = {source.number: source.term for source in sources}
    answerer, naive = Answerer(PLAN, "set", range(3), group=group), Naive(3)
    later: Answerer | None = None
    again: dict[tuple[int, int, int], list[list[int]]] = {}
    log: list[bytes] = []
    n_answers = 0
    for turn in range(70):
        source = sources[int(chance.integers(0, 3))]
        place, record = len(log), source.speak(chance)
        if turn > 60:  # in the end all come to the same, far time, and have scored all that is there
            source = sources[turn % 3]
            source.sequence += 1
            record = msgspec.structs.replace(record, source=source.number, term=source.term, sequence=source.sequence)
            record = msgspec.structs.replace(
                record, added_ms=10**6, scored_ms=10**6, next_offset=10**6, parts=[], questions=[]
            )
        log.append(msgspec.msgpack.encode(record))
        naive.hear(place, record)
        for each in (answerer, later):
            if each is not None:
                each.hear(place, log[place])
                each.hear(place, log[int(chance.integers(0, place + 1))])  # again: it changes nothing
                other = msgspec.structs.replace(record, feature_set="other", sequence=10**9, added_ms=10**9)
                each.hear(place, msgspec.msgpack.encode(other))
        assert answerer.needed_place() == naive.needed_place(group)
        assert [answerer.next_offset(of) for of in range(3)] == [naive.of("next_offset", of, 0) for of in range(3)]
        if chance.random() < 0.5 or turn > 60:
            records = answerer.answer()
            assert max((len(value) for _, value in records), default=0) < max(size, 60) + 30
            assert all(2 * each >= size for sizes in sizes_of(records).values() for each in sizes[:-1])
            expected = naive.answer()
            assert answers_of(records, terms) == expected
            assert answerer.answer() == []
            n_answers += len(expected)
            if later is not None:
                # Those that were asked again, and are not scored: the same answer; of others it has heard nothing.
                again |= answers_of(later.answer(), terms)
                assert {place: again[place] for place in expected} == expected
        needed = answerer.needed_place()
        if later is None and turn > 40 and needed:
            later = Answerer(PLAN, "set", range(3), group=group)
            for at in range(needed, len(log)):
                later.hear(at, log[at])
            again = answers_of(later.answer(), terms)
    assert later is not None
    assert n_answers > 10
    assert not answerer.is_outdated
    assert answerer.entries() == sum(map(len, answerer._indexes)) == 0


@pytest.mark.slow
@SEEDS
def test_what_is_kept_of_tiles_and_keys_is_what_windows_may_still_read(seed: int) -> None:
    chance = np.random.default_rng(seed)
    source, answerer = _Source(0), Answerer(PLAN, "set", range(1))
    naive, n_looked = Naive(1), 0
    scored_ms = 0
    for place in range(60):
        added_ms, record = source.added_ms, source.speak(chance)
        answerer.hear(place, msgspec.msgpack.encode(record))
        naive.hear(place, record)
        answerer.answer()
        naive.answer()
        # It looks when a sixteenth of the reach has gone by, and there may be something to answer.
        if source.scored_ms - scored_ms < REACH_MS // 16 or not (added_ms < source.added_ms or record.questions):
            continue
        scored_ms, n_looked = source.scored_ms, n_looked + 1
        kept = Counter(
            (store, key, tile)
            for _, each in naive.heard
            for part in each.parts
            for store in PLAN.stores
            for key, tile in zip(part.keys, ints(part.tiles), strict=True)
            if store.name == part.store and (tile + 1) * store.hop_ms > scored_ms - REACH_MS
        )
        assert len(kept) <= answerer.entries() <= kept.total()
        asking = {((SHOP, TOWN)[number], key) for (_, number, _), (key, _) in naive.open.items()}
        assert sum(map(len, answerer._indexes)) == len({(store.key, key) for store, key, _ in kept} | asking)
    assert n_looked > 20


def said(source: int = 0, term: int = 3, sequence: int = 0, **other: Any) -> bytes:
    questions = [KeyQuestions(0, [key_of("a")], i8([sequence]), i8([0]))]
    parts = [StoreParts(b"aaaa", [key_of("a")], i8([-1]), i8([1]), i8([4]))]
    record = RepartitionRecord("set", source, term, sequence, 50, BEGINNING_MS, 0, parts, questions)
    return msgspec.msgpack.encode(msgspec.structs.replace(record, **other))


def test_a_new_term_makes_what_was_heard_outdated_and_former_terms_are_passed_over_from_then_on() -> None:
    answerer = Answerer(PLAN, "set", range(1))
    log = [said(), said(term=2, sequence=1), said(sequence=2), said(term=5), said(term=5, sequence=1), said(sequence=9)]
    for place, value in enumerate(log[:3]):
        answerer.hear(place, value)
    assert not answerer.is_outdated  # an older term is nobody's
    assert answers_of(answerer.answer(), {0: 3})[0, 0, 2][0] == [2, 8]
    for place, value in enumerate(log[3:], start=3):
        answerer.hear(place, value)
        assert answerer.is_outdated
    anew = answerer.begin_anew()
    assert anew.entries() == 0
    for place, value in enumerate(log):
        anew.hear(place, value)
    assert not anew.is_outdated
    assert answers_of(anew.answer(), {0: 5}) == {
        (0, 0, 0): [[2, 8], [0, 0], [0, 0]],
        (0, 0, 1): [[2, 8], [0, 0], [0, 0]],
    }
    assert anew.needed_place() == 3


def test_it_stays_outdated_whoever_speaks_next() -> None:
    answerer = Answerer(PLAN, "set", range(2))
    assert answerer.answer() == []
    for place, value in enumerate([said(), said(term=4), said(source=1)]):
        answerer.hear(place, value)
    assert answerer.is_outdated


def test_nothing_can_be_deleted_before_every_source_was_heard() -> None:
    answerer = Answerer(PLAN, "set", range(2))
    answerer.hear(4, said())
    assert answerer.needed_place() is None
    assert answerer.answer() == []
    answerer.hear(5, said(source=1, added_ms=-11))
    assert answerer.answer() == []
    answerer.hear(6, said(source=1, sequence=1, added_ms=0, questions=[]))
    assert len(answers_of(answerer.answer(), {0: 3, 1: 3})) == 2
    assert answerer.needed_place() == 4


# -- what is filled ----------------------------------------------------------------------------------------------------


class Waiting:
    """Events that are held, and what a loop over all that was heard says of them."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.passed = -1
        self.place = 0
        self.held: list[tuple[int, list[bool]]] = []
        self.first: dict[tuple[int, int], list[list[int]]] = {}
        self.heard: list[tuple[int, int]] = []

    def hold(self, chance: np.random.Generator, answers: ComingAnswers) -> None:
        rows: list[Row] = [(self.offset + 3 * n, 0, "s", "t") for n in range(int(chance.integers(0, 4)))]
        asked = chance.random((2, len(rows))) < 0.7
        answers.hold(batch(rows), asked)
        self.held += [(row[0], asked[:, at].tolist()) for at, row in enumerate(rows)]
        self.offset += 3 * len(rows)

    def hear(self, chance: np.random.Generator, answers: ComingAnswers) -> None:
        """Answers to some events in any order, some of them still to be held; or those of another term or set."""
        term, of = (9, "set") if chance.random() < 0.8 else [(8, "set"), (10, "set"), (9, "other")][self.place % 3]
        key, start = int(chance.integers(0, 2)), self.held[0][0] if self.held else self.offset
        offsets = np.unique(chance.integers(max(0, start - 6), self.offset + 9, size=4) // 3 * 3)
        chance.shuffle(offsets)
        amounts = chance.integers(0, 4, size=((3, 1)[key], 2, len(offsets)))
        record = AnswersRecord(of, term, [KeyAnswers(key, i8(offsets), i8(amounts))])
        answers.hear(self.place, msgspec.msgpack.encode(record), 9)
        if (term, of) == (9, "set"):
            for at, one in enumerate(offsets.tolist()):
                self.first.setdefault((key, one), amounts[:, :, at].tolist())
            self.heard.append((self.place, int(offsets.max())))
        elif term == 10:
            self.heard.append((self.place, 2**62))
        self.place += 1

    def ready(self) -> int:
        waits = (any(of[key] and (key, at) not in self.first for key in (0, 1)) for at, of in self.held)
        return next((n for n, each in enumerate(waits) if each), len(self.held))

    def fill(self, n: int, answers: ComingAnswers) -> None:
        matrix = np.full((n, 5), -1.0)
        answers.fill(matrix, batch([(at, 0, "s", "t") for at, _ in self.held[:n]]))
        expected = []
        for at, of in self.held[:n]:
            shop, town = (self.first.get((key, at)) if of[key] else None for key in (0, 1))
            expected.append(values_of([*(shop or [None] * 3), *(town or [None])]))
        np.testing.assert_array_equal(matrix, np.array(expected).reshape(n, 5))
        self.passed = self.held[n - 1][0] if n else self.passed
        self.held = self.held[n:]

    def position(self, next_offset: int) -> int:
        return next((at for at, last in self.heard if last >= next_offset), self.place)


def values_of(amounts: list[list[int] | None]) -> list[float]:
    """What the columns are of the count and sum in each, the windows over the town last; None: no answer."""
    values = [-1.0] * 5
    for column, found in zip([1, 0, 4, 3], amounts, strict=True):
        kind = next(each.aggregate for each in PLAN.columns if each.column == column)
        count, total = found or [0, 0]
        mean = total / FEATURE_UNITS / count if count else np.nan
        values[column] = {"sum": total / FEATURE_UNITS, "count": float(count), "mean": mean}[kind]
        values[column] = np.nan if found is None else values[column]
    return values


@SEEDS
def test_events_are_filled_with_the_first_answer_of_each_key_and_wait_for_all_of_them(seed: int) -> None:
    chance, answers = np.random.default_rng(seed), ComingAnswers(PLAN, "set")
    start = seed % 2 * 3 * 2**58  # floats do not hold each of those offsets
    naive = Waiting(start)
    assert answers.ready == 0
    for _ in range(120):
        kind = chance.random()
        if kind < 0.3:
            naive.hold(chance, answers)
        elif kind < 0.75:
            naive.hear(chance, answers)
        else:
            assert answers.ready == naive.ready()
            # Now and then one that waits no longer.
            n = naive.ready() + int(chance.random() < 0.2)
            naive.fill(min(n, len(naive.held), 1 + int(chance.integers(0, 3))), answers)
        for next_offset in (0, naive.passed + 1, naive.offset + 20, 2**61):
            assert answers.position(next_offset) == naive.position(next_offset)
        waiting = [offset for _, early, _ in answers._early for offset in early.tolist()]
        assert naive.offset == start or all(offset >= naive.offset for offset in waiting)
        if chance.random() < 0.2:
            answers.forget(naive.passed + 1)
            while naive.heard and naive.heard[0][1] <= naive.passed:
                naive.heard.pop(0)


def test_before_anything_was_drained_all_answers_are_needed() -> None:
    one = Repartition(PLAN, "set", 0, 2, 7)
    for place in range(2):
        one.hear(place, msgspec.msgpack.encode(AnswersRecord("set", 7, [KeyAnswers(0, i8([place]), i8([1] * 6))])))
    assert one.position() == (7, -1, 0)
    assert (one.plan, one.source) == (PLAN, 0)


def test_a_partition_goes_on_asking_and_hearing_where_its_state_says() -> None:
    one = Repartition(PLAN, "set", 1, 2, 7)
    events = batch([(4, 20, "a", "x"), (6, 20, None, "x"), (8, 21, "b", None)])
    one.hold(events, events.event_time_ms, 6)
    asked = [q for _, record in decoded(one.drain(5, 4, 6)) for q in record.questions]
    assert sorted((q.key, ints(q.offsets)) for q in asked) == [(0, [8])]
    assert one.answers.ready == 0
    record = AnswersRecord("set", 7, [KeyAnswers(0, i8([8]), i8([1] * 6))])
    one.hear(11, msgspec.msgpack.encode(record))
    with pytest.raises(RefusedRecordError):
        one.hear(12, msgspec.msgpack.encode(msgspec.structs.replace(record, term=8)), 7)
    assert one.position() == (7, 0, 11)
    one.drain(5, 4, 9)
    assert one.position() == (7, 1, 13)
    other = Repartition(PLAN, "set", 1, 2, 99)
    other.restore(one.position())
    assert other.position() == (7, 1, 13)
    other.hear(13, msgspec.msgpack.encode(record))
    other.hold(events, events.event_time_ms, 9)  # all of them have asked
    assert not other.asker.has_questions
    assert other.drain(5, 4, 8)[0][1] != b""
    assert other.position() == (7, 2, 13)
