"""A metric in training and in a window, and how it follows from the field that may be in another unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from app.core.faults.law import Law, remade
from app.core.features.paths import Path

if TYPE_CHECKING:
    from app.core.batches import Floats
    from app.core.faults.conversions import Conversion

ITSELF = Path()


@dataclass(frozen=True)
class Scale:
    """Two laws of a metric, and how the metric is computed from the field that may have another unit."""

    training: Law
    window: Law
    path: Path
    takes_offsets: bool

    @property
    def is_own(self) -> bool:
        """Whether the metric is the field that may have another unit, or a multiple of it."""
        return self.path.is_linear

    def convert(self, conversion: Conversion) -> Law:
        """The law of training if the field had been in the other unit."""
        return remade(self.training, self.path, self.path, conversion.factor, conversion.offset)

    def is_possible(self, conversion: Conversion) -> bool:
        """Whether to look for it; where the metric is no multiple of the field, only positive factors are."""
        is_mere_factor = not conversion.offset
        return (is_mere_factor or (self.takes_offsets and self.is_own)) and (conversion.factor > 0 or self.is_own)

    @cached_property
    def field(self) -> Floats:
        """Points of the field in training."""
        return self.path.backward(self.training.points)

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Least and largest value of the field in training."""
        if not len(self.field):
            return math.nan, math.nan
        low, high = sorted((float(self.field[0]), float(self.field[-1])))
        return low, high

    @cached_property
    def reach(self) -> float:
        """The largest absolute value of the field in the window."""
        return largest(self.path.backward(self.window.points))

    @property
    def deviation(self) -> float:
        """The standard deviation of the field in training."""
        return remade(self.training, self.path, ITSELF).moments(math.inf)[1]


def largest(values: Floats) -> float:
    return float(np.fmax.reduce(np.abs(values), initial=0.0))
