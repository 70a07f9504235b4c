"""The loop of a partition that runs its flow: fetches go in, steps and cuts go to the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping

from aiokafka import TopicPartition
from faust.types import TP

from app.adapters.kafka.log_bounds import GroupBounds
from app.core.counts.sketches import split_record
from app.flow.step import Outgoing, Step
from app.pipeline import PartitionPipeline
from app.step_size import SPACING_S, StepSize
from app.worker.context import WorkerContext
from app.worker.inbox import Inbox
from app.worker.label_waits import LabelWaits
from app.worker.outbox import Cut, Outbox
from app.worker.pace import CommitTimer, clock_s
from app.worker.partition_news import PartitionNews
from app.worker.repartition_feed import RepartitionFeed
from app.worker.shared_waits import SharedWaits
from schemas.wire import encode_packed

#: A partition is behind whose events have not all been processed for this long.
BEHIND_S = 1.0


class FlowLoop:
    """Runs the flow of one partition.

    Parameters
    ----------
    repartition
        Answers the questions about repartitioned windows; None: there are none.
    wake
        Set by whoever has something new for the loop.
    """

    def __init__(
        self,
        context: WorkerContext,
        flow: PartitionPipeline,
        inbox: Inbox,
        outbox: Outbox,
        commits: CommitTimer,
        *,
        repartition: RepartitionFeed | None,
        wake: asyncio.Event,
    ) -> None:
        self.is_stopping = False
        self.news = PartitionNews(context.shelf.statuses, flow.partition)
        self._context = context
        self._flow = flow
        self._inbox = inbox
        self._outbox = outbox
        self._commits = commits
        self._repartition = repartition
        self._wake = wake
        self._step_size, self._intake_size = StepSize(), StepSize()
        self._caught_up_s = -math.inf
        self._label_waits: LabelWaits | None = None
        if context.pipeline.labels is not None:
            self._label_waits = LabelWaits(flow, context.pipeline.labels, inbox, self._keep_promise, wake.set)
        self._shared_waits = SharedWaits(flow, context.pipeline.shared, self._silent_until, self._bounds_of, wake.set)

    async def run(self) -> None:
        """Process what is received until `stop`; then have the outbox end with a last commit."""
        if self.news.has_beginning:
            self._commits.request()
        while not self.is_stopping:
            self._wake.clear()
            if not self._outbox.is_cutting and self._commits.is_due():
                self._cut()
                if self._context.asked.is_busy:
                    await self._context.asked.wait_for_turn()
            step = self._next_step()
            if step is not None:
                self._hand_over(step)
            self._tell_others()
            if step is None:
                self._look_at_waits()
                await self._wait()
            await self._wait_for_turn()
        self._tell_others()  # what this worker's partitions have seen of this one is to be committed
        if self._commits.is_requested:
            self._cut()
        self._outbox.end()

    async def stop(self) -> None:
        """Have `run` end soon, without waiting for labels or other partitions."""
        self.is_stopping = True
        self._wake.set()
        await self._shared_waits.stop()
        if self._label_waits is not None:
            await self._label_waits.stop()

    @property
    def is_behind(self) -> bool:
        """Whether events that were received have waited for longer than they should."""
        return clock_s() - self._caught_up_s > BEHIND_S and not self._has_caught_up

    @property
    def _has_caught_up(self) -> bool:
        return self._inbox.is_empty and not self._flow.takes_no_more

    def make_room(self) -> None:
        """Commit soon, though nothing was scored: the state drops keys from memory then."""
        self._commits.request()
        self._wake.set()

    def committed(self) -> None:
        """A commit is over."""
        self._commits.committed()
        self._wake.set()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _next_step(self) -> Step | None:
        context, began = self._context, clock_s()
        stale = self._label_waits.stale if self._label_waits is not None else range(0)
        while not self._outbox.is_full:
            self._flow.share(stale)
            started, step_s = clock_s(), context.asked.step_s
            step = self._flow.step(context.shelf.champions, self._step_size.of(step_s), context.now_ms(), stale)
            if step is not None:
                if len(step.events):
                    self._step_size.adapt(len(step.events), clock_s() - started, step_s)
                return step
            if self._has_caught_up:
                self._caught_up_s = clock_s()
            if self._inbox.is_empty or self._flow.takes_no_more:
                return None
            if clock_s() - began > step_s / 2:  # taking in was a step of its own: others have their turn
                self._wake.set()
                return None
            records = self._inbox.take(self._intake_size.of(step_s))
            started = clock_s()
            self._flow.receive_events(records, clock_ms=context.now_ms())
            self._intake_size.adapt(len(records), clock_s() - started, step_s)
            self._inbox.regulate(self._flow.merge)
        return None

    def _hand_over(self, step: Step) -> None:
        self._commits.request()
        self.news.note(step)
        self._outbox.put(step)

    def _tell_others(self) -> None:
        """Let other partitions know how far this one has come: those of this worker now, all with the next commit."""
        if self._context.shared is not None and self._flow.shared is not None:
            self._context.shared.tell()
            if self._flow.shared.has_news:
                self._commits.request()

    def _cut(self) -> None:
        """Have the outbox commit what was handed over, with the state, the counts and the offsets after it."""
        now_ms, flow = self._context.now_ms(), self._flow
        sketch = flow.drain_sketch()
        parts: list[Outgoing] = []
        if sketch is not None:
            parts = [(None, encode_packed(part), now_ms) for part in split_record(sketch)]
        changes: list[Outgoing] = [(key, value, now_ms) for key, value in flow.drain_state()]
        position = flow.position()
        places = self._inbox.place(position.events, position.labels)
        offsets = {TopicPartition(*tp): offset for tp, offset in places.items()}
        shared: list[Outgoing] = [(key, value, now_ms) for key, value in flow.drain_shared()]
        entities: list[Outgoing] = [(key, value, now_ms) for key, value in flow.drain_entities()]
        repartition = flow.drain_repartition()
        late, labels = self._shared_waits.count_late(), flow.labels.take_progress()
        statuses, first_offsets = self.news.take()
        self._outbox.cut(
            Cut(parts, changes, shared, entities, repartition, statuses, offsets, first_offsets, late, labels)
        )
        self._commits.cut()

    async def _wait(self) -> None:
        if self._wake.is_set():
            return
        left_s = None if self._outbox.is_cutting else self._commits.left_s()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), left_s)

    async def _wait_for_turn(self) -> None:
        """Let others have the event loop; while somebody asks, until there is enough for a step."""
        asked = self._context.asked
        if asked.is_busy and self._inbox.events_waiting < self._step_size.of(asked.step_s):
            await asyncio.sleep(SPACING_S)
        await asked.wait_for_turn()

    # -- what cannot be known from the records alone -------------------------------------------------------------------

    def _look_at_waits(self) -> None:
        self._inbox.regulate(self._flow.merge)  # labels may have been applied since records came
        self._shared_waits.look()
        if self._label_waits is not None:
            is_ready = self._context.shelf.champions.is_ready()
            self._label_waits.look(is_ready=is_ready, is_empty=self._inbox.is_empty)

    def _keep_promise(self, until_ms: int) -> None:
        """When all events are processed, apply the labels up to a watermark record."""
        step = self._flow.keep_promise(until_ms, self._context.now_ms()) if self._inbox.is_empty else None
        if step is not None:
            self._hand_over(step)

    async def _silent_until(self, until_ms: int) -> int | None:
        """The time (at most ``until_ms``) up to which all that the topics hold is merged; None: not known."""
        inbox = self._inbox
        has_all_labels = inbox.labels not in inbox.all or await inbox.is_at_its_end(inbox.labels)
        has_all_events = await inbox.is_at_its_end(inbox.events)
        if not has_all_events or not inbox.is_empty or self._flow.takes_no_more:
            return None
        return until_ms if has_all_labels else min(until_ms, self._flow.merge.newest_label_ms)

    async def _bounds_of(self, partition: int | None) -> Mapping[TP, GroupBounds]:
        """A partition's events and how far they are scored; for None, all questions and how far they are answered."""
        if partition is not None:
            return await self._context.logs.bounds({TP(self._context.pipeline.topics.events, partition)})
        assert self._repartition is not None  # somebody waits for answers
        return await self._repartition.bounds()
