"""Windows partition time, the watermark never goes back, and a restored store goes on as the one it was taken of."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.counts.sketches import ALL, pack
from app.core.counts.windows import Calendar, Note, Stage, Window, WindowStore
from models.reference.reference import Counts
from models.reference.soundness import SparseCounts
from schemas.pipeline.spec import PastWindow
from schemas.wire import SketchRecord

DAY_MS = 86_400_000


def ms(*when: int) -> int:
    return int(dt.datetime(*when, tzinfo=dt.UTC).timestamp() * 1000)


def counts_of(n: int) -> Counts:
    counts = Counts.zeros(2, 3, 8)
    counts.n = n
    counts.counts[0, 1] = n
    return counts


def record(partition: int, watermark_ms: int, *slices: int, version: str = "1", n: int = 1) -> SketchRecord:
    deltas = [pack("m", version, ALL, start, counts_of(n)) for start in slices]
    return SketchRecord(partition, watermark_ms, watermark_ms, deltas)


def make_store(partitions: int = 1, keep: int = 24) -> WindowStore:
    return WindowStore(Calendar(10), partitions, grace_ms=2, maturity_ms=5, keep=keep)


@given(st.integers(-(10**13), 10**13), st.sampled_from([Calendar(None), Calendar(7 * DAY_MS), Calendar(1_000)]))
def test_windows_partition_time(time_ms: int, calendar: Calendar) -> None:
    window = calendar.window_at(time_ms)
    assert window.start_ms <= time_ms < window.end_ms
    assert calendar.window_at(window.start_ms) == calendar.window_at(window.end_ms - 1) == window
    following = calendar.window_at(window.end_ms)
    assert following.start_ms == window.end_ms
    assert calendar.ordinal(following) == calendar.ordinal(window) + 1


@given(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)))  # noqa: DTZ001  # made UTC below
def test_a_month_is_that_of_the_utc_calendar(naive: dt.datetime) -> None:
    time = naive.replace(tzinfo=dt.UTC, microsecond=0)
    window = Calendar(None).window_at(ms(*time.timetuple()[:6]))
    assert window.start_ms == ms(time.year, time.month, 1)
    assert window.end_ms == ms(time.year + time.month // 12, time.month % 12 + 1, 1)


def test_windows_are_written_as_a_person_would() -> None:
    assert str(Window(ms(2013, 3, 1), ms(2013, 4, 1))) == "2013-03-01 to 2013-04-01 UTC"
    assert str(Window(ms(2013, 3, 1), ms(2013, 3, 1, 1))) == "2013-03-01T00:00:00 to 2013-03-01T01:00:00 UTC"


@pytest.mark.parametrize(
    ("window", "slice_ms", "words"),
    [
        ("fortnight", 1, 'write "month" or a duration'),
        ("1h", 7, "divides 3600000 ms"),
        ("month", DAY_MS * 2, "divides"),
    ],
)
def test_windows_that_slices_cannot_fill_are_refused(window: str, slice_ms: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Calendar.parse(window, slice_ms)


def test_a_duration_may_be_plain_milliseconds() -> None:
    assert Calendar.parse("5000", 1_000) == Calendar.parse("5s", 1_000) == Calendar(5_000)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-50, 100)), max_size=30))
def test_the_watermark_is_the_lowest_of_all_partitions_and_never_goes_back(steps: list[tuple[int, int]]) -> None:
    store = make_store(3)
    highest: dict[int, int] = {}
    before = None
    for partition, watermark in steps:
        store.add(record(partition, watermark))
        highest[partition] = max(highest.get(partition, watermark), watermark)
        now = store.watermark_ms
        assert now == (min(highest.values()) if len(highest) == 3 else None)
        assert before is None or (now is not None and now >= before)
        before = now


def test_a_silent_partition_holds_back_until_it_is_declared_idle_and_its_return_is_late() -> None:
    store = make_store(2)
    store.add(record(0, 100, 0))
    assert store.closed() == []
    store.watermarks.declare_idle(1)
    assert store.closed() == [Window(0, 10)]
    store.holdings(Window(0, 10))[0][1]["features"].report("said")
    store.add(record(1, 5, 0))
    assert store.watermark_ms == 100
    assert store.holdings(Window(0, 10))[0][1]["features"].is_due(is_history_changed=False)


def test_a_window_closes_when_the_watermark_reaches_its_end_and_grace() -> None:
    store = make_store()
    store.add(record(0, 11, 0))
    assert store.closed() == []
    store.add(record(0, 12))
    assert store.closed() == [Window(0, 10)]
    assert not store.is_mature(Window(0, 10))
    store.add(record(0, 15))
    assert store.is_mature(Window(0, 10))


def test_old_windows_are_forgotten_once_reported_and_what_comes_for_them_is_counted() -> None:
    store = make_store(keep=1)
    store.add(record(0, 100, 0, 10, 20))
    store.forget_reported()
    assert len(store.closed()) == 3  # nothing has been reported
    for window in store.closed():
        for _, holding in store.holdings(window):
            holding["features"].report("said")
            holding["labels"].report("said")
    store.forget_reported()
    assert store.closed() == [Window(20, 30)]
    store.add(record(0, 100, 0, 20, n=3))
    assert store.n_too_late == 3
    assert store.closed() == [Window(20, 30)]
    assert store.panes.counts(Window(20, 30), "1")[ALL].n == 4


records = st.lists(
    st.builds(
        record,
        st.integers(0, 1),
        st.integers(-10, 60),
        st.integers(-20, 50),
        version=st.sampled_from(["1", "2"]),
        n=st.integers(0, 4),
    ),
    max_size=15,
)


def test_what_was_said_is_judged_again_when_it_or_its_past_has_changed() -> None:
    note = Note(is_changed=True)
    assert note.is_due(is_history_changed=False)
    assert note.report("a") == 1
    assert not note.is_due(is_history_changed=False)
    assert note.is_due(is_history_changed=True)
    # Nothing has been said of a new one, so that no past of it can have changed.
    assert not Note().is_due(is_history_changed=True)
    note.note_history()
    assert note.is_due(is_history_changed=False)
    assert note.report("a") is None
    assert not note.is_due(is_history_changed=False)
    assert note.report("b") == 2
    silent = Note()
    silent.note_history()
    assert silent == Note()
    changed = Note(is_changed=True)
    changed.note_history()
    assert changed.is_due(is_history_changed=False)


def test_each_stage_has_revisions_of_its_own() -> None:
    store = make_store()
    store.add(record(0, 100, 0))
    ((_, holding),) = store.holdings(Window(0, 10))
    assert [holding["features"].report(words) for words in ("x", "x", "y")] == [1, None, 2]
    assert holding["labels"].is_due(is_history_changed=False)
    assert [note.revision for note in holding.values()] == [2, 0, 0]


def test_labels_are_mature_when_they_have_come_so_far_past_the_end() -> None:
    store, unlabelled = make_store(), WindowStore(Calendar(10), 1, 2, None)
    for each in (store, unlabelled):
        assert not each.is_mature(Window(0, 10))
        each.add(record(0, 14))
        assert not each.is_mature(Window(0, 10))
        each.add(record(0, 15))
    assert store.is_mature(Window(0, 10))
    assert not store.is_mature(Window(1, 11))
    assert not unlabelled.is_mature(Window(0, 10))


def test_a_store_says_what_it_holds() -> None:
    store = make_store(2)
    assert (store.closed(), store.n_open, store.panes.versions(), store.panes.n_metrics("1")) == ([], 0, set(), 0)
    store.add(record(0, 40, 5, 15, 35))
    assert (store.closed(), store.n_open) == ([], 3)  # the other partition has said nothing
    assert [store.watermarks.has_reported(partition) for partition in (0, 1)] == [True, False]
    store.add(record(1, 22, 5, version="2"))
    assert (store.closed(), store.n_open) == ([Window(0, 10), Window(10, 20)], 1)
    assert store.panes.versions() == {"1", "2"}
    assert [store.panes.n_metrics(version) for version in ("1", "2", "3")] == [2, 2, 0]


def test_what_comes_too_late_is_counted_once_whatever_segments_it_is_of() -> None:
    store = make_store(keep=0)
    store.add(record(0, 40, 5))
    for window in store.closed():
        for _, holding in store.holdings(window):
            holding["features"].report("a")
            holding["labels"].report("a")
    assert store.settled_before_ms is None
    store.forget_reported()
    assert store.settled_before_ms == 1
    late = record(0, 40, 7, n=3)
    of_segment = pack("m", "1", "k=1", 7, counts_of(3))
    store.add(SketchRecord(0, 40, 40, [*late.deltas, of_segment]))
    assert store.n_too_late == 3
    assert store.closed() == []


def test_events_left_unscored_are_in_no_window_and_are_counted_over_restarts() -> None:
    store = make_store()
    store.add(SketchRecord(0, 5, 5, [], [], 3))
    store.add(SketchRecord(0, 50, 50, [], [], 4))
    assert (store.closed(), store.n_unscored) == ([], 7)
    other = make_store()
    other.restore(store.snapshot())
    assert other.n_unscored == 7
    # They began the stream, when they happened if that is told, and else by when their partition had come so far.
    assert store.start.before(100) == other.start.before(100) == 5
    store.add(SketchRecord(0, 60, 60, [], unscored=9, unscored_since_ms=2))
    assert store.start.before(100) == 2


@pytest.mark.slow
@settings(max_examples=60)
@given(records, records)
def test_a_restored_store_continues_identically(before: list[SketchRecord], after: list[SketchRecord]) -> None:
    store, other = make_store(2), make_store(2)
    for each in before:
        store.add(each)
    if store.closed():
        store.holdings(store.closed()[0])[0][1]["features"].report("said")
    store.watermarks.declare_idle(1)
    other.restore(store.snapshot())
    assert other.snapshot() == store.snapshot()
    for each in after:
        store.add(each)
        other.add(each)
        assert other.closed() == store.closed()
    assert other.snapshot() == store.snapshot()


def test_equal_stores_give_equal_bytes_whichever_segment_version_window_or_partition_came_first() -> None:
    deltas = [
        pack("m", version, segment, start_ms, counts_of(1))
        for start_ms in (0, 10, 20)
        for version in ("1", "2", "3")
        for segment in (ALL, "shop=a", "shop=b")
    ]
    one, other = make_store(4), make_store(4)
    records = [SketchRecord(partition, 5, 5, deltas if partition == 1 else []) for partition in (1, 2)]
    turned = [SketchRecord(each.partition, 5, 5, each.deltas[::-1]) for each in records[::-1]]
    for store, order, idle in ((one, records, (0, 3)), (other, turned, (3, 0))):
        for partition in idle:
            store.watermarks.declare_idle(partition)
        for each in order:
            store.add(each)
    assert one.snapshot() == other.snapshot()


def test_a_snapshot_of_other_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="read the sketches topic from its beginning"):
        make_store(2).restore(make_store(1).snapshot())
    with pytest.raises(ValueError, match="not a snapshot"):
        make_store().restore(b"something else")


def test_a_partition_that_the_pipeline_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="partition 1 is none of the 1"):
        make_store().add(record(1, 0))


def test_time_beyond_2038_and_before_1970_is_time() -> None:
    assert Calendar(None).window_at(ms(2100, 2, 28)).end_ms == ms(2100, 3, 1)
    assert Calendar(10).window_at(-1) == Window(-10, 0)
    assert np.int64(ms(2100, 1, 1)) > 2**41


def test_a_partition_that_reports_again_is_no_longer_idle() -> None:
    store = make_store(2)
    store.watermarks.declare_idle(1)
    store.add(record(0, 10))
    store.add(record(1, 11))
    store.add(record(0, 50))
    assert store.watermark_ms == 11


def test_neither_watermark_goes_back_when_an_idle_partition_returns() -> None:
    store = make_store(2)
    store.watermarks.declare_idle(1)
    store.add(SketchRecord(0, 50, 40, []))
    store.add(SketchRecord(1, 30, 20, []))
    assert (store.watermark_ms, store.label_watermark_ms) == (50, 40)
    store.add(SketchRecord(1, 60, 45, []))
    assert (store.watermark_ms, store.label_watermark_ms) == (50, 40)
    store.add(SketchRecord(0, 70, 60, []))
    assert (store.watermark_ms, store.label_watermark_ms) == (60, 45)


def test_a_window_is_reported_above_every_revision_that_others_know() -> None:
    store = make_store()
    store.add(record(0, 5, 3))
    store.raise_revisions(
        {("1", 0, "features"): 4, ("1", 0, "labels"): 2, ("1", 0, "verdict"): 9, ("1", 10, "features"): 7}
    )
    store.add(record(0, 30, 12))

    (_, first), (_, second) = store.holdings(Window(0, 10))[0], store.holdings(Window(10, 20))[0]

    assert [note.report("a") for note in first.values()] == [5, 3, 10]
    assert [note.report("a") for note in second.values()] == [8, 1, 1]


def test_what_was_reported_and_cannot_be_counted_again_is_left_alone() -> None:
    store = make_store()
    store.add(record(0, 15, 12))
    store.keep_reported({("1", 0, "features"): 1, ("1", 10, "features"): 1})
    store.add(record(0, 30, 3, 12, 25))

    assert store.closed() == [Window(10, 20)]
    assert store.panes.counts(Window(10, 20), "1")[ALL].n == 2
    assert store.n_too_late == 1


def test_all_windows_that_were_reported_and_are_lost_are_left_alone() -> None:
    store = make_store()
    store.keep_reported({("1", 0, "features"): 1, ("1", 10, "features"): 1})
    store.add(record(0, 50, 3, 12, 25))

    assert store.closed() == [Window(20, 30)]
    assert store.n_too_late == 2


# -- overlapping windows, windows to compare with, segments ------------------------------------------------------------


@given(st.integers(-(10**6), 10**6), st.integers(1, 6), st.integers(1, 50))
def test_each_pane_is_part_of_the_windows_that_hold_its_times(time_ms: int, panes: int, every_ms: int) -> None:
    calendar = Calendar(panes * every_ms, every_ms)
    pane = calendar.pane_at(time_ms)
    windows = calendar.windows_of(pane)
    assert len(windows) == panes
    for window in windows:
        assert window.start_ms <= time_ms < window.end_ms
        assert pane in calendar.panes_of(window)
    ordinals = [calendar.ordinal(window) for window in windows]
    assert np.diff(ordinals).tolist() == [1] * (panes - 1)


def test_overlapping_windows_are_sums_of_panes_and_a_late_event_amends_all_of_them() -> None:
    store = WindowStore(Calendar(30, 10), 1, grace_ms=0, maturity_ms=None)
    store.add(record(0, 60, 0, 10, 20, 30, n=1))
    assert [window.start_ms for window in store.closed()] == [-20, -10, 0, 10, 20, 30]
    assert [store.panes.counts(window, "1")[ALL].n for window in store.closed()] == [1, 2, 3, 3, 2, 1]
    for window in store.closed():
        store.holdings(window)[0][1]["features"].report("said")
    store.add(record(0, 60, 15, n=5))
    due = [w.start_ms for w in store.closed() if store.holdings(w)[0][1]["features"].is_due(is_history_changed=False)]
    assert due == [-10, 0, 10]
    assert store.panes.counts(Window(0, 30), "1")[ALL].n == 8


def test_panes_are_kept_as_long_as_a_window_needs_them() -> None:
    store = WindowStore(Calendar(30, 10), 1, grace_ms=0, maturity_ms=None, keep=1)
    store.add(record(0, 100, *range(0, 100, 10)))
    for window in store.closed():
        store.holdings(window)[0][1]["features"].report("said")
    store.forget_reported()
    (last,) = store.closed()
    assert last == Window(70, 100)
    assert store.panes.counts(last, "1")[ALL].n == 3
    assert not store.panes.counts(Window(30, 60), "1")
    store.add(record(0, 110, 100))
    assert store.panes.counts(Window(80, 110), "1")[ALL].n == 3


@pytest.mark.parametrize(
    ("against", "expected"),
    [(PastWindow(start_ms=12), Window(10, 20)), (PastWindow(season_ms=30), Window(60, 70))],
)
def test_what_windows_are_compared_with_is_kept(against: PastWindow, expected: Window) -> None:
    calendar = Calendar(10)
    store = WindowStore(calendar, 1, grace_ms=0, maturity_ms=None, keep=1, against=against)
    store.add(record(0, 100, *range(0, 100, 10)))
    for window in store.closed():
        store.holdings(window)[0][1]["features"].report("said")
    store.forget_reported()
    (last,) = store.closed()
    assert calendar.before(last, against) == expected
    assert store.panes.counts(expected, "1")[ALL].n == 1
    assert not store.panes.counts(Window(20, 30), "1")


def test_a_year_before_a_month_is_that_month() -> None:
    march = Calendar(None).window_at(ms(2024, 3, 9))
    assert str(Calendar(None).before(march, PastWindow(months=12))) == "2023-03-01 to 2023-04-01 UTC"


@pytest.mark.parametrize(
    ("when", "months", "expected"),
    [
        ((2024, 3, 9), 1, "2024-02-01 to 2024-03-01 UTC"),
        ((2024, 1, 1), 1, "2023-12-01 to 2024-01-01 UTC"),
        ((2024, 1, 31), 14, "2022-11-01 to 2022-12-01 UTC"),
        ((2024, 3, 9), None, "2023-03-01 to 2023-04-01 UTC"),
    ],
)
def test_a_month_is_compared_with_that_of_so_many_months_ago(
    when: tuple[int, int, int], months: int | None, expected: str
) -> None:
    calendar = Calendar(None)
    assert str(calendar.before(calendar.window_at(ms(*when)), PastWindow(months=months))) == expected


def test_a_window_is_compared_with_a_given_one_or_that_of_a_season_ago() -> None:
    assert Calendar(30, 10).before(Window(100, 130), PastWindow(start_ms=47)) == Window(40, 70)
    assert Calendar(30, 10).before(Window(100, 130), PastWindow(season_ms=70)) == Window(30, 60)
    assert Calendar(None).before(Window(ms(2024, 3, 1), ms(2024, 4, 1)), PastWindow(start_ms=0)) == Window(
        0, ms(1970, 2, 1)
    )


@pytest.mark.parametrize(
    ("window", "size_ms"),
    [
        ("250ms", 250),
        ("7s", 7_000),
        ("5m", 300_000),
        ("2 h", 7_200_000),
        ("3d", 3 * DAY_MS),
        ("2w", 14 * DAY_MS),
        ("month", None),
    ],
)
def test_a_window_is_as_long_as_is_written(window: str, size_ms: int | None) -> None:
    calendar = Calendar.parse(window, 50)
    assert calendar == Calendar(size_ms)
    assert calendar.step_ms == (size_ms if size_ms is not None else 365.2425 / 12 * DAY_MS)


@pytest.mark.parametrize(
    ("window", "slice_ms", "every_ms", "words"),
    [
        ("60s", 10_000, 20_000, ""),
        ("60s", 10_000, 10_000, ""),
        ("60s", 10_000, 60_000, ""),
        ("60s", 1, 1, ""),
        ("60s", 60_000, None, ""),
        ("month", DAY_MS, None, ""),
        ("60s", 10_000, 5_000, "drift.every is 5000 ms"),
        ("60s", 20_000, 30_000, "a multiple of the slice"),
        ("60s", 10_000, 40_000, "windows of '60s' one of it"),
        ("60s", 10_000, 120_000, "drift.every"),
        ("60s", 10_000, 0, "drift.every"),
        ("month", DAY_MS, DAY_MS, "drift.every"),
        ("60s", 0, None, "drift.slice is 0 ms"),
        ("60s", 120_000, None, "one that divides 60000 ms"),
        ("0d", 1, None, "drift.window is '0d'"),
        ("7 days", 1, None, "drift.window"),
    ],
)
def test_windows_are_made_of_slices_and_overlap_by_whole_ones(
    window: str, slice_ms: int, every_ms: int | None, words: str
) -> None:
    if words:
        with pytest.raises(ValueError, match=words):
            Calendar.parse(window, slice_ms, every_ms)
    else:
        assert Calendar.parse(window, slice_ms, every_ms).step_ms == (every_ms or Calendar.parse(window, 1).step_ms)


def test_windows_are_written_with_the_time_of_day_where_one_end_has_any() -> None:
    assert str(Window(0, 30_500)) == "1970-01-01T00:00:00 to 1970-01-01T00:00:30 UTC"
    assert str(Window(-1_000, DAY_MS)) == "1969-12-31T23:59:59 to 1970-01-02T00:00:00 UTC"


# -- what is kept, and what is left alone ------------------------------------------------------------------------------


#: What is judged before there is a verdict.
BOTH: tuple[Stage, ...] = ("features", "labels")


def report_all(store: WindowStore, stages: tuple[Stage, ...] = BOTH) -> None:
    for window in store.closed():
        for _, holding in store.holdings(window):
            for stage in stages:
                holding[stage].report("said")


def test_a_closed_window_is_kept_until_its_labels_are_mature_and_have_been_reported() -> None:
    store = make_store(keep=0)
    store.add(record(0, 14, 3))
    report_all(store)
    store.forget_reported()
    assert store.closed() == [Window(0, 10)]  # more labels may come
    store.add(record(0, 15, 3, n=0))
    store.forget_reported()
    assert store.closed() == [Window(0, 10)]  # some have come
    report_all(store, ("labels",))
    store.forget_reported()
    assert store.closed() == []
    assert not store.panes.counts(Window(0, 10), "1")
    unlabelled = WindowStore(Calendar(10), 1, 2, None, keep=0)
    unlabelled.add(record(0, 14, 3))
    unlabelled.forget_reported()
    assert unlabelled.closed() == [Window(0, 10)]
    report_all(unlabelled, ("features",))
    unlabelled.forget_reported()
    assert unlabelled.closed() == []


def test_the_newest_closed_windows_are_kept_and_of_an_older_one_each_version_until_it_is_reported() -> None:
    store = make_store(keep=1)
    store.add(record(0, 100, 0, 10))
    store.add(record(0, 100, 0, version="2"))
    for version, holding in store.holdings(Window(0, 10)):
        if version == "2":
            holding["features"].report("said")
            holding["labels"].report("said")
    store.forget_reported()
    assert [version for version, _ in store.holdings(Window(0, 10))] == ["1"]
    assert store.settled_before_ms == 0  # it is held, though nothing new may come for it
    report_all(store)
    store.forget_reported()
    assert store.closed() == [Window(10, 20)]
    assert store.settled_before_ms == 1
    # Of a version that is gone a late event is too late; of one that is held it amends.
    store.add(record(0, 100, 5, version="2", n=4))
    store.add(record(0, 100, 15, n=2))
    assert (store.n_too_late, store.panes.counts(Window(10, 20), "1")[ALL].n) == (4, 3)


def test_a_late_event_of_a_version_that_is_held_amends_and_of_another_is_too_late() -> None:
    store = make_store(keep=0)
    store.add(record(0, 100, 3))
    store.forget_reported()
    store.add(record(0, 100, 4, n=2))
    store.add(record(0, 100, 4, version="2", n=5))
    assert (store.panes.counts(Window(0, 10), "1")[ALL].n, store.n_too_late) == (3, 5)
    assert store.panes.versions() == {"1"}


def test_labels_alone_change_nothing_that_is_said_of_features() -> None:
    store = make_store()
    store.add(record(0, 100, 3, n=0))
    (((_, holding),), window) = store.holdings(Window(0, 10)), Window(0, 10)
    assert holding["features"].is_due(is_history_changed=False)  # nothing has been said of it
    report_all(store)
    store.add(record(0, 100, 4, n=0))
    assert not holding["features"].is_due(is_history_changed=False)
    assert holding["labels"].is_due(is_history_changed=False)
    store.add(record(0, 100, 4))
    assert holding["features"].is_due(is_history_changed=False)
    report_all(store)
    store.note_history([window], "labels")
    assert [holding[stage].is_due(is_history_changed=False) for stage in BOTH] == [False, True]


class Refusing:
    """Laws by which counts of seven events are unsound."""

    def find_fault(self, sketch: SparseCounts) -> str:
        return "seven" if sketch.n == 7 else ""


def test_unsound_counts_are_dropped_with_the_windows_that_hold_nothing_else_of_the_version() -> None:
    store = WindowStore(Calendar(30, 10), 1, grace_ms=0, maturity_ms=None)
    store.add(record(0, 100, 0, n=7))
    store.add(record(0, 100, 20))
    store.add(record(0, 100, 50, n=7))
    store.add(record(0, 100, 0, version="2", n=7))
    assert store.drop_unsound("3", Refusing()) == 0  # type: ignore[arg-type]  # laws of its own
    assert store.drop_unsound("1", Refusing()) == 2  # type: ignore[arg-type]  # laws of its own
    held = {w.start_ms: [version for version, _ in store.holdings(w)] for w in store.closed() if store.holdings(w)}
    assert held == {-20: ["2"], -10: ["2"], 0: ["1", "2"], 10: ["1"], 20: ["1"]}
    assert store.panes.counts(Window(0, 30), "1")[ALL].n == 1
    assert store.panes.counts(Window(0, 30), "2")[ALL].n == 7
    assert store.drop_unsound("1", Refusing()) == 0  # type: ignore[arg-type]  # laws of its own


def test_what_is_compared_with_a_season_ago_keeps_no_more_than_that() -> None:
    store = WindowStore(Calendar(10), 1, 0, None, keep=1, against=PastWindow(season_ms=30))
    store.add(record(0, 100, *range(0, 100, 10)))
    report_all(store, ("features",))
    store.forget_reported()
    assert [bool(store.panes.counts(Window(at, at + 10), "1")) for at in range(0, 100, 10)] == [False] * 6 + [True] * 4
    # Where no window is held any one may be asked for.
    store = WindowStore(Calendar(10), 1, 0, None, keep=0, against=PastWindow(season_ms=30))
    store.add(record(0, 100, 0, 10))
    report_all(store, ("features",))
    store.forget_reported()
    assert store.closed() == []
    assert [bool(store.panes.counts(Window(at, at + 10), "1")) for at in (0, 10)] == [True, True]


def test_a_store_that_has_forgotten_windows_goes_on_after_a_restart() -> None:
    store = make_store(2, keep=0)
    store.watermarks.declare_idle(1)
    store.add(record(0, 100, 0, 90))
    report_all(store)
    store.forget_reported()
    store.add(record(0, 100, 5, n=3))
    other = make_store(2, keep=0)
    other.restore(store.snapshot())
    for each in (store, other):
        assert (each.watermark_ms, each.label_watermark_ms, each.n_too_late) == (100, 100, 3)
        each.add(record(0, 120, 5, n=2))
        assert each.n_too_late == 5
        assert each.watermark_ms == 120  # the other one is idle still
        assert not each.watermarks.has_reported(1)
    assert other.settled_before_ms == store.settled_before_ms
    assert other.snapshot() == store.snapshot()


@pytest.mark.parametrize(
    "other",
    [
        WindowStore(Calendar(20), 1, 2, 5),
        WindowStore(Calendar(10, 5), 1, 2, 5),
        WindowStore(Calendar(10), 2, 2, 5),
        WindowStore(Calendar(10), 1, 3, 5),
        WindowStore(Calendar(10), 1, 2, 6),
        WindowStore(Calendar(10), 1, 2, None),
        WindowStore(Calendar(10), 1, 2, 5, against=PastWindow(season_ms=10)),
    ],
)
def test_a_snapshot_is_of_windows_that_are_made_in_the_same_way(other: WindowStore) -> None:
    store = make_store()
    store.restore(make_store().snapshot())
    with pytest.raises(ValueError, match="the pipeline says"):
        other.restore(store.snapshot())
    kept = WindowStore(Calendar(10), 1, 2, 5, keep=3)
    kept.restore(store.snapshot())


@pytest.mark.parametrize("partition", [-1, 2])
def test_partitions_are_numbered_from_nought(partition: int) -> None:
    store = make_store(2)
    with pytest.raises(ValueError, match=f"partition {partition} is none of the 2"):
        store.add(SketchRecord(partition, 0, 0, []))
    with pytest.raises(ValueError, match="none of the 2"):
        store.watermarks.declare_idle(partition)


@given(records, records)
def test_any_order_of_records_and_any_split_by_segment_gives_the_same_counts(
    before: list[SketchRecord], after: list[SketchRecord]
) -> None:
    one, other = make_store(2), make_store(2)
    for each in (*before, *after):
        one.add(each)
    for each in reversed((*before, *after)):
        for delta in each.deltas:
            other.add(SketchRecord(each.partition, -100, -100, [delta]))
    for window in {*one._windows, *other._windows}:
        for version in ("1", "2"):
            mine, theirs = one.panes.counts(window, version), other.panes.counts(window, version)
            assert {s: k.n for s, k in mine.items()} == {s: k.n for s, k in theirs.items()}
