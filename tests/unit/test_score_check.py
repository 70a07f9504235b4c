from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec

from app.core.replay.score_check import ScoreCheck
from schemas.wire import Score, Source


def score(offset: int, value: float = 0.25, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"features": {"a": 1.5, "b": None}, "scored_at_ms": 1, **changes}
    source = Source("p.events", fields.pop("partition", 0), offset)
    record = Score(
        f"e{offset}",
        "c",
        5,
        value,
        value >= 0.5,
        "m",
        fields.pop("version", "1.0.0"),
        "champion",
        "f",
        source,
        **fields,
    )
    return msgspec.json.encode(record)


def compare(recorded: list[bytes], replayed: list[tuple[int, bytes]]) -> ScoreCheck:
    check = ScoreCheck()
    for value in recorded:
        check.add_recorded(value)
    for offset, value in replayed:
        check.add_replayed(0, offset, value)
    return check


def test_equal_scores_are_equal_whenever_they_were_scored() -> None:
    check = compare([score(0), score(3)], [(0, score(0, scored_at_ms=99)), (3, score(3))])
    assert check.is_equal
    assert (check.equal, check.different) == (2, 0)
    assert check.differences() == []


def test_one_bit_is_a_difference() -> None:
    check = compare([score(0, 0.25)], [(0, score(0, 0.25 + 2**-54))])
    assert not check.is_equal
    assert dict(check.by_kind) == {"score": 1}
    (difference,) = check.differences()
    assert (difference.what, difference.recorded, difference.replayed) == ("score", 0.25, 0.25 + 2**-54)
    assert "offset 0 (e0): score was 0.25" in str(difference)


def test_the_sign_of_zero_is_a_difference() -> None:
    check = compare([score(0, features={"a": 0.0})], [(0, score(0, features={"a": -0.0}))])
    assert dict(check.by_kind) == {"a": 1}


def test_missing_features_versions_and_decisions_are_compared() -> None:
    changed = score(0, features={"a": None, "c": 2.0}, version="1.1.0")
    check = compare([score(0)], [(0, changed)])
    assert dict(check.by_kind) == {"version": 1, "a": 1, "c": 1}
    assert check.different == 1


def test_features_that_were_not_published_are_not_compared() -> None:
    assert compare([score(0, features={})], [(0, score(0))]).is_equal


def test_stale_scores_are_counted_and_not_compared() -> None:
    check = compare([score(0, 0.9, stale=True), score(1)], [(0, score(0)), (1, score(1))])
    assert check.is_equal
    assert (check.stale, check.equal) == (1, 1)


def test_the_order_in_which_both_sides_come_does_not_matter() -> None:
    arrivals = [("recorded", 0), ("recorded", 1), ("replayed", 0), ("replayed", 1)]
    for order in permutations(arrivals):
        check = ScoreCheck()
        if order.index(("recorded", 0)) > order.index(("recorded", 1)):
            continue  # a log stays in its order
        for side, offset in order:
            if side == "recorded":
                check.add_recorded(score(offset))
            else:
                check.add_replayed(0, offset, score(offset))
        assert (check.is_equal, check.equal) == (True, 2)


def test_events_after_the_last_recorded_score_were_not_scored_yet() -> None:
    check = compare([score(0)], [(0, score(0)), (1, score(1)), (2, score(2))])
    assert check.is_equal
    assert (check.not_recorded, check.missing) == (2, 0)


def test_lost_doubled_and_invented_scores_are_found() -> None:
    lost = compare([score(0), score(2)], [(0, score(0)), (1, score(1)), (2, score(2))])
    assert (lost.is_equal, lost.missing) == (False, 1)
    doubled = compare([score(0), score(1), score(0)], [(0, score(0)), (1, score(1))])
    assert (doubled.is_equal, doubled.doubled) == (False, 1)
    invented = compare([score(0), score(1)], [(0, score(0))])
    assert (invented.is_equal, invented.not_replayed) == (False, 1)
    assert [(d.offset, d.recorded, d.replayed) for d in lost.differences()] == [(1, None, 0.25)]
    assert [(d.offset, d.recorded, d.replayed) for d in invented.differences()] == [(1, 0.25, None)]


def test_partitions_are_apart() -> None:
    check = ScoreCheck()
    check.add_recorded(score(5))
    check.add_recorded(score(5, partition=1))
    check.add_replayed(1, 5, score(5, partition=1))
    check.add_replayed(0, 5, score(5))
    assert (check.is_equal, check.equal, check.doubled) == (True, 2, 0)
    check.add_replayed(2, 0, score(0, partition=2))  # nothing is recorded of it
    assert (check.is_equal, check.missing, check.not_recorded, check.differences()) == (True, 0, 1, [])


def test_what_was_recorded_and_what_is_replayed_are_not_mixed_up_whichever_came_first() -> None:
    check = ScoreCheck()
    check.add_replayed(0, 0, score(0, 0.125))
    check.add_recorded(score(0, 0.25))
    assert [(d.recorded, d.replayed) for d in check.differences()] == [(0.25, 0.125)]


def test_only_the_first_differences_are_kept_and_all_are_counted() -> None:
    check = ScoreCheck(keep=3)
    for offset in range(10):
        check.add_recorded(score(offset, 0.25))
        check.add_replayed(0, offset, score(offset, 0.75))
    assert len(check.differences()) == len(check.first) == 3
    assert dict(check.by_kind) == {"score": 10, "decision": 10}


def test_differences_are_of_values_then_of_scores_that_one_side_alone_has_and_so_many_are_kept() -> None:
    recorded = [score(0), score(1), score(4)]
    replayed = [(0, score(0, 0.75)), (2, score(2, 0.5)), (4, score(4)), (5, score(5))]
    check = compare(recorded, replayed)
    assert [(d.partition, d.offset, d.event_id, d.what, d.recorded, d.replayed) for d in check.differences()] == [
        (0, 0, "e0", "score", 0.25, 0.75),
        (0, 0, "e0", "decision", False, True),
        (0, 1, "e1", "score", 0.25, None),
        (0, 2, "e2", "score", None, 0.5),
    ]
    assert str(check.differences()[2]) == "partition 0 offset 1 (e1): score was 0.25, is None"
    assert (check.equal, check.different, check.not_replayed, check.not_recorded, check.missing) == (1, 1, 1, 2, 1)
    for keep in range(5):
        few = ScoreCheck(keep=keep)
        for value in recorded:
            few.add_recorded(value)
        for offset, value in replayed:
            few.add_replayed(0, offset, value)
        assert few.differences() == check.differences()[:keep]
        assert len(few.first) == min(keep, 2)
    assert len(compare([score(offset) for offset in range(30)], []).differences()) == 20


def test_a_doubled_score_is_not_compared_again_and_stale_ones_are_not_compared_at_all() -> None:
    check = compare([score(3), score(3, 0.5), score(2, 0.5)], [(3, score(3))])
    assert (check.equal, check.different, check.doubled, check.is_equal) == (1, 0, 2, False)
    assert check.differences() == []
    stale = compare([score(3, 0.9, stale=True)], [(3, score(3, features={}))])
    assert (stale.equal, stale.different, stale.stale) == (0, 0, 1)
    assert compare([score(3)], [(3, score(3, features={}))]).equal == 1
