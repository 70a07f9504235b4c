"""One partition's part in the shared windows, put together: add at once, hold until the others have come, read."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.core.batches import EventBatch, Floats, Ints
from app.core.intake.merge import BEGINNING_MS, END_MS, Merged
from app.core.shared.board import SharedBoard
from app.core.shared.contributor import Contributor, Records, SharedReader
from app.core.shared.held import HeldRuns, Ready
from app.core.shared.repartition import Repartition

Payload = TypeVar("Payload")


class SharedPart(Generic[Payload]):
    """What a `PartitionPipeline` needs of the shared windows.

    Parameters
    ----------
    board
        That of the process: all its partitions and, by the topic, those of others.
    horizon_ms, label_fields
        As `Contributor`.
    most_held
        Events that may wait before no more are taken; None: any number.
    repartition
        How windows that are repartitioned reach their owners; None: they are on the board like the others.
    """

    def __init__(
        self,
        board: SharedBoard,
        partition: int,
        horizon_ms: int,
        label_fields: tuple[str, ...],
        repartition: Repartition | None = None,
        *,
        most_held: int | None,
    ) -> None:
        self.board = board
        self.held: HeldRuns[Payload] = HeldRuns()
        self.repartition = repartition
        asker = repartition.asker if repartition is not None else None
        with_drain = most_held is not None
        self.contributor = Contributor(board, partition, horizon_ms, label_fields, asker, with_drain=with_drain)
        self._reader = SharedReader(board, with_repartitioned=repartition is None)
        #: For `peek`, and how far that has come.
        self._peeking: SharedReader | None = None
        self._peeked_ms = BEGINNING_MS
        self._most_held = most_held
        #: Per drain that is not committed yet: the time before which nothing is scored any more, and the next offset.
        self._uncommitted: deque[tuple[int, int]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether so many events wait that no more should be taken."""
        return self._most_held is not None and self.held.events >= self._most_held

    @property
    def is_blocked(self) -> bool:
        """Whether the next event waits for another partition."""
        return self.held.is_blocked(self.board.low_ms, self._answered)

    @property
    def awaited(self) -> tuple[int | None, int]:
        """The partition that the next event waits for (None: answers), and how far that is."""
        low_ms, answered = self.board.low_ms, self._answered
        if answered is not None and self.held.has_others(low_ms):
            return None, self.held.received - self.held.events + answered
        return min(self.board.added_ms, key=self.board.added_ms.__getitem__), low_ms

    @property
    def has_news(self) -> bool:
        """Whether the others are waiting to hear from this partition, or it waits to ask them."""
        return self.contributor.has_news or (self.repartition is not None and self.repartition.asker.has_questions)

    @property
    def late(self) -> int:
        """Contributions to tiles that others may have read before."""
        return self.contributor.late

    def give_up(self) -> int:
        """Let all events that wait for other partitions go; return how many those are."""
        waiting = self.held.events
        self.held.let_go(self.held.received)
        return waiting

    @property
    def _answered(self) -> int | None:
        return self.repartition.answers.ready if self.repartition is not None else None

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
        if self.repartition is not None:
            self.repartition.hold(events, merged.times_ms, self.contributor.next_event)
        late = int(np.searchsorted(merged.times_ms, self.contributor.scored_ms))
        self.contributor.add(merged, events)
        if 0 < late < len(merged.times_ms):
            late_ones, merged = merged.split(late)
            self._hold(late_ones, is_stale=True)
            late = 0
        # Late: while the partition was taken to be idle, what the event would read may have been forgotten.
        self._hold(merged, is_stale=is_stale or late > 0)

    def _hold(self, merged: Merged[Payload], *, is_stale: bool) -> None:
        needed_ms = self.board.plan.needed_ms(merged.times_ms)
        self.held.add(merged, needed_ms, is_stale=is_stale, promised_ms=BEGINNING_MS)

    def come_to(self, merged: Merged[Payload], events: EventBatch, until_ms: int, promised_ms: int) -> None:
        """Add labels alone (``events`` is empty); nothing before ``until_ms`` follows."""
        self.contributor.add(merged, events)
        self.contributor.come_to(until_ms)
        self.held.add(merged, merged.times_ms, is_stale=False, promised_ms=promised_ms)

    def take(self, most: int) -> Ready[Payload] | None:
        """The next run that may read."""
        return self.held.take(most, self.board.low_ms, self._answered)

    def fill(self, matrix: Floats, events: EventBatch, times_ms: Ints) -> None:
        """Fill the shared columns of the run taken last; its effective times never go back."""
        self._reader.fill(matrix, events, times_ms)
        if self.repartition is not None:
            self.repartition.answers.fill(matrix, events)

    def peek(self, matrix: Floats, events: EventBatch, times_ms: Ints) -> NDArray[np.bool_]:
        """Fill the shared columns of events of any effective times as of now; nothing that is kept changes.

        Not for windows that are repartitioned: only their owners know them.

        Returns
        -------
        Which events have seen what they would if they came next: all others have come as far as their windows reach,
        and nothing of this partition that was added waits to be scored.
        """
        order = np.argsort(times_ms, kind="stable")
        sorted_ms = times_ms[order]
        if self._peeking is None or (len(order) and int(sorted_ms[0]) < self._peeked_ms):
            self._peeking = SharedReader(self.board, with_repartitioned=False)
        if len(order):
            self._peeked_ms = int(sorted_ms[-1])
        rows = matrix[order]
        self._peeking.fill(rows, events.take(order), sorted_ms)
        matrix[order] = rows
        others = [added_ms for other, added_ms in self.board.added_ms.items() if other != self.contributor.partition]
        has_come: NDArray[np.bool_] = self.board.plan.needed_ms(times_ms) <= min(others, default=END_MS)
        return has_come & (not self.held)

    def settle(self, event_watermark_ms: int, next_offset: int) -> None:
        """Forget what nobody reads any more, where nothing is drained."""
        self.board.score_to(self.contributor.partition, self._scored_ms(event_watermark_ms, next_offset))
        self.board.sweep()

    def drain(self, event_watermark_ms: int, next_offset: int) -> tuple[Records, Records, list[tuple[int, bytes]]]:
        """What one transaction is to say of shared windows.

        Parameters
        ----------
        event_watermark_ms
            Effective time of the last event that is scored.
        next_offset
            Of the first event that is not.

        Returns
        -------
        Records for the topic, for the changelog, and for partitions of ``<p>.repartition``.
        """
        topic, changes = self.contributor.drain(self._scored_ms(event_watermark_ms, next_offset))
        scored_ms = self.contributor.scored_ms
        self._uncommitted.append((scored_ms, next_offset))
        if self.repartition is None:
            return topic, changes, []
        return topic, changes, self.repartition.drain(self.contributor.added_ms, scored_ms, next_offset)

    def committed(self) -> None:
        """The oldest drain that was not committed yet has been by now: what it said of scoring will stand."""
        scored_ms, next_offset = self._uncommitted.popleft()
        self.board.score_to(self.contributor.partition, scored_ms)
        if self.repartition is not None:
            self.repartition.answers.forget(next_offset)

    def _scored_ms(self, event_watermark_ms: int, next_offset: int) -> int:
        """The time before which nothing of this partition is scored any more, if what is scored now is committed.

        What was added and is not held has been scored, unless a former owner added it and it is still to be read again.
        """
        is_all_scored = not self.held and next_offset >= self.contributor.next_event
        return self.contributor.added_ms if is_all_scored else event_watermark_ms
