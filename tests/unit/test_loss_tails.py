"""A p-value of doing worse is as small as it says, also of three positives and at one in a thousand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.loss_tails import MEASURES, find_lower_tail, find_p_of_losses, law_of_means

#: A false negative costs as much as twenty false positives.
COSTS = (1.0, 20.0)


def make_calibration(
    rate: np.ndarray, events: int = 10**9, effects: dict[str, float] | None = None, threshold: int | None = None
) -> Calibration:
    """Scores that mean what they say, by so large a reference that nothing about them is uncertain."""
    positive = np.round(events * rate).astype(np.int64)
    cell = len(rate) // 2 if threshold is None else threshold
    return fit_calibration(np.array([events - positive, positive]), cell, rate, effects or {}, COSTS)


def outcomes_of(n: np.ndarray, positive: np.ndarray) -> np.ndarray:
    return np.array([n - positive, positive])


def test_accuracy_in_one_cell_is_binomial() -> None:
    """All 300 decisions are yes, and right in 7 of 10 cases."""
    calibration = make_calibration(np.array([0.7]), threshold=0)
    for right in (150, 170, 185, 195, 200, 205):
        p_value = find_p_of_losses(calibration, outcomes_of(np.array([300]), np.array([right])))["accuracy"]
        assert p_value == pytest.approx(stats.binom.cdf(right, 300, 0.7), rel=0.08)


def test_precision_and_recall_are_binomial_where_all_scores_above_mean_the_same() -> None:
    """Of 300 positive decisions, 2 in 5 right; and of the positives, 3 in 4 due above the threshold."""
    rate, n = np.array([0.04, 0.4]), np.array([1_000, 300])
    calibration = make_calibration(rate)
    for right in (80, 90, 100, 110):
        p_values = find_p_of_losses(calibration, outcomes_of(n, np.array([40, right])))
        assert p_values["precision"] == pytest.approx(stats.binom.cdf(right, 300, 0.4), rel=0.08)
        assert p_values["recall"] == pytest.approx(stats.binom.cdf(right, 40 + right, 0.75), rel=0.08)


def test_a_cost_has_the_exact_law_of_its_labels() -> None:
    """A missed positive costs 20, a wrong alarm 1: the cost is 20 x + (30 - y) of two binomial numbers."""
    rate, n = np.array([0.05, 0.5]), np.array([200, 30])
    calibration = make_calibration(rate)
    missed, right = np.meshgrid(np.arange(201), np.arange(31), indexing="ij")
    chances = stats.binom.pmf(missed, 200, 0.05) * stats.binom.pmf(right, 30, 0.5)
    costs = 20 * missed + 30 - right
    for x, y in ((14, 15), (17, 13), (20, 15), (23, 12)):
        p_value = find_p_of_losses(calibration, outcomes_of(n, np.array([x, y])))["cost"]
        worse, as_bad = (float(chances[costs > 20 * x + 30 - y - way].sum()) for way in (0, 1))
        assert 0.75 * worse <= p_value <= 1.3 * as_bad


def test_log_loss_has_the_exact_law_of_its_labels() -> None:
    """Of 3 cells with 40 labels in all, each number of positives that there may be."""
    n, rate = np.array([20, 14, 6]), np.array([0.02, 0.1, 0.4])
    calibration = make_calibration(rate)
    weights = np.log((1 - rate) / rate)
    chances, losses, numbers = [], [], []
    for some in itertools.product(*(range(each + 1) for each in n)):
        chances.append(float(np.prod(stats.binom.pmf(some, n, rate))))
        losses.append(float(weights @ np.array(some)))
        numbers.append(some)
    of_all, order = np.array(losses), np.argsort(losses)[::-1]
    exact = np.cumsum(np.array(chances)[order])
    for tail in (0.1, 0.01, 0.001, 0.0001):
        at = order[int(np.searchsorted(exact, tail))]
        p_value = find_p_of_losses(calibration, outcomes_of(n, np.array(numbers[at])))["log_loss"]
        worse, as_bad = (float(np.array(chances)[of_all > of_all[at] + way * 1e-9].sum()) for way in (1, -1))
        assert 0.8 * worse <= p_value <= 1.25 * as_bad


@pytest.mark.parametrize("n_positive", [1, 2, 3])
def test_the_auc_of_few_positives_has_the_exact_law_of_their_places(n_positive: int) -> None:
    """Among ten thousand negatives, which leave nothing to chance."""
    cells = 40
    odds = np.exp(np.linspace(-4, 4, cells)) * 3e-6
    rate = odds / (1 + odds)
    n = np.full(cells, 250_000 // cells)
    calibration = make_calibration(rate)
    chances = rate / rate.sum()
    places = (np.arange(cells) + 0.5) / cells
    combinations = list(itertools.combinations_with_replacement(range(cells), n_positive))
    weights = [
        math.factorial(n_positive)
        / math.prod(math.factorial(each) for each in np.bincount(some))
        * float(np.prod(chances[list(some)]))
        for some in combinations
    ]
    areas = [float(places[list(some)].mean()) for some in combinations]
    order = np.argsort(areas)
    exact = np.cumsum(np.array(weights)[order])
    for tail in (0.05, 0.01, 0.002):
        at = int(np.searchsorted(exact, tail))
        positive = np.bincount(combinations[order[at]], minlength=cells)
        p_value = find_p_of_losses(calibration, outcomes_of(n + positive, positive))["auc"]
        assert p_value == pytest.approx(exact[at], rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "n"), [(0.01, 300), (0.01, 3_000), (0.3, 300), (0.98, 400)])
def test_where_nothing_has_changed_a_p_value_is_as_seldom_small_as_it_says(base: float, n: int) -> None:
    generator = np.random.default_rng(5)
    log_odds = np.linspace(-4, 4, 60)
    shift = next(each for each in np.linspace(-12, 12, 4_001) if (1 / (1 + np.exp(-log_odds - each))).mean() >= base)
    rate = 1 / (1 + np.exp(-log_odds - shift))
    calibration, runs = make_calibration(rate), 2_000
    p_values_by_measure: dict[str, list[float]] = {name: [] for name in MEASURES}
    for _ in range(runs):
        events = generator.multinomial(n, np.full(60, 1 / 60))
        for name, p_value in find_p_of_losses(
            calibration, outcomes_of(events, generator.binomial(events, rate))
        ).items():
            p_values_by_measure[name].append(p_value)
    for p_values in p_values_by_measure.values():
        for level in (0.05, 0.01):
            false = int((np.array(p_values) < level).sum())
            assert false <= runs * level + 4 * math.sqrt(runs * level)


@pytest.mark.slow
@pytest.mark.parametrize(("n_reference", "n"), [(5_000, 10_000), (20_000, 10_000), (5_000, 2_000)])
def test_a_reference_of_few_positives_is_taken_to_know_little(n_reference: int, n: int) -> None:
    """Of one in a hundred; what is asked is half of the level, as alerts do."""
    generator = np.random.default_rng(6)
    odds = np.exp(np.linspace(-4, 4, 60)) * 0.0023
    rate = odds / (1 + odds)
    runs, false = 600, dict.fromkeys(MEASURES, 0)
    for _ in range(runs):
        known = generator.multinomial(n_reference, np.full(60, 1 / 60))
        calibration = fit_calibration(outcomes_of(known, generator.binomial(known, rate)), 30, rate, {}, COSTS)
        events = generator.multinomial(n, np.full(60, 1 / 60))
        for name, p_value in find_p_of_losses(
            calibration, outcomes_of(events, generator.binomial(events, rate))
        ).items():
            false[name] += p_value < 0.005
    assert max(false.values()) <= runs * 0.01 + 3 * math.sqrt(runs * 0.01)


def test_labels_that_err_together_are_as_many_as_count() -> None:
    """Four times as many labels of the same shares, of which four count as one."""
    rate = np.array([0.01, 0.05, 0.2, 0.6])
    n, positive = np.array([400, 300, 200, 100]), np.array([10, 20, 40, 45])
    alone = find_p_of_losses(make_calibration(rate), outcomes_of(n, positive))
    effects = {"auc": 4.0, "accuracy": 4.0, "log_loss": 4.0}
    together = find_p_of_losses(make_calibration(rate, effects=effects), outcomes_of(4 * n, 4 * positive))
    assert alone["auc"] < 0.01
    assert together["auc"] == pytest.approx(alone["auc"], rel=1e-3)
    assert together["log_loss"] == pytest.approx(alone["log_loss"], rel=1e-3)
    assert together["accuracy"] == pytest.approx(alone["accuracy"], rel=0.2)  # of steps a quarter as long


def test_what_is_better_than_promised_is_no_loss_and_what_is_not_determined_has_no_p_value() -> None:
    rate = np.array([0.1, 0.9])
    calibration = make_calibration(rate)
    better = find_p_of_losses(calibration, outcomes_of(np.array([100, 100]), np.array([2, 98])))
    assert better == dict.fromkeys(MEASURES, 1.0)
    for counts in ([0, 0], [100, 0], [0, 100]):
        of_one = find_p_of_losses(calibration, np.array([[counts[0], 0], [counts[1], 0]]))
        assert math.isnan(of_one["auc"])
        assert math.isnan(of_one["log_loss"]) == (sum(counts) == 0)
    unknown = fit_calibration(np.array([[5, 5], [0, 0]]), 1, rate)
    assert all(math.isnan(each) for each in find_p_of_losses(unknown, np.array([[5, 5], [1, 1]])).values())


def test_far_from_what_is_promised_it_is_nought_and_not_wrong() -> None:
    rate = np.linspace(0.01, 0.99, 50)
    n = np.full(50, 10_000)
    turned = find_p_of_losses(make_calibration(rate), outcomes_of(n, np.round(n * rate[::-1]).astype(int)))
    assert all(0 <= p_value < 1e-100 for p_value in turned.values())


@pytest.mark.parametrize("n", [0.4, 1.0, 2.0, 20.0])
def test_a_tail_holds_what_is_further_away_and_all_that_are_so_low(n: float) -> None:
    """Of means of very few values that lean to one side: the mean is as low where all are."""
    chances, values = np.array([0.001, 0.01, 0.989]), np.array([-30.0, -5.0, 0.0])
    law = law_of_means([(n, chances, values)], 0.0, 0.0)
    mean = float(chances @ values)
    away = np.array([0.1, 0.3, 1.0, 3.0, 4.9, 10.0, 25.0])
    tails = np.array([find_lower_tail(mean - each, law) for each in away])
    as_low = np.array([float(chances[values <= mean - each].sum()) ** max(n, 1.0) for each in away])
    assert (tails >= 0.35 * np.maximum.accumulate(tails[::-1])[::-1]).all()
    assert (tails[1:] >= 0.5 * as_low[1:]).all()
    assert (tails > 0).all()
