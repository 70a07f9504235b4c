"""Partial aggregates of event time, per key and hop: what windows are made of.

The laws, for operations in their order (a read, or an update, each at the tile ``floor(time / hop)``):

- a read at tile t over n tiles sees the updates before it whose tile is one of t - n + 1 … t (a distinct count: those
  from t - n + 1 on, so that a late read counts what came since);
- per key, the ``ring`` newest tiles are kept, counted back from the newest update so far; an older update is ignored;
- nothing is seen or taken that is ``retain`` tiles older than the newest tile of any operation so far, of any key; so a
  key that has been quiet for that long may be forgotten without a trace.

All three speak of the order alone. How operations are cut into batches changes no bit: everything is an integer.

Over 350 lines: a batch's reads see the updates before them, so reading and writing go through the same arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints
from app.core.tiles.batch import KeyRuns, Reads, Span, Updates
from app.core.tiles.cells import EMPTY, NEVER, Cells, TileCells
from app.core.tiles.measures import Layout
from app.core.tiles.measures import to_fixed_point as to_fixed_point
from app.core.tiles.sightings import NO_VALUE, Sighted, Sightings


@dataclass(frozen=True, slots=True)
class WindowRead:
    """What is asked of each read: a number of tiles, and columns of the layout's maxima."""

    tiles: int
    maxima: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one window's reads saw: reads x sums; per maximum asked for, it and what it carries."""

    sums: Ints
    maxima: dict[int, tuple[Ints, Ints]]


@dataclass(frozen=True, slots=True)
class _Batch:
    """The updates of a batch that count, by key and then in order.

    ``newest``: the key's newest tile at each, itself included. Per distinct count, ``moves``: the tiles that values
    left, at the updates ``moved``; ``sighted``: what its sightings are to note, if anything.
    """

    taken: Updates
    runs: KeyRuns
    newest: Ints
    moves: list[KeyRuns]
    moved: list[Ints]
    sighted: list[Sighted | None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """Reads, and of each: the tiles above ``low`` (a row per window) and up to ``high``, and their places in its row.

    ``since`` is ``low`` without the limit of ``high``: for distinct counts. ``span``: the updates before it.
    """

    reads: Reads
    span: Span | None
    high: Ints
    low: Ints
    high_place: Ints
    low_place: Ints
    since: Ints


class TileStore:
    """Tiles of one kind of update: a row per code of a key index, a cell per tile that has an update.

    Parameters
    ----------
    layout
        What a cell holds.
    ring
        Tiles kept per key: those of the largest window.
    retain
        Tiles after which a quiet key is forgotten; at least ``ring``.
    with_changelog
        Whether changes are remembered until `take_changes`.
    """

    def __init__(self, layout: Layout, *, ring: int, retain: int, with_changelog: bool = True) -> None:
        self.layout = layout
        self.ring = ring
        self.retain = max(ring, retain)
        self.clock = NEVER  # the newest tile of all operations
        self.cells = TileCells(len(layout.sums), len(layout.maxima), layout.carried, ring)
        self.sightings = tuple(Sightings() for _ in layout.distinct)
        self._nothing = self._accept(Updates.none(layout), np.zeros(0, dtype=np.int64))
        self._with_changelog = with_changelog
        self._touched: list[tuple[Ints, Ints]] = []

    @property
    def state_bytes(self) -> int:
        """Memory of the arrays."""
        return self.cells.state_bytes + sum(sightings.state_bytes for sightings in self.sightings)

    def reserve_rows(self, rows: int) -> None:
        """Have a row for each code below ``rows``."""
        self.cells.reserve_rows(rows)
        for sightings in self.sightings:
            sightings.reserve_rows(rows)

    def process(
        self, read_codes: Ints, read_tiles: Ints, updates: Updates, windows: tuple[WindowRead, ...]
    ) -> list[Seen]:
        """Perform reads and updates in their order; every code that is not negative must have a row.

        Parameters
        ----------
        read_codes, read_tiles
            Key (negative: one without updates) and tile of each read, in order.
        updates
            The updates among them (negative code: ignored).
        windows
            What each read asks for, each of at most ``ring`` tiles.

        Returns
        -------
        Per window, what each read saw.
        """
        seen = np.searchsorted(updates.before, np.arange(len(read_codes)), side="right")
        read_clock = np.maximum.accumulate(np.concatenate(([self.clock], read_tiles)))
        update_clock = np.maximum.accumulate(np.concatenate(([self.clock], updates.tiles)))
        batch = self._accept(updates, np.maximum(update_clock[:-1], read_clock[updates.before]))
        clock = np.maximum(read_clock[:-1], update_clock[seen])
        read = self._read_known(batch, Reads(read_codes, read_tiles, seen, clock), windows)
        self._apply(batch)
        self.clock = int(max(read_clock[-1], update_clock[-1]))
        return read

    def peek(
        self, read_codes: Ints, read_tiles: Ints, seen: Ints, updates: Updates, windows: tuple[WindowRead, ...]
    ) -> list[Seen]:
        """What each read would see if it were the next operation after the first ``seen`` updates; nothing changes."""
        if not len(updates):
            clock = np.full(len(read_codes), self.clock)
            return self._read_known(self._nothing, Reads(read_codes, read_tiles, seen, clock), windows)
        clock = np.maximum.accumulate(np.concatenate(([self.clock], updates.tiles)))
        return self._read_known(
            self._accept(updates, clock[:-1]), Reads(read_codes, read_tiles, seen, clock[seen]), windows
        )

    # -- the updates that count ---------------------------------------------------------------------------------------

    def _accept(self, updates: Updates, clock: Ints) -> _Batch:
        """The updates that are not too old for anything."""
        sequence = np.flatnonzero((updates.codes >= 0) & (updates.tiles > clock - self.retain))
        sequence = sequence[np.argsort(updates.codes[sequence], kind="stable")]
        taken = updates.take(sequence)
        is_first = np.concatenate(([True], taken.codes[1:] != taken.codes[:-1]))[: len(sequence)]
        rank = np.cumsum(is_first) - 1
        runs = KeyRuns(taken.codes[is_first], rank, sequence, taken.tiles)
        newest = sequence
        if len(sequence):
            # One running maximum over all keys: each key's tiles are lifted above those of the key before.
            low = int(taken.tiles.min())
            lift = rank * (int(taken.tiles.max()) - low + 1) - low
            running = np.maximum.accumulate(taken.tiles + lift) - lift
            newest = np.maximum(running, self.cells.newest(runs.keys)[rank])
        batch = _Batch(taken, runs, newest, [], [], [])
        for place, (column, _) in enumerate(self.layout.distinct):
            self._observe(batch, place, column)
        return batch

    def _observe(self, batch: _Batch, place: int, column: int) -> None:
        """Count values in the tile in which they are seen, and find the tile that they leave for it."""
        taken, runs = batch.taken, batch.runs
        hashes = taken.sightings[:, place]
        at = np.flatnonzero(hashes != NO_VALUE)
        left = np.full(len(taken), NEVER, dtype=np.int64)
        is_new = np.zeros(len(taken), dtype=bool)
        sighted: Sighted | None = None
        if len(at):
            left[at], sighted = self.sightings[place].look(taken.codes[at], hashes[at], taken.tiles[at])
            is_new[at] = taken.tiles[at] > left[at]
        taken.sums[:, column] = is_new
        moved = np.flatnonzero(is_new & (left != NEVER))
        ranks, rank = np.unique(runs.rank[moved], return_inverse=True)
        batch.moves.append(KeyRuns(runs.keys[ranks], rank, runs.sequence[moved], left[moved]))
        batch.moved.append(moved)
        batch.sighted.append(sighted)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _read_known(self, batch: _Batch, reads: Reads, windows: tuple[WindowRead, ...]) -> list[Seen]:
        """As `_read`; keys without updates have seen nothing."""
        known = np.flatnonzero(reads.codes >= 0)
        if len(known) == len(reads.codes):
            return self._read(batch, reads, windows)
        read = Reads(reads.codes[known], reads.tiles[known], reads.seen[known], reads.clock[known])
        return [_spread(window, known, len(reads.codes)) for window in self._read(batch, read, windows)]

    def _read(self, batch: _Batch, reads: Reads, windows: tuple[WindowRead, ...]) -> list[Seen]:
        span = batch.runs.locate(reads) if len(batch.runs) else None
        last = self.cells.newest(reads.codes)
        if span is not None:
            in_batch = batch.newest[np.maximum(span.ends, 1) - 1]
            last = np.maximum(last, np.where(span.ends > span.starts, in_batch, NEVER))
        floor = np.maximum(last - self.ring, reads.clock - self.retain)
        sizes = np.array([window.tiles for window in windows])[:, None]
        since = np.maximum(reads.tiles - sizes, floor)
        low = np.minimum(since, reads.tiles)
        places = self.cells.count_upto(reads.codes, np.vstack((low, reads.tiles[None])))
        asked = _Asked(reads, span, reads.tiles, low, places[-1], places[:-1], since)
        sums = self._sums(batch, asked)
        return [
            Seen(sums[at], {column: self._largest(batch, asked, column, at) for column in window.maxima})
            for at, window in enumerate(windows)
        ]

    def _sums(self, batch: _Batch, asked: _Asked) -> Ints:
        """Windows x reads x sums."""
        places = np.vstack((asked.low_place, asked.high_place[None]))
        upto = self.cells.sums_before(asked.reads.codes, places)
        if asked.span is not None:
            bounds = np.vstack((asked.low, asked.high[None]))
            upto += batch.runs.sums_upto(asked.span, batch.taken.sums, bounds)
        sums: Ints = upto[-1] - upto[:-1]
        for place, (column, _) in enumerate(self.layout.distinct):
            sums[:, :, column] = self._distinct(batch, asked, batch.moves[place], column)
        return sums

    def _distinct(self, batch: _Batch, asked: _Asked, moves: KeyRuns, column: int) -> Ints:
        """Windows x reads: values seen in a tile above ``since``, and not yet in a newer one."""
        codes, since = asked.reads.codes, asked.since
        upto = self.cells.sums_before(codes, self.cells.count_upto(codes, since))[:, :, column]
        seen: Ints = self.cells.totals(codes)[:, column] - upto
        if asked.span is not None:
            weights = batch.taken.sums[:, [column]]
            every = batch.runs.sums_before(asked.span, weights)
            seen += (every - batch.runs.sums_upto(asked.span, weights, since))[:, :, 0]
        if len(moves):
            span, one = moves.locate(asked.reads), np.ones((len(moves), 1), dtype=np.int64)
            seen -= (moves.sums_before(span, one) - moves.sums_upto(span, one, since))[:, :, 0]
        return seen

    def _largest(self, batch: _Batch, asked: _Asked, column: int, at: int) -> tuple[Ints, Ints]:
        """The maximum that each read sees in one window, and what it carries."""
        kept = self.cells.largest(asked.reads.codes, asked.low_place[at], asked.high_place, column)
        carried = np.zeros(len(kept), dtype=np.int64)
        carries = column < self.layout.carried
        if carries:
            some = np.flatnonzero(kept != EMPTY)
            carried[some] = self._carried(asked, kept, column, at, some)
        if asked.span is None:
            return kept, carried
        weights, low, high = batch.taken.maxima[:, column], asked.low[at], asked.high
        if not carries:
            return np.maximum(kept, batch.runs.largest(asked.span, weights, low, high)), carried
        # Of equal maxima the later update's counts: compare by maximum, then by order.
        order = np.lexsort((np.arange(len(weights)), weights))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        best = batch.runs.largest(asked.span, np.where(weights == EMPTY, EMPTY, rank), low, high)
        update = order[np.maximum(best, 0)]
        wins = (best != EMPTY) & (weights[update] >= kept)
        return np.where(wins, weights[update], kept), np.where(wins, batch.taken.carried[update, column], carried)

    def _carried(self, asked: _Asked, kept: Ints, column: int, at: int, some: Ints) -> Ints:
        """What kept maxima carry; such maxima ascend with the tiles, so the cell is found by halving."""
        rows, kept = asked.reads.codes[some], kept[some]
        low, high = asked.low_place[at][some], asked.high_place[some]
        while (low + 1 < high).any():
            middle = (low + high) >> 1
            is_open = low + 1 < high
            is_right = self.cells.largest(rows, middle, high, column) == kept
            low = np.where(is_open & is_right, middle, low)
            high = np.where(is_open & ~is_right, middle, high)
        return self.cells.carried_at(rows, low, column)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _apply(self, batch: _Batch) -> None:
        runs = batch.runs
        if not len(runs):
            return
        for sightings, sighted in zip(self.sightings, batch.sighted, strict=True):
            if sighted is not None:
                sightings.note(sighted)
        more = _gather(batch.taken, runs)
        for moves, moved, (column, _) in zip(batch.moves, batch.moved, self.layout.distinct, strict=True):
            if len(moves):
                more = _with_moves(more, runs.rank[moved], moves.tiles, column)
        # What has left the ring within this batch is only corrected where it is still kept.
        last = batch.newest[runs.starts[1:] - 1]
        is_old = more.tiles <= (last - self.ring)[more.group]
        if is_old.any():
            there, _ = self.cells.has(runs.keys[more.group], more.tiles)
            more = more.take(~is_old | there)
        rows, tiles = runs.keys[more.group], more.tiles
        dropped = self.cells.add(runs.keys, more)
        if self._with_changelog:
            self._touched.append((rows, tiles))
        self._drop(*dropped)

    def _drop(self, rows: Ints, tiles: Ints) -> None:
        """Follow up cells that were dropped: the changelog forgets them, and so do sightings."""
        if not len(rows):
            return
        if self._with_changelog:
            self._touched.append((rows, tiles))
        pruned = np.unique(rows)
        newest = self.cells.newest(pruned)
        for sightings in self.sightings:
            sightings.keep(pruned, lambda group, last: last > newest[group] - self.ring)

    def take_changes(self) -> tuple[Ints, Ints]:
        """Row and slot (tile modulo ring) of what was touched since the last call, each once."""
        if not self._touched:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        slots = np.concatenate([rows * self.ring + tiles % self.ring for rows, tiles in self._touched])
        self._touched.clear()
        return np.divmod(np.unique(slots), self.ring)

    def find_slots(self, rows: Ints, slots: Ints) -> tuple[NDArray[np.bool_], Ints]:
        """Whether each row has a kept tile in the slot, and its cell's place."""
        newest = self.cells.newest(rows)
        return self.cells.has(rows, newest - (newest - slots) % self.ring)

    def quiet(self, rows: Ints) -> NDArray[np.bool_]:
        """Which rows no operation can see any more."""
        return self.cells.newest(rows) <= self.clock - self.retain

    def clear(self, rows: Ints) -> None:
        """Empty rows, so that other keys may have them."""
        self.cells.clear(rows)
        for sightings in self.sightings:
            sightings.clear(rows)

    def remove(self, rows: Ints, slots: Ints) -> None:
        """Drop the cells of slots."""
        distinct = np.unique(rows)
        cells = self.cells.read(distinct)
        cleared = rows * self.ring + slots
        gone = np.isin(distinct[cells.group] * self.ring + cells.tiles % self.ring, cleared)
        if gone.any():
            self.cells.clear(distinct)
            kept = cells.take(~gone)
            if len(kept):
                self.cells.add(distinct, kept)
            for sightings in self.sightings:
                sightings.keep(
                    distinct, lambda group, tiles: ~np.isin(distinct[group] * self.ring + tiles % self.ring, cleared)
                )

    def insert(self, rows: Ints, more: Cells) -> None:
        """Take cells that were written before, into rows (each once) that have none of these tiles."""
        self._drop(*self.cells.add(rows, more))


def _gather(taken: Updates, runs: KeyRuns) -> Cells:
    """The updates of a batch as cells, by key and tile."""
    rank, tiles = runs.rank, runs.tiles
    sums, maxima, carried = taken.sums, taken.maxima, taken.carried
    if runs.is_disordered:
        order = np.lexsort((tiles, rank))
        rank, tiles, sums, maxima, carried = rank[order], tiles[order], sums[order], maxima[order], carried[order]
    is_first = np.concatenate(([True], (rank[1:] != rank[:-1]) | (tiles[1:] != tiles[:-1])))
    first = np.flatnonzero(is_first)
    if len(first) == len(rank):
        return Cells(rank, tiles, sums, maxima, carried)
    largest = np.maximum.reduceat(maxima, first, axis=0)
    kept = np.empty((len(first), carried.shape[1]), dtype=np.int64)
    cell = np.cumsum(is_first) - 1
    for column in range(carried.shape[1]):
        # Of equal maxima the later update's value: it is written last.
        best = np.flatnonzero(maxima[:, column] == largest[cell, column])
        last = best[np.append(cell[best][1:] != cell[best][:-1], True)]
        kept[cell[last], column] = carried[last, column]
    return Cells(rank[first], tiles[first], np.add.reduceat(sums, first, axis=0), largest, kept)


def _with_moves(more: Cells, rank: Ints, tiles: Ints, column: int) -> Cells:
    """Take one from a distinct count in each tile that a value left."""
    less = np.zeros((len(tiles), more.sums.shape[1]), dtype=np.int64)
    less[:, column] = -1
    group = np.concatenate((more.group, rank))
    every = np.concatenate((more.tiles, tiles))
    order = np.lexsort((every, group))
    group, every = group[order], every[order]
    first = np.flatnonzero(np.concatenate(([True], (group[1:] != group[:-1]) | (every[1:] != every[:-1]))))
    # The sort is stable: where a tile is in both, its own cell comes first, and maxima are those of the first.
    none = np.full((len(tiles), more.maxima.shape[1]), EMPTY, dtype=np.int64)
    nothing = np.zeros((len(tiles), more.carried.shape[1]), dtype=np.int64)
    return Cells(
        group[first],
        every[first],
        np.add.reduceat(np.concatenate((more.sums, less))[order], first, axis=0),
        np.concatenate((more.maxima, none))[order][first],
        np.concatenate((more.carried, nothing))[order][first],
    )


def _spread(seen: Seen, known: Ints, reads: int) -> Seen:
    """Put what known keys saw among reads of keys without updates."""
    sums = np.zeros((reads, seen.sums.shape[1]), dtype=np.int64)
    sums[known] = seen.sums
    maxima = {}
    for column, of_column in seen.maxima.items():
        largest, carried = np.full(reads, EMPTY, dtype=np.int64), np.zeros(reads, dtype=np.int64)
        largest[known], carried[known] = of_column
        maxima[column] = largest, carried
    return Seen(sums, maxima)
