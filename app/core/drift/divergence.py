"""Jensen-Shannon distance of two sets of counts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtrc, xlogy

if TYPE_CHECKING:
    from app.core.batches import Ints


class JensenShannon(NamedTuple):
    """``statistic`` in [0, 1], 0 for equal shares and 1 for none in common; ``p_value`` of no drift.

    ``effect``: the root of what its square is beyond its mean without drift (nought where it is not).
    """

    statistic: float
    p_value: float
    effect: float


def jensen_shannon(reference: Ints, detection: Ints) -> JensenShannon:
    """Compute the root of the Jensen-Shannon divergence in bits, of the shares p and q of groups.

    Both windows weigh alike in it. The p-value is the likelihood ratio's, in which they weigh by their sizes n and m:
    2 (n + m) times that divergence, in nats, is about chi^2 with B - 1 degrees of freedom for B groups, without drift.
    The distance itself is large by chance in small windows: 0.08 for 500 events in 20 groups against many.

    Parameters
    ----------
    reference, detection
        Counts per group; groups that are empty in both are left out.

    Returns
    -------
    NaN when either window is empty.

    Examples
    --------
    >>> jensen_shannon(np.array([4, 0]), np.array([0, 4])).statistic
    1.0

    References
    ----------
    J. Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37, 1991.
    """
    n, m = int(reference.sum()), int(detection.sum())
    if n == 0 or m == 0:
        return JensenShannon(math.nan, math.nan, math.nan)
    p, q = reference / n, detection / m
    alike = _divergence(p, q, 0.5)
    groups = int(np.count_nonzero(reference + detection))
    ratio = 2 * (n + m) * _divergence(p, q, n / (n + m))
    p_value = float(chdtrc(groups - 1, ratio)) if groups > 1 else 1.0
    squared = min(alike / math.log(2), 1.0)
    by_chance = (groups - 1) / (8 * math.log(2)) * (1 / n + 1 / m)
    return JensenShannon(math.sqrt(squared), p_value, math.sqrt(max(squared - by_chance, 0.0)))


def _divergence(p: np.ndarray, q: np.ndarray, weight: float) -> float:
    """Weight KL(p | mix) + (1 - weight) KL(q | mix), in nats."""
    mix = weight * p + (1 - weight) * q
    mix[mix == 0] = 1.0  # neither has any
    return max(0.0, float(np.sum(weight * xlogy(p, p / mix) + (1 - weight) * xlogy(q, q / mix))))
