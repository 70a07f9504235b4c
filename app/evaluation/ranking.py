"""How good lists are of which somebody sees the first few: precision and NDCG, whatever put them in order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RESAMPLES = 400


@dataclass(frozen=True)
class Figure:
    """A mean over lists, and its 95 % range over what entities there might have been."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RankingQuality:
    """What the first places of lists are worth.

    Attributes
    ----------
    precision
        The share of the first places that hold a positive, over all lists. A place that a short list lacks holds none.
    ndcg
        Normalised discounted cumulative gain, over the lists that hold a positive; the others have none.
    """

    precision: Figure
    ndcg: Figure


def judge_lists(scores: Floats, labels: Floats, lists: Ints, entities: Ints, top: int) -> RankingQuality:
    """Judge the order that scores give to lists of candidates.

    Candidates of equal score are in no order: each of their places counts as the mean of their labels, which is what a
    draw would give on average. So one score for all is the random order, exactly.

    Parameters
    ----------
    scores, labels
        One each per candidate; labels are 0 or 1.
    lists
        Which list each candidate is in, from 0 on without gaps.
    entities
        Whose each list is, one per list. Lists of one entity resemble each other, so the ranges draw entities.
    top
        How many places are seen, k in precision@k.

    Raises
    ------
    ValueError
        Where no list holds a positive.

    Examples
    --------
    Two places of one list are seen: one holds a positive, and it is the second. The gain is 1 / log2(3); the best order
    has both positives there, 1 + 1 / log2(3).

    >>> one = np.zeros(4, np.int64)
    >>> found = judge_lists(np.array([4.0, 3, 2, 1]), np.array([0.0, 1, 1, 0]), one, np.zeros(1, np.int64), 2)
    >>> found.precision.value, round(found.ndcg.value, 3)
    (0.5, 0.387)

    In random order each place holds half a positive: (0.5 + 0.5 / log2(3)) / (1 + 1 / log2(3)).

    >>> found = judge_lists(np.ones(4), np.array([0.0, 1, 1, 0]), one, np.zeros(1, np.int64), 2)
    >>> found.precision.value, found.ndcg.value
    (0.5, 0.5)

    References
    ----------
    K. Järvelin, J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20, 2002.
    """
    order = np.lexsort((-scores, lists))
    of_list, score, label = lists[order], scores[order], labels[order]
    n_lists = int(of_list[-1]) + 1
    starts = np.flatnonzero(np.diff(of_list, prepend=-1))
    place = np.arange(len(order)) - starts[of_list]
    is_new = (np.diff(of_list, prepend=-1) != 0) | (np.diff(score, prepend=np.nan) != 0)
    tie = np.cumsum(is_new) - 1
    expected = (np.bincount(tie, label) / np.bincount(tie))[tie]
    seen = place < top
    discount: Floats = 1 / np.log2(np.arange(top, dtype=np.float64) + 2)
    hits = np.bincount(of_list[seen], expected[seen], n_lists)
    gains = np.bincount(of_list[seen], expected[seen] * discount[place[seen]], n_lists)
    positives = np.bincount(of_list, label, n_lists).astype(np.int64)
    ideal = np.concatenate(([0.0], np.cumsum(discount)))[np.minimum(positives, top)]
    if not positives.any():
        raise ValueError("no list holds a positive; judge lists whose labels have come")
    shares: Floats = np.zeros(n_lists)
    np.divide(gains, ideal, out=shares, where=positives > 0)
    return RankingQuality(
        _mean(np.asarray(hits / top, np.float64), np.ones(n_lists), entities),
        _mean(shares, (positives > 0).astype(np.float64), entities),
    )


def _mean(values: Floats, weights: Floats, entities: Ints) -> Figure:
    """The weighted mean over lists, and the range of those of resampled entities."""
    of_entity = np.unique(entities, return_inverse=True)[1]
    totals, sizes = np.bincount(of_entity, values * weights), np.bincount(of_entity, weights)
    n = len(totals)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), _RESAMPLES)
    seen = drawn @ sizes
    means = (drawn @ totals)[seen > 0] / seen[seen > 0]
    low, high = np.quantile(means, (0.025, 0.975))
    return Figure(float(totals.sum() / sizes.sum()), float(low), float(high))
