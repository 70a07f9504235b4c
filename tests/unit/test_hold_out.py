"""A new version by its hold-out: whether it knows anything, and whether its scores are probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from app.core.labels.hold_out import describe_hold_out, say_of_hold_out
from models.hold_out import HoldOut
from models.training import measure

Floats = np.ndarray[Any, Any]


def probabilities(z: Floats, shift: float) -> Floats:
    chances: Floats = 1 / (1 + np.exp(-(z + shift)))
    return chances


def draw(n: int, shift: float, spread: float, seed: int = 1) -> tuple[Floats, Floats]:
    """Scores of a model that knows all, and the labels; the larger the spread, the more there is to know."""
    rng = np.random.default_rng(seed)
    scores = probabilities(rng.normal(0, spread, n), shift)
    return scores, (rng.random(n) < scores).astype(float)


def said(scores: Floats, labels: Floats, rate: float | None = None) -> str:
    judged = HoldOut(scores, labels, float(labels.mean()) if rate is None else rate)
    return say_of_hold_out(judged, ["logistic"])


def test_a_model_that_knows_something_is_released_without_a_word() -> None:
    for shift, spread in ((-5, 1.5), (-3, 1.0), (0, 0.5)):
        assert said(*draw(40_000, shift, spread)) == ""


def test_scores_of_chance_are_said_to_be_no_better_than_that() -> None:
    """A range of 95 % misses to the better side in one case of forty."""
    silent = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = (rng.random(2_000) < 0.02).astype(float)
        words = said(rng.random(2_000), labels)
        assert words  # whatever the order, the log loss is bad
        silent += "Nobody can say" not in words and "wrong way round" not in words
    assert silent <= 12


def test_few_positives_and_scores_that_are_too_sure_are_told_with_both_numbers_and_what_to_do() -> None:
    """As of 15 frauds in 39,589 payments by trees that were fitted on 61."""
    rng = np.random.default_rng(3)
    labels = np.zeros(39_589)
    labels[:15] = 1
    scores = np.where(rng.random(39_589) < 0.008, 1 - 1e-7, 1e-6)
    rate = 61 / 158_357
    words = said(scores, labels, rate)
    assert words.startswith(
        "Nobody can say yet that this version knows anything: on the newest 39,589 labelled events,"
    )
    assert "15 of them positive, its AUC is 0.50 and may be anything from 0." in words
    assert f"its log loss of {log_loss(labels, scores):.4f} is worse than the" in words
    assert f"{log_loss(labels, np.full(len(labels), rate)):.4f} of giving every event the training's rate" in words
    assert "0.039%" in words
    assert "train on a longer time with more positives" in words
    assert "--family logistic" in words


def test_scores_that_order_well_and_are_no_probabilities_are_not_called_useless() -> None:
    """As those of a fit with class_weight="balanced": the order is that of the truth, the level is not."""
    scores, labels = draw(40_000, -5, 1.5)
    odds = scores / (1 - scores) * (1 - labels.mean()) / labels.mean()
    balanced = odds / (1 + odds)
    assert roc_auc_score(labels, balanced) == roc_auc_score(labels, scores)
    words = said(balanced, labels)
    assert words.startswith("Its scores order events well (AUC 0.8")
    assert "but they are no probabilities: their log loss of" in words
    assert "calibrate" in words
    assert "model.threshold" in words
    assert "Nobody can say" not in words


def test_an_order_that_is_surely_wrong_is_said_to_be() -> None:
    scores, labels = draw(40_000, -3, 1.0)
    words = said(1 - scores, labels)
    assert words.startswith("Its scores order the newest events the wrong way round: ")


@pytest.mark.parametrize(("label", "name"), [(0.0, "positive"), (1.0, "negative")])
def test_a_hold_out_of_one_class_judges_nothing(label: float, name: str) -> None:
    words = said(np.full(80, 0.4), np.full(80, label), 0.02)
    assert words.startswith(f"None of the newest 80 labelled events, which judge this version, is {name}: nothing says")


def test_each_measure_is_told_beside_that_of_a_model_that_knows_nothing() -> None:
    scores, labels = draw(20_000, -4, 1.5)
    judged = HoldOut(scores, labels, 0.03)
    metrics = measure(judged, np.arange(20_000), 0.5)
    assert metrics.positives == labels.sum()
    assert metrics.constant_log_loss == pytest.approx(log_loss(labels, np.full(len(labels), 0.03)))
    line = describe_hold_out(judged, metrics)
    assert line.startswith(f"On the newest 20,000 (unseen, {labels.sum():.0f} positive): AUC {metrics.auc:.4f} (")
    assert f"log loss {metrics.log_loss:.4f} ({metrics.constant_log_loss:.4f} if all had the training's rate)" in line
    right = f"accuracy {metrics.accuracy:.4f} ({1 - labels.mean():.4f} if none were decided positive)."
    assert line.endswith(right)
    alone = HoldOut(scores[:9], np.zeros(9), 0.03)
    assert "AUC unknown (one class), log loss" in describe_hold_out(alone, measure(alone, np.arange(9), 0.5))
