"""Compares served feature values with values computed anew, feature by feature."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Floats, Ints

#: A larger difference is not explained by SQL's double arithmetic. Relative to the value; absolute below 1.
TOLERANCE = 1e-9
KEEP = 5


@dataclass(frozen=True)
class DifferentRow:
    """One served value that differs from the computed one."""

    partition: int
    offset: int
    served: float | None
    computed: float | None


@dataclass
class FeatureParity:
    """One feature: how many rows were compared, how many differ, and by how much at most.

    Parameters
    ----------
    tolerance
        0: every bit must be the same. A missing value equals only a missing value.
    """

    name: str
    tolerance: float = 0.0
    rows: int = 0
    different: int = 0
    largest: float = 0.0
    first: list[DifferentRow] = field(default_factory=list)

    def add(self, partition: int, offsets: Ints, served: Floats, computed: Floats) -> None:
        """Compare values of the same events.

        Examples
        --------
        >>> parity = FeatureParity("f")
        >>> parity.add(0, np.arange(3), np.array([1.0, np.nan, 0.5]), np.array([1.0, np.nan, 0.75]))
        >>> parity.rows, parity.different, parity.largest
        (3, 1, 0.25)
        """
        self.rows += len(offsets)
        same = self.is_same(served, computed)
        apart = np.abs(served - computed)[~(np.isnan(served) & np.isnan(computed))]
        if len(apart):
            # A value that only one side has counts as infinitely far away.
            self.largest = max(self.largest, float(np.where(np.isnan(apart), math.inf, apart).max()))
        differing = np.flatnonzero(~same)
        self.different += len(differing)
        for row in differing[: KEEP - len(self.first)].tolist():
            self.first.append(DifferentRow(partition, int(offsets[row]), _value(served[row]), _value(computed[row])))

    def is_same(self, served: Floats, computed: Floats) -> NDArray[np.bool_]:
        """Where two values do not differ."""
        if self.tolerance:
            size = np.maximum(1.0, np.maximum(np.abs(served), np.abs(computed)))
            same = np.abs(served - computed) <= self.tolerance * size
        else:
            same = served.view(np.int64) == computed.view(np.int64)
        is_same: NDArray[np.bool_] = same | (np.isnan(served) & np.isnan(computed))
        return is_same

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.different == 0


def _value(number: np.float64) -> float | None:
    return None if np.isnan(number) else float(number)
