"""Events that were sent with the promise to score each once: which of them have been seen, and what they scored.

Whoever sends an event twice, because it did not hear that the first time was enough, writes two records of one id. Both
carry the header `schemas.topics.ONCE_HEADER`; the second one is refused, if it comes within `ONCE_MS` of the first.
This follows from the log alone: the record at the lower offset counts, however often and in whatever cuts it is read.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

import msgspec

from app.core.batches import EventBatch, Floats, Rejection
from app.core.records.state import read_sent, read_sent_key
from app.core.tiles.stored import Change
from schemas.ranges import BEGINNING_MS

#: Front of the changelog keys.
PREFIX = b"i"
#: Why the second one is refused.
DUPLICATE = "duplicate"
#: For how long after a record another one of its id is refused, by the time stamps of the records.
ONCE_MS = 600_000
#: Ids that are remembered, at most: the oldest of those that are processed go first.
MOST_REMEMBERED = 100_000


class SentEvent(msgspec.Struct, array_like=True):
    """An event as it was sent, and once it is scored, its score; ``version`` is "" until then.

    ``digest``: of its bytes. ``at_ms``: time stamp of its record.
    """

    offset: int
    at_ms: int
    digest: int
    event_time_ms: int
    version: str = ""
    score: float = 0.0
    decision: bool = False
    stale: bool = False


class SentOnce:
    """The events of one partition that were sent once.

    Of one id there are several where they came further apart than `ONCE_MS`: what was read and is not processed may be
    read again, and must then be decided as before.

    Parameters
    ----------
    with_changelog
        False: nothing is to be drained.
    """

    def __init__(self, *, with_changelog: bool) -> None:
        self._with_changelog = with_changelog
        #: By id, each list by offset.
        self._known: dict[str, list[SentEvent]] = {}
        #: Offset and id of all, nearly by offset.
        self._order: dict[tuple[int, str], None] = {}
        self._touched: dict[tuple[int, str], SentEvent | None] = {}
        #: Newest stamp of those that were scored.
        self._processed_ms = BEGINNING_MS

    def __len__(self) -> int:
        return len(self._order)

    def get(self, event_id: str) -> SentEvent | None:
        """The last one of an id."""
        known = self._known.get(event_id)
        return known[-1] if known else None

    def see(self, event_id: str, sent: SentEvent) -> SentEvent | None:
        """Take note of a record; if it repeats one, that one."""
        known = self._known.get(event_id, [])
        place = bisect_left(known, sent.offset, key=_offset_of)
        if place < len(known) and known[place].offset == sent.offset:
            return None  # it is read again
        if place and sent.at_ms - known[place - 1].at_ms <= ONCE_MS:
            return known[place - 1]
        self._add(event_id, sent)
        self._touch(event_id, sent)
        return None

    def find_repeated(self, events: EventBatch, rows: Iterable[tuple[int, int, int]]) -> list[Rejection]:
        """Refuse the events of a batch that repeat another one.

        Parameters
        ----------
        rows
            Of the events that were sent once: row, time stamp of the record, digest of its bytes.
        """
        repeated = []
        for row, at_ms, digest in rows:
            offset, event_time_ms = int(events.offsets[row]), int(events.event_time_ms[row])
            first = self.see(events.event_id[row], SentEvent(offset, at_ms, digest, event_time_ms))
            if first is not None:
                detail = f"{events.event_id[row][:100]} was sent before, at offset {first.offset}, and counts there."
                repeated.append(Rejection(row, "validate", DUPLICATE, detail))
        return repeated

    def note_scores(
        self, events: EventBatch, scores: Floats, rows: range, *, version: str, threshold: float, is_stale: bool
    ) -> None:
        """Take note of what some events of a batch scored."""
        known = self._known
        for row in rows:
            event_id = events.event_id[row]
            if event_id in known:
                offset, score = int(events.offsets[row]), float(scores[row])
                for sent in known[event_id]:
                    if sent.offset == offset:
                        sent.version, sent.score = version, score
                        sent.decision, sent.stale = score >= threshold, is_stale
                        self._processed_ms = max(self._processed_ms, sent.at_ms)
                        self._touch(event_id, sent)

    def expire(self, events_end: int) -> None:
        """Forget what repeats nothing any more.

        Parameters
        ----------
        events_end
            Offset after the last event that was processed. What comes from there on may be read again.
        """
        # Stamps are nearly in order: one more span, so that none is forgotten before its time.
        before_ms = self._processed_ms - 2 * ONCE_MS
        gone: list[tuple[int, str]] = []
        for offset, event_id in self._order:
            is_old = self._known[event_id][0].at_ms < before_ms
            if offset >= events_end or not (is_old or len(self._order) - len(gone) > MOST_REMEMBERED):
                break
            gone.append((offset, event_id))
        for offset, event_id in gone:
            self._remove(offset, event_id)
            if self._with_changelog:
                self._touched[offset, event_id] = None

    def drain_changes(self) -> list[Change]:
        """Changelog records since the last drain: the entry, or None for one that is gone."""
        touched, self._touched = self._touched, {}
        return [
            (_key(offset, event_id), msgspec.msgpack.encode(sent) if sent is not None else None)
            for (offset, event_id), sent in touched.items()
        ]

    def record_keys(self) -> Iterator[bytes]:
        """The keys of the records that a changelog holds of this state."""
        return (_key(offset, event_id) for offset, event_id in self._order)

    def restore(self, records: Iterable[Change]) -> None:
        """Take more of a changelog, in its order. Keys of others are passed over."""
        for key, value in records:
            if key[:1] == PREFIX:
                offset, event_id = read_sent_key(key)
                sent = SentEvent(*read_sent(value, offset)) if value is not None else None
                self._remove(offset, event_id)
                if sent is not None:
                    self._add(event_id, sent)

    def _add(self, event_id: str, sent: SentEvent) -> None:
        insort(self._known.setdefault(event_id, []), sent, key=_offset_of)
        self._order[sent.offset, event_id] = None

    def _remove(self, offset: int, event_id: str) -> None:
        self._order.pop((offset, event_id), None)
        left = [sent for sent in self._known.pop(event_id, ()) if sent.offset != offset]
        if left:
            self._known[event_id] = left

    def _touch(self, event_id: str, sent: SentEvent) -> None:
        if self._with_changelog:
            self._touched[sent.offset, event_id] = sent


def _offset_of(sent: SentEvent) -> int:
    return sent.offset


def _key(offset: int, event_id: str) -> bytes:
    return PREFIX + offset.to_bytes(8, "big") + event_id.encode()
