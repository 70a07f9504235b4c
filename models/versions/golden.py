"""Choose the golden rows of a version: real rows, and the edge cases where implementations differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.versions.manifest import FeatureSpec

Floats = NDArray[np.float64]

#: Real rows, spread evenly over the time of training.
REAL_ROWS = 32
#: Far outside of any feature, and still exact when it is squared.
FAR = 1e9


def choose_golden_rows(matrix: Floats, features: Sequence[FeatureSpec]) -> Floats:
    """Return at least 40 rows [n x features] from a training matrix [rows x features] in time order; deterministic.

    Real rows; then each feature at its least, at its greatest, far below and far above; zeros and ones; all missing;
    only categories and only numbers missing; and categories of which the model knows nothing (a code past the
    vocabulary, a negative one, a fraction).
    """
    is_category = np.array([feature.type == "category" for feature in features])
    picks = np.linspace(0, len(matrix) - 1, REAL_ROWS).astype(np.intp)
    real = matrix[picks]
    finite = np.where(np.isfinite(matrix), matrix, np.nan)
    least = np.fmin.reduce(finite, axis=0)
    greatest = np.fmax.reduce(finite, axis=0)
    middle = real[REAL_ROWS // 2]
    missing = np.full(len(features), np.nan)
    past = np.array([float(len(feature.values)) for feature in features])
    edges = [
        least,
        greatest,
        np.where(is_category, middle, -FAR),
        np.where(is_category, middle, FAR),
        np.zeros(len(features)),
        np.ones(len(features)),
        missing,
        np.where(is_category, missing, middle),
        np.where(is_category, middle, missing),
        np.where(is_category, past, middle),
        np.where(is_category, -1.0, middle),
        np.where(is_category, 0.5, middle),
    ]
    rows: Floats = np.vstack([real, *edges])
    return np.where(np.isinf(rows), np.nan, rows)
