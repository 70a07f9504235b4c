"""What a monitor says of the stream itself: a function of what was counted and heard, in any order."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from core_setting import START_MS
from hypothesis import given
from hypothesis import strategies as st
from record_kinds import setting

from app.core.counts.sketches import ALL, pack
from app.core.counts.stream_start import StreamStart
from app.core.entities.directory import EntityDirectory
from app.core.entities.log import EntityLog
from app.core.input_checks import InputChecks
from app.core.monitoring.core import MonitorCore
from app.core.records.rules import RecordRules
from app.core.tiles.hash_runs import hash64
from models.reference.reference import Counts
from schemas.topics import Topics
from schemas.wire import LabelCounts, SketchDelta, SketchRecord

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
    assert list(checks.label_readings(199, StreamStart(), 0)) == []
    ((window, reading),) = checks.label_readings(200, StreamStart(), 0)
    assert (window.start_ms, window.end_ms) == (100, 200)
    assert math.isnan(reading.value)
    checks.add(record(1, 100, 1, 0, 1, []))
    ((_, reading),) = checks.label_readings(200, StreamStart(), 0)
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


def test_labels_of_events_from_before_the_stream_raise_nothing_and_the_same_ones_later_do() -> None:
    """Two events a day; the horizon is three days, and the day after it begins is the first that can be known."""
    pipeline = setting().pipeline
    assert pipeline.labels is not None
    day_ms = pipeline.drift.slice_ms
    core = MonitorCore(replace(pipeline, labels=replace(pipeline.labels, horizon_ms=3 * day_ms)))
    first_ms = START_MS // day_ms * day_ms
    said = []
    for day, unknown in enumerate((900, 300, 90, 40, 90, 50, 10, 0)):
        start_ms, end_ms = first_ms + day * day_ms, first_ms + (day + 1) * day_ms
        deltas = [pack(pipeline.model.name, "1", ALL, start_ms, two_events())]
        core.observe(SketchRecord(0, end_ms, end_ms, deltas, [], 0, [LabelCounts(start_ms, 1_000, 0, unknown, b"")]))
        said += [(day, alert.rule, alert.state) for alert in core.collect(end_ms).alerts]
    assert said == [(4, "labels-without-event", "raised"), (6, "labels-without-event", "cleared")]


def test_at_the_beginning_only_labels_in_another_partition_than_their_entity_are_wrong() -> None:
    directory, checks, start = EntityDirectory(SLICE_MS, RULES), InputChecks("p", SLICE_MS, 0), StreamStart()
    start.add(300, 9)
    for slice_start_ms in (100, 400, 500):  # before the stream, in its beginning, after it
        checks.add(record(0, slice_start_ms, 100, 5, 5, ["a"] * 10 if slice_start_ms != 100 else []))
    hear(directory, told(1, ["a"], 5))
    checks.look_up(directory)
    said = {window.start_ms: reading for window, reading in checks.label_readings(600, start, 200)}
    assert math.isnan(said[100].value)
    assert said[400].value == 0.1
    assert said[400].text == "10 in another partition; the events of others may be from before the stream's beginning"
    assert said[500].value == 0.2
    assert said[500].text == "10 in another partition, 5 too late, 5 unknown"


def two_events() -> Counts:
    counts = Counts.zeros(3, 2, 1)
    counts.n, counts.counts[:2, 0] = 2, 2
    counts.minima[:2] = counts.maxima[:2] = 0.0
    return counts


# -- against a plain table of what was counted -------------------------------------------------------------------------

GRACE_MS = 7
SLICES = st.integers(0, 3).map(lambda number: number * SLICE_MS)
#: A slice, labels, of them too late and unknown, and the keys of strangers.
LABELS = st.lists(
    st.tuples(
        SLICES, st.sampled_from([2, 50, 100]), st.integers(0, 2), st.integers(0, 2),
        st.lists(st.sampled_from([*CARDS, "nobody"]), max_size=2),
    ),
    max_size=3,
)  # fmt: skip  # five strategies, five fields
#: A slice, a segment, events.
EVENTS = st.lists(st.tuples(SLICES, st.sampled_from([ALL, ALL, "shop=a"]), st.integers(0, 3)), max_size=3)
#: A partition tells of events and labels, or of cards that it has seen some time after those before.
TOLD = st.tuples(st.integers(0, 2), EVENTS, LABELS) | st.tuples(
    st.integers(0, 2), st.lists(st.sampled_from(CARDS[:3]), min_size=1, max_size=3), st.sampled_from([0, 60, 120])
)


def events_of(start_ms: int, segment: str, n: int) -> SketchDelta:
    counts = Counts.zeros(2, 3, 8)
    counts.n = n
    return pack("m", "1.0.0", segment, start_ms, counts)


class Ledger:
    """The records and the cards as they were told, and what follows from them."""

    def __init__(self) -> None:
        self.counts: dict[int, Counter[str]] = {}
        self.strangers: list[tuple[int, int, str]] = []
        self.seen: dict[str, dict[int, int]] = {}
        self.examples: dict[int, list[str]] = {}

    def note(self, partition: int, events: list[tuple[int, str, int]], labels: list[Any]) -> None:
        for start_ms, segment, n in events:
            if segment == ALL and n:
                self.counts.setdefault(start_ms, Counter())["events"] += n
        for start_ms, n, too_late, unknown, strangers in labels:
            here = self.counts.setdefault(start_ms, Counter())
            here.update(labels=n, too_late=too_late, unknown=unknown)
            self.strangers += [(start_ms, partition, card) for card in strangers]

    def see(self, partition: int, cards: list[str], time_ms: int) -> None:
        for card in cards:
            self.seen.setdefault(card, {}).setdefault(partition, time_ms)
        found = sorted(
            (self.strayed_ms(card), card, sorted(self.seen[card])) for card in self.seen if self.strayed_ms(card)
        )
        for strayed_ms, card, (*others, last) in found:
            said = self.examples.setdefault(strayed_ms // SLICE_MS * SLICE_MS, [])
            text = f"{card} is in partitions {', '.join(map(str, others))} and {last}"
            if text not in said:
                said.append(text)

    def strayed_ms(self, card: str) -> int:
        """When the card was seen in a second partition; 0: it was not."""
        return sorted([*self.seen[card].values(), 0])[2] if len(self.seen[card]) > 1 else 0

    def slices(self) -> dict[int, dict[str, Any]]:
        strayed = Counter(self.strayed_ms(card) // SLICE_MS * SLICE_MS for card in self.seen if self.strayed_ms(card))
        found = {}
        for start_ms in sorted(self.counts.keys() | strayed.keys()):
            here = [(partition, card) for start, partition, card in self.strangers if start == start_ms]
            elsewhere = sum(bool(self.seen.get(card, {}).keys() - {partition}) for partition, card in here)
            counted = self.counts.get(start_ms, Counter())
            found[start_ms] = {
                **{name: counted[name] for name in ("events", "labels", "too_late")},
                "unknown": counted["unknown"] + len(here) - elsewhere,
                "other_partition": elsewhere,
                "strays": strayed[start_ms],
                "examples": self.examples.get(start_ms, []),
            }
        return found


@pytest.mark.slow
@given(
    told=st.lists(TOLD, max_size=10),
    asked=st.lists(st.none() | st.integers(0, 600) | st.sampled_from([100, 107, 200, 206, 207, 307]), max_size=10),
    restart=st.integers(0, 10),
)
def test_rows_and_readings_are_those_of_a_plain_table(
    told: list[tuple[int, Any, Any]], asked: list[int | None], restart: int
) -> None:
    directory, checks, ledger = EntityDirectory(SLICE_MS, RULES), InputChecks("p", SLICE_MS, GRACE_MS), Ledger()
    logs = [EntityLog(10**6, RULES) for _ in range(3)]
    time_ms, said, read_ms = 1, dict[int, dict[str, Any]](), -1
    for turn, (partition, first, second) in enumerate(told):
        if isinstance(second, int):
            time_ms += second
            logs[partition].see(first, np.full(len(first), time_ms, dtype=np.int64))
            hear(directory, [(partition, key, value) for key, value in logs[partition].drain()])
            ledger.see(partition, first, time_ms)
        else:
            counts = [
                LabelCounts(*numbers, np.array([hash64(card.encode()) for card in cards], "<i8").tobytes())
                for *numbers, cards in second
            ]
            checks.add(SketchRecord(partition, 0, 0, [events_of(*each) for each in first], [], 0, counts))
            ledger.note(partition, first, second)
        checks.look_up(directory)
        if turn == restart:
            state = json.loads(json.dumps(checks.to_state()))
            checks = InputChecks("p", SLICE_MS, GRACE_MS)
            checks.from_state(state)
            assert json.loads(json.dumps(checks.to_state())) == state
        slices = ledger.slices()
        for name in ("events", "labels", "too_late", "unknown", "other_partition", "strays"):
            assert getattr(checks.totals, name) == sum(each[name] for each in slices.values())
        watermark_ms = asked[turn] if turn < len(asked) else None
        come_to_ms = -1 if watermark_ms is None else watermark_ms

        due = {
            at: each for at, each in slices.items() if at + SLICE_MS + GRACE_MS <= come_to_ms and said.get(at) != each
        }
        rows = checks.rows(watermark_ms)
        assert [(row.pipeline, row.window_start_ms, row.window_end_ms) for row in rows] == [
            ("p", start_ms, start_ms + SLICE_MS) for start_ms in due
        ]
        for row in rows:
            counted = due[row.window_start_ms]
            assert {name: getattr(row, name) for name in counted} == counted
        said |= due

        labels = {window.start_ms: reading for window, reading in checks.label_readings(watermark_ms, StreamStart(), 0)}
        assert list(labels) == [start_ms for start_ms in slices if start_ms + SLICE_MS <= come_to_ms]
        for start_ms, reading in labels.items():
            of = slices[start_ms]
            late, unknown, other = of["too_late"], of["unknown"], of["other_partition"]
            if of["labels"] < 100:
                assert (math.isnan(reading.value), reading.text) == (True, "")
            else:
                assert reading.value == (late + unknown + other) / of["labels"]
                assert reading.text == f"{other} in another partition, {late} too late, {unknown} unknown"

        expected = []
        for start_ms in [start_ms for start_ms in slices if start_ms > read_ms]:
            strayed = sum(each["strays"] for at, each in slices.items() if at <= start_ms)
            has_ended = start_ms + SLICE_MS + GRACE_MS <= come_to_ms
            if strayed or has_ended:
                window = start_ms, start_ms + SLICE_MS
                expected.append((window, float(strayed), "; ".join(slices[start_ms]["examples"][:3])))
            read_ms = start_ms if has_ended else read_ms
        assert [
            ((window.start_ms, window.end_ms), reading.value, reading.text)
            for window, reading in checks.entity_readings(watermark_ms)
        ] == expected


def test_a_stranger_of_an_old_slice_stays_unknown_and_one_of_a_slice_that_is_kept_does_not() -> None:
    """The newest 400 slices are kept; entities that stray in an older one are counted nowhere."""
    directory, checks = (
        EntityDirectory(SLICE_MS, RecordRules(Topics("p", 4), "m", 0, 10**9, 0, 0)),
        InputChecks("p", SLICE_MS, 0),
    )
    for number in range(401):
        checks.add(record(0, number * SLICE_MS, 1, 0, 0, ["a"]))
    assert len(checks.rows(10**9)) == 401
    checks.prune()
    assert [start_ms for start_ms, _ in checks.to_state()["slices"]] == [SLICE_MS * number for number in range(1, 401)]
    assert [start_ms for start_ms, _ in checks.to_state()["said"]] == [SLICE_MS * number for number in range(1, 401)]
    assert (checks.totals.labels, checks.totals.unknown) == (401, 401)
    again = InputChecks("p", SLICE_MS, 0)
    again.from_state(json.loads(json.dumps(checks.to_state())))
    for each in (checks, again):
        each.prune()
        each.add(record(0, 0, 1, 0, 0, ["a"]))  # it comes too late to be kept
        each.add(record(0, SLICE_MS, 1, 0, 0, ["a"]))
        each.prune()
    hear(directory, told(1, ["a"], 5))
    hear(directory, told(2, ["a"], 5))
    for each in (checks, again):
        each.look_up(directory)
        totals = each.totals
        assert (totals.labels, totals.unknown, totals.other_partition, totals.strays) == (403, 2, 401, 0)
        assert [row.window_start_ms for row in each.rows(10**9)] == [SLICE_MS * number for number in range(1, 401)]
        each.prune()
        assert each.totals == totals
