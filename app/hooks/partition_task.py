"""One partition in the hands of a sender: records go into the queues of the hooks, what became of them is committed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress

from faust.types import TP

from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble
from app.adapters.kafka.batch_handler import FetchCount, Fetched
from app.adapters.kafka.lag import read_commits
from app.adapters.kafka.publisher import OutputTooLargeError, PartitionPublisher, PublishError
from app.adapters.kafka.topic_reader import read_to_end
from app.core.hooks.delivery import Delivery
from app.core.hooks.ledger import Ledger
from app.core.hooks.marks import Mark
from app.exits import EXIT_CONFIG, EXIT_RETRY, StackError
from app.hooks.context import SenderContext
from app.hooks.hook_records import take_deliveries
from app.hooks.publishing import publish
from schemas.refusal import RefusedRecordError
from schemas.wire import HookDelivery

log = logging.getLogger("streamgauge.hooks")

#: How long a partition that is being taken away may try to commit what it has.
_PARK_DEADLINE_S = 5.0


class PartitionTask:
    """The life of a partition in this sender, from fencing its former owner until it is revoked."""

    def __init__(self, context: SenderContext, partition: int, epoch: int, topics: frozenset[TP]) -> None:
        self.partition = partition
        self.epoch = epoch
        self.topics = topics
        self.is_started = False
        self._context = context
        self._publisher = PartitionPublisher(
            context.kafka,
            context.group,
            f"{context.group}-{partition}",
            partition,
            interval_ms=round(context.pace.commit_s * 1000),
            compression=context.pipeline.compression,
            early=None,
        )
        self._ledger: Ledger | None = None
        self._fetches = FetchCount()
        self._inbox: deque[Fetched] = deque()
        self._inbox_bytes = 0
        self._is_paused = False
        self._is_stopping = False
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        #: Set by whoever runs `take_over` beside other work; `close` ends it.
        self.taking_over: asyncio.Task[None] | None = None

    async def take_over(self) -> dict[TP, int]:
        """Fence the former owner and take over what it has parked; where to read on.

        Raises
        ------
        StackError
            When records are gone that were not told.
        """
        context = self._context
        await self._publisher.start()
        bounds = await context.logs.bounds(self.topics)
        starts = await context.beginning.choose(context.logs, bounds)
        parked: dict[str, HookDelivery] = {}
        async for batch in read_to_end(context.kafka, [context.pipeline.topics.hooks_retry], self.partition):
            take_deliveries(batch, context.pipeline.topics, parked, context.refusals)
        commits = await read_commits(context.kafka, context.group)
        marks = {
            tp.topic: Mark.decode(commit.metadata, commit.offset)
            for tp, commit in commits.items()
            if tp.partition == self.partition and commit.offset == starts.get(TP(*tp))
        }
        committed = {tp.topic for tp, bound in bounds.items() if bound.committed is not None}
        self._ledger = Ledger({tp.topic: start for tp, start in starts.items()}, marks, committed)
        context.ledgers[self.partition] = self._ledger
        self._restore(self._ledger, parked)
        if parked:
            log.info("Partition %s: %s deliveries are parked", self.partition, len(parked))
        return starts

    def _restore(self, ledger: Ledger, parked: dict[str, HookDelivery]) -> None:
        context, now_ms = self._context, self._context.now_ms()
        by_hook: dict[str, list[Delivery]] = {}
        for record in parked.values():
            by_hook.setdefault(record.hook, []).append(Delivery(record, now_ms, is_parked=True))
        for name, deliveries in by_hook.items():
            if name in context.queues:
                context.queues[name].restore(deliveries, now_ms)
                continue
            for delivery in deliveries:
                if name in context.hooks:  # it goes to Kafka now
                    ledger.copy(delivery)
                    ledger.told(delivery)
                else:
                    ledger.give_up(delivery, now_ms, "The pipeline file has no such hook any more.")

    @property
    def has_caught_up(self) -> bool:
        """Whether the couriers may tell what it has: see `Ledger.has_caught_up`."""
        return self.is_started and self._ledger is not None and self._ledger.has_caught_up

    def start(self) -> None:
        """Work on what is received."""
        self.is_started = True
        self._loop = asyncio.create_task(self._guard(self._run()), name=f"hooks-{self.partition}")

    def receive(self, fetched: Fetched) -> None:
        """Take a batch from the agent."""
        self._fetches.note(fetched)
        self._inbox.append(fetched)
        self._inbox_bytes += fetched.size_bytes
        self._regulate()
        self._wake.set()

    def notice(self) -> None:
        """Something has become of a delivery, or there is room again."""
        self._wake.set()

    async def stop(self) -> None:
        """Commit what has become of the deliveries, and let the partition go."""
        self._is_stopping = True
        self._wake.set()
        if self._loop is not None:
            _, late = await asyncio.wait([self._loop], timeout=_PARK_DEADLINE_S)
            if late:
                log.warning("Partition %s: no commit within %s s", self.partition, _PARK_DEADLINE_S)

    async def close(self) -> None:
        """End for good. An open transaction is aborted by the next owner, or when it times out."""
        running = [task for task in (self._loop, self.taking_over) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for queue in self._context.queues.values():
            queue.drop(self.partition)
        if self._context.ledgers.get(self.partition) is self._ledger:
            self._context.ledgers.pop(self.partition, None)
        await self._publisher.stop()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        committed_at = loop.time()
        while not self._is_stopping:
            self._wake.clear()
            has_taken = self._take()
            left_s = committed_at + self._context.pace.commit_s - loop.time()
            if left_s <= 0:
                await self._commit()
                committed_at = loop.time()
            if has_taken:
                await asyncio.sleep(0)
                continue
            assert self._ledger is not None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.001, left_s) if self._ledger.is_changed else None)
        await self._commit()

    def _take(self) -> bool:
        """Take one fetch to the queues, if there is one and room for it."""
        context, ledger = self._context, self._ledger
        assert ledger is not None
        if not self._inbox or (context.is_full and ledger.has_caught_up):
            self._regulate()
            return False
        fetched = self._inbox.popleft()
        self._inbox_bytes -= fetched.size_bytes
        self._regulate()
        records, now_ms = fetched.records, context.now_ms()

        def refuse(offset: int, error: RefusedRecordError) -> None:
            context.refusals.note(records.topic, records.partition, offset, error)

        for delivery in context.selection.select(records, now_ms, refuse):
            queue = context.queues.get(delivery.hook)
            if queue is None:
                ledger.copy(delivery)
            else:
                queue.add(delivery, now_ms)
        ledger.read_to(records.topic, int(records.offsets[-1]) + 1)
        context.notice()
        return True

    def _regulate(self) -> None:
        """Have no more fetched while enough waits."""
        most = self._context.pace.inbox_bytes
        if self._inbox_bytes > most and not self._is_paused:
            self._is_paused = True
            self._context.app.pause(self.topics)
        elif self._inbox_bytes <= most // 2 and self._is_paused:
            self._is_paused = False
            self._context.app.resume(self.topics)

    async def _commit(self) -> None:
        assert self._ledger is not None
        changes = self._ledger.drain()
        if not changes:
            return
        await publish(self._publisher, changes, self.partition, self._context)
        counts = self._context.counts
        counts.commits += 1
        counts.dead.update(record.hook for record in changes.dead)
        counts.told.update(delivery.hook for delivery in changes.copies)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """Crash only: any error ends this sender's hold on the partition."""
        try:
            await work
        except OutputTooLargeError as error:
            self._break(str(error), EXIT_CONFIG)
        except (PublishError, StackError) as error:
            self._break(f"Partition {self.partition}: {error}", EXIT_RETRY)
        except KAFKA_TROUBLE as error:
            self._break(f"Partition {self.partition}: {describe_trouble(self._context.kafka, error)}", EXIT_RETRY)
        except Exception as error:
            log.exception("Partition %s failed", self.partition)
            self._break(f"Partition {self.partition}: {error!r}", EXIT_RETRY)

    def _break(self, why: str, exit_code: int) -> None:
        if self._is_stopping and exit_code == EXIT_RETRY:  # its new owner may have fenced this one
            log.warning("%s", why)
        else:
            self._context.fail(why, exit_code)
