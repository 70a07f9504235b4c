"""What is to leave one partition, in order: steps as they come, and cuts. A cut commits the steps before it.

While a cut is being committed, the steps after it may leave: scores that need no transaction go at once, everything
else goes with the next commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from aiokafka import TopicPartition

from app.adapters.kafka.publisher import PartitionPublisher
from app.flow.inputs import WRONG_PARTITION
from app.flow.step import Outgoing, Step
from app.pipeline import STEP_EVENTS
from schemas.topics import Topics

#: No step is taken while more scored events than this wait to be published: bounds memory when the broker stalls.
OUTBOX_EVENTS = 2 * STEP_EVENTS
#: In a transaction, fewer scores than this are sent with the commit: nobody sees them sooner.
SEND_EVENTS = 2_000


@dataclass(slots=True)
class Tally:
    """What was sent in one transaction. It counts once the transaction is committed."""

    scored: int = 0
    unscored: int = 0
    dead_letters: int = 0
    wrong_partition: int = 0
    stale: int = 0

    def add(self, steps: Sequence[Step]) -> None:
        """Count what these steps gave."""
        for step in steps:
            self.scored += step.n_scored
            self.unscored += len(step.events) - step.n_scored
            self.dead_letters += sum(letter.stage != "label" for letter in step.dead_letters)
            self.wrong_partition += sum(letter.reason == WRONG_PARTITION for letter in step.dead_letters)
            self.stale += step.n_scored * step.is_stale


@dataclass(slots=True)
class Progress:
    """What a worker has committed since it started; the source of its metrics."""

    events: int = 0
    scored: int = 0
    unscored: int = 0
    dead_letters: int = 0
    stale: int = 0
    shared_late: int = 0
    wrong_partition: int = 0
    labels: int = 0
    labels_without_event: int = 0
    commits: int = 0
    last_commit_ms: int = 0

    def count(self, tally: Tally, cut: Cut, now_ms: int) -> None:
        """A transaction was committed."""
        self.events += tally.scored + tally.unscored + tally.dead_letters
        self.scored += tally.scored
        self.unscored += tally.unscored
        self.dead_letters += tally.dead_letters
        self.stale += tally.stale
        self.wrong_partition += tally.wrong_partition
        self.shared_late += cut.shared_late
        self.labels += cut.labels[0]
        self.labels_without_event += cut.labels[1]
        self.commits += 1
        self.last_commit_ms = now_ms


@dataclass(frozen=True, slots=True)
class Cut:
    """What a commit holds besides the outputs before it.

    ``first_offsets``: version -> first event that it scored. ``shared_late``: what came too late for shared windows.
    ``labels``: how many were applied, and how many of these belong to no event.
    """

    sketches: list[Outgoing]
    changes: list[Outgoing]
    shared: list[Outgoing]
    entities: list[Outgoing]
    repartition: list[tuple[int, bytes]]
    statuses: list[tuple[int, bytes]]
    offsets: dict[TopicPartition, int]
    first_offsets: dict[str, int]
    shared_late: int
    labels: tuple[int, int]


class Outbox:
    """The outbox of one partition.

    Parameters
    ----------
    committed
        Is told what a committed transaction held: the cut, and what was sent before it. And the offset up to which the
        changelog holds no more than that (None: nothing was written to it).
    sent
        Is called when there is room again.
    guard
        Runs what may fail; a failure ends the partition.
    """

    def __init__(
        self,
        publisher: PartitionPublisher,
        topics: Topics,
        *,
        committed: Callable[[Cut, Tally, int | None], Awaitable[None]],
        sent: Callable[[], None],
        guard: Callable[[Coroutine[None, None, None]], Coroutine[None, None, None]],
    ) -> None:
        self._publisher = publisher
        self._topics = topics
        self._committed = committed
        self._sent = sent
        self._guard = guard
        #: None ends it.
        self._queue: deque[Step | Cut | None] = deque()
        self._has_output = asyncio.Event()
        self._events = 0
        self._tally = Tally()
        self._committing: asyncio.Task[None] | None = None
        #: Whether a cut is waiting or being committed.
        self.is_cutting = False

    @property
    def is_full(self) -> bool:
        """Whether so many scored events wait that no more should come."""
        return self._events > OUTBOX_EVENTS

    def put(self, step: Step) -> None:
        """Let a step leave."""
        self._events += len(step.events)
        self._queue.append(step)
        if self._publisher.sends_scores_early or self._events >= SEND_EVENTS:
            self._has_output.set()

    def cut(self, cut: Cut) -> None:
        """Commit the steps before this call; not while another cut is being committed."""
        self._queue.append(cut)
        self.is_cutting = True
        self._has_output.set()

    def end(self) -> None:
        """Have `publish` end when everything before this call has left."""
        self._queue.append(None)
        self._has_output.set()

    async def publish(self) -> None:
        """Send and commit in order; scores that need no transaction pass a commit that is under way."""
        while True:
            await self._has_output.wait()
            self._has_output.clear()
            while self._queue:
                steps = self._take_steps()
                if steps:
                    if not self._publisher.sends_scores_early or any(step.dead_letters for step in steps):
                        await self._commit_ends()
                    await self._send(steps)
                    self._sent()
                    continue
                await self._commit_ends()
                cut = self._queue.popleft()
                if not isinstance(cut, Cut):
                    return
                commit = self._commit(cut, self._publisher.take_early(), self._tally)
                self._tally = Tally()
                self._committing = asyncio.create_task(self._guard(commit), name="commit")

    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way beside `publish`."""
        return [self._committing] if self._committing is not None else []

    def _take_steps(self) -> list[Step]:
        """The steps before the next cut: they leave together, however small they are."""
        steps: list[Step] = []
        while self._queue and isinstance(self._queue[0], Step):
            steps.append(self._queue.popleft())  # type: ignore[arg-type]  # as the line before has seen
        return steps

    async def _commit_ends(self) -> None:
        if self._committing is not None:
            await self._committing

    async def _send(self, steps: list[Step]) -> None:
        letters = [letter for step in steps for letter in step.dead_letters]
        scores = chain.from_iterable(step.outgoing_scores for step in steps)
        await self._publisher.send_scores(self._topics.scores, scores)
        await self._publisher.send_letters(self._topics.dead_letters, letters)
        self._events -= sum(len(step.events) for step in steps)
        self._tally.add(steps)

    async def _commit(self, cut: Cut, early: Sequence[asyncio.Future[Any]], tally: Tally) -> None:
        topics = self._topics
        await self._publisher.send(topics.sketches, cut.sketches)
        await self._publisher.send(topics.state, cut.changes)
        await self._publisher.send(topics.shared, cut.shared)
        await self._publisher.send(topics.entities, cut.entities)
        await self._publisher.send_addressed(topics.repartition, cut.repartition)
        await self._publisher.send_addressed(topics.model_status, cut.statuses)
        await self._publisher.commit(cut.offsets, early)
        self.is_cutting = False
        await self._committed(cut, tally, self._publisher.committed_offset(topics.state))
