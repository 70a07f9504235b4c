"""Which versions scored the events of a recording."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from app.adapters.recordings.file import SCORES, Recording
from app.core.batches import Ints


@dataclass(frozen=True, eq=False)
class RecordedVersions:
    """Which versions scored the events of a partition.

    ``starts``: where, by source offset, another version begins. ``early``: source offsets of the scored events that are
    older than a time that was asked for.
    """

    starts: list[tuple[int, str]]
    early: Ints


def read_versions(recording: Recording, partition: int, early_before_ms: int = 0) -> RecordedVersions:
    """Which versions scored a partition's events."""
    decoder = msgspec.json.Decoder(_ScoreHead)
    starts: list[tuple[int, str]] = []
    early: list[int] = []
    for batch in recording.read(SCORES, partition):
        for value in batch.values:
            if value is None:
                continue
            head = decoder.decode(value)
            starts.append((head.source.offset, head.version))
            if head.event_time_ms < early_before_ms:
                early.append(head.source.offset)
        starts = _only_changes(starts)
    return RecordedVersions(starts, np.array(early, np.int64))


def _only_changes(starts: list[tuple[int, str]]) -> list[tuple[int, str]]:
    ordered = sorted(starts)
    return [start for row, start in enumerate(ordered) if row == 0 or start[1] != ordered[row - 1][1]]


class _SourceHead(msgspec.Struct):
    offset: int


class _ScoreHead(msgspec.Struct):
    version: str
    event_time_ms: int
    source: _SourceHead
