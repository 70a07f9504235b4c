"""What the pipeline file says that records must satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.core.records.event_time import CLOCK_SKEW_MS
from schemas.refusal import RefusedRecordError

if TYPE_CHECKING:
    from app.core.batches import RecordBatch
    from schemas.pipeline.spec import Pipeline
    from schemas.topics import Topics


def check_readable(batch: RecordBatch, position: int) -> None:
    """Refuse what stands for records whose batch could not be unpacked."""
    if position in batch.unreadable:
        raise RefusedRecordError("unreadable_batch", batch.unreadable[position][0])


@dataclass(frozen=True)
class RecordRules:
    """Of one pipeline.

    Parameters
    ----------
    earliest_ms, latest_ms
        Bounds of event times.
    horizon_ms
        How much later a label may be.
    max_ahead_ms
        How far a time may be ahead of a clock.
    """

    topics: Topics
    model: str
    earliest_ms: int
    latest_ms: int
    horizon_ms: int
    max_ahead_ms: int

    @classmethod
    def of(cls, pipeline: Pipeline) -> RecordRules:
        events = pipeline.events
        return cls(
            pipeline.topics,
            pipeline.model.name,
            events.earliest_ms,
            events.latest_ms,
            pipeline.horizon_ms,
            events.max_ahead_ms,
        )

    def latest_come_to_ms(self, clock_ms: int | None) -> int:
        """How far a partition can have come: a promise may look ahead, and labels come after the last events.

        ``clock_ms``: of who reads the record; None: of nobody.
        """
        latest_ms = self.latest_ms if clock_ms is None else min(self.latest_ms, clock_ms + CLOCK_SKEW_MS)
        return latest_ms + self.max_ahead_ms + self.horizon_ms

    def check_event_time(self, time_ms: int, what: str) -> None:
        if not self.earliest_ms <= time_ms <= self.latest_ms:
            raise RefusedRecordError(
                "out_of_range", f"{what} {time_ms} is not from {self.earliest_ms} to {self.latest_ms}."
            )

    def check_source(self, topic: str, partition: int, of: int, topics: tuple[str, ...]) -> None:
        """What partition k of the inputs produces goes to partition k of the outputs."""
        if topic not in topics or partition != of:
            raise RefusedRecordError(
                "foreign", f"It says that its source is {topic!r:.200}, partition {partition}, and it lies in {of}."
            )
