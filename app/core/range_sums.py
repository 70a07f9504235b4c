"""Sums over a range of positions and values: what a read needs to know about the updates before it."""

from __future__ import annotations

import numpy as np

from app.core.batches import Ints


def start_at_zero(values: Ints) -> Ints:
    """Running sums with a leading 0: ``result[j] - result[i]`` is the sum of ``values[i:j]``."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def sum_below(ranks: Ints, weights: tuple[Ints, ...], starts: Ints, ends: Ints, bounds: Ints) -> tuple[Ints, ...]:
    """For each query, the sum of the weights at positions start…end whose rank is below a bound.

    A wavelet matrix: ranks are sorted bit by bit, and each query follows its range through the partitions, in
    O((n + q) log n).

    Parameters
    ----------
    ranks
        Non-negative numbers below the number of positions, one per position.
    weights
        Arrays to sum, each as long as ``ranks``.
    starts, ends, bounds
        One per query; ``starts <= ends``, ``bounds`` from 0 to one above the highest rank.

    Returns
    -------
    One array of sums per array of weights.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(4, dtype=np.int64)
    >>> (count,) = sum_below(np.array([2, 0, 1, 0]), (one,), np.array([0, 1]), np.array([3, 4]), np.array([2, 1]))
    >>> count.tolist()
    [2, 2]
    """
    totals = tuple(np.zeros(len(starts), dtype=np.int64) for _ in weights)
    for bit in reversed(range(len(ranks).bit_length())):
        is_one = (ranks >> bit) & 1
        zeros = start_at_zero(1 - is_one)
        order = np.argsort(is_one, kind="stable")
        ranks = ranks[order]
        weights = tuple(weight[order] for weight in weights)
        start_zero, end_zero = zeros[starts], zeros[ends]
        above = ((bounds >> bit) & 1).astype(bool)
        for total, weight in zip(totals, weights, strict=True):
            sums = start_at_zero(weight)
            np.add(total, np.where(above, sums[end_zero] - sums[start_zero], 0), out=total)
        starts = np.where(above, zeros[-1] + starts - start_zero, start_zero)
        ends = np.where(above, zeros[-1] + ends - end_zero, end_zero)
    return totals
