"""Tiles of very many keys, as sorted runs with running totals: a window is the difference of two of them.

Made for questions in any order of time, a whole batch at once, and for keys that have few tiles each: an entry takes 24
bytes, and there is nothing per key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.batches import Ints
from app.core.shared.totals import Amounts

#: A place is a key's code, then the tile less the origin: 2^24 keys, 2^39 tiles.
_TILE_BITS = 39
_MOST_TILES = 1 << _TILE_BITS
_MOST_KEYS = 1 << 24
#: A run is merged into the next older one unless that is at least this many times as long.
_GROWTH = 4


class TooManyKeysError(RuntimeError):
    """A partition of the keys has more of them than its tiles can name."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Entries by ascending place, and the totals [2 x n + 1] of all before each."""

    places: Ints
    totals: Ints

    @classmethod
    def of(cls, places: Ints, values: Ints) -> _Run:
        amounts = Amounts.add_up(places, values)
        totals = np.zeros((2, len(amounts.codes) + 1), dtype=np.int64)
        np.cumsum(amounts.values, axis=1, out=totals[:, 1:])
        return cls(amounts.codes, totals)

    def values(self) -> Ints:
        return np.diff(self.totals)

    def until(self, places: Ints) -> Ints:
        return self.totals[:, np.searchsorted(self.places, places, side="right")]


class TileSums:
    """Counts and sums by key and tile, for one store."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._new: list[tuple[Ints, Ints]] = []
        self._origin: int | None = None

    def __len__(self) -> int:
        """Entries: one per key and tile, and more for some that are not merged yet."""
        self._settle()
        return sum(len(run.places) for run in self._runs)

    def add(self, codes: Ints, tiles: Ints, values: Ints) -> None:
        """Add counts (row 0 of ``values``) and sums (row 1) to tiles of keys.

        Raises
        ------
        TooManyKeysError
            When a code is too high for a place.
        """
        if not len(codes):
            return
        if int(codes.max()) >= _MOST_KEYS:
            raise TooManyKeysError(
                f"More than {_MOST_KEYS} keys of repartitioned windows fall to one partition; the pipeline needs more "
                "partitions."
            )
        if self._origin is None:
            self._origin = int(tiles[0]) - _MOST_TILES // 2
        self._new.append((self._places(codes, tiles), values))

    def read(self, codes: Ints, newest: Ints, size: int) -> Ints:
        """Counts and sums [2 x n] of the ``size`` tiles that end with ``newest``, per key."""
        self._settle()
        sums = np.zeros((2, len(codes)), dtype=np.int64)
        if self._origin is not None:
            last, before = self._places(codes, newest), self._places(codes, newest - size)
            for run in self._runs:
                sums += run.until(last) - run.until(before)
        return sums

    def drop_before(self, tile: int) -> None:
        """Forget the tiles before this one."""
        self._settle()
        if self._origin is None:
            return
        kept = []
        for run in self._runs:
            stays = (run.places & (_MOST_TILES - 1)) >= tile - self._origin
            if stays.any():
                kept.append(run if stays.all() else _Run.of(run.places[stays], run.values()[:, stays]))
        self._runs = kept

    def unmark(self, marks: npt.NDArray[np.bool_]) -> None:
        """Set the marks (bool, by code) of keys that have a tile to False."""
        self._settle()
        for run in self._runs:
            marks[run.places >> _TILE_BITS] = False

    def _places(self, codes: Ints, tiles: Ints) -> Ints:
        assert self._origin is not None  # there are entries
        return (codes << _TILE_BITS) + np.clip(tiles - self._origin, 0, _MOST_TILES - 1)

    def _settle(self) -> None:
        """Make a run of what is new, and keep the runs few: each is longer than the next by a factor."""
        if not self._new:
            return
        new, self._new = self._new, []
        places, values = (np.concatenate(parts, axis=-1) for parts in zip(*new, strict=True))
        run = _Run.of(places, values)
        while self._runs and len(self._runs[-1].places) < _GROWTH * len(run.places):
            older = self._runs.pop()
            run = _Run.of(
                np.concatenate((older.places, run.places)), np.concatenate((older.values(), run.values()), axis=1)
            )
        self._runs.append(run)
