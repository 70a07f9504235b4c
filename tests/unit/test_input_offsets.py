from __future__ import annotations

import pytest
from faust.types import TP

from app.adapters.kafka.log_bounds import GroupBounds
from app.worker.input_offsets import Beginning, UnusableInputError, has_begun

EVENTS, LABELS = TP("cards.events", 1), TP("cards.labels", 1)


def start(state: int | None, committed: int | None, first: int, end: int, *, skip_removed: bool = False) -> int:
    known = {} if state is None else {EVENTS: state}
    bounds = {EVENTS: GroupBounds(committed, first, end)}
    return Beginning(skip_removed=skip_removed).choose_starts(known, bounds, {})[EVENTS]


def test_a_new_group_begins_at_the_first_record_there_is() -> None:
    assert start(None, None, 40, 90) == 40


def test_where_to_begin_is_for_what_has_no_offset() -> None:
    bounds = {EVENTS: GroupBounds(None, 0, 90), LABELS: GroupBounds(None, 0, 70)}
    assert Beginning().choose_starts({}, bounds, {EVENTS: 50, LABELS: 70}) == {EVENTS: 50, LABELS: 70}
    assert Beginning().choose_starts({EVENTS: 60}, bounds, {EVENTS: 50}) == {EVENTS: 60, LABELS: 0}


def test_a_partition_has_begun_with_the_first_offset_of_its_events_or_its_labels() -> None:
    new, old = GroupBounds(None, 0, 90), GroupBounds(0, 0, 90)
    assert not has_begun({}, {EVENTS: new, LABELS: new})
    assert has_begun({}, {EVENTS: new, LABELS: old})
    assert has_begun({EVENTS: 0}, {EVENTS: new, LABELS: new})


def test_the_committed_offset_is_where_to_go_on_whether_or_not_there_is_a_state() -> None:
    assert start(None, 60, 40, 90) == 60
    assert start(60, 60, 40, 90) == 60
    assert start(90, 90, 40, 90) == 90


def test_an_offset_that_kafka_has_forgotten_is_taken_from_the_state() -> None:
    assert start(60, None, 40, 90) == 60


@pytest.mark.parametrize("committed", [0, 59, 61, 90])
def test_a_moved_offset_is_refused(committed: int) -> None:
    with pytest.raises(UnusableInputError, match=rf"cards.events\[1\]: the group's offset was moved to {committed}, "):
        start(60, committed, 0, 90)


@pytest.mark.parametrize("state", [None, 91])
def test_a_topic_that_ends_before_what_was_processed_was_made_anew(state: int | None) -> None:
    with pytest.raises(UnusableInputError, match="ends at offset 90, before 91, up to which it was processed"):
        start(state, 91, 0, 90)


@pytest.mark.parametrize(("state", "committed"), [(None, 39), (39, 39), (39, None)])
def test_records_that_are_gone_are_refused_or_skipped_as_told(state: int | None, committed: int | None) -> None:
    with pytest.raises(UnusableInputError, match=r"offsets 39 to 39 were removed by retention .* --skip-removed"):
        start(state, committed, 40, 90)
    assert start(state, committed, 40, 90, skip_removed=True) == 40
