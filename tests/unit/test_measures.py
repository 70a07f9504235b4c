"""What a tile keeps says what Python's own numbers say, up to the bounds that are stated and not beyond them."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import Floats
from app.core.tiles.cells import EMPTY
from app.core.tiles.measures import (
    LARGEST_VALUE,
    MOST_SQUARES,
    Layout,
    Read,
    evaluate,
    from_ordered,
    measure,
    to_ordered,
)
from app.core.tiles.sightings import Hasher
from schemas.pipeline.spec import Aggregate, WindowSpec

UNIT = Fraction(1, 2**20)
AGGREGATES: tuple[Aggregate, ...] = (
    *("count", "rate", "sum", "mean", "variance", "share", "min", "max", "last", "time_since_last"),
)
numbers = st.one_of(
    st.floats(-1e4, 1e4),
    st.sampled_from([0.0, -0.0, 0.5, math.nan, math.inf, -math.inf, 2.0**41, -(2.0**42), 1e300, 2.0**31 + 0.75]),
)


def window_of(aggregate: Aggregate) -> WindowSpec:
    field = None if aggregate in {"count", "rate", "time_since_last"} else "x"
    return WindowSpec("events", ("card",), 60_000, 1_000, aggregate, field)


def evaluate_all(values: list[float], times_ms: list[int], now_ms: int) -> dict[str, float]:
    """Each aggregate of one window that holds all the values."""
    windows = [window_of(aggregate) for aggregate in AGGREGATES]
    layout = Layout.of(windows)
    made = measure(layout, Hasher(), np.array(times_ms, np.int64), {"x": np.array(values, np.float64)})
    found = {}
    for window in windows:
        column, carried = layout.maximum_of(window), 0
        maximum = EMPTY
        if column is not None and values:
            maximum = int(made.maxima[:, column].max())
            if column < layout.carried:
                newest = np.flatnonzero(made.maxima[:, column] == maximum)[-1]
                carried = int(made.carried[newest, column])
        sums = made.sums.sum(axis=0)[None]
        read = Read(np.array([now_ms]), sums, np.array([maximum]), np.array([carried]))
        found[window.aggregate] = float(evaluate(layout, window, read)[0])
    return found


def to_units(value: float) -> Fraction:
    """As it counts in sums: the nearest of units of 2**-20, at most 2**42."""
    return round(Fraction(min(max(value, -LARGEST_VALUE), LARGEST_VALUE)) / UNIT) * UNIT


@given(st.lists(st.tuples(numbers, st.integers(0, 50_000)), max_size=12))
def test_aggregates_are_those_of_exact_arithmetic(seen: list[tuple[float, int]]) -> None:
    values, times = [value for value, _ in seen], [time for _, time in seen]
    found = evaluate_all(values, times, now_ms=60_000)
    known = [(value, time) for value, time in seen if math.isfinite(value)]
    exact = [to_units(value) for value, _ in known]
    total, n = sum(exact, Fraction(0)), len(known)
    assert found["count"] == len(seen)
    assert found["rate"] == len(seen) / 60
    if abs(total) < 2**43:
        assert found["sum"] == float(total)
        assert found["mean"] == (pytest.approx(float(total / n)) if n else pytest.approx(math.nan, nan_ok=True))
    if n > 1 and n * sum(each * each for each in exact) < Fraction(2**126) * UNIT**2:
        # Rounded once.
        assert found["variance"] == float((n * sum(each * each for each in exact) - total**2) / (n * (n - 1)))
    else:
        assert math.isnan(found["variance"])
    if not n:
        assert all(math.isnan(found[name]) for name in ("share", "min", "max", "last"))
        return
    assert found["share"] == sum(value != 0 for value, _ in known) / n
    assert (found["min"], found["max"]) == (min(value for value, _ in known), max(value for value, _ in known))
    newest = max(time for _, time in known)
    assert found["last"] == [value for value, time in known if time == newest][-1]


def test_a_variance_is_missing_where_a_sum_may_have_left_its_range_and_exact_just_below() -> None:
    assert math.isnan(evaluate_all([2.0**42, 2.0**42], [0, 0], 0)["variance"])
    assert evaluate_all([2.0**41, -(2.0**41)], [0, 0], 0)["variance"] == 2.0**83
    assert evaluate_all([2.0**41, 2.0**41], [0, 0], 0)["variance"] == 0.0


@pytest.mark.parametrize(("n", "is_known"), [(1, False), (2, True), (MOST_SQUARES, True), (MOST_SQUARES + 1, False)])
def test_a_variance_needs_two_values_and_takes_so_many(n: int, is_known: bool) -> None:
    """Of n values, all of them one unit: their sum is n units, and so is the sum of their squares."""
    layout = Layout.of([window_of("variance")])
    sums = np.array([[{"count": n, "known": n, "sum": n, "square_0": n}.get(kind, 0) for kind, _ in layout.sums]])
    read = Read(np.zeros(1, np.int64), sums, np.array([EMPTY]), np.zeros(1, np.int64))
    (found,) = evaluate(layout, window_of("variance"), read).tolist()
    assert found == 0.0 if is_known else math.isnan(found)


@pytest.mark.parametrize(("now_ms", "expected"), [(5_500, 4.5), (1_000, 0.0), (400, 0.0)])
def test_the_time_since_the_last_is_in_seconds_and_not_below_nought(now_ms: int, expected: float) -> None:
    assert evaluate_all([1.0, 2.0], [0, 1_000], now_ms)["time_since_last"] == expected


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_ordered_integers_have_the_order_of_their_floats_and_give_them_back(values: list[float]) -> None:
    floats: Floats = np.array(values)
    ordered = to_ordered(floats)
    assert from_ordered(ordered).tolist() == floats.tolist()
    for one, of_one in zip(values, ordered.tolist(), strict=True):
        for other, of_other in zip(values, ordered.tolist(), strict=True):
            assert (one < other) == (of_one < of_other)
            assert (one == other) == (of_one == of_other)
