"""Fold a fitted linear pipeline into the few arrays that its score needs.

Known are SimpleImputer, StandardScaler and OneHotEncoder, alone, in a Pipeline, or in a ColumnTransformer on lists of
column numbers, in front of a binary LogisticRegression. Anything else is a `CannotFoldError`, and the caller asks
scikit-learn instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

Floats = NDArray[np.float64]


class CannotFoldError(Exception):
    """The pipeline has a step that has no folded form."""


@dataclass(frozen=True)
class Fold:
    """A linear model: logit = sum over numbers of (value or fill - centre) * weight + sum of table entries + intercept.

    ``numbers``, ``categories``: columns of the matrix. A category's entry for code c is ``table[starts + c]`` when c <
    ``sizes``, and ``table[0]``, which is 0, otherwise.
    """

    n_features: int
    numbers: NDArray[np.intp]
    fills: Floats
    centres: Floats
    weights: Floats
    categories: NDArray[np.intp]
    sizes: Floats
    starts: Floats
    table: Floats
    intercept: float


@dataclass(frozen=True)
class _Number:
    """An output column (column or fill - centre) / scale."""

    column: int
    fill: float = np.nan  # none; NaN equals nothing, so terms are not compared as a whole
    centre: float = 0.0
    scale: float = 1.0

    @property
    def is_untouched(self) -> bool:
        """Whether it is the column as it comes."""
        return bool(np.isnan(self.fill)) and self.centre == 0.0 and self.scale == 1.0


@dataclass(frozen=True)
class _Indicator:
    """An output column that is 1 where the code of ``column`` is ``code``."""

    column: int
    code: int


_Term = _Number | _Indicator


def fold(estimator: Any) -> Fold:
    """Fold a fitted LogisticRegression, or a Pipeline that ends in one; CannotFoldError when a step is not known."""
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    terms: list[_Term] = [_Number(column) for column in range(int(estimator.n_features_in_))]
    for step in steps[:-1]:
        terms = _apply(step, terms)
    model = steps[-1]
    if not isinstance(model, LogisticRegression) or model.coef_.shape != (1, len(terms)):
        raise CannotFoldError("not a binary logistic regression")
    return _collect(terms, model.coef_[0].astype(np.float64), float(model.intercept_[0]), int(estimator.n_features_in_))


def _apply(step: Any, terms: Sequence[_Term]) -> list[_Term]:
    if step == "passthrough":
        return list(terms)
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            terms = _apply(inner, terms)
        return list(terms)
    if isinstance(step, ColumnTransformer):
        return _apply_columns(step, terms)
    if isinstance(step, OneHotEncoder):
        return _apply_one_hot(step, terms)
    numbers = _untouched_or_filled(terms)
    if isinstance(step, SimpleImputer):
        return _apply_imputer(step, numbers)
    if isinstance(step, StandardScaler):
        return _apply_scaler(step, numbers)
    raise CannotFoldError(f"a step of type {type(step).__name__}")


def _apply_columns(step: ColumnTransformer, terms: Sequence[_Term]) -> list[_Term]:
    out: list[_Term] = []
    for _, inner, columns in step.transformers_:
        if inner == "drop":
            continue
        if not (isinstance(columns, list) and all(isinstance(column, int) for column in columns)):
            raise CannotFoldError("columns that are not a list of numbers")
        out += _apply(inner, [terms[column] for column in columns])
    return out


def _apply_one_hot(step: OneHotEncoder, terms: Sequence[_Term]) -> list[_Term]:
    out: list[_Term] = []
    for term, seen in zip(terms, step.categories_, strict=True):
        codes = np.asarray(seen, dtype=np.float64)
        if not isinstance(term, _Number) or not term.is_untouched or step.drop is not None:
            raise CannotFoldError("one-hot of a column that another step has changed")
        if not np.array_equal(codes, np.arange(len(codes))):
            raise CannotFoldError("category codes that are not 0, 1, 2, …")
        out += [_Indicator(term.column, code) for code in range(len(codes))]
    return out


def _apply_imputer(step: SimpleImputer, terms: Sequence[_Number]) -> list[_Term]:
    fills = np.asarray(step.statistics_, dtype=np.float64)
    if (
        step.add_indicator
        or not np.isnan(step.missing_values)
        or any(term.scale != 1.0 or term.centre for term in terms)
    ):
        raise CannotFoldError("an imputer with indicators, another missing value, or after a scaler")
    if np.isnan(fills).any():
        # A column without a value in training: the imputer drops it unless told to keep it, as 0.
        if not step.keep_empty_features:
            raise CannotFoldError("an imputer that drops empty columns")
        fills = np.nan_to_num(fills, nan=0.0)
    return [
        replace(term, fill=float(fill)) if np.isnan(term.fill) else term
        for term, fill in zip(terms, fills, strict=True)
    ]


def _apply_scaler(step: StandardScaler, terms: Sequence[_Number]) -> list[_Term]:
    centres = np.zeros(len(terms)) if step.mean_ is None or not step.with_mean else step.mean_
    scales = np.ones(len(terms)) if step.scale_ is None else step.scale_
    return [
        replace(term, centre=term.centre + float(centre) * term.scale, scale=term.scale * float(scale))
        for term, centre, scale in zip(terms, centres, scales, strict=True)
    ]


def _untouched_or_filled(terms: Sequence[_Term]) -> list[_Number]:
    numbers = [term for term in terms if isinstance(term, _Number)]
    if len(numbers) != len(terms):
        raise CannotFoldError("a step after one-hot")
    return numbers


def _collect(terms: Sequence[_Term], coefficients: Floats, intercept: float, n_features: int) -> Fold:
    numbers = [(term, weight) for term, weight in zip(terms, coefficients, strict=True) if isinstance(term, _Number)]
    codes: dict[int, dict[int, float]] = {}
    for term, weight in zip(terms, coefficients, strict=True):
        if isinstance(term, _Indicator):
            entries = codes.setdefault(term.column, {})
            entries[term.code] = entries.get(term.code, 0.0) + float(weight)
    table, starts = [0.0], []
    for entries in codes.values():
        starts.append(len(table))
        table += [entries[code] for code in range(len(entries))]
    return Fold(
        n_features=n_features,
        numbers=np.array([term.column for term, _ in numbers], dtype=np.intp),
        fills=np.array([term.fill for term, _ in numbers]),
        centres=np.array([term.centre for term, _ in numbers]),
        weights=np.array([weight / term.scale for term, weight in numbers]),
        categories=np.array(list(codes), dtype=np.intp),
        sizes=np.array([len(entries) for entries in codes.values()], dtype=np.float64),
        starts=np.array(starts, dtype=np.float64),
        table=np.array(table),
        intercept=intercept,
    )
