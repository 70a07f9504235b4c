"""What is counted is sound; what is not is found, and so is a reference that would ask for too much or raise later."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.counting import count, count_outcomes
from models.reference import Reference
from models.reference_fit import fit_reference
from models.segments import Segments
from models.soundness import MOST_EVENTS, SparseCounts, find_fault_without_reference
from schemas.pipeline import Feature

FEATURES = [Feature("amount", "float"), Feature("kind", "category", values=("a", "b"))]


def make_events(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    matrix = np.column_stack([generator.normal(size=n) * 1e6, generator.integers(0, 4, n) * 1.0])
    matrix[generator.random((n, 2)) < 0.2] = np.nan
    matrix[generator.random(n) < 0.1, 0] = np.inf
    scores = np.where(generator.random(n) < 0.1, np.nan, generator.random(n))
    labels = generator.choice([0.0, 1.0, np.nan, 0.5], n)
    return matrix, scores, labels


@functools.cache
def reference() -> Reference:
    matrix, scores, labels = make_events(1, 400)
    return fit_reference(
        matrix,
        ["amount", "kind"],
        ["numeric", "category"],
        {"kind": 3},
        scores,
        labels,
        16,
        vocabularies={"kind": ("a", "b")},
        segments=Segments(FEATURES, ["kind"]),
    )


def sparse(seed: int = 2, n: int = 60) -> SparseCounts:
    matrix, scores, labels = make_events(seed, n)
    return SparseCounts.of(count(reference(), matrix, scores, labels))


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 80), st.integers(0, 80))
def test_what_is_counted_is_sound_and_so_is_the_sum_of_it(seed: int, n: int, n_labelled: int) -> None:
    matrix, scores, labels = make_events(seed, n)
    _, later, of_later = make_events(seed + 1, n_labelled)
    whole = count(reference(), matrix, scores, labels) + count_outcomes(reference(), later, of_later)
    for counts in (count(reference(), matrix, scores), count_outcomes(reference(), later, of_later), whole):
        assert not reference().laws.find_fault(SparseCounts.of(counts))
        assert not find_fault_without_reference(SparseCounts.of(counts))


def changed(values: np.ndarray, at: int, to: float) -> np.ndarray:
    found = values.copy()
    found[at] = to
    return found


def damaged() -> dict[str, SparseCounts]:
    good = sparse()
    empty = good.cells[:0]
    return {
        "fewer events than none": good._replace(n=-1),
        "one event more": good._replace(n=good.n + 1),
        "more events than can be": good._replace(n=MOST_EVENTS + 1),
        "a count of less than nothing": good._replace(values=changed(good.values, 0, -1)),
        "a count of nothing": good._replace(values=changed(good.values, 0, 0)),
        "a count too many": good._replace(values=changed(good.values, 0, good.values[0] + 1)),
        "a count beyond all": good._replace(values=changed(good.values, 0, 2**62)),
        "a cell beyond all": good._replace(cells=changed(good.cells, -1, 2**31)),
        "a cell beyond the metrics": good._replace(
            cells=changed(good.cells, -1, len(reference().metrics) * reference().width)
        ),
        "a cell that its metric does not have": good._replace(
            cells=changed(good.cells, -1, len(reference().metrics) * reference().width - 1)
        ),
        "cells out of order": good._replace(cells=good.cells[::-1]),
        "a cell twice": good._replace(cells=changed(good.cells, 1, good.cells[0])),
        "no cells": good._replace(cells=empty, values=empty),
        "a cell without a count": good._replace(values=good.values[:-1]),
        "a metric less": good._replace(sums=good.sums[:-1], minima=good.minima[:-1], maxima=good.maxima[:-1]),
        "one metric": good._replace(sums=good.sums[:1], minima=good.minima[:1], maxima=good.maxima[:1]),
        "a sum less": good._replace(sums=good.sums[:-1]),
        "a sum beyond its values": good._replace(sums=changed(good.sums, 1, 2**62)),
        "the smallest sum": good._replace(sums=changed(good.sums, 1, -(2**63))),
        "a minimum above the maximum": good._replace(minima=changed(good.minima, 1, 9.0)),
        "no minimum": good._replace(minima=changed(good.minima, 1, np.nan)),
        "no maximum": good._replace(maxima=changed(good.maxima, 1, np.nan)),
        "more right than labelled": good._replace(n_correct=int(good.outcome_values.sum()) + 1),
        "fewer right than none": good._replace(n_correct=-1),
        "a loss of less than nothing": good._replace(log_loss_sum=-1),
        "a loss beyond all": good._replace(log_loss_sum=2**62),
        "a label beyond the score's cells": good._replace(
            outcome_cells=changed(good.outcome_cells, -1, 2 * reference().score_cells)
        ),
        "more labels than came": good._replace(outcome_values=changed(good.outcome_values, 0, 1_000)),
        "less than no label": good._replace(outcome_values=changed(good.outcome_values, 0, -1)),
    }


@pytest.mark.parametrize("what", damaged())
def test_what_is_not_sound_is_found_and_named_in_a_sentence(what: str) -> None:
    fault = reference().laws.find_fault(damaged()[what])
    assert fault
    assert "\n" not in fault


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in a JSON text; of long lists, the ends."""
    if path:
        yield path
    if isinstance(body, dict):
        for key, value in body.items():
            yield from places(value, (*path, key))
    elif isinstance(body, list):
        for at in sorted({0, len(body) - 1}) if body else ():
            yield from places(body[at], (*path, at))


@functools.cache
def text() -> str:
    return reference().to_json()


ODD = st.sampled_from(
    [None, True, -1, 0, 1, 0.5, 10**9, 2**62, 2**63, 10**400, -(10**30), 1e308, "", "x", "nan", "inf", [], [0], {}]
)


@settings(max_examples=150)
@given(st.data())
def test_a_reference_with_something_else_in_one_place_is_refused_or_sound(data: Any) -> None:
    body = json.loads(text())
    path = data.draw(st.sampled_from(list(places(body))))
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(ODD)
    else:
        del holder[path[-1]]
    try:
        found = Reference.from_json(json.dumps(body))
    except ValueError:
        return
    assert not found.laws.find_fault(SparseCounts.of(found.training))
    again = Reference.from_json(found.to_json())
    assert again.to_json() == found.to_json()


@pytest.mark.parametrize("codes", [10**9, 2**62, 10**400, -1, 1.0, "3", None])
def test_a_reference_never_asks_for_more_memory_than_a_model_needs(codes: Any) -> None:
    body = copy.deepcopy(json.loads(text()))
    body["metrics"][1]["codes"] = codes
    with pytest.raises(ValueError, match="not a"):
        Reference.from_json(json.dumps(body))


@pytest.mark.parametrize("name", ["counts", "sums", "outcomes", "minima"])
def test_a_number_is_not_taken_for_a_whole_list(name: str) -> None:
    body = json.loads(text())
    (segment, *_) = body["segments"].values()
    segment[name] = 0
    with pytest.raises(ValueError, match="not a reference"):
        Reference.from_json(json.dumps(body))


@pytest.mark.slow
def test_many_empty_blocks_of_labels_make_no_large_array() -> None:
    body = json.loads(text())
    body["outcome_blocks"] = [[[], []]] * 1_000_000
    with pytest.raises(ValueError, match="1000000 blocks of labels, which is too much"):
        Reference.from_json(json.dumps(body))


def test_a_reference_that_is_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="not a reference"):
        Reference.from_json('{"format":3,"metrics":' + "[" * 100_000 + "]" * 100_000 + "}")
