"""Labels counted as they are applied: how many, how long they took, and how many found no event, by what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.core.batches import EventBatch, Floats, Ints
from app.core.counts.delay_law import tally
from app.core.entities.log import EntityLog
from app.core.intake.joining import JoinedLabels
from app.core.intake.merge import Merged
from app.core.tiles.hash_runs import hash64
from schemas.wire import DelayCounts, LabelCounts


@dataclass
class _Counts:
    n: int = 0
    too_late: int = 0
    unknown: int = 0
    strangers: list[int] = field(default_factory=list)


class LabelTally:
    """What one transaction counts, by slice of time.

    Parameters
    ----------
    slice_ms
        Length of a slice.
    entities
        Those of the partition; None: nobody keeps them, and no label is a stranger.
    """

    def __init__(self, slice_ms: int, entities: EntityLog | None) -> None:
        self._progress = 0, 0
        self._slice_ms = slice_ms
        self._entities = entities
        self._counts: dict[int, _Counts] = {}
        #: Of the joined labels: event times, labels and delays.
        self._delays: list[tuple[Ints, Floats, Ints]] = []

    def add(self, merged: Merged[Any], events: EventBatch, joined: JoinedLabels, times_ms: Ints) -> None:
        """Count the labels of a run, before the entities of its events are seen.

        Parameters
        ----------
        times_ms
            Where each label counts.
        """
        labels = merged.labels
        starts = times_ms // self._slice_ms * self._slice_ms
        is_label = np.isfinite(labels.label)  # the others are watermark records
        for start, count in zip(*np.unique(starts[is_label], return_counts=True), strict=True):
            self._of(int(start)).n += int(count)
        if len(joined):
            event_times_ms = joined.event_times(events)
            delays_ms = np.array(joined.effective_ms) - event_times_ms
            self._delays.append((event_times_ms, np.array(joined.label), delays_ms))
        for number in joined.late:
            self._of(int(starts[number])).too_late += 1
        if joined.missing:
            keys = [labels.key[number] for number in joined.missing]
            is_stranger = self._are_strangers(keys, merged.before[joined.missing].tolist(), events)
            for number, key, strange in zip(joined.missing, keys, is_stranger, strict=True):
                counts = self._of(int(starts[number]))
                if strange:
                    counts.strangers.append(hash64(key or b""))
                else:
                    counts.unknown += 1
        n, without_event = self._progress
        self._progress = n + int(is_label.sum()), without_event + len(joined.late) + len(joined.missing)

    def take_progress(self) -> tuple[int, int]:
        """Labels, and those of them without an event, since the last call."""
        progress, self._progress = self._progress, (0, 0)
        return progress

    def drain(self) -> list[LabelCounts]:
        """Give the counts since the last drain."""
        counts, self._counts = self._counts, {}
        return [
            LabelCounts(
                start_ms, count.n, count.too_late, count.unknown, np.array(count.strangers, dtype="<i8").tobytes()
            )
            for start_ms, count in sorted(counts.items())
        ]

    def drain_delays(self) -> list[DelayCounts]:
        """Give how long labels took since the last drain."""
        if not self._delays:
            return []
        event_times_ms, labels, delays_ms = (np.concatenate(parts) for parts in zip(*self._delays, strict=True))
        self._delays.clear()
        return [
            DelayCounts(
                delays.start_ms,
                delays.label,
                delays.cells.astype("<u4").tobytes(),
                delays.counts.astype("<i8").tobytes(),
                delays.newest_ms,
            )
            for delays in tally(event_times_ms, self._slice_ms, labels, delays_ms)
        ]

    def _are_strangers(self, keys: Sequence[bytes | None], places: list[int], events: EventBatch) -> list[bool]:
        """Which keys name no entity that the partition has seen before the label; a label without a key names none."""
        if self._entities is None:
            return [False] * len(keys)
        is_known = self._entities.knows([key or b"" for key in keys]).tolist()
        wanted = {key for key, known in zip(keys, is_known, strict=True) if key is not None and not known}
        first_rows: dict[bytes, int] = {}
        if wanted:
            for row, entity in enumerate(map(str.encode, events.entity)):
                if entity in wanted:
                    first_rows.setdefault(entity, row)
        return [
            key is not None and not known and first_rows.get(key, place) >= place
            for key, known, place in zip(keys, is_known, places, strict=True)
        ]

    def _of(self, start_ms: int) -> _Counts:
        return self._counts.setdefault(start_ms, _Counts())
