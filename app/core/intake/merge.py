"""Events and labels of one partition, merged by time: what a feature may depend on must not depend on speed.

The *effective time* of a record is the running maximum of the times of its log up to it. A label is applied before the
first event whose effective time is not older than its own. This order is a function of the two logs alone, whatever
the speed and the batch cuts. What remains for the live case is to know when an event may go: when a label of a later
effective time is known, or when the caller has seen the labels topic read up to an end that it asked for after the
event had arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from app.core.batches import Floats, Ints, LabelBatch
from schemas.ranges import BEGINNING_MS as BEGINNING_MS
from schemas.ranges import END_MS as END_MS

Payload = TypeVar("Payload")


def effective_times(times_ms: Ints, start_ms: int) -> Ints:
    """The running maximum of ``times_ms`` that begins at ``start_ms``."""
    return np.maximum(np.maximum.accumulate(times_ms), start_ms) if len(times_ms) else times_ms


@dataclass(slots=True)
class _Queued(Generic[Payload]):
    payload: Payload
    times_ms: Ints
    first: int  # running number of its first event
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Merged(Generic[Payload]):
    """A run of events of one queued payload (rows start…stop), with the labels to apply among them.

    ``before[j]`` counts from ``start``: label j comes before event ``start + before[j]``. ``payload`` is None when
    labels alone are to be applied. ``last`` says that the payload is used up. ``times_ms``, ``label_times_ms``:
    effective times of the events and of the labels.
    """

    payload: Payload | None
    start: int
    stop: int
    last: bool
    before: Ints
    labels: LabelBatch
    times_ms: Ints
    label_times_ms: Ints

    @classmethod
    def of_labels(cls, labels: LabelBatch, times_ms: Ints) -> Merged[Payload]:
        """Labels of these effective times (any number), without an event."""
        before = np.zeros(len(labels), dtype=np.int64)
        return cls(None, 0, 0, last=False, before=before, labels=labels, times_ms=before[:0], label_times_ms=times_ms)

    def split(self, count: int) -> tuple[Merged[Payload], Merged[Payload]]:
        """The first ``count`` events with the labels before and among them, and what remains."""
        place = int(np.searchsorted(self.before, count))
        middle, end = self.start + count, len(self.labels)
        return (
            Merged(
                self.payload,
                self.start,
                middle,
                last=False,
                before=self.before[:place],
                labels=_cut(self.labels, 0, place),
                times_ms=self.times_ms[:count],
                label_times_ms=self.label_times_ms[:place],
            ),
            Merged(
                self.payload,
                middle,
                self.stop,
                last=self.last,
                before=self.before[place:] - count,
                labels=_cut(self.labels, place, end),
                times_ms=self.times_ms[count:],
                label_times_ms=self.label_times_ms[place:],
            ),
        )


class TimeMerge(Generic[Payload]):
    """The two queues of one partition and the rule that merges them.

    Parameters
    ----------
    with_labels
        False: the pipeline has no labels topic, and every event may go at once.
    """

    def __init__(self, *, with_labels: bool) -> None:
        self._with_labels = with_labels
        self._events: deque[_Queued[Payload]] = deque()
        self._labels: deque[tuple[LabelBatch, Ints]] = deque()
        self._let_go = 0
        self.events_received = 0
        self.events_taken = 0
        self.queued_labels = 0
        self.go_on_from(BEGINNING_MS, BEGINNING_MS)

    def go_on_from(self, event_watermark_ms: int, label_watermark_ms: int) -> None:
        """Begin after the last event and label applied before (effective times), before anything is received."""
        self._newest_event_ms = self.event_watermark_ms = event_watermark_ms
        self._newest_label_ms = self.label_watermark_ms = label_watermark_ms

    def add_events(self, payload: Payload, times_ms: Ints) -> None:
        """Queue a payload of ``len(times_ms)`` events (none is fine: it comes out in its turn)."""
        times = effective_times(times_ms, self._newest_event_ms)
        if len(times):
            self._newest_event_ms = int(times[-1])
        self._events.append(_Queued(payload, times, self.events_received))
        self.events_received += len(times)

    def add_labels(self, labels: LabelBatch) -> None:
        """Queue labels."""
        if not len(labels):
            return
        times = effective_times(labels.label_time_ms, self._newest_label_ms)
        self._newest_label_ms = int(times[-1])
        self._labels.append((labels, times))
        self.queued_labels += len(labels)

    def let_go(self, events_received: int) -> None:
        """Let the first ``events_received`` events go: labels before them are queued, or were awaited long enough."""
        self._let_go = max(self._let_go, events_received)

    @property
    def has_events(self) -> bool:
        """Whether events are queued."""
        return bool(self._events)

    @property
    def holds_back(self) -> bool:
        """Whether events are queued that may not go yet."""
        if not self._events or not self._with_labels:
            return False
        newest = self._events[-1]
        end = newest.first + len(newest.times_ms)
        return end > self._let_go and len(newest.times_ms) > 0 and int(newest.times_ms[-1]) >= self._newest_label_ms

    def take(self, most: int) -> Merged[Payload] | None:
        """The next run of at most ``most`` events that may go, or None.

        Runs never span two payloads. Labels that come after the run stay queued.
        """
        if not self._events:
            return None
        head = self._events[0]
        times = head.times_ms[head.taken :]
        ready = self._count_ready(head, times)
        if ready == 0 and len(times):
            return None
        count = min(ready, most)
        start = head.taken
        head.taken += count
        self.events_taken += count
        last = head.taken == len(head.times_ms)
        if last:
            self._events.popleft()
        run = times[:count]
        if count:
            self.event_watermark_ms = int(run[-1])
        labels, label_times = self._labels_until(self.event_watermark_ms) if count else no_labels()
        before = np.searchsorted(run, label_times, side="left").astype(np.int64)
        return Merged(head.payload, start, start + count, last, before, labels, run, label_times)

    def take_labels(self, until_ms: int) -> Merged[Payload] | None:
        """All labels of an effective time up to ``until_ms``, without an event; None if there are none.

        Only for a caller who knows that no event before ``until_ms`` will follow.
        """
        if self._events:
            return None
        labels, times = self._labels_until(until_ms)
        return Merged.of_labels(labels, times) if len(labels) else None

    @property
    def newest_label_ms(self) -> int:
        """Effective time of the newest label received: no older one follows."""
        return self._newest_label_ms

    def first_label_offset(self) -> int | None:
        """Offset of the first label that is queued, not applied."""
        return int(self._labels[0][0].offsets[0]) if self._labels else None

    def queued(self) -> Iterator[tuple[LabelBatch, Ints]]:
        """The labels that are queued, in their order, with their effective times."""
        return iter(self._labels)

    def newest_watermark_record_ms(self) -> int | None:
        """Effective time of the newest queued watermark record."""
        for labels, times in reversed(self._labels):
            marks = np.isnan(labels.label)
            if marks.any():
                return int(times[np.flatnonzero(marks)[-1]])
        return None

    def _count_ready(self, head: _Queued[Payload], times: Ints) -> int:
        if not self._with_labels:
            return len(times)
        known = int(np.searchsorted(times, self._newest_label_ms, side="left"))
        let_go = max(0, min(len(times), self._let_go - head.first - head.taken))
        return max(known, let_go)

    def _labels_until(self, until_ms: int) -> tuple[LabelBatch, Ints]:
        taken: list[tuple[LabelBatch, Ints]] = []
        while self._labels:
            labels, times = self._labels[0]
            count = int(np.searchsorted(times, until_ms, side="right"))
            if count == 0:
                break
            taken.append((_cut(labels, 0, count), times[:count]))
            self.label_watermark_ms = int(times[count - 1])
            if count < len(times):
                self._labels[0] = (_cut(labels, count, len(times)), times[count:])
                break
            self._labels.popleft()
        if not taken:
            return no_labels()
        self.queued_labels -= sum(len(times) for _, times in taken)
        return _join([labels for labels, _ in taken]), np.concatenate([times for _, times in taken])


def no_labels() -> tuple[LabelBatch, Ints]:
    nothing = np.zeros(0, dtype=np.int64)
    return LabelBatch(nothing, nothing, [], np.zeros(0, dtype=np.float64), []), nothing


def _cut(labels: LabelBatch, start: int, stop: int) -> LabelBatch:
    return LabelBatch(
        labels.offsets[start:stop],
        labels.label_time_ms[start:stop],
        labels.event_id[start:stop],
        labels.label[start:stop],
        labels.key[start:stop],
    )


def first_labels(queued: Iterable[tuple[LabelBatch, Ints]], most: int) -> tuple[LabelBatch, Ints, int | None]:
    """At most so many of queued labels, their effective times, and the offset of the first one left out, if any."""
    taken, count, left_out = [no_labels()], 0, None
    for labels, times in queued:
        stop = min(len(labels), most - count)
        taken.append((_cut(labels, 0, stop), times[:stop]))
        count += stop
        if stop < len(labels):
            left_out = int(labels.offsets[stop])
            break
    return _join([labels for labels, _ in taken]), np.concatenate([times for _, times in taken]), left_out


def _join(parts: list[LabelBatch]) -> LabelBatch:
    if len(parts) == 1:
        return parts[0]
    value: Floats = np.concatenate([part.label for part in parts])
    return LabelBatch(
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.label_time_ms for part in parts]),
        [event_id for part in parts for event_id in part.event_id],
        value,
        [key for part in parts for key in part.key],
    )
