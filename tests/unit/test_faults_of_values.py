"""Each rule of `app.core.faults.values` holds at its bound and not a step before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from app.core.faults.column import Column
from app.core.faults.values import find_in_values
from models.reference import MetricCells

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
    found = kinds(numeric(window, training=training, missing=(of_training, of_window)))
    assert found == [expected] * bool(expected)


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
    [(0.5, 20, True), (0.5, 19, False), (0.9, 130, False), (0.9, 140, True), (0.905, 10_000, False)],
)
def test_a_constant_has_a_value_of_at_most_nine_tenths_and_is_no_chance(share: float, n: int, is_fault: bool) -> None:
    """0.5 to the power 20 and 0.9 to the power 132 are below a millionth."""
    rest = round(100_000 * (1 - share) / 10)
    training = [0, *[rest] * 10, *[0] * 9, 100_000 - 10 * rest, 0]
    window = [0] * 20 + [n, 0]
    found = kinds(numeric(window, (9.7, 9.7), training=training, mean=9.7))
    assert ("constant" in found) == is_fault


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
    found = kinds(numeric(window, extremes, mean=(inner + n * value) / 10_000))
    assert ("stand_in_value" in found) == is_fault


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
    found = kinds(numeric(window[::side].tolist(), extremes, training=training[::side].tolist()))
    assert found == [expected] * bool(expected)
