"""What make_scorer chooses, and folded scores worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from models import scorer as scorer_module
from models.families import FAMILIES, FeatureKind
from models.scorer import DirectTrees, make_scorer

RNG = np.random.default_rng(5)
ROWS = RNG.normal(0.0, 1.0, (200, 3))
LABELS = (ROWS[:, 0] + RNG.normal(0.0, 1.0, 200) > 0).astype(np.float64)


def expit(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


def by_hand() -> Pipeline:
    """Column 0 has median 4, mean 4, deviation 2; column 1 codes 0, 1, 2; the coefficients are set, not fitted."""
    rows = np.array([[2.0, 0.0], [6.0, 1.0], [2.0, 2.0], [6.0, 0.0]])
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    codes = OneHotEncoder(categories=[np.arange(3.0)], handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("codes", codes, [1]), ("numbers", numbers, [0])])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(rows, [0.0, 1.0, 0.0, 1.0])
    pipeline[-1].coef_ = np.array([[0.1, 0.2, 0.4, 3.0]])
    pipeline[-1].intercept_ = np.array([-0.5])
    return pipeline


def test_a_folded_score_is_the_sum_worked_out_by_hand() -> None:
    scorer = make_scorer(by_hand())
    assert scorer.name == "folded"
    rows = np.array([[6.0, 2.0], [4.0, 0.0], [np.nan, 1.0], [2.0, 3.0]])
    # (6 - 4) / 2 * 3 + 0.4 - 0.5; the mean, + 0.1 - 0.5; the median is the mean, + 0.2 - 0.5; (2 - 4) / 2 * 3 - 0.5.
    expected = [expit(2.9), expit(-0.4), expit(-0.3), expit(-3.5)]
    np.testing.assert_allclose(scorer.score(rows), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("steps", "form"),
    [
        ([], "folded"),
        ([StandardScaler()], "folded"),
        ([SimpleImputer(), StandardScaler(with_mean=False)], "folded"),
        ([StandardScaler(), StandardScaler()], "folded"),
        ([StandardScaler(), "passthrough"], "folded"),
        ([StandardScaler(), SimpleImputer()], "probabilities"),
        ([SimpleImputer(add_indicator=True)], "probabilities"),
        ([PolynomialFeatures(2)], "probabilities"),
        ([ColumnTransformer([("some", StandardScaler(), slice(0, 2))])], "probabilities"),
    ],
)
def test_what_cannot_be_folded_is_asked_for_probabilities(steps: list[object], form: str) -> None:
    pipeline = make_pipeline(*steps, LogisticRegression()).fit(ROWS, LABELS)
    scorer = make_scorer(pipeline)
    assert scorer.name == form
    np.testing.assert_allclose(scorer.score(ROWS), pipeline.predict_proba(ROWS)[:, 1], rtol=0, atol=1e-12)


def test_any_other_classifier_is_scored_in_chunks_with_the_same_bits() -> None:
    forest = RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS)
    rows = np.tile(ROWS, (50, 1))
    scorer = make_scorer(forest)
    assert scorer.name == "probabilities"
    assert scorer.score(rows).tobytes() == np.tile(scorer.score(ROWS), 50).tobytes()


def test_classes_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the two classes 0 and 1"):
        make_scorer(LogisticRegression().fit(ROWS, np.arange(200) % 3))
    with pytest.raises(ValueError, match="needs the two classes 0 and 1"):
        make_scorer(LogisticRegression().fit(ROWS, np.where(LABELS == 1, 1.0, -1.0)))


class Moved(DirectTrees):
    def __init__(self, model: object) -> None:  # noqa: ARG002  # as the class it stands for
        raise AttributeError("_predictors")


class Wrong(DirectTrees):
    def score(self, matrix: np.ndarray) -> np.ndarray:
        return super().score(matrix) + 1e-9


@pytest.mark.parametrize("direct", [Moved, Wrong])
def test_trees_whose_private_parts_moved_or_changed_are_scored_the_public_way(
    direct: type[DirectTrees], monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = FAMILIES["hgb"].build([FeatureKind("float")] * 3, 0).fit(ROWS, LABELS)
    monkeypatch.setattr(scorer_module, "DirectTrees", direct)
    scorer = make_scorer(trees)
    assert scorer.name == "probabilities"
    assert scorer.score(ROWS).tobytes() == trees.predict_proba(ROWS)[:, 1].tobytes()


def test_a_sum_that_overflows_is_still_a_score() -> None:
    pipeline = make_pipeline(LogisticRegression()).fit(ROWS, LABELS)
    pipeline[-1].coef_ = np.array([[1e10, 1e10, 1.0]])
    scores = make_scorer(pipeline).score(np.array([[1e308, -1e308, 0.0], [1e308, 1e308, 0.0], [0.0, 0.0, 0.0]]))
    assert scores[:2].tolist() == [expit(float(pipeline[-1].intercept_[0])), 1.0]
    assert scores[2] == expit(float(pipeline[-1].intercept_[0]))
