"""Scored events that wait for their label, by event id.

An entry is forgotten when its label arrives or when events are ``horizon_ms`` further in event time. A second event of
the same id replaces the first, so a label counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from app.core.intake.forgotten_ids import ForgottenIds
from app.core.records.state import read_event
from schemas.ranges import EARLIEST_TABLE_MS, END_MS, LATEST_TABLE_MS

#: Front of the changelog keys.
PREFIX = b"e"

#: In place of a version: the event was rejected after it had been counted in windows. Its label counts there, too.
REJECTED = "rejected"


class Scored(NamedTuple):
    """What is kept of a scored event until its label comes.

    ``fields``: event fields that windows over labels need. ``segments``: numbers of those it belongs to
    (`models.reference.segments`).
    """

    effective_ms: int
    event_time_ms: int
    version: str
    score: float
    fields: tuple[Any, ...]
    segments: tuple[int, ...] = ()


class PendingEvents:
    """The waiting events of one partition, oldest first; without a changelog nothing is to be drained from it.

    Parameters
    ----------
    horizon_ms
        How far events may be beyond one that is kept.
    texts, n_segments, latest_ms, times_ms
        What records of a changelog must fit, see `app.core.records.state.read_event`.
    """

    def __init__(
        self,
        horizon_ms: int,
        *,
        with_changelog: bool = True,
        texts: tuple[bool, ...] | None = None,
        n_segments: int | None = None,
        latest_ms: int = END_MS,
        times_ms: tuple[int, int] = (EARLIEST_TABLE_MS, LATEST_TABLE_MS),
    ) -> None:
        self._horizon_ms = horizon_ms
        self._latest_ms, self._times_ms = latest_ms, times_ms
        self._texts, self._n_segments = texts, n_segments
        self._with_changelog = with_changelog
        #: Where a changelog is, labels without an event are told apart.
        self._forgotten = ForgottenIds(horizon_ms) if with_changelog else None
        self._waiting: dict[str, Scored] = {}
        self._touched: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, event_id: str, scored: Scored, came_to_ms: int) -> None:
        """Remember a scored event; effective times never go back. ``came_to_ms``: that of the event before it."""
        self.replace(event_id, came_to_ms)  # a repeated id moves to the end: the order stays by effective time
        self._waiting[event_id] = scored
        self._touch(event_id)

    def replace(self, event_id: str, came_to_ms: int) -> None:
        """Drop an event for a newer one of its id; if it was too old by then, it had been forgotten before."""
        replaced = self._waiting.pop(event_id, None)
        if replaced is not None:
            self._touch(event_id)
            self.pass_over(event_id, replaced.effective_ms, came_to_ms)

    def pass_over(self, event_id: str, effective_ms: int, came_to_ms: int) -> None:
        """As `replace`, for an event that was never added."""
        if self._forgotten is not None and self.is_too_old(effective_ms, came_to_ms):
            self._forgotten.note(effective_ms, event_id)

    def is_too_old(self, effective_ms: int, watermark_ms: int) -> bool:
        """Whether an event is forgotten once events have come as far as the watermark."""
        return effective_ms < watermark_ms - self._horizon_ms

    def counted_from_ms(self, watermark_ms: int) -> int:
        """The time at which a label counts at the earliest: before it, labels have been said to be complete."""
        return watermark_ms - self._horizon_ms

    def has_forgotten(self, event_id: str, watermark_ms: int, effective_ms: int | None) -> bool:
        """Whether an event of this id is known to be forgotten when events have come to the watermark.

        ``effective_ms``: of the one that waits although it is too old; None: none does.
        """
        if self._forgotten is None:
            return False
        is_known = effective_ms is not None and self._forgotten.is_known(effective_ms, watermark_ms)
        return is_known or self._forgotten.holds(event_id, watermark_ms)

    def get(self, event_id: str) -> Scored | None:
        """The event a label belongs to; None when it is unknown, labelled already or forgotten."""
        return self._waiting.get(event_id)

    def pop(self, event_id: str) -> Scored | None:
        """As `get`, but only once: the event no longer waits."""
        scored = self._waiting.pop(event_id, None)
        if scored is not None:
            self._touch(event_id)
        return scored

    def expire(self, watermark_ms: int) -> int:
        """Forget the events that are older than the watermark by more than the horizon; return how many."""
        expired = []
        for event_id, scored in self._waiting.items():
            if not self.is_too_old(scored.effective_ms, watermark_ms):
                break
            expired.append((scored.effective_ms, event_id))
        for _, event_id in expired:
            del self._waiting[event_id]
            self._touch(event_id)
        if self._forgotten is not None:
            self._forgotten.add(expired)
            self._forgotten.expire(watermark_ms)
        return len(expired)

    def entries(self) -> Iterator[tuple[str, Scored]]:
        """What waits, oldest first."""
        yield from self._waiting.items()

    def drain_changes(self) -> list[tuple[bytes, bytes | None]]:
        """Changelog records since the last drain: the entry, or None for one that is gone."""
        touched, self._touched = self._touched, {}
        forgotten = self._forgotten.drain_changes() if self._forgotten is not None else []
        return forgotten + [
            (PREFIX + event_id.encode(), msgspec.msgpack.encode(entry) if entry is not None else None)
            for event_id in touched
            for entry in (self._waiting.get(event_id),)
        ]

    def record_keys(self) -> Iterator[bytes]:
        """The keys of the records that a changelog holds of this state."""
        if self._forgotten is not None:
            yield from self._forgotten.record_keys()
        yield from (PREFIX + event_id.encode() for event_id in self._waiting)

    def _touch(self, event_id: str) -> None:
        if self._with_changelog:
            self._touched.pop(event_id, None)  # the last touch counts, so that the changelog has them in waiting order
            self._touched[event_id] = None

    def restore(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Replay a changelog, in its order. Keys of other stores are passed over."""
        records = list(records)
        if self._forgotten is not None:
            self._forgotten.restore(records, self._latest_ms)
        for key, value in records:
            if not key.startswith(PREFIX):
                continue
            event_id = key[len(PREFIX) :].decode()
            self._waiting.pop(event_id, None)
            if value is not None:
                self._waiting[event_id] = Scored(
                    *read_event(
                        value, self._texts, self._n_segments, latest_ms=self._latest_ms, times_ms=self._times_ms
                    )
                )
