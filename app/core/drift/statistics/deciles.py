"""Deciles d1 … d10 from the counts of metrics' cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.core.batches import Floats, Ints
    from models.reference.reference import MetricCells

#: Names of the ten, in order.
DECILES = tuple(f"d{tenth}" for tenth in range(1, 11))

_TENTHS = np.arange(1, 11)


@dataclass(frozen=True, eq=False)
class DecileCells:
    """The cells of M metrics side by side, M x cells: what they begin and end with, infinite at the ends."""

    lows: Floats
    highs: Floats
    sizes: Ints
    is_coded: NDArray[np.bool_]

    @classmethod
    def stack(cls, metrics: Sequence[MetricCells]) -> DecileCells:
        sizes = np.array([cells.size for cells in metrics], np.int64)
        shape = len(metrics), int(sizes.max())
        lows, highs = np.full(shape, -np.inf), np.full(shape, np.inf)
        for row, cells in enumerate(metrics):
            n_edges = len(cells.edges)
            lows[row, 1 : n_edges + 1], highs[row, :n_edges] = cells.edges, cells.edges
        return cls(lows, highs, sizes, np.array([cells.is_coded for cells in metrics], dtype=bool))

    def deciles(self, counts: Ints, minima: Floats, maxima: Floats) -> Floats:
        """Compute d1 … d10 of the values that are not missing, of each metric: M x 10; see `deciles`."""
        n_metrics, width = self.lows.shape
        rows = np.arange(n_metrics)
        present = np.where(np.arange(width) < self.sizes[:, None], counts[:, :width], 0)
        upto = np.cumsum(present, axis=1)
        n = upto[:, -1]
        targets = n[:, None] * _TENTHS  # tenths of a rank
        # The first cell with 10 * upto >= target, of all metrics in one search: one's ranks come after the last one's.
        above = rows[:, None] * (10 * int(n.max()) + 1)
        where = np.searchsorted((10 * upto + above).ravel(), (targets + above).ravel()).reshape(n_metrics, 10)
        cell = rows[:, None], where - rows[:, None] * width
        smallest, largest = minima[:, None], maxima[:, None]
        low, high = np.maximum(self.lows[cell], smallest), np.minimum(self.highs[cell], largest)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = (targets - 10 * (upto[cell] - present[cell])) / (10 * present[cell])
            values = low + inside * (high - low)
            values = np.where(high <= np.nextafter(low, np.inf), low, values)  # the cell holds one value
            # Infinite values: the edge is the only number known.
            values = np.where(np.isinf(low) & np.isfinite(high), high, np.where(np.isinf(high), low, values))
        values[:, -1] = maxima
        deciles: Floats = np.where(self.is_coded[:, None], cell[1], values.clip(smallest, largest))
        deciles[n == 0] = np.nan
        return deciles


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

    >>> from models.reference.reference import MetricCells
    >>> metric = MetricCells("x", "numeric", np.array([0.0, 10.0]))
    >>> deciles(metric, np.array([0, 10, 0, 3]), 0.0, 10.0)[[0, 4, 9]].tolist()
    [1.0, 5.0, 10.0]
    """
    one = DecileCells.stack([cells]).deciles(counts[None], np.array([minimum]), np.array([maximum]))
    alone: Floats = one[0]
    return alone
