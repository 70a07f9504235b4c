"""The units in which sums are kept: whole numbers, so that adding them up in any order gives the same."""

from __future__ import annotations

#: Units of 1.0 in sums (a metric with large values has fewer, see `models.reference.reference.MetricCells.scale`).
COUNT_UNITS = 2**20
#: What one value adds at most: beyond it a value is saturated in sums, while its minimum and maximum stay exact. It is
#: 256 times the range of training.
LARGEST_UNITS = 2**40
