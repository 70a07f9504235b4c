"""Laws of the cells of a version and of the counts in them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.reference.as_json import from_json, to_json
from models.reference.counting import count, count_outcomes
from models.reference.dependence import design_effect
from models.reference.fit import fit_edges, fit_reference
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.training_events import TrainingEvents, category, numeric
from models.reference.units import COUNT_UNITS

NAMES = ["amount", "step", "kind"]


def make_data(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    matrix = np.column_stack(
        [generator.lognormal(size=n) - 1, generator.integers(-2, 4, n) * 1.0, generator.integers(0, 3, n) * 1.0]
    )
    matrix[generator.random((n, 3)) < 0.05] = np.nan
    scores = generator.random(n)
    outcomes = np.where(generator.random(n) < 0.1, np.nan, generator.random(n) < scores)
    return matrix, scores, outcomes


@functools.cache
def fit() -> Reference:
    matrix, scores, outcomes = make_data(1, 500)
    columns = [numeric("amount"), numeric("step"), category("kind", 3)]
    return fit_reference(TrainingEvents(matrix, scores, outcomes), columns, 32)


def assert_equal(one: Counts, other: Counts) -> None:
    for field in dataclasses.fields(Counts):
        mine, theirs = (np.asarray(getattr(counts, field.name)) for counts in (one, other))
        assert mine.tobytes() == theirs.tobytes(), field.name


def cell_by_definition(metric: MetricCells, value: float) -> int:
    if math.isnan(value) or (metric.is_coded and value not in range(metric.codes)):
        return metric.size
    return int(value) if metric.is_coded else sum(1 for edge in metric.edges if edge <= value)


values = st.floats(allow_nan=True, allow_infinity=True, width=64) | st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 0.5])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(values, values, values, values), max_size=40))
def test_counting_agrees_with_the_definition_of_a_cell(rows: list[tuple[float, ...]]) -> None:
    reference = fit()
    table = np.array(rows, np.float64).reshape(len(rows), 4)
    counts = count(reference, table[:, :3], table[:, 3])
    expected, sums, seen = reference.zeros().counts, [0] * 5, [[math.nan] for _ in range(5)]
    for row in table.tolist():
        for number, (metric, value) in enumerate(zip(reference.metrics, row, strict=False)):
            held = cell_by_definition(metric, value)
            expected[number, held] += 1
            if held < metric.size:
                sums[number] += round(min(max(value * metric.scale, -(2**40)), 2**40))
                seen[number].append(value)
    assert counts.n == len(rows)
    assert counts.sums.tolist() == sums
    for extremes, extreme in ((counts.minima, np.nanmin), (counts.maxima, np.nanmax)):
        expected_extremes = [extreme(values) if len(values) > 1 else math.nan for values in seen]
        assert np.array_equal(extremes, expected_extremes, equal_nan=True)
    assert counts.counts.tolist() == expected.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 300), max_size=5), st.permutations(range(4)))
def test_the_merge_of_parts_is_the_whole_in_any_order(seed: int, cuts: list[int], order: list[int]) -> None:
    reference = fit()
    matrix, scores, outcomes = make_data(seed, 300)
    matrix[::7] *= 0.0  # zeros of both signs
    whole = count(reference, matrix, scores, outcomes)
    edges = [0, *sorted(cuts), 300]
    parts = [count(reference, matrix[a:b], scores[a:b], outcomes[a:b]) for a, b in itertools.pairwise(edges)]
    parts = [part for turn in order for part in parts[turn::4]]
    merged = reference.zeros()
    for part in parts:
        merged += part
    assert_equal(merged, whole)
    assert min(whole.n, whole.n_correct, whole.log_loss_sum, whole.n_labels) > 0  # what is always 0 says nothing


def test_a_reference_survives_json_bit_for_bit() -> None:
    reference = fit()
    text = to_json(reference)
    again = from_json(text)
    assert to_json(again) == text
    assert_equal(again.training, reference.training)
    assert again.profiles.tobytes() == reference.profiles.tobytes()
    assert again.design_effects.tolist() == reference.design_effects.tolist()
    assert [metric.edges.tobytes() for metric in again.metrics] == [m.edges.tobytes() for m in reference.metrics]
    assert [(m.name, m.kind, m.codes, m.scale) for m in again.metrics] == [
        (m.name, m.kind, m.codes, m.scale) for m in reference.metrics
    ]


def test_the_score_has_a_cell_that_begins_at_the_threshold_and_is_nowhere_coarser_than_its_grid() -> None:
    reference = fit_reference(
        TrainingEvents(np.zeros((4, 1)), np.array([0.31, 0.32, 0.33, 0.9]), np.zeros(4)),
        [numeric("x")],
        8,
        threshold=0.29,
    )
    edges = reference.metrics[-2].edges
    assert edges[reference.threshold_cell - 1] == 0.29
    assert np.diff(edges[(edges >= 0) & (edges <= 1)]).max() <= 1 / 64
    assert (edges[0], edges[-1]) == (0.0, 1.0)


def test_a_profile_is_the_mean_score_of_each_cell() -> None:
    matrix, scores, outcomes = make_data(1, 500)
    reference = fit()
    kind = np.where(np.isnan(matrix[:, 2]), 3, matrix[:, 2])
    expected = [scores[kind == code].mean() for code in range(4)]
    assert reference.profiles[2, :4] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(reference.profiles[2, 4:]).all()
    assert reference.profiles[4, 0] == pytest.approx(scores[outcomes == 0].mean())


def test_the_blocks_of_outcomes_follow_each_other_and_hold_all_labels() -> None:
    _, scores, outcomes = make_data(1, 500)
    reference = fit()
    assert np.array_equal(reference.outcome_blocks.sum(axis=0), reference.training.outcomes)
    assert np.ptp(reference.outcome_blocks.sum(axis=(1, 2))) <= 1
    labelled = np.flatnonzero(np.isfinite(scores) & np.isin(outcomes, (0, 1)))
    first = labelled[: int(reference.outcome_blocks[:8].sum())]
    expected = count_outcomes(reference, scores[first], outcomes[first]).outcomes
    assert np.array_equal(reference.outcome_blocks[:8].sum(axis=0), expected)


def test_json_that_is_no_reference_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="not a reference"):
        from_json("{}")
    body = json.loads(to_json(fit()))
    with pytest.raises(ValueError, match="reference format 3 is not 4; train again"):
        from_json(json.dumps({**body, "format": 3}))


def test_what_json_has_no_word_for_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json(dataclasses.replace(fit(), threshold=math.nan))


@settings(max_examples=60, deadline=None)
@given(st.lists(values, max_size=200), st.integers(8, 64))
def test_edges_ascend_strictly_are_finite_and_few(data: list[float], bins: int) -> None:
    edges = fit_edges(np.array(data, np.float64), bins)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= bins - 1


def edges_by_definition(data: list[float], bins: int) -> list[float]:
    """The ends; two edges for each value that has a cell to itself; and what cuts the others into equal numbers."""
    finite = sorted(value + 0.0 for value in data if abs(value) < np.finfo(np.float64).max)
    own = set(finite)
    if 2 * len(own) > bins - 1:
        own = {value for value in own if finite.count(value) > len(finite) / (bins // 4)}
    others = [value for value in finite if value not in own]
    n_free = bins - 1 - 2 - 2 * len(own)
    cuts = {others[len(others) * number // (n_free + 1)] for number in range(1, n_free + 1)} if others else set()
    ends = {finite[0], math.nextafter(finite[-1], math.inf)} if finite else set()
    return sorted(ends | own | {math.nextafter(value, math.inf) for value in own} | cuts)


few_values = st.integers(-6, 6).map(lambda number: number / 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(few_values | values, max_size=60) | st.lists(few_values, max_size=60), st.integers(8, 30))
@example([0.0] * 50 + [*range(1, 41)], 16)  # the least value is frequent
@example([*range(40)] + [99.0] * 50, 16)
def test_edges_are_those_of_their_definition(data: list[float], bins: int) -> None:
    assert fit_edges(np.array(data, np.float64), bins).tolist() == edges_by_definition(data, bins)


def test_a_category_knows_what_its_codes_stand_for_where_that_is_said() -> None:
    scores = np.array([0.2, 0.7])
    columns = [category("kind", 3, ["a", "b"]), category("place", 2), numeric("x")]
    reference = fit_reference(TrainingEvents(np.zeros((2, 3)), scores, scores), columns, 8)
    assert [(metric.values, metric.codes) for metric in reference.metrics] == [
        *((("a", "b"), 3), ((), 2), ((), 0), ((), 0), ((), 2))
    ]


def test_few_distinct_values_have_a_cell_each() -> None:
    reference = fit()
    row = reference.counts[1]
    matrix, _, _ = make_data(1, 500)
    seen, frequency = np.unique(matrix[~np.isnan(matrix[:, 1]), 1], return_counts=True)
    assert row[row > 0].tolist() == [*frequency.tolist(), int(np.isnan(matrix[:, 1]).sum())]
    assert len(seen) == 6


def test_the_cells_of_a_continuous_feature_hold_about_equal_shares() -> None:
    values = np.random.default_rng(3).normal(size=10_000)
    cells = MetricCells("x", "numeric", fit_edges(values, 50))
    held = np.diff(np.searchsorted(np.sort(values), cells.edges))
    assert held.min() > 150
    assert held.max() < 250


def test_a_frequent_value_has_its_own_cell_among_continuous_ones() -> None:
    generator = np.random.default_rng(4)
    values = np.concatenate([np.zeros(9_000), generator.exponential(size=1_000)])
    edges = fit_edges(values, 64)
    counts = np.histogram(values, [-np.inf, *edges, np.inf])[0]
    assert edges[:2].tolist() == [0.0, 5e-324]
    assert counts[1] == 9_000
    assert len(edges) > 40  # the rest keeps its resolution


def test_missing_infinite_and_unknown_values_go_where_the_rules_say() -> None:
    reference = fit_reference(
        TrainingEvents(np.array([[1.0, 0.0], [2.0, 1.0]]), np.array([0.2, 0.8]), np.array([0.0, 1.0])),
        [numeric("x"), category("kind", 2)],
        8,
    )
    matrix = np.array([[np.inf, 2.0], [-np.inf, 0.5], [np.nan, -1.0], [1.0, np.nan], [-0.0, np.inf]])
    counts = count(reference, matrix, np.full(5, 0.5))
    # x: below 1 | 1 | between | 2 | above | missing
    assert counts.counts[0, :6].tolist() == [2, 1, 0, 0, 1, 1]
    assert counts.counts[1, :3].tolist() == [0, 0, 5]
    assert (counts.minima[0], counts.maxima[0]) == (-np.inf, np.inf)
    assert math.isnan(counts.minima[1])


def test_sums_are_exact_in_fixed_point() -> None:
    reference = fit()
    counts = count(
        reference, np.array([[0.5, 1.0, 0.0], [0.25, 3.0, 2.0], [np.nan, -1.0, 2.0]]), np.array([0.0, 0.5, 1.0])
    )
    assert counts.sums[0] == 0.75 * reference.metrics[0].scale
    assert counts.sums[1] == 3 * COUNT_UNITS
    assert reference.mean(counts, 0) == 0.375
    assert reference.mean(counts, 2) == 4 / 3
    assert reference.mean(counts, 3) == 0.5


def test_the_mean_of_large_values_is_kept_in_64_bits() -> None:
    times = np.arange(1_356_998_400_000.0, 1_356_998_400_000.0 + 100_000)
    reference = fit_reference(
        TrainingEvents(times[:, None], np.full(100_000, 0.5), np.zeros(100_000)), [numeric("t")], 16
    )
    assert reference.mean(reference.training, 0) == pytest.approx(times.mean(), rel=2**-31)
    assert count_outcomes(reference, np.array([0.5, 0.5]), np.array([1.0, 0.0])).sums[-1] == COUNT_UNITS


def test_outcomes_count_bins_decisions_and_log_loss_by_hand() -> None:
    reference = fit()  # threshold 0.5
    scores = np.array([0.5, 0.25, 1.0, 0.75, 0.0])
    labels = np.array([1.0, 0.0, 0.0, np.nan, 7.0])
    counts = count_outcomes(reference, scores, labels)
    assert counts.n == 0
    assert counts.n_labels == 3
    held = [
        (int(label), cell_by_definition(reference.metrics[-2], score))
        for score, label in zip(scores, labels[:3], strict=False)
    ]
    assert sorted(zip(*np.nonzero(counts.outcomes), strict=True)) == sorted(held)
    assert counts.outcomes[:, reference.threshold_cell :].sum() == 2
    assert counts.counts[-1, :3].tolist() == [2, 1, 2]
    assert (counts.sums[-1], counts.minima[-1], counts.maxima[-1]) == (COUNT_UNITS, 0.0, 1.0)
    assert reference.mean(counts, 4) == 1 / 3
    nothing = count_outcomes(reference, scores[3:], labels[3:])
    assert (nothing.sums[-1], nothing.n_labels, nothing.log_loss_sum, nothing.n_correct) == (0, 0, 0, 0)
    assert math.isnan(nothing.minima[-1])
    assert math.isnan(nothing.maxima[-1])
    assert counts.n_correct == 2
    expected = math.log(2) - math.log(0.75) - math.log(1e-15)
    assert counts.log_loss_sum / COUNT_UNITS == pytest.approx(expected, abs=3e-6)


def test_data_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        fit_reference(TrainingEvents(np.zeros((3, 2)), np.zeros(3), np.zeros(3)), [numeric("a")], 16)
    for shape, n_scores, n_labels in (((3, 1), 3, 3), ((3, 2), 4, 3), ((3, 2), 3, 4)):
        events = TrainingEvents(np.zeros(shape), np.zeros(n_scores), np.zeros(n_labels))
        with pytest.raises(ValueError, match="do not fit together"):
            fit_reference(events, [numeric("a"), numeric("a")], 8)
    with pytest.raises(ValueError, match="at least 8"):
        fit_reference(TrainingEvents(np.zeros((3, 1)), np.zeros(3), np.zeros(3)), [numeric("a")], 4)


def test_a_zero_has_no_sign() -> None:
    reference = fit()
    zeros = np.array([[0.0, 1.0, 0.0], [-0.0, 1.0, 0.0]])
    parts = [count(reference, zeros[[row]], np.array([0.5])) for row in (0, 1)]
    assert_equal(parts[0] + parts[1], parts[1] + parts[0])
    assert not np.signbit(parts[1].minima[0])


def test_bursts_of_missing_values_count_and_labels_that_did_not_come_do_not() -> None:
    """A twentieth of the events, in stretches of forty: nothing else depends on the event before."""
    generator = np.random.default_rng(5)
    values, scores, labels = generator.random(8_000), generator.random(8_000), generator.random(8_000) < 0.5
    is_gone = np.repeat(generator.random(200) < 0.05, 40)
    then = np.where(is_gone, np.nan, values), np.where(is_gone, np.nan, labels)
    for x, y, expected in ((values, labels * 1.0, False), (then[0], labels * 1.0, True), (values, then[1], False)):
        effects = fit_reference(TrainingEvents(x[:, None], scores, y), [numeric("x")], 16).design_effects
        assert (effects > 10).tolist() == [expected, False, False]


def test_bursts_of_wrong_decisions_that_labels_do_not_show_are_the_errors_alone() -> None:
    generator = np.random.default_rng(2)
    scores, labels = generator.random(8_000), generator.random(8_000) < 0.5
    # Decisions are right for 16 events and left to chance for 16, while labels and scores are independent events.
    told = np.where(np.arange(8_000) // 16 % 2, labels, generator.random(8_000) < 0.5)
    references = [
        fit_reference(TrainingEvents(scores[:, None], each, labels * 1.0), [numeric("x")], 16)
        for each in (scores, np.where(told, 0.9, 0.1))
    ]
    effects, of_errors = zip(*((each.design_effects, each.errors.effect) for each in references), strict=True)
    assert effects[0].tolist() == [1.0, 1.0, 1.0]
    assert effects[1][-1] == 1.0
    assert of_errors[0] < 1.1
    assert of_errors[1] > 2


def test_what_is_missing_throughout_has_one_nan_as_extremes_whatever_the_bits_of_those_in_the_data() -> None:
    other_nan = np.array([0xFFF8000000000123], dtype=np.uint64).view(np.float64)[0]
    counts = [count(fit(), np.full((3, 3), nan), np.full(3, nan)) for nan in (np.nan, other_nan)]
    assert_equal(counts[0], counts[1])


@pytest.mark.parametrize("largest", [1e-9, 0.75, 1.0, 4_095.9, 4_096.0, 2.0**40, 1e200])
def test_the_largest_value_of_training_takes_just_32_bits_or_the_finest_units_there_are(largest: float) -> None:
    column = np.array([largest / 3, -largest, np.nan, np.inf, 0.0])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    scale = fit_reference(TrainingEvents(column[:, None], scores, np.zeros(5)), [numeric("x")], 8).metrics[0].scale
    assert math.frexp(scale)[0] == 0.5
    assert 2**31 <= largest * scale < 2**32 or (scale == COUNT_UNITS and largest * scale < 2**32)
    nothing = fit_reference(TrainingEvents(column[2:4, None], scores[:2], np.zeros(2)), [numeric("x")], 8).metrics[0]
    assert (nothing.scale, len(nothing.edges)) == (COUNT_UNITS, 0)


def test_the_design_effects_and_profiles_are_those_of_the_cells_and_decisions() -> None:
    generator = np.random.default_rng(8)
    level = np.repeat(generator.random(200), 8)
    kind = np.repeat(generator.integers(0, 4, 400), 4) * 1.0  # 3 is no code, so it is missing
    scores = np.clip(level + generator.normal(0, 0.2, 1_600), 0, 1)
    scores[::50] = np.nan
    labels = np.where(generator.random(1_600) < 0.1, np.nan, generator.random(1_600) < level)
    labels[::60] = 7.0  # no label: as good as none
    matrix = np.column_stack([level, kind])
    fitted = fit_reference(
        TrainingEvents(matrix, scores, labels), [numeric("level"), category("kind", 3)], 16, threshold=0.4
    )
    held = [
        np.array([cell_by_definition(metric, value) for value in values])
        for metric, values in zip(fitted.metrics, [*matrix.T, scores, labels], strict=True)
    ]
    known = np.isfinite(scores) & np.isin(labels, (0, 1))
    wrong = ((scores >= 0.4) != (labels == 1))[known]
    came = held[3][held[3] < 2]
    expected = [
        design_effect(held[0], fitted.metrics[0].size, in_order=True),
        design_effect(held[1], 3, in_order=False),
        design_effect(held[2], fitted.metrics[2].size, in_order=True),
        design_effect(came, 2, in_order=False),
    ]
    assert fitted.errors.effect == pytest.approx(design_effect(wrong.astype(np.int64), 2, in_order=False), rel=1e-9)
    assert fitted.errors.events.tolist() == [0] * 168  # training has no times
    assert fitted.design_effects.tolist() == expected
    assert min(expected) > 1
    for row, cells in enumerate(held):
        for cell in range(fitted.width):
            here = scores[(cells == cell) & np.isfinite(scores)]
            assert fitted.profiles[row, cell] == pytest.approx(here.mean() if len(here) else np.nan, nan_ok=True)
    assert fitted.mean(fitted.training, 2) == pytest.approx(np.nanmean(scores), abs=1e-6)
    assert math.isnan(fitted.mean(fitted.zeros(), 0))
