"""How far one partition has come: in event time, and in the offsets of its topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from app.core.intake.merge import BEGINNING_MS


@dataclass(frozen=True, slots=True)
class Position:
    """Next offset to read of each of the partition's topics; None: nothing was read yet."""

    events: int | None
    labels: int | None


@dataclass(slots=True)
class Marks:
    """How far one partition has come.

    ``horizon_ms``: event time that an event waits for its label. ``event_watermark_ms``, ``label_watermark_ms``:
    effective times of the last event and label that were applied. ``promised_ms``: nothing older follows, says a
    watermark record. ``events_end``, ``labels_end``: offsets after the last event that was processed and the last
    label that was read; None: there was none.
    """

    horizon_ms: int
    event_watermark_ms: int = BEGINNING_MS
    label_watermark_ms: int = BEGINNING_MS
    promised_ms: int = BEGINNING_MS
    events_end: int | None = None
    labels_end: int | None = None

    def promise(self, until_ms: int) -> None:
        """Note that nothing older follows."""
        self.promised_ms = max(self.promised_ms, until_ms)

    def for_counts(self) -> tuple[int, int]:
        """The event time that events and labels have reached, as the counts are published with it."""
        watermark = max(self.event_watermark_ms, self.promised_ms)
        # Older than the horizon, an event's label counts no more: no labels at all hold nothing back for longer.
        return watermark, max(self.label_watermark_ms, self.promised_ms, watermark - self.horizon_ms)

    def to_state(self, position: Position) -> dict[str, Any]:
        """For the changelog; ``position``: where to go on reading."""
        return {
            "event_watermark_ms": self.event_watermark_ms,
            "label_watermark_ms": self.label_watermark_ms,
            "promised_ms": self.promised_ms,
            "position": (position.events, position.labels),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `to_state` gave."""
        self.event_watermark_ms, self.label_watermark_ms = state["event_watermark_ms"], state["label_watermark_ms"]
        self.promised_ms = state["promised_ms"]
        self.events_end, self.labels_end = state["position"]
