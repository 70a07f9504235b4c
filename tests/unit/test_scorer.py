"""What make_scorer chooses, and folded scores worked out by hand."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from models.scoring import scorer as scorer_module
from models.scoring.categories import Vocabularies
from models.scoring.families import FAMILIES, FeatureKind
from models.scoring.folding import CannotFoldError, fold
from models.scoring.scorer import DirectTrees, FoldedLogistic, make_scorer

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


@functools.cache
def few_trees() -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=3).fit(ROWS, LABELS)


class NearlyRight(DirectTrees):
    """Off by ``error`` in rows where ``is_off`` says so."""

    error = 9e-13
    is_off = staticmethod(lambda matrix: np.ones(len(matrix), dtype=bool))

    def score(self, matrix: np.ndarray) -> np.ndarray:
        return super().score(matrix) + np.where(self.is_off(matrix), self.error, 0.0)


@pytest.mark.parametrize(("error", "form"), [(9e-13, "trees"), (1.1e-12, "probabilities"), (-1.1e-12, "probabilities")])
def test_a_fast_form_may_differ_by_a_millionth_of_a_millionth(
    error: float, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NearlyRight, "error", error)
    monkeypatch.setattr(scorer_module, "DirectTrees", NearlyRight)
    assert make_scorer(few_trees()).name == form


OFF: dict[str, Any] = {
    "below nought": lambda matrix: (matrix < 0).any(axis=1),
    "nought": lambda matrix: (matrix == 0).all(axis=1),
    "one": lambda matrix: (matrix == 1).all(axis=1),
    "two": lambda matrix: (matrix == 2).all(axis=1),
    "more than two": lambda matrix: (matrix > 2).all(axis=1),
    "hundreds": lambda matrix: (matrix >= 300).all(axis=1),
    "a fraction": lambda matrix: (matrix != np.floor(matrix)).any(axis=1),
    "other values in each column": lambda matrix: (np.diff(matrix, axis=1) != 0).all(axis=1),
}


@pytest.mark.parametrize("where", OFF)
def test_a_form_that_is_wrong_for_some_kind_of_values_only_is_set_aside(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NearlyRight, "error", 1e-9)
    monkeypatch.setattr(NearlyRight, "is_off", staticmethod(OFF[where]))
    monkeypatch.setattr(scorer_module, "DirectTrees", NearlyRight)
    assert make_scorer(few_trees()).name == "probabilities"


class Noting:
    """A classifier that notes what it is asked: the score of a row is its first column, 0.5 where that is missing."""

    n_features_in_ = 2

    def __init__(self, classes: tuple[float, ...] = (0, 1)) -> None:
        self.classes_ = np.array(classes)
        self.asked: list[np.ndarray] = []

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        self.asked.append(rows)
        positive = np.nan_to_num(rows[:, 0], nan=0.5)
        return np.column_stack([1 - positive, positive])


def test_other_classifiers_are_asked_in_chunks_of_at_most_4096_rows_without_infinity() -> None:
    model = Noting()
    scorer = make_scorer(model)
    rows = RNG.random((10_000, 2))
    rows[5] = [np.inf, -np.inf]
    model.asked.clear()
    scores = scorer.score(rows)
    assert [len(chunk) for chunk in model.asked] == [4096, 4096, 1808]
    assert scores[5] == 0.5
    assert np.isnan(model.asked[0][5]).all()
    assert np.isinf(rows[5]).all()  # the caller's matrix stays
    assert np.array_equal(np.delete(scores, 5), np.delete(rows[:, 0], 5))


def test_a_value_of_no_vocabulary_is_asked_about_as_missing() -> None:
    model = Noting()
    scorer = make_scorer(model, Vocabularies([3, 0]))
    assert scorer.name == "probabilities"
    assert scorer.score(np.array([[0.0, 9.0], [3.0, 9.0], [np.nan, 9.0]])).tolist() == [0.0, 0.5, 0.5]
    assert make_scorer(model, Vocabularies([0, 0])).score(np.array([[3.0, 9.0]])).tolist() == [3.0]


def test_trees_take_each_category_that_training_had_by_its_place_among_them() -> None:
    """In a column of categories, one of numbers, and one of categories again: the library moves categories first."""
    rng = np.random.default_rng(6)
    rows = np.column_stack([rng.choice([1.0, 4.0, 9.0], 400), rng.normal(size=400), rng.choice([0.0, 7.0, 250.0], 400)])
    rows[rng.random(rows.shape) < 0.1] = np.nan
    chance = np.select([rows[:, 0] == 4, rows[:, 2] == 250, rows[:, 1] > 0], [0.9, 0.1, 0.7], 0.3)
    kinds = [FeatureKind("category", 10), FeatureKind("float"), FeatureKind("category", 255)]
    trees = FAMILIES["hgb"].build(kinds, 0).set_params(model__max_iter=10).fit(rows, (rng.random(400) < chance) * 1.0)
    asked = np.array(
        list(itertools.product([1.0, 4.0, 9.0, 5.0, np.nan], [-1.0, 1.0, np.nan], [0.0, 7.0, 250.0, 99.0, 254.0]))
    )
    scorer = make_scorer(trees)
    assert scorer.name == "trees"
    assert scorer.score(asked) == pytest.approx(trees.predict_proba(asked)[:, 1], abs=1e-12)
    assert len(set(scorer.score(asked).tolist())) > 10
    # A pipeline that does something before the trees is no longer them.
    scaled = make_pipeline(StandardScaler(), trees[-1].set_params(categorical_features=None)).fit(ROWS, LABELS)
    assert make_scorer(scaled).name == "probabilities"
    assert make_scorer(scaled[-1]).name == "trees"


def test_a_sum_that_overflows_is_still_a_score() -> None:
    pipeline = make_pipeline(LogisticRegression()).fit(ROWS, LABELS)
    pipeline[-1].coef_ = np.array([[1e10, 1e10, 1.0]])
    scores = make_scorer(pipeline).score(np.array([[1e308, -1e308, 0.0], [1e308, 1e308, 0.0], [0.0, 0.0, 0.0]]))
    assert scores[:2].tolist() == [expit(float(pipeline[-1].intercept_[0])), 1.0]
    assert scores[2] == expit(float(pipeline[-1].intercept_[0]))


#: Steps for two numeric columns, and whether they can be folded after those before them.
STEPS: dict[str, Any] = {
    "mean": SimpleImputer,
    "median": lambda: SimpleImputer(strategy="median"),
    "seven": lambda: SimpleImputer(strategy="constant", fill_value=7.0),
    "scaled": StandardScaler,
    "divided": lambda: StandardScaler(with_mean=False),
    "centred": lambda: StandardScaler(with_std=False),
    "as it is": lambda: StandardScaler(with_mean=False, with_std=False),
    "passed": lambda: "passthrough",
}
MIXED = np.column_stack([RNG.normal(40.0, 9.0, 200), RNG.normal(-3.0, 0.2, 200), RNG.integers(0, 4, 200)])
HOLES = np.where(RNG.random(MIXED.shape) < 0.2, np.nan, MIXED)
HOLES[:, 2] = MIXED[:, 2]


@pytest.mark.slow
@settings(max_examples=60)
@given(
    first=st.sampled_from([name for name in STEPS if name in {"mean", "median", "seven"}]),
    then=st.lists(st.sampled_from(list(STEPS)), max_size=3),
    columns=st.permutations([0, 1, 2]),
    nested=st.booleans(),
    dropped=st.booleans(),
)
def test_a_fold_is_the_pipeline_whatever_its_steps(
    first: str,
    then: list[str],
    columns: list[int],
    nested: bool,
    dropped: bool,
) -> None:
    """An imputer after a scaler fills in what the scaler would have changed: that has no folded form."""
    rows = HOLES[:, np.argsort(columns)]  # column `columns[i]` of these is the i-th of ours
    chain: list[Any] = [STEPS[name]() for name in (first, *then)]
    number = (
        make_pipeline(make_pipeline(*chain[:2]), *chain[2:]) if nested and len(chain) > 1 else make_pipeline(*chain)
    )
    kept = [columns[1]] if dropped else [columns[1], columns[0]]
    codes = OneHotEncoder(categories=[np.arange(5.0)], handle_unknown="ignore", sparse_output=False)
    parts = [("n", number, kept), ("c", codes, [columns[2]])]
    parts += [("d", "drop", [columns[0]])] if dropped else []
    pipeline = make_pipeline(ColumnTransformer(parts), LogisticRegression(C=0.1)).fit(rows, LABELS)
    moved = [name for name in then if name in {"scaled", "divided", "centred"}]
    filled = [name in {"mean", "median", "seven"} for name in then]
    if moved and any(filled[then.index(moved[0]) :]):
        with pytest.raises(CannotFoldError, match="after a scaler"):
            fold(pipeline)
        return
    folded = FoldedLogistic(fold(pipeline))
    np.testing.assert_allclose(folded.score(rows), pipeline.predict_proba(rows)[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("columns", [[0, 1, 2], [2, 1, 0], [2, 0], [1]])
def test_numbers_alone_are_folded_whichever_of_them_and_in_whichever_order(columns: list[int]) -> None:
    parts = ColumnTransformer([("some", StandardScaler(), columns)])
    pipeline = make_pipeline(parts, LogisticRegression()).fit(ROWS, LABELS)
    pipeline[-1].coef_ = np.arange(1.0, 1.0 + len(columns))[None, :]
    scorer = make_scorer(pipeline)
    assert scorer.name == "folded"
    np.testing.assert_allclose(scorer.score(ROWS), pipeline.predict_proba(ROWS)[:, 1], rtol=0, atol=1e-12)


def test_a_second_imputer_finds_nothing_to_fill() -> None:
    pipeline = make_pipeline(SimpleImputer(), SimpleImputer(strategy="constant", fill_value=99.0), LogisticRegression())
    pipeline.fit(HOLES, LABELS)
    np.testing.assert_allclose(
        FoldedLogistic(fold(pipeline)).score(HOLES), pipeline.predict_proba(HOLES)[:, 1], rtol=0, atol=1e-12
    )


def test_a_column_that_is_one_hot_twice_adds_both_weights() -> None:
    codes = OneHotEncoder(categories=[np.arange(4.0)], handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("one", codes, [2]), ("number", StandardScaler(), [0]), ("two", codes, [2])])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(MIXED, LABELS)
    pipeline[-1].coef_ = np.arange(1.0, 10.0)[None, :] / 100
    scores = FoldedLogistic(fold(pipeline)).score(MIXED)
    np.testing.assert_allclose(scores, pipeline.predict_proba(MIXED)[:, 1], rtol=0, atol=1e-12)


def one_hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(sparse_output=False, **options)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([one_hot(drop="first")], "one-hot of a column"),
        ([SimpleImputer(strategy="constant", fill_value=0.0), one_hot()], "one-hot of a column"),
        ([StandardScaler(with_mean=False), one_hot()], "one-hot of a column"),
        ([StandardScaler(with_std=False), one_hot()], "one-hot of a column"),
        ([one_hot(), one_hot()], "one-hot of a column"),
        ([one_hot(), StandardScaler()], "a step after one-hot"),
        ([SimpleImputer(missing_values=1.0)], "another missing value"),
        ([SimpleImputer(add_indicator=True)], "indicators"),
        ([StandardScaler(with_std=False), SimpleImputer()], "after a scaler"),
        ([StandardScaler(with_mean=False), SimpleImputer()], "after a scaler"),
        ([PolynomialFeatures(2)], "PolynomialFeatures"),
        ([ColumnTransformer([("some", StandardScaler(), slice(0, 2))])], "not a list of numbers"),
        ([ColumnTransformer([("some", StandardScaler(), [True, False, True])])], None),
    ],
)
def test_what_has_no_folded_form_is_said(steps: list[Any], reason: str | None) -> None:
    rows = RNG.integers(0, 3, (200, 3)) * 1.0
    pipeline = make_pipeline(*steps, LogisticRegression()).fit(rows, LABELS)
    if reason is None:
        scores = make_scorer(pipeline).score(rows)
        np.testing.assert_allclose(scores, pipeline.predict_proba(rows)[:, 1], rtol=0, atol=1e-12)
        return
    with pytest.raises(CannotFoldError, match=reason):
        fold(pipeline)


def test_codes_with_a_gap_and_columns_without_a_value_are_not_folded_wrongly() -> None:
    gap = make_pipeline(one_hot(), LogisticRegression()).fit(np.where(ROWS > 0, 2.0, 0.0), LABELS)
    with pytest.raises(CannotFoldError, match="not 0, 1, 2"):
        fold(gap)
    rows = ROWS.copy()
    rows[:, 1] = np.nan
    with pytest.warns(UserWarning, match="without any observed"):
        drops = make_pipeline(SimpleImputer(), LogisticRegression()).fit(rows, LABELS)
    with pytest.raises(CannotFoldError, match="drops empty columns"):
        fold(drops)
    keeps = make_pipeline(SimpleImputer(keep_empty_features=True), LogisticRegression()).fit(rows, LABELS)
    keeps[-1].coef_ = np.array([[0.5, 3.0, -0.25]])
    expected = keeps.predict_proba(rows)[:, 1]
    np.testing.assert_allclose(FoldedLogistic(fold(keeps)).score(rows), expected, rtol=0, atol=1e-12)
    with pytest.raises(CannotFoldError, match="not a binary"):
        fold(LogisticRegression().fit(ROWS, np.arange(200) % 3))
    with pytest.raises(CannotFoldError, match="not a binary"):
        fold(make_pipeline(StandardScaler(), RandomForestClassifier(2)).fit(ROWS, LABELS))
