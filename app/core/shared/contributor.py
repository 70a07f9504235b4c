"""One partition's part in the shared windows: what it adds to them, and what it reads.

It adds as soon as events and labels are merged, long before it scores them, and never waits for anyone; so partitions
cannot block each other, and one that lags is waited for only as long as its own records take to be read. What it has
added follows from its log alone. What it reads waits for the others first: `app.core.shared.held`.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np

from app.core.batches import Column, EventBatch, Floats, Ints
from app.core.intake.merge import BEGINNING_MS, END_MS, Merged
from app.core.intake.pending import PendingEvents
from app.core.shared.asker import Asker
from app.core.shared.board import PLACE, TILE, TIMES, SharedBoard
from app.core.shared.labels import SharedLabels
from app.core.shared.plan import SharedColumn, SharedPlan, SharedStore
from app.core.shared.totals import Amounts
from app.core.tiles.keys import NULL
from app.core.tiles.measures import FEATURE_UNITS
from app.core.tiles.store import to_fixed_point
from schemas.wire import SharedTile, SharedTimes

#: Front of the changelog keys of the tile that is still open.
OPEN = b"o"
OPEN_VALUE = struct.Struct("<qqq")
#: Largest keys of one record, all together: it must fit a batch that brokers take.
_PIECE_BYTES = 250_000

Records = list[tuple[bytes, bytes | None]]


# -- what is added ---------------------------------------------------------------------------------------------------


class Contributor:
    """Adds one partition's events and labels to the board, and tells the topic and the changelog.

    Parameters
    ----------
    horizon_ms
        How long events wait for their labels.
    label_fields
        The event fields that the partition keeps until the label comes.
    asker
        Takes what is added to windows that are repartitioned; None: that goes on the board, too.
    """

    def __init__(
        self,
        board: SharedBoard,
        partition: int,
        horizon_ms: int,
        label_fields: tuple[str, ...],
        asker: Asker | None = None,
        *,
        with_drain: bool,
    ) -> None:
        self.added_ms = BEGINNING_MS
        self.late = 0
        self._board = board
        self._plan = board.plan
        self._asker = asker
        self.partition = partition
        self._with_drain = with_drain
        self._labels = SharedLabels(horizon_ms, label_fields, board.plan.label_fields)
        #: Offsets of the next event and label to add: what comes before was added by a former owner.
        self.next_event = self._next_label = 0
        self._touched: dict[tuple[int, int], list[Ints]] = {}
        self._logged: dict[int, int] = {}
        self._pieces: dict[tuple[int, int], set[int]] = {}
        self._is_anew = False
        #: The last times that were drained or, after a restart, committed.
        self._told = SharedTimes(BEGINNING_MS, BEGINNING_MS)

    def add(self, merged: Merged[Any], events: EventBatch) -> None:
        """Add a run: its events by their effective times, its labels by theirs."""
        event_rows = np.flatnonzero(events.offsets >= self.next_event)
        label_columns, places = self._labels.join(merged, events) if self._plan.with_labels else ({}, event_rows[:0])
        label_rows = np.flatnonzero(merged.labels.offsets[places] >= self._next_label)
        for number, store in enumerate(self._plan.stores):
            if store.of == "events":
                self._add(number, store, events.columns, event_rows, merged.times_ms)
            else:
                self._add(number, store, label_columns, label_rows, merged.label_times_ms[places])
        if len(events):
            self.next_event = max(self.next_event, int(events.offsets[-1]) + 1)
            self.come_to(int(merged.times_ms[-1]))
        if len(merged.labels):
            self._next_label = max(self._next_label, int(merged.labels.offsets[-1]) + 1)

    def come_to(self, added_ms: int) -> None:
        """Nothing before ``added_ms`` follows."""
        if added_ms > self.added_ms:
            self.added_ms = added_ms
            self._board.come_to(self.partition, added_ms)

    def _add(self, number: int, store: SharedStore, columns: dict[str, Column], rows: Ints, times_ms: Ints) -> None:
        values = np.ones((2, len(rows)), dtype=np.int64)
        if store.field is not None:
            field = columns[store.field][rows]
            rows, field = rows[np.isfinite(field)], field[np.isfinite(field)]
            values = np.stack((np.ones(len(rows), dtype=np.int64), to_fixed_point(field)))
        asker = self._asker if store.repartition else None
        indexes = self._board.indexes if asker is None else asker.indexes
        codes = indexes[store.key].find_or_add([columns[name][rows] for name in store.key])
        tiles = times_ms[rows] // store.hop_ms
        kept = (codes != NULL) & ((tiles + 1) * store.hop_ms > self._board.floor_ms)
        if not kept.all():
            codes, tiles, values = codes[kept], tiles[kept], values[:, kept]
        if not len(codes):
            return
        self.late += int(np.count_nonzero((tiles + 1) * store.hop_ms <= self.added_ms))
        if asker is not None:
            asker.add(store.name, codes, tiles, values)
            return
        # Times never go back: the entries of a tile lie together.
        distinct, rank = np.unique(tiles, return_inverse=True)
        amounts = Amounts.add_up((rank << 32) + codes, values)
        code_of = amounts.codes & 0xFFFFFFFF
        ends = np.searchsorted(amounts.codes >> 32, np.arange(len(distinct)), side="right").tolist()
        for tile, start, stop in zip(distinct.tolist(), [0, *ends], ends, strict=False):
            part = Amounts(code_of[start:stop], amounts.values[:, start:stop])
            self._board.add(number, tile, self.partition, part)
            if self._with_drain:
                self._touched.setdefault((number, tile), []).append(part.codes)

    # -- out ---------------------------------------------------------------------------------------------------------

    @property
    def scored_ms(self) -> int:
        """The time before which nothing is scored any more, as the others have been told, or soon are."""
        return self._told.scored_ms

    @property
    def has_news(self) -> bool:
        """Whether the others are waiting to hear from this partition: it has come into another tile."""
        told, added = self._told.added_ms, self.added_ms
        return any(added // store.hop_ms > told // store.hop_ms for store in self._plan.stores)

    def drain(self, scored_ms: int) -> tuple[Records, Records]:
        """Records for the topic (closed tiles, times) and for the changelog (the tiles still open).

        The board hears of ``scored_ms`` when it has been committed (`SharedPart.committed`).
        """
        topic, changes = self._forget(), self._close()
        for (number, tile), codes in self._touched.items():
            amounts = self._board.contribution(number, tile, self.partition)
            if self._is_closed(number, tile):
                topic.extend(self._encode(number, tile, amounts))
            else:
                self._logged[number] = tile
                changes.extend(self._encode_open(number, tile, amounts, np.unique(np.concatenate(codes))))
        self._touched.clear()
        times = SharedTimes(self.added_ms, max(scored_ms, self._told.scored_ms))
        if topic or times != self._told:
            self._told = times
            topic.append((TIMES + self._plan.name, msgspec.msgpack.encode(times)))
        self._board.sweep()
        return topic, changes

    def position(self) -> tuple[int, int, int]:
        """What `restore` goes on from: how far it has come, and the next event and label to add."""
        return self.added_ms, self.next_event, self._next_label

    def restore(self, position: tuple[int, int, int], changes: Records, pending: PendingEvents) -> None:
        """Go on from a changelog; the partition's own records of the topic have been heard by the board.

        ``pending``: the events that wait for labels where scoring goes on.
        """
        added_ms, self.next_event, self._next_label = position
        self._labels.restore(pending)
        names = {store.name: number for number, store in enumerate(self._plan.stores)}
        for key, value in dict(changes).items():
            number = names.get(key[1:5]) if key[:1] == OPEN else None
            if number is None or value is None:
                continue
            tile, count, total = OPEN_VALUE.unpack(value)
            store = self._plan.stores[number]
            if (tile + 1) * store.hop_ms > added_ms:
                code = self._board.indexes[store.key].add_encoded(key[5:])
                amounts = Amounts(np.array([code]), np.array([[count], [total]], dtype=np.int64))
                self._board.add(number, tile, self.partition, amounts)
                self._logged[number] = tile
        self._pieces = self._board.pieces(self.partition)
        self._told = SharedTimes(self._board.added_ms[self.partition], self._board.scored_ms[self.partition])
        self.come_to(added_ms)

    def begin_anew(self) -> None:
        """There is no state to go on from: what the topic says of the partition is cleared with the first commit.

        Otherwise what is read again would be added a second time. How far it had scored stands: others went by it.
        """
        self._pieces, self._is_anew = self._board.pieces(self.partition), True
        self._told = SharedTimes(BEGINNING_MS, self._board.scored_ms[self.partition])
        self._board.forget(self.partition)

    def _is_closed(self, number: int, tile: int) -> bool:
        return (tile + 1) * self._plan.stores[number].hop_ms <= self.added_ms

    def _close(self) -> Records:
        """Tiles that the changelog holds and that are closed now: the topic has them from here on."""
        changes: Records = []
        for number, tile in list(self._logged.items()):
            if self._is_closed(number, tile):
                del self._logged[number]
                store = self._plan.stores[number]
                encoded = self._board.indexes[store.key].encoded
                codes = self._board.contribution(number, tile, self.partition).codes.tolist()
                changes.extend((OPEN + store.name + encoded(code), None) for code in codes)
                self._touched.setdefault((number, tile), [])
        return changes

    def _encode_open(self, number: int, tile: int, amounts: Amounts, codes: Ints) -> Records:
        store = self._plan.stores[number]
        encoded = self._board.indexes[store.key].encoded
        values = amounts.values[:, np.searchsorted(amounts.codes, codes)]
        return [
            (OPEN + store.name + encoded(code), OPEN_VALUE.pack(tile, count, total))
            for code, count, total in zip(codes.tolist(), *values.tolist(), strict=True)
        ]

    def _encode(self, number: int, tile: int, amounts: Amounts) -> Records:
        """A closed tile, in as many pieces as it takes."""
        store = self._plan.stores[number]
        encoded = self._board.indexes[store.key].encoded
        keys = [encoded(code) for code in amounts.codes.tolist()]
        pieces = np.cumsum([len(key) + 24 for key in keys]) // _PIECE_BYTES
        starts = np.searchsorted(pieces, np.arange(int(pieces[-1]) + 1)).tolist() if keys else []
        records: Records = []
        for piece, (start, stop) in enumerate(zip(starts, [*starts[1:], len(keys)], strict=True)):
            counts, sums = (row.astype("<i8").tobytes() for row in amounts.values[:, start:stop])
            value = msgspec.msgpack.encode(SharedTile(keys[start:stop], counts, sums))
            records.append((TILE + store.name + PLACE.pack(tile, piece), value))
        self._pieces.setdefault((number, tile), set()).update(range(len(records)))
        return records

    def _forget(self) -> Records:
        """Clear from the topic what nobody will read again."""
        floor_ms = END_MS if self._is_anew else self._board.floor_ms
        self._is_anew = False
        records: Records = []
        for number, tile in list(self._pieces):
            store = self._plan.stores[number]
            if (tile + 1) * store.hop_ms <= floor_ms:
                pieces = sorted(self._pieces.pop((number, tile)))
                records.extend((TILE + store.name + PLACE.pack(tile, piece), None) for piece in pieces)
        return records


# -- what is read ----------------------------------------------------------------------------------------------------


class SharedReader:
    """Fills the shared columns of the feature matrix for one partition."""

    def __init__(self, board: SharedBoard, *, with_repartitioned: bool) -> None:
        self._board = board
        self._cursors = [
            (column, board.new_cursor(column))
            for column in board.plan.columns
            if with_repartitioned or not board.plan.stores[column.store].repartition
        ]

    def fill(self, matrix: Floats, events: EventBatch, times_ms: Ints) -> None:
        """The shared windows of events of these effective times, which never go back."""
        plan: SharedPlan = self._board.plan
        codes = {key: index.find([events.columns[name] for name in key]) for key, index in self._board.indexes.items()}
        for column, cursor in self._cursors:
            keys = codes[plan.stores[column.store].key]
            values = window_values(column, *cursor.read(keys, times_ms))
            values[keys == NULL] = np.nan
            matrix[:, column.column] = values


def window_values(column: SharedColumn, counts: Ints, sums: Ints) -> Floats:
    """What a shared window says of these counts and fixed-point sums."""
    if column.aggregate in {"count", "rate"}:
        values: Floats = counts.astype(np.float64)
        if column.aggregate == "rate":  # per second of the window's size
            values /= column.tiles * column.hop_ms / 1000
    else:
        values = sums / FEATURE_UNITS
        if column.aggregate == "mean":
            values[counts == 0] = np.nan
            values /= np.maximum(counts, 1)
    return values
