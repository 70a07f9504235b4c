"""What deciles say of past windows: by scipy's line, by ranks, and in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from app.core.drift.over_time import Past, classic_interval, classic_trend, look_at_interval, look_for_trend
from app.core.drift.statistics.trend import trend

N_PAST = 39
NINE = 9


def past_of(deciles: np.ndarray, current: np.ndarray, reference: np.ndarray | None = None) -> Past:
    """Windows x metrics x 10, and metrics x 10 of the window under test, at times 0, 2, 4, …"""
    times = 2.0 * np.arange(len(deciles) + 1)
    return Past(
        times, deciles, current, np.arange(10.0)[None].repeat(len(current), 0) if reference is None else reference
    )


@pytest.fixture
def noise() -> np.ndarray:
    """40 windows of one metric: deciles 0 to 9, give or take a tenth; the third rises by 0.05 a window."""
    values = np.arange(10.0) + 0.1 * np.random.default_rng(2).normal(size=(N_PAST + 1, 1, 10))
    values[:, 0, 2] += 0.05 * np.arange(N_PAST + 1)
    return values


def test_the_clearest_of_nine_trends_is_told_with_its_size_in_spreads_of_training(noise: np.ndarray) -> None:
    times = 2.0 * np.arange(N_PAST + 1)
    (told,) = look_for_trend(past_of(noise[:-1], noise[-1]), 5)
    line = stats.linregress(times, noise[:, 0, 2])
    dependent = trend(times, noise[:, 0, 2][:, None]).dependent_p_value.item()
    assert told.statistic == pytest.approx(line.slope / line.stderr)
    assert told.p_value == pytest.approx(NINE * dependent)
    assert told.effect == pytest.approx(line.slope * (times[-1] - times[0]) / 8)  # d9 less d1 of the reference
    assert told.note == f"d3 changes by {line.slope:.4g} a window over 40 windows"
    (classic,) = classic_trend(past_of(noise[:-1], noise[-1]), {"minimum_history": 5})
    assert classic.p_value == pytest.approx(line.pvalue)
    assert (classic.effect, classic.note) == (told.effect, told.note)


def test_of_nine_deciles_that_go_nowhere_the_probability_is_one() -> None:
    zigzag = np.arange(10.0) + np.where(np.arange(N_PAST + 1) % 2, 0.1, -0.1)[:, None, None] * np.ones((1, 10))
    (told,) = look_for_trend(past_of(zigzag[:-1], zigzag[-1]), 5)
    assert told.p_value == 1.0


def test_the_largest_value_has_no_part_in_the_calibrated_tests(noise: np.ndarray) -> None:
    noise[:, 0, 2] -= 0.05 * np.arange(N_PAST + 1)
    noise[:, 0, 9] += 3.0 * np.arange(N_PAST + 1)
    (told,) = look_for_trend(past_of(noise[:-1], noise[-1]), 5)
    (classic,) = classic_trend(past_of(noise[:-1], noise[-1]), {"minimum_history": 5})
    assert told.p_value > 0.05
    assert classic.note.startswith("d10 changes by")
    (ranked,) = look_at_interval(past_of(noise[:-1], noise[-1]))
    within = np.median(noise[:, :, :9], axis=0)
    (inside,) = look_at_interval(past_of(noise[:-1], np.append(within, noise[-1, :, 9:], axis=1)))
    assert inside.p_value == 1.0
    assert ranked.least == inside.least == pytest.approx(NINE * 2 / (N_PAST + 1))


def test_deciles_beyond_their_past_are_named_by_side(noise: np.ndarray) -> None:
    current = np.median(noise[:-1], axis=0)
    current[0, [0, 1, 6]] += [-5.0, -6.0, 7.0]
    (told,) = look_at_interval(past_of(noise[:-1], current))
    assert told.note == "d1, d2 below and d7 above the interval of 39 past windows"
    assert told.statistic == 3.0
    assert told.p_value == pytest.approx(NINE * 2 / 40)
    width = noise[:-1, 0, 6].max() - noise[:-1, 0, 6].min()
    outside = current[0, 6] - noise[:-1, 0, 6].max()
    assert told.effect == pytest.approx(outside / (outside + width))
    (classic,) = classic_interval(past_of(noise[:-1], current), {"low": 2.5, "high": 97.5, "minimum_history": 39})
    assert (classic.statistic, classic.p_value, classic.note) == (3.0, 0.0, told.note)
    assert classic.least == 0.0  # it may say so of any past
    (quiet,) = classic_interval(
        past_of(noise[:-1], np.median(noise, axis=0)), {"low": 2.5, "high": 97.5, "minimum_history": 5}
    )
    assert (quiet.statistic, quiet.p_value, quiet.effect, quiet.note) == (0.0, 1.0, 0.0, "")


@pytest.mark.parametrize(("n_past", "needed", "is_told"), [(4, 5, False), (5, 5, True), (2, 2, False), (3, 2, True)])
def test_a_trend_needs_the_history_that_it_was_asked_for_and_three_windows(
    n_past: int, needed: int, is_told: bool
) -> None:
    deciles = np.random.default_rng(3).normal(size=(n_past, 1, 10))
    (told,) = look_for_trend(past_of(deciles, np.zeros((1, 10))), needed)
    (classic,) = classic_trend(past_of(deciles, np.zeros((1, 10))), {"minimum_history": needed})
    assert math.isnan(told.p_value) != is_told
    assert math.isnan(classic.p_value) == (n_past < needed)
    if not is_told:
        assert told.note == f"too little history ({n_past} of {max(needed, 3)} windows)"


def test_a_classic_trend_needs_two_windows_and_an_interval_one() -> None:
    some = np.random.default_rng(3).normal(size=(2, 2, 10))  # two metrics
    now = np.zeros((2, 10))
    told = classic_trend(past_of(some[:1], now), {"minimum_history": 1})
    assert [each.note for each in told] == ["too little history (1 of 2 windows)"] * 2
    assert not any(math.isnan(each.p_value) for each in classic_trend(past_of(some, now), {"minimum_history": 1}))
    assert [each.note for each in look_at_interval(past_of(some[:0], now))] == [
        "too little history (0 of 1 windows)"
    ] * 2
    assert [each.p_value for each in look_at_interval(past_of(some[:1], now))] == [1.0] * 2


def test_each_metric_is_judged_by_the_windows_that_know_it(noise: np.ndarray) -> None:
    three = noise.repeat(3, axis=1)
    three[:10, 1] = np.nan  # known for 29 of the 39
    three[-1, 2, 4] = np.inf  # nothing to compare with now
    first, second, third = look_for_trend(past_of(three[:-1], three[-1]), 30)
    (alone,) = look_for_trend(past_of(noise[:-1], noise[-1]), 30)
    assert first == alone
    assert second.note == "too little history (29 of 30 windows)"
    assert third.note == "no finite values in the window"
    _, known, _ = look_for_trend(past_of(three[:-1], three[-1]), 29)
    line = stats.linregress(2.0 * np.arange(10, N_PAST + 1), noise[10:, 0, 2])
    assert known.statistic == pytest.approx(line.slope / line.stderr)
    assert known.note.endswith("over 30 windows")


def test_segments_side_by_side_are_told_the_same_as_one_after_the_other(noise: np.ndarray) -> None:
    three = noise.repeat(3, axis=1) * np.array([1.0, 2.0, -1.0])[:, None]
    three[:10, 1], three[-1, 2] = np.nan, 30.0
    segments = [past_of(three[:-1], three[-1]), past_of(three[:-1, ::-1] + 1, 0.5 + three[-1, ::-1])]
    together = Past.side_by_side(segments)
    level = {"minimum_history": 5.0, "low": 5.0, "high": 95.0}
    for look in (
        lambda past: look_for_trend(past, 20),
        look_at_interval,
        lambda past: classic_trend(past, level),
        lambda past: classic_interval(past, level),
    ):
        assert look(together) == [each for past in segments for each in look(past)]


def test_a_metric_that_did_not_vary_in_training_has_changed_as_much_as_can_be(noise: np.ndarray) -> None:
    (up,) = look_for_trend(past_of(noise[:-1], noise[-1], np.ones((1, 10))), 5)
    (down,) = look_for_trend(past_of(-noise[:-1], -noise[-1], np.ones((1, 10))), 5)
    assert (up.effect, down.effect) == (1.0, -1.0)
    (narrow,) = look_for_trend(past_of(noise[:-1], noise[-1], np.arange(10.0)[None] / 16), 5)
    (wide,) = look_for_trend(past_of(noise[:-1], noise[-1]), 5)
    assert narrow.effect == pytest.approx(16 * wide.effect)
