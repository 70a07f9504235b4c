"""Counts survive the wire, and deltas merge to the counts of the whole however the events were split."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.sketch_buffer import SketchBuffer
from app.core.sketches import Sketch, unpack
from models.counting import count, count_outcomes
from models.reference import Reference
from models.reference_fit import fit_reference
from schemas.wire import SketchDelta, decode_packed, encode_packed

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
    return fit_reference(matrix, ["x", "kind"], ["numeric", "category"], {"kind": 3}, scores, labels, 16)


def by_slice(deltas: list[SketchDelta]) -> dict[tuple[str, int], bytes]:
    sketches: dict[tuple[str, int], Sketch] = {}
    for delta in deltas:
        received = decode_packed(encode_packed(delta), SketchDelta)
        sketches.setdefault((delta.version, delta.slice_start_ms), Sketch()).add(received)
    return {
        (version, start): encode_packed(sketch.to_delta("m", version, "all", start))
        for (version, start), sketch in sketches.items()
    }


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
    narrow = fit_reference(matrix[:, :1], ["x"], ["numeric"], {}, scores, scores * 0, 8)
    with pytest.raises(ValueError, match="register the reference they were made with"):
        unpack(buffer.drain()[0], narrow)
