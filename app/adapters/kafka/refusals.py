"""Counts records that the pipeline did not write, and logs them seldom: anybody may write to a topic."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from app.core.records.rules import check_readable
from schemas.refusal import RefusedRecordError
from schemas.wire import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.batches import RecordBatch

T = TypeVar("T", bound=msgspec.Struct)

log = logging.getLogger("streamgauge.refused")

#: Seconds between two log lines about a topic; a reason that is new for the topic is logged at once.
_SAY_AGAIN_S = 60.0


@dataclass
class Refused:
    """Records of one batch that were refused: how many by reason, and an example of each in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, partition: int, offset: int, error: RefusedRecordError, n: int = 1) -> None:
        self.counts[error.reason] += n
        self.examples.setdefault(error.reason, f"partition {partition}, offset {offset}: {error}")

    def __bool__(self) -> bool:
        return bool(self.counts)


class Refusals:
    """What a process has refused since its start.

    Parameters
    ----------
    clock
        Seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[tuple[str, str]] = Counter()
        self._said_at: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def by_topic(self) -> dict[str, dict[str, int]]:
        """How many there were, by topic and reason."""
        counts: dict[str, dict[str, int]] = {}
        for (topic, reason), n in sorted(self._counts.items()):
            counts.setdefault(topic, {})[reason] = n
        return counts

    def note(self, topic: str, partition: int, offset: int, error: RefusedRecordError, n: int = 1) -> None:
        """One record (or ``n`` parts of it) was refused."""
        refused = Refused()
        refused.add(partition, offset, error, n)
        self.take(topic, refused)

    def decode(self, batch: RecordBatch, kind: type[T]) -> list[tuple[int, T]]:
        """The JSON records of this kind, each with its offset. Tombstones are left out; all other records are noted."""
        records = []
        for position, (offset, value) in enumerate(zip(batch.offsets.tolist(), batch.values, strict=True)):
            if value is None and position not in batch.unreadable:
                continue  # compaction needs it
            try:
                check_readable(batch, position)
                records.append((offset, decode_json(value, kind)))
            except RefusedRecordError as error:
                self.note(batch.topic, batch.partition, offset, error)
        return records

    def take(self, topic: str, refused: Refused) -> None:
        """Records of a topic were refused."""
        for reason, n in refused.counts.items():
            is_new = (topic, reason) not in self._counts
            self._counts[topic, reason] += n
            self._unsaid[topic] += n
            now_s = self._clock()
            if is_new or now_s - self._said_at.get(topic, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
                log.warning(
                    "%s: %d records are none of ours and are passed over (%s), the last of them %s",
                    topic,
                    self._unsaid[topic],
                    reason,
                    refused.examples[reason],
                )
                self._said_at[topic], self._unsaid[topic] = now_s, 0
