"""One input partition in the hands of a worker: two loops, so that neither waits for the other.

A `FlowLoop` takes what was fetched and runs steps of the pure flow; an `Outbox` sends what they gave, and commits. The
outbox is bounded. When a commit is due, the flow loop puts a `Cut` into it: state, counts and offsets as they are after
the steps before it. While the cut is being committed, the next steps run. The longer a commit takes, the larger is the
next transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping

from aiokafka import TopicPartition
from faust.types import TP

from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble
from app.adapters.kafka.batch_handler import Fetched
from app.adapters.kafka.publisher import OutputTooLargeError, PartitionPublisher, PublishError
from app.adapters.rocks_rows import RocksRows, StateDiskError
from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.tiles.row_cache import RowCache
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.pipeline import PartitionPipeline
from app.serving.commits import Commits
from app.serving.desk import PreviewDesk
from app.worker.context import WorkerContext
from app.worker.flow_loop import FlowLoop
from app.worker.inbox import Inbox
from app.worker.outbox import Cut, Outbox, Tally
from app.worker.pace import CommitTimer
from app.worker.repartition_feed import RepartitionFeed
from app.worker.restore import restore_entities, restore_state

log = logging.getLogger("streamgauge.worker")

#: How long a partition that is being taken away may try to commit what it has.
PARK_DEADLINE_S = 5.0


class PartitionTask:
    """The life of a partition in this worker, from fencing its former owner until it is revoked."""

    def __init__(self, context: WorkerContext, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self._context = context
        pipeline = context.pipeline
        self.inbox = Inbox(context.app, context.logs, pipeline, partition)
        rows: RowCache | None = None
        self._disk: RocksRows | None = None
        if context.rows_folder is not None:
            self._disk = RocksRows.open_free(context.rows_folder, str(partition))
            rows = RowCache(self._disk, pipeline.state.cached_keys)
        self._flow = PartitionPipeline(
            pipeline,
            context.plan,
            partition,
            board=context.shared.board if context.shared is not None else None,
            rows=rows,
            directory=context.entities.directory if context.entities is not None else None,
            term_ms=context.now_ms(),
        )
        self._publisher = PartitionPublisher(
            context.kafka,
            context.group,
            f"{context.group}-{partition}",
            partition,
            interval_ms=pipeline.commit_interval_ms,
            compression=pipeline.compression,
            early=context.early,
        )
        self._wake = asyncio.Event()
        self._repartition = self._new_repartition_feed()
        self._outbox = Outbox(
            self._publisher,
            pipeline.topics,
            committed=self._on_committed,
            sent=self._wake.set,
            guard=self._guard,
        )
        #: Where scores of the partition are asked for.
        self.desk = PreviewDesk(
            pipeline,
            self._flow,
            models=lambda: context.shelf.champions,
            is_behind=lambda: self._flow_loop.is_behind,
            asked=context.asked,
            commits=Commits(
                pipeline, partition, lambda: self._flow.sent, context.send, context.commits, now_ms=context.now_ms
            ),
            make_room=lambda: self._flow_loop.make_room(),  # noqa: PLW0108  # it is made below
            now_ms=context.now_ms,
        )
        turn = partition / pipeline.partitions
        self._flow_loop = FlowLoop(
            context,
            self._flow,
            self.inbox,
            self._outbox,
            CommitTimer(pipeline.commit_interval_ms / 1000, turn, self._publisher.open),
            repartition=self._repartition,
            wake=self._wake,
        )
        #: Set by whoever runs `take_over` beside other work; `close` ends it.
        self.taking_over: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.is_started = False
        self._is_broken = False

    def _new_repartition_feed(self) -> RepartitionFeed | None:
        context, shared = self._context, self._flow.shared
        if shared is None or shared.repartition is None:
            return None
        return RepartitionFeed(
            context.kafka,
            context.pipeline,
            shared.repartition,
            self._wake.set,
            lambda why: context.fail(why, EXIT_RETRY),
            refusals=context.shelf.refusals,
            now_ms=context.now_ms,
        )

    async def take_over(self) -> None:
        """Fence the former owner and restore the state; UnusableInputError when the state is of other topics."""
        await self._publisher.start()
        if self._context.shared is not None:
            await self._context.shared.read_own(self.partition)
        await restore_state(self._flow, self._context)
        self._know_references()
        await restore_entities(self._flow, self._context)
        if self._repartition is not None:
            self._repartition.start()

    def offsets(self) -> dict[TP, int]:
        """Where the state says to go on reading."""
        position = self._flow.position()
        return self.inbox.place(position.events, position.labels)

    def begin_at(self, starts: Mapping[TP, int]) -> None:
        """Begin a partition that nobody has had at these offsets; the next commit holds them, and says so."""
        events, labels = starts[self.inbox.events], starts.get(self.inbox.labels)
        self._flow.begin_at(events, labels)
        self._flow_loop.news.begin_at(events, labels)

    def start(self) -> None:
        """Work on what is received."""
        self.is_started = True
        self.desk.commits.committed(self._flow.position().events or 0)
        self._flow_loop.is_stopping = False
        if self._context.shared is not None:
            self._context.shared.listen(self._wake.set)
        self._loops = [
            asyncio.create_task(self._guard(self._flow_loop.run()), name=f"work-{self.partition}"),
            asyncio.create_task(self._guard(self._outbox.publish()), name=f"publish-{self.partition}"),
        ]

    @property
    def is_serving(self) -> bool:
        """Whether its state is that of the partition, and stays so for now."""
        return self.is_started and not self._flow_loop.is_stopping and not self._is_broken

    async def park(self) -> bool:
        """Commit what was processed and stop; return whether `resume` is possible."""
        if not self.is_started:
            return False
        await self._flow_loop.stop()
        _, late = await asyncio.wait(self._loops, timeout=PARK_DEADLINE_S)
        if late:
            log.warning("Partition %s: no commit within %s s; it is read again", self.partition, PARK_DEADLINE_S)
            self._is_broken = True
        return not self._is_broken

    def resume(self, epoch: int) -> dict[TP, int]:
        """Go on after `park`, with the state as it is; return the offsets to read from.

        If another worker had the partition meanwhile, it has fenced this one, and the next commit fails.
        """
        self.epoch = epoch
        self.inbox.begin_anew()
        self.start()
        return dict(self.inbox.next_offsets)

    async def close(self) -> None:
        """End for good. An open transaction is aborted by the next owner, or when it times out."""
        if self._context.shared is not None:
            self._context.shared.listen_no_more(self._wake.set)
        self.desk.commits.close()
        running = [*self._loops, *self._outbox.tasks(), *([self.taking_over] if self.taking_over is not None else [])]
        for loop in running:
            loop.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._repartition is not None:
            await self._repartition.stop()
        await self._publisher.stop()
        if self._disk is not None:
            self._disk.close()

    # -- what it is told -----------------------------------------------------------------------------------------------

    def receive(self, fetched: Fetched) -> None:
        """Take a batch from the agent."""
        if self.inbox.put(fetched) == self.inbox.labels:
            now_ms = self._context.now_ms()
            self._flow.receive_labels(fetched.records, now_ms, clock_ms=now_ms)
        self.inbox.regulate(self._flow.merge)
        self._wake.set()

    def models_changed(self) -> None:
        """Look again: a model has come."""
        self._know_references()
        self._wake.set()

    def _know_references(self) -> None:
        for version, reference in self._context.shelf.references.items():
            self._flow.know(version, reference)

    async def _on_committed(self, cut: Cut, tally: Tally, position: int | None) -> None:
        context = self._context
        if position is not None:  # each cut says how far it has come
            self._flow.state_committed(position, context.now_ms())
        self._flow_loop.committed()
        events_end = cut.offsets.get(TopicPartition(*self.inbox.events))
        if events_end is not None:
            self.desk.commits.committed(events_end)
        context.progress.count(tally, cut, context.now_ms())
        await self._flow_loop.news.tell_serving(cut.first_offsets)

    # -- failures ------------------------------------------------------------------------------------------------------

    async def _guard(self, loop: Coroutine[None, None, None]) -> None:
        """Crash only: any error ends this worker's hold on the partition."""
        try:
            await loop
        except (TooManyDeadLettersError, OutputTooLargeError, StateDiskError) as error:
            self._break(str(error), EXIT_CONFIG)
        except PublishError as error:
            self._break(f"Partition {self.partition}: {error} It will be read again from the last commit.", EXIT_RETRY)
        except KAFKA_TROUBLE as error:
            why = describe_trouble(self._context.kafka, error)
            self._break(f"Partition {self.partition}: {why} It will be read again from the last commit.", EXIT_RETRY)
        except Exception as error:
            log.exception("Partition %s failed", self.partition)
            self._break(f"Partition {self.partition}: {error!r}", EXIT_RETRY)

    def _break(self, why: str, exit_code: int) -> None:
        self._is_broken = True
        if self._flow_loop.is_stopping and exit_code == EXIT_RETRY:
            # The partition is being taken away: its new owner may have fenced this one.
            log.warning("%s", why)
        else:
            self._context.fail(why, exit_code)
        for loop in self._loops:
            if loop is not asyncio.current_task():
                loop.cancel()
