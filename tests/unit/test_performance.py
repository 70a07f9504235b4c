"""Performance from counts is performance from events."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from app.core.performance import auc, hanley_mcneil, hanley_mcneil_variance, measure, wilson
from models.counting import count_outcomes
from models.reference import Counts, Reference
from models.reference_fit import fit_reference


def make_reference(training_scores: np.ndarray, threshold: float = 0.5, bins: int = 128) -> Reference:
    n = len(training_scores)
    return fit_reference(np.zeros((n, 1)), ["x"], ["numeric"], {}, training_scores, np.zeros(n), bins, threshold)


def count_labelled(scores: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> Counts:
    return count_outcomes(make_reference(np.array([0.1, 0.9]), threshold), scores, labels)


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
    found = {each.name: each for each in measure(count_labelled(scores, labels, 0.3))}
    assert found["log_loss"].realised == pytest.approx(metrics.log_loss(labels, scores), abs=1e-6)
    assert found["accuracy"].realised == pytest.approx(metrics.accuracy_score(labels, scores >= 0.3))
    assert found["accuracy"].low < found["accuracy"].realised < found["accuracy"].high
    assert found["auc"].low < found["auc"].realised < found["auc"].high


def test_without_both_labels_there_is_no_auc_and_without_any_nothing() -> None:
    assert math.isnan(auc(count_labelled(np.array([0.2]), np.array([1.0])).outcomes))
    assert all(math.isnan(each.realised) for each in measure(Counts.zeros(3, 4, 5)))


def test_auc_does_not_overflow() -> None:
    outcomes = np.zeros((2, 30), np.int64)
    outcomes[0, 10] = outcomes[1, 20] = 2**40
    assert auc(outcomes) == 1.0


def test_ranges_by_hand() -> None:
    assert hanley_mcneil(1.0, 5, 5) == (1.0, 1.0)
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
    low, high = hanley_mcneil(0.75, 4, 7)
    assert (low, high) == (pytest.approx(0.75 - 1.96 * math.sqrt(sums / 28), abs=1e-4), 1.0)
    assert hanley_mcneil(0.05, 4, 7)[0] == 0.0
    assert hanley_mcneil_variance(1.0, 3, 3) == 0.0


def test_the_range_of_the_auc_covers_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(13)
    true = 0.7602499  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    covered = 0
    for _ in range(200):
        labels = np.repeat([0.0, 1.0], 150)
        raw = generator.normal(size=300) + labels
        low, high = hanley_mcneil(auc(count_labelled(1 / (1 + np.exp(-raw)), labels).outcomes), 150, 150)
        covered += low <= true <= high
    assert covered >= 180
