"""Hours differ where that is sure, as far as it is, and errors depend on each other beyond them alone."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from models.reference.as_json import from_json, to_json
from models.reference.dependence import Span, effect_of_residuals
from models.reference.error_hours import HOURS, ErrorHours, find_level, fit_error_hours, hours_of
from models.reference.fit import fit_reference
from models.reference.training_events import TrainingEvents, numeric

DAY_MS = 86_400_000
MONDAY_MS = 4 * DAY_MS


def draw(
    seed: int, days: int, per_day: int, rate: float, *, wave: float = 0.0, sunday: float = 0.0, burst: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Errors, and when: log odds with a wave over the day that is highest at three, more of them on Sundays."""
    generator = np.random.default_rng(seed)
    times = np.sort(generator.integers(0, days * DAY_MS, days * per_day)) + MONDAY_MS
    log_odds = logit(rate) + wave * np.cos(2 * np.pi * (times % DAY_MS / DAY_MS - 1 / 8))
    log_odds = log_odds + sunday * (times // DAY_MS % 7 == 3)
    shared = np.repeat(generator.random(len(times) // burst + 1), burst)[: len(times)]
    return shared < expit(log_odds), times


@given(st.integers(-(10**13), 10**14))
def test_the_hour_of_the_week_is_that_of_the_calendar(time_ms: int) -> None:
    at = dt.datetime(1970, 1, 1) + dt.timedelta(milliseconds=time_ms)  # noqa: DTZ001  # UTC
    assert hours_of(np.array([time_ms])).tolist() == [24 * at.weekday() + at.hour]


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(-6, 6)), min_size=1, max_size=168),
    st.floats(0.001, 0.999),
)
def test_at_the_level_as_many_errors_are_expected_as_there_were(cells: list[tuple[int, float]], share: float) -> None:
    events, log_odds = np.array([n for n, _ in cells]), np.array([odds for _, odds in cells])
    n = int(events.sum())
    wrong = round(share * n)
    level = find_level(events, wrong, log_odds)
    if 0 < wrong < n:
        assert float(events @ expit(level + log_odds)) == pytest.approx(wrong, rel=1e-9)
    else:
        assert level == (-np.inf if wrong == 0 else np.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "burst"), [(0.2, 1), (0.01, 1), (0.2, 50)])
def test_hours_of_a_stream_without_a_cycle_do_not_differ(rate: float, burst: int) -> None:
    fits = [fit_error_hours(*draw(seed, 20, 2_000, rate, burst=burst)) for seed in range(40)]
    assert not any(each.differ for each in fits)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "wave"), [(0.2, 0.3), (0.02, 0.7)])
def test_hours_of_a_daily_cycle_differ_as_it_does(rate: float, wave: float) -> None:
    hours = np.arange(24)
    # The mean over each hour of the curve, up to its level.
    true = wave * np.cos(2 * np.pi * ((hours + 0.5) / 24 - 1 / 8))
    missed = []
    for seed in range(10):
        wrong, times = draw(seed, 20, 5_000, rate, wave=wave)
        error_hours = fit_error_hours(wrong, times)
        assert error_hours.differ
        assert (
            error_hours.log_odds.reshape(7, 24) == error_hours.log_odds[:24]
        ).all()  # three weeks say nothing of days
        odds = error_hours.log_odds[:24]
        missed.append(odds - odds.mean() - true + true.mean())
        # Nearer to the truth than the counts of the hours are.
        counts = [np.bincount(times[rows] // 3_600_000 % 24, minlength=24) for rows in (wrong, slice(None))]
        raw = logit(np.clip(counts[0] / counts[1], 1e-6, 1))
        assert np.std(missed[-1]) < np.std(raw - true)
    assert np.abs(np.mean(missed, axis=0)).max() < 0.06


def test_two_days_say_nothing_of_hours_and_three_weeks_nothing_of_days() -> None:
    assert not fit_error_hours(*draw(1, 2, 20_000, 0.2, wave=1.5)).differ
    assert not fit_error_hours(*draw(1, 21, 2_000, 0.2, sunday=1.0)).differ
    assert fit_error_hours(*draw(1, 3, 20_000, 0.2, wave=1.5)).differ


def test_days_of_the_week_differ_where_training_shows_it_for_certain() -> None:
    error_hours = fit_error_hours(*draw(2, 42, 2_000, 0.2, wave=0.5, sunday=0.6))
    by_day = error_hours.log_odds.reshape(7, 24).mean(axis=1)
    assert by_day.argmax() == 6
    assert by_day[6] - by_day[:6].mean() == pytest.approx(0.6, abs=0.1)
    assert np.ptp(error_hours.log_odds[:24]) == pytest.approx(1.0, abs=0.2)


def test_counts_are_those_of_the_hours() -> None:
    wrong, times = draw(3, 10, 500, 0.3)
    error_hours = fit_error_hours(wrong, times)
    for hour in range(HOURS):
        here = [at for at, time_ms in enumerate(times.tolist()) if (time_ms - MONDAY_MS) // 3_600_000 % HOURS == hour]
        assert (error_hours.events[hour], error_hours.wrong[hour]) == (len(here), wrong[here].sum())


def test_a_cycle_is_no_dependence_and_bursts_are_one_beside_it() -> None:
    """Twenty events that share their chance count as one; the wave alone makes the naive figure that large."""
    cycle = fit_error_hours(*draw(4, 20, 2_000, 0.2, wave=1.0))
    assert 1.05 <= cycle.effect < 1.25  # what hours are taken for has an error of its own: 1 in 20
    wrong, _ = draw(4, 20, 2_000, 0.2, wave=1.0)
    assert effect_of_residuals(wrong - wrong.mean()) > 5
    both = fit_error_hours(*draw(5, 20, 2_000, 0.2, wave=1.0, burst=20))
    assert both.differ
    assert both.effect == pytest.approx(20, rel=0.3)


def test_what_differs_between_windows_counts_where_they_are_known() -> None:
    generator = np.random.default_rng(6)
    days = 30
    rates = np.repeat(expit(logit(0.2) + 0.4 * generator.standard_normal(days)), 1_000)
    wrong = generator.random(len(rates)) < rates
    span = Span(np.arange(len(rates)) // 1_000, np.arange(len(rates)) % 1_000 / 1_000)
    by_day = wrong.reshape(days, 1_000).sum(axis=1)
    expected = by_day.var(ddof=1) / (1_000 * wrong.mean() * (1 - wrong.mean()))
    assert fit_error_hours(wrong, None, span).effect > expected > 3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_decisions_that_are_all_right_or_all_wrong_have_no_hours(share: float) -> None:
    times = np.arange(5_000) * 600_000
    error_hours = fit_error_hours(np.full(5_000, share == 1.0), times)
    assert (error_hours.differ, error_hours.effect) == (False, 1.0)
    assert error_hours.events.sum() == 5_000
    assert not fit_error_hours(np.zeros(0, bool), times[:0]).events.any()


def test_errors_at_one_hour_alone_give_numbers_that_a_reference_may_have() -> None:
    times = np.arange(30 * 24 * 20) * 180_000
    wrong = times // 3_600_000 % 24 == 4
    error_hours = fit_error_hours(wrong, times)
    assert error_hours.differ
    assert np.isfinite(error_hours.log_odds).all()
    assert np.abs(error_hours.log_odds).max() <= 42
    assert error_hours.log_odds[:24].argmax() == 4


def test_events_at_some_hours_alone_are_compared_among_themselves() -> None:
    """A shop that is open from nine to five, with more errors in the last hour."""
    generator = np.random.default_rng(7)
    times = np.sort(generator.integers(0, 40 * DAY_MS, 120_000))
    times = times[(times // 3_600_000 % 24 >= 9) & (times // 3_600_000 % 24 < 17)]
    wrong = generator.random(len(times)) < np.where(times // 3_600_000 % 24 == 16, 0.4, 0.2)
    odds = fit_error_hours(wrong, times).log_odds[:24]
    assert odds[16] - odds[9:16].mean() == pytest.approx(logit(0.4) - logit(0.2), abs=0.15)
    assert not odds[:9].any()
    assert not odds[17:].any()


def test_a_reference_keeps_the_hours_of_its_errors() -> None:
    wrong, times = draw(8, 20, 1_000, 0.2, wave=1.0)
    generator = np.random.default_rng(8)
    is_positive = generator.random(len(wrong)) < 0.5
    scores = np.where(is_positive != wrong, 0.9, 0.1)
    labels = is_positive.astype(np.float64)
    labels[::10], scores[::7] = np.nan, np.nan
    known = ~np.isnan(labels) & ~np.isnan(scores)
    fitted = fit_reference(TrainingEvents(scores[:, None], scores, labels, times_ms=times), [numeric("x")], 16)
    again = from_json(to_json(fitted))
    expected = fit_error_hours(wrong[known], times[known])
    for reference in (fitted, again):
        assert vars(reference.errors).keys() == vars(expected).keys()
        for name, value in vars(expected).items():
            assert np.array_equal(getattr(reference.errors, name), value), name
    assert again.errors.wrong.sum() == again.training.n_labels - again.training.n_correct
    assert to_json(again) == to_json(fitted)
    assert not ErrorHours.none().differ


@pytest.mark.slow
def test_chance_makes_hours_differ_in_no_more_than_one_training_of_a_thousand() -> None:
    """Of 300 trainings with bursts of half an hour, whose neighbours are alike, none or one."""
    n_differing = sum(fit_error_hours(*draw(seed, 12, 480, 0.2, burst=10)).differ for seed in range(300))
    assert n_differing <= stats.binom.isf(1e-3, 300, 1e-3)


def test_dependence_too_weak_to_be_found_counts_as_it_is_estimated() -> None:
    """Of forty events in a row the chance is an eighth higher or lower: blocks of twenty vary by a twelfth more."""
    effects: dict[float, list[float]] = {0.0: [], 0.13: []}
    for seed in range(30):
        generator = np.random.default_rng(seed)
        for height, of_height in effects.items():
            rates = 0.2 * (1 + height * np.repeat(generator.choice([-1, 1], 1_024), 40))
            wrong = generator.random(len(rates)) < rates
            of_height.append(effect_of_residuals(wrong.astype(np.float64) - 0.2))
    independent, weak = (float(np.mean(of_height)) for of_height in effects.values())
    assert 1 <= independent < 1.03
    assert weak == pytest.approx(1 + 19 * 0.25 * 0.13**2, abs=0.03)
