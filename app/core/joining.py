"""Labels joined to the events they belong to, as if events and labels came one by one."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.core.batches import Column, EventBatch, Floats, Ints, Outcomes
from app.core.merge import Merged
from app.core.pending import REJECTED, PendingEvents, Scored


@dataclass(slots=True)
class JoinedLabels:
    """The labels of a run that found their events: earlier ones, or events of the run itself (given by row).

    Labels are in the order in which they are applied: label j, number ``places[j]`` of the run's labels, before event
    ``before[j]`` of the run. ``own_rows``: events of the run that wait for a label no more.
    """

    before: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    event_id: list[str] = field(default_factory=list)
    label: list[float] = field(default_factory=list)
    label_time_ms: list[int] = field(default_factory=list)
    events: list[Scored | int] = field(default_factory=list)
    columns: list[list[Any]] = field(default_factory=list)
    own_rows: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def join(
        cls, merged: Merged[Any], events: EventBatch, pending: PendingEvents, fields: tuple[str, ...]
    ) -> JoinedLabels:
        """Join as if events and labels came one by one: a label belongs to the newest event of its id, once."""
        joined = cls(columns=[[] for _ in fields])
        labels = merged.labels
        if not len(labels):
            return joined
        wanted = set(labels.event_id)
        own: dict[str, list[int]] = {}
        for row, event_id in enumerate(events.event_id):
            if event_id in wanted:
                own.setdefault(event_id, []).append(row)
        for number, (place, event_id, label, time_ms) in enumerate(
            zip(
                merged.before.tolist(),
                labels.event_id,
                labels.label.tolist(),
                labels.label_time_ms.tolist(),
                strict=True,
            )
        ):
            if not event_id:
                continue  # a watermark record
            waiting = pending.pop(event_id)
            found: Scored | int | None = waiting
            effective_ms = waiting.effective_ms if waiting is not None else 0
            rows = own.get(event_id)
            if rows and rows[0] < place:
                passed = [row for row in rows if row < place]
                own[event_id] = rows[len(passed) :]
                joined.own_rows.update(passed)
                found = passed[-1]
                effective_ms = int(merged.times_ms[found])
            if found is None or (place and pending.is_too_old(effective_ms, int(merged.times_ms[place - 1]))):
                continue
            joined.before.append(place)
            joined.places.append(number)
            joined.event_id.append(event_id)
            joined.label.append(label)
            joined.label_time_ms.append(time_ms)
            joined.events.append(found)
            for at, (column, name) in enumerate(zip(joined.columns, fields, strict=True)):
                column.append(events.columns[name][found] if isinstance(found, int) else found.fields[at])
        return joined

    def outcomes(self, fields: tuple[str, ...], events: EventBatch) -> Outcomes:
        """The joined labels as arrays, for windows over labels; columns are of the types of the events' own."""
        columns: dict[str, Column] = {"label": np.array(self.label, dtype=np.float64)}
        for name, values in zip(fields, self.columns, strict=True):
            columns[name] = np.array(values, dtype=events.columns[name].dtype)
        return Outcomes(np.array(self.before, dtype=np.int64), np.array(self.label_time_ms, dtype=np.int64), columns)

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
