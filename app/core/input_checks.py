"""What is wrong with the stream itself, by slice of time: labels that find no event, entities in several partitions.

Labels are counted by the workers (`app.core.counts.label_tally`), exactly once. A label whose key is no entity of its
partition belongs to another partition as soon as the entity is known there (`app.core.entities.directory`); until then
it counts as unknown. So the counts are a function of the logs, once both have been read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.alerts.readings import Reading
from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.findings import InputRow

if TYPE_CHECKING:
    from app.core.counts.stream_start import StreamStart
    from app.core.entities.directory import EntityDirectory
    from schemas.wire import SketchRecord

#: Of fewer labels in a slice, their share without an event says nothing to an alert.
FEWEST_LABELS = 100
#: Keys of strangers that wait for their entity to be known; of more, the labels are unknown for good.
_MOST_STRANGERS = 1 << 16
#: Slices that are kept; what is older is counted in the totals alone.
_KEPT_SLICES = 400


@dataclass
class InputCounts:
    """Counts of the stream. ``strays``: entities that were seen in a second partition."""

    events: int = 0
    labels: int = 0
    too_late: int = 0
    unknown: int = 0
    other_partition: int = 0
    strays: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def without_event(self) -> int:
        """Labels that found no event."""
        return self.too_late + self.unknown + self.other_partition

    @property
    def revision(self) -> int:
        """Goes up with whatever is counted, and never back."""
        return self.events + self.labels + self.other_partition + self.strays

    def add(self, other: InputCounts) -> None:
        for name in ("events", "labels", "too_late", "unknown", "other_partition", "strays"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class InputChecks:
    """The counts of one pipeline.

    Parameters
    ----------
    pipeline
        Its name.
    slice_ms
        Length of a slice.
    grace_ms
        How far the watermark must be past the end of a slice before it is reported.
    """

    def __init__(self, pipeline: str, slice_ms: int, grace_ms: int) -> None:
        self._pipeline = pipeline
        self._slice_ms = slice_ms
        self._grace_ms = grace_ms
        self._slices: dict[int, InputCounts] = {}
        self._old = InputCounts()
        self._old_before_ms: int | None = None
        self._strangers: Counter[tuple[int, int, int]] = Counter()
        #: As the directory says now; and the slices before this have said to rules what there was to be said.
        self._straying: dict[int, int] = {}
        self._read_before_ms: int | None = None
        self._said: dict[int, int] = {}

    @property
    def totals(self) -> InputCounts:
        """All that was counted since the beginning of the topic."""
        totals = InputCounts()
        for counts in (self._old, *self._slices.values()):
            totals.add(counts)
        return totals

    def add(self, record: SketchRecord) -> None:
        """Take a record of the sketches topic."""
        for delta in record.deltas:
            if delta.segment == ALL and delta.n:
                self._of(delta.slice_start_ms).events += delta.n
        for labels in record.labels:
            counts = self._of(labels.slice_start_ms)
            counts.labels += labels.n
            counts.too_late += labels.too_late
            counts.unknown += labels.unknown + len(labels.strangers) // 8
            for stranger in np.frombuffer(labels.strangers, "<i8").tolist():
                place = labels.slice_start_ms, record.partition, stranger
                if place in self._strangers or len(self._strangers) < _MOST_STRANGERS:
                    self._strangers[place] += 1

    def look_up(self, directory: EntityDirectory) -> None:
        """Take what is known of the entities by now."""
        self._straying = dict(directory.strays)
        for start_ms, n in directory.strays.items():
            if n and not self._is_old(start_ms):
                counts = self._of(start_ms)
                counts.strays = max(counts.strays, n)
        for stray in directory.examples():
            start_ms = stray.time_ms // self._slice_ms * self._slice_ms
            if start_ms in self._slices and str(stray) not in self._slices[start_ms].examples:
                self._slices[start_ms].examples.append(str(stray))
        if not self._strangers:
            return
        places = list(self._strangers)
        partitions, hashes = (np.array([place[at] for place in places], dtype=np.int64) for at in (1, 2))
        for at in np.flatnonzero(directory.is_elsewhere(hashes, partitions)).tolist():
            n = self._strangers.pop(places[at])
            counts = self._of(places[at][0])
            counts.unknown -= n
            counts.other_partition += n

    def rows(self, watermark_ms: int | None) -> list[InputRow]:
        """Rows of the slices that have ended, as far as they are new or changed."""
        rows = []
        for start_ms, counts in self._ended(watermark_ms, self._grace_ms):
            if counts.revision != self._said.get(start_ms, 0):
                self._said[start_ms] = counts.revision
                window = start_ms, start_ms + self._slice_ms
                rows.append(InputRow(self._pipeline, *window, **asdict(counts), revision=counts.revision))
        return rows

    def label_readings(
        self, label_watermark_ms: int | None, start: StreamStart, horizon_ms: int
    ) -> Iterator[tuple[Window, Reading]]:
        """What each slice whose labels have come says to rules on labels; NaN where it can say nothing.

        That is where labels are too few, and at the beginning of the stream: for as long as an event may wait for its
        label, labels are of events from before. Of those only labels in another partition than their entity are wrong.
        """
        first_ms = min(self._slices, default=0)
        for start_ms, counts in self._ended(label_watermark_ms, 0):
            if counts.labels < FEWEST_LABELS:
                yield self._window(start_ms), Reading(math.nan, "")
                continue
            began_ms = start.before(start_ms + self._slice_ms)
            is_beginning = start_ms < (first_ms if began_ms is None else began_ms) + horizon_ms
            without_event = counts.other_partition if is_beginning else counts.without_event
            if is_beginning and not without_event:
                yield self._window(start_ms), Reading(math.nan, "")
                continue
            words = f"{counts.other_partition} in another partition"
            if is_beginning:
                words += "; the events of others may be from before the stream's beginning"
            else:
                words += f", {counts.too_late} too late, {counts.unknown} unknown"
            yield self._window(start_ms), Reading(without_event / counts.labels, words)

    def entity_readings(self, watermark_ms: int | None) -> Iterator[tuple[Window, Reading]]:
        """What each slice says to rules on entities: how many have strayed by then, as far as they are remembered.

        At once where there are any; once a slice has ended it says nothing else any more.
        """
        ended = {start_ms for start_ms, _ in self._ended(watermark_ms, self._grace_ms)}
        for start_ms, counts in sorted(self._slices.items()):
            if self._read_before_ms is not None and start_ms < self._read_before_ms:
                continue
            n = sum(n for since_ms, n in self._straying.items() if since_ms <= start_ms)
            if n or start_ms in ended:
                yield self._window(start_ms), Reading(float(n), "; ".join(counts.examples[:3]))
            if start_ms in ended:
                self._read_before_ms = start_ms + self._slice_ms

    def prune(self) -> None:
        """Keep the newest slices; of the others only what they add to the totals."""
        for start_ms in sorted(self._slices)[:-_KEPT_SLICES]:
            self._old.add(self._slices.pop(start_ms))
            self._said.pop(start_ms, None)
            self._old_before_ms = start_ms + self._slice_ms
        if self._old_before_ms is not None:
            for place in [place for place in self._strangers if self._is_old(place[0])]:
                del self._strangers[place]

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs: JSON values."""
        return {
            "slices": [[start_ms, asdict(counts)] for start_ms, counts in sorted(self._slices.items())],
            "old": asdict(self._old),
            "old_before_ms": self._old_before_ms,
            "strangers": [[*place, n] for place, n in sorted(self._strangers.items())],
            "straying": sorted(self._straying.items()),
            "read_before_ms": self._read_before_ms,
            "said": sorted(self._said.items()),
        }

    def from_state(self, state: dict[str, Any]) -> None:
        """Take a state."""
        self._slices = {start_ms: InputCounts(**counts) for start_ms, counts in state["slices"]}
        self._old = InputCounts(**state["old"])
        self._old_before_ms = state["old_before_ms"]
        self._strangers = Counter({(start, partition, key): n for start, partition, key, n in state["strangers"]})
        self._straying = dict(map(tuple, state["straying"]))
        self._read_before_ms = state["read_before_ms"]
        self._said = dict(map(tuple, state["said"]))

    def _of(self, start_ms: int) -> InputCounts:
        return self._old if self._is_old(start_ms) else self._slices.setdefault(start_ms, InputCounts())

    def _is_old(self, start_ms: int) -> bool:
        return self._old_before_ms is not None and start_ms < self._old_before_ms

    def _ended(self, watermark_ms: int | None, grace_ms: int) -> Iterator[tuple[int, InputCounts]]:
        if watermark_ms is not None:
            end_ms = watermark_ms - grace_ms - self._slice_ms
            yield from ((start_ms, counts) for start_ms, counts in sorted(self._slices.items()) if start_ms <= end_ms)

    def _window(self, start_ms: int) -> Window:
        return Window(start_ms, start_ms + self._slice_ms)
