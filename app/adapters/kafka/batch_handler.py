"""What a `BatchApp` fetches, and who takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from faust.types import TP

from app.core.batches import RecordBatch


@dataclass(frozen=True, slots=True)
class Fetched:
    """One fetch of one partition.

    ``sequence`` counts the fetches of this partition in this ``epoch`` (assignment) from 1. When a number is missing,
    Faust has dropped a batch on its way.
    """

    records: RecordBatch
    epoch: int
    sequence: int
    size_bytes: int


class SkippedBatchError(RuntimeError):
    """Faust dropped a batch on its way; its records must be read again."""


class FetchCount:
    """How many fetches of each partition were received in one assignment."""

    def __init__(self) -> None:
        self._received: dict[TP, int] = {}

    def note(self, fetched: Fetched) -> TP:
        """Count a fetch and return where it is from; SkippedBatchError when the one before it is missing."""
        tp = TP(fetched.records.topic, fetched.records.partition)
        before = self._received.get(tp, 0)
        if fetched.sequence != before + 1:
            raise SkippedBatchError(f"{tp} went from fetch {before} to {fetched.sequence}.")
        self._received[tp] = fetched.sequence
        return tp

    def of(self, tp: TP) -> int:
        """The number of the last one received; 0: none was."""
        return self._received.get(tp, 0)

    def begin_anew(self) -> None:
        """A new assignment: fetches are numbered from 1."""
        self._received.clear()


class BatchHandler(Protocol):
    """Handles the batches of a worker or monitor; called in the app's event loop."""

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        """Take over partitions: fence former owners and restore state, before committed offsets are read.

        Returns offsets to start from instead of the committed ones, if any.
        """

    async def revoked(self, partitions: set[TP]) -> None:
        """Let go of partitions: nothing may be published for them after this returns."""

    def received(self, fetched: Fetched) -> None:
        """Take a batch; must not block."""
