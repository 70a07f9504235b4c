"""Each rule of `app.core.faults.values` holds at its bound and not a step before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from app.core.faults.column import Column
from app.core.faults.values import find_in_values
from models.reference.reference import MetricCells

#: Twenty cells between 0 and 10, and one below and above.
EDGES = np.linspace(0.0, 10.0, 21)
EVEN = [0, *[5_000] * 20, 0]


def kinds(column: Column) -> list[str]:
    return [fault.kind for fault in find_in_values(column)]


def numeric(
    window: Sequence[int],
    extremes: tuple[float, float] = (0.0, 10.0),
    *,
    training: Sequence[int] = EVEN,
    missing: tuple[int, int] = (0, 0),
    trained: tuple[float, float] = (0.0, 10.0),
    mean: float = 5.0,
    design_effect: float = 1.0,
) -> Column:
    """Counts per cell of training and window, how many of either are missing, and their extremes."""
    cells = MetricCells("x", "numeric", EDGES)
    before, now = missing
    return Column(
        cells, np.array([*training, before]), np.array([*window, now]), trained, extremes, mean, design_effect
    )


def category(training: Sequence[int], window: Sequence[int]) -> Column:
    """Counts per value, "unseen" and "missing" last."""
    cells = MetricCells("k", "category", np.empty(0), codes=len(training) - 1)
    return Column(cells, np.array(training), np.array(window), (0.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize(
    ("of_training", "of_window", "expected"),
    [
        # Of 100 000 and of 10 000 events. Five percent more:
        (0, 500, "missing_values"),
        (0, 499, ""),
        # At three times the odds, 1 : 4 and 3 : 4:
        (20_000, 4_286, "missing_values"),
        (20_000, 4_285, ""),
        # A twentieth of at least five percent:
        (20_000, 100, "missing_values_filled"),
        (20_000, 101, ""),
        (5_000, 25, "missing_values_filled"),
        (4_999, 24, ""),
    ],
)
def test_missing_values(of_training: int, of_window: int, expected: str) -> None:
    training = [0, *[(100_000 - of_training) // 20] * 19, 0, 0]
    training[20] = 100_000 - of_training - sum(training)
    window = [0, *[(10_000 - of_window) // 20] * 19, 0, 0]
    window[20] = 10_000 - of_window - sum(window)
    fault_kinds = kinds(numeric(window, training=training, missing=(of_training, of_window)))
    assert fault_kinds == [expected] * bool(expected)


@pytest.mark.parametrize(("of_training", "of_window", "moved"), [(20_000, 100, 0.19), (20_000, 5_000, 0.3)])
def test_missing_values_are_as_strong_as_the_share_of_events_that_moved(
    of_training: int, of_window: int, moved: float
) -> None:
    """From 20 % to 1 %, and from 20 % to 50 %."""
    training = [0, *[(100_000 - of_training) // 20] * 20, 0]
    window = [0, *[(10_000 - of_window) // 20] * 20, 0]
    (fault,) = find_in_values(numeric(window, training=training, missing=(of_training, of_window)))
    assert fault.strength == pytest.approx(moved)


@pytest.mark.parametrize(
    ("of_training", "n", "is_fault"), [(0, 20, True), (0, 19, False), (5_263, 20, True), (5_264, 20, False)]
)
def test_all_missing_needs_twenty_events_and_less_than_five_percent_before(
    of_training: int, n: int, is_fault: bool
) -> None:
    # Ten of them count as one, so that it might be chance: but a source that fails, fails for all.
    column = numeric([0] * 22, (np.nan, np.nan), missing=(of_training, n), mean=np.nan, design_effect=10.0)
    assert kinds(column) == ["missing_values"] * is_fault


@pytest.mark.parametrize(("n", "expected"), [(100, "infinite_values"), (99, "")])
def test_infinite_values_are_one_percent_of_the_values(n: int, expected: str) -> None:
    window = [0, *[495] * 20, n]
    window[1] += 10_000 - sum(window)
    assert kinds(numeric(window, (0.0, np.inf), mean=np.nan)) == [expected] * bool(expected)
    assert kinds(numeric(window[::-1], (-np.inf, 10.0), mean=np.nan)) == [expected] * bool(expected)


@pytest.mark.parametrize(
    ("share", "n", "is_fault"),
    [(0.5, 20, True), (0.5, 19, False), (0.9, 130, False), (0.9, 140, True), (0.98, 700, True), (0.985, 10_000, False)],
)
def test_a_constant_has_a_value_of_at_most_98_percent_and_is_no_chance(share: float, n: int, is_fault: bool) -> None:
    """0.5 to the power 20 and 0.9 to the power 132 are below a millionth."""
    rest = round(100_000 * (1 - share) / 10)
    training = [0, *[rest] * 10, *[0] * 9, 100_000 - 10 * rest, 0]
    window = [0] * 20 + [n, 0]
    fault_kinds = kinds(numeric(window, (9.7, 9.7), training=training, mean=9.7))
    assert ("constant" in fault_kinds) == is_fault


@pytest.mark.parametrize(
    ("extremes", "is_fault"),
    [((20.0, 30.0), False), ((20.1, 30.0), True), ((-30.0, -10.0), False), ((-30.0, -10.1), True)],
)
def test_values_are_out_of_range_by_more_than_its_width(extremes: tuple[float, float], is_fault: bool) -> None:
    cell = 21 if extremes[0] > 0 else 0
    window = [0] * 22
    window[cell] = 1_000
    assert ("out_of_range" in kinds(numeric(window, extremes, mean=sum(extremes) / 2))) == is_fault


@pytest.mark.parametrize(
    ("value", "n", "is_fault"),
    [
        (12.6, 1_000, True),
        (12.5, 1_000, False),
        (12.6, 500, True),
        (12.6, 499, False),
        (-2.6, 500, True),
        (-2.5, 500, False),
    ],
)
def test_a_stand_in_is_five_percent_of_one_value_beyond_a_quarter_of_the_range(
    value: float, n: int, is_fault: bool
) -> None:
    rest = (10_000 - n) // 20
    window = [0, *[rest] * 20, 0]
    window[21 if value > 0 else 0] = n
    window[10] += 10_000 - sum(window)
    inner = float(np.array(window[1:21]) @ (EDGES[:-1] + EDGES[1:]) / 2)
    extremes = (0.0, value) if value > 0 else (value, 10.0)
    fault_kinds = kinds(numeric(window, extremes, mean=(inner + n * value) / 10_000))
    assert ("stand_in_value" in fault_kinds) == is_fault


@pytest.mark.parametrize(
    ("training", "window", "expected"),
    [
        ([60_000, 40_000, 0, 0], [5_700, 3_800, 500, 0], "vocabulary_changed"),
        ([60_000, 40_000, 0, 0], [5_701, 3_800, 499, 0], ""),
        ([59_000, 40_000, 1_000, 0], [5_700, 3_800, 500, 0], "vocabulary_changed"),  # five times as many
        ([58_900, 40_000, 1_100, 0], [5_700, 3_800, 500, 0], ""),
        ([95_000, 5_000, 0, 0], [300, 0, 0, 0], "category_vanished"),  # 0.95 to the power 270 is below a millionth
        ([95_000, 5_000, 0, 0], [260, 0, 0, 0], ""),
        ([95_001, 4_999, 0, 0], [10_000, 0, 0, 0], ""),
        ([95_000, 5_000, 0, 0], [299, 1, 0, 0], ""),
    ],
)
def test_a_category_changes_its_vocabulary_or_loses_a_value(
    training: list[int], window: list[int], expected: str
) -> None:
    assert kinds(category(training, window)) == [expected] * bool(expected)


@pytest.mark.parametrize(("beyond", "expected"), [(1, "clipped"), (3, "clipped"), (10, "clipped"), (11, ""), (0, "")])
@pytest.mark.parametrize("side", [1, -1])
def test_a_clip_holds_what_was_beyond_it_and_that_is_five_percent_to_a_half(
    beyond: int, expected: str, side: int
) -> None:
    """What training had in the last ``beyond`` cells, of 5 % each, stands at the end of the cell before them."""
    clipped_at = 20 - beyond
    training = np.array([4_000, *[5_000] * (clipped_at - 1), 1_000, *[5_000] * beyond, 0] if beyond else EVEN)
    window = training // 10
    window[clipped_at] += window[clipped_at + 1 :].sum()
    window[clipped_at + 1 :] = 0
    top = float(EDGES[clipped_at])
    extremes = (0.0, top) if side > 0 else (10.0 - top, 10.0)
    fault_kinds = kinds(numeric(window[::side].tolist(), extremes, training=training[::side].tolist()))
    assert fault_kinds == [expected] * bool(expected)


def stand_in(p: float, q: float, n: int, width: float = 0.111, moved: float = 0.0) -> list[str]:
    """A narrow cell among twenty had a share ``p`` and has ``q``; of the others, ``moved`` goes from below to above.

    The middle eight tenths of training are between 1 and 8.5, so that 0.1125 is narrow.
    """
    edges = np.insert(EDGES, 11, 5.0 + width)
    others = np.array([0.0, 0.06, *[0.05] * 9, 0.0, *[0.05] * 9, 0.04, 0.0])
    training = np.rint(100_000 * (1 - p) * others)
    training[11] = 100_000 * p
    now = (1 - q) * others
    now[[1, 2]] -= (1 - q) * moved / 2
    now[[19, 20]] += (1 - q) * moved / 2
    now[11] = q
    counts = [np.append(np.rint(each).astype(np.int64), 0) for each in (training, now * n)]
    return kinds(Column(MetricCells("x", "numeric", edges), *counts, (0.0, 10.0), (0.0, 10.0), 5.0))


@pytest.mark.parametrize(
    ("p", "q", "n", "more", "is_fault"),
    [
        (0.0, 0.05, 10_000, {}, True),
        (0.0, 0.0499, 10_000, {}, False),
        (0.02, 0.1, 10_000, {}, True),  # five times two percent
        (0.02, 0.0999, 10_000, {}, False),
        (0.021, 0.5, 10_000, {}, False),
        (0.0, 0.9, 10_000, {}, True),
        (0.0, 0.9001, 10_000, {}, False),
        (0.0, 0.2, 10_000, {"width": 0.114}, False),
        (0.0, 0.2, 10_000, {"moved": 0.0595}, True),  # 0.05 and a hundredth
        (0.0, 0.2, 10_000, {"moved": 0.0605}, False),
        (0.02, 0.1, 100, {}, False),  # ten where two are due: 3e-5 by chance
        (0.0, 0.2, 100, {}, True),
        (0.0, 0.2, 95, {}, False),
    ],
)
def test_a_stand_in_is_a_narrow_cell_that_fills_while_the_others_stay(
    p: float, q: float, n: int, more: dict[str, float], is_fault: bool
) -> None:
    assert ("stand_in_value" in stand_in(p, q, n, **more)) == is_fault


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("mean_of_outer", "is_fault"), [(14.1, True), (13.9, False), (15.9, True), (16.1, False)])
def test_a_far_value_is_one_when_the_mean_says_that_hardly_any_other_is_in_its_cell(
    mean_of_outer: float, is_fault: bool, side: int
) -> None:
    """15 is 5 beyond the range: what is in its cell is 15 in the mean, but for a fifth of that."""
    window = np.array([0, *[450] * 20, 1_000])
    mean = 0.9 * 5.0 + 0.1 * mean_of_outer
    extremes = (0.0, 15.0) if side > 0 else (-5.0, 10.0)
    column = numeric(window[::side].tolist(), extremes, mean=mean if side > 0 else 10.0 - mean)
    assert kinds(column) == ["stand_in_value"] * is_fault


@pytest.mark.parametrize(("n", "is_fault"), [(9_000, True), (9_001, False)])
def test_a_far_value_of_more_than_nine_tenths_stands_for_nothing(n: int, is_fault: bool) -> None:
    window = [0, *[(10_000 - n) // 20] * 20, n]
    window[10] += 10_000 - sum(window)
    inner = float(np.array(window[1:21]) @ (EDGES[:-1] + EDGES[1:]) / 2)
    fault_kinds = kinds(numeric(window, (0.0, 15.0), mean=(inner + n * 15.0) / 10_000))
    assert ("stand_in_value" in fault_kinds) == is_fault


@pytest.mark.parametrize(
    ("p", "q", "moved", "n", "is_fault"),
    [
        (1_000, 0.11, 0, 1_000, True),
        (2_000, 0.12, 0, 1_000, True),
        (2_100, 0.121, 0, 1_000, False),  # more than two percent before
        (1_000, 0.11, 0, 100, True),
        (1_000, 0.11, 0, 99, False),
        (1_000, 0.11, 0.0595, 10_000, True),
        (1_000, 0.11, 0.0605, 10_000, False),
    ],
)
@pytest.mark.parametrize("side", [1, -1])
def test_a_clip_is_a_sharp_end_below_which_shares_are_as_they_were(  # noqa: PLR0917  # a table's columns
    p: int, q: float, moved: float, n: int, is_fault: bool, side: int
) -> None:
    """Cells 1 to 17 are even, the 18th holds ``p`` of 100 000, and ten percent beyond it come to it."""
    training = np.array([0, *[(90_000 - p) // 17] * 17, p, 5_000, 5_000, 0])
    training[5] += 100_000 - training.sum()
    now = training / 100_000
    now[18] = q
    now[[19, 20]] = 0.0
    now[[1, 2]] -= moved / 2
    now[[16, 17]] += moved / 2
    window = np.rint(now / now.sum() * n).astype(np.int64)
    window[5] += n - window.sum()
    extremes = (0.0, 9.0) if side > 0 else (1.0, 10.0)
    fault_kinds = kinds(numeric(window[::side].tolist(), extremes, training=training[::side].tolist()))
    assert fault_kinds == ["clipped"] * is_fault


def test_a_fault_is_as_strong_as_the_share_of_values_that_it_is_about() -> None:
    half = [0, *[2_500] * 10, *[0] * 9, 75_000, 0]
    columns = {
        "constant": (numeric([0] * 20 + [100, 0], (9.7, 9.7), training=half, mean=9.7), 1 - 0.75),
        "infinite_values": (numeric([0, *[450] * 20, 1_000], (0.0, np.inf), mean=np.nan), 0.1),
        "out_of_range": (numeric([0] * 21 + [100], (20.1, 30.0), mean=25.0), 1.0),
        "stand_in_value": (numeric([0, *[450] * 20, 1_000], (0.0, 15.0), mean=0.9 * 5 + 1.5), 0.1),
        "clipped": (numeric([400, *[500] * 16, 100 + 1_500, 0, 0, 0, 0], (0.0, 8.5)), 1_600 / 10_000 - 0.01),
        "vocabulary_changed": (category([59_000, 40_000, 1_000, 0], [5_700, 3_300, 1_000, 0]), 0.1 - 0.01),
        "category_vanished": (category([60_000, 30_000, 10_000, 0, 0], [1_000, 0, 0, 0, 0]), 0.4),
    }
    trained = [4_000, *[5_000] * 16, 1_000, *[5_000] * 3, 0]
    columns["clipped"] = (numeric([400, *[500] * 16, 2_600 - 1_000, *[0] * 4], (0.0, 8.5), training=trained), 0.15)
    for kind, (column, expected) in columns.items():
        (fault,) = find_in_values(column)
        assert fault.kind == kind
        assert fault.strength == pytest.approx(expected, abs=1e-9), kind


def test_of_values_that_vanished_the_three_most_frequent_are_named_by_what_is_known_of_them() -> None:
    training = [10_000, 20_000, 10_000, 30_000, 30_000, 0, 0]
    column = category(training, [0, 0, 0, 0, 1_000, 0, 0])
    (fault,) = find_in_values(replace(column, values=["AA", "B6", "DL"], events="flights"))
    assert fault.sentence == (
        "None of the flights has `k` of code 3 (30 % in training) and 'B6' (20 % in training) "
        "and 'AA' (10 % in training)."
    )
    assert fault.strength == pytest.approx(0.7)


def test_of_values_that_were_as_frequent_the_first_codes_are_named() -> None:
    (fault,) = find_in_values(category([*[5_000] * 20, 0, 0], [*[0] * 19, 1_000, 0, 0]))
    named = " and ".join(f"of code {code} (5.0 % in training)".replace("5.0", "5") for code in range(3))
    assert fault.sentence == f"None of the events has `k` {named}."


def test_where_training_had_no_value_at_all_only_those_that_fill_in_are_told() -> None:
    assert kinds(category([0, 0, 0, 1_000], [0, 0, 500, 0])) == ["missing_values_filled"]
    assert kinds(category([0, 0, 0, 0], [0, 0, 500, 0])) == []


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ([50_000, 40_000, 10_000, 0], "in 10 % of events that are none of the model's; 1 % in training."),
        ([0, 0, 10_000, 0], "in all events that are none of the model's; 1 % in training: they may be written in "),
    ],
)
def test_only_where_all_values_are_unknown_may_they_be_written_in_another_way(window: list[int], words: str) -> None:
    (fault,) = find_in_values(category([59_000, 40_000, 1_000, 0], window))
    assert fault.sentence.startswith(f"`k` has values {words}")


@pytest.mark.parametrize(("effect", "expected"), [(10.0, ["missing_values"]), (200.0, [])])
def test_missing_values_count_as_the_independent_events_that_they_are(effect: float, expected: list[str]) -> None:
    """From 2 % to 20 %, which is 40 of 200 events, or 2 of 10."""
    training = [0, *[4_900] * 20, 0]
    column = numeric([0, *[80] * 20, 0], training=training, missing=(2_000, 400), design_effect=effect)
    assert kinds(column) == expected


def test_what_training_has_not_seen_may_be_one_of_the_next() -> None:
    """Nine values of training: a tenth may be anything; two of a share 0 are a hundredth by chance."""
    column = category([9, 0, 0, 0], [2, 0, 0, 0])
    assert column.chance(0.0) == pytest.approx(0.01)
    assert column.chance(0.5) == pytest.approx(0.55**2)
    assert replace(column, design_effect=2.0).chance(0.0) == pytest.approx(0.1)
    assert replace(column, design_effect=0.5).n_effective == 2


@pytest.mark.parametrize(("n", "cells", "is_shaped"), [(100, 10, True), (99, 10, False), (100, 9, False)])
def test_a_shape_takes_a_hundred_values_and_ten_cells(n: int, cells: int, is_shaped: bool) -> None:
    training = [*[10] * cells, *[0] * (22 - cells)]
    assert numeric([n, *[0] * 21], training=training).is_shaped == is_shaped
    assert numeric([2 * n, *[0] * 21], training=training, design_effect=2.0).is_shaped == is_shaped


# -- one metric in training and in the window --------------------------------------------------------------------------


def column_of(training: Sequence[int], window: Sequence[int], effect: float = 1.0) -> Column:
    """Counts per cell, "missing" last."""
    cells = MetricCells("x", "numeric", np.arange(len(training) - 2.0))
    return Column(cells, np.array(training), np.array(window), (0.0, 1.0), (0.0, 1.0), 0.5, effect)


def test_shares_are_of_the_values_that_are_not_missing() -> None:
    column = column_of([10, 20, 30, 40], [4, 0, 6, 10], 2.5)
    assert (column.name, column.n_training, column.n, column.n_effective) == ("x", 60, 10, 4.0)
    assert column_of([10, 20, 30, 40], [4, 0, 6, 10], 0.5).n_effective == 10
    before, now = column.shares
    assert before == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert now == pytest.approx([0.4, 0.0, 0.6])
    single, nothing = column_of([1, 0, 0, 0], [0, 1, 0, 0]).shares, column_of([0, 0, 0, 5], [0, 0, 0, 5]).shares
    assert [side.tolist() for side in single] == [[1, 0, 0], [0, 1, 0]]
    assert [side.tolist() for side in nothing] == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("n", "effect", "n_cells", "is_shaped"),
    [(100, 1.0, 10, True), (99, 1.0, 10, False), (250, 2.5, 10, True), (249, 2.5, 10, False), (100, 1.0, 9, False)],
)
def test_a_hundred_values_and_ten_cells_make_a_shape(n: int, effect: float, n_cells: int, is_shaped: bool) -> None:
    training = [*[5] * n_cells, *[0] * (12 - n_cells), 7]
    assert column_of(training, [n, *[0] * 11, 500], effect).is_shaped == is_shaped


@pytest.mark.parametrize(
    ("now", "n", "effect", "is_more"),
    [
        # None of 900 in training: each of those now is one of a hundred by a chance of a tenth, and two sides count.
        (7, 100, 1.0, True),
        (6, 100, 1.0, False),
        (7, 100, 0.5, True),
        (6, 100, 0.5, False),
        (14, 200, 2.0, True),
        (12, 200, 2.0, False),
        # 6.5 events are six.
        (13, 200, 2.0, False),
    ],
)
def test_a_cell_holds_more_when_that_is_no_chance_of_one_in_a_million(
    now: int, n: int, effect: float, is_more: bool
) -> None:
    assert column_of([900, 0, 0, 3], [n - now, now, 0, 50], effect).is_more(1) == is_more


def test_training_may_miss_what_one_value_more_would_have_shown() -> None:
    assert column_of([9, 0, 0, 5], [2, 0, 0, 9]).chance(0.5) == pytest.approx((0.5 + 0.5 / 10) ** 2)
    assert column_of([9, 0, 0, 5], [8, 0, 0, 9], 4.0).chance(0.25) == pytest.approx((0.25 + 0.75 / 10) ** 2)
    assert column_of([9, 0, 0, 5], [8, 0, 0, 9]).chance(1.0) == 1.0


@pytest.mark.parametrize(
    ("n", "effect", "moved", "is_unchanged"),
    [(400, 1.0, 0.0999, True), (400, 1.0, 0.1001, False), (1_600, 4.0, 0.0999, True), (1_600, 4.0, 0.1001, False)],
)
def test_shares_below_any_point_are_unchanged_within_a_twentieth_and_noise(
    n: int, effect: float, moved: float, is_unchanged: bool
) -> None:
    column = column_of([1, 1, 1, 0], [n, 0, 0, 9], effect)
    before = np.array([0.25, 0.5, 0.25])
    for away in ([moved, 0, -moved], [-moved, 0, moved], [0, -moved, moved], [moved, -moved, 0]):
        assert column.is_unchanged(before, before + np.array(away)) == is_unchanged
    assert column_of([1, 1, 1, 0], [0, 0, 0, 9]).is_unchanged(before, np.array([0.0, 0.0, 1.0]))
    assert column.is_unchanged(np.zeros(0), np.zeros(0))
