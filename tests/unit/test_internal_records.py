"""Forged records of the topics between workers are refused whole, and what is heard afterwards counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from app.core.intake.merge import BEGINNING_MS
from app.core.records.repartition import read_answers, read_repartition
from app.core.records.shared import read_place, read_tile, read_times
from app.core.shared.answerer import Answerer
from app.core.shared.answers import ComingAnswers
from app.core.shared.board import PLACE, TILE, TIMES, SharedBoard
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from schemas.refusal import RefusedRecordError
from schemas.wire import (
    AnswersRecord,
    KeyAnswers,
    KeyQuestions,
    RepartitionRecord,
    SharedTile,
    SharedTimes,
    StoreParts,
    encode_packed,
)

HOP_MS = 1_000
PLAN = SharedPlan(
    (SharedStore("events", ("shop",), HOP_MS, None, b"abcd", repartition=True),),
    (SharedColumn(0, 0, HOP_MS, 5, 0, "count"),),
)
KEY = encode_packed(["s1"])
TIMES_KEY = TIMES + PLAN.name
DEEP = b"\x91" * 100_000 + b"\xc0"


def i8(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def tile_key(tile: int = 7, piece: int = 0) -> bytes:
    return TILE + b"abcd" + PLACE.pack(tile, piece)


def packed(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


SHARED: dict[str, tuple[bytes, bytes | None]] = {
    "a key of nothing": (b"?", b"x"),
    "no key": (b"", b"x"),
    "times of nothing": (TIMES_KEY, b""),
    "times that are no times": (TIMES_KEY, packed("a", 5)),
    "times beyond all": (TIMES_KEY, packed(2**63 - 1, 5)),
    "times beyond what can be": (TIMES_KEY, packed(5, 10**15)),
    "times that are deep": (TIMES_KEY, DEEP),
    "a tile at no place": (TILE + b"abcd\0", packed([KEY], i8(1), i8(1))),
    "a tile at no place that is cleared": (TILE + b"abcd" + b"\0" * 11, None),
    "a tile that cannot be": (tile_key(2**62), packed([KEY], i8(1), i8(1))),
    "a tile of nothing": (tile_key(), b""),
    "a tile that is deep": (tile_key(), DEEP),
    "counts of another length": (tile_key(), packed([KEY], i8(1, 2), i8(1))),
    "bytes that are no numbers": (tile_key(), packed([KEY], b"abc", i8(1))),
    "counts below nothing": (tile_key(), packed([KEY], i8(-1), i8(1))),
    "a sum beyond all": (tile_key(), packed([KEY], i8(1), i8(2**63 - 1))),
    "a key of two values": (tile_key(), packed([encode_packed(["a", "b"])], i8(1), i8(1))),
    "a key that is a list in a list": (tile_key(), packed([encode_packed([["a"]])], i8(1), i8(1))),
    "a key that is null": (tile_key(), packed([encode_packed([None])], i8(1), i8(1))),
    "a key that is rubbish": (tile_key(), packed([b"\xc1"], i8(1), i8(1))),
    "a key that is a number of 64 bits": (tile_key(), packed([b"\xff\xff"], i8(1), i8(1))),
    "a good key beside a bad one": (tile_key(), packed([KEY, b"\xc1"], i8(1, 1), i8(1, 1))),
}


@pytest.mark.parametrize("what", SHARED)
def test_a_shared_record_that_cannot_be_changes_nothing(what: str) -> None:
    board = SharedBoard(PLAN, range(2))
    board.hear(1, tile_key(), encode_packed(SharedTile([KEY], i8(3), i8(0))))
    with pytest.raises(RefusedRecordError):
        board.hear(1, *SHARED[what], latest_ms=10**14)
    assert set(board.added_ms.values()) == set(board.scored_ms.values()) == {BEGINNING_MS}
    assert board.pieces(1) == {}  # it counts with the times that follow
    board.hear(1, TIMES_KEY, encode_packed(SharedTimes(9_000, 8_000)), latest_ms=10**14)
    assert (board.added_ms[1], board.scored_ms[1]) == (9_000, 8_000)
    assert board.pieces(1) == {(0, 7): {0}}
    assert board.contribution(0, 7, 1).values.tolist() == [[3], [0]]
    assert len(board.indexes["shop",]) == 1


@pytest.mark.parametrize("key", [TIMES + b"other", TIMES, TILE + b"none" + PLACE.pack(7, 0)])
def test_records_of_other_features_are_passed_over(key: bytes) -> None:
    board = SharedBoard(PLAN, range(2))
    board.hear(1, key, b"whatever they hold")
    assert set(board.added_ms.values()) == {BEGINNING_MS}


def repartition(**other: Any) -> RepartitionRecord:
    parts = [StoreParts(b"abcd", [KEY], i8(7), i8(2), i8(0))]
    questions = [KeyQuestions(0, [KEY], i8(5), i8(9_000))]
    record = RepartitionRecord("f", 0, 1, 0, 10_000, BEGINNING_MS, 0, parts, questions)
    return msgspec.structs.replace(record, **other)


REPARTITION: dict[str, bytes | None] = {
    "nothing": None,
    "no bytes": b"",
    "rubbish": b"\xc1",
    "deep": DEEP,
    "a source that there is not": encode_packed(repartition(source=9)),
    "a source below nothing": encode_packed(repartition(source=-1)),
    "a term below nothing": encode_packed(repartition(term=-1)),
    "a sequence beyond all": encode_packed(repartition(sequence=2**63)),
    "a time beyond all": encode_packed(repartition(added_ms=2**63 - 1)),
    "rows of a store that are none": encode_packed(repartition(parts=[StoreParts(b"abcd", [], b"", b"", b"")])),
    "tiles of another length": encode_packed(repartition(parts=[StoreParts(b"abcd", [KEY], b"", i8(1), i8(1))])),
    "a tile that cannot be": encode_packed(repartition(parts=[StoreParts(b"abcd", [KEY], i8(2**62), i8(1), i8(1))])),
    "counts below nothing": encode_packed(repartition(parts=[StoreParts(b"abcd", [KEY], i8(3), i8(-1), i8(1))])),
    "questions about no key": encode_packed(repartition(questions=[KeyQuestions(1, [KEY], i8(5), i8(9))])),
    "questions that are none": encode_packed(repartition(questions=[KeyQuestions(0, [], b"", b"")])),
    "offsets below nothing": encode_packed(repartition(questions=[KeyQuestions(0, [KEY], i8(-5), i8(9))])),
    "offsets that go back": encode_packed(repartition(questions=[KeyQuestions(0, [KEY, KEY], i8(5, 4), i8(9, 9))])),
    "times of another length": encode_packed(repartition(questions=[KeyQuestions(0, [KEY], i8(5), b"")])),
    "a good part beside bad questions": encode_packed(repartition(questions=[KeyQuestions(0, [KEY], b"abc", i8(9))])),
}


@pytest.mark.parametrize("what", REPARTITION)
def test_a_repartition_record_that_cannot_be_changes_nothing(what: str) -> None:
    answerer = Answerer(PLAN, "f", [0])
    with pytest.raises(RefusedRecordError):
        answerer.hear(0, REPARTITION[what])
    assert answerer.entries() == 0
    answerer.hear(1, encode_packed(repartition()))
    ((source, value),) = answerer.answer()
    assert (source, msgspec.msgpack.decode(value, type=AnswersRecord).answers) == (0, [KeyAnswers(0, i8(5), i8(2, 0))])
    assert not answerer.is_outdated


def test_a_shared_record_may_say_what_can_just_be() -> None:
    times = SharedTimes(10_000, 9_000)
    assert read_times(encode_packed(times), 10_000) == times
    for far in (SharedTimes(10_001, 9_000), SharedTimes(9_000, 10_001)):
        with pytest.raises(RefusedRecordError, match="10001, and 10000 can be"):
            read_times(encode_packed(far), 10_000)
    keys, amounts = read_tile(encode_packed(SharedTile([KEY, KEY], i8(0, 2**62), i8(-(2**62), 2**62))), 1)
    assert (keys, amounts.tolist()) == (["s1", "s1"], [[0, 2**62], [-(2**62), 2**62]])
    most = 2**44 // HOP_MS
    for tile in (most, -most):
        assert read_place(PLACE.pack(tile, 3), PLACE, HOP_MS) == (tile, 3)
    for tile in (most + 1, -most - 1):
        with pytest.raises(RefusedRecordError, match="cannot be"):
            read_place(PLACE.pack(tile, 3), PLACE, HOP_MS)


def offsets_and_times(*offsets: int) -> list[KeyQuestions]:
    return [KeyQuestions(0, [KEY] * len(offsets), i8(*offsets), i8(*[9] * len(offsets)))]


#: What may just be, and what is one too far. Two input partitions, one key; terms to 7, times to 10 000.
EDGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the last input partition": ({"source": 1}, {"source": 2}),
    "the newest term": ({"term": 7}, {"term": 8}),
    "as far as can be, added": ({"added_ms": 10_000}, {"added_ms": 10_001}),
    "as far as can be, scored": ({"scored_ms": 10_000}, {"scored_ms": 10_001}),
    "offsets that ascend": ({"questions": offsets_and_times(5, 6)}, {"questions": offsets_and_times(5, 5)}),
    "the first offset": ({"questions": offsets_and_times(0)}, {"questions": offsets_and_times(-1)}),
    "the last of the keys": (
        {"questions": offsets_and_times(5)},
        {"questions": [KeyQuestions(1, [KEY], i8(5), i8(9))]},
    ),
    **{
        f"the largest {what}": ({"parts": [part(most)]}, {"parts": [part(most + 1)]})
        for what, most, part in (
            ("sum", 2**62, lambda value: StoreParts(b"abcd", [KEY], i8(7), i8(2), i8(value))),
            ("count", 2**62, lambda value: StoreParts(b"abcd", [KEY], i8(7), i8(value), i8(0))),
            ("tile", 2**44 // HOP_MS, lambda value: StoreParts(b"abcd", [KEY], i8(value), i8(2), i8(0))),
            ("tile before 1970", 2**44 // HOP_MS, lambda value: StoreParts(b"abcd", [KEY], i8(-value), i8(2), i8(0))),
            ("debt of a count", 0, lambda value: StoreParts(b"abcd", [KEY], i8(7), i8(-value), i8(0))),
        )
    },
    "of another store, anything": ({"parts": [StoreParts(b"none", [], i8(1), b"", b"x")]}, {"source": 2}),
}


@pytest.mark.parametrize("what", EDGES)
def test_a_repartition_record_may_say_what_can_just_be_and_nothing_further(what: str) -> None:
    good, bad = EDGES[what]

    def read(record: RepartitionRecord) -> RepartitionRecord:
        return read_repartition(encode_packed(record), 2, 1, {b"abcd": HOP_MS}, latest_ms=10_000, newest_term=7)

    assert read(repartition(**good)) == repartition(**good)
    with pytest.raises(RefusedRecordError):
        read(repartition(**bad))


def test_an_answerer_hears_no_time_and_no_term_that_is_still_to_come() -> None:
    answerer = Answerer(PLAN, "f", [0])
    for record in (repartition(added_ms=10_001), repartition(term=8)):
        with pytest.raises(RefusedRecordError):
            answerer.hear(0, encode_packed(record), 10_000, 7)
    assert answerer.answer() == []
    answerer.hear(0, encode_packed(repartition(term=7)), 10_000, 7)
    assert len(answerer.answer()) == 1


def test_many_answers_are_read_and_those_of_a_term_to_come_are_not() -> None:
    many = AnswersRecord("f", 3, [KeyAnswers(1, i8(*range(20)), i8(*range(20 * 2 * 3)))])
    assert read_answers(encode_packed(many), [1, 3], 3) == many
    for windows, newest in (([1, 2], 3), ([1], 3), ([1, 3], 2)):
        with pytest.raises(RefusedRecordError):
            read_answers(encode_packed(many), windows, newest)


ANSWERS: dict[str, Callable[[], bytes | None]] = {
    "nothing": lambda: None,
    "rubbish": lambda: b"\xc1",
    "deep": lambda: DEEP,
    "answers about no key": lambda: encode_packed(AnswersRecord("f", 1, [KeyAnswers(1, i8(5), i8(2, 0))])),
    "answers that are none": lambda: encode_packed(AnswersRecord("f", 1, [KeyAnswers(0, b"", b"")])),
    "amounts of another length": lambda: encode_packed(AnswersRecord("f", 1, [KeyAnswers(0, i8(5), i8(2))])),
    "offsets below nothing": lambda: encode_packed(AnswersRecord("f", 1, [KeyAnswers(0, i8(-5), i8(2, 0))])),
    "offsets that are no numbers": lambda: encode_packed(AnswersRecord("f", 1, [KeyAnswers(0, b"abc", i8(2, 0))])),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_answers_that_cannot_be_change_nothing(what: str) -> None:
    answers = ComingAnswers(PLAN, "f")
    with pytest.raises(RefusedRecordError):
        answers.hear(3, ANSWERS[what](), 1)
    assert answers.position(0) == 4
    assert not answers._early
    answers.hear(4, encode_packed(AnswersRecord("f", 1, [KeyAnswers(0, i8(5), i8(2, 0))])), 1)
    assert [offsets.tolist() for _, offsets, _ in answers._early] == [[5]]


def test_what_an_answerer_keeps_is_bounded_by_how_far_windows_reach() -> None:
    """Each second has a new key and is scored; the window reaches five seconds back."""
    answerer, kept = Answerer(PLAN, "f", [0]), []
    for second in range(100):
        parts = [StoreParts(b"abcd", [encode_packed([f"s{second}"])], i8(second), i8(1), i8(0))]
        end_ms = (second + 1) * HOP_MS
        record = repartition(sequence=second, added_ms=end_ms, scored_ms=end_ms, parts=parts, questions=[])
        answerer.hear(second, encode_packed(record))
        answerer.answer()
        kept.append((answerer.entries(), len(answerer._indexes[0])))
    assert max(kept) <= (8, 8)
    assert max(n_keys for _, n_keys in kept) <= 8
