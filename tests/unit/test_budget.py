"""How a window spends its part of the budget of false alarms: the procedure from its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.drift.budget import MOST_ALPHA, OF_ERRORS, OF_WINDOWS, alpha_of_window, of_windows, spend
from schemas.pipeline.spec import FalseAlarms

DAY_MS = 86_400_000
#: p-values in steps, so that some are just at a threshold; NaN: not testable.
P_VALUES = st.lists(
    st.tuples(st.integers(0, 64).map(lambda n: n / 1024) | st.floats(0, 1) | st.just(math.nan), st.integers(1, 4)),
    max_size=10,
)


@given(found=P_VALUES, alpha=st.sampled_from([1 / 32, 1 / 8, 0.05]))
def test_as_many_are_rejected_as_can_be_each_below_its_share_of_that_many_times_the_budget(
    found: list[tuple[float, int]], alpha: float
) -> None:
    p_values, weights = (
        np.array(column, dtype=np.float64) for column in (zip(*found, strict=True) if found else ([], []))
    )
    spent = spend(p_values, weights, alpha)
    known = ~np.isnan(p_values)
    shares = weights / weights[known].sum() if known.any() else weights

    def would_reject(count: int) -> int:
        return int((p_values[known] <= alpha * count * shares[known] * (1 + 1e-12)).sum())

    n = max((count for count in range(1, int(known.sum()) + 1) if would_reject(count) >= count), default=0)
    assert int(spent.rejected.sum()) == n
    expected = np.where(known, alpha * max(n, 1) * shares, np.nan)
    np.testing.assert_allclose(spent.threshold, expected, rtol=1e-12)
    assert spent.rejected.tolist() == (p_values <= spent.threshold).tolist()
    assert spent.rejected.dtype == bool


def test_a_hypothesis_of_twice_the_weight_may_have_twice_as_much() -> None:
    spent = spend(np.array([0.01, math.nan, 0.04]), np.array([1.0, 5.0, 3.0]), 0.04)
    assert spent.rejected.tolist() == [True, False, True]
    np.testing.assert_array_equal(spent.threshold, [0.02, math.nan, 0.06])
    np.testing.assert_array_equal(spend(np.array([0.5, 0.6]), np.array([1.0, 3.0]), 0.04).threshold, [0.01, 0.03])


def test_a_p_value_that_is_just_what_it_may_be_is_rejected() -> None:
    assert spend(np.array([1 / 64]), np.ones(1), 1 / 64).rejected.tolist() == [True]
    assert spend(np.array([1 / 32, 1 / 32]), np.ones(2), 1 / 32).rejected.tolist() == [True, True]
    assert spend(np.array([1 / 32, 1.0]), np.ones(2), 1 / 32).rejected.tolist() == [False, False]


@pytest.mark.parametrize(
    ("budget", "share", "every_ms", "n_events", "expected"),
    [
        (FalseAlarms(1, per_ms=30 * DAY_MS), 1.0, DAY_MS, 10**9, 1 / 30),
        (FalseAlarms(2, per_ms=100 * DAY_MS), 0.5, 3 * DAY_MS, 0, 0.03),
        (FalseAlarms(3, per_events=10**6), 0.5, 10 * DAY_MS, 20_000, 0.03),
        (FalseAlarms(1, per_events=1000), 1.0, 1, 49, 0.049),
        (FalseAlarms(1, per_events=1000), 1.0, 1, 51, MOST_ALPHA),
        (FalseAlarms(1, per_ms=DAY_MS), 1.0, 2 * DAY_MS, 0, MOST_ALPHA),
    ],
)
def test_a_window_gets_its_part_of_the_time_or_of_the_events(
    budget: FalseAlarms, share: float, every_ms: float, n_events: int, expected: float
) -> None:
    assert alpha_of_window(budget, share, every_ms, n_events) == pytest.approx(expected)


def test_what_detectors_do_not_spend_is_for_windows() -> None:
    found = [
        of_windows(has_labels=a, has_detectors=b)
        for a, b in ((False, False), (False, True), (True, True), (True, False))
    ]
    assert found == pytest.approx([1.0, 1.0, OF_WINDOWS, OF_WINDOWS + OF_ERRORS])
    assert found == pytest.approx([1.0, 1.0, 0.3, 0.7])
