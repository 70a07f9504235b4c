"""Labels that find no event, and what is said of them: held against a plain reading of both logs, record by record."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_setting import CARD_EVENTS, HOUR_MS, MINUTE_MS, MONITORED, START_MS
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import EventBatch, LabelBatch, RecordBatch
from app.core.counts.delay_law import EDGES_MS, N_CELLS
from app.core.counts.label_tally import LabelTally
from app.core.counts.sketches import split_record
from app.core.features.plan import FeaturePlan
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import Merged
from app.core.tiles.hash_runs import hash64
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import LabelCounts, SketchRecord

NOW_MS = START_MS + 1000 * HOUR_MS
HORIZON_MS = HOUR_MS
SPECIFICATION = f"""
name = "cards"
partitions = 1
[model]
name = "fraud"
{CARD_EVENTS}
[events.fields]
id = "string"
card = "string"
at = "int"
[labels]
horizon = "1h"
[[features]]
name = "hour"
type = "float"
expression = 'hour(at, "UTC")'
{MONITORED}
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path: Path = tmp_path_factory.mktemp("labels") / "cards.toml"
    path.write_text(SPECIFICATION)
    return load(path)


#: id, card, minutes since the event before; id, key, minutes since the label before.
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["a", "b", "c"]), st.sampled_from([0, 1, 30, 61, 400])), max_size=15
)
LABELS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["a", "b", "c", "d", None]), st.sampled_from([0, 1, 20, 61, 300])),
    max_size=15,
)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=5)
Event = tuple[int, str, int]
Label = tuple[int, str | None, int]


def times_of(steps: list[Any]) -> list[int]:
    return [int(time) * MINUTE_MS + START_MS for time in np.cumsum([step for *_, step in steps])] if steps else []


def by_hand(events: list[Event], labels: list[Label]) -> Counter[tuple[int, Any]]:
    """One record after the other: a label comes before the first event that is not older."""
    found: Counter[tuple[int, Any]] = Counter()
    waiting: dict[int, int] = {}
    forgotten: list[tuple[int, int]] = []
    seen: set[str] = set()
    came_to = -(2**62)
    order = sorted(
        [(time, 1, place) for place, time in enumerate(times_of(events))]
        + [(time, 0, place) for place, time in enumerate(times_of(labels))]
    )
    for time, is_event, place in order:
        if is_event:
            number, card, _ = events[place]
            seen.add(card)
            came_to = time
            waiting.pop(number, None)
            forgotten += [(old, at) for old, at in waiting.items() if at < time - HORIZON_MS]
            waiting = {old: at for old, at in waiting.items() if at >= time - HORIZON_MS}
            waiting[number] = time
            continue
        number, key, _ = labels[place]
        start = max(time, came_to - HORIZON_MS) // HOUR_MS * HOUR_MS
        found[start, "n"] += 1
        event_ms = waiting.pop(number, None)
        if event_ms is not None:
            took = max(time, came_to - HORIZON_MS) - event_ms
            cell = next(cell for cell in range(N_CELLS) if took < EDGES_MS[cell + 1])
            found[event_ms // HOUR_MS * HOUR_MS, ("took", place % 2, cell)] += 1
            continue
        if any(old == number and at >= came_to - 4 * HORIZON_MS for old, at in forgotten):
            found[start, "too_late"] += 1
        elif key is None or key in seen:
            found[start, "unknown"] += 1
        else:
            found[start, hash64(key.encode())] += 1
    return found


def records(kind: str, rows: list[tuple[dict[str, Any], str | None]], cuts: list[int]) -> list[RecordBatch]:
    batches, start = [], 0
    while start < len(rows):
        part = rows[start : start + cuts[len(batches) % len(cuts)]]
        offsets = np.arange(start, start + len(part), dtype=np.int64)
        keys = [key.encode() if key is not None else None for _, key in part]
        values: list[bytes | None] = [json.dumps(body).encode() for body, _ in part]
        batches.append(RecordBatch(f"cards.{kind}", 0, offsets, np.full(len(part), NOW_MS), keys, values))
        start += len(part)
    return batches


def count(found: Counter[tuple[int, Any]], record: SketchRecord | None) -> None:
    for part in split_record(record, 64) if record else ():
        for counts in part.labels:
            named = {"n": counts.n, "too_late": counts.too_late, "unknown": counts.unknown}
            found.update({(counts.slice_start_ms, name): n for name, n in named.items()})
            found.update((counts.slice_start_ms, each) for each in np.frombuffer(counts.strangers, "<i8").tolist())
        for delays in part.delays:
            cells, each = np.frombuffer(delays.cells, "<u4").tolist(), np.frombuffer(delays.counts, "<i8").tolist()
            for cell, n in zip(cells, each, strict=True):
                found[delays.slice_start_ms, ("took", delays.label, cell)] += n


@given(events=EVENTS, labels=LABELS, cuts=CUTS, restarts=st.lists(st.booleans(), max_size=8), most=st.integers(1, 9))
def test_labels_without_an_event_are_those_worked_out_by_hand(
    pipeline: Pipeline, *, events: list[Event], labels: list[Label], cuts: list[int], restarts: list[bool], most: int
) -> None:
    plan = FeaturePlan.compile(pipeline, {}, {})
    event_rows = [
        ({"id": f"e{number}", "card": card, "at": time}, card)
        for (number, card, _), time in zip(events, times_of(events), strict=True)
    ]
    label_rows = [
        ({"event_id": f"e{number}", "label": float(place % 2), "label_time_ms": time}, key)
        for place, ((number, key, _), time) in enumerate(zip(labels, times_of(labels), strict=True))
    ]
    flow = PartitionPipeline(pipeline, plan, 0, outputs=FlowOutput.STATE)
    found: Counter[tuple[int, Any]] = Counter()
    state: dict[bytes, bytes | None] = {}
    told: dict[bytes, bytes | None] = {}
    progress = np.zeros(2, dtype=np.int64)
    for batch in records("labels", label_rows, cuts):
        flow.receive_labels(batch, NOW_MS)
    for batch in records("events", event_rows, cuts):
        flow.receive_events(batch)
        flow.merge.let_go(flow.merge.events_received)
        while flow.step(None, most, NOW_MS) is not None:
            pass
        state.update(flow.drain_state())
        told.update(flow.drain_entities())
        count(found, flow.drain_sketch())
        progress += flow.labels.take_progress()
        if restarts and restarts.pop():
            position = flow.position()
            flow = PartitionPipeline(pipeline, plan, 0, outputs=FlowOutput.STATE)
            flow.restore([(key, value) for key, value in state.items() if value is not None])
            assert flow.entities is not None
            flow.entities.restore(told.items())
            left = label_rows[position.labels or 0 :]
            for more in records("labels", left, cuts):
                more.offsets += position.labels or 0
                flow.receive_labels(more, NOW_MS)
    flow.finish(NOW_MS)
    count(found, flow.drain_sketch())
    progress += flow.labels.take_progress()
    assert +found == by_hand(events, labels)
    n = sum(each for (_, what), each in found.items() if what == "n")
    joined = sum(each for (_, what), each in found.items() if isinstance(what, tuple))
    assert progress.tolist() == [n, found.total() - n - joined] == [n, n - joined]
    assert flow.labels.take_progress() == (0, 0)


def test_where_nobody_keeps_entities_no_label_is_a_strangers() -> None:
    times = np.array([5, HOUR_MS, HOUR_MS + 1])
    labels = LabelBatch(np.arange(3), times, ["e", "f", ""], np.array([1.0, 0.0, np.nan]), [b"a", None, None])
    events = EventBatch(np.arange(0), np.arange(0), [], [], {})
    tally = LabelTally(HOUR_MS, None)
    tally.add(Merged.of_labels(labels, times), events, JoinedLabels(missing=[0, 1]), times)
    before = times - HOUR_MS
    tally.add(Merged.of_labels(labels, before), events, JoinedLabels(late=[0]), before)
    assert tally.drain() == [
        LabelCounts(-HOUR_MS, 1, 1, 0, b""),
        LabelCounts(0, 2, 0, 1, b""),
        LabelCounts(HOUR_MS, 1, 0, 1, b""),
    ]
    assert tally.drain() == []
    assert tally.take_progress() == (4, 3)


@pytest.mark.parametrize("n", [1, 511, 512, 513, 1300])
def test_many_forgotten_ids_are_cleared_record_by_record(pipeline: Pipeline, n: int) -> None:
    plan = FeaturePlan.compile(pipeline, {}, {})
    flow = PartitionPipeline(pipeline, plan, 0, outputs=FlowOutput.STATE)
    topic: dict[bytes, bytes | None] = {}

    def step(rows: list[tuple[str, int]], first: int) -> None:
        body = [({"id": name, "card": "c", "at": START_MS + at * MINUTE_MS}, "c") for name, at in rows]
        for batch in records("events", body, [500]):
            batch.offsets += first
            flow.receive_events(batch)
        flow.merge.let_go(flow.merge.events_received)
        while flow.step(None, 5000, NOW_MS) is not None:
            pass
        topic.update({key: value for key, value in flow.drain_state() if key[:1] == b"x"})

    step([(f"e{number}", 0) for number in range(n)], 0)
    step([("last", 61)], n)
    assert sum(value is not None for value in topic.values()) == -(-n // 512)
    step([("much later", 241)], n + 1)  # four hours and a minute: as far as they are known
    gone = [value for value in topic.values() if value is None]
    assert len(gone) == n // 512


def test_strangers_of_a_backlog_fit_into_records() -> None:
    strangers = np.arange(1000, dtype="<i8").tobytes()
    record = SketchRecord(3, 7, 8, [], [], 0, [LabelCounts(0, 1000, 0, 0, strangers), LabelCounts(5, 2, 1, 1, b"")])
    parts = list(split_record(record, 1000))
    assert [(part.watermark_ms, part.label_watermark_ms) for part in parts if part.watermark_ms >= 0] == [(7, 8)]
    assert parts[-1].watermark_ms == 7
    counts = [each for part in parts for each in part.labels]
    assert b"".join(each.strangers for each in counts) == strangers
    assert sum(each.n for each in counts) == 1002
    assert max(len(each.strangers) for each in counts) <= 1000
