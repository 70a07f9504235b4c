"""Reads the records that senders keep: deliveries that are parked or dead, and hooks that are disabled."""

from __future__ import annotations

from app.adapters.kafka.refusals import Refusals
from app.adapters.kafka.topic_reader import read_to_end
from app.core.batches import RecordBatch
from app.core.records.hooks import read_delivery, read_state
from app.core.records.rules import check_readable
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import HookDelivery, HookState


def take_deliveries(batch: RecordBatch, topics: Topics, known: dict[str, HookDelivery], refusals: Refusals) -> None:
    """Add deliveries to those that are known, by id, and remove those that a tombstone says are settled."""
    for position, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        try:
            check_readable(batch, position)
            if value is None:
                known.pop((key or b"").decode(errors="replace"), None)
            else:
                record = read_delivery(topics, batch.partition, key, value)
                known[record.id] = record
        except RefusedRecordError as error:
            refusals.note(batch.topic, batch.partition, int(batch.offsets[position]), error)


def take_states(batch: RecordBatch, known: dict[str, HookState], refusals: Refusals) -> None:
    """Note which hooks are disabled, by name, and which no longer are."""
    for position, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        try:
            check_readable(batch, position)
            if value is None:
                known.pop((key or b"").decode(errors="replace"), None)
            else:
                state = read_state(key, value)
                known[state.hook] = state
        except RefusedRecordError as error:
            refusals.note(batch.topic, batch.partition, int(batch.offsets[position]), error)


async def read_deliveries(kafka: KafkaAccess, topics: Topics, topic: str) -> dict[str, HookDelivery]:
    """What a topic of deliveries holds now, by id; LookupError when there is no such topic."""
    known: dict[str, HookDelivery] = {}
    async for batch in read_to_end(kafka, [topic]):
        take_deliveries(batch, topics, known, Refusals())
    return known


async def read_states(kafka: KafkaAccess, pipeline: Pipeline) -> dict[str, HookState]:
    """The hooks that are disabled now, by name; LookupError when there is no such topic."""
    known: dict[str, HookState] = {}
    async for batch in read_to_end(kafka, [pipeline.topics.hooks_state]):
        take_states(batch, known, Refusals())
    return known
