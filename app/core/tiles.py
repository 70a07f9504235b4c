"""Partial aggregates of event time, per key and hop: what windows are sums of.

The laws, for operations in their order (a read, or an update, each at the tile ``floor(time / hop)``):

- a read at tile t over n tiles sums the updates before it whose tile is one of t - n + 1 … t;
- per key, the ``ring`` newest tiles are kept, counted back from the newest update so far; an older update is ignored;
- nothing is seen or taken that is ``retain`` tiles older than the newest tile of any operation so far, of any key; so a
  key that has been quiet for that long may be forgotten without a trace.

All three speak of the order alone. How operations are cut into batches changes no bit: everything is an integer, and
sums are kept in fixed point (units of 2**-20, at most 2**42 a value; a tile's or window's sum must stay within ±2**43).
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Floats, Ints
from app.core.keys import KeyIndex
from app.core.tile_batch import Accepted, Reads, Updates, between, locate, sum_batch

FIXED_POINT = 2.0**20
LARGEST_VALUE = 2.0**42

#: Older than any tile, and far enough from the end of int64 to subtract from.
NEVER = -(2**61)

#: In a changelog key, in place of a cell: the record of the newest tile of all operations.
_CLOCK_CELL = b"\xff\xff\xff\xff"


def to_fixed_point(values: Floats) -> Ints:
    """Values in units of 2**-20, rounded to even; what is beyond ±2**42 counts as that."""
    return np.rint(np.clip(values, -LARGEST_VALUE, LARGEST_VALUE) * FIXED_POINT).astype(np.int64)


class TileStore:
    """Tiles of one kind of update: one row per code of a `KeyIndex`, one cell per tile of the ring.

    Parameters
    ----------
    name
        Identity in the changelog; a store of another name does not read its records.
    index
        Gives the codes; stores over the same key share one.
    ring
        Tiles kept per key: those of the largest window.
    retain
        Tiles after which a quiet key is forgotten; at least ``ring``.
    with_sums
        Whether values are summed, or updates only counted.
    with_changelog
        Whether changes are remembered until `drain_changes`.
    """

    def __init__(
        self, name: bytes, index: KeyIndex, *, ring: int, retain: int, with_sums: bool, with_changelog: bool = True
    ) -> None:
        self.name = name
        self.index = index
        self.ring = ring
        self.retain = max(ring, retain)
        self._with_sums = with_sums
        self._with_changelog = with_changelog
        self._clock = NEVER
        self._newest: Ints = np.zeros(0, dtype=np.int64)
        self._counts: NDArray[np.int32] = np.zeros((0, ring), dtype=np.int32)
        self._sums: Ints = np.zeros((0, ring if with_sums else 0), dtype=np.int64)
        self._logged: NDArray[np.bool_] = np.zeros((0, ring), dtype=bool)
        self._dirty: list[Ints] = []
        self._logged_clock = NEVER
        self._steps = np.arange(ring)
        self._cell_bytes = [struct.pack(">I", cell) for cell in range(ring)]

    @property
    def state_bytes(self) -> int:
        """Memory of the arrays."""
        return self._newest.nbytes + self._counts.nbytes + self._sums.nbytes + self._logged.nbytes

    def process(
        self, read_codes: Ints, read_tiles: Ints, updates: Updates, sizes: tuple[int, ...]
    ) -> list[tuple[Ints, Ints]]:
        """Perform reads and updates in their order.

        Parameters
        ----------
        read_codes, read_tiles
            Key (negative: one without updates) and tile of each read, in order.
        updates
            The updates among them; every code is one of the index.
        sizes
            Windows in tiles, each at most ``ring``.

        Returns
        -------
        Per size, count and fixed-point sum of each read (sums are 0 in a store that only counts).
        """
        self._grow()
        reads = len(read_codes)
        seen = np.searchsorted(updates.before, np.arange(reads), side="right")
        read_clock = np.maximum.accumulate(np.concatenate(([self._clock], read_tiles)))
        update_clock = np.maximum.accumulate(np.concatenate(([self._clock], updates.tiles)))
        accepted = self._accept(updates, np.maximum(update_clock[:-1], read_clock[updates.before]))
        known = np.flatnonzero(read_codes >= 0)
        clock = np.maximum(read_clock[:-1], update_clock[seen])
        found = self._read(Reads(read_codes[known], read_tiles[known], seen[known], clock[known]), accepted, sizes)
        self._apply(accepted)
        self._clock = int(max(read_clock[-1], update_clock[-1]))
        windows = []
        for window in found:
            count_and_sum = np.zeros((2, reads), dtype=np.int64)
            count_and_sum[:, known] = window
            windows.append((count_and_sum[0], count_and_sum[1]))
        return windows

    def _accept(self, updates: Updates, clock: Ints) -> Accepted:
        sequence = np.flatnonzero((updates.codes >= 0) & (updates.tiles > clock - self.retain))
        sequence = sequence[np.argsort(updates.codes[sequence], kind="stable")]
        codes, tiles = updates.codes[sequence], updates.tiles[sequence]
        if not len(sequence):
            return Accepted(sequence, tiles, None, sequence, tiles, codes, sequence)
        is_first = np.concatenate(([True], codes[1:] != codes[:-1]))
        rank = np.cumsum(is_first) - 1
        groups = codes[is_first]
        # One running maximum over all keys: each key's tiles are lifted above those of the key before.
        low = int(tiles.min())
        lift = rank * (int(tiles.max()) - low + 1) - low
        running = np.maximum.accumulate(tiles + lift) - lift
        newest = np.maximum(running, self._newest[codes])
        starts = np.searchsorted(rank, np.arange(len(groups)))
        values = None if updates.values is None else updates.values[sequence]
        return Accepted(sequence, tiles, values, rank, newest, groups, starts)

    def _read(self, reads: Reads, accepted: Accepted, sizes: tuple[int, ...]) -> list[tuple[Ints, Ints]]:
        """Per size, count and sum of each read."""
        if not len(reads.codes):
            return [(reads.codes, reads.codes) for _ in sizes]
        span = locate(reads, accepted)
        newest = self._newest[reads.codes]
        if len(accepted.newest):
            newest = np.maximum(
                newest, np.where(span.ends > span.starts, accepted.newest[np.maximum(span.ends, 1) - 1], NEVER)
            )
        floor = np.maximum(newest - self.ring, reads.clock - self.retain)
        upper = reads.tiles
        bounds = [upper, *(np.minimum(np.maximum(upper - size, floor), upper) for size in sizes)]
        at_bounds = self._sum_kept(reads.codes, bounds)
        if len(accepted.tiles):
            in_batch = sum_batch(span, accepted, bounds)
            at_bounds = [(a + c, b + d) for (a, b), (c, d) in zip(at_bounds, in_batch, strict=True)]
        (upper_count, upper_sum), *lower = at_bounds
        return [(upper_count - count, upper_sum - total) for count, total in lower]

    def _sum_kept(self, codes: Ints, bounds: list[Ints]) -> list[tuple[Ints, Ints]]:
        """Per bound, count and sum of what was kept before this batch, of tiles up to the bound."""
        rows, row = np.unique(codes, return_inverse=True)
        newest = self._newest[rows]
        cells = (newest[:, None] + 1 + self._steps) % self.ring + rows[:, None] * self.ring
        oldest = newest[row] - self.ring
        width = self.ring + 1
        places = [between(bound - oldest, 0, self.ring) + row * width for bound in bounds]
        counts = np.zeros((len(rows), width), dtype=np.int64)
        np.cumsum(self._counts.ravel()[cells], axis=1, out=counts[:, 1:])
        if not self._with_sums:
            return [(counts.ravel()[place], np.zeros(len(codes), dtype=np.int64)) for place in places]
        sums = np.zeros((len(rows), width), dtype=np.int64)
        np.cumsum(self._sums.ravel()[cells], axis=1, out=sums[:, 1:])
        return [(counts.ravel()[place], sums.ravel()[place]) for place in places]

    def _apply(self, accepted: Accepted) -> None:
        if not len(accepted.tiles):
            return
        base = self._newest[accepted.groups]
        newest = base.copy()
        np.maximum.at(newest, accepted.rank, accepted.newest)
        self._advance(accepted.groups, base, newest)
        fresh = accepted.tiles > newest[accepted.rank] - self.ring
        rows = accepted.groups[accepted.rank[fresh]]
        cells = accepted.tiles[fresh] % self.ring
        np.add.at(self._counts, (rows, cells), 1)
        if self._with_sums and accepted.values is not None:
            np.add.at(self._sums, (rows, cells), accepted.values[fresh])
        if self._with_changelog:
            self._dirty.append(np.unique(rows * self.ring + cells))

    def _advance(self, rows: Ints, base: Ints, newest: Ints) -> None:
        """Move the newest tile of rows, and clear the cells that then stand for newer tiles."""
        steps = np.where(base == NEVER, 0, np.minimum(newest - base, self.ring))  # a new row is clear
        if steps.any():
            step = np.arange(int(steps.sum())) - np.repeat(np.cumsum(steps) - steps, steps)
            cells = (np.repeat(base, steps) + 1 + step) % self.ring
            cleared = np.repeat(rows, steps)
            self._counts[cleared, cells] = 0
            if self._with_sums:
                self._sums[cleared, cells] = 0
        self._newest[rows] = newest

    def _grow(self) -> None:
        missing = self.index.capacity - len(self._newest)
        if missing <= 0:
            return
        more = max(missing, len(self._newest), 16)
        self._newest = np.concatenate((self._newest, np.full(more, NEVER, dtype=np.int64)))
        self._counts = np.concatenate((self._counts, np.zeros((more, self._counts.shape[1]), dtype=np.int32)))
        self._sums = np.concatenate((self._sums, np.zeros((more, self._sums.shape[1]), dtype=np.int64)))
        self._logged = np.concatenate((self._logged, np.zeros((more, self._logged.shape[1]), dtype=bool)))

    def drain_changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records since the last drain, one per touched cell; the value holds tile, count and sum."""
        records: list[tuple[bytes, bytes | None]] = []
        if self._clock != self._logged_clock:
            self._logged_clock = self._clock
            records.append((self.name + _CLOCK_CELL, struct.pack("<q", self._clock)))
        if self._dirty:
            touched = np.unique(np.concatenate(self._dirty))
            self._dirty.clear()
            rows, cells = np.divmod(touched, self.ring)
            self._logged[rows, cells] = True
            newest = self._newest[rows]
            columns = [newest - (newest - cells) % self.ring, self._counts[rows, cells].astype(np.int64)]
            if self._with_sums:
                columns.append(self._sums[rows, cells])
            packed = np.stack(columns, axis=1).astype("<i8").tobytes()
            width = 8 * len(columns)
            encoded, cell_bytes, name = self.index.encoded, self._cell_bytes, self.name
            records.extend(
                (name + cell_bytes[cell] + encoded(row), packed[at : at + width])
                for row, cell, at in zip(rows.tolist(), cells.tolist(), range(0, len(packed), width), strict=True)
            )
        return records

    def quiet(self, codes: Ints) -> NDArray[np.bool_]:
        """Which keys no operation can see any more."""
        self._grow()
        return self._newest[codes] <= self._clock - self.retain

    @property
    def clock(self) -> int:
        """The newest tile of all operations."""
        return self._clock

    def forget(self, code: int) -> list[tuple[bytes, bytes | None]]:
        """Clear a quiet key's row (after a drain); the records that clear the changelog."""
        cells = np.flatnonzero(self._logged[code]).tolist()
        self._newest[code] = NEVER
        self._counts[code] = 0
        self._sums[code] = 0
        self._logged[code] = False
        return [(self.name + self._cell_bytes[cell] + self.index.encoded(code), None) for cell in cells]

    def restore(self, records: dict[bytes, bytes]) -> None:
        """Take the newest record of each key (with this store's name at its front) into an empty store."""
        start = len(self.name)
        clock = records.pop(self.name + _CLOCK_CELL, None)
        if clock is not None:
            self._clock = self._logged_clock = struct.unpack("<q", clock)[0]
        if not records:
            return
        codes: dict[bytes, int] = {}
        add = self.index.add_encoded
        keys = [key[start + 4 :] for key in records]
        for key in keys:
            if key not in codes:
                codes[key] = add(key)
        self._grow()
        rows = np.array([codes[key] for key in keys], dtype=np.int64)
        values = np.frombuffer(b"".join(records.values()), dtype="<i8").reshape(len(keys), -1)
        np.maximum.at(self._newest, rows, values[:, 0])
        fresh = values[:, 0] > self._newest[rows] - self.ring
        cells = values[:, 0] % self.ring
        self._logged[rows, cells] = True
        self._counts[rows[fresh], cells[fresh]] = values[fresh, 1]
        if self._with_sums:
            self._sums[rows[fresh], cells[fresh]] = values[fresh, 2]
