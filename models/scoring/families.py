"""The model families that can be trained, as data.

A family is a name, a sentence, and a function that builds an unfitted scikit-learn pipeline for given features.
Registering one here gives it the whole generic suite (tests/unit/test_models_families.py): deterministic, saved and
loaded bit for bit, scores that do not depend on the other rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits

#: HistGradientBoosting bins a feature into at most this many values, and refuses a category with more.
MOST_CATEGORIES = 255


@dataclass(frozen=True)
class FeatureKind:
    """What a family must know of one feature: its type, and for a category the number of values in its vocabulary."""

    type: str
    n_values: int = 0


@dataclass(frozen=True)
class Family:
    """One kind of model. ``build(kinds, seed)`` returns an unfitted pipeline for columns in that order."""

    name: str
    help: str
    build: Callable[[Sequence[FeatureKind], int], Any]


def takes_weights(estimator: Any) -> bool:
    """Whether the last step of a pipeline takes weights, so that rows can count more or less than once in its fit."""
    return bool(has_fit_parameter(estimator.steps[-1][1], "sample_weight"))


def fit(
    estimator: Any,
    matrix: NDArray[np.float64],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> Any:
    """Fit an unfitted pipeline and return it: infinities as missing, on one BLAS thread.

    A column without any value is fitted as 0 throughout, from which no family can learn: the trees of scikit-learn 1.9
    fail to bin it. ``weights``: how often each row counts; None: once.
    """
    rows = np.where(np.isfinite(matrix), matrix, np.nan)
    rows[:, np.isnan(rows).all(axis=0)] = 0.0
    # With more threads BLAS may add in another order, and the coefficients' last bits would change.
    with threadpool_limits(1, user_api="blas"):
        if weights is None:
            return estimator.fit(rows, labels)
        return estimator.fit(rows, labels, **{f"{estimator.steps[-1][0]}__sample_weight": weights})


def build_hgb(kinds: Sequence[FeatureKind], seed: int) -> Pipeline:
    """100 boosted trees on histograms; missing values are native, categories are split as sets.

    A category with more than 255 values is split by its code instead: the library bins no further.
    """
    mask = np.array([kind.type == "category" and kind.n_values <= MOST_CATEGORIES for kind in kinds], dtype=bool)
    # Early stopping draws its validation rows at random, from all times; the time-ordered hold-out judges instead.
    model = HistGradientBoostingClassifier(
        max_iter=100, early_stopping=False, random_state=seed, categorical_features=mask if mask.any() else None
    )
    return Pipeline([("model", model)])


def build_logistic(kinds: Sequence[FeatureKind], seed: int) -> Pipeline:
    """Logistic regression on standardised numbers (missing: the median) and one column per category value.

    An unseen or missing category has no column set, so it adds nothing to the score.
    """
    numbers = [column for column, kind in enumerate(kinds) if kind.type != "category"]
    categories = [column for column, kind in enumerate(kinds) if kind.type == "category"]
    vocabulary = [np.arange(kinds[column].n_values, dtype=np.float64) for column in categories]
    parts: list[tuple[str, Any, list[int]]] = []
    if numbers:
        # A column that is missing in all of training stays, as 0, so that columns keep their places.
        imputer = SimpleImputer(strategy="median", keep_empty_features=True)
        parts.append(("numbers", Pipeline([("imputer", imputer), ("scaler", StandardScaler())]), numbers))
    if categories:
        encoder = OneHotEncoder(categories=vocabulary, handle_unknown="ignore", sparse_output=False, dtype=np.float64)
        parts.append(("categories", encoder, categories))
    model = LogisticRegression(max_iter=1000, random_state=seed)
    return Pipeline([("columns", ColumnTransformer(parts, sparse_threshold=0.0)), ("model", model)])


FAMILIES = {
    family.name: family
    for family in (
        Family("hgb", "gradient-boosted trees on histograms, 100 of them", build_hgb),
        Family("logistic", "logistic regression on standardised and one-hot features", build_logistic),
    )
}
