"""A mean loss without labels, for any loss: direct loss estimation (DLE) on counts.

It sees how a window's events are spread over cells, and nothing else: not that errors within a cell have grown (concept
drift, noise), nor a shift of inputs that leaves the cells as they are. Over cells of the prediction, it sees nothing
where a model errs alike for all predictions, or where errors depend on inputs and not on the prediction.
"""

from __future__ import annotations

import math

import numpy as np

from app.core.batches import Floats, Ints
from app.core.performance.estimation import Estimate, with_band


def estimate_loss(
    loss_sums: Floats,
    loss_squares: Floats,
    counts: Ints,
    detection_counts: Ints,
    design_effect: float = 1.0,
) -> Estimate:
    """Estimate a window's mean loss directly, from the mean loss of each cell in the reference (DLE).

    For any loss of one event, such as a regressor's absolute or squared error, by cells of its prediction or of what
    else the loss depends on: `app.evaluation.loss_cells` finds them.

    Parameters
    ----------
    loss_sums, loss_squares, counts
        Of the reference's labelled events, per cell: sum of the losses, of their squares, and how many.
    detection_counts
        The window's events per cell. Those of cells without reference are left out: they are not in the band either.
    design_effect
        How many autocorrelated events count as one.

    Returns
    -------
    A mean loss per event and the 95 % band of what the window will realise. NaN without events in known cells or
    with fewer than two reference events.

    Examples
    --------
    Losses 1, 3 in the first cell and 5, 7 in the second; a window with three quarters in the second: (2 + 3 * 6) / 4.

    >>> found = estimate_loss(np.array([4.0, 12.0]), np.array([10.0, 74.0]), np.array([2, 2]), np.array([1, 3]))
    >>> found.estimated
    5.0

    References
    ----------
    NannyML's direct loss estimation asks a second model for the loss of each event; here its leaves are counted.
    """
    known = counts > 0
    n = np.where(known, detection_counts, 0)
    total = int(n.sum())
    free = int(counts.sum()) - int(np.count_nonzero(known))
    if total == 0 or int(counts.sum()) < 2:
        return Estimate("loss", math.nan, math.nan, math.nan, math.nan)
    m = np.maximum(counts, 1)
    means = loss_sums / m
    within = np.maximum(loss_squares - m * means**2, 0.0)
    # A cell with few events knows its own spread badly: it is lent one event of the spread within all cells.
    overall = within.sum() / free if free else np.var(means[known], ddof=1)
    spread = (within + overall) / m
    share = n / total
    variance = float((share**2 * spread / m + share * spread / total).sum()) * max(design_effect, 1.0)
    return with_band("loss", float(share @ means), math.sqrt(variance), -math.inf, math.inf)
