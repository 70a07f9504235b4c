"""Runs of events that have been merged and wait until all partitions have come as far as their shared windows reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from app.core.batches import Ints, LabelBatch
from app.core.intake.merge import BEGINNING_MS, Merged

Payload = TypeVar("Payload")


@dataclass(slots=True)
class _Held(Generic[Payload]):
    """A run that has added its part and waits to be read. ``needed_ms``: per event, how far all must have come."""

    merged: Merged[Payload]
    needed_ms: Ints
    first: int
    is_stale: bool
    promised_ms: int


@dataclass(frozen=True, slots=True)
class Ready(Generic[Payload]):
    """A run that may be read. ``is_stale``: without labels, or without others, that it should have waited for.

    ``promised_ms``: a promise because of which its labels were taken.
    """

    merged: Merged[Payload]
    is_stale: bool
    promised_ms: int = BEGINNING_MS


class HeldRuns(Generic[Payload]):
    """Runs in their order, each let go event by event as the others come on."""

    def __init__(self) -> None:
        self._runs: deque[_Held[Payload]] = deque()
        self._let_go = 0
        self.received = 0
        self.events = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def add(self, merged: Merged[Payload], needed_ms: Ints, *, is_stale: bool, promised_ms: int) -> None:
        self._runs.append(_Held(merged, needed_ms, self.received, is_stale, promised_ms))
        self.received += len(needed_ms)
        self.events += len(needed_ms)

    def let_go(self, received: int) -> None:
        """Let the first ``received`` events go, whatever is missing."""
        self._let_go = max(received, self._let_go)

    def is_blocked(self, low_ms: int, answered: int | None = None) -> bool:
        """Whether the next event must wait."""
        if not self._runs:
            return False
        head = self._runs[0]
        is_ready = self.has_others(low_ms) and answered != 0
        return len(head.needed_ms) > 0 and not is_ready and head.first >= self._let_go

    def has_others(self, low_ms: int) -> bool:
        """Whether all have come as far as the next event needs."""
        return not self._runs or not len(self._runs[0].needed_ms) or int(self._runs[0].needed_ms[0]) <= low_ms

    def take(self, most: int, low_ms: int, answered: int | None = None) -> Ready[Payload] | None:
        """The next run of at most ``most`` events whose needs are met.

        Parameters
        ----------
        low_ms
            How far all have come.
        answered
            How many of the held events have all the answers that they wait for; None: they wait for none.
        """
        if not self._runs:
            return None
        head = self._runs[0]
        count = len(head.needed_ms)
        ready = int(np.searchsorted(head.needed_ms, low_ms, side="right"))
        if answered is not None:
            ready = min(ready, answered)
        gave_up = ready == 0 < count
        if gave_up:
            ready = max(0, min(count, self._let_go - head.first))
            if ready == 0:
                return None
        ready = min(ready, most)
        self.events -= ready
        if ready == count:
            self._runs.popleft()
            return Ready(head.merged, head.is_stale or gave_up, head.promised_ms)
        taken, head.merged = head.merged.split(ready)
        head.needed_ms = head.needed_ms[ready:]
        head.first += ready
        return Ready(taken, head.is_stale or gave_up)

    def labels(self) -> Iterator[tuple[LabelBatch, Ints]]:
        """The labels that wait here, in their order, with their effective times."""
        for run in self._runs:
            if len(run.merged.labels):
                yield run.merged.labels, run.merged.label_times_ms

    def first_label_offset(self) -> int | None:
        """Offset of the first label that waits here."""
        return next((int(run.merged.labels.offsets[0]) for run in self._runs if len(run.merged.labels)), None)
