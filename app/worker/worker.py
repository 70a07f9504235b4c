"""The worker: a Faust app that gives each input partition a `PartitionTask`.

What the agent receives goes to the partition's task and never blocks Faust. Any error ends the worker's hold on
everything (crash only): the process exits with a code that tells its supervisor whether to start it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aiokafka import AIOKafkaProducer
from faust.types import TP

from app.adapters.http.worker import Health, Sample, refusal_samples
from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble, end_soon, fail_if_crashed, get_to_work
from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import Fetched, SkippedBatchError
from app.adapters.kafka.clients import new_bulk_producer, output_options
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.lag import worker_group
from app.adapters.kafka.log_bounds import GroupBounds, LogBounds
from app.adapters.kafka.once_sender import OnceSender
from app.adapters.kafka.sticky_assignor import StickyAssignor
from app.adapters.kafka.topic_reader import answers
from app.adapters.rocks_rows import StateDiskError
from app.clock import wall_clock_ms
from app.core.features.plan import FeaturePlan
from app.core.records.rules import RecordRules
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.kafka_access import KafkaAccess
from app.pipeline import new_board
from app.serving.commits import CommitCounts
from app.step_size import AskedLately
from app.worker.context import WorkerContext
from app.worker.input_offsets import Beginning, UnusableInputError, check_assignment, has_begun
from app.worker.model_shelf import ModelShelf
from app.worker.outbox import Progress
from app.worker.partition_task import PartitionTask
from app.worker.places import WorkerPlaces
from app.worker.router import Router
from app.worker.shared_feed import SharedFeed
from schemas.pipeline.spec import Pipeline

log = logging.getLogger("streamgauge.worker")

#: A rebalance takes seconds. A worker that waits longer for its end, while the broker answers, is stuck.
UNASSIGNED_S = 90.0


@dataclass(frozen=True)
class Membership:
    """How a worker is known to its group.

    ``instance``: a name that it keeps over restarts (None: none). ``session_s``: how long it may be silent before its
    partitions are given to others.
    """

    instance: str | None = None
    session_s: float = 6.0


class Worker:
    """A scoring process: Faust app, partition tasks and the shelf of verified models."""

    def __init__(
        self,
        pipeline: Pipeline,
        plan: FeaturePlan,
        kafka: KafkaAccess,
        shelf: ModelShelf,
        *,
        membership: Membership,
        beginning: Beginning,
        now_ms: Callable[[], int] = wall_clock_ms,
        rows_folder: Path | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.shelf = shelf
        self.progress = Progress(last_commit_ms=now_ms())
        topics = [pipeline.topics.events] + ([pipeline.topics.labels] if pipeline.labels else [])
        group = worker_group(pipeline.name)
        assignor = StickyAssignor()
        self.app = BatchApp(
            group,
            kafka,
            topics,
            self,
            sharing=assignor,
            consumer_group_instance_id=membership.instance,
            broker_session_timeout=membership.session_s,
            broker_heartbeat_interval=membership.session_s / 4,
        )
        early: AIOKafkaProducer | None = None
        if pipeline.delivery == "at_least_once":
            early = new_bulk_producer(kafka, **output_options(group, pipeline.compression))
        refuses = pipeline.watches_entities and pipeline.events.wrong_partition == "refuse"
        self._following: asyncio.Task[None] | None = None
        self._sender = OnceSender(kafka, pipeline)
        self._context = WorkerContext(
            pipeline=pipeline,
            plan=plan,
            kafka=kafka,
            group=group,
            app=self.app,
            logs=LogBounds(kafka, group),
            shelf=shelf,
            progress=self.progress,
            now_ms=now_ms,
            fail=self.fail,
            shared=self._new_shared_feed(plan, kafka, now_ms),
            early=early,
            entities=EntityFeed(kafka, pipeline, shelf.refusals) if refuses else None,
            asked=AskedLately(),
            send=self._sender,
            commits=CommitCounts(),
            rows_folder=rows_folder,
        )
        self._beginning = beginning
        self._router: Router | None = None
        if pipeline.events.repartition:
            self._router = Router(
                pipeline, kafka, now_ms, self.fail, session_s=membership.session_s, beginning=beginning
            )
            self._beginning = replace(beginning, at_ms=0)  # all that the router copies is scored
        self.tasks: dict[int, PartitionTask] = {}
        #: Partitions that were revoked with their work committed: if they come back, they go on as they are.
        self._parked: dict[int, PartitionTask] = {}
        #: Who serves which partition, for the scoring hook.
        self.places = WorkerPlaces(
            pipeline, self.app, assignor, self._context.entities, tasks=self.tasks, parked=self._parked
        )
        self._has_been_assigned = False
        self.exit_code = 0
        self.failure = ""
        self.stopping = asyncio.Event()

    def _new_shared_feed(self, plan: FeaturePlan, kafka: KafkaAccess, now_ms: Callable[[], int]) -> SharedFeed | None:
        """None when partitions share no windows."""
        board = new_board(plan, range(self.pipeline.partitions))
        if board is None:
            return None
        rules = RecordRules.of(self.pipeline)
        return SharedFeed(
            kafka,
            self.pipeline.topics.shared,
            board,
            lambda why: self.fail(why, EXIT_RETRY),
            refusals=self.shelf.refusals,
            latest_ms=lambda: rules.latest_come_to_ms(now_ms()),
        )

    async def run(self) -> int:
        """Work until `stop` or a failure; the exit code."""
        try:
            await get_to_work(self, self._context.kafka, self._start(), self._is_at_work)
            while not self.stopping.is_set():
                try:
                    await asyncio.wait_for(self.stopping.wait(), 0.5)
                except TimeoutError:
                    if fail_if_crashed(self, self._context.kafka):
                        continue
                    if self.app.unassigned_s() > UNASSIGNED_S and await answers(self._context.kafka):
                        self.fail(f"No partitions for {UNASSIGNED_S:.0f} s although Kafka is there.", EXIT_RETRY)
        finally:
            await self._shut_down()
            if self._following is not None:
                self._following.cancel()
                await asyncio.gather(self._following, return_exceptions=True)
        return self.exit_code

    async def _start(self) -> None:
        await self.shelf.start(self._models_changed, lambda why: self.fail(why, EXIT_RETRY))
        await self._context.logs.start()
        if self._context.early is not None:
            await self._context.early.start()
        if self._context.entities is not None:
            self._following = asyncio.create_task(self._follow(self._context.entities), name="entities")
        if self._router is not None:
            await self._router.start()
        await self.app.start()

    def _is_at_work(self) -> bool:
        return self._has_been_assigned and all(task.is_started for task in self.tasks.values())

    async def _follow(self, entities: EntityFeed) -> None:
        try:
            await entities.run()
        except Exception as error:  # crash only: without the topic, no event would be refused
            log.exception("Following %s failed", self.pipeline.topics.entities)
            self.fail(f"{self.pipeline.topics.entities} could not be followed: {error!r}", EXIT_RETRY)

    def health(self) -> Health:
        """Live while commits keep up with what is received; ready with partitions and a model."""
        missing = [] if self.tasks else ["no partitions yet"]
        if restoring := sorted(task.partition for task in self.tasks.values() if not task.is_started):
            missing.append(f"partitions {restoring} are being restored")
        if not self.shelf.champions.is_ready():
            missing.append("no model: train and promote one with `streamgauge model`")
        return Health(
            live=not self.failure, ready=not missing and not self.failure, why=self.failure or "; ".join(missing)
        )

    def samples(self) -> Iterator[Sample]:
        """Samples of `app.adapters.http.worker.METRICS`."""
        progress = self.progress
        values = {
            "streamgauge_events_total": progress.events,
            "streamgauge_scored_total": progress.scored,
            "streamgauge_unscored_total": progress.unscored,
            "streamgauge_dead_letters_total": progress.dead_letters,
            "streamgauge_stale_total": progress.stale,
            "streamgauge_shared_late_total": progress.shared_late,
            "streamgauge_wrong_partition_total": progress.wrong_partition,
            "streamgauge_labels_total": progress.labels,
            "streamgauge_labels_without_event_total": progress.labels_without_event,
            "streamgauge_routed_total": self._router.routed if self._router is not None else 0,
            "streamgauge_router_lag": self._router.lag if self._router is not None else 0,
            "streamgauge_commits_total": progress.commits,
            "streamgauge_hook_sent_total": self._context.commits.sent,
            "streamgauge_hook_differing_total": self._context.commits.differing,
            "streamgauge_partitions": sum(task.is_started for task in self.tasks.values()),
            "streamgauge_last_commit_timestamp_seconds": progress.last_commit_ms / 1000,
        }
        yield from (Sample(name, value, {}) for name, value in values.items())
        yield from refusal_samples("streamgauge_refused_total", self.shelf.refusals.by_topic())

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
        closing = [self.app.stop(), self._context.logs.stop(), self.shelf.stop(), self._sender.stop()]
        if self._context.early is not None:
            closing.insert(0, self._context.early.stop())
        if self._context.shared is not None:
            closing.insert(0, self._context.shared.stop())
        if self._router is not None:
            closing.insert(0, self._router.stop())
        await end_soon(*closing)

    def _models_changed(self) -> None:
        for task in self.tasks.values():
            task.models_changed()

    # -- BatchHandler --------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        """Go on at once with partitions that come back; pause the new ones, and take them over meanwhile."""
        await self._park(set(self.tasks))
        parked = dict(self._parked)
        self._parked.clear()
        offsets: dict[TP, int] = {}
        try:
            mine = check_assignment(self.pipeline, partitions)
            for partition in mine & parked.keys():
                self.tasks[partition] = task = parked.pop(partition)
                offsets |= task.resume(epoch)
            await asyncio.gather(*(task.close() for task in parked.values()))
            if self._context.shared is not None:
                await self._context.shared.own(mine)
        except UnusableInputError as error:
            self.fail(str(error), EXIT_CONFIG)
            return None
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._context.kafka, error)), EXIT_RETRY)
            return None
        new = mine - self.tasks.keys()
        self.app.pause(tp for tp in partitions if tp.partition in new)
        try:
            tasks = {partition: PartitionTask(self._context, partition, epoch) for partition in new}
        except StateDiskError as error:
            self.fail(str(error), EXIT_CONFIG)
            return None
        self.tasks |= tasks
        self._has_been_assigned = True
        for task in tasks.values():
            task.taking_over = asyncio.create_task(self._take_over(task))
        log.info("Partitions %s are ours; %s of them are new here", sorted(mine), len(new))
        return offsets

    async def _take_over(self, task: PartitionTask) -> None:
        """Fence, restore, and then ask where to read from: until it is fenced, the former owner may commit."""
        try:
            await task.take_over()
            bounds = await self._context.logs.bounds(task.inbox.all)
            begin = await self._find_begin(task, bounds)
            starts = self._beginning.choose_starts(task.offsets(), bounds, begin)
            if begin:
                task.begin_at(starts)
            await self.app.seek(starts)
            task.start()
            self.app.resume(starts)
        except (UnusableInputError, StateDiskError) as error:
            self.fail(str(error), EXIT_CONFIG)
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._context.kafka, error)), EXIT_RETRY)
        except Exception as error:  # crash only
            log.exception("Partition %s could not be taken over", task.partition)
            self.fail(f"Partition {task.partition} could not be taken over: {error!r}", EXIT_RETRY)

    async def _find_begin(self, task: PartitionTask, bounds: Mapping[TP, GroupBounds]) -> dict[TP, int]:
        """Where to begin by --from; nothing where it does not apply."""
        if not self._beginning.at_ms:
            return {}
        place = f"Partition {task.partition}"
        if has_begun(task.offsets(), bounds):
            log.info("%s goes on where its group is: --from is for a group without offsets", place)
            return {}
        begin = await self._beginning.find(self._context.logs, bounds)
        log.info("%s begins at %s, as --from says", place, {tp.topic: at for tp, at in sorted(begin.items())})
        return begin

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
        """Commit and stop the work on partitions; close those that cannot be resumed."""
        tasks = [self.tasks.pop(partition) for partition in partitions if partition in self.tasks]
        for task, can_resume in zip(tasks, await asyncio.gather(*(task.park() for task in tasks)), strict=True):
            if can_resume:
                self._parked[task.partition] = task
            else:
                await task.close()
