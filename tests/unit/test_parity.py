"""Served values against values computed anew: by the definition, however they are cut."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.core.replay.parity import KEEP, TOLERANCE, DifferentRow, FeatureParity

NAN = float("nan")
VALUES = st.sampled_from([NAN, 0.0, -0.0, 1.0, 1.0 + 1e-12, 1.001, -1.0, 1e9, 1e9 + 1, 1e9 + 1e7, 3e-12])


def is_same(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    if not tolerance:
        return one.hex() == other.hex()
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))


@given(st.lists(st.lists(st.tuples(VALUES, VALUES), max_size=6), max_size=5), st.sampled_from([0.0, 1e-9, 1e-3, 0.01]))
def test_what_differs_is_counted_measured_and_named(parts: list[list[tuple[float, float]]], tolerance: float) -> None:
    parity = FeatureParity("f", tolerance)
    different, apart = [], [0.0]
    for partition, rows in enumerate(parts):
        served, computed = (np.array([row[side] for row in rows], np.float64) for side in (0, 1))
        parity.add(partition, np.arange(len(rows), dtype=np.int64) + 40, served, computed)
        for at, (one, other) in enumerate(rows):
            if not (math.isnan(one) and math.isnan(other)):
                distance = abs(one - other)
                apart.append(math.inf if math.isnan(distance) else distance)
            if not is_same(one, other, tolerance):
                values = (None if math.isnan(value) else value for value in (one, other))
                different.append(DifferentRow(partition, at + 40, *values))
    assert parity.rows == sum(map(len, parts))
    assert parity.different == len(different)
    assert parity.first == different[:KEEP]
    assert parity.largest == max(apart)
    assert parity.is_equal == (not different)


def test_a_tolerance_is_of_the_value_and_absolute_below_one() -> None:
    served = np.array([1_000.0, 1_000.0, -1_000.0, 0.5, 0.5])
    computed = np.array([1_009.0, 1_011.0, -991.0, 0.509, 0.4])
    assert FeatureParity("f", 0.01).is_same(served, computed).tolist() == [True, False, True, True, False]
    assert KEEP == 5
    # Of the larger of the two, whichever side and sign it has.
    near, far = np.array([100.0, -100.0, 0.5, 0.5]), np.array([101.005, -101.005, 0.509, 0.515])
    for served, computed in ((near, far), (far, near)):
        assert FeatureParity("f", 0.01).is_same(served, computed).tolist() == [True, True, True, False]
        assert not FeatureParity("f").is_same(served, computed).any()
    one = np.array([1.0, 1.0])
    assert FeatureParity("f", TOLERANCE).is_same(one, one + np.array([9e-10, 1.5e-9])).tolist() == [True, False]


def test_missing_is_missing_whatever_its_bits_and_equals_nothing_else() -> None:
    served = np.array([NAN, -NAN, NAN, math.inf, 1.0])
    computed = np.array([NAN, NAN, math.inf, NAN, NAN])
    for tolerance in (0.0, 0.01):
        assert FeatureParity("f", tolerance).is_same(served, computed).tolist() == [True, True, False, False, False]
