"""How far event time and labels have come, over all partitions of a topic.

A partition's watermark is the event time before which it expects no on-time event; that of all is the lowest, and
never goes back. A partition that has never reported holds it back: nothing is known of it. One without any events must
still report (workers do). Only whoever has a clock can tell a silent partition from a slow one, so idleness is declared
from outside; an idle partition holds nothing back until it reports again.
"""

from __future__ import annotations

from typing import Any


class Watermarks:
    """The watermarks of ``partitions`` partitions; None: some have never reported."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.events_ms: int | None = None
        self.labels_ms: int | None = None
        self._reported: dict[int, tuple[int, int]] = {}
        self._idle: set[int] = set()

    def has_reported(self, partition: int) -> bool:
        """Whether a partition has ever said how far it is."""
        return partition in self._reported

    def check(self, partition: int) -> None:
        """ValueError for a partition that there is none of."""
        if not 0 <= partition < self.partitions:
            raise ValueError(f"partition {partition} is none of the {self.partitions} that the pipeline file says")

    def report(self, partition: int, events_ms: int, labels_ms: int) -> None:
        """Note how far a partition is; it never goes back, and is idle no longer."""
        before = self._reported.get(partition, (events_ms, labels_ms))
        self._reported[partition] = (max(before[0], events_ms), max(before[1], labels_ms))
        self._idle.discard(partition)
        self._move()

    def declare_idle(self, partition: int) -> None:
        """Let a partition hold nothing back until it reports again."""
        self.check(partition)
        self._idle.add(partition)
        self._move()

    def _move(self) -> None:
        active = set(range(self.partitions)) - self._idle
        if not active or not active <= self._reported.keys():
            return
        events, labels = (min(self._reported[partition][kind] for partition in active) for kind in (0, 1))
        self.events_ms = events if self.events_ms is None else max(self.events_ms, events)
        self.labels_ms = labels if self.labels_ms is None else max(self.labels_ms, labels)

    def to_state(self) -> dict[str, Any]:
        """For a snapshot."""
        return {
            "reported": sorted([partition, *marks] for partition, marks in self._reported.items()),
            "idle": sorted(self._idle),
            "watermark_ms": self.events_ms,
            "label_watermark_ms": self.labels_ms,
        }

    def from_state(self, state: dict[str, Any]) -> None:
        """Take over what `to_state` gave."""
        self._reported = {partition: (events, labels) for partition, events, labels in state["reported"]}
        self._idle = set(state["idle"])
        self.events_ms, self.labels_ms = state["watermark_ms"], state["label_watermark_ms"]
