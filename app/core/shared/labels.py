"""The labels of a run joined to their events, by the law of `app.core.intake.joining`, for shared windows alone.

Leaner than that one, as nothing is known yet of scores: one pass over events and labels in their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from app.core.batches import Column, EventBatch, Ints
from app.core.intake.merge import BEGINNING_MS, Merged
from app.core.intake.pending import PendingEvents

_Fields = tuple[Any, ...]


class SharedLabels:
    """Events of one partition that wait for their labels.

    Parameters
    ----------
    horizon_ms
        How long they wait, in event time.
    fields
        The event fields that the partition keeps until the label comes.
    wanted
        Those of them that shared windows need.
    """

    def __init__(self, horizon_ms: int, fields: tuple[str, ...], wanted: tuple[str, ...]) -> None:
        self._horizon_ms = horizon_ms
        self._fields = fields
        self._places = [fields.index(name) for name in wanted]
        self._waiting: dict[str, tuple[int, _Fields]] = {}
        self._newest_ms = BEGINNING_MS

    def restore(self, pending: PendingEvents) -> None:
        """Go on with the events that wait where scoring goes on."""
        self._waiting = {event_id: (scored.effective_ms, scored.fields) for event_id, scored in pending.entries()}

    def join(self, merged: Merged[Any], events: EventBatch) -> tuple[dict[str, Column], Ints]:
        """The wanted fields and "label" of the labels that found their event, and their numbers in the run."""
        waiting, horizon_ms = self._waiting, self._horizon_ms
        ids, times = events.event_id, merged.times_ms.tolist()
        columns = [events.columns[name].tolist() for name in self._fields]
        rows: list[_Fields] = list(zip(*columns, strict=True)) if columns else [()] * len(ids)
        row, newest_ms = 0, self._newest_ms
        numbers: list[int] = []
        joined: list[_Fields] = []
        for number, (place, event_id) in enumerate(zip(merged.before.tolist(), merged.labels.event_id, strict=True)):
            while row < place:
                waiting.pop(ids[row], None)  # a repeated id moves to the end: the order stays by effective time
                newest_ms = times[row]
                waiting[ids[row]] = newest_ms, rows[row]
                row += 1
            met = waiting.pop(event_id, None) if event_id else None
            if met is not None and met[0] >= newest_ms - horizon_ms:
                numbers.append(number)
                joined.append(met[1])
        for at in range(row, len(ids)):
            waiting.pop(ids[at], None)
            waiting[ids[at]] = times[at], rows[at]
        self._newest_ms = times[-1] if times else newest_ms
        self._expire(self._newest_ms - horizon_ms)
        places = np.array(numbers, dtype=np.int64)
        label_columns: dict[str, Column] = {"label": merged.labels.label[places]}
        for at in self._places:
            name = self._fields[at]
            label_columns[name] = np.array([fields[at] for fields in joined], dtype=events.columns[name].dtype)
        return label_columns, places

    def _expire(self, before_ms: int) -> None:
        expired = []
        for event_id, (effective_ms, _) in self._waiting.items():
            if effective_ms >= before_ms:
                break
            expired.append(event_id)
        for event_id in expired:
            del self._waiting[event_id]
