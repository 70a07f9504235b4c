"""What one input partition sends to the owners of its keys: what it has added, and the questions of its events."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from zlib import crc32

import msgspec
import numpy as np

from app.core.batches import EventBatch, Ints
from app.core.intake.merge import BEGINNING_MS
from app.core.shared.plan import SharedPlan
from app.core.shared.totals import Amounts
from app.core.tiles.keys import NULL, KeyIndex
from schemas.wire import KeyQuestions, RepartitionRecord, StoreParts

#: About the most bytes of one record: it must fit a batch that brokers take.
_RECORD_BYTES = 250_000
_ROW_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows with a key each: of a store (tiles, counts, sums), or questions (offsets, effective times)."""

    what: bytes | int
    keys: list[bytes]
    columns: Ints

    def take(self, rows: Ints) -> _Rows:
        return _Rows(self.what, [self.keys[row] for row in rows.tolist()], self.columns[:, rows])

    def sizes(self) -> Ints:
        return np.array([len(key) + _ROW_BYTES for key in self.keys], dtype=np.int64)

    def packed(self) -> StoreParts | KeyQuestions:
        columns = [column.astype("<i8").tobytes() for column in self.columns]
        if isinstance(self.what, bytes):
            return StoreParts(self.what, self.keys, *columns)
        return KeyQuestions(self.what, self.keys, *columns)


class Asker:
    """Collects between two commits what the owners of the keys are to hear, and packs it.

    Parameters
    ----------
    plan
        The windows that are repartitioned.
    source
        The input partition.
    partitions
        How many parts the keys are divided into.
    term_ms
        Names the state of the input partition since it began empty; `restore` takes another.
    """

    def __init__(self, plan: SharedPlan, feature_set: str, source: int, partitions: int, term_ms: int) -> None:
        self._plan = plan
        self._partitions = partitions
        #: The last that was said, without the rows.
        self._told = RepartitionRecord(feature_set, source, term_ms, -1, BEGINNING_MS, BEGINNING_MS, 0, [], [])
        self._begin()

    def _begin(self) -> None:
        #: Codes of the keys of one transaction.
        self.indexes = {key: KeyIndex() for key in self._plan.keys}
        self._added: dict[bytes, list[tuple[Ints, Ints, Ints]]] = defaultdict(list)
        self._asked: dict[int, list[tuple[Ints, Ints]]] = defaultdict(list)

    @property
    def term_ms(self) -> int:
        return self._told.term

    @property
    def has_questions(self) -> bool:
        """Whether events wait for the next commit to ask."""
        return bool(self._asked)

    def add(self, store: bytes, codes: Ints, tiles: Ints, values: Ints) -> None:
        """Counts and sums [2 x n] for tiles of the store of this name; codes are those of ``indexes``."""
        self._added[store].append((codes, tiles, values))

    def ask(self, events: EventBatch, times_ms: Ints, first: int) -> Ints:
        """Ask for the events from offset ``first`` on; those before have been asked for.

        Returns
        -------
        bool [keys x events]: which have an answer to come, those before ``first`` included.
        """
        is_asked = np.zeros((len(self._plan.keys), len(events)), dtype=bool)
        for number, key in enumerate(self._plan.keys):
            codes = self.indexes[key].find_or_add([events.columns[name] for name in key])
            is_asked[number] = codes != NULL
            rows = np.flatnonzero(is_asked[number] & (events.offsets >= first))
            if len(rows):
                self._asked[number].append((codes[rows], np.stack((events.offsets[rows], times_ms[rows]))))
        return is_asked

    def drain(self, added_ms: int, scored_ms: int, next_offset: int) -> list[tuple[int, bytes]]:
        """Partitions of the topic and records for them, of one transaction; none when there is nothing new to say.

        ``next_offset``: of the first event that is not scored. The times: as in `SharedTimes`.
        """
        told = self._told
        times = msgspec.structs.replace(told, added_ms=added_ms, scored_ms=scored_ms, next_offset=next_offset)
        if times == told and not self._added and not self._asked:
            return []
        records: list[tuple[int, bytes]] = []
        last = told.sequence
        rows = self._rows()
        for partition in range(self._partitions):
            sequence = told.sequence
            for piece in _cut([mine.take(np.flatnonzero(of == partition)) for mine, of in rows]):
                # The times go with the last: they say that everything before them is there.
                sequence += 1
                said = times if piece.is_last else told
                record = msgspec.structs.replace(said, sequence=sequence, parts=piece.parts, questions=piece.questions)
                records.append((partition, msgspec.msgpack.encode(record)))
            last = max(last, sequence)
        self._told = msgspec.structs.replace(times, sequence=last)
        self._begin()
        return records

    def position(self) -> tuple[int, int]:
        """What `restore` goes on from."""
        return self._told.term, self._told.sequence

    def restore(self, position: tuple[int, int]) -> None:
        """Go on with a term: what had been drained by then is not collected again."""
        term_ms, sequence = position
        self._told = msgspec.structs.replace(self._told, term=term_ms, sequence=sequence)

    def _rows(self) -> list[tuple[_Rows, Ints]]:
        """All that was collected, with the partition of each row."""
        encoded = {key: index.encoded_all(np.arange(index.capacity)) for key, index in self.indexes.items()}
        owners = {
            key: np.array([crc32(one) % self._partitions for one in keys], dtype=np.int64)
            for key, keys in encoded.items()
        }
        rows: list[tuple[bytes | int, tuple[str, ...], Ints, Ints]] = []
        for store in self._plan.stores:
            if store.name in self._added:
                codes, columns = _add_up(self._added[store.name])
                rows.append((store.name, store.key, codes, columns))
        for number, key in enumerate(self._plan.keys):
            if number in self._asked:
                codes, columns = (np.concatenate(parts, axis=-1) for parts in zip(*self._asked[number], strict=True))
                rows.append((number, key, codes, columns))
        return [
            (_Rows(what, [encoded[key][code] for code in codes.tolist()], columns), owners[key][codes])
            for what, key, codes, columns in rows
        ]


@dataclass(slots=True)
class _Piece:
    """What goes into one record."""

    parts: list[StoreParts]
    questions: list[KeyQuestions]
    is_last: bool = False


def _cut(rows: list[_Rows]) -> list[_Piece]:
    """All of it in as many pieces as it takes, but at least one."""
    pieces = [_Piece([], [])]
    filled = 0
    for mine in rows:
        ends = filled + np.cumsum(mine.sizes())
        at = ends // _RECORD_BYTES
        for number in np.unique(at).tolist():
            if number > len(pieces) - 1:
                pieces.append(_Piece([], []))
            packed = mine.take(np.flatnonzero(at == number)).packed()
            if isinstance(packed, StoreParts):
                pieces[-1].parts.append(packed)
            else:
                pieces[-1].questions.append(packed)
        filled = int(ends[-1]) if len(ends) else filled
    pieces[-1].is_last = True
    return pieces


def _add_up(added: list[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints]:
    """One row per key and tile: codes, and tiles, counts and sums [3 x n]."""
    codes, tiles, values = (np.concatenate(parts, axis=-1) for parts in zip(*added, strict=True))
    distinct, rank = np.unique(tiles, return_inverse=True)
    amounts = Amounts.add_up((codes << 32) + rank, values)
    return amounts.codes >> 32, np.stack((distinct[amounts.codes & 0xFFFFFFFF], *amounts.values))
