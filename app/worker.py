"""The worker: a Faust app that gives each input partition a task, a publisher and a `PartitionPipeline`.

What the agent receives goes to the partition's task and never blocks Faust. The task runs steps of the pure pipeline,
publishes them in a transaction, and commits by time. Any error ends the worker's hold on everything (crash only): the
process exits with a code that tells its supervisor whether to start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from aiokafka import TopicPartition
from faust.types import TP

from app.adapters.faust_batches import BatchApp, Fetched
from app.adapters.model_feed import ModelShelf
from app.adapters.publisher import OutputTooLargeError, PartitionPublisher
from app.adapters.topic_reader import read_to_end
from app.adapters.worker_http import Health
from app.core.features import FeaturePlan
from app.core.sketches import split_record
from app.drive import STEP_EVENTS
from app.pipeline import PartitionPipeline, Step, TooManyDeadLettersError
from schemas.pipeline import Pipeline
from schemas.wire import encode_packed

log = logging.getLogger("streamgauge.worker")

#: A partition is paused when more than this waits for its task, and resumed at half of it.
INBOX_BYTES = 8 << 20
#: Labels that may wait for their events before their partition is paused.
INBOX_LABELS = 100_000

EXIT_RETRY = 75
EXIT_CONFIG = 78

Clock = Callable[[], int]


class SkippedBatchError(RuntimeError):
    """Faust dropped a batch on its way to the agent; its events must be read again."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Progress:
    """What a worker has done since it started; the source of its metrics."""

    events: int = 0
    scored: int = 0
    dead_letters: int = 0
    stale: int = 0
    commits: int = 0
    last_commit_ms: int = 0


class PartitionTask:
    """One input partition in the hands of this worker: from its fence to its revocation."""

    def __init__(self, worker: Worker, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self._worker = worker
        topics = worker.pipeline.topics
        self._events_tp = TP(topics.events, partition)
        self._labels_tp = TP(topics.labels, partition)
        self._flow = PartitionPipeline(worker.pipeline, worker.plan, partition)
        self._publisher = PartitionPublisher(
            worker.bootstrap,
            worker.group,
            f"{worker.group}-{partition}",
            worker.pipeline.delivery,
            worker.app.commit_offsets,
        )
        self._inbox: deque[Fetched] = deque()
        self._inbox_bytes = 0
        self._received = {self._events_tp: 0, self._labels_tp: 0}
        self._paused: set[TP] = set()
        self._wake = asyncio.Event()
        self._commit_at = 0.0
        self._stale = range(0)
        self._promise_kept_ms: int | None = None
        self._resolving: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._first_offsets: dict[str, int] = {}
        self._served: set[str] = set()

    # -- life --------------------------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Fence the former owner, restore the state, start working."""
        await self._publisher.start()
        changes: list[tuple[bytes, bytes | None]] = []
        state_topic = self._worker.pipeline.topics.state
        async for batch in read_to_end(self._worker.bootstrap, [state_topic], self.partition):
            changes.extend((key, value) for key, value in zip(batch.keys, batch.values, strict=True) if key is not None)
        self._flow.restore(changes)
        self._know_references()
        self._running = asyncio.create_task(self._run(), name=f"partition-{self.partition}")

    async def let_go(self, *, finish: bool) -> None:
        """Stop. ``finish``: commit what was processed; otherwise the open transaction is left to be aborted."""
        self._is_stopping = True
        self._wake.set()
        if self._running is not None:
            if not finish:
                self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._resolving is not None:
            self._resolving.cancel()
            await asyncio.gather(self._resolving, return_exceptions=True)
        await self._publisher.stop()

    def receive(self, fetched: Fetched) -> None:
        """Take a batch from the agent."""
        tp = TP(fetched.records.topic, fetched.records.partition)
        if fetched.sequence != self._received[tp] + 1:
            raise SkippedBatchError(f"{tp} went from fetch {self._received[tp]} to {fetched.sequence}.")
        self._received[tp] = fetched.sequence
        if tp == self._labels_tp:
            now_ms = self._worker.now_ms()
            self._flow.receive_labels(fetched.records, now_ms, clock_ms=now_ms)
        else:
            self._inbox.append(fetched)
            self._inbox_bytes += fetched.size_bytes
        self._regulate()
        self._wake.set()

    def models_changed(self) -> None:
        """Look again: a model has come."""
        self._know_references()
        self._wake.set()

    def _know_references(self) -> None:
        for version, reference in self._worker.shelf.references.items():
            self._flow.know(version, reference)

    # -- work --------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._wake.clear()
                step = self._next_step()
                if step is not None:
                    await self._publish(step)
                is_due = self._publisher.is_open and asyncio.get_running_loop().time() >= self._commit_at
                if is_due:
                    await self._commit()
                if step is None and not is_due:
                    self._resolve_later()
                    await self._wait()
                else:
                    await asyncio.sleep(0)
            if self._publisher.is_open:
                await self._commit()
        except (TooManyDeadLettersError, OutputTooLargeError) as error:
            self._worker.fail(str(error), EXIT_CONFIG)
        except Exception as error:  # crash only: whatever it was, this hold on the partition is over
            log.exception("Partition %s failed", self.partition)
            self._worker.fail(f"Partition {self.partition}: {error!r}", EXIT_RETRY)

    def _next_step(self) -> Step | None:
        worker = self._worker
        while True:
            step = self._flow.step(worker.shelf.champions, STEP_EVENTS, worker.now_ms(), self._stale)
            if step is not None or not self._inbox or self._flow.merge.has_events:
                return step
            fetched = self._inbox.popleft()
            self._inbox_bytes -= fetched.size_bytes
            self._flow.receive_events(fetched.records, clock_ms=worker.now_ms())
            self._regulate()

    async def _publish(self, step: Step) -> None:
        topics, progress = self._worker.pipeline.topics, self._worker.progress
        if not self._publisher.is_open:
            await self._publisher.begin()
            interval_ms = self._worker.pipeline.commit_interval_ms
            self._commit_at = asyncio.get_running_loop().time() + interval_ms / 1000
        await self._publisher.send(topics.scores, self.partition, step.outgoing_scores)
        await self._publisher.send_letters(topics.dead_letters, self.partition, step.dead_letters)
        for start, _, model in step.runs:
            if model.version not in self._served:
                self._first_offsets.setdefault(model.version, int(step.events.offsets[start]))
        event_letters = sum(dead.stage != "label" for dead in step.dead_letters)
        progress.events += len(step.events) + event_letters
        progress.scored += len(step.events)
        progress.dead_letters += event_letters

    async def _commit(self) -> None:
        topics = self._worker.pipeline.topics
        sketch = self._flow.drain_sketch()
        if sketch is not None:
            now_ms = self._worker.now_ms()
            parts = [(None, encode_packed(part), now_ms) for part in split_record(sketch)]
            await self._publisher.send(topics.sketches, self.partition, parts)
        now_ms = self._worker.now_ms()
        changes = [(key, value, now_ms) for key, value in self._flow.drain_state()]
        await self._publisher.send(topics.state, self.partition, changes)
        position = self._flow.position()
        offsets = {}
        if position.events is not None:
            offsets[TopicPartition(*self._events_tp)] = position.events
        if position.labels is not None:
            offsets[TopicPartition(*self._labels_tp)] = position.labels
        await self._publisher.commit(offsets)
        self._worker.progress.commits += 1
        self._worker.progress.last_commit_ms = now_ms
        for version, offset in self._first_offsets.items():
            self._served.add(version)
            await self._worker.shelf.tell_serving(version, self.partition, offset)
        self._first_offsets.clear()

    async def _wait(self) -> None:
        left = None
        if self._publisher.is_open:
            left = max(0.0, self._commit_at - asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), left)

    def _regulate(self) -> None:
        """Pause what there is enough of, resume what there is too little of."""
        merge = self._flow.merge
        self._set_paused(self._events_tp, self._inbox_bytes, INBOX_BYTES)
        # While events wait for labels, labels must come, however many are queued.
        self._set_paused(self._labels_tp, 0 if merge.holds_back else merge.queued_labels, INBOX_LABELS)

    def _set_paused(self, tp: TP, waiting: int, limit: int) -> None:
        if waiting > limit and tp not in self._paused:
            self._paused.add(tp)
            self._worker.app.pause([tp])
        elif waiting <= limit // 2 and tp in self._paused:
            self._paused.discard(tp)
            self._worker.app.resume([tp])

    # -- what cannot be known from the records alone -------------------------------------------------------------------

    def _resolve_later(self) -> None:
        """Start finding out whether held-back events may go, or whether a promised watermark is reached."""
        if self._worker.pipeline.labels is None or (self._resolving is not None and not self._resolving.done()):
            return
        merge = self._flow.merge
        if merge.holds_back and self._worker.shelf.champions.is_ready():
            self._resolving = asyncio.create_task(self._release())
        elif not merge.has_events and not self._inbox:
            promised = merge.newest_watermark_record_ms()
            if promised is not None:
                self._resolving = asyncio.create_task(self._keep_promise(promised))

    async def _release(self) -> None:
        """Let events go once the labels topic is read to an end that was asked for after they had arrived."""
        merge, labels = self._flow.merge, self._worker.pipeline.labels
        assert labels is not None  # _resolve_later saw it
        received, taken = merge.events_received, merge.events_taken
        end = await self._worker.app.end_offset(self._labels_tp)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + labels.max_wait_ms / 1000
        while not await self._has_received(self._labels_tp, end):
            if loop.time() > deadline:
                log.warning("Partition %s: labels are late, %s events go without", self.partition, received - taken)
                self._stale = range(taken, received)
                self._worker.progress.stale += received - taken
                break
            await asyncio.sleep(0.005)
        merge.release(received)
        self._wake.set()

    async def _keep_promise(self, until_ms: int) -> None:
        """When all events are processed, apply the labels up to a watermark record and say how far we are."""
        end = await self._worker.app.end_offset(self._events_tp)
        if not await self._has_received(self._events_tp, end) or self._inbox or self._flow.merge.has_events:
            await asyncio.sleep(0.02)
            self._wake.set()
            return
        step = self._flow.keep_promise(until_ms, self._worker.now_ms())
        if step is not None:
            await self._publish(step)
        self._wake.set()

    async def _has_received(self, tp: TP, end: int) -> bool:
        app = self._worker.app
        return await app.read_to(tp, end) and app.fetches(tp) == self._received[tp]


class Worker:
    """A scoring process: Faust app, partition tasks and the shelf of verified models."""

    def __init__(
        self, pipeline: Pipeline, plan: FeaturePlan, bootstrap: str, shelf: ModelShelf, now_ms: Clock = wall_clock_ms
    ) -> None:
        self.pipeline = pipeline
        self.plan = plan
        self.bootstrap = bootstrap
        self.shelf = shelf
        self.now_ms = now_ms
        self.group = f"streamgauge-{pipeline.name}"
        self.progress = Progress(last_commit_ms=now_ms())
        topics = [pipeline.topics.events] + ([pipeline.topics.labels] if pipeline.labels else [])
        self.app = BatchApp(self.group, bootstrap, topics, self)
        self.tasks: dict[int, PartitionTask] = {}
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
        finish = self.exit_code == 0
        await asyncio.gather(*(task.let_go(finish=finish) for task in self.tasks.values()), return_exceptions=True)
        self.tasks.clear()
        await self.app.stop()
        await self.shelf.stop()

    def _models_changed(self) -> None:
        for task in self.tasks.values():
            task.models_changed()

    # -- BatchHandler --------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        topics = self.pipeline.topics
        mine = sorted(tp.partition for tp in partitions if tp.topic == topics.events)
        if self.pipeline.labels is not None:
            labels = sorted(tp.partition for tp in partitions if tp.topic == topics.labels)
            if labels != mine:
                self.fail(f"Events partitions {mine} came without their labels partitions {labels}.", EXIT_CONFIG)
                return None
        await self._drop(set(self.tasks))
        tasks = [PartitionTask(self, partition, epoch) for partition in mine]
        await asyncio.gather(*(task.take_over() for task in tasks))
        self.tasks = {task.partition: task for task in tasks}
        log.info("Partitions %s are ours", mine)
        return None

    async def revoked(self, partitions: set[TP]) -> None:
        await self._drop({tp.partition for tp in partitions})

    def received(self, fetched: Fetched) -> None:
        task = self.tasks.get(fetched.records.partition)
        if task is None or task.epoch != fetched.epoch:
            return  # of an assignment that is over: it will be read again
        try:
            task.receive(fetched)
        except SkippedBatchError as error:
            self.fail(str(error), EXIT_RETRY)

    async def _drop(self, partitions: set[int]) -> None:
        gone = [self.tasks.pop(partition) for partition in partitions if partition in self.tasks]
        await asyncio.gather(*(task.let_go(finish=False) for task in gone))
