"""Laws of every registered model family."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from models.scoring.families import FAMILIES, FeatureKind, fit
from models.scoring.scorer import Scorer, make_scorer
from models.versions import artifact

KINDS = (
    FeatureKind("float"),
    FeatureKind("category", 4),
    FeatureKind("int"),
    FeatureKind("bool"),
    FeatureKind("category", 40),
    FeatureKind("float"),
)
FORM = {"hgb": "trees", "logistic": "folded"}


def make_rows(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0.0, 3.0, (n, len(KINDS)))
    for column, kind in enumerate(KINDS):
        if kind.type == "category":
            # The last value never comes up in training, as a new destination would not.
            rows[:, column] = rng.integers(0, kind.n_values - 1, n)
        elif kind.type != "float":
            rows[:, column] = rng.integers(0, 2, n)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[:, 5] = np.nan  # never there in training
    return rows


ROWS = make_rows(600, 1)
LABELS = (np.nan_to_num(ROWS[:, 0]) + np.nan_to_num(ROWS[:, 1]) > 1.5).astype(np.float64)
UNSEEN = np.array(
    [
        [np.nan] * 6,
        [np.inf] * 6,
        [-np.inf] * 6,
        [1.0, 3.0, 0.0, 1.0, 39.0, 2.0],
        [1.0, 4.0, 0.0, 1.0, 40.0, 2.0],
        [1.0, -1.0, 0.0, 1.0, -7.0, 2.0],
        [1.0, 0.5, 0.0, 1.0, 1e18, 2.0],
        [1e300, 0.0, -1e300, 1.0, 0.0, 1e308],
    ]
)


@dataclass(frozen=True)
class Fitted:
    name: str
    estimator: Any
    scorer: Scorer


@pytest.fixture(scope="module", params=list(FAMILIES))
def fitted(request: pytest.FixtureRequest) -> Fitted:
    estimator = fit(FAMILIES[request.param].build(KINDS, 0), ROWS, LABELS)
    return Fitted(request.param, estimator, make_scorer(estimator))


def test_a_family_is_scored_in_its_fast_form(fitted: Fitted) -> None:
    assert fitted.scorer.name == FORM[fitted.name]


def test_scores_are_the_probabilities_of_scikit_learn(fitted: Fitted) -> None:
    rows = make_rows(3000, 2)
    rows[::7, 1] = 3.0
    rows[::11, 4] = 77.0
    np.testing.assert_allclose(
        fitted.scorer.score(rows), fitted.estimator.predict_proba(rows)[:, 1], rtol=0, atol=1e-12
    )


MANY = make_rows(500, 3)


@pytest.mark.slow
@given(cuts=st.lists(st.integers(0, len(MANY)), max_size=12))
def test_a_score_does_not_depend_on_how_batches_are_cut(fitted: Fitted, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(MANY)]
    parts = [fitted.scorer.score(MANY[start:stop]) for start, stop in pairwise(edges)]
    assert np.concatenate(parts).tobytes() == fitted.scorer.score(MANY).tobytes()


def test_one_by_one_gives_the_bits_of_a_batch_in_any_memory_layout(fitted: Fitted) -> None:
    whole = fitted.scorer.score(MANY)
    alone = np.concatenate([fitted.scorer.score(MANY[row : row + 1]) for row in range(100)])
    assert alone.tobytes() == whole[:100].tobytes()
    assert fitted.scorer.score(np.asfortranarray(MANY)).tobytes() == whole.tobytes()
    assert fitted.scorer.score(np.hstack([MANY, MANY])[:, : len(KINDS)]).tobytes() == whole.tobytes()


def test_any_row_has_a_score_between_0_and_1(fitted: Fitted) -> None:
    scores = fitted.scorer.score(UNSEEN)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_infinity_is_missing_and_an_unknown_category_is_one_kind_of_unknown(fitted: Fitted) -> None:
    scores = fitted.scorer.score(UNSEEN)
    assert scores[0] == scores[1] == scores[2]
    assert scores[3] == scores[4] == scores[5]


def test_no_events_have_no_scores(fitted: Fitted) -> None:
    assert fitted.scorer.score(np.empty((0, len(KINDS)))).shape == (0,)


def test_scoring_leaves_the_matrix_as_it_was(fitted: Fitted) -> None:
    before = UNSEEN.copy()
    fitted.scorer.score(UNSEEN)
    np.testing.assert_array_equal(UNSEEN, before)


@pytest.mark.slow
def test_a_saved_and_loaded_model_gives_the_same_bits(fitted: Fitted) -> None:
    kind, data = artifact.save(fitted.estimator)
    loaded = make_scorer(artifact.load(data, hashlib.sha256(data).hexdigest(), kind))
    assert loaded.name == fitted.scorer.name
    assert loaded.score(MANY).tobytes() == fitted.scorer.score(MANY).tobytes()


@pytest.mark.slow
def test_the_same_data_and_seed_give_the_same_artifact_bytes(fitted: Fitted) -> None:
    again = fit(FAMILIES[fitted.name].build(KINDS, 0), ROWS, LABELS)
    assert artifact.save(again) == artifact.save(fitted.estimator)


@pytest.mark.slow
def test_a_category_too_large_for_the_trees_is_still_fitted(fitted: Fitted) -> None:
    kinds = (FeatureKind("category", 1000), FeatureKind("float"))
    rows = np.column_stack([np.arange(600.0), ROWS[:, 0]])
    scores = make_scorer(fit(FAMILIES[fitted.name].build(kinds, 0), rows, LABELS)).score(rows)
    assert np.isfinite(scores).all()


@pytest.mark.slow
def test_fitting_takes_infinity_as_missing_and_a_column_without_values_as_nought_and_leaves_the_matrix(
    fitted: Fitted,
) -> None:
    rows = ROWS[:120].copy()
    rows[3, 0], rows[5, 2], rows[:, 5] = np.inf, -np.inf, [np.nan, np.inf] * 60
    plain = np.where(np.isfinite(rows), rows, np.nan)
    plain[:, 5] = 0.0
    before = rows.copy()
    scores = [
        make_scorer(fit(FAMILIES[fitted.name].build(KINDS, 0), each, LABELS[:120])).score(MANY).tobytes()
        for each in (rows, plain)
    ]
    assert scores[0] == scores[1]
    np.testing.assert_array_equal(rows, before)


def test_the_logistic_family_is_a_regression_on_what_is_standardised_and_one_hot_by_hand() -> None:
    kinds = (FeatureKind("category", 3), FeatureKind("float"), FeatureKind("int"))
    rng = np.random.default_rng(4)
    rows = np.column_stack([rng.integers(0, 4, 300), rng.normal(50.0, 9.0, 300), rng.integers(0, 2, 300)])
    rows[rng.random(rows.shape) < 0.1] = np.nan
    labels = (rng.random(300) < 1 / (1 + np.exp(50 - np.nan_to_num(rows[:, 1], nan=50.0)))).astype(float)
    numbers = [np.where(np.isnan(column), np.nanmedian(column), column) for column in rows[:, 1:].T]
    inputs = np.column_stack(
        [(column - column.mean()) / column.std() for column in numbers] + [rows[:, 0] == code for code in range(3)]
    )
    expected = LogisticRegression(max_iter=1000).fit(inputs, labels).predict_proba(inputs)[:, 1]
    fitted = fit(FAMILIES["logistic"].build(kinds, 0), rows, labels)
    assert make_scorer(fitted).score(rows) == pytest.approx(expected, abs=1e-9)
    # Columns of one sort alone are enough.
    for kept in ([0], [1, 2]):
        build = FAMILIES["logistic"].build([kinds[at] for at in kept], 0)
        assert len(set(make_scorer(fit(build, rows[:, kept], labels)).score(rows[:, kept]).tolist())) > 2


@pytest.mark.parametrize(("n_values", "is_split_as_sets"), [(255, True), (256, False)])
def test_the_trees_are_a_hundred_and_split_categories_of_up_to_255_values_as_sets(
    n_values: int, *, is_split_as_sets: bool
) -> None:
    kinds = (FeatureKind("float", 3), FeatureKind("category", n_values))
    (_, trees), *others = FAMILIES["hgb"].build(kinds, 7).steps
    assert not others
    assert (trees.max_iter, trees.early_stopping, trees.random_state) == (100, False, 7)
    mask = trees.categorical_features
    assert (mask is not None and mask.tolist() == [False, True]) == is_split_as_sets
    assert (mask is None) == (not is_split_as_sets)
    assert FAMILIES["logistic"].build(kinds, 7).steps[-1][1].random_state == 7
    assert {name: family.name for name, family in FAMILIES.items()} == {name: name for name in FORM}
