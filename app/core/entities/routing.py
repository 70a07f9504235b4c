"""Records of all partitions merged by time, each on its way to the partition of its entity (ADR 0033).

Each partition of the events and labels that are sent is a queue. What is taken next is what has the earliest time of
all heads, so that a backlog makes no event late. The order within a queue stays as it is, and so no record overtakes
one of its own partition: to take the earliest head again and again is to sort by the running maximum of each queue.

A watermark record speaks of its own partition only. What it promises passes here when all before it has; the promise of
all partitions, which is the least, is one for every partition by entity.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.core.batches import Header, Ints, RecordBatch
from app.core.entities.copies import Copy, origin_header, stand_in_header
from app.core.intake.decode import INT64, LabelDecoder
from app.core.records.event_time import TimeBounds
from schemas.partitioning import partition_of
from schemas.pipeline.spec import Pipeline
from schemas.ranges import BEGINNING_MS, END_MS
from schemas.topics import ORIGIN_HEADER, UNREADABLE_HEADER

#: Entities whose partition needs no hash: bounds memory.
_MOST_KNOWN = 1 << 18
_BAD_JSON = (msgspec.DecodeError, RecursionError, UnicodeError, TypeError)


class Place(NamedTuple):
    """A topic partition."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Routed:
    """What is to be written next, by partition and in order, and up to where that uses up the originals.

    Labels come first, and are to be there before the events are. ``promises``: what watermark records of the source
    partitions promise (ms), and the newest time stamp of these (``promised_at_ms``); then there is nothing else.
    """

    labels: dict[int, list[Copy]] = field(default_factory=dict)
    events: dict[int, list[Copy]] = field(default_factory=dict)
    label_ends: dict[Place, int] = field(default_factory=dict)
    event_ends: dict[Place, int] = field(default_factory=dict)
    promises: dict[int, int] = field(default_factory=dict)
    promised_at_ms: int = 0


@dataclass(slots=True)
class _Piece:
    """A batch of a queue: when (the queue's running maximum) and where each record goes, and which promise what."""

    records: RecordBatch
    times_ms: Ints
    to: Ints
    marks: dict[int, int]
    n_bytes: int = 0
    taken: int = 0


class _Queue:
    def __init__(self) -> None:
        self.pieces: deque[_Piece] = deque()
        self.newest_ms = BEGINNING_MS
        self.n_bytes = 0
        self.rows = 0

    def add(self, piece: _Piece) -> None:
        start_ms = self.newest_ms if self.pieces else BEGINNING_MS
        piece.times_ms = np.maximum(np.maximum.accumulate(piece.times_ms), start_ms)
        self.newest_ms = int(piece.times_ms[-1])
        self.pieces.append(piece)
        piece.n_bytes = sum(map(len, filter(None, piece.records.values))) + 100 * len(piece.records)
        self.n_bytes += piece.n_bytes
        self.rows += len(piece.records)

    def stretches(self, limit_ms: int) -> Iterator[tuple[_Piece, int]]:
        """Pieces, and how far each may be taken by time, up to the first promise."""
        for piece in self.pieces:
            stop = int(np.searchsorted(piece.times_ms, limit_ms, side="right"))
            mark = min((row for row in piece.marks if row >= piece.taken), default=stop)
            if min(stop, mark) > piece.taken:
                yield piece, min(stop, mark)
            if min(stop, mark) < len(piece.records):
                return

    def first_mark_ms(self) -> int | None:
        """The time of the first promise."""
        for piece in self.pieces:
            for row in piece.marks:  # ascending
                if row >= piece.taken:
                    return int(piece.times_ms[row])
        return None

    def take(self, piece: _Piece, stop: int) -> int:
        """Use up a piece that is at the head up to a row; return the offset after that."""
        self.rows -= stop - piece.taken
        piece.taken = stop
        end = int(piece.records.offsets[stop - 1]) + 1
        if stop == len(piece.records):
            self.pieces.popleft()
            self.n_bytes -= piece.n_bytes
        return end


class Routing:
    """The queues of one pipeline, and the rule that merges them."""

    def __init__(self, pipeline: Pipeline) -> None:
        events, topics = pipeline.events, pipeline.topics
        self._n = pipeline.partitions
        self._labels_topic = topics.sent_labels
        fields: list[tuple[str, Any]] = [(events.entity, str), (events.time, INT64)]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Routed", fields, gc=False)).decode
        self._decode_labels = LabelDecoder(pipeline).decode
        self._entity, self._time = events.entity, events.time
        self._bounds = TimeBounds(events.time, events.earliest_ms, events.latest_ms, events.max_ahead_ms)
        self._known: dict[str | bytes, int] = {}
        names = [topics.sent_events] + ([topics.sent_labels] if pipeline.labels is not None else [])
        #: Where records come from.
        self.places = [Place(name, partition) for name in names for partition in range(self._n)]
        self._queues = {place: _Queue() for place in self.places}

    @property
    def rows(self) -> int:
        """Records that are queued."""
        return sum(queue.rows for queue in self._queues.values())

    def queued_bytes(self, place: Place) -> int:
        """What is queued of one partition."""
        return self._queues[place].n_bytes

    def is_empty(self, place: Place) -> bool:
        """Whether nothing is queued of a partition."""
        return not self._queues[place].pieces

    def clear(self) -> None:
        """Forget what is queued."""
        self._queues = {place: _Queue() for place in self.places}

    def add(self, records: RecordBatch) -> None:
        """Queue what was fetched of one partition."""
        if len(records):
            read = self._read_labels if records.topic == self._labels_topic else self._read_events
            self._queues[Place(records.topic, records.partition)].add(read(records))

    def take(self, most: int, behind: Collection[Place]) -> Routed | None:
        """What may go now, or None.

        Parameters
        ----------
        most
            Records; more only if they are of one time.
        behind
            Partitions that hold more than has been queued: nothing goes that is later than what is known of them.
        """
        if any(not self._queues[place].pieces for place in behind):
            return None
        newest = {place: self._queues[place].newest_ms for place in behind}
        limit_ms = min(newest.values(), default=END_MS)
        # A label of the same time may follow, and is to be there before the event.
        before_ms = min((ms for place, ms in newest.items() if self._is_label(place)), default=END_MS + 1)
        marks = [time_ms for queue in self._queues.values() if (time_ms := queue.first_mark_ms()) is not None]
        first_mark_ms = min(marks, default=END_MS + 1)
        until_ms = min(limit_ms, first_mark_ms)
        stretches = self._stretches(until_ms, before_ms - 1)
        if sum(stop - piece.taken for _, piece, stop in stretches) > most:
            times = np.concatenate([piece.times_ms[piece.taken : stop] for _, piece, stop in stretches])
            until_ms = int(np.partition(times, most - 1)[most - 1])
            stretches = self._stretches(until_ms, before_ms - 1)
        if stretches:
            return self._merge(stretches)
        return self._promise(first_mark_ms) if first_mark_ms <= limit_ms else None

    def _is_label(self, place: Place) -> bool:
        return place.topic == self._labels_topic

    def _stretches(self, until_ms: int, events_until_ms: int) -> list[tuple[Place, _Piece, int]]:
        return [
            (place, piece, stop)
            for place, queue in self._queues.items()
            for piece, stop in queue.stretches(until_ms if self._is_label(place) else min(until_ms, events_until_ms))
        ]

    def _merge(self, stretches: list[tuple[Place, _Piece, int]]) -> Routed:
        routed = Routed()
        for is_label, copies, ends in (
            (True, routed.labels, routed.label_ends),
            (False, routed.events, routed.event_ends),
        ):
            parts = [stretch for stretch in stretches if self._is_label(stretch[0]) is is_label]
            if not parts:
                continue
            to = np.concatenate([piece.to[piece.taken : stop] for _, piece, stop in parts])
            times = np.concatenate([piece.times_ms[piece.taken : stop] for _, piece, stop in parts])
            rows = [copy for _, piece, stop in parts for copy in _copies(piece, stop)]
            order = np.argsort(times, kind="stable")  # of one time, the partitions' order
            to = to[order]
            for partition in np.unique(to).tolist():
                copies[partition] = [rows[row] for row in order[to == partition].tolist()]
            for place, piece, stop in parts:
                ends[place] = self._queues[place].take(piece, stop)
        return routed

    def _promise(self, time_ms: int) -> Routed:
        """The promises of one time that are at the heads of queues."""
        promises, ends, at_ms = {}, {}, 0
        for place, queue in self._queues.items():
            if queue.first_mark_ms() == time_ms:
                piece = queue.pieces[0]
                row = piece.taken
                promises[place.partition] = piece.marks[row]
                at_ms = max(at_ms, int(piece.records.timestamps_ms[row]))
                ends[place] = queue.take(piece, row + 1)
        return Routed(label_ends=ends, promises=promises, promised_at_ms=at_ms)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_events(self, records: RecordBatch) -> _Piece:
        """What names no entity stays in its partition, and goes when what was before it has gone."""
        decode, entity, time, known = self._decode, self._entity, self._time, self._known
        to, times = [records.partition] * len(records), [BEGINNING_MS] * len(records)
        for row, value in enumerate(records.values):
            try:
                event = decode(value)  # type: ignore[arg-type]  # None raises TypeError
            except _BAD_JSON:
                continue
            name = getattr(event, entity)
            if name:
                place = known.get(name)
                to[row] = self._find(name) if place is None else place
                times[row] = getattr(event, time)
        times_ms = np.array(times, dtype=np.int64)
        # A time that is not believed would hold up all that is behind it.
        for refused in self._bounds.refuse(times_ms, records.timestamps_ms, None):
            times_ms[refused.row] = BEGINNING_MS
        return _Piece(records, times_ms, np.array(to, dtype=np.int64), {})

    def _read_labels(self, records: RecordBatch) -> _Piece:
        labels, _ = self._decode_labels(records)
        times_ms = np.full(len(records), BEGINNING_MS, dtype=np.int64)
        to = np.full(len(records), records.partition, dtype=np.int64)
        rows = np.searchsorted(records.offsets, labels.offsets)
        times_ms[rows] = labels.label_time_ms
        marks: dict[int, int] = {}
        for row, key, event_id, time_ms in zip(
            rows.tolist(), labels.key, labels.event_id, labels.label_time_ms.tolist(), strict=True
        ):
            if event_id:
                to[row] = self._find(key or b"")
            else:
                marks[row] = time_ms
        return _Piece(records, times_ms, to, marks)

    def _find(self, entity: str | bytes) -> int:
        """The partition of an entity: as Kafka's own partitioner would put it."""
        home = self._known.get(entity)
        if home is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            name = entity if isinstance(entity, bytes) else entity.encode(errors="surrogatepass")
            home = self._known[entity] = partition_of(name, self._n)
        return home


def _copies(piece: _Piece, stop: int) -> Iterator[Copy]:
    """The records of a piece as they are written: as they were, and where they were."""
    records, first = piece.records, piece.taken
    partition = records.partition
    for row, offset, time_ms in zip(
        range(first, stop),
        records.offsets[first:stop].tolist(),
        records.timestamps_ms[first:stop].tolist(),
        strict=True,
    ):
        headers: list[Header] = [origin_header(partition, offset)]
        if records.headers is not None:
            own = [header for header in records.headers[row] if header[0] != ORIGIN_HEADER]
            if row in records.unreadable:
                own = [header for header in own if header[0] != UNREADABLE_HEADER]
                own.append(stand_in_header(*records.unreadable[row]))
            headers += own
        yield records.keys[row], records.values[row], time_ms, headers


def least_promise(promises: Mapping[int, int], partitions: int) -> int | None:
    """What all partitions promise; None: one of them has promised nothing."""
    return min(promises.values()) if len(promises) == partitions else None
