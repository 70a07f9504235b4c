"""Counts survive the wire, and deltas merge to the counts of the whole however the events were split."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unpacked import unpack

import app.core.counts.buffer
from app.core.counts.buffer import SketchBuffer
from app.core.counts.sketches import MOST_RECORD_BYTES, Sketch, pack, split_record
from models.reference.counting import count, count_outcomes
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.soundness import MOST_CELLS, SparseCounts
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.wire import DelayCounts, ErrorRun, LabelCounts, SketchDelta, SketchRecord, decode_packed, encode_packed

SLICE_MS = 1_000


def make_events(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    matrix = np.column_stack([generator.normal(size=n), generator.integers(0, 3, n)])
    matrix[generator.random((n, 2)) < 0.1] = np.nan
    scores = generator.random(n)
    return generator.integers(-2 * SLICE_MS, 3 * SLICE_MS, n), matrix, scores, (generator.random(n) < scores) * 1.0


@functools.cache
def reference() -> Reference:
    _, matrix, scores, labels = make_events(1, 300)
    return fit_reference(TrainingEvents(matrix, scores, labels), [numeric("x"), category("kind", 3)], 16)


def by_slice(deltas: list[SketchDelta]) -> dict[tuple[str, int], bytes]:
    sketches: dict[tuple[str, int], Sketch] = {}
    for delta in deltas:
        received = decode_packed(encode_packed(delta), SketchDelta)
        sketches.setdefault((delta.version, delta.slice_start_ms), Sketch()).add(received)
    return {
        (version, start): encode_packed(sketch.to_delta("m", version, "all", start))
        for (version, start), sketch in sketches.items()
    }


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 3), min_size=80, max_size=80), st.randoms(use_true_random=False))
def test_any_split_and_order_of_deltas_gives_the_same_slices(seed: int, part_of: list[int], chance: object) -> None:
    times, matrix, scores, labels = make_events(seed, 80)
    whole = SketchBuffer("m", SLICE_MS)
    whole.add_scored("1", reference(), times, matrix, scores)
    whole.add_labelled("1", reference(), times, scores, labels)
    parts: list[SketchDelta] = []
    for part in range(4):
        rows = np.array(part_of) == part
        buffer = SketchBuffer("m", SLICE_MS)
        buffer.add_scored("1", reference(), times[rows], matrix[rows], scores[rows])
        if part % 2:
            parts += buffer.drain()  # labels in a later transaction than their events
        buffer.add_labelled("1", reference(), times[rows], scores[rows], labels[rows])
        parts += buffer.drain()
        assert buffer.drain() == []
    chance.shuffle(parts)  # type: ignore[attr-defined]  # Hypothesis's Random
    assert by_slice(parts) == by_slice(whole.drain())


def test_no_more_waits_to_be_counted_than_is_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.counts.buffer, "_AT_ONCE", 100)
    times, matrix, scores, labels = make_events(2, 240)
    buffer, whole = SketchBuffer("m", SLICE_MS), SketchBuffer("m", SLICE_MS)
    waiting = []
    for start in range(0, 240, 40):
        rows = slice(start, start + 40)
        buffer.add_scored("1", reference(), times[rows], matrix[rows], scores[rows])
        buffer.add_labelled("2", reference(), times[rows][:20], scores[rows][:20], labels[rows][:20])
        waiting.append([sum(of.n for of in found.values()) for found in (buffer._scored, buffer._labelled)])
    assert waiting == [[40, 20], [80, 40], [0, 60], [40, 80], [80, 0], [0, 20]]
    monkeypatch.undo()
    whole.add_scored("1", reference(), times, matrix, scores)
    some = np.arange(240) % 40 < 20
    whole.add_labelled("2", reference(), times[some], scores[some], labels[some])
    assert by_slice(buffer.drain()) == by_slice(whole.drain())


def test_a_single_event_and_its_label_are_a_slice_of_their_own() -> None:
    _, matrix, scores, labels = make_events(2, 1)
    buffer = SketchBuffer("m", SLICE_MS)
    buffer.add_scored("1", reference(), np.array([-1]), matrix, scores)
    buffer.add_labelled("1", reference(), np.array([SLICE_MS]), scores, labels)
    assert [(delta.slice_start_ms, delta.n) for delta in buffer.drain()] == [(-SLICE_MS, 1), (SLICE_MS, 0)]


def test_decisions_come_out_once_a_run_per_version_in_their_order() -> None:
    buffer = SketchBuffer("m", SLICE_MS)
    for version, times, wrong, labels in (("2", [5, 7], [1, 0], [0, 1]), ("1", [6], [1], [1]), ("2", [9], [1], [0])):
        at_ms, *bits = (np.array(each, dtype) for each, dtype in ((times, int), (wrong, bool), (labels, bool)))
        buffer.add_errors(version, at_ms, *bits, at_ms * 3_600_000 - 4)  # ends an hour
    assert buffer.drain_errors() == [
        ErrorRun("1", np.array([6], "<i8").tobytes(), b"\3", bytes([72 + 5])),
        ErrorRun("2", np.array([5, 7, 9], "<i8").tobytes(), b"\1\2\1", bytes([72 + 4, 72 + 6, 72 + 8])),
    ]
    assert buffer.drain_errors() == []


def test_a_delta_gives_back_the_counts_of_its_slice() -> None:
    times, matrix, scores, labels = make_events(2, 200)
    buffer = SketchBuffer("m", SLICE_MS)
    buffer.add_scored("1", reference(), times, matrix, scores)
    buffer.add_labelled("1", reference(), times, scores, labels)
    for delta in buffer.drain():
        here = (times >= delta.slice_start_ms) & (times < delta.slice_start_ms + SLICE_MS)
        expected = count(reference(), matrix[here], scores[here]) + count_outcomes(
            reference(), scores[here], labels[here]
        )
        found = unpack(delta, reference())
        assert found.counts.tolist() == expected.counts.tolist()
        assert found.outcomes.tolist() == expected.outcomes.tolist()
        assert found.sums.tolist() == expected.sums.tolist()
        assert found.minima.tobytes() == expected.minima.tobytes()
        assert (found.n, found.n_correct, found.log_loss_sum) == (here.sum(), expected.n_correct, expected.log_loss_sum)


def test_a_broken_delta_is_refused_and_changes_nothing() -> None:
    times, matrix, scores, _ = make_events(3, 50)
    buffer = SketchBuffer("m", SLICE_MS)
    buffer.add_scored("1", reference(), times, matrix, scores)
    delta = buffer.drain()[0]
    sketch = Sketch()
    for broken in (
        {"counts": delta.counts[:-8]},
        {"cells": b"\xff\xff\xff\xff" + delta.cells[4:]},
        {"sums": delta.sums[:-8]},
    ):
        fields = {name: getattr(delta, name) for name in delta.__struct_fields__}
        with pytest.raises(ValueError, match="sketch"):
            sketch.add(SketchDelta(**{**fields, **broken}))
    assert sketch.n == 0
    assert len(sketch.cells) == 0


def test_counts_of_another_reference_are_refused() -> None:
    times, matrix, scores, _ = make_events(3, 50)
    buffer = SketchBuffer("m", SLICE_MS)
    buffer.add_scored("1", reference(), times, matrix, scores)
    narrow = fit_reference(TrainingEvents(matrix[:, :1], scores, scores * 0), [numeric("x")], 8)
    with pytest.raises(ValueError, match="register the reference they were made with"):
        unpack(buffer.drain()[0], narrow)


def counts_of(seed: int, n: int) -> Counts:
    _, matrix, scores, labels = make_events(seed, n)
    return count(reference(), matrix, scores, labels)


def bits(sketch: Sketch) -> bytes:
    return encode_packed(sketch.to_delta("m", "1", "all", 0))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=6), st.integers(0, 6))
def test_sketches_that_are_merged_are_the_sketch_of_all_their_deltas(parts: list[tuple[int, int]], cut: int) -> None:
    deltas = [pack("m", "1", "all", 0, counts_of(seed, n)) for seed, n in parts]
    whole, one, other, empty = Sketch(), Sketch(), Sketch(), Sketch()
    for number, delta in enumerate(deltas):
        whole.add(delta)
        (one if number < cut else other).add(delta)
    before = bits(other)
    one.merge(other)
    empty.merge(whole)
    one.merge(Sketch())
    assert bits(one) == bits(empty) == bits(whole)
    one.merge(whole)  # in no memory of the other's
    assert bits(other) == before
    assert bits(empty) == bits(whole)


def test_a_sketch_is_sound_where_the_counts_are_and_says_the_same() -> None:
    sketch, counts = Sketch(), counts_of(4, 60)
    sketch.add(pack("m", "1", "all", 0, counts))
    for mine, theirs in zip(sketch.to_sparse(), SparseCounts.of(counts), strict=True):
        assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()
    assert Sketch().to_counts(reference()).minima.tobytes() == reference().zeros().minima.tobytes()


@pytest.mark.parametrize("missing", ["cells", "outcomes", "metrics"])
def test_counts_that_reach_beyond_the_reference_in_one_thing_alone_are_refused(missing: str) -> None:
    shape = {"cells": reference().zeros().counts.size, "outcomes": 2 * reference().score_cells, "metrics": 4}
    for more, fits in ((0, True), (1, False)):
        size = shape | {missing: shape[missing] + more}
        sketch = Sketch(
            cells=np.ones(size["cells"], np.int64),
            outcomes=np.ones(size["outcomes"], np.int64),
            sums=np.ones(size["metrics"], np.int64),
        )
        if fits:
            assert sketch.to_counts(reference()).counts.sum() == size["cells"]
        else:
            with pytest.raises(ValueError, match="register the reference they were made with"):
                sketch.to_counts(reference())


def test_a_delta_may_reach_the_last_cell_that_there_may_be_and_no_further() -> None:
    sums = np.zeros(2)
    for last, fits in ((MOST_CELLS - 1, True), (MOST_CELLS, False)):
        delta = SketchDelta(
            *("m", "1", "all", 0, 1, np.array([last], "<u4").tobytes(), np.array([7], "<i8").tobytes()),
            *(sums.tobytes(), sums.tobytes(), sums.tobytes(), b"", b"", 0),
        )
        sketch = Sketch()
        if fits:
            sketch.add(delta)
            assert np.flatnonzero(sketch.cells).tolist() == [last]
        else:
            with pytest.raises(ValueError, match="do not make a sketch"):
                sketch.add(delta)


def make_record(seed: int, n_slices: int, n_errors: int, n_strangers: int) -> SketchRecord:
    generator = np.random.default_rng(seed)
    deltas = [pack("m", "1", "all", number * SLICE_MS, counts_of(seed + number, 30)) for number in range(n_slices)]
    times = np.sort(generator.integers(0, 10**9, n_errors)).astype("<i8").tobytes()
    strangers = [generator.integers(0, 2**62, n).astype("<i8").tobytes() for n in (n_strangers, 3, 0)]
    labels = [LabelCounts(at * SLICE_MS, 9 + len(each), 2, 5, each) for at, each in enumerate(strangers)]
    hours = generator.integers(0, 168, n_errors, "u1").tobytes()  # and a run of former releases, which has none
    runs = [
        ErrorRun(version, times, generator.integers(0, 2, n_errors, "u1").tobytes(), each)
        for version, each in (("1", hours), ("2", b""))
    ]
    cells = np.arange(n_strangers // 9 + 1, dtype="<u4")
    delays = [DelayCounts(at * SLICE_MS, at % 2, cells.tobytes(), cells.astype("<i8").tobytes(), at) for at in range(4)]
    return SketchRecord(3, 70, 60, deltas, runs if n_errors else [], 4, labels, delays, 50)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    n_slices=st.integers(0, 4),
    n_errors=st.integers(0, 900),
    n_strangers=st.integers(0, 900),
    most_bytes=st.integers(3_000, 12_000),
)
def test_the_parts_of_a_record_hold_all_of_it_once_in_few_records_that_are_no_larger_than_told(
    seed: int, n_slices: int, n_errors: int, n_strangers: int, most_bytes: int
) -> None:
    record = make_record(seed, n_slices, n_errors, n_strangers)
    parts = list(split_record(record, most_bytes))
    assert [delta for part in parts for delta in part.deltas] == record.deltas
    assert [delays for part in parts for delays in part.delays] == record.delays
    for run in record.errors:
        pieces = [each for part in parts for each in part.errors if each.version == run.version]
        assert b"".join(each.times_ms for each in pieces) == run.times_ms
        assert b"".join(each.decisions for each in pieces) == run.decisions
        assert b"".join(each.hours for each in pieces) == run.hours
        assert all(len(each.hours) in {0, len(each.decisions)} for each in pieces)
        assert all(len(each.times_ms) == 8 * len(each.decisions) > 0 for each in pieces)
    for labels in record.labels:
        some = [each for part in parts for each in part.labels if each.slice_start_ms == labels.slice_start_ms]
        assert b"".join(each.strangers for each in some) == labels.strangers
        assert all(len(each.strangers) % 8 == 0 for each in some)
        assert [sum(each) for each in zip(*((each.n, each.too_late, each.unknown) for each in some), strict=True)] == [
            *(labels.n, labels.too_late, labels.unknown)
        ]
    assert {part.partition for part in parts} == {3}
    assert [part.unscored for part in parts] == [0] * (len(parts) - 1) + [4]
    assert [part.unscored_since_ms for part in parts] == [None] * (len(parts) - 1) + [50]
    assert (parts[-1].watermark_ms, parts[-1].label_watermark_ms) == (70, 60)
    assert all(part.watermark_ms == part.label_watermark_ms < -(2**60) for part in parts[:-1])
    # A piece that is cut leaves little room beside it, and a record that fits is not cut at all.
    sizes = [len(encode_packed(part)) for part in parts]
    assert max(sizes) <= most_bytes + 600
    assert len(parts) == 1 or len(parts) <= 1 + 2.5 * sum(sizes) / most_bytes
    assert len(list(split_record(record, 10**6))) == 1


@pytest.mark.parametrize("what", ["errors", "labels", "deltas", "delays"])
def test_many_small_pieces_make_no_large_record(what: str) -> None:
    """Of pieces without content: their names and numbers take room as well."""
    name, of_none = "a version of a long name", counts_of(1, 0)
    record = SketchRecord(
        *(0, 0, 0),
        [pack("m", f"{name} {n}", "a segment of a long name", n, of_none) for n in range(200)] * (what == "deltas"),
        [ErrorRun(f"{name} {n}", bytes(8), b"1") for n in range(200)] * (what == "errors"),
        0,
        [LabelCounts(2**40 + n, 2**31, 2**31, 2**31, b"") for n in range(200)] * (what == "labels"),
        [DelayCounts(2**40 + n, 1, b"", b"", 2**40) for n in range(200)] * (what == "delays"),
    )
    parts = list(split_record(record, 3_000))
    assert max(len(encode_packed(part)) for part in parts) <= 3_000
    assert sum(len(part.deltas) + len(part.errors) + len(part.labels + part.delays) for part in parts) == 200


def test_a_record_of_a_backlog_is_cut_to_what_a_topic_takes() -> None:
    n = 2 * MOST_RECORD_BYTES // 9
    backlog = SketchRecord(0, 0, 0, [], [ErrorRun("1", bytes(8 * n), bytes(n))])
    parts = list(split_record(backlog))
    assert [len(encode_packed(part)) < 1_000_000 for part in parts] == [True] * len(parts)
    assert len(parts) <= 3
