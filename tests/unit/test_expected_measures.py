"""Measures of events with labels are scikit-learn's, and a gradient is what one more positive moves a measure by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from app.core.batches import Floats, Ints
from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.expected import expected_measures

LOSSES = np.linspace(0.1, 0.9, 6)


def calibration(threshold_cell: int) -> Calibration:
    return fit_calibration(np.full((2, 6), 100), threshold_cell, LOSSES)


@pytest.mark.slow
@settings(max_examples=25)
@given(hnp.arrays(np.int64, (2, 6), elements=st.integers(0, 9)), st.integers(0, 6))
def test_known_labels_have_the_measures_of_scikit_learn(outcomes: Ints, threshold_cell: int) -> None:
    measures = expected_measures(calibration(threshold_cell), outcomes.astype(float), np.zeros(6))
    cells, truth = np.tile(np.arange(6), 2).repeat(outcomes.ravel()), np.repeat([0, 1], outcomes.sum(axis=1))
    decided = (cells >= threshold_cell).astype(int)
    expected = {
        "auc": metrics.roc_auc_score(truth, cells) if len(set(truth)) == 2 else math.nan,
        "accuracy": metrics.accuracy_score(truth, decided) if len(truth) else math.nan,
        "precision": metrics.precision_score(truth, decided) if decided.any() else math.nan,
        "recall": metrics.recall_score(truth, decided) if truth.any() else math.nan,
        "f1": metrics.f1_score(truth, decided) if truth.any() or decided.any() else math.nan,
        "positives": truth.mean() if len(truth) else math.nan,
        "log_loss": metrics.log_loss(truth, LOSSES[cells], labels=[0, 1]) if len(truth) else math.nan,
    }
    assert {name: each.value for name, each in measures.items()} == pytest.approx(expected, nan_ok=True)
    assert {name: each.largest for name, each in measures.items()} == {
        name: math.inf if name == "log_loss" else 1.0 for name in expected
    }


@settings(max_examples=25)
@given(hnp.arrays(np.float64, (2, 6), elements=st.floats(0.5, 9)), st.integers(1, 5))
def test_a_gradient_is_the_change_by_a_little_more_of_label_one(expected: Floats, threshold_cell: int) -> None:
    spread = expected.prod(axis=0) / expected.sum(axis=0)
    known = calibration(threshold_cell)
    plain = expected_measures(known, expected, spread)
    little = 1e-6
    for cell in range(6):
        moved = expected + little * np.array([[-1.0], [1.0]]) * (np.arange(6) == cell)
        for name, each in expected_measures(known, moved, spread).items():
            slope = (each.value - plain[name].value) / little
            assert plain[name].gradient[cell] == pytest.approx(slope, rel=1e-3, abs=1e-5), name


def test_an_event_makes_no_pair_with_itself() -> None:
    """Two events of one cell, each positive with probability 1/2: all pairs are ties."""
    both, one = np.array([[1.0], [1.0]]), np.array([[0.5], [0.5]])
    halves = fit_calibration(np.array([[5], [5]]), 0)
    assert expected_measures(halves, both, np.array([0.5]))["auc"].value == 0.5
    assert math.isnan(expected_measures(halves, one, np.array([0.25]))["auc"].value)
