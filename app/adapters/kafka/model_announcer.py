"""Writes the model timeline to its topic, and reads it back."""

from __future__ import annotations

from dataclasses import dataclass

from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_consumer, new_producer
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.kafka.topics_admin import ensure_topics
from app.exits import StackError
from app.kafka_access import KafkaAccess
from models.versions.timeline import Timeline
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import ModelUpdate, decode_json, encode_json


@dataclass(frozen=True)
class ReadTimeline:
    """The timeline as the topic has it now; ``unreadable``: offsets of records that are no model updates."""

    timeline: Timeline
    unreadable: tuple[int, ...]


def announcement_key(update: ModelUpdate) -> bytes:
    """Return a key of this step alone: compaction must keep all steps, which say what each version scored."""
    return f"{update.model}|{update.version}|{update.role}|{update.announced_at_ms}".encode()


async def announce(kafka: KafkaAccess, topics: Topics, update: ModelUpdate) -> int:
    """Append an update to the timeline, creating the topic when it is missing; returns its offset.

    Returns after all in-sync replicas have it. StackError when the servers cannot be reached or refuse, or when
    workers would refuse the record.
    """
    try:
        decode_json(encode_json(update), ModelUpdate)
    except RefusedRecordError as error:
        raise StackError(f"Workers would refuse the update of {update.model} {update.version}: {error}.") from error
    await ensure_topics(kafka, [topic for topic in topics.all() if topic.name == topics.model_updates])
    producer = new_producer(kafka)
    try:
        await producer.start()
        sent = await producer.send_and_wait(
            topics.model_updates, encode_json(update), key=announcement_key(update), partition=0
        )
    except (KafkaError, OSError) as error:
        raise StackError(f"The update of {update.model} {update.version} was not announced: {error}.") from error
    finally:
        await producer.stop()
    offset: int = sent.offset
    return offset


async def read_timeline(kafka: KafkaAccess, topics: Topics) -> ReadTimeline:
    """Read the committed records of the topic from the beginning to its present end.

    A record that is not a model update is passed over: it must not stop a roll back. A missing topic is an empty
    timeline.
    """
    timeline = Timeline()
    try:
        if not await _topic_exists(kafka, topics.model_updates):
            return ReadTimeline(timeline, ())
    except (KafkaError, OSError) as error:
        raise StackError(f"Kafka at {kafka} does not answer: {error}.") from error
    unreadable: list[int] = []
    try:
        async for batch in read_to_end(kafka, [topics.model_updates]):
            for offset, value in zip(batch.offsets.tolist(), batch.values, strict=True):
                if value is None:
                    continue
                try:
                    timeline.observe(decode_json(value, ModelUpdate))
                except RefusedRecordError:
                    unreadable.append(offset)
    except (KafkaError, OSError) as error:
        raise StackError(f"The timeline on {topics.model_updates} could not be read: {error}.") from error
    return ReadTimeline(timeline, tuple(unreadable))


async def _topic_exists(kafka: KafkaAccess, topic: str) -> bool:
    """Ask for the list of topics: aiokafka takes 40 s to answer for a missing topic by name."""
    consumer = new_consumer(kafka)
    try:
        await consumer.start()
        return topic in await consumer.topics()
    finally:
        await consumer.stop()
