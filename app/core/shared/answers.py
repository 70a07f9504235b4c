"""The answers that the held events of one partition wait for, joined to them by offset."""

from __future__ import annotations

from collections import deque

import numpy as np

from app.core.batches import EventBatch, Floats, Ints
from app.core.intake.merge import END_MS
from app.core.records.repartition import read_answers
from app.core.shared.contributor import window_values
from app.core.shared.plan import SharedPlan

#: After any offset.
_FOR_ANOTHER = 2**62


class ComingAnswers:
    """Held events in offset order, with what has been answered for each; the first answer counts.

    Parameters
    ----------
    plan
        The windows that are repartitioned.
    """

    def __init__(self, plan: SharedPlan, feature_set: str) -> None:
        self._feature_set = feature_set
        self._columns = [[c for c in plan.columns if plan.stores[c.store].key == key] for key in plan.keys]
        self._offsets: Ints = np.zeros(0, dtype=np.int64)
        #: [keys x events]: whether an answer is still to come, and whether it has come.
        self._missing = np.zeros((len(plan.keys), 0), dtype=bool)
        self._known = np.zeros((len(plan.keys), 0), dtype=bool)
        #: Per key [windows x 2 x events].
        self._amounts = [np.zeros((len(columns), 2, 0), dtype=np.int64) for columns in self._columns]
        self._newest = -1
        #: Answers to events that are still to be read again (after a restart).
        self._early: list[tuple[int, Ints, Ints]] = []
        #: Places on the topic of records heard, with the last event that each answers.
        self._heard: deque[tuple[int, int]] = deque()
        self._next_place = 0
        self._ready = 0

    def hold(self, events: EventBatch, is_asked: Ints) -> None:
        """Further events, and which of their keys (bool [keys x events]) have an answer to come."""
        if not len(events):
            return
        n = len(events)
        self._offsets = np.concatenate((self._offsets, events.offsets))
        self._missing = np.concatenate((self._missing, is_asked), axis=1)
        self._known = np.concatenate((self._known, np.zeros_like(is_asked)), axis=1)
        self._amounts = [
            np.concatenate((amounts, np.zeros((*amounts.shape[:2], n), dtype=np.int64)), axis=2)
            for amounts in self._amounts
        ]
        self._newest = int(events.offsets[-1])
        early, self._early = self._early, []
        for answer in early:
            self._take(*answer)
        self._count_ready()

    def hear(self, place: int, value: bytes | None, term_ms: int, newest_term: int = END_MS) -> None:
        """Take the record at this place of the topic; those of another term or feature set are passed over.

        Parameters
        ----------
        newest_term
            The latest term that there can be.

        Raises
        ------
        RefusedRecordError
            When it is none of ours; nothing but the place has been noted then.
        """
        self._next_place = place + 1
        record = read_answers(value, [len(columns) for columns in self._columns], newest_term)
        if record.term > term_ms:  # another owner has begun anew: those are for it, and never ours to delete
            self._heard.append((place, _FOR_ANOTHER))
        if record.feature_set != self._feature_set or record.term != term_ms:
            return
        newest = -1
        for answer in record.answers:
            offsets = np.frombuffer(answer.offsets, dtype="<i8").astype(np.int64)
            amounts = np.frombuffer(answer.amounts, dtype="<i8").astype(np.int64)
            self._take(answer.key, offsets, amounts.reshape(-1, 2, len(offsets)))
            newest = max(newest, int(offsets.max()))
        self._heard.append((place, newest))

    @property
    def ready(self) -> int:
        """How many held events, from the first on, have all their answers."""
        return self._ready

    def fill(self, matrix: Floats, events: EventBatch) -> None:
        """Fill the columns of the first held events, and let go of them. Without an answer: missing."""
        n = len(events)
        for number, columns in enumerate(self._columns):
            for row, column in enumerate(columns):
                values = window_values(column, *self._amounts[number][row][:, :n])
                values[~self._known[number, :n]] = np.nan
                matrix[:, column.column] = values
        self._offsets = self._offsets[n:]
        self._missing, self._known = self._missing[:, n:], self._known[:, n:]
        self._amounts = [amounts[:, :, n:] for amounts in self._amounts]
        self._ready = max(0, self._ready - n)
        if self._ready == 0:
            self._count_ready()

    def position(self, next_offset: int) -> int:
        """From where on the topic may hold an answer that an event from this offset on still needs."""
        return next((place for place, last in self._heard if last >= next_offset), self._next_place)

    def forget(self, next_offset: int) -> None:
        """No event before this offset will ever be scored again."""
        while self._heard and self._heard[0][1] < next_offset:
            self._heard.popleft()

    def restore(self, place: int) -> None:
        """Nothing before this place of the topic is needed."""
        self._next_place = place

    def _take(self, key: int, offsets: Ints, amounts: Ints) -> None:
        at = np.searchsorted(self._offsets, offsets)
        held = np.flatnonzero(at < len(self._offsets))
        held = held[self._offsets[at[held]] == offsets[held]]
        new = held[self._missing[key, at[held]]]
        self._amounts[key][:, :, at[new]] = amounts[:, :, new]
        self._missing[key, at[new]] = False
        self._known[key, at[new]] = True
        early = np.flatnonzero(offsets > self._newest)
        if len(early):
            self._early.append((key, offsets[early], amounts[:, :, early]))
        self._count_ready()

    def _count_ready(self) -> None:
        waits = np.logical_or.reduce(self._missing[:, self._ready :])
        self._ready += int(np.argmax(waits)) if waits.any() else len(waits)
