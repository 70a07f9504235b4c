"""Two-sample Kolmogorov-Smirnov test on exact counts of common cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import kolmogorov

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints


class Ks(NamedTuple):
    """``statistic`` D in [0, 1], 0 for equal shares; ``p_value`` of no drift."""

    statistic: Floats
    p_value: Floats


def ks(reference: Ints, detection: Ints, design_effect: Floats | float = 1.0) -> Ks:
    """Compute D = max over edges x of |F(x) - G(x)| and its asymptotic p-value.

    On cells, D is that of the values rounded down to their cell's edge: never above D of the values. The p-value is
    the limit law's, P(K > sqrt(n m / (n + m)) D), hence conservative (cells are ties). For a category the order is
    that of its codes.

    Parameters
    ----------
    reference, detection
        Counts per cell without "missing" along the last axis, n and m in total, in the order of the values. F and G are
        their cumulated shares. Any axes before it hold independent pairs of windows.
    design_effect
        How many events count as one (`models.reference.dependence`).

    Returns
    -------
    NaN where either window is empty.

    Examples
    --------
    F = 1/2, 1 and G = 1/4, 1; n = m = 4, so K > sqrt(2) / 4:

    >>> result = ks(np.array([2, 2]), np.array([1, 3]))
    >>> float(result.statistic), round(float(result.p_value), 3)
    (0.25, 1.0)

    References
    ----------
    N. Smirnov, "Table for estimating the goodness of fit of empirical distributions", Ann. Math. Statist. 19, 1948.
    """
    n, m = reference.sum(axis=-1), detection.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        apart = np.cumsum(reference, axis=-1) / n[..., None] - np.cumsum(detection, axis=-1) / m[..., None]
        statistic = np.abs(apart).max(axis=-1)
        return Ks(statistic, kolmogorov(np.sqrt(n * m / (n + m) / design_effect) * statistic))
