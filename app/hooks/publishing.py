"""Writes what has become of deliveries: all of it in the transaction that commits the offsets."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from app.adapters.kafka.publisher import PartitionPublisher
from app.core.batches import Header
from app.core.hooks.alerts import alert_raised
from app.core.hooks.ledger import Changes
from app.core.hooks.requests import body_of
from app.hooks.context import SenderContext
from schemas.partitioning import partition_of
from schemas.wire import HookDelivery, encode_json


async def publish(publisher: PartitionPublisher, changes: Changes, partition: int, context: SenderContext) -> None:
    """Commit changes of a partition; `PublishError` when Kafka refuses: nothing of them counts then."""
    topics, now_ms = context.pipeline.topics, context.now_ms()
    parked = [(record.id.encode(), encode_json(record), now_ms) for record in changes.parked]
    settled = [(name.encode(), None, now_ms) for name in changes.settled]
    await publisher.send(topics.hooks_retry, [*parked, *settled])
    dead = [(record.id.encode(), encode_json(record), now_ms) for record in changes.dead]
    await publisher.send(topics.hooks_dead, dead)
    for delivery in changes.copies:
        topic = context.hooks[delivery.hook].topic
        key, value, headers = address(delivery.record)
        to = partition_of(key, context.partitions[topic])
        await publisher.send_copies(topic, to, [(key, value, now_ms, headers)])
    for state in changes.disabled:
        alert = alert_raised(context.pipeline, state)
        await publisher.send_copies(topics.hooks_state, 0, [(state.hook.encode(), encode_json(state), now_ms, [])])
        await publisher.send_copies(topics.alerts, 0, [(alert.model.encode(), encode_json(alert), now_ms, [])])
    offsets = {
        TopicPartition(topic, partition): OffsetAndMetadata(position, mark.encode(position))
        for topic, (position, mark) in changes.offsets.items()
    }
    await publisher.commit(offsets)


def address(record: HookDelivery) -> tuple[bytes, bytes, list[Header]]:
    """Key, value and headers of what a hook to Kafka tells."""
    return record.entity.encode(), body_of(record), [("webhook-id", record.id.encode())]
