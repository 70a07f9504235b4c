"""Labels find their events as if events and labels came one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.batches import EventBatch, LabelBatch
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import Merged
from app.core.intake.pending import REJECTED, PendingEvents, Scored

HORIZON_MS = 10
CAME_TO_MS = 100


class Came(NamedTuple):
    """An event (``label`` is None) or a label, and how much later it comes than the one before."""

    id: str
    after_ms: int
    label: float | None


CAME = st.builds(
    Came, st.sampled_from(["", "a", "b", "c"]), st.sampled_from([0, 0, 1, 4, 10, 11]), st.sampled_from([None, 0.0, 1.0])
).filter(lambda came: bool(came.id) or came.label is not None)
WAITED = st.dictionaries(st.sampled_from(["a", "b", "z"]), st.integers(CAME_TO_MS - 15, CAME_TO_MS))


def scored(effective_ms: int, amount: float, version: str = "0") -> Scored:
    return Scored(effective_ms, effective_ms - 3, version, amount / 100, (amount,), (7,))


def make_run(stream: list[Came]) -> tuple[Merged[Any], EventBatch]:
    ids, times, before = [], [], []
    labels: list[Came] = []
    now_ms = CAME_TO_MS
    for came in stream:
        if came.label is None:
            now_ms += came.after_ms
            ids.append(came.id)
            times.append(now_ms)
        else:
            before.append(len(ids))
            labels.append(came)
    n, at = len(labels), np.arange(len(ids), dtype=np.int64)
    batch = LabelBatch(
        np.arange(n, dtype=np.int64),
        np.arange(n, dtype=np.int64) + 1_000,
        [label.id for label in labels],
        np.array([label.label for label in labels], np.float64),
        [None] * n,
    )
    whole = np.array(times, np.int64)
    merged: Merged[Any] = Merged(
        None, 0, len(ids), last=True, before=np.array(before, np.int64), labels=batch, times_ms=whole,
        label_times_ms=batch.label_time_ms,
    )  # fmt: skip
    return merged, EventBatch(at, whole - 3, ["k"] * len(ids), ids, {"amount": at + 500.0})


def wait_for(waited: dict[str, int]) -> PendingEvents:
    pending = PendingEvents(HORIZON_MS, with_changelog=False)
    for number, (event_id, effective_ms) in enumerate(sorted(waited.items(), key=lambda pair: pair[1])):
        pending.add(event_id, scored(effective_ms, number), effective_ms)
    return pending


@pytest.mark.slow
@settings(max_examples=200)
@given(WAITED, st.lists(CAME, max_size=14))
def test_a_label_belongs_to_the_newest_event_of_its_id_once_and_within_the_horizon(
    waited: dict[str, int], stream: list[Came]
) -> None:
    merged, events = make_run(stream)
    pending = wait_for(waited)
    joined = JoinedLabels.join(merged, events, pending, ("amount",), CAME_TO_MS)

    newest: dict[str, tuple[int, Scored | int]] = {
        id_: (each.effective_ms, each) for id_, each in wait_for(waited).entries()
    }
    came_to, row, number = CAME_TO_MS, 0, 0
    due: list[tuple[int, int, str, float, int, Scored | int, float]] = []
    unknown = []
    for came in stream:
        if came.label is None:
            came_to = int(merged.times_ms[row])
            newest[came.id] = (came_to, row)
            row += 1
            continue
        if came.id in newest and newest[came.id][0] >= came_to - HORIZON_MS:
            _, event = newest.pop(came.id)
            amount = event + 500.0 if isinstance(event, int) else event.fields[0]
            due.append((row, number, came.id, came.label, 1_000 + number, event, amount))
        elif came.id:
            unknown.append(number)
        number += 1
    columns = (joined.before, joined.places, joined.event_id, joined.label, joined.label_time_ms, joined.events)
    assert list(zip(*columns, *joined.columns, strict=True)) == due
    assert len(joined) == len(due)
    assert sorted(joined.late + joined.missing) == unknown
    # What waits afterwards, when the events that the join has not done with are added as the pipeline adds them.
    for place, event_id in enumerate(events.event_id):
        if place not in joined.own_rows:
            effective_ms = int(merged.times_ms[place])
            pending.add(event_id, scored(effective_ms, place), effective_ms)
    assert {event_id: each.effective_ms for event_id, each in pending.entries()} == {
        event_id: effective_ms for event_id, (effective_ms, _) in newest.items()
    }

    rows = joined.to_rows(("amount",), events)
    assert rows.columns["label"].tolist() == joined.label
    assert rows.columns["amount"].tolist() == [each[-1] for each in due]
    assert rows.before.tolist() == joined.before
    assert rows.label_time_ms.tolist() == joined.label_time_ms


def test_a_label_of_an_event_that_is_forgotten_is_late_and_one_of_no_event_is_missing() -> None:
    pending = PendingEvents(HORIZON_MS)
    for event_id, effective_ms in (("old", 80), ("older twin", 85), ("b", 95)):
        pending.add(event_id, scored(effective_ms, 1.0), effective_ms)
    stream = [Came(event_id, 0, 1.0) for event_id in ("old", "b", "never", "older twin")]
    again = [Came("new", 5, None), Came("new", 0, None), Came("new", 0, 0.0), Came("new", 0, 1.0)]
    merged, events = make_run([*stream, *again])
    joined = JoinedLabels.join(merged, events, pending, (), CAME_TO_MS)
    assert (joined.late, joined.missing) == ([0, 3], [2, 5])
    assert (joined.event_id, joined.events[1:], joined.own_rows) == (["b", "new"], [1], {0, 1})


@given(st.lists(CAME, max_size=14), st.sets(st.integers(0, 13)), st.booleans())
def test_without_rejected_rows_labels_are_those_of_a_run_that_never_had_them(
    stream: list[Came],
    chosen: set[int],
    was_rejected: bool,
) -> None:
    merged, events = make_run(stream)
    pending = PendingEvents(HORIZON_MS, with_changelog=False)
    pending.add("z", scored(CAME_TO_MS, 9.0, REJECTED if was_rejected else "0"), CAME_TO_MS)
    stream = [Came("z", 0, 1.0), *stream]
    merged, events = make_run(stream)
    joined = JoinedLabels.join(merged, events, pending, ("amount",), CAME_TO_MS)
    rejected = sorted(row for row in chosen if row < len(events))
    kept = [row for row in range(len(events)) if row not in rejected]
    found = joined.without(rejected)

    rows = [event for event in joined.events if not isinstance(event, int) or event not in chosen]
    rows = [event for event in rows if isinstance(event, int) or event.version != REJECTED]
    at = [joined.events.index(event) for event in rows]
    assert [kept[event] if isinstance(event, int) else event for event in found.events] == rows
    assert found.before == [sum(row < joined.before[place] for row in kept) for place in at]
    for name in ("places", "event_id", "label", "label_time_ms"):
        assert getattr(found, name) == [getattr(joined, name)[place] for place in at]
    assert found.columns == [[joined.columns[0][place] for place in at]]
    assert {kept[row] for row in found.own_rows} == joined.own_rows - set(rejected)
    # What is said of each event: its version is that of the stretch of the run in which it is.
    half = len(kept) // 2
    versions = [(start, stop, f"v{start}") for start, stop in pairwise([0, half, len(kept)])]
    times, scores = np.arange(len(kept), dtype=np.int64) * 10, np.arange(len(kept)) / 64
    said = list(found.scored(versions, times, scores, [(row,) for row in range(len(kept))]))
    assert said == [
        (f"v{0 if event < half else half}", event * 10, event / 64, (event,))
        if isinstance(event, int)
        else ("0", CAME_TO_MS - 3, 0.09, (7,))
        for event in found.events
    ]
