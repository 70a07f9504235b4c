"""What one partition tells of the entities that it has seen: each once in a *generation*, with the time of its event.

A generation is a stretch of event time (`remember_ms`), counted by the partition's effective times. An entity is
remembered while its newest generation is the one under way or the one before; what is older is cleared. What is told
is a function of the partition's log: not of batches, workers or crashes.

The records: the key is a generation and a number, the value up to `CHUNK` entities. The last one is written again as it
fills.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints
from app.core.records.entities import CHUNK, NAME_CHARACTERS, Place, read_entities
from app.core.records.rules import RecordRules
from app.core.tiles.hash_runs import HashRuns, hash64
from app.core.tiles.stored import Change
from schemas.ranges import END_MS
from schemas.refusal import RefusedRecordError
from schemas.wire import EntityChunk

#: Texts that need no hash to be known, per partition: bounds memory, not what is known.
_MOST_KNOWN = 1 << 18


class EntityLog:
    """The entities of one partition.

    Parameters
    ----------
    remember_ms
        How long an entity is remembered at least, in event time.
    rules
        What the records that `restore` takes must satisfy.
    """

    def __init__(self, remember_ms: int, rules: RecordRules) -> None:
        self._span_ms = remember_ms
        self._rules = rules
        self._generation: int | None = None
        self._known: set[str] = set()
        self._now, self._before = HashRuns(), HashRuns()
        #: The records of each generation, by number: one that is missing need not be cleared.
        self._numbers: dict[int, set[int]] = {}
        self._number = 0
        self._open = _Chunk()
        self._changes: dict[bytes, bytes | None] = {}

    def see(self, entities: Sequence[str], times_ms: Ints) -> None:
        """Take events in their order; ``times_ms``: their effective times."""
        if not len(times_ms):
            return
        generations = times_ms // self._span_ms
        if int(generations[0]) == int(generations[-1]):
            self._see(int(generations[0]), entities, times_ms)
            return
        starts = np.flatnonzero(np.diff(generations, prepend=generations[0] - 1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(entities)], strict=True):
            self._see(int(generations[start]), entities[start:stop], times_ms[start:stop])

    def knows(self, entities: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which entities, as UTF-8, are remembered here."""
        hashes = np.array([hash64(entity) for entity in entities], dtype=np.int64)
        return self._now.has(hashes) | self._before.has(hashes)

    def drain(self) -> list[Change]:
        """Records since the last drain, for a compacted topic; None clears a key."""
        self._write_open()
        changes, self._changes = self._changes, {}
        return list(changes.items())

    def restore(self, records: Iterable[Change], latest_ms: int = END_MS) -> None:
        """Take what was written before, in its order, before anything is seen.

        Records that no such log wrote are passed over.

        Parameters
        ----------
        latest_ms
            How far a partition can have come: nothing is of a later generation.
        """
        newest_generation = min(self._rules.latest_ms, latest_ms) // self._span_ms
        newest: dict[Place, EntityChunk] = {}
        for key, value in records:
            try:
                place, chunk = read_entities(key, value, self._rules)
            except RefusedRecordError:
                continue  # whoever follows the topic says so
            if chunk is None:
                newest.pop(place, None)
            elif place.generation <= newest_generation:
                newest[place] = chunk
        if not newest:
            return
        self._generation, self._number = max(newest)
        for (generation, number), chunk in newest.items():
            self._numbers.setdefault(generation, set()).add(number)
            runs = {self._generation: self._now, self._generation - 1: self._before}.get(generation)
            if runs is not None:
                runs.add(np.frombuffer(chunk.hashes, "<i8").astype(np.int64))
        self._open = _Chunk.of(newest[Place(self._generation, self._number)])
        if len(self._open.names) >= CHUNK:
            self._begin_record()

    def _see(self, generation: int, entities: Sequence[str], times_ms: Ints) -> None:
        if self._generation is None or generation > self._generation:
            self._begin(generation)
        known = self._known
        if known.issuperset(entities):
            return
        if len(known) > _MOST_KNOWN:
            known.clear()
        first_rows: dict[str, int] = {}
        for row, entity in enumerate(entities):
            if entity not in known:
                first_rows.setdefault(entity, row)
        known.update(first_rows)
        hashes = np.array([hash64(entity.encode()) for entity in first_rows], dtype=np.int64)
        is_new = ~self._now.has(hashes)
        if not is_new.any():
            return
        self._now.add(hashes[is_new])
        names, rows = list(first_rows), list(first_rows.values())
        for at in np.flatnonzero(is_new).tolist():
            self._open.add(int(hashes[at]), int(times_ms[rows[at]]), names[at][:NAME_CHARACTERS])
            if len(self._open.names) == CHUNK:
                self._write_open()
                self._begin_record()

    @property
    def _under_way(self) -> int:
        assert self._generation is not None  # events have been seen
        return self._generation

    def _begin(self, generation: int) -> None:
        """Begin a generation: the one before the last is forgotten."""
        self._write_open()
        follows = self._generation == generation - 1
        self._before, self._now = (self._now if follows else HashRuns()), HashRuns()
        self._known.clear()
        self._open = _Chunk()
        self._generation, self._number = generation, 0
        for old in [former for former in self._numbers if former < generation - 1]:
            self._changes.update((Place(old, number).to_key(), None) for number in sorted(self._numbers.pop(old)))

    def _write_open(self) -> None:
        if self._open.is_changed:
            self._open.is_changed = False
            self._numbers.setdefault(self._under_way, set()).add(self._number)
            self._changes[Place(self._under_way, self._number).to_key()] = self._open.encode()

    def _begin_record(self) -> None:
        self._open = _Chunk()
        self._number += 1


class _Chunk:
    """The record that is being filled."""

    def __init__(self) -> None:
        self.hashes: list[int] = []
        self.times_ms: list[int] = []
        self.names: list[str] = []
        self.is_changed = False

    @classmethod
    def of(cls, chunk: EntityChunk) -> _Chunk:
        filled = cls()
        filled.hashes = np.frombuffer(chunk.hashes, "<i8").tolist()
        filled.times_ms = np.frombuffer(chunk.first_seen_ms, "<i8").tolist()
        filled.names = list(chunk.names)
        return filled

    def add(self, hash_: int, time_ms: int, name: str) -> None:
        self.hashes.append(hash_)
        self.times_ms.append(time_ms)
        self.names.append(name)
        self.is_changed = True

    def encode(self) -> bytes:
        hashes, times = (np.array(numbers, dtype="<i8").tobytes() for numbers in (self.hashes, self.times_ms))
        return msgspec.msgpack.encode(EntityChunk(hashes, times, self.names))
