"""The sender: a Faust app that reads what a pipeline publishes, and tells it by hooks.

Each partition has a `PartitionTask`, each hook over HTTP a queue and a `Courier`. Any error ends the process (crash
only), with a code that tells its supervisor whether to start it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress

from faust.types import TP

from app.adapters.http.hooks import hook_samples
from app.adapters.http.worker import Health, Sample, refusal_samples
from app.adapters.kafka.answers import KAFKA_TROUBLE, describe_trouble, end_soon, fail_if_crashed, get_to_work
from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import Fetched, SkippedBatchError
from app.adapters.kafka.log_bounds import LogBounds
from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.sticky_assignor import StickyAssignor
from app.adapters.kafka.topic_reader import answers, follow
from app.adapters.webhooks.client import WebhookClient
from app.clock import wall_clock_ms
from app.core.hooks.delivery import Delivery
from app.core.hooks.ledger import Ledger
from app.core.hooks.queue import HookQueue
from app.core.hooks.selection import Selection
from app.exits import EXIT_RETRY, StackError
from app.hooks.context import Counts, Pace, SenderContext
from app.hooks.courier import Courier
from app.hooks.hook_records import take_states
from app.hooks.partition_task import PartitionTask
from app.hooks.starts import Beginning
from app.hooks.targets import Outward
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.wire import HookState

log = logging.getLogger("streamgauge.hooks")

#: A rebalance takes seconds. A sender that waits longer for its end, while the broker answers, is stuck.
UNASSIGNED_S = 90.0
#: How often what has waited for too long is parked, and who waits for room looks again.
_HOUSEKEEPING_S = 0.25


def sender_group(pipeline: str) -> str:
    """The consumer group of a pipeline's senders."""
    return f"streamgauge-{pipeline}-hooks"


class HookSender:
    """A sending process: the `BatchHandler` of its Faust app.

    Parameters
    ----------
    client
        In its context for as long as this runs.
    instance
        A name that this sender keeps over restarts; None: none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        kafka: KafkaAccess,
        client: WebhookClient,
        outward: Outward,
        *,
        beginning: Beginning,
        pace: Pace,
        instance: str | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        selection, targets = Selection(pipeline), outward.targets
        group = sender_group(pipeline.name)
        self.app = BatchApp(
            group, kafka, selection.topics, self, sharing=StickyAssignor(), consumer_group_instance_id=instance
        )
        ledgers: dict[int, Ledger] = {}
        queues = {name: HookQueue(pace.schedule, ledgers.__getitem__) for name in targets}
        self._context = SenderContext(
            pipeline=pipeline,
            kafka=kafka,
            group=group,
            app=self.app,
            logs=LogBounds(kafka, group),
            pace=pace,
            beginning=beginning,
            selection=selection,
            refusals=Refusals(),
            queues=queues,
            ledgers=ledgers,
            partitions=outward.partitions,
            counts=Counts(),
            now_ms=now_ms,
            fail=self.fail,
            notice=self._notice_couriers,
        )
        self._couriers = [
            Courier(
                self._context.hooks[name],
                target,
                client,
                self._context,
                on_gone=self._on_gone,
                on_landed=self._on_landed,
            )
            for name, target in targets.items()
        ]
        self._targets = targets
        self._tasks: dict[int, PartitionTask] = {}
        self._background: list[asyncio.Task[None]] = []
        self._states_are_read = asyncio.Event()
        self._has_been_assigned = False
        self.exit_code = 0
        self.failure = ""
        self.stopping = asyncio.Event()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Work until `stop` or a failure; the exit code."""
        try:
            await get_to_work(self, self._context.kafka, self._start(), self._is_at_work)
            while not self.stopping.is_set():
                await self._keep_house()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), _HOUSEKEEPING_S)
        finally:
            await self._shut_down()
        return self.exit_code

    async def _start(self) -> None:
        await self._context.logs.start()
        self._background.append(asyncio.create_task(self._guard(self._follow_states()), name="hooks-state"))
        self._background += [
            asyncio.create_task(self._guard(courier.run()), name=f"hook-{courier.hook.name}")
            for courier in self._couriers
        ]
        await self._states_are_read.wait()
        await self.app.start()

    def _is_at_work(self) -> bool:
        return self._has_been_assigned and all(task.is_started for task in self._tasks.values())

    async def _keep_house(self) -> None:
        context, now_ms = self._context, self._context.now_ms()
        if fail_if_crashed(self, context.kafka):
            return
        for queue in context.queues.values():
            queue.tidy(now_ms)
        for task in self._tasks.values():
            task.notice()
        if self.app.unassigned_s() > UNASSIGNED_S and await answers(context.kafka):
            self.fail(f"No partitions for {UNASSIGNED_S:.0f} s although Kafka is there.", EXIT_RETRY)

    def stop(self) -> None:
        """Finish what is under way and return from `run`."""
        self.stopping.set()

    def fail(self, why: str, exit_code: int) -> None:
        """End the sender because of an error."""
        if not self.failure:
            self.failure, self.exit_code = why, exit_code
            log.error("%s", why)
        self.stopping.set()

    async def _shut_down(self) -> None:
        await self._let_go(self._context.pace.let_go_s if not self.failure else 0)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await end_soon(self.app.stop(), self._context.logs.stop())

    # -- BatchHandler --------------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[TP], epoch: int) -> dict[TP, int] | None:
        """Take over partitions, which are paused meanwhile."""
        await self._let_go(self._context.pace.let_go_s)
        topics: dict[int, set[TP]] = {}
        for tp in partitions:
            topics.setdefault(tp.partition, set()).add(tp)
        self.app.pause(partitions)
        self._tasks = {k: PartitionTask(self._context, k, epoch, frozenset(tps)) for k, tps in topics.items()}
        self._has_been_assigned = True
        for task in self._tasks.values():
            task.taking_over = asyncio.create_task(self._take_over(task))
        log.info("Partitions %s are ours", sorted(self._tasks))
        return None

    async def _take_over(self, task: PartitionTask) -> None:
        try:
            starts = await task.take_over()
            await self.app.seek(starts)
            task.start()
            self.app.resume(starts)
            self._notice_couriers()
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._context.kafka, error)), EXIT_RETRY)
        except StackError as error:
            self.fail(str(error), error.exit_code)
        except Exception as error:  # crash only
            log.exception("Partition %s could not be taken over", task.partition)
            self.fail(f"Partition {task.partition} could not be taken over: {error!r}", EXIT_RETRY)

    async def revoked(self, partitions: set[TP]) -> None:  # noqa: ARG002  # all of them, each time
        await self._let_go(self._context.pace.let_go_s)

    def received(self, fetched: Fetched) -> None:
        task = self._tasks.get(fetched.records.partition)
        if task is None or task.epoch != fetched.epoch:
            return  # of an assignment that is over: it will be read again
        try:
            task.receive(fetched)
        except SkippedBatchError as error:
            self.fail(str(error), EXIT_RETRY)

    async def _let_go(self, within_s: float) -> None:
        """Wait for what is under way, commit what has become of it, and give all partitions up."""
        tasks, self._tasks = list(self._tasks.values()), {}
        if not tasks:
            return
        await asyncio.gather(*(courier.pause(within_s) for courier in self._couriers))
        await asyncio.gather(*(task.stop() for task in tasks))
        await asyncio.gather(*(task.close() for task in tasks), return_exceptions=True)

    # -- what couriers and others say ----------------------------------------------------------------------------------

    def _notice_couriers(self) -> None:
        """There may be something to carry, once all partitions have read what their former owners had."""
        if self._tasks and all(task.has_caught_up for task in self._tasks.values()):
            for courier in self._couriers:
                courier.resume()

    def _on_landed(self, partition: int) -> None:
        task = self._tasks.get(partition)
        if task is not None:
            task.notice()

    def _on_gone(self, delivery: Delivery, why: str) -> None:
        """Disable the hook whose destination is gone, here and in all senders."""
        context, now_ms = self._context, self._context.now_ms()
        log.error("Hook %s is disabled: %s", delivery.hook, why)
        state = HookState(delivery.hook, now_ms, self._targets[delivery.hook].digest, why)
        ledger = context.ledgers.get(delivery.partition)
        if ledger is not None:  # otherwise its next owner will be told the same
            ledger.disable(state)
        context.queues[delivery.hook].disable(why, now_ms)

    async def _follow_states(self) -> None:
        """Have queues do as ``<p>.hooks-state`` says, whoever wrote it."""
        context = self._context
        known: dict[str, HookState] = {}
        async for batch in follow(context.kafka, context.pipeline.topics.hooks_state):
            if batch is None:
                self._states_are_read.set()
                continue
            take_states(batch, known, context.refusals)
            for name, queue in context.queues.items():
                state = known.get(name)
                is_disabled = state is not None and state.destination == self._targets[name].digest
                if state is not None and is_disabled and not queue.disabled:
                    log.error("Hook %s is disabled: %s", name, state.why)
                    queue.disable(state.why or "It is disabled.", context.now_ms())
                elif not is_disabled and queue.disabled and self._states_are_read.is_set():
                    log.info("Hook %s is enabled", name)
                    queue.enable()
            self._notice_couriers()

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except KAFKA_TROUBLE as error:
            self.fail(str(describe_trouble(self._context.kafka, error)), EXIT_RETRY)
        except Exception as error:  # crash only
            log.exception("A task failed")
            self.fail(f"A defect of this program: {error!r}", EXIT_RETRY)

    # -- what it says of itself ----------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Ready when it has taken over its partitions, or stands by because others have them all."""
        missing = [] if self._has_been_assigned else ["no partitions yet"]
        if waiting := sorted(task.partition for task in self._tasks.values() if not task.is_started):
            missing.append(f"partitions {waiting} are being taken over")
        return Health(
            live=not self.failure, ready=not missing and not self.failure, why=self.failure or "; ".join(missing)
        )

    def samples(self) -> Iterator[Sample]:
        """Samples of `app.adapters.http.hooks.METRICS`."""
        context, now_ms = self._context, self._context.now_ms()
        counts = context.counts
        yield from hook_samples("streamgauge_hooks_told_total", counts.told)
        yield from (
            Sample("streamgauge_hooks_tries_total", n, {"hook": hook, "outcome": outcome})
            for (hook, outcome), n in sorted(counts.tries.items())
        )
        yield from hook_samples("streamgauge_hooks_dead_total", counts.dead)
        queues = context.queues.items()
        yield from hook_samples("streamgauge_hooks_waiting", {name: len(queue) for name, queue in queues})
        yield from hook_samples("streamgauge_hooks_parked", {name: queue.n_parked for name, queue in queues})
        oldest = {name: queue.oldest_parked_ms() for name, queue in queues}
        ages = {name: (now_ms - since_ms) / 1000 if since_ms is not None else 0 for name, since_ms in oldest.items()}
        yield from hook_samples("streamgauge_hooks_oldest_parked_seconds", ages)
        yield from hook_samples("streamgauge_hooks_under_way", {name: queue.n_under_way for name, queue in queues})
        yield from hook_samples("streamgauge_hooks_disabled", {name: bool(queue.disabled) for name, queue in queues})
        yield Sample("streamgauge_hooks_held_bytes", sum(queue.size_bytes for _, queue in queues), {})
        yield Sample("streamgauge_hooks_partitions", sum(task.is_started for task in self._tasks.values()), {})
        yield Sample("streamgauge_hooks_commits_total", counts.commits, {})
        yield from refusal_samples("streamgauge_hooks_refused_total", context.refusals.by_topic())
