"""A part of a recording to run, and the warm-up before it that gives it the windows and labels of the stream.

A time bounds effective time (the running maximum of event time in offset order). So a part is one stretch of each
partition's log, even where events are late. The warm-up begins earlier by the size of the windows, and by the horizon:
labels in windows may belong to events that are older by that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.adapters.recordings.file import EVENTS, LABELS, About, Recording, RecordingError
from app.core.batches import Ints, RecordBatch
from app.core.intake.decode import EventDecoder, LabelDecoder
from app.core.intake.merge import BEGINNING_MS, effective_times
from app.core.replay.bounds import OPEN, Bound, names
from schemas.pipeline.spec import Pipeline

_NO_END = 2**62


@dataclass(frozen=True)
class Stretch:
    """Offsets of one partition: events run from ``start`` on, and those from ``first`` to ``stop`` - 1 count."""

    start: int
    first: int
    stop: int
    label_start: int
    events: int
    warm_events: int


class _Batch(NamedTuple):
    """What a first look at a batch of a log finds."""

    first_offset: int
    first_ms: int
    last_ms: int
    events: int


@dataclass
class _Look:
    """What a first look at the events of a partition finds."""

    batches: list[_Batch]
    first: int
    stop: int
    first_ms: int | None
    last_ms: int | None
    events: int
    before: int


class RecordingPart:
    """Reads like a `Recording`: a stretch of each partition's events, and the labels that go with it.

    Labels are read to the end of the recording: those of the last events come after them.

    Attributes
    ----------
    first_ms, last_ms
        Effective time of the first and the last event that counts; None when there is none.
    warm_from_ms
        Effective time from which events run without counting; None: from the beginning.
    lacks_history
        Whether the recording begins later than that, so that the first windows lack earlier events.

    Parameters
    ----------
    begin, end
        What counts: begin <= effective time or offset < end.
    warm_up_ms
        How long before ``begin`` to start; None: as long as windows and labels reach.
    """

    def __init__(
        self,
        recording: Recording,
        pipeline: Pipeline,
        begin: Bound = OPEN,
        end: Bound = OPEN,
        warm_up_ms: int | None = None,
    ) -> None:
        self.recording = recording
        self._pipeline = pipeline
        self.is_whole = begin.is_open and end.is_open
        look = _whole if self.is_whole else _look
        looks = {partition: look(recording, pipeline, partition, begin, end) for partition in recording.partitions}
        starts = [look.first_ms for look in looks.values() if look.first_ms is not None]
        ends = [look.last_ms for look in looks.values() if look.last_ms is not None]
        self.first_ms = min(starts, default=None)
        self.last_ms = max(ends, default=None)
        self.warm_from_ms: int | None = None
        if not begin.is_open and self.first_ms is not None:
            since_ms = begin.time_ms if begin.time_ms is not None else self.first_ms
            if warm_up_ms is None:
                self.warm_from_ms = _warm_from(looks, pipeline, since_ms)
            else:
                self.warm_from_ms = since_ms - warm_up_ms
        batches = [batch for look in looks.values() for batch in look.batches]
        self.oldest_ms = oldest_ms = min((batch.first_ms for batch in batches), default=None)
        self.newest_ms = max((batch.last_ms for batch in batches), default=0)
        self.lacks_history = not recording.about.is_whole and (
            self.warm_from_ms is None or oldest_ms is None or oldest_ms > self.warm_from_ms
        )
        self.stretches = {partition: self._stretch(partition, look) for partition, look in looks.items()}

    @property
    def path(self) -> object:
        return self.recording.path

    @property
    def about(self) -> About:
        return self.recording.about

    @property
    def partitions(self) -> list[int]:
        """The partitions with events to run. Those with only warm-up events are among them where windows are shared."""
        shares = any(feature.window is not None and feature.window.delay_ms for feature in self._pipeline.features)
        return [
            partition
            for partition, stretch in self.stretches.items()
            if stretch.events or (shares and stretch.warm_events)
        ]

    @property
    def events(self) -> int:
        """Events that count."""
        return sum(stretch.events for stretch in self.stretches.values())

    @property
    def warm_events(self) -> int:
        """Events that are run before those that count."""
        return sum(self.stretches[partition].warm_events for partition in self.partitions)

    def counts(self, partition: int, offset: int) -> bool:
        """Whether the event at an offset counts: those of the warm-up do not."""
        stretch = self.stretches[partition]
        return stretch.first <= offset < stretch.stop

    def read(self, kind: str, partition: int, pipeline: Pipeline | None = None) -> Iterator[RecordBatch]:
        """One log; no batch holds both an event that counts and one that does not."""
        stretch = self.stretches[partition]
        if kind == LABELS:
            yield from self.recording.read(kind, partition, pipeline, stretch.label_start)
            return
        if kind != EVENTS:
            yield from self.recording.read(kind, partition, pipeline)
            return
        for batch in self.recording.read(kind, partition, pipeline, stretch.start, stretch.stop):
            for piece in (batch.between(0, stretch.first), batch.between(stretch.first, _NO_END)):
                if len(piece):
                    yield piece

    def offsets(self, partition: int) -> Iterator[Ints]:
        """The offsets of the events that count, a row group at a time."""
        stretch, decode = self.stretches[partition], EventDecoder(self._pipeline.events).decode
        for batch in self.recording.read(EVENTS, partition, self._pipeline, stretch.first, stretch.stop):
            events, _ = decode(batch)
            yield events.offsets

    def from_offsets(self, offsets: dict[int, int]) -> RecordingPart:
        """The part that begins later, at an offset of each partition, and ends where this one does."""
        stops = {partition: stretch.stop for partition, stretch in self.stretches.items()}
        return RecordingPart(self.recording, self._pipeline, Bound(offsets=offsets), Bound(offsets=stops))

    def _stretch(self, partition: int, look: _Look) -> Stretch:
        start, label_start, warm_events = look.first, 0, 0
        if self.warm_from_ms is not None:
            start, skipped = self._find_start(partition, look, self.warm_from_ms)
            warm_events = look.before - skipped
            label_start = _label_start(self.recording, self._pipeline, partition, self.warm_from_ms)
        return Stretch(start, look.first, look.stop, label_start, look.events, warm_events)

    def _find_start(self, partition: int, look: _Look, from_ms: int) -> tuple[int, int]:
        """Offset of the first event of an effective time from ``from_ms`` on, and the number of events before it."""
        skipped, newest_ms = 0, BEGINNING_MS
        for read in look.batches:
            if read.last_ms >= from_ms:
                batch = next(self.recording.read(EVENTS, partition, self._pipeline, read.first_offset))
                events, _ = EventDecoder(self._pipeline.events).decode(batch)
                place = int(np.searchsorted(effective_times(events.event_time_ms, newest_ms), from_ms))
                if place >= read.events:  # the part itself begins earlier, so nothing runs before it
                    break
                return int(events.offsets[place]), skipped + place
            skipped, newest_ms = skipped + read.events, read.last_ms
        return look.first, look.before


def reach_ms(pipeline: Pipeline) -> int:
    """How far back, in event time, the windows of an event reach."""
    windows = [feature.window for feature in pipeline.features if feature.window is not None]
    return max((window.size_ms + window.hop_ms + (window.delay_ms or 0) for window in windows), default=0)


def _warm_from(looks: dict[int, _Look], pipeline: Pipeline, since_ms: int) -> int:
    """Effective time from which on events matter to a part that begins at ``since_ms``.

    A label is matched to events as far back as the horizon, counted from the last event before the label. Where events
    are sparse, that event may itself be long before the window.
    """
    window_ms = since_ms - reach_ms(pipeline)
    if pipeline.labels is None:
        return window_ms
    watermarks = [window_ms]
    for look in looks.values():
        earlier = [batch for batch in look.batches if batch.first_ms < window_ms]
        if earlier:
            watermarks.append(earlier[-1].first_ms)
    return min(watermarks) - pipeline.labels.horizon_ms


def _look(recording: Recording, pipeline: Pipeline, partition: int, begin: Bound, end: Bound) -> _Look:
    first = begin.offsets.get(partition, 0) if begin.time_ms is None else None
    stop = end.offsets.get(partition, _NO_END) if end.time_ms is None else None
    if not names(begin, end, partition):
        first = _NO_END
    look = _Look([], _NO_END, _NO_END, None, None, 0, 0)
    decode = EventDecoder(pipeline.events).decode
    newest_ms = BEGINNING_MS
    for batch in recording.read(EVENTS, partition, pipeline):
        events, _ = decode(batch)
        if not len(events):
            continue
        times = effective_times(events.event_time_ms, newest_ms)
        newest_ms = int(times[-1])
        low = _place(events.offsets, times, first, begin.time_ms)
        high = max(low, _place(events.offsets, times, stop, end.time_ms))
        if look.first == _NO_END and low < len(times):
            look.first = int(events.offsets[low])
        look.before += low
        look.events += high - low
        look.batches.append(_Batch(int(events.offsets[0]), int(times[0]), newest_ms, low))
        if high > low:
            look.first_ms = int(times[low]) if look.first_ms is None else look.first_ms
            look.last_ms = int(times[high - 1])
        if high < len(times):
            look.stop = int(events.offsets[high])
            break
    return look


def _whole(recording: Recording, _pipeline: Pipeline, partition: int, _begin: Bound, _end: Bound) -> _Look:
    return _Look([], 0, _NO_END, None, None, recording.count(EVENTS, partition), 0)


def _place(offsets: Ints, times: Ints, offset: int | None, time_ms: int | None) -> int:
    """Position of the first event at or after a bound."""
    if time_ms is not None and offset is None:
        return int(np.searchsorted(times, time_ms, side="left"))
    return int(np.searchsorted(offsets, offset or 0, side="left"))


def _label_start(recording: Recording, pipeline: Pipeline, partition: int, from_ms: int) -> int:
    """An offset of the labels log; no label before it matters to events from ``from_ms`` on."""
    if pipeline.labels is None:
        return 0
    decode = LabelDecoder(pipeline).decode
    newest_ms = BEGINNING_MS
    for batch in recording.read(LABELS, partition, pipeline):
        labels, _ = decode(batch)
        if len(labels):
            newest_ms = max(newest_ms, int(labels.label_time_ms.max()))
        if newest_ms >= from_ms:
            return int(batch.offsets[0])
    return 0


def check_bounds(part: RecordingPart) -> None:
    """RecordingError when a part holds no event."""
    if part.events:
        return
    if part.is_whole or part.oldest_ms is None:
        raise RecordingError("There is no event to run: produce some, or name a recording that has some.")
    raise RecordingError(
        "There is no event between --from and --to, which bound event time; the oldest that was read is of"
        f" {_to_text(part.oldest_ms)}, the newest of {_to_text(part.newest_ms)}."
    )


def _to_text(time_ms: int) -> str:
    return f"{np.datetime64(time_ms, 'ms')}Z"
