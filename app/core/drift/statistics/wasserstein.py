"""Wasserstein distance of two windows on common cells, in standard deviations of the reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import gammaincc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Floats, Ints

#: Most points at which the moments of the null law are worked out: their number squared is the work.
_POINTS = 256
#: Values beyond these shares of the reference count where they begin: of a heavy tail a few values would decide alone.
_TRIM = 0.01


class Wasserstein(NamedTuple):
    """``statistic`` >= 0, 0 for equal shares, in standard deviations of the reference; ``p_value`` of no drift."""

    statistic: Floats
    p_value: Floats


@dataclass(frozen=True, eq=False)
class Scale:
    """What references say of the distances to them, worked out once per metric; arrays have the metrics' axis, if any.

    ``widths``: how far each cell's upper edge reaches, along the last axis. ``spread``: the standard deviation.
    ``mean``, ``variance``: of sqrt(n m / (n + m)) times the distance without drift, in the metric's own unit; nought
    when all values are in one cell.
    """

    widths: Floats
    spread: Floats
    mean: Floats
    variance: Floats

    @classmethod
    def of(cls, edges: Floats, reference: Ints) -> Scale:
        """Work it out for one metric from its edges and its counts per cell, without "missing"."""
        if not len(edges) or not reference.sum():
            return cls(np.zeros(len(reference)), np.array(0.0), np.array(0.0), np.array(0.0))
        below = np.cumsum(reference)[:-1] / int(reference.sum())
        lowest = max(int(np.searchsorted(below, _TRIM, side="right")) - 1, 0)
        highest = min(int(np.searchsorted(below, 1 - _TRIM)), len(edges) - 1)
        within = edges.clip(edges[lowest], edges[highest])
        widths = _widths(within)
        masses = np.diff(below, prepend=0.0, append=1.0)
        middles = np.concatenate([within[:1], within[:-1] / 2 + within[1:] / 2, within[-1:]])
        centre = float(masses @ middles)
        spread = np.sqrt(masses @ (middles - centre) ** 2)
        part = np.arange(len(edges)) * min(_POINTS, len(edges)) // len(edges)
        weights = np.bincount(part, weights=widths)
        share = np.bincount(part, weights=widths * below) / np.where(weights > 0, weights, 1.0)
        deviations = np.sqrt(share * (1 - share))
        low, high = np.minimum.outer(share, share), np.maximum.outer(share, share)
        bottom = high * (1 - low)
        rho = np.sqrt(np.divide(low * (1 - high), bottom, out=np.zeros_like(low), where=bottom > 0)).clip(0.0, 1.0)
        scaled = weights * deviations
        covariance = (2 / math.pi) * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho) - 1)
        mean, variance = math.sqrt(2 / math.pi) * scaled.sum(), scaled @ covariance @ scaled
        return cls(np.append(widths, 0.0), spread, mean, variance)

    @classmethod
    def stack(cls, scales: Sequence[Scale], width: int) -> Scale:
        """Put metrics side by side, each with ``width`` cells."""
        widths = np.zeros((len(scales), width))
        for row, scale in enumerate(scales):
            widths[row, : len(scale.widths)] = scale.widths
        return cls(
            widths, *(np.array([getattr(one, name) for one in scales]) for name in ("spread", "mean", "variance"))
        )


def wasserstein(reference: Ints, detection: Ints, scale: Scale, design_effect: Floats | float = 1.0) -> Wasserstein:
    """Compute W = integral of |F - G| over the range of the reference, divided by its standard deviation.

    The range is that from the 1 % to the 99 % point of the reference; a value outside of it counts at its end, in F, G
    and the deviation alike, and values inside a cell as spread evenly.
    Without drift, sqrt(n m / (n + m)) W tends to the integral of |B(F(x))|, B a Brownian bridge. Its mean and variance
    follow from those of absolute values of normal variables, in closed form; the p-value is that of the gamma law with
    the same two. (Achieved at 5 % and 1 %, 1 500 windows each of normal, lognormal and Poisson values: 4.1 to 6.3 % and
    0.9 to 1.9 %.)

    Parameters
    ----------
    reference, detection
        Counts per cell without "missing" along the last axis, n and m in total. Any axes before it hold independent
        pairs of windows.
    scale
        `Scale.of` the reference, or of the metrics along the axis before the last.
    design_effect
        How many events count as one (`models.reference.dependence`).

    Returns
    -------
    NaN where either window is empty, or the reference has no spread.

    Examples
    --------
    All mass moves from the first of two equally likely places to the other: half of the mass by twice the deviation.

    >>> edges, reference = np.array([0.0, 2.0]), np.array([5, 0, 5])
    >>> float(wasserstein(reference, np.array([0, 0, 10]), Scale.of(edges, reference)).statistic)
    1.0

    References
    ----------
    E. del Barrio, E. Gine, C. Matran, "Central limit theorems for the Wasserstein distance between the empirical and
    the true distributions", Ann. Probab. 27, 1999.
    """
    n, m = reference.sum(axis=-1), detection.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.cumsum(reference, axis=-1) / n[..., None] - np.cumsum(detection, axis=-1) / m[..., None]
        distance = np.where(scale.spread > 0, np.sum(np.abs(apart) * scale.widths, axis=-1), np.nan)
        rate = scale.mean / scale.variance
        p_value = gammaincc(scale.mean * rate, np.sqrt(n * m / (n + m) / design_effect) * distance * rate)
        p_value = np.where(scale.variance > 0, p_value, np.where(distance > 0, 0.0, 1.0))
        return Wasserstein(distance / scale.spread, np.where(np.isnan(distance), np.nan, p_value))


def _widths(edges: Floats) -> Floats:
    """How far each edge reaches: half of the cells on either side, so that sums over edges are trapezoids."""
    steps = np.diff(edges)
    widths: Floats = (np.append(steps, 0.0) + np.append(0.0, steps)) / 2
    return widths
