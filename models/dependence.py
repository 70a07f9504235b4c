"""How many events count as one where events resemble those before them: the design effect, from events in time order.

A share of n independent events has the variance p (1 - p) / n. Events that resemble their neighbours (weather, bursts,
sessions) give it a larger one; the ratio is the design effect, and n divided by it the number of independent events
that say as much. Tests that take n for that number alarm for nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

#: Blocks of the longest length that is looked at; fewer say too little about the variance between them.
FEWEST_BLOCKS = 32
#: Where a value is cut into "below" and "not below": the deciles.
_CUTS = 9
# A correlation counts as found from so many standard errors on: over nine cuts and some ten lengths of blocks, about
# one independent metric in two hundred is taken for a dependent one.
_FOUND = 4.0


def design_effect(cells: Ints, n_cells: int, *, in_order: bool) -> float:
    """Estimate the variance of shares relative to independent events; at least 1, and 1 without evidence of more.

    Values are cut at their nine deciles and where they are missing, and their ranks are taken as they are
    (categories: each of the nine most frequent against the rest). The events are divided into blocks of 1, 2, 4, …
    neighbours. While neighbouring blocks are correlated, blocks are too short; twice the first length at which none
    are any more, the variance between blocks is taken for that between independent ones. The largest ratio of them
    counts and, as it is an estimate, its upper 90 % limit. (AR(1) of 0.6: the share below the median needs 2.9, the
    mean rank 3.9.)

    Parameters
    ----------
    cells
        The cell of each of n events, in the order of time; ``n_cells`` where it has no value.
    n_cells
        Number of cells.
    in_order
        Whether the order of the cells means something (numbers) or not (categories).

    Returns
    -------
    1 for fewer than 64 events, and for a metric of one value.

    Examples
    --------
    A value that stays for eight events at a time: eight of them are one.

    >>> values = np.random.default_rng(1).integers(0, 10, 4096)
    >>> 7 < design_effect(np.repeat(values, 8), 10, in_order=True) < 11
    True
    >>> design_effect(values, 10, in_order=True)
    1.0

    References
    ----------
    H. Flyvbjerg, H. Petersen, "Error estimates on averages of correlated data", J. Chem. Phys. 91, 1989; L. Kish,
    "Survey Sampling", Wiley 1965, for the name.
    """
    marks = _marks(cells, n_cells, in_order=in_order)
    if not len(marks):
        return 1.0
    sums, length = marks - marks.mean(axis=1, keepdims=True), 1
    variances = (sums**2).mean(axis=1)
    effects, is_correlated = [], []
    while sums.shape[1] >= FEWEST_BLOCKS:
        blocks = sums.shape[1]
        squares = (sums**2).sum(axis=1)
        effects.append(float((squares / (blocks * length * variances)).max()))
        neighbours = (sums[:, 1:] * sums[:, :-1]).sum(axis=1)
        is_correlated.append(bool((neighbours > _FOUND / math.sqrt(blocks) * squares).any()))
        sums = sums[:, : blocks // 2 * 2].reshape(len(sums), -1, 2).sum(axis=2)
        length *= 2
    if not any(is_correlated):
        return 1.0
    level = min(max(np.flatnonzero(is_correlated).tolist()) + 2, len(effects) - 1)
    blocks = len(cells) >> level
    upper = 1 + 1.28 * math.sqrt(2 / blocks)
    return max(1.0, effects[level] * upper)


def _marks(cells: Ints, n_cells: int, *, in_order: bool) -> Floats:
    """Marks x events: 1 where the event is below the cut (or of the category), 0 where not; and ranks."""
    n = len(cells)
    if n < 2 * FEWEST_BLOCKS:
        return np.empty((0, n))
    counts = np.bincount(cells, minlength=n_cells + 1)
    if not in_order:
        frequent = np.argsort(-counts, kind="stable")[:_CUTS]
        frequent = frequent[(counts[frequent] > 0) & (counts[frequent] < n)]
        marks: Floats = (cells == frequent[:, None]).astype(np.float64)
        return marks
    upto = np.cumsum(counts)
    tenths = np.arange(1, _CUTS + 1) * n
    last = np.unique(np.append(np.searchsorted(upto * 10, tenths), n_cells - 1))
    last = last[(upto[last] > 0) & (upto[last] < n)]
    if not len(last):
        return np.empty((0, n))
    ranks = (upto - counts / 2)[cells] / n
    return np.vstack([cells <= last[:, None], ranks])
