"""A partition without events holds nothing back: who is idle, what then closes, and what its return changes."""

from __future__ import annotations

import pytest
from core_setting import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, batch, build, event, label
from hypothesis import given
from hypothesis import strategies as st

from app.core.counts.calendar import Calendar, Window
from app.core.counts.idleness import Idleness, Sight
from app.core.counts.sketches import ALL, pack, split_record
from app.core.counts.windows import WindowStore
from app.core.scoring import ChampionTimeline
from app.pipeline import PartitionPipeline
from models.reference.reference import Counts
from schemas.wire import SketchDelta, SketchRecord


def delta(start_ms: int, n: int = 1) -> SketchDelta:
    counts = Counts.zeros(2, 3, 8)
    counts.n = n
    return pack("m", "1.0.0", ALL, start_ms, counts)


def seen(position: int, *, done: bool = True, reported: bool = True) -> Sight:
    return Sight(position, done, reported)


def test_a_partition_is_idle_when_it_is_done_and_still_while_another_moves() -> None:
    watch = Idleness(30)
    assert watch.observe({0: seen(5), 1: seen(7)}, 0) == []
    assert watch.observe({0: seen(5), 1: seen(8)}, 20) == []
    assert watch.observe({0: seen(5), 1: seen(9)}, 30) == [0]
    assert watch.observe({0: seen(6), 1: seen(9)}, 40) == []  # it is back
    assert watch.observe({0: seen(6), 1: seen(9)}, 60) == [1]


def test_when_nothing_moves_nobody_is_idle() -> None:
    watch = Idleness(30)
    for now_s in range(0, 500, 5):
        assert watch.observe({0: seen(5), 1: seen(7)}, now_s) == []


def test_a_partition_whose_events_are_not_all_scored_is_slow_not_idle() -> None:
    watch = Idleness(30)
    for now_s in range(0, 500, 5):
        assert watch.observe({0: seen(5, done=False), 1: seen(now_s)}, now_s) == []


def test_a_partition_that_never_had_an_event_is_idle_though_all_was_over_when_the_watch_began() -> None:
    watch = Idleness(30)
    sights = {0: seen(5), 1: seen(0, reported=False)}
    assert watch.observe(sights, 0) == []
    assert watch.observe(sights, 30) == [1]
    nobody = {0: seen(0, reported=False), 1: seen(0, reported=False)}
    watch = Idleness(30)
    assert watch.observe(nobody, 0) == watch.observe(nobody, 60) == []


#: Seconds since the look before, and what is seen of each of three partitions; None: nothing is.
LOOKS = st.lists(
    st.tuples(
        st.sampled_from([0, 10, 20, 30, 40]),
        st.lists(st.none() | st.builds(Sight, st.integers(0, 1), st.booleans(), st.booleans()), min_size=3, max_size=3),
    ),
    max_size=10,
)


@given(looks=LOOKS)
def test_who_is_idle_follows_from_when_each_partition_moved_last(looks: list[tuple[int, list[Sight | None]]]) -> None:
    watch, now_s = Idleness(30), 0.0
    #: When each was seen first, and when it moved since.
    first: dict[int, float] = {}
    moves: dict[int, list[float]] = {}
    at: dict[int, int] = {}
    for passed_s, sights in looks:
        now_s += passed_s
        seen = {number: sight for number, sight in reversed(list(enumerate(sights))) if sight is not None}
        for number, sight in seen.items():
            first.setdefault(number, now_s)
            if at.get(number, sight.position) != sight.position:
                moves.setdefault(number, []).append(now_s)
            at[number] = sight.position
        expected = []
        for number in sorted(seen):
            still_since = max([first[number], *moves.get(number, [])])
            another_moved = any(time > still_since for times in moves.values() for time in times)
            another_has_reported = any(sight.has_reported for sight in seen.values())
            never_had_an_event = another_has_reported and not seen[number].has_reported
            if seen[number].is_done and now_s - still_since >= 30 and (another_moved or never_had_an_event):
                expected.append(number)
        assert watch.observe(seen, now_s) == expected


# -- what windows make of it -------------------------------------------------------------------------------------------


def make_store() -> WindowStore:
    return WindowStore(Calendar(10), 3, grace_ms=2, maturity_ms=5)


def test_a_partition_that_comes_back_with_older_events_amends_and_moves_no_watermark_back() -> None:
    store = make_store()
    store.add(SketchRecord(0, 100, 100, [delta(0), delta(90)]))
    store.add(SketchRecord(1, 50, 50, [delta(40)]))
    store.watermarks.declare_idle(2)  # it never had an event
    assert store.watermark_ms == 50
    store.watermarks.declare_idle(1)
    assert store.watermark_ms == 100
    assert store.closed() == [Window(0, 10), Window(40, 50)]
    store.add(SketchRecord(2, 7, 7, [delta(0, n=3)]))
    assert store.watermark_ms == 100
    assert store.panes.counts(Window(0, 10), "1.0.0")[ALL].n == 4
    store.add(SketchRecord(0, 200, 200, []))
    assert store.watermark_ms == 100  # 2 is with us again, and is at 7: it holds the next windows back
    store.watermarks.declare_idle(2)
    assert store.watermark_ms == 200


def test_when_all_are_idle_time_stands_still() -> None:
    store = make_store()
    store.add(SketchRecord(0, 100, 100, []))
    for partition in (2, 1, 0):
        store.watermarks.declare_idle(partition)
    assert store.watermark_ms == 100
    nobody = make_store()
    for partition in range(3):
        nobody.watermarks.declare_idle(partition)
    assert nobody.watermark_ms is None


@given(
    starts=st.lists(st.integers(0, 40).map(lambda n: n * 10), max_size=30),
    most=st.integers(1, 4000),
    watermark=st.integers(0, 400),
)
def test_a_record_in_parts_says_what_the_whole_says_and_closes_nothing_before_its_last(
    starts: list[int], most: int, watermark: int
) -> None:
    record = SketchRecord(0, watermark, watermark - 1, [delta(start) for start in starts])
    parts = list(split_record(record, most))
    assert [d for part in parts for d in part.deltas] == record.deltas
    whole, pieces = WindowStore(Calendar(10), 1, 2, 5), WindowStore(Calendar(10), 1, 2, 5)
    whole.add(record)
    for part in parts:
        assert pieces.closed() == []
        pieces.add(part)
    assert pieces.snapshot() == whole.snapshot()


# -- what a worker says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_labels", [False, True])
def test_a_partition_without_labels_holds_performance_back_by_the_horizon_at_most(
    tmp_path_factory: pytest.TempPathFactory, with_labels: bool
) -> None:
    setting = build(tmp_path_factory.mktemp("labels"))
    flow = PartitionPipeline(setting.pipeline, setting.plan, 0)
    minutes = range(0, 600, 10)
    values: list[bytes | None] = [event(number, START_MS + minute * MINUTE_MS) for number, minute in enumerate(minutes)]
    flow.receive_events(batch("cards.events", values, [START_MS + DAY_MS] * len(values)))
    if with_labels:
        found: list[bytes | None] = [label("e0", START_MS + 540 * MINUTE_MS)]
        flow.receive_labels(batch("cards.labels", found, [START_MS + DAY_MS]), 0)
    flow.merge.let_go(len(values))
    assert flow.step(ChampionTimeline([setting.version(1, None)]), 5000, 0) is not None
    record = flow.drain_sketch()
    assert record is not None
    assert record.watermark_ms == START_MS + 590 * MINUTE_MS
    until = 540 * MINUTE_MS if with_labels else 590 * MINUTE_MS - 3 * HOUR_MS
    assert record.label_watermark_ms == START_MS + until
