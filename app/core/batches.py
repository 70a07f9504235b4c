"""The values that flow through the core: batches of records, events and labels, and rejections.

Records are what Kafka holds; events and labels are decoded. A batch always comes from one partition of one topic, in
offset order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Column = NDArray[Any]

Header = tuple[str, bytes]


@dataclass(slots=True)
class RecordBatch:
    """Records of one partition as read, in offset order (offsets may have gaps, as on any transactional topic).

    ``headers`` is None when no record of the batch has any. ``unreadable``: the positions at which something stands for
    records that could not be read, why, and their size in bytes as they were sent.
    """

    topic: str
    partition: int
    offsets: Ints
    timestamps_ms: Ints
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[tuple[Header, ...]] | None = None
    unreadable: dict[int, tuple[str, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def cut(self, first: int, last: int) -> RecordBatch:
        """The records at the positions first…last - 1."""
        if first == 0 and last == len(self):
            return self
        return RecordBatch(
            self.topic,
            self.partition,
            self.offsets[first:last],
            self.timestamps_ms[first:last],
            self.keys[first:last],
            self.values[first:last],
            self.headers[first:last] if self.headers is not None else None,
            {place - first: why for place, why in self.unreadable.items() if first <= place < last},
        )

    @classmethod
    def unsent(cls, topic: str, partition: int, values: Sequence[bytes], now_ms: int) -> RecordBatch:
        """Events as the records that they would be if they were sent now; their offsets are their positions."""
        count = len(values)
        offsets, stamps = np.arange(count, dtype=np.int64), np.full(count, now_ms, dtype=np.int64)
        return cls(topic, partition, offsets, stamps, [None] * count, list(values))

    @classmethod
    def join(cls, batches: Sequence[RecordBatch]) -> RecordBatch:
        """Batches of one log, each after the other, as one."""
        first = batches[0]
        if len(batches) == 1:
            return first
        starts = np.cumsum([0, *map(len, batches)]).tolist()
        headers: list[tuple[Header, ...]] | None = None
        if any(batch.headers is not None for batch in batches):
            headers = [of for batch in batches for of in batch.headers or [()] * len(batch)]
        return cls(
            first.topic,
            first.partition,
            np.concatenate([batch.offsets for batch in batches]),
            np.concatenate([batch.timestamps_ms for batch in batches]),
            [key for batch in batches for key in batch.keys],
            [value for batch in batches for value in batch.values],
            headers,
            {
                start + place: why
                for start, batch in zip(starts, batches, strict=False)
                for place, why in batch.unreadable.items()
            },
        )

    def between(self, start: int, stop: int) -> RecordBatch:
        """The records whose offset is in start…stop - 1."""
        return self.cut(*np.searchsorted(self.offsets, (start, stop)).tolist())


@dataclass(frozen=True, slots=True)
class Promise:
    """Among batches of all partitions: nothing older than ``until_ms`` follows."""

    until_ms: int


@dataclass(slots=True)
class EventBatch:
    """Decoded events of one partition, in offset order.

    ``columns`` has one array of length n per event field: float64 for float, int and bool fields (NaN = null), object
    arrays of ``str | None`` for string fields. `FeaturePlan.compute` adds what is read of other features later on.
    """

    offsets: Ints
    event_time_ms: Ints
    entity: list[str]
    event_id: list[str]
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.entity)

    def take(self, index: Ints) -> EventBatch:
        """The events at ``index`` (ascending positions), as a batch of their own."""
        rows = index.tolist()
        return EventBatch(
            offsets=self.offsets[index],
            event_time_ms=self.event_time_ms[index],
            entity=[self.entity[row] for row in rows],
            event_id=[self.event_id[row] for row in rows],
            columns={name: column[index] for name, column in self.columns.items()},
        )


@dataclass(slots=True)
class LabelBatch:
    """Decoded labels of one partition, in offset order; ``key``: those of their records."""

    offsets: Ints
    label_time_ms: Ints
    event_id: list[str]
    label: Floats
    key: list[bytes | None]

    def __len__(self) -> int:
        return len(self.event_id)


@dataclass(slots=True)
class LabelRows:
    """Labels joined to the events they belong to, in the order in which they are applied.

    ``before[j]`` = i: label j is applied before event i of the batch that it travels with (n: after the last one).
    ``columns``: the event fields that windows over labels need, as in `EventBatch`, and "label" itself.
    """

    before: Ints
    label_time_ms: Ints
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.before)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the record at ``position`` of its batch cannot be scored."""

    position: int
    stage: str
    reason: str
    detail: str
