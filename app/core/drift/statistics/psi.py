"""Population stability index (PSI) of two sets of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtrc

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints


class Psi(NamedTuple):
    """``statistic`` >= 0 and 0 for equal counts; ``p_value`` of no drift; ``groups`` compared."""

    statistic: Floats
    p_value: Floats
    groups: Ints


def psi(reference: Ints, detection: Ints, design_effect: Floats | float = 1.0) -> Psi:
    """Compute PSI = sum of (q_b - p_b) ln(q_b / p_b) over groups b.

    Half a pseudo-count is added to each group of both windows: an empty group then costs what its size can justify,
    where a fixed epsilon makes it arbitrarily dear. Groups that are empty in both are left out.

    Without drift PSI is distributed about as (1/n + 1/m) chi^2 with B - 1 degrees of freedom, so what 0.2 means
    depends on n and m; the p-value says it.

    Parameters
    ----------
    reference, detection
        Counts per group b along the last axis, n and m in total; p_b and q_b are their shares. Any axes before it hold
        independent pairs of windows.
    design_effect
        How many events count as one (`models.reference.dependence`).

    Returns
    -------
    NaN where either window is empty.

    Examples
    --------
    Shares 1/4, 3/4 against 3/4, 1/4 (pseudo-counts included): 2 * (1/2) * ln 3.

    >>> bool(abs(psi(np.array([2, 7]), np.array([7, 2])).statistic - np.log(3)) < 1e-12)
    True
    >>> same = psi(np.array([5, 0]), np.array([5, 0]))
    >>> float(same.statistic), float(same.p_value), int(same.groups)
    (0.0, 1.0, 1)

    References
    ----------
    B. Yurdakul, "Statistical Properties of Population Stability Index", Western Michigan University, 2018.
    """
    used = (reference > 0) | (detection > 0)
    n, m, groups = reference.sum(axis=-1), detection.sum(axis=-1), used.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (reference + 0.5) / (n + 0.5 * groups)[..., None]
        q = (detection + 0.5) / (m + 0.5 * groups)[..., None]
        is_empty = (n == 0) | (m == 0)
        statistic = np.where(is_empty, np.nan, np.sum((q - p) * np.log(q / p), axis=-1, where=used))
        p_value = chdtrc(np.maximum(groups - 1, 1), statistic / ((1 / n + 1 / m) * design_effect))
    return Psi(statistic, p_value, groups)


def group_cells(reference: Ints, n_groups: int, by_size: bool = False) -> Ints:
    """Join neighbouring cells into at most ``n_groups`` groups, each with at least that share of the mass.

    Parameters
    ----------
    reference
        Counts of the reference per cell, "missing" last. It always is a group to itself, beside the ``n_groups``.
    by_size
        Join from the largest cell to the smallest instead of along the axis: rare categories end up together.

    Returns
    -------
    The group of each cell, 0 … groups - 1.

    Examples
    --------
    >>> group_cells(np.array([1, 4, 3, 2, 9]), 2).tolist()
    [0, 0, 1, 1, 2]
    """
    present = reference[:-1]
    order = np.argsort(-present, kind="stable") if by_size else np.arange(len(present))
    total = int(present.sum())
    groups = np.empty(len(reference), np.int64)
    group, mass, left = 0, 0, total
    for cell in order.tolist():
        groups[cell] = group
        mass += int(present[cell])
        left -= int(present[cell])
        if left and mass * n_groups >= total and left * n_groups >= total:  # what is left makes a group of its own
            group, mass = group + 1, 0
    groups[-1] = group + 1
    return groups
