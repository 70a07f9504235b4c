"""Counting by segments is counting each segment's events, however many there are and however they come."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.counts.buffer import SketchBuffer
from app.core.counts.sketches import ALL, Sketch
from models.reference.as_json import from_json, to_json
from models.reference.counting import count, count_outcomes
from models.reference.fit import fit_reference
from models.reference.grouped_counts import GroupedCounts, count_groups, count_outcome_groups
from models.reference.reference import Counts, Reference
from models.reference.segments import Segments
from models.reference.training_events import TrainingEvents, category, numeric
from models.training import train
from models.training_rows import TrainingRange
from schemas.pipeline.spec import Feature, Pipeline
from schemas.wire import SketchDelta, decode_packed, encode_packed

SLICE_MS = 1_000
FEATURES = (
    Feature("x", "float"),
    Feature("kind", "category", values=("a", "b")),
    Feature("is_new", "bool"),
    Feature("place", "category", values=tuple(f"p{number}" for number in range(40))),
)
COLUMNS = ("is_new", "kind", "place")
BOTH = Segments(FEATURES, COLUMNS)


def make_events(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, matrix, scores and labels, some of each missing or out of the ordinary."""
    generator = np.random.default_rng(seed)
    matrix = np.column_stack([generator.normal(size=n), *(generator.integers(0, size, n) for size in (3, 2, 41))])
    matrix[::7, 0] *= 0.0  # zeros of both signs
    matrix[::11, 0] = np.inf
    matrix[generator.random((n, 4)) < 0.1] = np.nan
    scores = generator.random(n)
    labels = np.where(generator.random(n) < 0.1, np.nan, generator.random(n) < scores)
    labels[::13] = 7.0
    scores[::17] = np.nan
    return generator.integers(-2 * SLICE_MS, 3 * SLICE_MS, n), matrix, scores, labels


@functools.cache
def reference() -> Reference:
    _, matrix, scores, labels = make_events(1, 400)
    sizes = {"kind": 3, "place": 41}
    names = [feature.name for feature in FEATURES]
    columns = [category(name, sizes[name]) if name in sizes else numeric(name) for name in names]
    return fit_reference(TrainingEvents(matrix, np.nan_to_num(scores), labels), columns, 16, segments=BOTH)


def bits(counts: Counts) -> dict[str, Any]:
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in {**vars(counts), "sums": counts.sums.astype("<i8")}.items()
    }


def count_rows(rows: np.ndarray, matrix: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Counts:
    return count(reference(), matrix[rows], scores[rows]) + count_outcomes(reference(), scores[rows], labels[rows])


@given(st.integers(0, 2**32), st.integers(0, 120))
def test_the_segments_of_each_column_take_every_event_once(seed: int, n: int) -> None:
    _, matrix, _, _ = make_events(seed, n)
    parts = list(BOTH.split(matrix))
    assert len({name for name, _ in parts}) == len(parts)
    for name, places in parts:
        number = BOTH.names.index(name)
        (of_events,) = (keys for keys in BOTH.find(matrix) if number in keys)
        assert places.tolist() == np.flatnonzero(of_events == number).tolist()
    assert sum(len(places) for _, places in parts) == n * len(COLUMNS)


def test_a_reference_has_the_counts_of_each_segments_events() -> None:
    _, matrix, scores, labels = make_events(1, 400)
    scores = np.nan_to_num(scores)
    assert list(reference().segments) == [name for name, _ in BOTH.split(matrix)]
    for name, places in BOTH.split(matrix):
        assert bits(reference().segments[name]) == bits(count_rows(places, matrix, scores, labels))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120), st.sampled_from([1, 3, 40, 100_000]))
def test_the_counts_of_each_group_are_those_of_its_events_bit_for_bit(seed: int, n: int, n_groups: int) -> None:
    _, matrix, scores, labels = make_events(seed, n)
    keys = np.random.default_rng(seed).integers(-n_groups, n_groups, (2, n))
    ways = count_groups(reference(), matrix, scores, keys)
    assert len(ways) == (2 if n else 0)
    for way, of_event in zip(ways, keys, strict=n > 0):
        labelled = count_outcome_groups(reference(), scores, labels, of_event)
        by_group = GroupedCounts.merge([way, labelled]).split()
        assert list(by_group) == np.unique(of_event).tolist()
        for key, counts in by_group.items():
            assert bits(counts) == bits(count_rows(of_event == key, matrix, scores, labels))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 90), max_size=6), st.randoms(use_true_random=False))
def test_groups_merge_to_those_of_the_whole_in_any_order(seed: int, cuts: list[int], chance: Any) -> None:
    _, matrix, scores, labels = make_events(seed, 90)
    keys = np.random.default_rng(seed).integers(0, 12, 90)
    edges = [0, *sorted(cuts), 90]
    parts = []
    for start, stop in itertools.pairwise(edges):
        rows = slice(start, stop)
        parts += count_groups(reference(), matrix[rows], scores[rows], keys[None, rows])
        parts.append(count_outcome_groups(reference(), scores[rows], labels[rows], keys[rows]))
    chance.shuffle(parts)
    merged = GroupedCounts.merge([GroupedCounts.merge(parts[:3]), *parts[3:]]).split()
    assert {key: bits(counts) for key, counts in merged.items()} == {
        key: bits(count_rows(keys == key, matrix, scores, labels)) for key in np.unique(keys).tolist()
    }


def test_the_cells_of_each_group_lie_between_its_bounds() -> None:
    assert GroupedCounts.zeros(np.array([4, 9]), (3, 5), 7).sizes == (15, 14)
    _, matrix, scores, labels = make_events(9, 60)
    keys = np.arange(60) % 4 * 10
    whole = GroupedCounts.merge(
        [
            *count_groups(reference(), matrix, scores, keys[None]),
            count_outcome_groups(reference(), scores, labels, keys),
        ]
    )
    counts = list(whole.split().values())
    for bounds, parts in zip(whole.bounds(), ([c.counts for c in counts], [c.outcomes for c in counts]), strict=True):
        assert bounds.tolist() == np.cumsum([0, *map(np.count_nonzero, parts)]).tolist()


def by_segment(deltas: list[SketchDelta]) -> dict[tuple[str, int, str], dict[str, Any]]:
    sketches: dict[tuple[str, int, str], Sketch] = {}
    for delta in deltas:
        received = decode_packed(encode_packed(delta), SketchDelta)
        sketches.setdefault((delta.version, delta.slice_start_ms, delta.segment), Sketch()).add(received)
    return {key: bits(sketch.to_counts(reference())) for key, sketch in sketches.items()}


def buffer_with(rows: np.ndarray, seed: int, segments: Segments | None = BOTH, n: int = 120) -> SketchBuffer:
    times, matrix, scores, labels = make_events(seed, n)
    buffer = SketchBuffer("m", SLICE_MS, segments)
    numbers = segments.find(matrix[rows]).T.tolist() if segments is not None else [()] * len(rows)
    buffer.add_scored("1", reference(), times[rows], matrix[rows], scores[rows])
    buffer.add_labelled("1", reference(), times[rows], scores[rows], labels[rows], numbers)
    return buffer


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 3), min_size=120, max_size=120))
def test_any_split_of_events_over_transactions_gives_the_same_segments(seed: int, part_of: list[int]) -> None:
    whole = buffer_with(np.arange(120), seed).drain()
    parts = [
        delta for part in range(4) for delta in buffer_with(np.flatnonzero(np.array(part_of) == part), seed).drain()
    ]
    assert by_segment(parts[::-1]) == by_segment(whole)
    assert [(delta.segment != ALL, delta.version, delta.slice_start_ms) for delta in whole] == sorted(
        (delta.segment != ALL, delta.version, delta.slice_start_ms) for delta in whole
    )


def test_a_delta_holds_the_events_of_its_slice_and_segment() -> None:
    times, matrix, scores, labels = make_events(5, 120)
    deltas = buffer_with(np.arange(120), 5).drain()
    numbers = BOTH.find(matrix)
    assert len(deltas) > 50
    for (_, start_ms, segment), counts in by_segment(deltas).items():
        in_slice = times // SLICE_MS * SLICE_MS == start_ms
        in_segment = (numbers == BOTH.names.index(segment)).any(axis=0) if segment != ALL else np.ones(120, bool)
        assert counts == bits(count_rows(in_slice & in_segment, matrix, scores, labels))


def test_the_segments_of_a_column_add_up_to_all_events() -> None:
    by_key = by_segment(buffer_with(np.arange(120), 3).drain())
    for column in COLUMNS:
        n = {key[:2]: 0 for key in by_key}
        for (version, start_ms, segment), counts in by_key.items():
            n[version, start_ms] += counts["n"] * segment.startswith(f"{column}=")
        assert n == {key[:2]: counts["n"] for key, counts in by_key.items() if key[2] == ALL}


def test_without_segments_nothing_but_all_events_is_counted() -> None:
    without = buffer_with(np.arange(120), 4, None).drain()
    assert {delta.segment for delta in without} == {ALL}
    assert Segments(FEATURES, ()).find(make_events(4, 9)[1]).shape == (0, 9)
    assert not Segments(FEATURES, ())
    with_segments = buffer_with(np.arange(120), 4).drain()
    assert [delta for delta in with_segments if delta.segment == ALL] == without


@pytest.mark.slow
def test_segments_are_counted_at_once_or_in_parts_alike() -> None:
    """Beyond 8 000 events counting does not wait for the drain."""
    whole = buffer_with(np.arange(20_000), 6, n=20_000)
    parts = [buffer_with(rows, 6, n=20_000) for rows in np.array_split(np.arange(20_000), 7)]
    assert by_segment(whole.drain()) == by_segment([delta for part in parts for delta in part.drain()])


def test_a_segment_is_named_by_its_column_and_value() -> None:
    matrix = np.array(
        [[0.0, 0.0, 1.0, 39.0], [0.0, 1.0, 0.0, 40.0], [0.0, 2.0, np.nan, np.nan], [0.0, np.nan, 0.5, 0.0]]
    )
    names = [[BOTH.names[number] for number in of_event] for of_event in BOTH.find(matrix).T.tolist()]
    assert names == [
        ["kind=a", "is_new=true", "place=p39"],
        ["kind=b", "is_new=false", "place=unseen"],
        ["kind=unseen", "is_new=missing", "place=missing"],
        ["kind=missing", "is_new=true", "place=p0"],
    ]


def test_the_number_of_a_segment_does_not_depend_on_the_columns_that_are_chosen() -> None:
    one = Segments(FEATURES, ["place"])
    matrix = make_events(7, 30)[1]
    assert one.names == BOTH.names
    assert one.find(matrix)[0].tolist() == BOTH.find(matrix)[-1].tolist()
    assert [name for name, is_chosen in zip(one.names, one.is_chosen, strict=True) if is_chosen] == [
        name for name in BOTH.names if name.startswith("place=")
    ]


def test_a_reference_knows_the_training_counts_of_each_segment_and_keeps_them_in_json() -> None:
    _, matrix, scores, labels = make_events(1, 400)
    scores = np.nan_to_num(scores)
    numbers = BOTH.find(matrix)
    again = from_json(to_json(reference()))
    assert to_json(again) == to_json(reference())
    assert set(again.segments) == {BOTH.names[number] for number in np.unique(numbers).tolist()}
    for name, counts in again.segments.items():
        assert bits(counts) == bits(count_rows((numbers == BOTH.names.index(name)).any(axis=0), matrix, scores, labels))


def test_training_counts_by_the_segments_of_the_pipeline_file(small_pipeline: Pipeline, small_data: Any) -> None:
    pipeline = replace(small_pipeline, drift=replace(small_pipeline.drift, segments=("colour",)))
    trained = train(TrainingRange(small_data, 0, 400_000), pipeline, "logistic", version="1.0.0", created_at_ms=0)
    segments = trained.manifest.read_reference().segments
    colours = small_data.matrix[:, 1]
    assert {name: counts.n for name, counts in segments.items()} == {
        **{f"colour={value}": (colours == code).sum() for code, value in enumerate(("red", "green", "blue"))},
        "colour=missing": np.isnan(colours).sum(),
    }
    assert segments["colour=blue"].outcomes.sum(axis=1).tolist() == [
        ((colours == 2) & (small_data.labels == label)).sum() for label in (0, 1)
    ]
    assert sum(counts.n for counts in segments.values()) == 400


def test_sums_stay_exact_beyond_what_a_float_could_add_up() -> None:
    """A value counts as 2**40 units at most: 8 192 of them are all that a float64 adds up without rounding."""
    n = 3 * 8_192 + 1
    matrix = np.zeros((n, 4))
    matrix[:, 0] = 1e300
    matrix[-1, 0] = 2.0**-20
    (way,) = count_groups(reference(), matrix, np.full(n, 0.5), np.zeros((1, n), np.int64))
    assert way.sums[0, 0] == (n - 1) * 2**40 + 1
