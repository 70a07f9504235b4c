"""Labels joined to the events they belong to, as if events and labels came one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from app.core.batches import Column, EventBatch, Floats, Ints, LabelBatch, LabelRows
from app.core.intake.merge import Merged
from app.core.intake.pending import REJECTED, PendingEvents, Scored


@dataclass(slots=True)
class JoinedLabels:
    """The labels of a run that found their events: earlier ones, or events of the run itself (given by row).

    Labels are in the order in which they are applied: label j, number ``places[j]`` of the run's labels, before event
    ``before[j]`` of the run. ``effective_ms``: the time at which each counts. ``own_rows``: events of the run that no
    longer wait for a label. ``late`` and ``missing``: numbers of the labels whose event had been forgotten, and of
    those for which there is none.
    """

    before: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    event_id: list[str] = field(default_factory=list)
    label: list[float] = field(default_factory=list)
    label_time_ms: list[int] = field(default_factory=list)
    effective_ms: list[int] = field(default_factory=list)
    events: list[Scored | int] = field(default_factory=list)
    columns: list[list[Any]] = field(default_factory=list)
    own_rows: set[int] = field(default_factory=set)
    late: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def join(
        cls,
        merged: Merged[Any],
        events: EventBatch,
        pending: PendingEvents,
        fields: tuple[str, ...],
        came_to_ms: int,
    ) -> JoinedLabels:
        """Join as if events and labels came one by one: a label belongs to the newest event of its id, once.

        Parameters
        ----------
        came_to_ms
            Effective time of the last event before the run.
        """
        joined = cls(columns=[[] for _ in fields])
        labels = merged.labels
        if not len(labels):
            return joined
        wanted = set(labels.event_id)
        own: dict[str, list[int]] = {}
        for row, event_id in enumerate(events.event_id):
            if event_id in wanted:
                own.setdefault(event_id, []).append(row)
        for number, (place, event_id, label, time_ms, came_ms) in enumerate(
            zip(
                merged.before.tolist(),
                labels.event_id,
                labels.label.tolist(),
                labels.label_time_ms.tolist(),
                merged.label_times_ms.tolist(),
                strict=True,
            )
        ):
            if not event_id:
                continue  # a watermark record
            watermark_ms = int(merged.times_ms[place - 1]) if place else came_to_ms
            waiting: Scored | int | None = pending.get(event_id)
            effective_ms = waiting.effective_ms if isinstance(waiting, Scored) else None
            passed = [row for row in own.get(event_id, ()) if row < place]
            if passed:
                joined._pass_over(event_id, passed, merged, pending, came_to_ms)
                own[event_id] = own[event_id][len(passed) - 1 :]
                waiting = passed[-1]
                effective_ms = int(merged.times_ms[waiting])
            if waiting is None or effective_ms is None or pending.is_too_old(effective_ms, watermark_ms):
                is_late = pending.has_forgotten(event_id, watermark_ms, effective_ms)
                (joined.late if is_late else joined.missing).append(number)
                continue
            if isinstance(waiting, Scored):
                pending.pop(event_id)
            else:
                joined.own_rows.add(waiting)
                own[event_id].pop(0)
            joined.before.append(place)
            joined.places.append(number)
            joined.event_id.append(event_id)
            joined.label.append(label)
            joined.label_time_ms.append(time_ms)
            joined.effective_ms.append(max(came_ms, pending.counted_from_ms(watermark_ms)))
            joined.events.append(waiting)
            for at, (column, name) in enumerate(zip(joined.columns, fields, strict=True)):
                column.append(events.columns[name][waiting] if isinstance(waiting, int) else waiting.fields[at])
        return joined

    @staticmethod
    def ahead(
        labels: LabelBatch, pending: PendingEvents, fields: tuple[str, ...], came_to_ms: int
    ) -> tuple[list[int], list[list[Any]]]:
        """What `join` gives for labels that come before the next event; nothing changes.

        Returns
        -------
        The numbers of the labels that find their events, and of these the fields, a list for each.
        """
        scored: dict[str, Scored] = {}
        places = []
        for number, event_id in enumerate(labels.event_id):
            waiting = pending.get(event_id) if event_id and event_id not in scored else None
            if waiting is not None and not pending.is_too_old(waiting.effective_ms, came_to_ms):
                scored[event_id] = waiting
                places.append(number)
        return places, [[waiting.fields[at] for waiting in scored.values()] for at in range(len(fields))]

    def _pass_over(
        self, event_id: str, rows: list[int], merged: Merged[Any], pending: PendingEvents, came_to_ms: int
    ) -> None:
        """Drop the events of an id before the last one of these rows of the run: each was replaced by the next."""
        pending.replace(event_id, int(merged.times_ms[rows[0] - 1]) if rows[0] else came_to_ms)
        for row, newer in pairwise(rows):
            pending.pass_over(event_id, int(merged.times_ms[row]), int(merged.times_ms[newer - 1]))
        self.own_rows.update(rows[:-1])

    def event_times(self, events: EventBatch) -> Ints:
        """The event time of each joined event; ``events``: those of the run."""
        own = events.event_time_ms.tolist()
        times = [event.event_time_ms if isinstance(event, Scored) else own[event] for event in self.events]
        return np.array(times, dtype=np.int64)

    def to_rows(self, fields: tuple[str, ...], events: EventBatch) -> LabelRows:
        """The joined labels as arrays, for windows over labels; columns have the types of the events' columns."""
        columns: dict[str, Column] = {"label": np.array(self.label, dtype=np.float64)}
        for name, values in zip(fields, self.columns, strict=True):
            columns[name] = np.array(values, dtype=events.columns[name].dtype)
        return LabelRows(np.array(self.before, dtype=np.int64), np.array(self.label_time_ms, dtype=np.int64), columns)

    def without(self, rejected: Sequence[int]) -> JoinedLabels:
        """The labels of events that have a score, as of a run without the rows ``rejected`` (ascending)."""
        gone = set(rejected)
        kept = [
            at
            for at, event in enumerate(self.events)
            if (event not in gone if isinstance(event, int) else event.version != REJECTED)
        ]

        def moved(row: int) -> int:
            return row - bisect_left(rejected, row)

        return JoinedLabels(
            before=[moved(self.before[at]) for at in kept],
            places=[self.places[at] for at in kept],
            event_id=[self.event_id[at] for at in kept],
            label=[self.label[at] for at in kept],
            label_time_ms=[self.label_time_ms[at] for at in kept],
            effective_ms=[self.effective_ms[at] for at in kept],
            events=[moved(event) if isinstance(event := self.events[at], int) else event for at in kept],
            columns=[[column[at] for at in kept] for column in self.columns],
            own_rows={moved(row) for row in self.own_rows - gone},
        )

    def scored(
        self,
        versions: list[tuple[int, int, str]],
        event_time_ms: Ints,
        scores: Floats,
        segments: Sequence[tuple[int, ...]],
    ) -> Iterator[tuple[str, int, float, tuple[int, ...]]]:
        """Version, event time, score and segments of each joined event.

        Parameters
        ----------
        versions
            Start and stop of each, in the run.
        event_time_ms, scores, segments
            Of the run's events.
        """
        for event in self.events:
            if isinstance(event, Scored):
                yield event.version, event.event_time_ms, event.score, event.segments
            else:
                version = next(version for start, stop, version in versions if start <= event < stop)
                yield version, int(event_time_ms[event]), float(scores[event]), segments[event]
