from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ledger import (
    Fault,
    Outcomes,
    Positions,
    ScoredPositions,
    VersionRun,
    balance,
    draw_up,
    find_differences,
    find_version_faults,
    read_warehouse,
    version_runs,
)
from schemas.topics import Topics

Place = tuple[int, int]
PLACES = st.tuples(st.integers(0, 3), st.integers(0, 1 << 40))


def scored(
    rows: Sequence[tuple[int, int]], versions: Sequence[str] | str = "1.0.0", score: float = 0.5
) -> ScoredPositions:
    words = [versions] * len(rows) if isinstance(versions, str) else versions
    return ScoredPositions(positions(rows), np.full(len(rows), score), np.array(words, dtype=np.str_))


def positions(rows: Sequence[tuple[int, int]]) -> Positions:
    return Positions.of(np.array([p for p, _ in rows], dtype=np.int64), [o for _, o in rows])


@given(PLACES)
def test_a_position_gives_back_its_partition_and_offset(place: Place) -> None:
    code = positions([place])
    assert (code.partitions[0], code.offsets[0]) == place


@given(st.lists(PLACES, unique=True), st.data())
def test_each_event_scored_or_rejected_once_balances_in_any_order(places: list[Place], data: st.DataObject) -> None:
    is_rejected = data.draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    told = data.draw(st.permutations(list(zip(places, is_rejected, strict=True))))
    account = balance(
        "topics",
        positions(places),
        Outcomes(scored([p for p, bad in told if not bad]), positions([p for p, bad in told if bad])),
    )
    assert account.is_balanced
    assert account.scored + account.dead_letters == account.events == len(places)


@given(st.lists(PLACES), st.lists(PLACES), st.lists(PLACES))
def test_events_are_outcomes_plus_lost_less_doubled_and_unknown(
    events: list[Place], scores: list[Place], letters: list[Place]
) -> None:
    account = balance("topics", positions(events), Outcomes(scored(scores), positions(letters)))
    told = account.scored + account.dead_letters
    assert account.events == told + account.lost.count - account.doubled.count - account.unknown.count


def test_a_score_and_a_dead_letter_of_one_event_are_doubled() -> None:
    account = balance("topics", positions([(0, 7)]), Outcomes(scored([(0, 7)]), positions([(0, 7)])))
    assert account.doubled == Fault(1, ("0@7",))
    assert not account.is_balanced


def test_an_event_told_three_times_is_doubled_twice() -> None:
    account = balance("topics", positions([(2, 5)]), Outcomes(scored([(2, 5)] * 3), positions([])))
    assert account.doubled == Fault(2, ("2@5", "2@5"))


def test_a_lost_event_and_an_outcome_of_no_event_are_named() -> None:
    account = balance("topics", positions([(0, 1), (1, 1)]), Outcomes(scored([(0, 1), (1, 2)]), positions([])))
    assert account.lost == Fault(1, ("1@1",))
    assert account.unknown == Fault(1, ("1@2",))


def test_runs_are_cut_by_version_and_by_partition_in_offset_order() -> None:
    rows = [(1, 3), (0, 9), (0, 2), (0, 4), (1, 1)]
    assert version_runs(scored(rows, ["b", "b", "a", "a", "a"])) == [
        VersionRun(0, "a", 2, 4, 2),
        VersionRun(0, "b", 9, 9, 1),
        VersionRun(1, "a", 1, 1, 1),
        VersionRun(1, "b", 3, 3, 1),
    ]


@pytest.mark.parametrize(
    ("served", "promoted", "n_faults"),
    [
        ("aaabbb", "ab", 0),
        ("bbb", "ab", 0),  # the first one never got an event of this partition
        ("aabba", "ab", 1),  # back to an old version
        ("aabba", "aba", 0),  # which was rolled back to
        ("aac", "ab", 1),  # never promoted
    ],
)
def test_versions_follow_the_order_of_promotion(served: str, promoted: str, n_faults: int) -> None:
    runs = version_runs(scored([(0, n) for n in range(len(served))], list(served)))
    assert len(find_version_faults(runs, list(promoted))) == n_faults


def test_places_that_disagree_on_score_or_version_are_named() -> None:
    rows = [(0, 0), (0, 1), (0, 2)]
    topic = scored(rows)
    other = ScoredPositions(positions(rows), np.array([0.5, np.nextafter(0.5, 1), 0.5]), np.array(["1.0.0"] * 3))
    assert find_differences(topic, other) == Fault(1, ("0@1",))
    assert find_differences(topic, scored(rows, ["1.0.0", "1.0.0", "1.1.0"])) == Fault(1, ("0@2",))
    assert find_differences(topic, scored(rows[::-1])) == Fault(0)


def test_the_ledger_says_each_fault_in_a_sentence() -> None:
    events = positions([(0, 0), (0, 1)])
    whole = Outcomes(scored([(0, 0), (0, 1)]), positions([]))
    part = Outcomes(scored([(0, 0)]), positions([]))
    assert draw_up(events, whole, whole, ["1.0.0"]).faults == []
    broken = draw_up(events, whole, part, ["1.0.0"])
    assert broken.faults == ["ClickHouse: 1 lost, e.g. 0@1."]
    assert not broken.is_balanced
    assert draw_up(events, whole, whole, ["2.0.0"]).faults == [
        "Partition 0, offsets 0 to 1: scored by 1.0.0, which was never promoted."
    ]


def test_the_warehouse_is_read_partition_by_partition() -> None:
    asked: list[str] = []

    def query(sql: str) -> list[Mapping[str, Any]]:
        asked.append(sql)
        if "dead_letters" in sql:
            return [{"offsets": [5] if "partition = 1" in sql else []}]
        if "partition = 0" in sql:
            return [{"version": "1.0.0", "offsets": [2, 1], "scores": [0.25, 0.5]}]
        return []

    outcomes = read_warehouse(query, Topics("flights", 2))
    assert outcomes.scored.positions.names() == ["0@2", "0@1"]
    assert outcomes.scored.scores.tolist() == [0.25, 0.5]
    assert outcomes.rejected.names() == ["1@5"]
    assert all("topic = 'flights.events'" in sql for sql in asked)
