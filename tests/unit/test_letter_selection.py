"""Laws of sending dead letters back: what is chosen, what the wire keeps, and what marks a record."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.core.letter_selection import REPLAYED_HEADER, Wanted, address, mark, select
from schemas.topics import Topics
from schemas.wire import DeadLetter, Source

NAMES = st.text(max_size=12) | st.sampled_from(["streamgauge-reason", "streamgauge-original-x", REPLAYED_HEADER])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=4).map(tuple)


def letter(offset: int = 0, reason: str = "wrong_type", at_ms: int = 100, **more: object) -> DeadLetter:
    return DeadLetter(Source("p.events", 1, offset), "decode", reason, "d", b"\xff", b"\xfe", 1, at_ms, **more)  # type: ignore[arg-type]


@given(headers=HEADERS)
def test_a_letter_keeps_the_headers_of_its_record_whatever_they_are(headers: tuple[tuple[str, bytes], ...]) -> None:
    sent = letter(headers=headers)
    assert DeadLetter.from_record(sent.key, sent.value, sent.to_headers()) == sent


def test_the_mark_says_where_the_record_was_read_and_replaces_an_older_one() -> None:
    first = mark(letter(7, headers=(("trace", b"1"),)))
    assert first == [("trace", b"1"), (REPLAYED_HEADER, b"p.events/1/7")]
    assert mark(letter(9, headers=tuple(first))) == [("trace", b"1"), (REPLAYED_HEADER, b"p.events/1/9")]


def test_letters_are_chosen_by_reason_stage_and_half_open_time() -> None:
    letters = [((0, n), letter(n, reason, at_ms)) for n, (reason, at_ms) in enumerate([("a", 1), ("b", 1), ("a", 2)])]
    chosen = select(letters, Wanted(reasons=frozenset({"a"}), from_ms=1, to_ms=2), set())
    assert [place for place, _ in chosen.letters] == [(0, 0)]
    assert chosen.unmatched == {("decode", "b"): 1, ("decode", "a"): 1}
    assert select(letters, Wanted(stages=frozenset({"label"})), set()).letters == []


def test_what_was_sent_is_not_sent_again() -> None:
    letters = [((0, n), letter(n)) for n in range(3)]
    chosen = select(letters, Wanted(), {(0, 0), (0, 2), (1, 1)})
    assert [place for place, _ in chosen.letters] == [(0, 1)]
    assert chosen.done == 2


def test_a_record_that_came_back_and_was_rejected_again_waits_to_be_asked_for() -> None:
    back = letter(5, headers=((REPLAYED_HEADER, b"p.events/1/2"),))
    assert select([((0, 0), back)], Wanted(), set()).repeated == 1
    assert len(select([((0, 0), back)], Wanted(again=True), set()).letters) == 1


def test_a_record_too_large_for_its_letter_is_cut_without_its_headers() -> None:
    large = letter(headers=(("h", b"x" * (3 << 20)),)).fit()
    assert large.headers == ()
    assert large.cut_bytes > 3 << 20


def test_the_letter_of_a_copy_goes_back_to_where_its_original_was_sent() -> None:
    topics = Topics("p", 4, by_entity=True)
    headers = ("streamgauge-origin", b"3/17"), ("trace", b"1")
    of_copy = replace(letter(7, headers=headers), source=Source("p.events-by-entity", 1, 7))
    back = [("trace", b"1"), (REPLAYED_HEADER, b"p.events-by-entity/1/7")]
    assert address(of_copy, topics) == ("p.events", 3, back)
    of_label = replace(of_copy, source=Source("p.labels-by-entity", 1, 7))
    assert address(of_label, topics)[:2] == ("p.labels", 3)
    assert address(letter(7, headers=headers), Topics("p", 4))[:2] == ("p.events", 1)
