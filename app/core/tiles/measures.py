"""What a tile keeps for each aggregate of a window, and the value that is made of it.

Everything kept is an integer, so that sums are exact and in no order: counts as they are, numbers in fixed point
(units of 2**-20), squares of these in three limbs of 42 bits. Minimum, maximum and last keep the very float, as an
integer of the same order. Floating point appears only where a value is made, from integers that are the same wherever
batches were cut.

Bounds: a number counts as at most ±2**42 in sums, means and variances; a window's sum must stay within ±2**43. A
variance is exact for up to 2**21 values in a window; beyond that, or where the sum leaves int64, it is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.core.batches import Column, Floats, Ints
from app.core.tiles.cells import EMPTY
from app.core.tiles.sightings import Hasher
from schemas.pipeline.spec import Aggregate, WindowSpec

FEATURE_UNITS = 2.0**20
LARGEST_VALUE = 2.0**42
MOST_SQUARES = 2**21

_LIMB_BITS = 42
_LIMB = 2**_LIMB_BITS - 1
_HALF_BITS = 31

#: What is kept: its kind, and the field that it is of.
Measure = tuple[str, str | None]

#: The kinds that each aggregate reads, of sums and of maxima.
_SUMS: dict[Aggregate, tuple[str, ...]] = {
    "count": ("count",),
    "rate": ("count",),
    "sum": ("sum",),
    "mean": ("known", "sum"),
    "variance": ("known", "sum", "square_0", "square_1", "square_2"),
    "share": ("known", "nonzero"),
    "distinct": ("distinct",),
}
_MAXIMA: dict[Aggregate, str] = {"min": "min", "max": "max", "last": "last", "time_since_last": "time"}


@dataclass(frozen=True)
class Layout:
    """The columns of a store: sums, then maxima; those of kind "last" come first and carry their value along."""

    sums: tuple[Measure, ...]
    maxima: tuple[Measure, ...]

    @classmethod
    def of(cls, windows: Iterable[WindowSpec]) -> Layout:
        """What the windows of one store need together."""
        sums: dict[Measure, None] = {("count", None): None}
        maxima: dict[Measure, None] = {}
        for window in windows:
            for kind in _SUMS.get(window.aggregate, ()):
                sums[kind, window.field if kind != "count" else None] = None
            if window.aggregate in _MAXIMA:
                maxima[_MAXIMA[window.aggregate], window.field] = None
        return cls(tuple(sums), tuple(sorted(maxima, key=lambda measure: measure[0] != "last")))

    @property
    def carried(self) -> int:
        """How many maxima carry a value."""
        return sum(kind == "last" for kind, _ in self.maxima)

    @property
    def distinct(self) -> tuple[tuple[int, str], ...]:
        """Column among the sums and field of each distinct count."""
        return tuple((at, str(field)) for at, (kind, field) in enumerate(self.sums) if kind == "distinct")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read."""
        return tuple(dict.fromkeys(field for _, field in (*self.sums, *self.maxima) if field is not None))

    def sums_of(self, window: WindowSpec) -> tuple[int, ...]:
        """The columns that a window's value is made of."""
        kinds = _SUMS.get(window.aggregate, ())
        return tuple(self.sums.index((kind, window.field if kind != "count" else None)) for kind in kinds)

    def maximum_of(self, window: WindowSpec) -> int | None:
        """The column that a window reads among the maxima, if any."""
        kind = _MAXIMA.get(window.aggregate)
        return None if kind is None else self.maxima.index((kind, window.field))


class Measured(NamedTuple):
    """Updates as integers: one row each, one column per measure (as in `Layout`) or distinct count."""

    sums: Ints
    maxima: Ints
    carried: Ints
    sightings: Ints


def measure(layout: Layout, hasher: Hasher, times_ms: Ints, columns: dict[str, Column]) -> Measured:
    """What each update adds to its tile."""
    rows = len(times_ms)
    known = {field: np.isfinite(columns[field]) for field in layout.fields if columns[field].dtype != object}
    sums = np.zeros((rows, len(layout.sums)), dtype=np.int64)
    for column, (kind, field) in enumerate(layout.sums):
        if kind == "count":
            sums[:, column] = 1
        elif field is not None and kind != "distinct":
            sums[:, column] = _summand(kind, columns[field], known[field])
    maxima = np.full((rows, len(layout.maxima)), EMPTY, dtype=np.int64)
    carried = np.zeros((rows, layout.carried), dtype=np.int64)
    for column, (kind, field) in enumerate(layout.maxima):
        if field is None:
            maxima[:, column] = times_ms
            continue
        ordered = to_ordered(columns[field])
        if kind == "last":
            carried[:, column] = ordered
        value = {"last": times_ms, "max": ordered, "min": ~ordered}[kind]
        maxima[:, column] = np.where(known[field], value, EMPTY)
    sightings = np.zeros((rows, len(layout.distinct)), dtype=np.int64)
    for column, (_, field) in enumerate(layout.distinct):
        sightings[:, column] = hasher.hash(columns[field])
    return Measured(sums, maxima, carried, sightings)


def _summand(kind: str, values: Column, known: Column) -> Ints:
    if kind == "known":
        return np.asarray(known, dtype=np.int64)
    if kind == "nonzero":
        return np.asarray(known & (values != 0), dtype=np.int64)
    fixed = to_fixed_point(np.where(known, values, 0.0))
    return fixed if kind == "sum" else _limb_of_square(fixed, int(kind[-1]))


def to_fixed_point(values: Floats) -> Ints:
    """Values in units of 2**-20, rounded to even; what is beyond ±2**42 counts as that."""
    return np.rint(np.clip(values, -LARGEST_VALUE, LARGEST_VALUE) * FEATURE_UNITS).astype(np.int64)


def _limb_of_square(fixed: Ints, limb: int) -> Ints:
    """42 bits of the square of a number of at most 62 bits, from the lowest (0) to the highest (2)."""
    size = np.abs(fixed)
    high, low = size >> _HALF_BITS, size & (2**_HALF_BITS - 1)  # high <= 2**31
    # The square is high² 2**62 + 2 high low 2**31 + low²; each product is below 2**63.
    middle = high * low  # its place is bit 32
    below = low * low + ((middle & (2**30 - 1)) << 32)  # < 2**63: bits 0 to 61, and a carry
    above = high * high + (middle >> 30) + (below >> 62)  # from bit 62 on
    below &= 2**62 - 1
    middle_limb = (below >> _LIMB_BITS) | ((above & (2**22 - 1)) << 20)
    limbs: Ints = (below & _LIMB, middle_limb, above >> 22)[limb]
    return limbs


def to_ordered(values: Floats) -> Ints:
    """Floats as integers of the same order, bit by bit; -0.0 as 0.0."""
    bits = (values.astype(np.float64) + 0.0).view(np.int64)
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def from_ordered(numbers: Ints) -> Floats:
    """The floats of `to_ordered`."""
    return (numbers ^ ((numbers >> 63) & np.int64(2**63 - 1))).view(np.float64)


@dataclass(frozen=True, slots=True)
class Read:
    """What one window's reads found: its sums by column of the layout, and its maximum with what that carries."""

    times_ms: Ints
    sums: Ints
    maximum: Ints
    carried: Ints


def evaluate(layout: Layout, window: WindowSpec, read: Read) -> Floats:
    """The values of a window feature."""
    return _EVALUATE[window.aggregate](window, read, [read.sums[:, column] for column in layout.sums_of(window)])


def _count(_: WindowSpec, __: Read, sums: list[Ints]) -> Floats:
    return sums[0].astype(np.float64)


def _rate(window: WindowSpec, _: Read, sums: list[Ints]) -> Floats:
    """Per second of the window's size."""
    return sums[0] / (window.size_ms / 1000)


def _sum(_: WindowSpec, __: Read, sums: list[Ints]) -> Floats:
    return sums[0] / FEATURE_UNITS


def _mean(_: WindowSpec, __: Read, sums: list[Ints]) -> Floats:
    known, total = sums
    return _divide(total / FEATURE_UNITS, known)


def _share(_: WindowSpec, __: Read, sums: list[Ints]) -> Floats:
    known, nonzero = sums
    return _divide(nonzero.astype(np.float64), known)


def _divide(totals: Floats, known: Ints) -> Floats:
    totals[known == 0] = np.nan
    totals /= np.maximum(known, 1)
    return totals


def _variance(_: WindowSpec, __: Read, sums: list[Ints]) -> Floats:
    """The sample variance, rounded once: numerator and denominator are exact."""
    known, total, low, middle, high = sums
    values = np.full(len(known), np.nan)
    at = np.flatnonzero((known > 1) & (known <= MOST_SQUARES))
    n, s, q0, q1, q2 = (column[at].tolist() for column in (known, total, low, middle, high))
    scale = int(FEATURE_UNITS) ** 2
    for place, count, sum_, l0, l1, l2 in zip(at.tolist(), n, s, q0, q1, q2, strict=True):
        squares = l0 + (l1 << _LIMB_BITS) + (l2 << 2 * _LIMB_BITS)
        if count * squares < 1 << 126:  # then |sum| < 2**63, by the inequality of Cauchy and Schwarz
            values[place] = (count * squares - sum_ * sum_) / (count * (count - 1) * scale)
    return values


def _max(_: WindowSpec, read: Read, __: list[Ints]) -> Floats:
    return np.where(read.maximum == EMPTY, np.nan, from_ordered(read.maximum))


def _min(_: WindowSpec, read: Read, __: list[Ints]) -> Floats:
    return np.where(read.maximum == EMPTY, np.nan, from_ordered(~read.maximum))


def _last(_: WindowSpec, read: Read, __: list[Ints]) -> Floats:
    return np.where(read.maximum == EMPTY, np.nan, from_ordered(read.carried))


def _time_since_last(_: WindowSpec, read: Read, __: list[Ints]) -> Floats:
    """Seconds; 0 for an event older than the last one."""
    since = np.maximum(read.times_ms - np.maximum(read.maximum, -(2**61)), 0) / 1000
    return np.where(read.maximum == EMPTY, np.nan, since)


_EVALUATE: dict[Aggregate, Callable[[WindowSpec, Read, list[Ints]], Floats]] = {
    "count": _count,
    "rate": _rate,
    "sum": _sum,
    "mean": _mean,
    "variance": _variance,
    "share": _share,
    "distinct": _count,
    "min": _min,
    "max": _max,
    "last": _last,
    "time_since_last": _time_since_last,
}
