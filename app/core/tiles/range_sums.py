"""Sums and maxima over a range of positions and values: what a read needs to know about the updates before it.

Both follow a wavelet matrix: ranks are sorted bit by bit, and each query follows its range of positions through the
partitions, O(log n) of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints


def start_at_zero(values: Ints) -> Ints:
    """Running sums with a leading 0: ``result[j] - result[i]`` is the sum of ``values[i:j]``, by column."""
    sums = np.zeros((len(values) + 1, *values.shape[1:]), dtype=np.int64)
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


def sum_below(ranks: Ints, weights: Ints, starts: Ints, ends: Ints, bounds: Ints) -> Ints:
    """For each query, the sums of the weights at positions start…end - 1 whose rank is below a bound.

    Parameters
    ----------
    ranks
        Non-negative numbers below the number of positions, one per position.
    weights
        Positions x columns to sum.
    starts, ends, bounds
        One per query; ``starts <= ends``, ``bounds`` from 0 to one above the highest rank.

    Returns
    -------
    Queries x columns.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones((4, 1), dtype=np.int64)
    >>> count = sum_below(np.array([2, 0, 1, 0]), one, np.array([0, 1]), np.array([3, 4]), np.array([2, 1]))
    >>> count[:, 0].tolist()
    [2, 2]
    """
    totals = np.zeros((len(starts), weights.shape[1]), dtype=np.int64)
    for bit, order, zeros in _partitions(ranks):
        weights = weights[order]
        sums = start_at_zero(weights)
        start_zero, end_zero = zeros[starts], zeros[ends]
        above = (bounds >> bit) & 1 == 1
        totals[above] += sums[end_zero[above]] - sums[start_zero[above]]
        starts = np.where(above, zeros[-1] + starts - start_zero, start_zero)
        ends = np.where(above, zeros[-1] + ends - end_zero, end_zero)
    return totals


def max_between(
    ranks: Ints, weights: Ints, positions: tuple[Ints, Ints], between: tuple[Ints, Ints], nothing: int
) -> Ints:
    """For each query, the largest weight at positions start…end - 1 whose rank is in low…high - 1.

    Parameters
    ----------
    ranks
        As in `sum_below`.
    weights
        One per position.
    positions
        Start and end, one per query.
    between
        Low and high, one per query; each from 0 to one above the highest rank.
    nothing
        The result where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> ranks, weights = np.array([2, 0, 1, 0]), np.array([9, 4, 6, 5])
    >>> positions, between = (np.array([0, 0]), np.array([4, 3])), (np.array([0, 1]), np.array([1, 3]))
    >>> max_between(ranks, weights, positions, between, -1).tolist()
    [5, 9]
    """
    (starts, ends), (low, high) = positions, between
    greatest = np.full(len(starts), nothing, dtype=np.int64)
    # Two paths down, that of ``low`` and that of ``high``. Once they have parted, what lies between them is whole
    # partitions: the ones beside each 0 of ``low``, the zeros beside each 1 of ``high``, and the end of low's path.
    wanted = low < high
    has_parted = np.zeros(len(starts), dtype=bool)
    low_starts, low_ends, high_starts, high_ends = starts, ends, starts, ends

    def take(largest: RangeMax, which: NDArray[np.bool_], starts: Ints, ends: Ints) -> None:
        greatest[which] = np.maximum(greatest[which], largest.between(starts[which], ends[which]))

    for bit, order, zeros in _partitions(ranks):
        weights = weights[order]
        largest = RangeMax(weights, nothing)
        low_one, high_one = (low >> bit) & 1 == 1, (high >> bit) & 1 == 1
        zero_starts, zero_ends = zeros[low_starts], zeros[low_ends]
        one_starts, one_ends = zeros[-1] + low_starts - zero_starts, zeros[-1] + low_ends - zero_ends
        take(largest, wanted & has_parted & ~low_one, one_starts, one_ends)
        low_starts, low_ends = np.where(low_one, one_starts, zero_starts), np.where(low_one, one_ends, zero_ends)
        zero_starts, zero_ends = zeros[high_starts], zeros[high_ends]
        one_starts, one_ends = zeros[-1] + high_starts - zero_starts, zeros[-1] + high_ends - zero_ends
        take(largest, wanted & has_parted & high_one, zero_starts, zero_ends)
        high_starts, high_ends = np.where(high_one, one_starts, zero_starts), np.where(high_one, one_ends, zero_ends)
        has_parted |= low_one != high_one
    take(RangeMax(weights, nothing), wanted, low_starts, low_ends)
    return greatest


class RangeMax:
    """The largest of any range of positions, two look-ups each: maxima of all ranges as long as a power of two."""

    def __init__(self, values: Ints, nothing: int) -> None:
        self._nothing = nothing
        levels = [values]
        half = 1
        while 2 * half <= len(values):
            last = levels[-1]
            levels.append(np.append(np.maximum(last[:-half], last[half:]), last[-half:]))
            half *= 2
        self._levels = np.stack(levels)

    def between(self, starts: Ints, ends: Ints) -> Ints:
        """The maximum at start…end - 1; ``nothing`` where that is empty."""
        largest = np.full(len(starts), self._nothing, dtype=np.int64)
        at = np.flatnonzero(starts < ends)
        starts, ends = starts[at], ends[at]
        level = np.frexp(ends - starts)[1].astype(np.int64) - 1
        largest[at] = np.maximum(self._levels[level, starts], self._levels[level, ends - (1 << level)])
        return largest


def _partitions(ranks: Ints) -> Iterator[tuple[int, Ints, Ints]]:
    """From the highest bit down: the bit, the order that puts its zeros first, and the zeros before each position."""
    for bit in reversed(range(len(ranks).bit_length())):
        is_one = (ranks >> bit) & 1
        order = np.argsort(is_one.astype(np.int8), kind="stable")
        yield bit, order, start_at_zero(1 - is_one)
        ranks = ranks[order]
