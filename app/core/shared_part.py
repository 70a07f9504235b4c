"""One partition's part in the shared windows, put together: add at once, hold until the others have come, read."""

from __future__ import annotations

from typing import Generic, TypeVar

from app.core.batches import EventBatch
from app.core.merge import BEGINNING_MS, Merged
from app.core.shared_board import SharedBoard
from app.core.shared_held import HeldRuns, Ready
from app.core.shared_windows import Contributor, Records, SharedReader

Payload = TypeVar("Payload")


class SharedPart(Generic[Payload]):
    """What a `PartitionPipeline` needs of the shared windows.

    Parameters
    ----------
    board
        That of the process: all its partitions and, by the topic, those of others.
    horizon_ms, outcome_fields
        As `Contributor`.
    most_held
        Events that may wait before no more are taken; None: any number.
    """

    def __init__(
        self,
        board: SharedBoard,
        partition: int,
        horizon_ms: int,
        outcome_fields: tuple[str, ...],
        *,
        most_held: int | None,
    ) -> None:
        self.board = board
        self.held: HeldRuns[Payload] = HeldRuns()
        self.contributor = Contributor(board, partition, horizon_ms, outcome_fields, with_drain=most_held is not None)
        self.reader = SharedReader(board)
        self._most_held = most_held

    @property
    def is_full(self) -> bool:
        """Whether so many events wait that no more should be taken."""
        return self._most_held is not None and self.held.events >= self._most_held

    @property
    def is_blocked(self) -> bool:
        """Whether the next event waits for another partition."""
        return self.held.is_blocked(self.board.low_ms)

    @property
    def others_ms(self) -> int | None:
        """How far a partition without records may be taken to have come: as far as any other, less the delay.

        None when nobody can be waiting for that.
        """
        plan = self.board.plan
        until_ms, added_ms = self.board.high_ms - plan.least_delay_ms, self.contributor.added_ms
        is_ahead = any(until_ms // store.hop_ms > added_ms // store.hop_ms for store in plan.stores)
        return until_ms if is_ahead else None

    def add(self, merged: Merged[Payload], events: EventBatch, *, is_stale: bool) -> None:
        """Add a run to the shared windows, and hold it until it may read them."""
        self.contributor.add(merged, events)
        needed_ms = self.board.plan.needed_ms(merged.times_ms)
        self.held.add(merged, needed_ms, is_stale=is_stale, promised_ms=BEGINNING_MS)

    def come_to(self, merged: Merged[Payload], events: EventBatch, until_ms: int, promised_ms: int) -> None:
        """Add labels alone (``events`` is empty); nothing before ``until_ms`` follows."""
        self.contributor.add(merged, events)
        self.contributor.come_to(until_ms)
        self.held.add(merged, merged.times_ms, is_stale=False, promised_ms=promised_ms)

    def take(self, most: int) -> Ready[Payload] | None:
        """The next run that may read."""
        return self.held.take(most, self.board.low_ms)

    def settle(self, event_watermark_ms: int) -> None:
        """Forget what nobody reads any more, where nothing is drained."""
        scored_ms = event_watermark_ms if self.held else self.contributor.added_ms
        self.board.score_to(self.contributor.partition, scored_ms)
        self.board.sweep()

    def drain(self, event_watermark_ms: int) -> tuple[Records, Records]:
        """Records for the topic and for the changelog; ``event_watermark_ms``: of the events scored."""
        return self.contributor.drain(event_watermark_ms if self.held else self.contributor.added_ms)
