"""What follows from the numbers of a window: thresholds are exact, and what is unknown is no reason for anything."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.situation import Performance, Predecessor, Situation
from app.core.verdict_words import Change

#: Numbers that floats hold exactly.
WINDOW = Situation(n=1000, n_reference=1000, alpha=1 / 64, least_calibration=1 / 4, least_rate=1 / 4)
EIGHTHS = st.integers(-8, 8).map(lambda n: n / 8)
P_VALUES = st.sampled_from([0.0, 1 / 128, 1 / 64, 1 / 32, math.nan])


def test_without_a_word_nothing_is_known_and_nothing_has_moved() -> None:
    window = Situation(n=1, n_reference=1)
    assert [window.score_moved, window.calibration_moved, window.rate_moved] == [False, False, False]
    assert not replace(window, p_calibration=0.0, calibration_effect=0.0).calibration_moved
    assert (window.better_predecessor, window.features, window.change("score")) == (None, (), None)
    assert (window.alpha, window.least_calibration, window.least_rate, window.fewest) == (0.001, 0.02, 0.02, 200)
    assert window.has_reference
    unknown = (window.score_before, window.score_now, window.p_calibration, window.calibration_effect, window.p_prior)
    assert all(math.isnan(value) for value in (*unknown, window.rate_before, window.rate_now, window.p_conditional))


@given(p_value=P_VALUES, effect=EIGHTHS, distance=st.integers(0, 8).map(lambda n: n / 8))
def test_the_calibration_has_moved_where_it_surely_has_and_far_enough(
    p_value: float, effect: float, distance: float
) -> None:
    window = replace(WINDOW, p_calibration=p_value, calibration_effect=effect, calibration_distance=distance)
    is_far = abs(effect) >= 1 / 4 or distance >= 1 / 4
    assert window.calibration_moved == (p_value < 1 / 64 and is_far)


@given(p_value=P_VALUES, rates=st.tuples(EIGHTHS, EIGHTHS | st.just(math.nan)))
def test_the_rate_has_moved_where_it_surely_has_and_far_enough(p_value: float, rates: tuple[float, float]) -> None:
    window = replace(WINDOW, p_prior=p_value, rate_before=rates[0], rate_now=rates[1])
    assert window.rate_moved == (p_value < 1 / 64 and abs(rates[0] - rates[1]) >= 1 / 4)


@given(p_value=P_VALUES, values=st.tuples(EIGHTHS, EIGHTHS | st.just(math.nan)), is_known=st.booleans())
def test_the_one_before_is_better_where_it_surely_did_better(
    p_value: float, values: tuple[float, float], *, is_known: bool
) -> None:
    before = Predecessor("1.0.0", values[1], p_value, 1)
    performance = Performance("auc", values[0], predecessor=before if is_known else None)
    found = replace(WINDOW, performance=performance).better_predecessor
    assert found == (before if is_known and values[1] > values[0] and p_value < 1 / 64 else None)


@pytest.mark.parametrize(("p_value", "is_better"), [(1 / 128, True), (1 / 64, False)])
def test_a_p_value_that_is_all_the_window_may_spend_is_not_enough(p_value: float, *, is_better: bool) -> None:
    performance = Performance("auc", 0.5, predecessor=Predecessor("1.0.0", 0.75, p_value, 1))
    assert (replace(WINDOW, performance=performance).better_predecessor is not None) == is_better


@pytest.mark.parametrize(("value", "limit", "is_below"), [(0.5, 0.5, False), (0.25, 0.5, True), (0.5, math.nan, False)])
def test_a_measure_is_below_its_limit_and_not_at_it(value: float, limit: float, *, is_below: bool) -> None:
    assert Performance("auc", value, limit).is_below_limit == is_below


def test_features_that_moved_are_told_from_score_and_outcome_the_most_moved_first() -> None:
    kinds = [
        ("a", "numeric", 0.25),
        ("score", "score", 1.0),
        ("b", "category", 0.5),
        ("c", "numeric", 0.25),
        ("outcome", "outcome", 0.75),
    ]
    changes = [Change(*each) for each in kinds]
    window = replace(WINDOW, changes=tuple(changes))
    assert window.features == (changes[2], changes[0], changes[3])
    assert window.change("outcome") is changes[4]
    assert window.score_moved
    assert not replace(WINDOW, changes=tuple(changes[:1])).score_moved
