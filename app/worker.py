"""The worker: a Faust app that gives each input partition a `PartitionTask`.

What the agent receives goes to the partition's task and never blocks Faust. Any error ends the worker's hold on
everything (crash only): the process exits with a code that tells its supervisor whether to start it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from faust.types import TP

from app.adapters.faust_batches import BatchApp, Fetched
from app.adapters.model_feed import ModelShelf
from app.adapters.shared_feed import SharedFeed
from app.adapters.sticky_assignor import StickyAssignor
from app.adapters.worker_http import Health
from app.core.features import FeaturePlan
from app.core.shared_board import SharedBoard
from app.core.state_log import UnreadableStateError
from app.partition_task import EXIT_CONFIG, EXIT_RETRY, PartitionTask, Progress, SkippedBatchError, Surroundings
from schemas.pipeline import Pipeline

log = logging.getLogger("streamgauge.worker")

Clock = Callable[[], int]


@dataclass(frozen=True)
class Membership:
    """How a worker is known to its group.

    ``instance``: a name that it keeps over restarts (None: none). ``session_s``: how long it may be silent before its
    partitions are given to others.
    """

    instance: str | None = None
    session_s: float = 6.0


class UnusableInputError(RuntimeError):
    """The topics are not what the committed offsets and the state belong to; a person must decide."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Worker:
    """A scoring process: Faust app, partition tasks and the shelf of verified models."""

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        bootstrap: str,
        shelf: ModelShelf,
        now_ms: Clock = wall_clock_ms,
        *,
        membership: Membership = Membership(),  # frozen
        skip_removed: bool = False,
    ) -> None:
        """See `app.cli.worker` for ``skip_removed``."""
        self.pipeline = pipeline
        self.shelf = shelf
        self.progress = Progress(last_commit_ms=now_ms())
        topics = [pipeline.topics.events] + ([pipeline.topics.labels] if pipeline.labels else [])
        group = f"streamgauge-{pipeline.name}"
        self.app = BatchApp(
            group,
            bootstrap,
            topics,
            self,
            sharing=StickyAssignor(),
            consumer_group_instance_id=membership.instance,
            broker_session_timeout=membership.session_s,
            broker_heartbeat_interval=membership.session_s / 4,
        )
        self._shared: SharedFeed | None = None
        if plan.shared:
            board = SharedBoard(plan.shared, range(pipeline.partitions))
            self._shared = SharedFeed(bootstrap, pipeline.topics.shared, board, lambda why: self.fail(why, EXIT_RETRY))
        self._around = Surroundings(
            pipeline, plan, bootstrap, group, self.app, shelf, self.progress, now_ms, self.fail, self._shared
        )
        self._skip_removed = skip_removed
        self.tasks: dict[int, PartitionTask] = {}
        #: Partitions that were revoked with their work committed: if they come back, they go on as they are.
        self._parked: dict[int, PartitionTask] = {}
        self.exit_code = 0
        self.failure = ""
        self.stopping = asyncio.Event()

    async def run(self) -> int:
        """Work until `stop` or a failure; the exit code."""
        await self.shelf.start(self._models_changed)
        await self.app.start()
        try:
            while not self.stopping.is_set():
                try:
                    await asyncio.wait_for(self.stopping.wait(), 0.5)
                except TimeoutError:
                    if self.app.crashed or self.app.should_stop:
                        self.fail(f"Faust stopped: {self.app.crash_reason!r}", EXIT_RETRY)
        finally:
            await self._shut_down()
        return self.exit_code

    def health(self) -> Health:
        """Live while commits keep up with what is received; ready with partitions and a model."""
        missing = [] if self.tasks else ["no partitions yet"]
        if not self.shelf.champions.is_ready():
            missing.append("no model: train and promote one with `streamgauge model`")
        return Health(
            live=not self.failure, ready=not missing and not self.failure, why=self.failure or "; ".join(missing)
        )

    def metrics(self) -> dict[str, float]:
        """Values of `app.adapters.worker_http.METRICS`."""
        progress = self.progress
        return {
            "streamgauge_events_total": progress.events,
            "streamgauge_scored_total": progress.scored,
            "streamgauge_dead_letters_total": progress.dead_letters,
            "streamgauge_stale_total": progress.stale,
            "streamgauge_shared_late_total": progress.shared_late,
            "streamgauge_commits_total": progress.commits,
            "streamgauge_partitions": len(self.tasks),
            "streamgauge_last_commit_timestamp_seconds": progress.last_commit_ms / 1000,
        }

    def stop(self) -> None:
        """Finish what is under way and return from `run`."""
        self.stopping.set()

    def fail(self, why: str, exit_code: int) -> None:
        """End the worker because of an error."""
        if not self.failure:
            self.failure, self.exit_code = why, exit_code
            log.error("%s", why)
        self.stopping.set()

    async def _shut_down(self) -> None:
        if self.exit_code == 0:
            await self._park(set(self.tasks))
        tasks = [*self.tasks.values(), *self._parked.values()]
        await asyncio.gather(*(task.close() for task in tasks), return_exceptions=True)
        self.tasks.clear()
        self._parked.clear()
        if self._shared is not None:
            await self._shared.stop()
        await self.app.stop()
        await self.shelf.stop()

    def _models_changed(self) -> None:
        for task in self.tasks.values():
            task.models_changed()

    # -- BatchHandler --------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        await self._park(set(self.tasks))
        parked, self._parked = self._parked, {}
        try:
            mine = self._check_assignment(partitions)
            offsets: dict[TP, int] = {}
            for partition in mine & parked.keys():
                self.tasks[partition] = task = parked.pop(partition)
                offsets |= task.resume(epoch)
            await asyncio.gather(*(task.close() for task in parked.values()))
            if self._shared is not None:
                await self._shared.own(mine)
            new = [PartitionTask(self._around, partition, epoch) for partition in sorted(mine - self.tasks.keys())]
            await asyncio.gather(*(task.take_over() for task in new))
            self.tasks |= {task.partition: task for task in new}
            offsets |= await self._starts(new, partitions)
        except (UnusableInputError, UnreadableStateError) as error:
            self.fail(str(error), EXIT_CONFIG)
            return None
        except Exception as error:  # crash only
            log.exception("The assignment failed")
            self.fail(f"Partitions could not be taken over: {error!r}", EXIT_RETRY)
            return None
        log.info("Partitions %s are ours; %s of them are new here", sorted(mine), len(new))
        return offsets

    async def revoked(self, partitions: set[TP]) -> None:
        await self._park({tp.partition for tp in partitions})

    def received(self, fetched: Fetched) -> None:
        task = self.tasks.get(fetched.records.partition)
        if task is None or task.epoch != fetched.epoch:
            return  # of an assignment that is over: it will be read again
        try:
            task.receive(fetched)
        except SkippedBatchError as error:
            self.fail(str(error), EXIT_RETRY)

    async def _park(self, partitions: set[int]) -> None:
        """Commit and stop the work on partitions; what cannot be resumed is closed."""
        tasks = [self.tasks.pop(partition) for partition in partitions if partition in self.tasks]
        for task, can_resume in zip(tasks, await asyncio.gather(*(task.park() for task in tasks)), strict=True):
            if can_resume:
                self._parked[task.partition] = task
            else:
                await task.close()

    def _check_assignment(self, partitions: set[TP]) -> set[int]:
        topics, expected = self.pipeline.topics, self.pipeline.partitions
        mine = {tp.partition for tp in partitions if tp.topic == topics.events}
        if beyond := sorted(partition for partition in mine if partition >= expected):
            raise UnusableInputError(
                f"{topics.events} has got partitions {beyond} beyond the {expected} of {self.pipeline.path}. Keys have "
                f"moved between partitions, and their state with them: give the pipeline a new name and topics of the "
                f"new size, and replay the events into it."
            )
        if self.pipeline.labels is not None:
            labels = {tp.partition for tp in partitions if tp.topic == topics.labels}
            if labels != mine:
                raise UnusableInputError(
                    f"Events partitions {sorted(mine)} came without their labels partitions {sorted(labels)}; "
                    f"give {topics.labels} as many partitions as {topics.events}."
                )
        return mine

    async def _starts(self, tasks: list[PartitionTask], partitions: set[TP]) -> dict[TP, int]:
        """Where the state of new tasks says to read from; refuses to go on over records that nobody has processed.

        State and committed offsets come from the same transactions. Kafka forgets the offsets of a group that was
        away for long (a week by default); the state does not.
        """
        known = {tp: offset for task in tasks for tp, offset in task.offsets().items()}
        mine = {task.partition for task in tasks}
        for tp, bounds in (await self.app.bounds({tp for tp in partitions if tp.partition in mine})).items():
            start = known.get(tp, bounds.committed)
            if bounds.committed not in {None, start}:
                raise UnusableInputError(
                    f"{tp.topic}[{tp.partition}]: the group's offset was moved to {bounds.committed}, but its state is "
                    f"of offset {start}; events would be counted twice or not at all. Move it back; to score events "
                    "again, use `streamgauge replay` or `backfill`."
                )
            if start is not None and start > bounds.end:
                raise UnusableInputError(
                    f"{tp.topic}[{tp.partition}] ends at offset {bounds.end}, before {start}, up to which it was "
                    "processed: the topic was made anew. Give the pipeline a new name, or restore the topic."
                )
            if start is not None and start < bounds.first:
                self._lost(tp, start, bounds.first)
                known[tp] = bounds.first
        return known

    def _lost(self, tp: TP, start: int, stop: int) -> None:
        gone = f"{tp.topic}[{tp.partition}]: offsets {start} to {stop - 1} were removed by retention before they were"
        if not self._skip_removed:
            raise UnusableInputError(
                f"{gone} processed. Start the worker with --skip-removed to go on at {stop} without them; raise "
                f"retention.ms of the topic to keep records for longer than workers may be down."
            )
        log.error("%s processed; going on at %s, as --skip-removed says", gone, stop)
