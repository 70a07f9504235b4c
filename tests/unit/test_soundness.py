"""What is counted is sound; what is not is found, and so is a reference that would ask for too much or raise later."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reference.as_json import from_json, to_json
from models.reference.counting import count, count_outcomes
from models.reference.error_hours import ErrorHours
from models.reference.fit import fit_reference
from models.reference.reference import MetricCells, Reference
from models.reference.segments import Segments
from models.reference.soundness import (
    MOST_CELLS,
    MOST_EVENTS,
    SparseCounts,
    find_fault_of_metrics,
    find_fault_of_reference,
    find_fault_without_reference,
)
from models.reference.training_events import TrainingEvents, category, numeric
from models.reference.units import COUNT_UNITS, LARGEST_UNITS
from schemas.pipeline.spec import Feature

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
        TrainingEvents(matrix, scores, labels, times_ms=np.arange(400) * 1_000_000),
        [numeric("amount"), category("kind", 3, ("a", "b"))],
        16,
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
    copied = values.copy()
    copied[at] = to
    return copied


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


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("fewer events than none", "it counts -1 events"),
        ("more events than can be", f"it counts {MOST_EVENTS + 1} events"),
        ("a count of less than nothing", "a cell holds less than one event, or more than can be"),
        ("a count of nothing", "a cell holds less than one event, or more than can be"),
        ("a count beyond all", "a cell holds less than one event, or more than can be"),
        ("a cell beyond all", f"its cells do not ascend, or not below {MOST_CELLS}"),
        ("cells out of order", f"its cells do not ascend, or not below {MOST_CELLS}"),
        ("a cell twice", f"its cells do not ascend, or not below {MOST_CELLS}"),
        ("a cell without a count", "cells and"),
        ("one metric", "it has 1 sums, 1 minima and 1 maxima"),
        ("a sum less", "it has 3 sums, 4 minima and 4 maxima"),
        ("more right than labelled", "were right"),
        ("fewer right than none", "-1 decisions of"),
        ("a loss of less than nothing", "the log loss is none of these labels"),
        ("a loss beyond all", "the log loss is none of these labels"),
        ("less than no label", "a cell holds less than one event, or more than can be"),
    ],
)
def test_what_no_reference_could_hold_is_found_without_one(what: str, sentence: str) -> None:
    fault = find_fault_without_reference(damaged()[what])
    assert sentence in fault
    assert fault == reference().laws.find_fault(damaged()[what])


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("one event more", "the cells of amount hold 60 values of 61 events"),
        ("a cell beyond the metrics", "in a cell that its version does not have"),
        ("a cell that its metric does not have", "in a cell that its version does not have"),
        ("no cells", "the cells of amount hold 0 values of 60 events"),
        ("a metric less", "it has 3 metrics, and its version 4"),
        ("a sum beyond its values", "a sum is more than its values can add up to"),
        ("the smallest sum", "a sum is more than its values can add up to"),
        ("a minimum above the maximum", "a minimum and a maximum do not fit the values"),
        ("no minimum", "a minimum and a maximum do not fit the values"),
        ("no maximum", "a minimum and a maximum do not fit the values"),
        ("a label beyond the score's cells", "in a cell that the score does not have"),
        ("more labels than came", "more labels were joined to scores than came"),
    ],
)
def test_what_only_its_reference_can_tell_is_found_by_that(what: str, sentence: str) -> None:
    assert find_fault_without_reference(damaged()[what]) == ""
    assert sentence in reference().laws.find_fault(damaged()[what])


def cells(values: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(values), np.int64), np.array(list(values.values()), np.int64)


def test_what_can_just_be_is_sound() -> None:
    """The most events, in the last cell, all right or all as wrong as can be; and a step beyond each."""
    most, last = MOST_EVENTS, MOST_CELLS - 1
    range_of = np.array([-1.0, 2.0])
    certain_and_wrong = 36 * COUNT_UNITS
    good = SparseCounts(
        *(most, *cells({0: 1, last: most}), np.zeros(2, np.int64), range_of, range_of),
        *cells({0: 1, last: most}),
        (most + 1) * certain_and_wrong,
        most + 1,
    )
    assert find_fault_without_reference(good) == ""
    nothing = SparseCounts(*(0, *cells({}), np.zeros(2, np.int64), range_of, range_of), *cells({}), 0, 0)
    assert find_fault_without_reference(nothing) == ""
    for beyond in (
        {"n": most + 1},
        {"values": np.array([1, most + 1])},
        {"outcome_values": np.array([1, most + 1])},
        {"cells": np.array([0, last + 1])},
        {"outcome_cells": np.array([0, last + 1])},
        {"outcome_cells": np.array([0])},
        {"log_loss_sum": good.log_loss_sum + 1},
        {"n_correct": good.n_correct + 1},
        {"minima": range_of[:1]},
    ):
        assert find_fault_without_reference(good._replace(**beyond)), beyond


def test_a_sum_may_be_as_large_as_its_values_and_no_larger() -> None:
    matrix, scores = np.array([[1e300, 1.0], [np.nan, 0.0]]), np.array([0.5, 0.25])
    good = SparseCounts.of(count(reference(), matrix, scores))
    assert good.sums[0] == LARGEST_UNITS
    assert not reference().laws.find_fault(good)
    assert reference().laws.find_fault(good._replace(sums=changed(good.sums, 0, LARGEST_UNITS + 1)))
    assert reference().laws.find_fault(good._replace(sums=changed(good.sums, 0, -LARGEST_UNITS - 1)))
    assert reference().laws.find_fault(good._replace(sums=changed(good.sums, 3, 1)))  # of no value


# -- references: each fault by itself ----------------------------------------------------------------------------------

NUMBER = MetricCells("x", "numeric", np.array([1.0, 2.0]))
KIND = MetricCells("kind", "category", np.zeros(0), 3)
SCORE = MetricCells("score", "score", np.array([0.5]))
OUTCOME = MetricCells("outcome", "outcome", np.zeros(0), 2)


def test_sound_metrics_have_no_fault_and_each_other_thing_is_named() -> None:
    assert find_fault_of_metrics((NUMBER, KIND, SCORE, OUTCOME), 1_000, 64) == ""
    assert find_fault_of_metrics((SCORE, OUTCOME), 0, 0) == ""
    order = "not features, then the score, then the outcome"
    for metrics, fault in (
        ((NUMBER, OUTCOME, SCORE), order),
        ((SCORE, NUMBER, OUTCOME), order),
        ((NUMBER, SCORE), order),
        ((OUTCOME,), order),
        ((SCORE, SCORE, OUTCOME), order),
        ((NUMBER, NUMBER, SCORE, OUTCOME), "two metrics have the same name"),
        ((SCORE, replace(OUTCOME, codes=3)), "the outcome has not two labels"),
        ((replace(NUMBER, name=7), SCORE, OUTCOME), "a metric or a value has no name"),
        ((replace(KIND, values=("a", None)), SCORE, OUTCOME), "a metric or a value has no name"),
        ((replace(KIND, codes=MOST_CELLS + 1), SCORE, OUTCOME), "codes"),
        ((replace(KIND, codes=-1), SCORE, OUTCOME), "codes"),
        ((replace(KIND, codes=True), SCORE, OUTCOME), "codes"),
        ((replace(NUMBER, edges=np.array([2.0, 1.0])), SCORE, OUTCOME), "the edges of x do not ascend"),
        ((replace(NUMBER, edges=np.array([1.0, 1.0])), SCORE, OUTCOME), "the edges of x do not ascend"),
        ((replace(NUMBER, edges=np.array([1.0, np.inf])), SCORE, OUTCOME), "the edges of x do not ascend"),
        ((replace(NUMBER, edges=np.array([[1.0]])), SCORE, OUTCOME), "the edges of x do not ascend"),
        ((replace(NUMBER, codes=3), SCORE, OUTCOME), "the cells of another kind of metric"),
        ((replace(KIND, codes=0), SCORE, OUTCOME), "the cells of another kind of metric"),
        ((replace(KIND, edges=np.array([1.0])), SCORE, OUTCOME), "the cells of another kind of metric"),
    ):
        assert fault in find_fault_of_metrics(metrics, 0, 0), fault
    for scale, is_sound in (
        *((COUNT_UNITS, True), (2.0**-30, True), (0.5, True), (COUNT_UNITS * 2, False), (3.0, False)),
        *((0.0, False), (-0.5, False)),
    ):
        fault = find_fault_of_metrics((replace(NUMBER, scale=scale), SCORE, OUTCOME), 0, 0)
        assert ("no power of two" in fault) != is_sound, scale


def test_a_reference_is_as_large_as_a_model_needs_at_most() -> None:
    wide = replace(KIND, codes=MOST_CELLS // 4 - 1)
    metrics = (NUMBER, wide, SCORE, OUTCOME)
    assert find_fault_of_metrics(metrics, 8, 0) == ""  # four metrics of a quarter of all cells, and 2**25 with segments
    assert "too much" in find_fault_of_metrics(metrics, 9, 0)
    assert "too much" in find_fault_of_metrics((NUMBER, replace(wide, codes=wide.codes + 1), SCORE, OUTCOME), 0, 0)
    assert find_fault_of_metrics((NUMBER, SCORE, OUTCOME), 0, MOST_CELLS // 4) == ""  # two labels by two cells each
    assert "too much" in find_fault_of_metrics((NUMBER, SCORE, OUTCOME), 0, MOST_CELLS // 4 + 1)


def test_each_fault_of_a_reference_is_named() -> None:
    good = reference()
    assert find_fault_of_reference(good) == ""
    (segment, counts), blocks, hours = next(iter(good.segments.items())), good.outcome_blocks, good.errors
    nobody = good.profiles.copy()
    nobody[0, 0] = np.nan
    assert find_fault_of_reference(replace(good, profiles=nobody)) == ""
    for changes, fault in (
        ({"threshold": np.nan}, "the threshold is no number"),
        ({"threshold": np.inf}, "the threshold is no number"),
        ({"design_effects": changed(good.design_effects, 0, 0.0)}, "a design effect is no positive number"),
        ({"design_effects": changed(good.design_effects, -1, np.inf)}, "a design effect is no positive number"),
        ({"profiles": np.full_like(good.profiles, -np.inf)}, "a mean score is infinite"),
        ({"errors": replace(hours, wrong=changed(hours.wrong, 0, -1))}, "or less than none"),
        ({"errors": replace(hours, wrong=hours.events + 1)}, "more wrong decisions than decisions"),
        ({"errors": replace(hours, events=changed(hours.events, 0, 2**40 + 1))}, "more decisions than can be"),
        ({"errors": replace(hours, events=changed(hours.events, 72, 99))}, "training has others"),
        ({"errors": replace(hours, log_odds=changed(hours.log_odds, 0, np.nan))}, "are no number"),
        ({"errors": replace(hours, log_odds=changed(hours.log_odds, 0, -43.0))}, "none that can be"),
        ({"errors": replace(ErrorHours.none(), log_odds=changed(hours.log_odds, 0, 1.0))}, "its hours differ"),
        ({"errors": replace(hours, effect=0.99)}, "the design effect of errors is less than 1"),
        ({"errors": replace(hours, effect=np.inf)}, "or no number"),
        ({"label_effect": 0.99}, "the design effect of labels is less than 1"),
        ({"label_effect": np.inf}, "or no number"),
        ({"outcome_blocks": blocks - 1}, "a block of labels is no part"),
        ({"outcome_blocks": blocks + good.training.outcomes}, "is no part"),
        ({"outcome_blocks": np.stack([good.training.outcomes] * 2)}, "do not add up"),
        ({"segments": {segment: replace(counts, n=counts.n + 1)}}, f"events ({segment})"),
        ({"segments": {segment: good.training + good.training}}, f"segment {segment} has more events than all"),
    ):
        assert fault in find_fault_of_reference(replace(good, **changes)), fault


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
    return to_json(reference())


ODD = st.sampled_from(
    [None, True, -1, 0, 1, 0.5, 10**9, 2**62, 2**63, 10**400, -(10**30), 1e308, "", "x", "nan", "inf", [], [0], {}]
)


@pytest.mark.slow
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
        read = from_json(json.dumps(body))
    except ValueError:
        return
    assert not read.laws.find_fault(SparseCounts.of(read.training))
    again = from_json(to_json(read))
    assert to_json(again) == to_json(read)


@pytest.mark.parametrize("codes", [10**9, 2**62, 10**400, -1, 1.0, "3", None])
def test_a_reference_never_asks_for_more_memory_than_a_model_needs(codes: Any) -> None:
    body = copy.deepcopy(json.loads(text()))
    body["metrics"][1]["codes"] = codes
    with pytest.raises(ValueError, match="not a"):
        from_json(json.dumps(body))


@pytest.mark.parametrize("name", ["counts", "sums", "outcomes", "minima"])
def test_a_number_is_not_taken_for_a_whole_list(name: str) -> None:
    body = json.loads(text())
    (segment, *_) = body["segments"].values()
    segment[name] = 0
    with pytest.raises(ValueError, match="not a reference"):
        from_json(json.dumps(body))


@pytest.mark.slow
def test_many_empty_blocks_of_labels_make_no_large_array() -> None:
    body = json.loads(text())
    body["outcome_blocks"] = [[[], []]] * 1_000_000
    with pytest.raises(ValueError, match="1000000 blocks of labels, which is too much"):
        from_json(json.dumps(body))


def test_a_reference_that_is_deep_is_refused() -> None:
    with pytest.raises(ValueError, match="not a reference"):
        from_json('{"format":3,"metrics":' + "[" * 100_000 + "]" * 100_000 + "}")
