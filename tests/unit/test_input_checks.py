"""What a monitor says of the stream itself: a function of what was counted and heard, in any order."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from core_setting import START_MS
from hypothesis import given
from hypothesis import strategies as st
from record_kinds import setting

from app.core.entity_directory import EntityDirectory
from app.core.entity_log import EntityLog
from app.core.hash_runs import hash64
from app.core.input_checks import InputChecks
from app.core.monitoring import MonitorCore
from app.core.records.rules import RecordRules
from schemas.topics import Topics
from schemas.wire import LabelCounts, SketchRecord

RULES = RecordRules(Topics("p", 4), "m", 0, 10**6, 0, 0)
SLICE_MS = 100
CARDS = [f"c{number}" for number in range(6)]


def told(partition: int, cards: list[str], time_ms: int) -> list[tuple[int, bytes, bytes | None]]:
    log = EntityLog(1000, RULES)
    log.see(cards, np.full(len(cards), time_ms, dtype=np.int64))
    return [(partition, key, value) for key, value in log.drain()]


def hear(directory: EntityDirectory, records: list[tuple[int, bytes, bytes | None]]) -> None:
    for record in records:
        directory.hear(*record)
    directory.settle()


def record(  # noqa: PLR0917  # as `LabelCounts`
    partition: int, start_ms: int, n: int, too_late: int, unknown: int, strangers: list[str]
) -> SketchRecord:
    hashes = np.array([hash64(card.encode()) for card in strangers], dtype="<i8").tobytes()
    return SketchRecord(partition, 0, 0, [], [], 0, [LabelCounts(start_ms, n, too_late, unknown, hashes)])


@given(
    homes=st.lists(st.sets(st.integers(0, 2), max_size=2), min_size=6, max_size=6),
    labels=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 3).map(lambda number: number * SLICE_MS),
            st.integers(0, 2),
            st.integers(0, 2),
            st.lists(st.sampled_from([*CARDS, "nobody"]), max_size=3),
        ),
        max_size=12,
    ),
    order=st.permutations(range(15)),
    restart=st.integers(0, 15),
)
def test_counts_do_not_depend_on_what_is_heard_first_nor_on_restarts(
    homes: list[set[int]], labels: list[tuple[int, int, int, int, list[str]]], order: list[int], restart: int
) -> None:
    records = [
        record(partition, start_ms, late + unknown + len(strangers) + 5, late, unknown, strangers)
        for partition, start_ms, late, unknown, strangers in labels
    ]
    entities = [
        told(partition, [card for card, of in zip(CARDS, homes, strict=True) if partition in of], 10 + partition)
        for partition in range(3)
    ]
    directory, checks = EntityDirectory(SLICE_MS, RULES), InputChecks("p", SLICE_MS, 0)
    rows = []
    for turn, at in enumerate(order):
        if at < len(records):
            checks.add(records[at])
        elif at >= 12:
            hear(directory, entities[at - 12])
        if turn == restart:
            again = InputChecks("p", SLICE_MS, 0)
            again.from_state(json.loads(json.dumps(checks.to_state())))
            checks = again
        checks.look_up(directory)
        rows += checks.rows(10_000)

    by_hand: Counter[str] = Counter()
    for partition, _, late, unknown, strangers in labels:
        by_hand["labels"] += late + unknown + len(strangers) + 5
        by_hand["too_late"] += late
        by_hand["unknown"] += unknown
        for card in strangers:
            elsewhere = card != "nobody" and bool(homes[CARDS.index(card)] - {partition})
            by_hand["other_partition" if elsewhere else "unknown"] += 1
    by_hand["strays"] = sum(len(of) > 1 for of in homes)
    for name in ("labels", "too_late", "unknown", "other_partition", "strays"):
        assert getattr(checks.totals, name) == by_hand[name]
        newest = {row.window_start_ms: row for row in sorted(rows, key=lambda row: row.revision)}
        assert sum(getattr(row, name) for row in newest.values()) == by_hand[name]
    assert checks.rows(10_000) == []


def test_a_slice_is_told_when_it_has_ended_and_again_when_it_is_amended() -> None:
    checks = InputChecks("p", SLICE_MS, 7)
    checks.add(record(0, 100, 3, 1, 0, []))
    assert checks.rows(None) == checks.rows(206) == []
    (row,) = checks.rows(207)
    assert (row.window_start_ms, row.window_end_ms, row.labels, row.too_late) == (100, 200, 3, 1)
    assert checks.rows(500) == []
    checks.add(record(1, 100, 1, 0, 1, []))
    (amended,) = checks.rows(500)
    assert (amended.labels, amended.unknown) == (4, 1)
    assert amended.revision > row.revision


def test_rules_on_labels_see_the_share_of_enough_labels_when_they_have_come() -> None:
    checks = InputChecks("p", SLICE_MS, 7)
    checks.add(record(0, 100, 99, 9, 0, []))
    assert list(checks.label_readings(199)) == []
    ((window, reading),) = checks.label_readings(200)
    assert (window.start_ms, window.end_ms) == (100, 200)
    assert math.isnan(reading.value)
    checks.add(record(1, 100, 1, 0, 1, []))
    ((_, reading),) = checks.label_readings(200)
    assert reading.value == 0.1
    assert reading.text == "0 in another partition, 9 too late, 1 unknown"


def test_rules_on_entities_see_one_that_strays_at_once_and_until_it_is_forgotten() -> None:
    directory, checks = EntityDirectory(SLICE_MS, RULES), InputChecks("p", SLICE_MS, 0)
    checks.add(record(0, 0, 1, 0, 0, []))
    checks.add(record(0, 100, 1, 0, 0, []))
    hear(directory, told(0, ["a"], 5))
    checks.look_up(directory)
    assert list(checks.entity_readings(50)) == []
    assert [reading.value for _, reading in checks.entity_readings(100)] == [0.0]
    hear(directory, told(1, ["a", "b"], 110))
    checks.look_up(directory)
    ((window, reading),) = checks.entity_readings(150)
    assert (window.start_ms, reading.value, reading.text) == (100, 1.0, "a is in partitions 0 and 1")
    # A slice that has ended says nothing else any more; a later one has it as well.
    checks.add(record(0, 200, 1, 0, 0, []))
    assert [reading.value for _, reading in checks.entity_readings(200)] == [1.0, 1.0]
    assert [(window.start_ms, reading.value) for window, reading in checks.entity_readings(250)] == [(200, 1.0)]
    # It is seen nowhere else for two generations.
    log = EntityLog(1000, RULES)
    log.see(["a", "b"], np.array([110, 110], dtype=np.int64))
    log.see(["b"], np.array([2110], dtype=np.int64))
    hear(directory, [(1, key, value) for key, value in log.drain()])
    checks.look_up(directory)
    checks.add(record(0, 300, 1, 0, 0, []))
    assert [reading.value for _, reading in checks.entity_readings(400)] == [0.0, 0.0]


@pytest.mark.parametrize("n", [1, 2**16, 2**16 + 5])
def test_strangers_beyond_what_is_kept_stay_unknown(n: int) -> None:
    directory, checks = EntityDirectory(SLICE_MS, RULES), InputChecks("p", SLICE_MS, 0)
    hashes = np.arange(n, dtype="<i8").tobytes()
    checks.add(SketchRecord(0, 0, 0, [], [], 0, [LabelCounts(0, n, 0, 0, hashes)]))
    checks.add(record(0, 0, 1, 0, 0, ["a"]))
    hear(directory, told(1, ["a"], 5))
    checks.look_up(directory)
    totals = checks.totals
    assert totals.without_event == totals.labels == n + 1
    assert totals.other_partition == (n < 2**16)


def test_old_slices_count_in_the_totals_alone() -> None:
    checks = InputChecks("p", SLICE_MS, 0)
    for number in range(450):
        checks.add(record(0, number * SLICE_MS, 2, 1, 0, []))
    checks.rows(10**9)
    checks.prune()
    assert len(checks.to_state()["slices"]) == 400
    checks.add(record(0, 0, 2, 1, 0, []))
    assert (checks.totals.labels, checks.totals.too_late) == (902, 451)
    assert checks.rows(10**9) == []


def test_the_alert_on_first_labels_of_events_from_before_clears_by_itself_after_two_good_days() -> None:
    pipeline = setting().pipeline
    core = MonitorCore(pipeline)
    day_ms = pipeline.drift.slice_ms
    first_ms = START_MS // day_ms * day_ms
    said = []
    for day, unknown in enumerate((900, 300, 40, 90, 50, 10, 0)):
        start_ms, end_ms = first_ms + day * day_ms, first_ms + (day + 1) * day_ms
        core.observe(SketchRecord(0, end_ms, end_ms, [], [], 0, [LabelCounts(start_ms, 1_000, 0, unknown, b"")]))
        said += [(day, alert.rule, alert.state) for alert in core.collect(end_ms).alerts]
    assert said == [(0, "labels-without-event", "raised"), (5, "labels-without-event", "cleared")]
