"""With a rate by the hour the CUSUM is its recursion exactly, keeps to the budget, and finds changes as fast."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import expit, logit

from app.core.errors.cusum import ODDS_RATIOS, UNITS, Cusum
from app.core.errors.detectors import Detection, HourlyRate, TrainingErrors
from models.reference.error_hours import fit_error_hours, hours_of

DAY_MS = 86_400_000
PER_DAY = 2_000
#: The log odds of an error: a wave over the day that is highest at three in the night.
WAVE = np.tile(np.cos(2 * np.pi * (np.arange(24) + 0.5 - 3) / 24), 7)


def draw(
    generator: np.random.Generator,
    days: int,
    rate: float,
    wave: float,
    more: float = 0.0,
    *,
    hours: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """Errors and their hours; ``more`` log odds in those ``hours`` of the day."""
    times = np.sort(generator.integers(0, days * DAY_MS, days * PER_DAY))
    added = np.zeros(24)
    added[hours] = more
    log_odds = logit(rate) + wave * np.cos(2 * np.pi * (times % DAY_MS / DAY_MS - 1 / 8))
    wrong = generator.random(len(times)) < expit(log_odds + added[times % DAY_MS // 3_600_000])
    return wrong.astype(np.uint8), hours_of(times).astype(np.uint8)


def baseline(rate: float = 0.2, wave: float = 1.0, *, n: int = 40_000, arl: float = 1e6) -> TrainingErrors:
    """What endless training would know of hours, from ``n`` events."""
    events = np.full(168, n // 168)
    expected = events * expit(logit(rate) + wave * WAVE)
    return TrainingErrors(int(events.sum()), round(float(expected.sum())), arl, 1.0, HourlyRate(events, wave * WAVE))


def recursion(wrong: np.ndarray, p0: np.ndarray, ratio: float, limit: float) -> tuple[int, float, int]:
    """Events until the alarm, the statistic there, and events since it was at 0: in floats, from the likelihood."""
    score, since = 0.0, 0
    for number, (bit, p) in enumerate(zip(wrong.tolist(), p0.tolist(), strict=True), start=1):
        p1 = ratio * p / (1 - p + ratio * p)
        score = max(score + (math.log(p1 / p) if bit else math.log((1 - p1) / (1 - p))), 0.0)
        since = since + 1 if score else 0
        if score >= limit:
            return number, score, since
    return len(wrong), score, since


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.02, 0.2, 0.5]), st.sampled_from([0.0, 0.6]))
def test_statistics_are_those_of_the_likelihood_at_each_hour(seed: int, rate: float, more: float) -> None:
    wrong, hours = draw(np.random.default_rng(seed), 1, rate, 1.0, more)
    wrong, hours = wrong[:990], hours[:990]  # before p0 is looked at again
    known = baseline(rate, arl=1_000)
    detector = Cusum(known)
    (detection, *_) = [*detector.observe(wrong, hours), None]
    # Training had just the errors that the level of `rate` makes one expect; half a deviation of that level is caution.
    rates = expit(logit(rate) + WAVE)
    assert known.hourly is not None
    deviation = 1 / math.sqrt(float(known.hourly.events @ (rates * (1 - rates))))
    p0 = expit(logit(rate) + deviation / 2 + WAVE)
    state = Cusum(known).snapshot()
    kinds = np.unique(WAVE, return_inverse=True)[1]
    first_limits = (np.array(state["reach"]) + np.repeat(state["jump"], kinds.max() + 1) - state["slope"]) / UNITS
    limits = first_limits.reshape(2, -1)
    assert np.ptp(limits, axis=1).max() < 3 / UNITS  # the same at all hours
    ends = [recursion(wrong, p0[hours], ratio, limits[row, 0]) for row, ratio in enumerate(ODDS_RATIOS)]
    if detection is None:
        assert [each.n for each in detector._since] == [since for _, _, since in ends]
        scores = (detector._scores.ravel() / UNITS).tolist()
        assert scores == pytest.approx([score for _, score, _ in ends], abs=0.02)  # half a pseudo-count of the level
        return
    n, score, since = min(ends, key=lambda end: end[0])
    assert detection.position == pytest.approx(n - 1, abs=25)
    assert detection.n_since == pytest.approx(since, abs=25)
    assert detection.statistic == pytest.approx(score, abs=0.6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 20, 5_000]),
    st.sampled_from([0.02, 0.2, 0.6]),
    st.sampled_from([-1.5, 0.0, 0.8]),
    st.lists(st.integers(0, 2_000), max_size=8),
)
@pytest.mark.slow
def test_batches_may_be_cut_anywhere_and_a_snapshot_taken_between(
    seed: int, n: int, rate: float, more: float, cuts: list[int]
) -> None:
    wrong, hours = draw(np.random.default_rng(seed), 1, rate, 1.0, more, hours=slice(12, 24))
    known = baseline(rate, n=max(n, 168), arl=500)
    whole, cut = Cusum(known, learn=200), Cusum(known, learn=200)
    expected = whole.observe(wrong, hours)
    detections: list[Detection] = []
    for bits, at in zip(np.split(wrong, sorted(cuts)), np.split(hours, sorted(cuts)), strict=True):
        detections += cut.observe(bits, at)
        state = json.loads(json.dumps(cut.snapshot()))
        cut = Cusum(known, learn=200)
        cut.restore(state)
    assert detections == expected
    assert cut.snapshot() == whole.snapshot()


def test_hours_that_do_not_differ_change_nothing() -> None:
    wrong, hours = draw(np.random.default_rng(1), 10, 0.2, 0.0, 0.3, hours=slice(0, 12))
    events = np.full(168, 100)
    flat = Cusum(TrainingErrors(16_800, 3_360, 20_000))
    alike = Cusum(TrainingErrors(16_800, 3_360, 20_000, 1.0, HourlyRate(events, np.zeros(168))))
    expected, detections = flat.observe(wrong, hours), alike.observe(wrong, hours)
    assert len(expected) > 1
    assert [each.position for each in detections] == [each.position for each in expected]
    assert [each.rate_before for each in detections] == pytest.approx([each.rate_before for each in expected])


def test_hours_are_wanted_where_rates_differ_and_nowhere_else() -> None:
    wrong = np.zeros(10, np.uint8)
    assert Cusum(TrainingErrors(16_800, 3_360, 20_000)).observe(wrong) == []
    with pytest.raises(ValueError, match="give the hour of each event"):
        Cusum(baseline()).observe(wrong)


def test_the_rate_before_is_that_of_the_hours_since() -> None:
    """At night twice as many are wrong as by day: of a change at night, the nights say how it was before."""
    generator = np.random.default_rng(2)
    quiet, at = draw(generator, 20, 0.2, 1.0)
    worse, then = draw(generator, 1, 0.2, 1.0, 1.0)
    (detection,) = Cusum(baseline(n=100_000)).observe(np.append(quiet, worse), np.append(at, then))
    assert detection.change == pytest.approx(20 * PER_DAY, abs=150)
    usual = expit(logit(0.2) + WAVE)[np.append(at, then)[detection.change : detection.position + 1]].mean()
    assert usual > 0.3
    assert detection.rate_before == pytest.approx(usual, abs=0.01)


def test_a_fall_at_all_hours_is_followed_and_nights_after_days_are_none() -> None:
    generator = np.random.default_rng(3)
    quiet = draw(generator, 30, 0.2, 1.2)
    fewer = draw(generator, 5, 0.2, 1.2, -0.7)
    more = draw(generator, 5, 0.2, 1.2)
    stream = [np.concatenate(parts) for parts in zip(quiet, fewer, more, strict=True)]
    detections = Cusum(baseline(wave=1.2)).observe(*stream)
    assert [each.rose for each in detections] == [False, True]
    assert detections[0].change == pytest.approx(30 * PER_DAY, abs=2_000)
    assert 35 * PER_DAY < detections[1].position < 36 * PER_DAY


def fitted(generator: np.random.Generator, rate: float, wave: float, arl: float, *, by_hour: bool = True) -> Cusum:
    """A detector that knows of hours what twenty days of training show."""
    times = np.sort(generator.integers(0, 20 * DAY_MS, 20 * PER_DAY))
    log_odds = logit(rate) + wave * np.cos(2 * np.pi * (times % DAY_MS / DAY_MS - 1 / 8))
    wrong = generator.random(len(times)) < expit(log_odds)
    errors = fit_error_hours(wrong, times)
    hourly = HourlyRate(errors.events, errors.log_odds) if errors.differ and by_hour else None
    return Cusum(TrainingErrors(len(wrong), int(wrong.sum()), arl, errors.effect, hourly))


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "wave"), [(0.2, 0.0), (0.2, 1.15), (0.02, 0.7)])
def test_quiet_streams_alarm_no_more_often_than_declared_whatever_their_day(rate: float, wave: float) -> None:
    """About 60 alarms are declared; without hours the same streams alarm many times as often."""
    alarms = {True: 0, False: 0}
    for seed in range(20):
        for by_hour in (True, False) if wave else (True,):
            seeded = np.random.default_rng(seed)
            detector = fitted(seeded, rate, wave, 20_000, by_hour=by_hour)
            detections = detector.observe(*draw(seeded, 30, rate, wave))
            alarms[by_hour] += sum(each.rose for each in detections)
    declared = 20 * 30 * PER_DAY / 20_000
    assert 0.3 * declared < alarms[True] < 1.4 * declared
    if wave:
        assert alarms[False] > 2 * alarms[True]


@pytest.mark.slow
def test_a_rise_at_all_hours_is_found_about_as_fast_as_without_a_cycle() -> None:
    """Odds of 1.5 times, from the beginning of a day on, after twenty quiet days."""
    delays: dict[float, list[int]] = {0.0: [], 1.15: []}
    for seed in range(60):
        for wave, of_wave in delays.items():
            generator = np.random.default_rng(seed)
            detector = fitted(generator, 0.2, wave, 500_000)
            quiet, worse = draw(generator, 20, 0.2, wave), draw(generator, 8, 0.2, wave, math.log(1.5))
            rises = [each for each in detector.observe(*map(np.append, quiet, worse)) if each.rose]
            late = [each.position - 20 * PER_DAY for each in rises if each.position >= 20 * PER_DAY]
            of_wave.append(late[0] if late else 8 * PER_DAY)
    flat, waving = (float(np.mean(of_wave)) for of_wave in delays.values())
    assert waving < 1.3 * flat


@pytest.mark.slow
def test_a_rise_at_night_alone_is_found() -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        detector = fitted(generator, 0.2, 1.0, 500_000)
        quiet, worse = draw(generator, 10, 0.2, 1.0), draw(generator, 8, 0.2, 1.0, math.log(2), hours=slice(0, 7))
        rises = [each for each in detector.observe(*map(np.append, quiet, worse)) if each.rose]
        first = next(each for each in rises if each.position >= 10 * PER_DAY)
        assert first.position < 14 * PER_DAY


def level_of(events: np.ndarray, wrong: int) -> float:
    """The level of the log odds, beside the wave, of so many errors."""
    return float(optimize.brentq(lambda level: float(events @ expit(level + WAVE)) - wrong, -20, 20))


@pytest.mark.parametrize("fewer", [-0.25, -0.4, -0.8])
def test_a_fall_is_followed_where_one_of_two_levels_is_as_clear_as_told(fewer: float) -> None:
    """The errors of each 2 000 events against what those before make one expect at just these hours."""
    generator, known = np.random.default_rng(9), baseline(n=100_000)
    quiet, worse = draw(generator, 4, 0.2, 1.0), draw(generator, 6, 0.2, 1.0, fewer)
    wrong, hours = map(np.append, quiet, worse)
    assert known.hourly is not None
    before, errors, expected = known.hourly.events.copy(), known.wrong, (0, 0.0)
    for stop in range(2_000, len(wrong) + 1, 2_000):
        block, here = np.bincount(hours[stop - 2_000 : stop], minlength=168), int(wrong[stop - 2_000 : stop].sum())
        rates = expit(level_of(before + block, errors + here) + WAVE)
        ours, theirs = (float(each @ (rates * (1 - rates))) for each in (block, before))
        usual = float(block @ expit(level_of(before, errors) + WAVE))
        statistic = (usual - here) / math.sqrt(ours * (1 + ours / theirs))
        if statistic > 4.5:
            expected = stop - 1, statistic
            break
        before, errors = before + block, errors + here
    falls = [each for each in Cusum(known).observe(wrong, hours) if not each.rose]
    assert falls[0].position == expected[0]
    assert falls[0].statistic == pytest.approx(expected[1], rel=1e-6)
