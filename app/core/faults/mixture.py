"""A window as a mixture of training and of something else, in the shares that fit it best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from app.core.batches import Floats
    from app.core.faults.law import Law

#: What is beyond this many standard errors is not chance, at any of a hundred cells.
SURE = 4.0
LEAST_SHARE = 0.05
_ALMOST_ALL = 0.99
#: What is left is at most this part of what has moved, besides noise.
_LEFT = 0.25


class Mixtures:
    """The mixtures of training and each of some laws that are nearest to a window.

    Arrays are laws x edges of cells.

    Parameters
    ----------
    window, training
        Of one metric.
    low, high
        The least and the most that each law can be at `inner` points of the window.
    n
        Independent events of the window.
    drift
        Per law, the share of its values, and of training's, that may have drifted.
    """

    def __init__(self, window: Law, training: Law, low: Floats, high: Floats, n: float, drift: Floats) -> None:  # noqa: PLR0917  # two laws, and bounds of more
        self.n = n
        self.detection = window.below[1:-1]
        self.old = np.add(*training.bounds(inner(window))) / 2
        self.new = (low + high) / 2
        step, moved = self.new - self.old, self.detection - self.old
        # Where the two are most apart, each value is known to be of the one or of the other.
        within = self.old * (1 - self.old) + self.new * (1 - self.new) + 1 / training.n + 1 / n
        weights = step / within
        with np.errstate(all="ignore"):
            shares = (weights @ moved[:, None])[:, 0] / (weights * step).sum(axis=1)
        self.shares = np.clip(np.nan_to_num(shares), 0.0, 1.0)
        #: Of the share of the window's own values.
        self.errors = 1 / np.sqrt(np.maximum((step**2 / within).max(axis=1) * n, 1e-9))
        self.apart = np.abs(step).max(axis=1)
        share = self.shares[:, None]
        self.mixed = (1 - share) * self.old + share * self.new
        # Where a cell of a law lies across a point, the mixture is only known within bounds.
        excess = np.maximum(np.abs(self.detection - self.mixed) - share * (high - low) / 2, 0.0)
        chance = np.sqrt(self.shares * (1 - self.shares) / n) / np.maximum(self.apart, 0.1)
        is_all = (self.shares > _ALMOST_ALL) | (self.shares + SURE * self.errors > 1)
        is_sure = (self.shares - SURE * chance >= LEAST_SHARE) & ~is_all
        is_left = excess.max(axis=1) > _LEFT * np.abs(moved).max() + 1 / math.sqrt(n)
        drifted = drift * ((1 - share) * _spread(self.old) + share * _spread(self.new))
        fits = (excess <= _noise(self.mixed, n, training.n) + drifted).all(axis=1)
        #: Which of the laws may be mixed in, by the shares below each point, in a share that is surely neither 0 nor 1.
        self.are_near = is_sure & ~is_left & fits


def inner(window: Law) -> Floats:
    """The edges of cells between a window's extremes."""
    return window.points[1:-1]


def bounds(law: Law, points: Floats) -> tuple[Floats, Floats]:
    """The least and the most that P(X < x) can be, for points that may be off by the last digits."""
    nudge = 1e-9 * np.abs(points)
    return law.bounds(points - nudge)[0], law.bounds(points + nudge)[1]


def _noise(below: Floats, n: float, n_training: int) -> Floats:
    """How far chance moves shares, at most."""
    variance = below * (1 - below) + 1 / n_training  # where training had none, it may have missed some
    return SURE * np.sqrt(variance * (1 / n + 1 / n_training)) + 1 / n


def _spread(below: Floats) -> Floats:
    """1 in the middle, and 0 at the ends, where what drifts moves no share."""
    return 4 * below * (1 - below)
