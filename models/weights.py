"""Rows that a fit counts more or less than once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeighedRows:
    """Labelled events, and how many events each stands for: matrix [n x features], labels, times and weights [n]."""

    matrix: Floats
    labels: Floats
    event_time_ms: NDArray[np.int64]
    weights: Floats
