"""The trend of each decile over the windows: ordinary least squares on d = alpha + beta t."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import stdtr

if TYPE_CHECKING:
    from app.core.batches import Floats


class Trend(NamedTuple):
    """Per decile: intercept, slope, t-statistic of the slope and its two-sided p-value."""

    alpha: Floats
    beta: Floats
    t_statistic: Floats
    p_value: Floats


def trend(times: Floats, deciles: Floats) -> Trend:
    """Fit d = alpha + beta t by least squares and test beta = 0.

    The test assumes independent residuals; windows that depend on the one before raise more false trends than alpha
    says (14 / 30 / 60 % at AR(1) 0.3 / 0.6 / 0.9, nominal 5 %).

    Parameters
    ----------
    times
        t of T >= 3 windows, not all equal.
    deciles
        d, T x deciles.

    Returns
    -------
    t = beta / sqrt(RSS / (T - 2) / S_tt). A constant decile has t 0 and p 1; one exactly on a line t infinite and p 0.

    Examples
    --------
    d = 1, 2, 4 at t = 0, 1, 2: beta 3/2, residuals 1/6, -1/3, 1/6, so t = 1.5 / sqrt(1/6 / 2) = 5.196 = 3 sqrt(3).

    >>> result = trend(np.array([0.0, 1.0, 2.0]), np.array([[1.0], [2.0], [4.0]]))
    >>> round(result.beta.item(), 12), round(result.t_statistic.item(), 6), round(result.p_value.item(), 6)
    (1.5, 5.196152, 0.121038)

    References
    ----------
    N. Draper, H. Smith, "Applied Regression Analysis", 3rd ed., Wiley 1998, chapter 1.
    """
    n_windows = len(times)
    centred = times - times.mean()
    middle = deciles.mean(axis=0)
    squares = float(np.sum(centred**2))
    beta = np.sum(centred[:, None] * (deciles - middle), axis=0) / squares
    residuals = deciles - middle - centred[:, None] * beta
    rss = np.sum(residuals**2, axis=0)
    # What rounding leaves of an exact line or a constant is not a residual.
    noise = n_windows * (np.finfo(np.float64).eps * 8 * np.abs(deciles).max(axis=0)) ** 2
    is_exact = rss <= noise
    beta = np.where(is_exact & (np.abs(beta) * np.sqrt(squares) <= np.sqrt(noise)), 0.0, beta)
    error = np.sqrt(np.where(is_exact, 1.0, rss) / (n_windows - 2) / squares)
    t_statistic = np.where(is_exact, np.where(beta == 0, 0.0, np.copysign(np.inf, beta)), beta / error)
    p_value = 2.0 * stdtr(n_windows - 2, -np.abs(t_statistic))
    return Trend(middle - beta * times.mean(), beta, t_statistic, p_value)
