"""Sends what was given up again, each once: what has arrived leaves ``<p>.hooks-dead``.

A delivery keeps its ``webhook-id``. If this is killed between an answer and the commit that notes it, the next one
sends it again under the same id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import IllegalOperation, KafkaError, ProducerFenced

from app.adapters.kafka.clients import new_producer
from app.adapters.webhooks.client import WebhookClient
from app.clock import wall_clock_ms
from app.core.hooks.alerts import alert_cleared
from app.exits import StackError
from app.hooks.courier import post
from app.hooks.hook_records import read_deliveries, read_states
from app.hooks.publishing import address
from app.hooks.targets import Outward, count_partitions, read_targets
from app.kafka_access import KafkaAccess
from schemas.partitioning import partition_of
from schemas.pipeline.spec import Pipeline
from schemas.wire import HookDelivery, encode_json

Clock = Callable[[], int]
#: Says which of what is dead is to be sent, given all of it by id.
Choose = Callable[[dict[str, HookDelivery]], list[HookDelivery]]

_TRANSACTION_TIMEOUT_MS = 60_000
#: After this many failures in a row, the rest of a hook is left.
_MOST_FAILURES = 5


@dataclass
class Resent:
    """What has become of deliveries: how many arrived, failed and were left by hook, and why the last one failed."""

    told: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    why: dict[str, str] = field(default_factory=dict)


class Resender:
    """Sends one delivery after the other."""

    def __init__(
        self, pipeline: Pipeline, client: WebhookClient, outward: Outward, producer: Any, *, now_ms: Clock
    ) -> None:
        self._pipeline = pipeline
        self._outward = outward
        self._client = client
        self._producer = producer
        self._now_ms = now_ms
        self._in_a_row: Counter[str] = Counter()

    async def send(self, dead: Iterable[HookDelivery]) -> Resent:
        """Send in the order of their records, those of one hook one after the other."""
        hooks = {hook.name: hook for hook in self._pipeline.hooks}
        result = Resent()
        for record in sorted(dead, key=lambda each: (each.source.topic, each.source.partition, each.source.offset)):
            name, hook = record.hook, hooks.get(record.hook)
            if hook is None or self._in_a_row[name] >= _MOST_FAILURES:
                result.left[name] += 1
                if hook is None:
                    result.why[name] = "The pipeline file has no such hook (any more)."
                continue
            if hook.form == "kafka":
                await self._note(record, copy_to=hook.topic)
                result.told[name] += 1
                continue
            answer = await post(self._client, hook, self._outward.targets[name], record, self._now_ms())
            if answer.outcome == "told":
                await self._note(record)
                result.told[name] += 1
                self._in_a_row[name] = 0
            else:
                result.failed[name] += 1
                result.why[name] = answer.why
                self._in_a_row[name] += 1
        return result

    async def _note(self, record: HookDelivery, copy_to: str = "") -> None:
        """In one transaction: the delivery is no longer dead, and a copy for a hook to Kafka."""
        async with self._producer.transaction():
            if copy_to:
                key, value, headers = address(record)
                to = partition_of(key, self._outward.partitions[copy_to])
                await self._producer.send(copy_to, value, key=key, partition=to, headers=headers)
            topic, partition = self._pipeline.topics.hooks_dead, record.source.partition
            await self._producer.send_and_wait(topic, None, key=record.id.encode(), partition=partition)


async def resend(pipeline: Pipeline, kafka: KafkaAccess, choose: Choose, now_ms: Clock = wall_clock_ms) -> Resent:
    """Send those that are chosen of what is dead.

    Raises
    ------
    StackError
        When one of their hooks is disabled or not set up, when Kafka refuses, or when another one has started.
    """
    partitions = await count_partitions(pipeline, kafka)
    outward = Outward(read_targets(pipeline), partitions)
    async with WebhookClient(pipeline.destinations) as client, _exclusive_producer(kafka, pipeline) as producer:
        dead = choose(await read_deliveries(kafka, pipeline.topics, pipeline.topics.hooks_dead))
        states = await read_states(kafka, pipeline)
        targets = outward.targets.items()
        off = {name for name, target in targets if name in states and states[name].destination == target.digest}
        if disabled := sorted({record.hook for record in dead} & off):
            raise StackError(
                f"The hook {disabled[0]} is disabled: mend its destination, then `streamgauge hooks enable"
                f" {disabled[0]}`."
            )
        return await Resender(pipeline, client, outward, producer, now_ms=now_ms).send(dead)


async def enable(pipeline: Pipeline, kafka: KafkaAccess, hook: str, by: str, now_ms: Clock = wall_clock_ms) -> bool:
    """Have senders use a hook again, and clear its alert; whether it was disabled."""
    async with _exclusive_producer(kafka, pipeline) as producer:
        state = (await read_states(kafka, pipeline)).get(hook)
        if state is None:
            return False
        alert = alert_cleared(pipeline, state, now_ms(), by)
        async with producer.transaction():
            await producer.send_and_wait(pipeline.topics.hooks_state, None, key=state.hook.encode(), partition=0)
            key, value = alert.model.encode(), encode_json(alert)
            await producer.send_and_wait(pipeline.topics.alerts, value, key=key, partition=0)
        return True


@asynccontextmanager
async def _exclusive_producer(kafka: KafkaAccess, pipeline: Pipeline) -> AsyncIterator[Any]:
    """A producer of transactions. Who enters later fences who is in, and only then reads what that one has noted."""
    producer = new_producer(
        kafka,
        transactional_id=f"streamgauge-{pipeline.name}-hooks-resend",
        transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
        max_request_size=4 << 20,
    )
    try:
        await producer.start()
        yield producer
    except LookupError as error:
        raise StackError(str(error)) from error
    except (ProducerFenced, IllegalOperation) as error:
        raise StackError(
            "Another `streamgauge hooks` command of this pipeline has started, and this one ends: look at what it did"
            " by `streamgauge hooks list`, and run this again."
        ) from error
    except KafkaError as error:
        raise StackError(f"Kafka at {kafka} takes no transaction: {error!r:.200}.") from error
    finally:
        await producer.stop()
