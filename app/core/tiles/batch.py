"""One batch of reads and updates of tiles: which updates each read comes after, and what they amount to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints
from app.core.tiles.cells import EMPTY
from app.core.tiles.measures import Layout
from app.core.tiles.range_sums import RangeMax, max_between, start_at_zero, sum_below


@dataclass(frozen=True, slots=True)
class Updates:
    """Updates in their order. ``before[j]`` = i: update j comes before read i (and after read i - 1); ascending.

    ``sums``, ``maxima`` and ``carried`` are matrices, one row per update and one column per measure of that kind;
    ``sightings`` has one column per distinct count, with 0 where the update has no value.
    """

    codes: Ints
    tiles: Ints
    before: Ints
    sums: Ints
    maxima: Ints
    carried: Ints
    sightings: Ints

    @classmethod
    def none(cls, layout: Layout) -> Updates:
        """No updates, with the columns of a layout."""
        none = np.zeros(0, dtype=np.int64)
        columns = len(layout.sums), len(layout.maxima), layout.carried, len(layout.distinct)
        return cls(none, none, none, *(np.zeros((0, n), dtype=np.int64) for n in columns))

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, which: Ints | NDArray[np.bool_]) -> Updates:
        return Updates(
            self.codes[which],
            self.tiles[which],
            self.before[which],
            self.sums[which],
            self.maxima[which],
            self.carried[which],
            self.sightings[which],
        )


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads of known keys: code, tile, updates before it, and the newest tile of any operation before it."""

    codes: Ints
    tiles: Ints
    seen: Ints
    clock: Ints


@dataclass(frozen=True, slots=True)
class Span:
    """Per read, the rank of its key and the range of updates of that key before it."""

    group: Ints
    starts: Ints
    ends: Ints


class KeyRuns:
    """What happens in a batch, by key and then in order: at a tile each, in the order ``sequence`` of the updates.

    ``rank`` numbers the keys, ascending codes ``keys``.
    """

    def __init__(self, keys: Ints, rank: Ints, sequence: Ints, tiles: Ints) -> None:
        self.keys = keys
        self.rank = rank
        self.sequence = sequence
        self.tiles = tiles
        self.starts = np.searchsorted(rank, np.arange(len(keys) + 1))
        self._low = int(tiles.min(initial=0))
        self._width = int(tiles.max(initial=0)) - self._low + 2
        steps_back = np.flatnonzero((tiles[1:] < tiles[:-1]) & (rank[1:] == rank[:-1]))
        self._is_disordered = np.zeros(len(keys), dtype=bool)
        self._is_disordered[rank[steps_back]] = True
        self.is_disordered = len(steps_back) > 0
        self._places: Ints | None = None
        first = self.starts[:-1]
        self._oldest = np.minimum.reduceat(tiles, first) if len(tiles) else tiles
        self._newest = np.maximum.reduceat(tiles, first) if len(tiles) else tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def locate(self, reads: Reads) -> Span:
        """Where the updates before each read are."""
        group = np.minimum(np.searchsorted(self.keys, reads.codes), len(self.keys) - 1)
        width = int(max(self.sequence.max(initial=0), reads.seen.max(initial=0))) + 1
        ends = np.searchsorted(self.rank * width + self.sequence, group * width + reads.seen)
        starts = self.starts[group]
        return Span(group, starts, np.where(self.keys[group] == reads.codes, np.maximum(ends, starts), starts))

    def sums_upto(self, span: Span, weights: Ints, bounds: Ints) -> Ints:
        """The sums of the weights (updates x columns) before each read, of tiles up to each bound.

        ``bounds`` is b x reads; the result is b x reads x columns.
        """
        running = start_at_zero(weights)
        sums = running[self._ends_upto(span, bounds)] - running[span.starts]
        slow = self._disordered(span)
        if len(slow):
            rows, moved = self._only_disordered()
            distinct, ranks = np.unique(self.tiles[rows], return_inverse=True)
            starts, ends = moved[span.starts[slow]], moved[span.ends[slow]]
            for total, bound in zip(sums, bounds, strict=True):
                below = np.searchsorted(distinct, bound[slow], side="right")
                total[slow] = sum_below(ranks, weights[rows], starts, ends, below)
        return sums

    def sums_before(self, span: Span, weights: Ints) -> Ints:
        """The sums of the weights before each read, whatever their tile."""
        running = start_at_zero(weights)
        sums: Ints = running[span.ends] - running[span.starts]
        return sums

    def largest(self, span: Span, weights: Ints, low: Ints, high: Ints) -> Ints:
        """The largest weight before each read, of tiles above ``low`` and up to ``high``; EMPTY where there is none."""
        ends = self._ends_upto(span, np.stack((low, high)))
        largest = RangeMax(weights, EMPTY).between(ends[0], ends[1])
        slow = self._disordered(span)
        if len(slow):
            rows, moved = self._only_disordered()
            distinct, ranks = np.unique(self.tiles[rows], return_inverse=True)
            positions = moved[span.starts[slow]], moved[span.ends[slow]]
            bounds = tuple(np.searchsorted(distinct, bound[slow], side="right") for bound in (low, high))
            largest[slow] = max_between(ranks, weights[rows], positions, (bounds[0], bounds[1]), EMPTY)
        return largest

    def _ends_upto(self, span: Span, bounds: Ints) -> Ints:
        """Where the updates up to a bound end, among those before the read; for keys whose tiles ascend."""
        # Most bounds are beyond what a batch has of a key, on one side or the other: only the rest is searched for.
        ends = np.where(bounds >= self._newest[span.group], span.ends, span.starts)
        inner = np.nonzero((bounds < self._newest[span.group]) & (bounds >= self._oldest[span.group]))
        if not len(inner[0]):
            return ends
        if self._places is None:
            self._places = self.rank * self._width + (self.tiles - self._low)
        reads = inner[-1]
        wanted = span.group[reads] * self._width + (bounds[inner] - self._low)
        upto = np.searchsorted(self._places, wanted, side="right")
        ends[inner] = np.minimum(np.maximum(upto, span.starts[reads]), span.ends[reads])
        return ends

    def _disordered(self, span: Span) -> Ints:
        """The reads whose key has tiles that step back."""
        if not self.is_disordered:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(self._is_disordered[span.group] & (span.starts < span.ends))

    def _only_disordered(self) -> tuple[Ints, Ints]:
        """The updates of keys whose tiles step back, and where a position is among them."""
        is_in = self._is_disordered[self.rank]
        return np.flatnonzero(is_in), start_at_zero(is_in.astype(np.int64))
