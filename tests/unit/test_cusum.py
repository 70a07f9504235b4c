"""The CUSUM is its recursion exactly, however it is cut, and its false alarms are as rare as promised."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from app.core.errors import run_length as run_length_module
from app.core.errors.cusum import UNITS, Cusum
from app.core.errors.detectors import Detection, TrainingErrors, locate_change
from app.core.errors.run_length import Rate, Steps, conjugate_roots, false_alarm_rate, log_likelihood_steps, thresholds

LEARN = 50


def errors(seed: int, *parts: tuple[int, float]) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.random(n) < rate for n, rate in parts]).astype(np.uint8)


def recursion(wrong: np.ndarray, up: list[int], down: list[int], limits: list[int]) -> tuple[int, list[int], list[int]]:
    """The number of events until the alarm (or all), the statistics there, and events since each was at 0."""
    scores, since = [0] * len(up), [0] * len(up)
    for number, bit in enumerate(wrong.tolist(), start=1):
        for row in range(len(up)):
            scores[row] = scores[row] + up[row] if bit else max(0, scores[row] - down[row])
            since[row] = since[row] + 1 if scores[row] else 0
        if any(score >= limit for score, limit in zip(scores, limits, strict=True)):
            return number, scores, since
    return len(wrong), scores, since


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(0, 2**32), st.floats(0.01, 0.9), st.floats(0.2, 3), st.sampled_from([30.0, 1e3, 1e6]))
def test_statistics_are_the_scalar_recursion_to_the_bit(seed: int, rate: float, factor: float, arl: float) -> None:
    wrong = errors(seed, (300, rate), (400, min(1.0, rate * factor)))
    detector = Cusum(TrainingErrors(2_000, int(2_000 * rate), arl))
    down = detector._walk.slope.ravel().tolist()
    up = (detector._walk.jump - detector._walk.slope).ravel().tolist()
    limits = (detector._walk.reach.ravel() + up).tolist()
    n, scores, since = recursion(wrong, up, down, limits)
    detections = detector.observe(wrong)
    if detections:
        which = int(np.argmax([score >= limit for score, limit in zip(scores, limits, strict=True)]))
        assert (detections[0].position, detections[0].n_since) == (n - 1, since[which])
        assert detections[0].statistic == scores[which] / UNITS
        assert detections[0].threshold == limits[which] / UNITS
        assert detections[0].wrong_since == wrong[n - since[which] : n].sum()
        # Before the change: all of the reference, and the stream up to there.
        n_before, wrong_before = 2_000 + n - since[which], int(2_000 * rate) + int(wrong[: n - since[which]].sum())
        assert (detections[0].n_before, detections[0].rate_before) == (n_before, wrong_before / n_before)
    else:
        assert (n, detector._scores.ravel().tolist()) == (len(wrong), scores)
        assert [each.n for each in detector._since] == since


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([0, 20, 5_000]),
    st.sampled_from([0.0, 0.02, 0.2, 0.6, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.lists(st.integers(0, 1_000), max_size=8),
)
def test_batches_may_be_cut_anywhere_and_a_snapshot_taken_between(
    seed: int, n: int, rate: float, factor: float, cuts: list[int]
) -> None:
    wrong = errors(seed, (400, rate), (600, min(1.0, rate * factor)))
    baseline = TrainingErrors(n, int(n * rate), arl_events=500)
    whole, cut = Cusum(baseline, learn=LEARN), Cusum(baseline, learn=LEARN)
    expected = whole.observe(wrong)
    detections: list[Detection] = []
    for part in np.split(wrong, sorted(cuts)):
        detections += cut.observe(part)
        state = json.loads(json.dumps(cut.snapshot()))
        cut = Cusum(baseline, learn=LEARN)
        cut.restore(state)
    assert detections == expected
    assert cut.snapshot() == whole.snapshot()


def exact_run_length(up: float, down: float, threshold: float, rate: float) -> tuple[float, float]:
    """The average run length by the Markov chain on a grid of twelfths of ``down``, and ``up`` on that grid."""
    unit = down / 12
    rise, states = round(up / unit), math.ceil(threshold / unit)
    chain = np.eye(states)
    for state in range(states):
        if state + rise < states:
            chain[state, state + rise] -= rate
        chain[state, max(state - 12, 0)] -= 1 - rate
    return float(np.linalg.solve(chain, np.ones(states))[0]), rise * unit


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.3, 1.5, 2.0])
@pytest.mark.parametrize("p0", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_the_run_length_is_that_of_the_markov_chain(ratio: float, p0: float, factor: float) -> None:
    steps = log_likelihood_steps(p0, np.array([ratio]))
    expected, up = exact_run_length(float(steps.up[0]), float(steps.down[0]), 4.0, p0 * factor)
    rate = false_alarm_rate(Steps(np.array([up]), steps.down), np.array([4.0]), np.array([p0 * factor]))
    assert 0.85 < 1 / float(rate[0]) / expected < 1.03


def test_where_the_mean_step_is_zero_the_run_length_is_the_squared_height_over_the_variance() -> None:
    # Up and down by 1 with p = 1/2: from 0, where a fall is no step, to 9 takes 9 * 10 events.
    rate = false_alarm_rate(Steps(np.ones(1), np.ones(1)), np.array([9.0]), np.array([0.5]))
    assert 1 / float(rate[0]) == pytest.approx(90, rel=0.05)


@pytest.mark.parametrize("effect", [1.0, 4.0])
@pytest.mark.parametrize("rate", [0.05, 0.19, 0.2, 0.21, 0.4])
def test_false_alarms_are_those_of_siegmunds_formula(rate: float, effect: float) -> None:
    """With the height raised by a third of up + down; dependent events have a smaller root and a larger variance."""
    up, down, threshold = 1.6, 0.4, 5.0
    height = threshold + (up + down) / 3
    drift, variance = rate * up - (1 - rate) * down, rate * up**2 + (1 - rate) * down**2
    share = false_alarm_rate(Steps(np.array([up]), np.array([down])), np.array([threshold]), np.array([rate]), effect)
    if abs(drift) < 1e-12:
        assert share[0] == pytest.approx(variance * effect / height**2)
        return
    root = optimize.brentq(
        lambda t: math.log(rate * math.exp(t * up) + (1 - rate) * math.exp(-t * down)) / t,
        *((1e-6, 60.0) if drift < 0 else (-60.0, -1e-6)),
    )
    assert share[0] == pytest.approx(
        root / effect * -drift / (math.exp(root / effect * height) - 1 - root / effect * height)
    )


def test_false_alarms_are_as_many_just_beside_a_mean_step_of_zero() -> None:
    steps, threshold = Steps(np.array([1.6]), np.array([0.4])), np.array([5.0])
    beside = [false_alarm_rate(steps, threshold, np.array([0.2 + by]))[0] for by in (-1e-3, -1e-6, 0.0, 1e-6, 1e-3)]
    assert beside == pytest.approx([beside[2]] * 5, rel=0.03)
    assert np.all(np.diff(beside) > 0)


@pytest.mark.parametrize(("n", "wrong", "effect"), [(99, 19, 1.0), (99, 0, 1.0), (999, 499, 4.0)])
def test_a_rate_is_estimated_with_half_an_error_more_and_its_log_odds_are_normal(
    n: int, wrong: int, effect: float
) -> None:
    rate = Rate.of(n, wrong, effect) if effect > 1 else Rate.of(n, wrong)
    p = (wrong + 0.5) / (n + 1)
    assert rate.log_odds == pytest.approx(math.log(p / (1 - p)))
    assert rate.deviation == pytest.approx(math.sqrt(effect / (n + 1) / p / (1 - p)))
    for deviations in (-1.0, 0.0, 0.5):
        odds = math.exp(rate.log_odds + deviations * rate.deviation)
        assert rate.above(deviations) == pytest.approx(odds / (1 + odds))
    # The mean over what the rate may be, as far as a deviation of 4.5.
    mean, _ = integrate.quad(lambda x: stats.norm.pdf(x) * rate.above(x), -8, 8)
    assert (rate.rates() * run_length_module._WEIGHTS).sum() == pytest.approx(mean, rel=3e-4)


def test_a_threshold_is_out_of_reach_where_no_budget_is_met_and_near_nought_where_any_is() -> None:
    rate = Rate.of(100, 20)
    steps = log_likelihood_steps(rate.above(0), np.array([1.3, 2.0]))
    assert thresholds(steps, rate, np.full(2, 1e-300)) == pytest.approx([10_000.0] * 2, rel=1e-6)
    assert thresholds(steps, rate, np.full(2, 10.0)) == pytest.approx([0.05] * 2, rel=1e-6)
    # Each has its own budget.
    limits = thresholds(steps, rate, np.array([1e-4, 1e-3]))
    assert limits[0] == thresholds(steps, rate, np.full(2, 1e-4))[0]
    assert limits[1] == thresholds(steps, rate, np.full(2, 1e-3))[1]
    alike = thresholds(steps, rate, np.full(2, 1e-3), 4.0)
    for row in range(2):
        one = Steps(steps.up[row : row + 1], steps.down[row : row + 1])
        alarms = false_alarm_rate(one, alike[row : row + 1], rate.rates(), 4.0)
        assert (alarms * run_length_module._WEIGHTS).sum() == pytest.approx(1e-3, rel=1e-5)


@given(st.floats(1e-6, 0.999), st.floats(1.05, 10), st.floats(-8, 8))
def test_the_root_makes_the_moment_one(p0: float, ratio: float, shift: float) -> None:
    steps = log_likelihood_steps(p0, np.array([ratio]))
    rates = np.array([1 / (1 + math.exp(-(math.log(p0 / (1 - p0)) + shift)))])
    (root,) = conjugate_roots(steps, rates)
    assert rates[0] * np.exp(root * steps.up[0]) + (1 - rates[0]) * np.exp(-root * steps.down[0]) == pytest.approx(1)
    drift = rates[0] * steps.up[0] - (1 - rates[0]) * steps.down[0]
    assert root * drift <= 0  # the root of a walk that falls is positive


def test_thresholds_fall_as_the_rate_is_known_better_and_reach_those_of_a_known_rate() -> None:
    ratios, budget = np.array([1.3, 2.0]), np.full(2, 1e-5)
    limits = []
    for n in (1_000, 10_000, 100_000, 100_000_000):
        rate = Rate.of(n, n // 5)
        limits.append(thresholds(log_likelihood_steps(rate.above(0), ratios), rate, budget))
    assert np.all(np.diff(np.array(limits), axis=0) < 0)
    steps = log_likelihood_steps(0.2, ratios)
    assert false_alarm_rate(steps, limits[-1], np.array([0.2, 0.2])) == pytest.approx(budget, rel=0.02)


@pytest.mark.parametrize(("n", "wrong", "effect"), [(2_000, 400, 1.0), (5_000, 100, 3.0)])
def test_steps_are_those_of_half_a_deviation_above_and_thresholds_share_the_budget(
    n: int, wrong: int, effect: float
) -> None:
    """The log odds are normal about the estimate; two alternatives may have 1.2 times half of the budget each."""
    state = Cusum(TrainingErrors(n, wrong, 100_000, effect)).snapshot()
    down, up = np.array(state["slope"]) / UNITS, (np.array(state["jump"]) - state["slope"]) / UNITS
    p = (wrong + 0.5) / (n + 1)
    log_odds, deviation = math.log(p / (1 - p)), math.sqrt(effect / ((n + 1) * p * (1 - p)))
    odds = math.exp(log_odds + deviation / 2)
    p0, p1 = odds / (1 + odds), np.array([1.33, 1.7]) * odds / (1 + np.array([1.33, 1.7]) * odds)
    assert up == pytest.approx(np.log(p1 / p0), abs=1 / UNITS)
    assert down == pytest.approx(np.log((1 - p0) / (1 - p1)), abs=1 / UNITS)
    limits = np.array(state["reach"]) / UNITS + up
    draws = stats.norm.ppf((np.arange(2_000) + 0.5) / 2_000)
    rates = 1 / (1 + np.exp(-(log_odds + deviation * draws)))
    for row in range(2):
        steps = Steps(up[row : row + 1], down[row : row + 1])
        alarms = false_alarm_rate(steps, limits[row : row + 1], rates, effect)
        assert alarms.mean() == pytest.approx(0.6 / 100_000, rel=0.01)


def test_what_was_seen_without_a_change_is_learned_when_it_is_a_seventh_more() -> None:
    wrong = errors(9, (1_000, 0.2))
    learned, kept = (Cusum(TrainingErrors(n, n // 5, 1_000_000)) for n in (2_000, 20_000))
    assert learned.observe(wrong) == kept.observe(wrong) == []
    state = learned.snapshot()
    since_wrong, since = state["since"][0]
    known = 3_000 - since, 400 + int(wrong.sum()) - since_wrong
    assert state["calibrated_n"] == known[0] >= 2_300
    assert kept.snapshot()["calibrated_n"] == 20_000
    afresh = Cusum(TrainingErrors(*known, 1_000_000)).snapshot()
    assert all(state[name] == afresh[name] for name in ("slope", "jump", "reach"))


def run_length(runs: int, n: int, rate: float, n_reference: int, arl: float) -> float:
    """Mean events between false alarms, each run with a reference of its own."""
    generator = np.random.default_rng(7)
    alarms = 0
    for _ in range(runs):
        detector = Cusum(TrainingErrors(n_reference, int(generator.binomial(n_reference, rate)), arl))
        alarms += sum(each.rose for each in detector.observe((generator.random(n) < rate).astype(np.uint8)))
    return runs * n / alarms


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "n_reference"), [(0.2, 2_000), (0.05, 5_000), (0.4, 20_000)])
def test_false_alarms_are_as_rare_as_declared_over_draws_of_the_reference(rate: float, n_reference: int) -> None:
    # About 300 alarms: a deviation of 6 %.
    assert 0.85 < run_length(60, 100_000, rate, n_reference, 20_000) / 20_000 < 1.35


def test_a_rise_is_reported_once_and_a_further_rise_again() -> None:
    wrong = errors(1, (20_000, 0.2), (20_000, 0.3), (20_000, 0.45))
    detections = Cusum(TrainingErrors(2_000, 400, 1_000_000)).observe(wrong)
    assert [each.rose for each in detections] == [True, True]
    assert abs(detections[0].change - 20_000) < 200
    assert abs(detections[1].change - 40_000) < 200
    assert detections[0].rate_before == pytest.approx(0.2, abs=0.01)
    assert detections[1].rate_before == pytest.approx(0.3, abs=0.01)


def test_a_slow_rise_is_not_learned_away() -> None:
    generator = np.random.default_rng(2)
    rates = np.linspace(0.2, 0.35, 60_000)
    assert Cusum(TrainingErrors(2_000, 400, 1_000_000)).observe((generator.random(60_000) < rates).astype(np.uint8))


def test_a_fall_is_no_alarm_and_the_return_to_the_old_rate_is_one() -> None:
    detections = Cusum(TrainingErrors(20_000, 6_000, 1_000_000)).observe(
        errors(3, (10_000, 0.3), (10_000, 0.2), (5_000, 0.3))
    )
    assert [each.rose for each in detections] == [False, True]
    assert detections[1].change == pytest.approx(20_000, abs=200)


@pytest.mark.parametrize("design_effect", [1.0, 3.0])
def test_a_fall_is_as_clear_as_a_chi_square_of_two_rates_says(design_effect: float) -> None:
    detector = Cusum(TrainingErrors(20_000, 6_000, 1_000_000, design_effect))
    (fall,) = detector.observe(errors(3, (10_000, 0.3), (4_000, 0.2)))
    wrong_before = round(fall.rate_before * fall.n_before)
    table = [
        [fall.wrong_since, fall.n_since - fall.wrong_since],
        [wrong_before, fall.n_before - wrong_before],
    ]
    expected = stats.chi2_contingency(table, correction=False).statistic / design_effect
    assert not fall.rose
    assert fall.statistic**2 == pytest.approx(expected)
    assert fall.statistic > fall.threshold
    assert fall.change == fall.position + 1 - fall.n_since
    # All that came before and in training is known of the rate before.
    assert fall.n_before + fall.n_since == 20_000 + fall.position + 1


def test_without_a_reference_the_stream_gives_one_first() -> None:
    detector = Cusum(TrainingErrors(0, 0, 100_000))
    assert detector.observe(np.ones(2_000, np.uint8)) == []
    assert detector.snapshot()["past"] == [2_000, 2_000]


@pytest.mark.slow
def test_a_design_effect_keeps_bursts_of_errors_within_the_budget() -> None:
    # Every error counts four times: the variance of a sum is four times that of independent errors.
    generator = np.random.default_rng(5)
    alarms = {1.0: 0, 4.0: 0}
    for _ in range(20):
        stream = np.repeat((generator.random(25_000) < 0.2).astype(np.uint8), 4)
        for effect in alarms:
            alarms[effect] += len(Cusum(TrainingErrors(20_000, 4_000, 50_000, effect)).observe(stream))
    assert alarms[4.0] <= 40 < alarms[1.0]


@given(st.integers(0, 2**32))
def test_the_change_is_located_where_the_likelihood_is_highest(seed: int) -> None:
    wrong = errors(seed, (30, 0.3), (30, 0.7))

    def log_likelihood(part: np.ndarray) -> float:
        p = part.mean()
        return sum(math.log(p if bit else 1 - p) for bit in part)

    splits = [log_likelihood(wrong[:at]) + log_likelihood(wrong[at:]) for at in range(1, 60)]
    assert splits[locate_change(wrong) - 1] == pytest.approx(max(splits))
