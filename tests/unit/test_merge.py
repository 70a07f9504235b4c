from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import LabelBatch
from app.core.intake.merge import BEGINNING_MS, END_MS, Merged, TimeMerge, effective_times, no_labels

TIMES = st.lists(st.integers(0, 12), max_size=12)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=6)

Order = list[tuple[str, int]]


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def labels(first: int, times: list[int]) -> LabelBatch:
    offsets = list(range(first, first + len(times)))
    values = np.array(offsets, np.float64)
    keys: list[bytes | None] = [b"k%d" % offset for offset in offsets]
    return LabelBatch(ints(offsets), ints(times), [f"l{offset}" for offset in offsets], values, keys)


def cut(times: list[int], cuts: list[int]) -> list[tuple[int, list[int]]]:
    """Batches as (position of the first, times); sizes are taken from ``cuts`` in turn."""
    batches, start = [], 0
    while start < len(times):
        size = cuts[len(batches) % len(cuts)]
        batches.append((start, times[start : start + size]))
        start += size
    return batches


def by_hand(event_times: list[int], label_times: list[int]) -> Order:
    """The rule in words: a label goes before the first event whose effective time is not older than its own."""
    order: Order = []
    waiting = list(enumerate(accumulate(label_times, max)))
    for event, time in enumerate(accumulate(event_times, max)):
        while waiting and waiting[0][1] <= time:
            order.append(("label", waiting.pop(0)[0]))
        order.append(("event", event))
    return order + [("label", label) for label, _ in waiting]


def rows_of(merged: Merged[int]) -> list[tuple[Any, ...]]:
    """The labels of a run, with all that is said of each."""
    of = merged.labels
    assert of.offsets.dtype == merged.before.dtype == merged.label_times_ms.dtype == np.int64
    assert len(merged.before) == len(of)
    return list(
        zip(of.offsets, of.label_time_ms, of.event_id, of.label, of.key, merged.label_times_ms.tolist(), strict=True)
    )


def rows_by_hand(label_times: list[int]) -> list[tuple[Any, ...]]:
    effective = accumulate(label_times, max)
    return [
        (n, time, f"l{n}", n, b"k%d" % n, at) for n, (time, at) in enumerate(zip(label_times, effective, strict=True))
    ]


def unfold(merged: Merged[int]) -> Order:
    """The run as a list; a payload is the number of its first event."""
    assert merged.payload is not None
    assert len(merged.times_ms) == merged.stop - merged.start
    order: Order = []
    arrived = list(zip(merged.before.tolist(), merged.labels.event_id, strict=True))
    assert merged.before.tolist() == sorted(merged.before.tolist())
    for row in range(merged.stop - merged.start):
        order += [("label", int(label[1:])) for place, label in arrived if place == row]
        order.append(("event", merged.payload + merged.start + row))
    return order


def drain(merge: TimeMerge[int], most: int) -> Order:
    order: Order = []
    while (merged := merge.take(most)) is not None:
        order += unfold(merged)
    return order


def finish(merge: TimeMerge[int], most: int) -> Order:
    merge.let_go(merge.events_received)
    order = drain(merge, most)
    rest = merge.take_labels(2**60)
    return order + [("label", int(label[1:])) for label in (rest.labels.event_id if rest else [])]


@given(
    events=TIMES,
    labelled=TIMES,
    event_cuts=CUTS,
    label_cuts=CUTS,
    turns=st.lists(st.booleans()),
    most=st.integers(1, 5),
)
def test_the_order_is_the_rule_whatever_the_batch_cuts_and_the_interleaving(
    *,
    events: list[int],
    labelled: list[int],
    event_cuts: list[int],
    label_cuts: list[int],
    turns: list[bool],
    most: int,
) -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    event_batches, label_batches = cut(events, event_cuts), cut(labelled, label_cuts)
    order: Order = []
    watermarks = [merge.event_watermark_ms]
    turns = turns + [True] * len(event_batches) + [False] * len(label_batches)
    for is_event in turns:
        if is_event and event_batches:
            first, times = event_batches.pop(0)
            merge.add_events(first, ints(times))
        elif not is_event and label_batches:
            merge.add_labels(labels(*label_batches.pop(0)))
        order += drain(merge, most)
        watermarks.append(merge.event_watermark_ms)
    order += finish(merge, most)
    assert order == by_hand(events, labelled)
    assert watermarks == sorted(watermarks)
    assert not merge.has_events
    assert merge.queued_labels == 0


@given(events=TIMES, labelled=TIMES, cuts=st.tuples(CUTS, CUTS), most=st.integers(1, 5))
def test_a_run_and_its_two_parts_say_of_every_record_what_its_log_says(
    events: list[int], labelled: list[int], cuts: tuple[list[int], list[int]], most: int
) -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    assert (merge.newest_label_ms, merge.first_label_offset()) == (BEGINNING_MS, None)
    for start, times in cut(events, cuts[0]):
        merge.add_events(start, ints(times))
        assert merge.events_received == start + len(times)
    for start, times in cut(labelled, cuts[1]):
        merge.add_labels(labels(start, times))
        assert (merge.queued_labels, merge.newest_label_ms) == (start + len(times), max(labelled[: start + len(times)]))
    assert merge.holds_back == (max(events, default=BEGINNING_MS) >= merge.newest_label_ms and events != [])
    merge.let_go(len(events))
    assert not merge.holds_back
    times_ms: list[int] = []
    rows: list[tuple[Any, ...]] = []
    while (merged := merge.take(most)) is not None:
        assert merged.payload is not None
        assert merged.payload + merged.start == len(times_ms)
        assert merged.last == (not merge.has_events or merged.payload + merged.stop in dict(cut(events, cuts[0])))
        times_ms += merged.times_ms.tolist()
        rows += rows_of(merged)
        assert (merge.events_taken, merge.queued_labels) == (len(times_ms), len(labelled) - len(rows))
        assert merge.event_watermark_ms == times_ms[-1]
        assert merge.label_watermark_ms == (rows[-1][-1] if rows else BEGINNING_MS)
        assert merge.first_label_offset() == (len(rows) if len(rows) < len(labelled) else None)

        for count in range(len(merged.times_ms) + 1):
            first, second = merged.split(count)
            assert (first.start, first.stop, second.stop) == (merged.start, second.start, merged.stop)
            assert (first.last, second.last, len(first.times_ms)) == (False, merged.last, count)
            assert np.concatenate([first.times_ms, second.times_ms]).tolist() == merged.times_ms.tolist()
            assert rows_of(first) + rows_of(second) == rows_of(merged)
            assert unfold(first) + unfold(second) == unfold(merged)
    rest = merge.take_labels(END_MS)
    assert times_ms == list(accumulate(events, max))
    assert rows + (rows_of(rest) if rest is not None else []) == rows_by_hand(labelled)
    assert (rest.before.tolist() if rest is not None else []) == [0] * (len(labelled) - len(rows))


def test_of_events_of_several_payloads_the_newest_says_whether_any_is_held_back() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    assert not merge.holds_back
    merge.add_labels(labels(0, [5]))
    merge.add_events(0, ints([1]))
    merge.add_events(1, ints([4]))
    assert not merge.holds_back
    merge.add_events(2, ints([5]))
    assert merge.holds_back
    merge.let_go(2)
    assert merge.holds_back
    merge.let_go(3)
    assert not merge.holds_back


def test_no_labels_are_empty_columns_of_the_kinds_that_labels_have() -> None:
    none, times_ms = no_labels()
    assert [len(each) for each in (none, none.offsets, none.label_time_ms, none.label, none.key, times_ms)] == [0] * 6
    assert {none.offsets.dtype, none.label_time_ms.dtype, times_ms.dtype} == {np.dtype(np.int64)}


def test_a_label_as_old_as_an_event_comes_before_it() -> None:
    assert by_hand([5, 6], [5, 6, 7]) == [("label", 0), ("event", 0), ("label", 1), ("event", 1), ("label", 2)]
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([5, 6]))
    merge.add_labels(labels(0, [5, 6, 7]))
    assert finish(merge, 9) == by_hand([5, 6], [5, 6, 7])


def test_an_event_as_old_as_the_newest_label_waits_because_another_label_of_that_time_may_follow() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([4, 5]))
    merge.add_labels(labels(0, [5]))
    assert drain(merge, 9) == [("event", 0)]
    assert merge.holds_back
    merge.add_labels(labels(1, [5, 6]))
    assert drain(merge, 9) == [("label", 0), ("label", 1), ("event", 1)]
    assert not merge.holds_back


def test_a_time_that_goes_back_does_not_turn_the_order_back() -> None:
    assert effective_times(ints([3, 9, 4, 10]), 5).tolist() == [5, 9, 9, 10]
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([9]))
    merge.add_events(1, ints([4]))
    merge.add_labels(labels(0, [8, 20]))
    assert drain(merge, 9) == [("label", 0), ("event", 0), ("event", 1)]
    assert merge.event_watermark_ms == 9


def test_without_a_labels_topic_events_go_at_once() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=False)
    merge.add_events(0, ints([7]))
    assert not merge.holds_back
    assert drain(merge, 9) == [("event", 0)]


def test_only_the_released_events_go() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([1, 2]))
    merge.let_go(merge.events_received)
    merge.add_events(2, ints([3]))
    assert drain(merge, 9) == [("event", 0), ("event", 1)]
    assert merge.holds_back


def test_of_a_payload_that_was_taken_in_part_only_the_released_events_go() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints(list(range(10))))
    merge.let_go(5)
    assert drain(merge, 3) == [("event", event) for event in range(5)]
    assert merge.holds_back
    merge.let_go(7)
    assert drain(merge, 10) == [("event", 5), ("event", 6)]


def test_an_empty_payload_comes_out_in_its_turn() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([2]))
    merge.add_events(1, ints([]))
    assert merge.take(9) is None
    merge.add_labels(labels(0, [3]))
    first, second = merge.take(9), merge.take(9)
    assert first is not None
    assert second is not None
    assert (second.payload, second.start, second.stop, second.last) == (1, 0, 0, True)


def test_labels_alone_are_taken_only_when_no_event_is_queued() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints([9]))
    merge.add_labels(labels(0, [1, 2, 3]))
    assert merge.take_labels(2) is None
    merge.let_go(1)
    merge.add_labels(labels(3, [11, 12]))
    assert drain(merge, 1) == [("label", 0), ("label", 1), ("label", 2), ("event", 0)]
    taken = merge.take_labels(11)
    assert taken is not None
    assert taken.labels.event_id == ["l3"]
    assert merge.label_watermark_ms == 11
    assert merge.first_label_offset() == 4


def test_labels_alone_are_a_run_of_no_event() -> None:
    alone: Merged[int] = Merged.of_labels(labels(0, [3, 4]), ints([3, 4]))
    assert alone.stop - alone.start == len(alone.times_ms) == 0
    assert (alone.payload, alone.before.tolist(), alone.label_times_ms.tolist()) == (None, [0, 0], [3, 4])


def test_the_newest_watermark_record_is_found_among_the_queued_labels() -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    assert merge.newest_watermark_record_ms() is None
    batch = labels(0, [4, 6, 7])
    batch.label[1] = np.nan
    merge.add_labels(batch)
    assert merge.newest_watermark_record_ms() == 6
    later = labels(3, [8, 9, 9])
    later.label[:2] = np.nan
    merge.add_labels(later)
    merge.add_labels(labels(6, [10]))
    assert merge.newest_watermark_record_ms() == 9


@given(events=TIMES, labelled=TIMES, stop=st.integers(0, 12))
def test_a_merge_that_starts_again_from_its_watermarks_goes_on_the_same(
    events: list[int], labelled: list[int], stop: int
) -> None:
    merge: TimeMerge[int] = TimeMerge(with_labels=True)
    merge.add_events(0, ints(events))
    merge.add_labels(labels(0, labelled))
    merge.let_go(stop)
    order: Order = []
    while merge.events_taken < stop and (merged := merge.take(1)) is not None:
        order += unfold(merged)
    first_label = merge.first_label_offset()
    label_start = len(labelled) if first_label is None else first_label
    again: TimeMerge[int] = TimeMerge(with_labels=True)
    again.go_on_from(merge.event_watermark_ms, merge.label_watermark_ms)
    again.add_events(merge.events_taken, ints(events[merge.events_taken :]))
    again.add_labels(labels(label_start, labelled[label_start:]))
    assert order + finish(again, 9) == by_hand(events, labelled)
    assert TimeMerge[int](with_labels=True).event_watermark_ms == BEGINNING_MS
