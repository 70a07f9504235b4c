"""Performance from counts is performance from events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.measures import auc, auc_range, hanley_mcneil_variance, least_loss, loss_of, measure, wilson
from models.reference.counting import count_outcomes
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.training_events import TrainingEvents, numeric
from models.reference.units import COUNT_UNITS


def make_reference(training_scores: np.ndarray, threshold: float = 0.5, bins: int = 128) -> Reference:
    n = len(training_scores)
    return fit_reference(
        TrainingEvents(np.zeros((n, 1)), training_scores, np.zeros(n)), [numeric("x")], bins, threshold
    )


def count_labelled(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> Counts:
    return count_outcomes(make_reference(np.array([0.1, 0.9]), threshold), scores, labels)


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(2, 400))
def test_auc_is_sklearns_exactly_on_binned_scores_and_closely_on_raw_ones(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.random(n)
    labels = (generator.random(n) < scores).astype(float)
    labels[:2] = 0, 1
    reference = make_reference(np.array([0.1, 0.9]))
    cells = reference.metrics[-2].edges.searchsorted(scores, side="right")
    area = auc(count_outcomes(reference, scores, labels).outcomes)
    assert area == pytest.approx(metrics.roc_auc_score(labels, cells), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("crowding", [1, 100])
@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_auc_of_raw_scores_is_met_within_a_thousandth(crowding: int, moved: float) -> None:
    """Even of scores that crowd near nought, as those of rare frauds do, or that have moved where there were none."""
    generator = np.random.default_rng(11)
    reference = make_reference(generator.beta(1.5, 6 * crowding, 20_000))
    scores = generator.beta(1.5, 6 * crowding, 50_000) + moved * generator.random(50_000)
    labels = (generator.random(50_000) < scores / scores.max()).astype(float)
    area = auc(count_outcomes(reference, scores, labels).outcomes)
    assert area == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-3)


def test_log_loss_and_accuracy_are_sklearns() -> None:
    generator = np.random.default_rng(12)
    scores = generator.uniform(0.01, 0.99, 3_000)
    labels = (generator.random(3_000) < scores).astype(float)
    measures = {each.name: each for each in measure(count_labelled(scores, labels, 0.3))}
    assert measures["log_loss"].realised == pytest.approx(metrics.log_loss(labels, scores), abs=1e-6)
    assert measures["accuracy"].realised == pytest.approx(metrics.accuracy_score(labels, scores >= 0.3))
    assert measures["accuracy"].low < measures["accuracy"].realised < measures["accuracy"].high
    assert measures["auc"].low < measures["auc"].realised < measures["auc"].high


def test_precision_recall_and_cost_are_sklearns() -> None:
    generator = np.random.default_rng(13)
    rate = np.array([0.05, 0.2, 0.5, 0.8])
    cells = generator.integers(0, 4, 4_000)
    labels, decided = generator.random(4_000) < rate[cells], cells >= 2
    counts = Counts.zeros(3, 4, 4)
    counts.outcomes[:] = [np.bincount(cells[labels == label], minlength=4) for label in (0, 1)]
    measures = {each.name: each for each in measure(counts, make_calibration(rate))}
    assert measures["precision"].realised == pytest.approx(metrics.precision_score(labels, decided))
    assert measures["recall"].realised == pytest.approx(metrics.recall_score(labels, decided))
    cost = (1.0 * (decided & ~labels) + 20.0 * (~decided & labels)).mean()
    assert measures["cost"].realised == pytest.approx(cost)
    for each in (measures["precision"], measures["recall"], measures["cost"]):
        assert each.low < each.realised < each.high
    assert (measures["precision"].low, measures["precision"].high) == pytest.approx(
        wilson(measures["precision"].realised, int(decided.sum()))
    )
    nobody = {each.name: each for each in measure(Counts.zeros(3, 4, 4), make_calibration(rate))}
    assert all(math.isnan(each.realised) and math.isnan(each.low) for each in nobody.values())


@pytest.mark.slow
@pytest.mark.parametrize(("base", "n"), [(0.01, 10_000), (0.2, 1_000)])
def test_the_ranges_of_precision_recall_and_cost_hold_the_true_ones(base: float, n: int) -> None:
    generator = np.random.default_rng(21)
    rate = base * np.array([0.2, 0.5, 1.0, 1.5, 1.8])
    calibration, positives = make_calibration(rate), rate / rate.sum()
    true = {"precision": rate[2:].mean(), "recall": positives[2:].sum()}
    true["cost"] = float((np.where(np.arange(5) >= 2, 1 - rate, 20 * rate)).mean())
    missed = dict.fromkeys(true, 0)
    for _ in range(500):
        events = generator.multinomial(n, np.full(5, 0.2))
        positive = generator.binomial(events, rate)
        counts = Counts.zeros(3, 4, 5)
        counts.outcomes[:] = [events - positive, positive]
        for each in measure(counts, calibration):
            if each.name in true:
                missed[each.name] += not each.low <= true[each.name] <= each.high
    assert all(missed <= 25 + 3 * 5 for missed in missed.values())


def test_without_both_labels_there_is_no_auc_and_without_any_nothing() -> None:
    assert math.isnan(auc(count_labelled(np.array([0.2]), np.array([1.0])).outcomes))
    assert all(math.isnan(each.realised) for each in measure(Counts.zeros(3, 4, 5)))


def test_auc_does_not_overflow() -> None:
    outcomes = np.zeros((2, 30), np.int64)
    outcomes[0, 10] = outcomes[1, 20] = 2**40
    assert auc(outcomes) == 1.0


def test_the_range_of_a_share_by_hand() -> None:
    # Wilson of 0 of n: from 0 to z^2 / (n + z^2).
    assert wilson(0.0, 10) == pytest.approx((0.0, 3.8414588 / 13.8414588))


@given(st.integers(0, 400), st.integers(1, 400))
def test_the_range_of_a_share_is_scipys_wilson(some: int, n: int) -> None:
    some = min(some, n)
    expected = stats.binomtest(some, n).proportion_ci(0.95, method="wilson")
    assert wilson(some / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_variance_of_an_auc_by_hand() -> None:
    """A = 3/4: Q1 = 3/5, Q2 = 9/14, A^2 = 9/16; 4 positives and 7 negatives."""
    sums = 3 / 16 + 3 * (3 / 5 - 9 / 16) + 6 * (9 / 14 - 9 / 16)
    assert hanley_mcneil_variance(0.75, 4, 7) == pytest.approx(sums / 28)
    assert hanley_mcneil_variance(1.0, 3, 3) == 0.0


# -- the range of the AUC ----------------------------------------------------------------------------------------------

CELLS = 400


def outcomes_of(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Events by label and cell, the cells as fine as quantiles of all of them."""
    edges = np.unique(np.quantile(np.concatenate([positives, negatives]), np.linspace(0, 1, CELLS + 1)[1:-1]))
    return np.array([np.bincount(edges.searchsorted(each), minlength=CELLS) for each in (negatives, positives)])


@pytest.mark.slow
@pytest.mark.parametrize(("n_positive", "n_negative", "most"), [(3, 500, 0.08), (30, 500, 0.06), (150, 150, 0.05)])
@pytest.mark.parametrize("area", [0.6, 0.87, 0.97])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_range_of_the_auc_misses_the_true_one_as_seldom_as_it_says(
    n_positive: int, n_negative: int, most: float, area: float, spread: float
) -> None:
    """Scores of negatives are normal, those of positives as well, with another mean and as wide, or wider, or less."""
    generator = np.random.default_rng(13)
    apart = float(stats.norm.ppf(area)) * math.sqrt(1 + spread**2)
    runs, too_high, too_low = 300, 0, 0
    for _ in range(runs):
        scores = generator.normal(apart, spread, n_positive), generator.normal(size=n_negative)
        low, high = auc_range(outcomes_of(*scores))
        too_high, too_low = too_high + (low > area), too_low + (high < area)
    chance = 3 * math.sqrt(most / runs)
    assert max(too_high, too_low) / runs <= most + chance


@given(st.integers(1, 12), st.integers(1, 2_000))
def test_where_all_are_in_order_the_range_of_the_auc_is_as_wide_as_few_events_leave_it(few: int, many: int) -> None:
    low, high = auc_range(np.array([[many, 0], [0, few]]))
    assert high == 1.0
    assert 0 < low < 1 - 1 / (2 + few)
    # Of shares, Wilson's range is right, and the AUC cannot vary more than a share of the rarer label.
    assert low >= wilson(1.0, min(few, many))[0] - 1e-6
    assert auc_range(np.array([[many, 0], [0, few + 1]]))[0] >= low or few >= many


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_the_range_of_the_auc_holds_it_and_turns_with_the_labels(cells: list[tuple[int, int]]) -> None:
    outcomes = np.array(cells).T
    low, high = auc_range(outcomes)
    area = auc(outcomes)
    if math.isnan(area):
        assert math.isnan(low)
        assert math.isnan(high)
        return
    assert 0 <= low <= area + 1e-9
    assert area - 1e-9 <= high <= 1
    assert auc_range(outcomes[::-1]) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    wider = auc_range(outcomes, 3.0)
    assert wider[0] <= low + 1e-9
    assert wider[1] >= high - 1e-9


# -- the range of the log loss -----------------------------------------------------------------------------------------


def make_calibration(rate: np.ndarray, effects: dict[str, float] | None = None) -> Calibration:
    """What scores mean that come true as often as they say, by a reference of a million events."""
    events = np.full(len(rate), 1_000_000 // len(rate))
    positive = np.round(events * rate).astype(np.int64)
    return fit_calibration(np.array([events - positive, positive]), len(rate) // 2, rate, effects or {}, (1.0, 20.0))


@pytest.mark.slow
@pytest.mark.parametrize(("base", "n"), [(0.01, 1_500), (0.01, 10_000), (0.3, 300)])
def test_the_range_of_the_log_loss_holds_the_true_one_or_is_none_where_few_are_positive(base: float, n: int) -> None:
    generator = np.random.default_rng(14)
    rate = base * np.array([0.2, 0.5, 1.0, 1.5, 1.8])
    calibration = make_calibration(rate)
    true = float((-rate * np.log(rate) - (1 - rate) * np.log(1 - rate)).mean())
    runs, missed, unknown = 400, 0, 0
    for _ in range(runs):
        cells = generator.integers(0, 5, n)
        labels = generator.random(n) < rate[cells]
        low, high = log_loss_range(rate, cells, labels, calibration)
        assert math.isnan(low) == math.isnan(high) == (labels.sum() < 10)
        missed += not low <= true <= high and labels.sum() >= 10
        unknown += labels.sum() < 10
    assert missed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert unknown / runs < 0.2


def log_loss_range(
    rate: np.ndarray, cells: np.ndarray, labels: np.ndarray, calibration: Calibration
) -> tuple[float, float]:
    losses = -np.where(labels, np.log(rate[cells]), np.log(1 - rate[cells]))
    counts = Counts.zeros(3, 4, len(rate))
    counts.outcomes[:] = [np.bincount(cells[labels == label], minlength=len(rate)) for label in (0, 1)]
    counts.log_loss_sum = int(losses.sum() * COUNT_UNITS)
    measured = measure(counts, calibration)[1]
    assert measured.realised == pytest.approx(losses.mean(), abs=1e-5)
    return measured.low, measured.high


def test_labels_that_err_together_widen_each_range_as_fewer_labels_would() -> None:
    generator = np.random.default_rng(15)
    rate = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    counts = Counts.zeros(3, 4, 5)
    cells = generator.integers(0, 5, 5_000)
    labels = generator.random(5_000) < rate[cells]
    counts.outcomes[:] = [np.bincount(cells[labels == label], minlength=5) for label in (0, 1)]
    counts.n_correct, counts.log_loss_sum = 3_500, 3_000 * COUNT_UNITS
    effects = {"auc": 4.0, "log_loss": 9.0, "accuracy": 2.25, "precision": 4.0, "recall": 6.25, "cost": 9.0}
    alone, together = (measure(counts, make_calibration(rate, each)) for each in ({}, effects))
    for before, now in zip(alone, together, strict=True):
        times = (now.high - now.low) / (before.high - before.low)
        assert times == pytest.approx(math.sqrt(effects[now.name]), rel=0.02)
        assert now.realised == before.realised


def test_without_a_calibration_the_log_loss_has_no_range_and_the_others_have() -> None:
    counts = Counts.zeros(3, 4, 2)
    counts.outcomes[:] = [[30, 10], [10, 30]]
    area, log_loss, accuracy = measure(counts)
    assert math.isnan(log_loss.low)
    assert math.isnan(log_loss.high)
    assert area.low < area.high
    assert accuracy.low < accuracy.high


def test_a_loss_is_towards_the_worse_and_the_least_that_matters_is_relative_for_the_log_loss() -> None:
    assert loss_of("auc", 0.7, 0.8) == pytest.approx(0.1)
    assert loss_of("log_loss", 0.7, 0.8) == pytest.approx(-0.1)
    assert [least_loss(name, 0.05, 0.4) for name in ("auc", "accuracy", "log_loss", "cost")] == [
        0.05,
        0.05,
        pytest.approx(0.02),
        pytest.approx(0.02),
    ]
