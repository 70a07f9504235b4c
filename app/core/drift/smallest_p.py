"""What the smallest p-value of a metric's tests is worth: its law without drift, from draws.

The tests of a metric look at the same counts, so their p-values resemble each other: the smallest of seven is below x
more often than one of them, and far less often than seven times. How often follows from the shares of the metric's
cells. It is drawn: both windows from the shares of the reference, with about as many events as count (design effects).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from app.core.drift.comparison import Comparison, smallest_p

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints
    from models.reference.reference import Reference

DRAWS = 4_000
_AT_ONCE = 160
_MOST_DOUBLINGS = 4
_STEP = 20
_TAIL = 0.1
# The tail's 400 draws pull the exponent away from 1, and so many pull it back. (Of independent events 1.02 windows per
# declared one were below 0.001; with 300 it was 1.19, as the exponents of numbers are 0.86 to 0.91.)
_PRIOR = 50
_LEAST = 1e-300


@dataclass(frozen=True, eq=False)
class SmallestP:
    """The law of each metric's smallest p-value without drift.

    Parameters
    ----------
    bulk
        Quantiles x metrics, ascending: as many as draws / ``_STEP``. 1 for a metric of which no test says anything.
    edge
        The quantile at which the tail begins, per metric.
    exponents
        Of the tail, which is a power of x: draws are too few there.
    """

    bulk: Floats
    edge: Floats
    exponents: Floats

    @classmethod
    @lru_cache(maxsize=64)
    def draw(cls, reference: Reference, tests: tuple[str, ...], n: int, m: int) -> SmallestP:
        """Draw windows of about ``m`` events against references of about ``n``, with the shares of the reference."""
        chance = np.random.default_rng([n, m])
        comparison = Comparison(reference, tests)
        independent = comparison.with_independent_events()
        shares = reference.counts / np.maximum(reference.counts.sum(axis=1, keepdims=True), 1)
        shares[:, 0] += shares.sum(axis=1) == 0
        before, after = (shares * np.maximum(size / comparison.design_effects, 1)[:, None] for size in (n, m))
        of_before, of_after = _windows_at_once(n, m)
        batches = [
            smallest_p(independent.compare(_draw(chance, before, of_before), _draw(chance, after, of_after)))
            for _ in range(DRAWS // _AT_ONCE)
        ]
        drawn = np.concatenate(batches).reshape(DRAWS, len(shares))
        drawn = np.sort(np.nan_to_num(drawn, nan=1.0), axis=0).clip(_LEAST)
        in_tail = int(_TAIL * DRAWS)
        edge = drawn[in_tail]
        depth = np.log(edge) - np.log(drawn[:in_tail])
        exponents = (in_tail + _PRIOR) / (depth.sum(axis=0) + _PRIOR)
        return cls(drawn[_STEP - 1 :: _STEP], edge, exponents)

    def p_value(self, smallest: Floats) -> Floats:
        """How often the smallest p-value is as small without drift.

        Parameters
        ----------
        smallest
            Per metric, along the last axis.

        Returns
        -------
        The same shape; NaN for NaN. In a metric of which no test ever says anything, the value itself.
        """
        below = np.count_nonzero(self.bulk <= smallest[..., None, :], axis=-2) / len(self.bulk)
        with np.errstate(invalid="ignore"):
            tail = np.where(self.edge < 0.5, _TAIL * (smallest / self.edge) ** self.exponents, smallest)
            worth: Floats = np.where(smallest < self.edge, tail, np.where(np.isnan(smallest), np.nan, below))
            return worth

    def smallest(self, p_value: Floats) -> Floats:
        """The smallest p-value of a metric's tests that is worth ``p_value``: the inverse, for small ones."""
        in_tail = self.edge * (p_value / _TAIL) ** (1 / self.exponents)
        smallest: Floats = np.minimum(np.where(self.edge < 0.5, in_tail, p_value), 1.0)
        return smallest


def _windows_at_once(n: int, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many windows of either side make ``_AT_ONCE`` pairs: two axes that broadcast.

    The larger side moves a statistic little. So each draw of it stands against several of the smaller one, at most as
    many as it is times as large: their pairs hardly depend on each other.
    """
    times = 2 ** min(int(math.log2(max(n / m, m / n))), _MOST_DOUBLINGS)
    larger, smaller = (_AT_ONCE // times, 1), (_AT_ONCE // times, times)
    return (larger, smaller) if n > m else (smaller, larger)


def _draw(chance: np.random.Generator, expected: Floats, windows: tuple[int, int]) -> Ints:
    """Windows, in two axes, x metrics x cells.

    Poisson counts are a multinomial draw of as many events as they happen to be, in half of its time; what a p-value is
    worth hardly depends on that number.
    """
    return chance.poisson(expected, size=(*windows, *expected.shape))
