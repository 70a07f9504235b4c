"""One metric in training and in a window, and what can be asked of the two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from app.core.drift.statistics.shares import change_of_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Floats, Ints
    from models.reference.reference import MetricCells

#: What is less probable than this is not chance.
CERTAIN = 1e-6
#: Shares below any point that have moved by no more, besides noise, are as they were.
UNCHANGED = 0.05
_ENOUGH = 100
_MANY_CELLS = 10


@dataclass(frozen=True, eq=False)
class Column:
    """One metric in training and in the window.

    Parameters
    ----------
    training, window
        Counts per cell, "missing" last.
    training_extremes, extremes
        Least and largest value of training, and of the window; NaN without any.
    mean
        Of the window's values; NaN where the sum may be saturated.
    design_effect
        How many events of the window count as one.
    values
        Names of a category's codes, as far as known.
    events
        What events are called, in the plural.
    training_mean
        Of the values of training; NaN where the sum may be saturated.
    """

    cells: MetricCells
    training: Ints
    window: Ints
    training_extremes: tuple[float, float]
    extremes: tuple[float, float]
    mean: float = math.nan
    design_effect: float = 1.0
    values: Sequence[str] = ()
    events: str = "events"
    training_mean: float = math.nan

    @property
    def name(self) -> str:
        return self.cells.name

    @cached_property
    def n_training(self) -> int:
        return int(self.training[: self.cells.size].sum())

    @cached_property
    def n(self) -> int:
        """Values of the window that are not missing."""
        return int(self.window[: self.cells.size].sum())

    @property
    def n_effective(self) -> float:
        return self.n / max(self.design_effect, 1.0)

    @cached_property
    def shares(self) -> tuple[Floats, Floats]:
        """Per cell, of the values that are not missing: training's and the window's."""
        size = self.cells.size
        return self.training[:size] / max(self.n_training, 1), self.window[:size] / max(self.n, 1)

    @property
    def is_shaped(self) -> bool:
        """Whether there are enough values, and enough different ones, to speak of a shape."""
        n_cells = int(np.count_nonzero(self.training[: self.cells.size]))
        return self.is_often_seen and n_cells >= _MANY_CELLS

    @property
    def is_often_seen(self) -> bool:
        """Whether the window holds enough independent values for the laws of chance to apply."""
        return self.n_effective >= _ENOUGH

    def is_more(self, cell: int) -> bool:
        """Whether a cell surely holds more than in training."""
        effect = max(self.design_effect, 1.0)
        count, n = round(int(self.window[cell]) / effect), round(self.n_effective)
        return float(change_of_share(int(self.training[cell]), self.n_training, count, n).p_value) < CERTAIN

    def chance(self, share: float) -> float:
        """The chance that all effective values are of this share of all; n values of training may miss 1 / (n + 1)."""
        return float((share + (1 - share) / (self.n_training + 1)) ** self.n_effective)

    def is_unchanged(self, training: Floats, window: Floats) -> bool:
        """Whether no share below any point has moved by more than d, for shares of the same cells."""
        apart = np.abs(np.cumsum(training) - np.cumsum(window)).max(initial=0.0)
        return bool(apart <= UNCHANGED + 1 / math.sqrt(max(self.n_effective, 1.0)))
