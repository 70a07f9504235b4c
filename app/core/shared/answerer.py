"""Adds up the windows of one part of the keys, over all input partitions, and answers the questions of their events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from app.core.batches import Ints
from app.core.intake.merge import BEGINNING_MS, END_MS
from app.core.records.repartition import read_repartition
from app.core.shared.plan import SharedPlan
from app.core.shared.tile_sums import TileSums
from app.core.tiles.keys import KeyIndex
from schemas.wire import AnswersRecord, KeyAnswers, KeyQuestions, RepartitionRecord, StoreParts

#: About the most bytes of one record of answers.
_RECORD_BYTES = 250_000


@dataclass(slots=True)
class _Group:
    """Records of one source that follow each other, and what must have passed before nobody needs them any more."""

    first_place: int
    records: int = 0
    end_ms: int = BEGINNING_MS
    last_question: int = -1


@dataclass(slots=True)
class _Source:
    """How far an input partition has come, and its records that may still be needed."""

    term: int | None = None
    sequence: int = -1
    added_ms: int = BEGINNING_MS
    scored_ms: int = BEGINNING_MS
    next_offset: int = 0
    groups: deque[_Group] = field(default_factory=deque)


class Answerer:
    """What the owner of one repartition knows: a function of the records that it has heard, in their order.

    Parameters
    ----------
    plan
        The windows that are repartitioned.
    sources
        The input partitions: nothing is answered before all of them have come far enough.
    terms
        The newest term of each source whose former terms are to be passed over.
    group
        How many records of a source are taken together when it is noted whether they are still needed.
    """

    def __init__(
        self,
        plan: SharedPlan,
        feature_set: str,
        sources: Iterable[int],
        terms: dict[int, int] | None = None,
        group: int = 256,
    ) -> None:
        self._plan = plan
        self._feature_set = feature_set
        self._sources = {source: _Source() for source in sources}
        self._terms = dict(terms or {})
        self._group = group
        self._indexes = [KeyIndex() for _ in plan.keys]
        self._sums = [TileSums() for _ in plan.stores]
        self._stores = {store.name: number for number, store in enumerate(plan.stores)}
        self._hops_ms = {store.name: store.hop_ms for store in plan.stores}
        self._key_of = [plan.keys.index(store.key) for store in plan.stores]
        #: Open questions per key: source, offset, needed time, effective time, code [5 x n].
        self._open: list[list[Ints]] = [[] for _ in plan.keys]
        self._low_ms = BEGINNING_MS
        self._answered_ms: int | None = None
        self._swept_ms = BEGINNING_MS
        #: A source has begun a new term, and what it added before must go: hear everything anew (`begin_anew`).
        self.is_outdated = False

    def begin_anew(self) -> Answerer:
        """One that has heard nothing, and will pass over the former terms."""
        return Answerer(self._plan, self._feature_set, self._sources, self._terms, self._group)

    # -- in ----------------------------------------------------------------------------------------------------------

    def hear(self, place: int, value: bytes | None, latest_ms: int = END_MS, newest_term: int = END_MS) -> None:
        """Take the record at this place of the topic. One heard before changes nothing.

        Parameters
        ----------
        latest_ms, newest_term
            As `read_repartition`.

        Raises
        ------
        RefusedRecordError
            When it is none of ours; nothing has been changed then.
        """
        record = read_repartition(
            value,
            len(self._sources),
            len(self._plan.keys),
            self._hops_ms,
            latest_ms=latest_ms,
            newest_term=newest_term,
        )
        source = self._sources.get(record.source)
        if source is None or record.feature_set != self._feature_set or not self._is_of_this_term(record, source):
            return
        if record.sequence <= source.sequence:
            return
        source.sequence = record.sequence
        if not source.groups or source.groups[-1].records == self._group:
            source.groups.append(_Group(place))
        group = source.groups[-1]
        group.records += 1
        for part in record.parts:
            group.end_ms = max(group.end_ms, self._add(part))
        for questions in record.questions:
            group.last_question = max(group.last_question, self._ask(record.source, questions))
        source.scored_ms = max(record.scored_ms, source.scored_ms)
        source.next_offset = max(record.next_offset, source.next_offset)
        if record.added_ms > source.added_ms:
            source.added_ms = record.added_ms
            self._low_ms = min(other.added_ms for other in self._sources.values())

    def _is_of_this_term(self, record: RepartitionRecord, source: _Source) -> bool:
        newest = self._terms.get(record.source)
        if newest is None or record.term > newest:
            self._terms[record.source] = record.term
            self.is_outdated = self.is_outdated or source.term is not None
        if source.term is None and record.term == self._terms[record.source]:
            source.term = record.term
        return source.term == record.term

    def _add(self, part: StoreParts) -> int:
        """The end of the newest tile that it adds to."""
        number = self._stores.get(part.store)
        if number is None:
            return BEGINNING_MS
        codes = self._codes(self._key_of[number], part.keys)
        tiles = _read(part.tiles)
        self._sums[number].add(codes, tiles, np.stack((_read(part.counts), _read(part.sums))))
        return (int(tiles.max()) + 1) * self._plan.stores[number].hop_ms

    def _ask(self, source: int, questions: KeyQuestions) -> int:
        """The offset of the last event that asks."""
        offsets, times = _read(questions.offsets), _read(questions.times_ms)
        codes = self._codes(questions.key, questions.keys)
        needed = self._plan.needed_ms(times)
        self._open[questions.key].append(np.stack((np.full(len(codes), source), offsets, needed, times, codes)))
        self._answered_ms = None
        return int(offsets[-1])

    def _codes(self, key: int, keys: list[bytes]) -> Ints:
        return np.array(list(map(self._indexes[key].add, keys)), dtype=np.int64)

    # -- out ---------------------------------------------------------------------------------------------------------

    def answer(self) -> list[tuple[int, bytes]]:
        """Input partitions and answers for them: all that can be answered now and has not been."""
        if self._answered_ms == self._low_ms:
            return []
        self._answered_ms = self._low_ms
        answers: list[tuple[int, bytes]] = []
        for number, waiting in enumerate(self._open):
            if not waiting:
                continue
            questions = np.concatenate(waiting, axis=1)
            next_offsets = np.array([source.next_offset for source in self._sources.values()])
            places = np.searchsorted(list(self._sources), questions[0])
            questions = questions[:, questions[1] >= next_offsets[places]]
            is_due = questions[2] <= self._low_ms
            self._open[number] = [] if is_due.all() else [questions[:, ~is_due]]
            due = questions[:, is_due]
            for source in np.unique(due[0]).tolist():
                answers += self._answers(number, source, due[:, due[0] == source])
        self._sweep()
        return answers

    def _answers(self, number: int, source: int, due: Ints) -> list[tuple[int, bytes]]:
        # By code: neighbours are searched for in neighbouring places.
        _, offsets, _, times, codes = due[:, np.argsort(due[4], kind="stable")]
        amounts = np.stack(
            [
                self._sums[column.store].read(codes, column.newest_tiles(times), column.tiles)
                for column in self._plan.columns
                if self._key_of[column.store] == number
            ]
        )
        term = self._sources[source].term
        assert term is not None  # it has asked
        most = max(1, _RECORD_BYTES // (8 + 16 * len(amounts)))
        return [
            (source, msgspec.msgpack.encode(AnswersRecord(self._feature_set, term, [answers])))
            for start in range(0, len(offsets), most)
            for answers in [
                KeyAnswers(
                    number,
                    offsets[start : start + most].astype("<i8").tobytes(),
                    amounts[:, :, start : start + most].astype("<i8").tobytes(),
                )
            ]
        ]

    # -- what nobody needs any more ----------------------------------------------------------------------------------

    def next_offset(self, source: int) -> int:
        """The offset of the first event that an input partition has not scored, as far as it has said."""
        return self._sources[source].next_offset

    def needed_place(self) -> int | None:
        """The first record on the topic that a new owner needs; None: all of them."""
        floor_ms = self._floor_ms()
        for source in self._sources.values():
            while len(source.groups) > 1:
                oldest = source.groups[0]
                if oldest.end_ms > floor_ms or oldest.last_question >= source.next_offset:
                    break
                source.groups.popleft()
        if not all(source.groups for source in self._sources.values()):
            return None
        return min(source.groups[0].first_place for source in self._sources.values())

    def entries(self) -> int:
        """How many counts and sums of a key and a tile are kept."""
        return sum(map(len, self._sums))

    def _floor_ms(self) -> int:
        return min(source.scored_ms for source in self._sources.values()) - self._plan.reach_ms

    def _sweep(self) -> None:
        """Forget tiles that nobody will read, and keys without any, now and then."""
        floor_ms = self._floor_ms()
        if floor_ms - self._swept_ms < self._plan.reach_ms // 16:
            return
        self._swept_ms = floor_ms
        for store, sums in zip(self._plan.stores, self._sums, strict=True):
            sums.drop_before(floor_ms // store.hop_ms)
        for number, index in enumerate(self._indexes):
            is_idle = np.zeros(index.capacity, dtype=bool)
            is_idle[index.in_use()] = True
            for questions in self._open[number]:
                is_idle[questions[4]] = False
            for sums, of in zip(self._sums, self._key_of, strict=True):
                if of == number:
                    sums.unmark(is_idle)
            for code in np.flatnonzero(is_idle).tolist():
                index.remove(code)


def _read(column: bytes) -> Ints:
    return np.frombuffer(column, dtype="<i8").astype(np.int64)
