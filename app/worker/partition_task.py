"""One input partition in the hands of a worker: two loops, so that neither waits for the other.

`_work` takes what was fetched and runs steps of the pure flow; an `Outbox` sends what they gave, and commits. It is
bounded. When a commit is due, `_work` puts a `Cut` into it: state, counts and offsets as they are after the steps
before it. While that is being committed, the next steps run; the transaction after it is the larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from faust.types import TP

from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble
from app.adapters.kafka.batch_app import BatchApp, Bounds, Fetched
from app.adapters.kafka.entity_feed import EntityFeed
from app.adapters.kafka.log_bounds import LogBounds
from app.adapters.kafka.publisher import OutputTooLargeError, PartitionPublisher, PublishError
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.rocks_rows import RocksRows, StateDiskError
from app.core.counts.sketches import split_record
from app.core.features.plan import FeaturePlan
from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.tiles.row_cache import RowCache
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.flow.step import Outgoing, Step
from app.kafka_access import KafkaAccess
from app.pipeline import STEP_EVENTS, PartitionPipeline
from app.worker.input_offsets import UnusableInputError
from app.worker.label_waits import LabelWaits
from app.worker.model_shelf import ModelShelf
from app.worker.outbox import Cut, Outbox, Progress, Tally
from app.worker.partition_inputs import PartitionInputs
from app.worker.repartition_feed import RepartitionFeed
from app.worker.shared_feed import SharedFeed
from app.worker.shared_waits import SharedWaits
from schemas.pipeline.spec import Pipeline
from schemas.wire import encode_packed

log = logging.getLogger("streamgauge.worker")

#: A partition is paused when more than this waits for its task, and resumed at half of it.
INBOX_BYTES = 8 << 20
#: Labels that may wait for their events before their partition is paused.
INBOX_LABELS = 100_000
#: How long a step should take at the most; slow models get smaller steps, so that other partitions have their turn.
STEP_S = 0.03
#: How long a partition that is being taken away may try to commit what it has.
PARK_DEADLINE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What a partition's task works with. ``fail`` ends the whole worker: why, and with which exit code.

    ``shared``: where windows are shared between partitions. ``early``: see `PartitionPublisher`.
    ``entities``: where events of entities that belong to another partition are refused.
    ``rows_folder``: where rows of windows are kept on disk; None: all are in memory.
    """

    pipeline: Pipeline
    plan: FeaturePlan
    kafka: KafkaAccess
    group: str
    app: BatchApp
    logs: LogBounds
    shelf: ModelShelf
    progress: Progress
    now_ms: Callable[[], int]
    fail: Callable[[str, int], None]
    shared: SharedFeed | None
    early: AIOKafkaProducer | None
    entities: EntityFeed | None
    rows_folder: Path | None = None


class PartitionTask:
    """From the fence of the former owner to the revocation of the partition."""

    def __init__(self, around: WorkerContext, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self._around = around
        self.inputs = PartitionInputs(around.app, around.logs, around.pipeline, partition)
        board = around.shared.board if around.shared is not None else None
        rows: RowCache | None = None
        self._disk: RocksRows | None = None
        if around.rows_folder is not None:
            self._disk = RocksRows.open_free(around.rows_folder, str(partition))
            rows = RowCache(self._disk, around.pipeline.state.cached_keys)
        self._flow = PartitionPipeline(
            around.pipeline,
            around.plan,
            partition,
            board=board,
            rows=rows,
            directory=around.entities.directory if around.entities is not None else None,
            term_ms=around.now_ms(),
        )
        self._publisher = PartitionPublisher(
            around.kafka,
            around.group,
            f"{around.group}-{partition}",
            partition,
            interval_ms=around.pipeline.commit_interval_ms,
            compression=around.pipeline.compression,
            early=around.early,
        )
        self._inbox: deque[Fetched] = deque()
        self._inbox_bytes = 0
        self._wake = asyncio.Event()
        self._repartition = self._new_feed()
        self._label_waits: LabelWaits | None = None
        if around.pipeline.labels is not None:
            self._label_waits = LabelWaits(
                self._flow, around.pipeline.labels, self.inputs, self._keep_promise, self._wake.set
            )
        self._waits = SharedWaits(
            self._flow, around.pipeline.shared, self._silent_until, self._bounds_of, self._wake.set
        )
        self._outbox = Outbox(
            self._publisher,
            around.pipeline.topics,
            committed=self._on_committed,
            sent=self._wake.set,
            guard=self._guard,
        )
        self._cut_at: float | None = None
        self._most = STEP_EVENTS
        #: Set by whoever runs `take_over` beside other work; `close` ends it.
        self.taking_over: asyncio.Task[None] | None = None
        self._loops: list[asyncio.Task[None]] = []
        self.is_started = False
        self._is_stopping = False
        self._is_broken = False
        #: What is to be said with the next commit on the status topic.
        self._statuses: list[tuple[int, bytes]] = []
        self._first_offsets: dict[str, int] = {}
        self._served: set[str] = set()

    # -- life --------------------------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Fence the former owner and restore the state; UnusableInputError when that is of other topics."""
        await self._publisher.start()
        if self._around.shared is not None:
            await self._around.shared.read_own(self.partition)
        now_ms = self._around.now_ms()
        reader = self._flow.state_reader(now_ms)
        state_topic = self._around.pipeline.topics.state

        def begin(first: int, end: int) -> int:
            return reader.open_snapshot(first, end, now_ms)

        async for batch in read_to_end(self._around.kafka, [state_topic], self.partition, begin):
            reader.take(batch, now_ms)
            for offset, error in reader.refused:
                self._around.shelf.refusals.note(batch.topic, batch.partition, offset, error)
            reader.refused.clear()
        restored = self._flow.go_on_from(reader)
        if restored.left_aside:
            log.warning("Partition %s: %s", self.partition, restored.left_aside)
        if self._flow.has_other_input:
            pipeline = self._around.pipeline
            now, before = ("on", "as they are sent") if pipeline.events.repartition else ("off", "by entity")
            raise UnusableInputError(
                f"repartition was switched {now} in [events] of {pipeline.path}, but {pipeline.name} has scored its"
                f" events {before}: they would be scored again, and the state is of other partitions. Switch it back,"
                " or give the pipeline a new name and topics, and send the events to these."
            )
        self._know_references()
        await self._restore_entities()
        if self._repartition is not None:
            self._repartition.start()

    async def _restore_entities(self) -> None:
        if self._around.entities is not None:
            await self._around.entities.is_read.wait()
        if self._flow.entities is not None:
            topic = self._around.pipeline.topics.entities
            read = read_to_end(self._around.kafka, [topic], self.partition)
            records = [pair async for batch in read for pair in zip(batch.keys, batch.values, strict=True)]
            latest_ms = self._flow.rules.latest_come_to_ms(self._around.now_ms())
            self._flow.entities.restore(((key, value) for key, value in records if key is not None), latest_ms)

    def resume(self, epoch: int) -> dict[TP, int]:
        """Go on after `park`, with the state as it is; the offsets to read from.

        If another worker had the partition meanwhile, it has fenced us, and the next commit fails.
        """
        self.epoch = epoch
        self.inputs.begin_anew()
        self.start()
        return dict(self.inputs.next_offsets)

    async def park(self) -> bool:
        """Commit what was processed and stand still; whether `resume` is possible."""
        if not self.is_started:
            return False
        self._is_stopping = True
        self._wake.set()
        await self._waits.stop()
        if self._label_waits is not None:
            await self._label_waits.stop()
        _, late = await asyncio.wait(self._loops, timeout=PARK_DEADLINE_S)
        if late:
            log.warning("Partition %s: no commit within %s s; it is read again", self.partition, PARK_DEADLINE_S)
            self._is_broken = True
        return not self._is_broken

    async def close(self) -> None:
        """End for good. An open transaction is aborted by whoever takes over, or by time."""
        if self._around.shared is not None:
            self._around.shared.listen_no_more(self._wake.set)
        running = [*self._loops, *self._outbox.tasks(), *([self.taking_over] if self.taking_over is not None else [])]
        for loop in running:
            loop.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._repartition is not None:
            await self._repartition.stop()
        await self._publisher.stop()
        if self._disk is not None:
            self._disk.close()

    def offsets(self) -> dict[TP, int]:
        """Where the state says to go on reading."""
        position = self._flow.position()
        ends = ((self.inputs.events, position.events), (self.inputs.labels, position.labels))
        return {tp: end for tp, end in ends if end is not None}

    def begin_at(self, starts: Mapping[TP, int]) -> None:
        """Begin at these offsets a partition that nobody has had; the next commit holds them, and says so."""
        events, labels = starts[self.inputs.events], starts.get(self.inputs.labels)
        self._flow.begin_at(events, labels)
        self._statuses.append((0, self._around.shelf.describe_beginning(self.partition, events, labels)))

    def receive(self, fetched: Fetched) -> None:
        """Take a batch from the agent."""
        if self.inputs.note(fetched) == self.inputs.labels:
            now_ms = self._around.now_ms()
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

    def start(self) -> None:
        """Work on what is received."""
        self.is_started = True
        self._is_stopping = False
        if self._around.shared is not None:
            self._around.shared.listen(self._wake.set)
        self._loops = [
            asyncio.create_task(self._guard(self._work()), name=f"work-{self.partition}"),
            asyncio.create_task(self._guard(self._outbox.publish()), name=f"publish-{self.partition}"),
        ]
        if self._statuses:
            self._cut_soon()
        self._wake.set()

    def _new_feed(self) -> RepartitionFeed | None:
        around, shared = self._around, self._flow.shared
        if shared is None or shared.repartition is None:
            return None
        return RepartitionFeed(
            around.kafka,
            around.pipeline,
            shared.repartition,
            self._wake.set,
            lambda why: around.fail(why, EXIT_RETRY),
            refusals=around.shelf.refusals,
            now_ms=around.now_ms,
        )

    def _know_references(self) -> None:
        for version, reference in self._around.shelf.references.items():
            self._flow.know(version, reference)

    async def _guard(self, loop: Coroutine[None, None, None]) -> None:
        """Crash only: whatever it was, this worker's hold on the partition is over."""
        try:
            await loop
        except (TooManyDeadLettersError, OutputTooLargeError, StateDiskError) as error:
            self._break(str(error), EXIT_CONFIG)
        except PublishError as error:
            self._break(f"Partition {self.partition}: {error} It will be read again from the last commit.", EXIT_RETRY)
        except KAFKA_TROUBLE as error:
            said = describe_trouble(self._around.kafka, error)
            self._break(f"Partition {self.partition}: {said} It will be read again from the last commit.", EXIT_RETRY)
        except Exception as error:
            log.exception("Partition %s failed", self.partition)
            self._break(f"Partition {self.partition}: {error!r}", EXIT_RETRY)

    def _break(self, why: str, exit_code: int) -> None:
        self._is_broken = True
        if self._is_stopping and exit_code == EXIT_RETRY:
            # The partition is being taken away: that its new owner has fenced us is in order.
            log.warning("%s", why)
        else:
            self._around.fail(why, exit_code)
        for loop in self._loops:
            if loop is not asyncio.current_task():
                loop.cancel()

    # -- the flow ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            step = self._next_step()
            if step is not None:
                self._hand_over(step)
            self._tell_others()
            if self._cut_at is not None and not self._outbox.is_cutting and _now() >= self._cut_at:
                self._cut()
            if step is None:
                self._look_at_waits()
                await self._wait()
            else:
                await asyncio.sleep(0)
        self._tell_others()  # what this worker's partitions have seen of this one is to be committed
        if self._cut_at is not None:
            self._cut()
        self._outbox.end()

    def _tell_others(self) -> None:
        """Let other partitions know how far this one has come: those of this worker now, all with the next commit."""
        if self._around.shared is not None and self._flow.shared is not None:
            self._around.shared.tell()
            if self._flow.shared.has_news:
                self._cut_soon()

    def _next_step(self) -> Step | None:
        around = self._around
        stale = self._label_waits.stale if self._label_waits is not None else range(0)
        while not self._outbox.is_full:
            self._flow.share(stale)
            started = _now()
            step = self._flow.step(around.shelf.champions, self._most, around.now_ms(), stale)
            if step is not None:
                self._adapt(len(step.events), _now() - started)
                return step
            if not self._inbox or self._flow.takes_no_more:
                return None
            fetched = self._inbox.popleft()
            self._inbox_bytes -= fetched.size_bytes
            self._flow.receive_events(fetched.records, clock_ms=around.now_ms())
            self._regulate()
        return None

    def _adapt(self, events: int, seconds: float) -> None:
        if seconds > STEP_S:
            self._most = max(1, int(events * STEP_S / seconds))
        elif events == self._most:
            self._most = min(STEP_EVENTS, 2 * self._most)

    def _hand_over(self, step: Step) -> None:
        self._cut_soon()
        for start, _, model in step.runs:
            if model.version not in self._served:
                self._served.add(model.version)
                self._first_offsets[model.version] = int(step.events.offsets[start])
        self._outbox.put(step)

    def _cut_soon(self) -> None:
        """Have what there is to commit wait for an interval at the most. Partitions take turns at the broker."""
        if self._cut_at is None:
            pipeline, now = self._around.pipeline, _now()
            interval = pipeline.commit_interval_ms / 1000
            phase = interval * self.partition / pipeline.partitions
            self._cut_at = now + (interval and interval - (now - phase) % interval)
            self._publisher.open()

    def _cut(self) -> None:
        now_ms = self._around.now_ms()
        sketch = self._flow.drain_sketch()
        parts: list[Outgoing] = []
        if sketch is not None:
            parts = [(None, encode_packed(part), now_ms) for part in split_record(sketch)]
        changes: list[Outgoing] = [(key, value, now_ms) for key, value in self._flow.drain_state()]
        offsets = {TopicPartition(*tp): end for tp, end in self.offsets().items()}
        shared: list[Outgoing] = [(key, value, now_ms) for key, value in self._flow.drain_shared()]
        entities: list[Outgoing] = [(key, value, now_ms) for key, value in self._flow.drain_entities()]
        repartition = self._flow.drain_repartition()
        late, labels = self._waits.count_late(), self._flow.labels.take_progress()
        statuses, self._statuses = self._statuses, []
        self._outbox.cut(
            Cut(parts, changes, shared, entities, repartition, statuses, offsets, self._first_offsets, late, labels)
        )
        self._first_offsets, self._cut_at = {}, None

    async def _on_committed(self, cut: Cut, tally: Tally, position: int | None) -> None:
        around = self._around
        if position is not None:  # each cut says how far it has come
            self._flow.state_committed(position, around.now_ms())
        if self._cut_at is not None:
            self._publisher.open()
        self._wake.set()
        around.progress.count(tally, cut, around.now_ms())
        for version, offset in cut.first_offsets.items():
            await around.shelf.tell_serving(version, self.partition, offset)

    async def _wait(self) -> None:
        left = None
        if self._cut_at is not None and not self._outbox.is_cutting:
            left = max(0.0, self._cut_at - _now())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), left)

    def _regulate(self) -> None:
        """Pause what there is enough of, resume what there is too little of."""
        merge = self._flow.merge
        self.inputs.regulate(self.inputs.events, self._inbox_bytes, INBOX_BYTES)
        # While events wait for labels, labels must come, however many are queued.
        self.inputs.regulate(self.inputs.labels, 0 if merge.holds_back else merge.queued_labels, INBOX_LABELS)

    # -- what cannot be known from the records alone -------------------------------------------------------------------

    def _look_at_waits(self) -> None:
        self._regulate()  # labels may have been applied since records came
        self._waits.look()
        if self._label_waits is not None:
            self._label_waits.look(is_ready=self._around.shelf.champions.is_ready(), is_empty=not self._inbox)

    def _keep_promise(self, until_ms: int) -> None:
        """When all events are processed, apply the labels up to a watermark record and say how far we are."""
        step = self._flow.keep_promise(until_ms, self._around.now_ms()) if not self._inbox else None
        if step is not None:
            self._hand_over(step)

    async def _silent_until(self, until_ms: int) -> int | None:
        """Up to when (``until_ms`` at the most) all of the topics has been received and merged; None: not known."""
        inputs = self.inputs
        has_all_labels = inputs.labels not in inputs.all or await inputs.is_at_its_end(inputs.labels)
        has_all_events = await inputs.is_at_its_end(inputs.events)
        if not has_all_events or self._inbox or self._flow.takes_no_more:
            return None
        return until_ms if has_all_labels else min(until_ms, self._flow.merge.newest_label_ms)

    async def _bounds_of(self, partition: int | None) -> Mapping[TP, Bounds]:
        """A partition's events, and how far they are scored; None: the questions, and how far they are answered."""
        if partition is not None:
            return await self._around.logs.bounds({TP(self._around.pipeline.topics.events, partition)})
        assert self._repartition is not None  # somebody waits for answers
        return await self._repartition.bounds()


def _now() -> float:
    return asyncio.get_running_loop().time()
