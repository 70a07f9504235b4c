"""Deciles d1 … d10 from the counts of a metric's cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints
    from models.reference import MetricCells

#: Names of the ten, in order.
DECILES = tuple(f"d{tenth}" for tenth in range(1, 11))


def deciles(cells: MetricCells, counts: Ints, minimum: float, maximum: float) -> Floats:
    """Compute d1 … d10 of the values that are not missing.

    d_i is the value at rank i n / 10. Inside a cell, values count as spread evenly between its edges (at the ends:
    between the exact minimum or maximum and the edge), so the error is less than the width of one cell. A cell of one
    value gives that value. Ranks are compared in integers: no rounding decides which cell a decile falls into.

    Parameters
    ----------
    cells
        The cells of the metric.
    counts
        Events per cell, "missing" included (ignored).
    minimum, maximum
        Exact extremes of the same events.

    Returns
    -------
    Ascending, all within [minimum, maximum], d10 = maximum; of a category or a label, codes. NaN without any value.

    Examples
    --------
    Cells (-inf, 0), [0, 10), [10, inf); ten values in the middle one, from 0 to 10:

    >>> from models.reference import MetricCells
    >>> metric = MetricCells("x", "numeric", np.array([0.0, 10.0]))
    >>> deciles(metric, np.array([0, 10, 0, 3]), 0.0, 10.0)[[0, 4, 9]].tolist()
    [1.0, 5.0, 10.0]
    """
    present = counts[: cells.size]
    n = int(present.sum())
    if n == 0:
        return np.full(10, math.nan)
    upto = np.cumsum(present)
    targets = np.arange(1, 11) * n  # tenths of a rank
    where = np.searchsorted(upto * 10, targets)  # first cell with 10 * upto >= target
    if cells.is_coded:
        return where.astype(np.float64)
    values = np.empty(10)
    for tenth, cell in enumerate(where.tolist()):
        low = float(cells.edges[cell - 1]) if cell > 0 else minimum
        high = float(cells.edges[cell]) if cell < len(cells.edges) else maximum
        low, high = max(low, minimum), min(high, maximum)
        inside = (int(targets[tenth]) - 10 * (int(upto[cell]) - int(present[cell]))) / (10 * int(present[cell]))
        values[tenth] = _between(low, high, inside)
    values[-1] = maximum
    return np.clip(values, minimum, maximum)


def _between(low: float, high: float, part: float) -> float:
    if high <= math.nextafter(low, math.inf):
        return low  # the cell holds one value
    if math.isinf(low) or math.isinf(high):  # infinite values: the edge is the only number known
        return high if math.isinf(low) and not math.isinf(high) else low
    return low + part * (high - low)
