"""Which event times are believed, and in which words the others are refused.

A time stamp far in the future would move the watermark of its partition there: every waiting event would be forgotten,
every window closed. So a time must lie between ``earliest`` and ``latest``, and may be ahead

- of its record's Kafka time stamp by ``max_ahead`` at most: a function of the log alone, the same in every replay;
- of the clock of whoever reads it live by ``max_ahead`` and `CLOCK_SKEW_MS` at most: a broken producer writes the
  record's time stamp as well. Brokers refuse such records by ``message.timestamp.after.max.ms`` (ADR 0010), so this
  is for topics that do not. A replay has no clock; it follows the verdicts in the dead letters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.core.batches import Ints

#: How far clocks of producers, brokers and workers may be apart before a time is not believed.
CLOCK_SKEW_MS = 3_600_000

#: Of a record's time stamp: more would overflow.
_LARGEST_MS = 2**62
#: What a time may have been written in, instead of milliseconds: name, and how many of it (numerator, denominator) are
#: a millisecond.
_UNITS = (("seconds", 1, 1000), ("microseconds", 1000, 1), ("nanoseconds", 1_000_000, 1))


class Refused(NamedTuple):
    """The row of a time that is not believed, and why."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True)
class TimeBounds:
    """The bounds of one kind of time; ``name``: of the field that holds it."""

    name: str
    earliest_ms: int
    latest_ms: int
    max_ahead_ms: int

    def refuse(self, times_ms: Ints, record_times_ms: Ints, clock_ms: int | None) -> Iterator[Refused]:
        """The times that are not believed, each once.

        Parameters
        ----------
        times_ms, record_times_ms
            Times of one batch, and the Kafka time stamps of their records.
        clock_ms
            Time of the reader's clock; None in a replay, whose verdicts have been given before.
        """
        if not len(times_ms):
            return
        stamps_ms = np.minimum(record_times_ms, _LARGEST_MS)
        ahead = times_ms > stamps_ms + self.max_ahead_ms
        bad = ahead | (times_ms < self.earliest_ms) | (times_ms > min(self.latest_ms, self._clock_bound(clock_ms)))
        for row in np.flatnonzero(bad).tolist():
            yield self._judge(row, int(times_ms[row]), int(stamps_ms[row]), clock_ms)

    def _clock_bound(self, clock_ms: int | None) -> int:
        return self.latest_ms if clock_ms is None else clock_ms + self.max_ahead_ms + CLOCK_SKEW_MS

    def _judge(self, row: int, time_ms: int, record_time_ms: int, clock_ms: int | None) -> Refused:
        said = f"{self.name} {time_ms}"
        if time_ms < self.earliest_ms:
            why = f"{said} is before events.earliest ({self.earliest_ms})"
            return Refused(row, "time_too_early", why + self._unit_hint(time_ms))
        if time_ms > self.latest_ms:
            why = f"{said} is after events.latest ({self.latest_ms})"
            return Refused(row, "time_too_late", why + self._unit_hint(time_ms))
        if time_ms > record_time_ms + self.max_ahead_ms:
            return Refused(
                row,
                "time_ahead",
                f"{said} is more than events.max_ahead ({self.max_ahead_ms} ms) after the time stamp of its record"
                f" ({record_time_ms}): the latest that is believed is {record_time_ms + self.max_ahead_ms}.",
            )
        bound = self._clock_bound(clock_ms)
        return Refused(
            row,
            "clock_ahead",
            f"{said} is more than events.max_ahead ({self.max_ahead_ms} ms) and an hour after this worker's clock"
            f" ({clock_ms}), as is the time stamp of its record ({record_time_ms}): the latest that is believed is"
            f" {bound}. Mend the clock of the producer, or of this machine.",
        )

    def _unit_hint(self, time_ms: int) -> str:
        """Name the unit in which the number would be a time within the bounds."""
        for unit, many, of in _UNITS:
            if self.earliest_ms <= time_ms * of // many <= self.latest_ms:
                return f"; it looks like {unit}: write milliseconds."
        return "."
