"""The changelog of one partition: how its records are named, and how a state comes back from them, batch by batch.

A record's key is its kind (one byte), the generation (four) and what the part of the state that wrote it calls it; "m"
alone is the record of how far the partition had come, the last one of each transaction. A state that cannot be gone on
with (of another feature set) is left aside, and what is written from then on has the next generation: records of
former ones are passed over, and cleared by and by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import msgspec

from app.core.batches import RecordBatch
from app.core.features.windows import FeatureState
from app.core.intake.forgotten_ids import PREFIX as FORGOTTEN
from app.core.intake.pending import PREFIX as WAITING
from app.core.intake.pending import PendingEvents
from app.core.intake.sent_once import PREFIX as SENT
from app.core.intake.sent_once import SentOnce
from app.core.records.state import DAMAGE, MOST_GENERATION, check_open_tile, check_order, read_meta
from app.core.shared.contributor import OPEN, OPEN_VALUE
from app.core.tiles.row_cache import RowCache, Snapshot
from app.core.tiles.stored import Change
from schemas.ranges import END_MS
from schemas.refusal import RefusedRecordError

META = b"m"
TILES = b"t"

#: Of tiles, open tiles of shared windows, events that wait for their labels, those that were forgotten, and those
#: that were sent once.
_KINDS = frozenset({TILES, OPEN, WAITING, FORGOTTEN, SENT})

_GENERATION_BYTES = 4
_HEAD_BYTES = 1 + _GENERATION_BYTES
#: Keys of former generations that one take-over remembers to clear, and that one transaction clears.
_MOST_REMEMBERED = 200_000
_MOST_CLEARED = 2_000

#: A snapshot on disk is not used when it is older: compaction keeps tombstones for a day (delete.retention.ms), and a
#: key that it still has may have been cleared and its tombstone be gone.
SNAPSHOT_KEPT_MS = 23 * 3_600_000


@dataclass(frozen=True, slots=True)
class Restored:
    """What a take-over found: records read, and in one sentence what was left aside ("" for nothing)."""

    records: int
    left_aside: str = ""


@dataclass(slots=True)
class Generation:
    """The generation that is written, and keys of former ones that are still to be cleared."""

    number: int = 0
    former: list[bytes] = field(default_factory=list)

    def name(self, changes: Iterable[Change]) -> Iterator[Change]:
        """Records as they are to be written; the first byte of their keys is the kind."""
        number = self.number.to_bytes(_GENERATION_BYTES, "big")
        return ((key[:1] + number + key[1:], value) for key, value in changes)

    def clear_some(self) -> list[Change]:
        """Tombstones of former generations, a part of them at each call."""
        some, self.former = self.former[:_MOST_CLEARED], self.former[_MOST_CLEARED:]
        return [(key, None) for key in some]


class StateReader:
    """Rebuilds a state from its changelog, given in batches and in order.

    Parameters
    ----------
    feature_set
        Of the pipeline; a state of another is left aside, for its windows would not mean what the features say now.
    new_state, new_pending, new_sent
        Build the empty parts.
    latest_ms
        How far the partition can have come.
    needed
        What a record that says how far must say besides, to go on from: "shared", "repartition".
    keeps_other
        Whether records of other kinds than tiles are kept for whoever else restores from them (``others``).
    cache
        The rows on disk, if the state has such: they hold what `open_snapshot` says, and then all that was taken.
    """

    def __init__(
        self,
        feature_set: str,
        new_state: Callable[[], FeatureState],
        new_pending: Callable[[], PendingEvents],
        new_sent: Callable[[], SentOnce],
        *,
        latest_ms: int = END_MS,
        needed: tuple[str, ...] = (),
        keeps_other: bool,
        cache: RowCache | None = None,
    ) -> None:
        self._feature_set = feature_set
        self._new_state = new_state
        self._new_pending = new_pending
        self._new_sent = new_sent
        self._latest_ms, self._needed = latest_ms, needed
        self._keeps_other = keeps_other
        self._cache = cache
        self._records = 0
        self._begin_empty()
        self.generation = Generation()
        self.meta: dict[str, Any] = {}
        #: Of each generation, where its last record said to go on.
        self._positions: dict[int, tuple[int | None, ...]] = {}
        #: Offsets of records that were passed over, and why: another program wrote them, or they are damaged.
        self.refused: list[tuple[int, RefusedRecordError]] = []

    def open_snapshot(self, first: int, end: int, now_ms: int) -> int:
        """Go on from what is on disk, if it can be used; otherwise it is cleared.

        Parameters
        ----------
        first, end
            Offsets of the changelog: its first record's, and that after its last.
        now_ms
            Processing time.

        Returns
        -------
        Offset to read the changelog from.
        """
        if self._cache is None:
            return first
        snapshot = self._cache.snapshot()
        is_usable = (
            snapshot is not None
            and snapshot.feature_set == self._feature_set
            and first <= snapshot.position <= end
            and snapshot.written_ms > now_ms - SNAPSHOT_KEPT_MS
        )
        if snapshot is None or not is_usable:
            self._cache.clear()
            return first
        try:
            self._go_on_from(self._cache, snapshot)
        except DAMAGE:  # the topic has it all
            self._cache.clear()
            self._begin_empty()
            self.meta = {}
            self._positions = {}
            self.generation = Generation()
            return first
        return snapshot.position

    def _go_on_from(self, cache: RowCache, snapshot: Snapshot) -> None:
        self.generation.number = snapshot.generation
        log = dict(cache.read_log())
        meta = log.pop(META, None)
        if meta is not None:  # none: a take-over was broken off before it had come to one
            self._read_meta(meta)
        self.pending.restore(log.items())
        self.sent.restore(log.items())
        self._keep(list(log.items()))
        self.state.restore_clocks(cache.read_clocks())

    def take(self, batch: RecordBatch, now_ms: int = 0) -> None:
        """Take the next records; ``now_ms``: processing time, for a state on disk.

        A record that cannot be read is passed over (`refused`): what its key had before stands.
        """
        records: list[tuple[int, Change]] = []
        for offset, key, value in zip(batch.offsets.tolist(), batch.keys, batch.values, strict=True):
            if key is None:
                self.refused.append((offset, RefusedRecordError("bad_key", "It has no key.")))
            else:
                records.append((offset, (key, value)))
        self._take_some(records)
        if self._cache is not None:
            self._cache.seal()
            self._cache.commit()
            self._cache.write(self.snapshot(int(batch.offsets[-1]) + 1, now_ms))

    def _take_some(self, records: list[tuple[int, Change]]) -> None:
        """Take records; where they fail together, by halves: taking some of them again changes nothing."""
        before = self.meta, self._positions
        try:
            self.take_changes([change for _, change in records])
        except DAMAGE as error:
            self.meta, self._positions = before
            if len(records) > 1:
                middle = len(records) // 2
                self._take_some(records[:middle])
                self._take_some(records[middle:])
                return
            ((offset, (key, _)),) = records
            if not isinstance(error, RefusedRecordError):
                error = RefusedRecordError("malformed", f"{type(error).__name__}: {error!s:.200}")
            self.refused.append((offset, error))
            if key == META and self.meta:
                # What it said is lost. Where to go on, the group's offsets say, which were committed with it.
                self.meta = {**self.meta, "position": (None, None)}
                if self._cache is not None:
                    self._cache.put_log([(META, msgspec.msgpack.encode(self.meta))])

    def snapshot(self, position: int, now_ms: int) -> Snapshot:
        """What is on disk once all before the position is."""
        return Snapshot(self._feature_set, self.generation.number, position, now_ms)

    def take_changes(self, changes: list[Change]) -> None:
        """As `take`, of records that are of no topic."""
        tiles: list[Change] = []
        others: list[Change] = []
        metas: list[Change] = []
        for key, value in changes:
            number = self._read_meta(value) if key == META else _read_generation(key)
            if value is None and number > self.generation.number:
                continue  # nothing of that generation has been read
            if number > self.generation.number:  # what was read so far is of a former one
                self._begin(number, (*(TILES + key for key, _ in tiles), *(key for key, _ in others)))
                tiles, others, metas = [], [], []
            if key == META:
                metas = [(key, value)]
            elif number < self.generation.number:
                self._remember(key, value)
            elif key[:1] == TILES:
                tiles.append((key[_HEAD_BYTES:], value))
            else:
                if key[:1] == OPEN:
                    check_open_tile(key[_HEAD_BYTES:], value, OPEN_VALUE)
                others.append((key[:1] + key[_HEAD_BYTES:], value))
        self.state.restore(tiles)
        self.pending.restore(others)
        self.sent.restore(others)
        self._keep(others)
        if self._cache is not None:
            self._cache.put_log([*others, *metas])
        self._records += len(changes)

    def _keep(self, others: list[Change]) -> None:
        if self._keeps_other:
            for key, value in others:
                self.others.pop(key, None)
                if value is not None:
                    self.others[key] = value

    def _read_meta(self, value: bytes | None) -> int:
        """Note how far the partition had come; the generation that says so."""
        meta = read_meta(value, self._feature_set, self._needed, self._latest_ms)
        check_order(self._positions.get(meta["generation"], ()), meta["position"])
        self.meta = meta
        self._positions = {**self._positions, meta["generation"]: meta["position"]}
        number: int = meta["generation"]
        return number

    def finish(self) -> Restored:
        """Say what was found; ``meta`` is empty when there is nothing to go on from."""
        of = self.meta.get("feature_set", self._feature_set)
        if of == self._feature_set:
            self.state.finish_restore()
            return Restored(self._records)
        self._begin(self.generation.number + 1)
        self.meta = {}
        return Restored(
            self._records,
            f"The state is of feature set {of} and the pipeline's is {self._feature_set}: it is left aside, its records"
            " are cleared, and the windows fill up anew from here on.",
        )

    def _begin(self, number: int, read: Iterable[bytes] = ()) -> None:
        """Leave aside what was taken so far, and what was read and not taken."""
        room = _MOST_REMEMBERED - len(self.generation.former)
        tiles = (TILES + key for key in self.state.record_keys())
        known = chain(tiles, self.pending.record_keys(), self.sent.record_keys(), self.others, read)
        former = self.generation.name((key, None) for key in islice(known, room))
        self.generation.former.extend(key for key, _ in former)
        self.generation.number = number
        if self._cache is not None:
            self._cache.clear()
        self._begin_empty()

    def _begin_empty(self) -> None:
        self.state, self.pending, self.sent = self._new_state(), self._new_pending(), self._new_sent()
        self.others: dict[bytes, bytes] = {}

    def _remember(self, key: bytes, value: bytes | None) -> None:
        if value is not None and len(self.generation.former) < _MOST_REMEMBERED:
            self.generation.former.append(key)


def _read_generation(key: bytes) -> int:
    """The generation that a record's key names; RefusedRecordError when no part of a state has such keys."""
    number = int.from_bytes(key[1:_HEAD_BYTES], "big")
    if len(key) < _HEAD_BYTES or key[:1] not in _KINDS or number > MOST_GENERATION:
        raise RefusedRecordError("bad_key", f"No record of this topic has the key {key[:40]!r}.")
    return number
