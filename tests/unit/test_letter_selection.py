"""Laws of sending dead letters back: what is chosen, what the wire keeps, and what marks a record."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.core.replay.letter_selection import REPLAYED_HEADER, Wanted, address, mark, select
from schemas.topics import Topics
from schemas.wire import DeadLetter, Source

NAMES = st.text(max_size=12) | st.sampled_from(["streamgauge-reason", "streamgauge-original-x", REPLAYED_HEADER])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=8)), max_size=4).map(tuple)


def letter(offset: int = 0, reason: str = "wrong_type", at_ms: int = 100, **more: object) -> DeadLetter:
    return DeadLetter(Source("p.events", 1, offset), "decode", reason, "d", b"\xff", b"\xfe", 1, at_ms, **more)  # type: ignore[arg-type]


@pytest.mark.slow
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


@given(
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["decode", "label"]), st.sampled_from("ab"), st.integers(0, 3), st.booleans(), st.booleans()
        ),
        max_size=8,
    ),
    reasons=st.frozensets(st.sampled_from("ab"), max_size=1),
    stages=st.frozensets(st.sampled_from(["decode", "label"]), max_size=1),
    times_ms=st.tuples(st.none() | st.integers(0, 3), st.none() | st.integers(0, 4)),
    again=st.booleans(),
)
def test_each_letter_is_sent_or_counted_by_why_it_is_not(
    kinds: list[tuple[str, str, int, bool, bool]],
    reasons: frozenset[str],
    stages: frozenset[str],
    times_ms: tuple[int | None, int | None],
    *,
    again: bool,
) -> None:
    """Of each: stage, reason, time of the rejection, whether it was sent back, and whether its record came back."""
    letters = [
        ((0, n), replace(letter(n, reason, at_ms, headers=((REPLAYED_HEADER, b"x"),) * came_back), stage=stage))
        for n, (stage, reason, at_ms, _, came_back) in enumerate(kinds)
    ]
    done = [(0, n) for n, kind in enumerate(kinds) if kind[3]]
    chosen = select(letters, Wanted(reasons, stages, *times_ms, again=again), done)
    from_ms, to_ms = times_ms
    sent, unmatched, n_done, n_repeated = [], [], 0, 0
    for n, (stage, reason, at_ms, was_sent, came_back) in enumerate(kinds):
        in_time = (from_ms is None or from_ms <= at_ms) and (to_ms is None or at_ms < to_ms)
        if not in_time or reason not in (reasons or "ab") or (stages and stage not in stages):
            unmatched.append((stage, reason))
        elif was_sent:
            n_done += 1
        elif came_back and not again:
            n_repeated += 1
        else:
            sent.append((n, (stage, reason)))
    assert chosen.letters == [letters[n] for n, _ in sent]
    assert chosen.counts == Counter(kind for _, kind in sent)
    assert chosen.unmatched == Counter(unmatched)
    assert (chosen.done, chosen.repeated) == (n_done, n_repeated)


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
    # Of a partition that there is not, it is no router's: the record goes back to where it was read, as it was.
    for partition, sent_to in ((b"3", "p.events"), (b"4", "p.events-by-entity")):
        forged = replace(of_copy, headers=(("streamgauge-origin", partition + b"/17"),))
        assert address(forged, topics)[0] == sent_to
    assert address(forged, topics) == ("p.events-by-entity", 1, mark(forged))
    plain = replace(of_copy, headers=())
    assert address(plain, topics) == ("p.events-by-entity", 1, mark(plain))
