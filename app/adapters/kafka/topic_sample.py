"""Reads the newest records of a pipeline's inputs, for a look at their keys."""

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from app.adapters.kafka.clients import new_consumer
from app.adapters.kafka.topic_reader import drain, partitions_of
from app.core.batches import RecordBatch
from app.core.entities.key_sample import Sample, Seen
from app.core.intake.decode import EventDecoder, LabelDecoder
from app.exits import StackError
from app.kafka_access import KafkaAccess
from schemas.pipeline.spec import Pipeline

#: Records read of all partitions of a topic together, and the least of each partition.
_RECORDS = 20_000
_LEAST = 50


async def read_sample(kafka: KafkaAccess, pipeline: Pipeline) -> Sample:
    """The newest events and labels of each partition that can be decoded; `StackError` when Kafka does not answer."""
    consumer = new_consumer(kafka)
    decode_events, decode_labels = EventDecoder(pipeline.events).decode, LabelDecoder(pipeline).decode
    sent = pipeline.topics.sent_events
    topics = [sent] + ([pipeline.topics.sent_labels] if pipeline.labels is not None else [])
    sample = Sample([], [], pipeline.partitions)
    try:
        await consumer.start()
        for topic in topics:
            tps = await partitions_of(consumer, topic)
            most = max(_LEAST, _RECORDS // len(tps))
            firsts, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            stretches: dict[TopicPartition, tuple[int, int]] = {
                tp: (max(firsts[tp], ends[tp] - most), ends[tp]) for tp in tps
            }
            async for batch in drain(consumer, stretches):
                if topic == sent:
                    events, _ = decode_events(batch)
                    keys = _keys_at(batch, events.offsets.tolist())
                    sample.events.extend(
                        Seen(batch.partition, key, event_id, entity)
                        for key, event_id, entity in zip(keys, events.event_id, events.entity, strict=True)
                    )
                else:
                    labels, refused = decode_labels(batch)
                    sample.nameless_labels += sum(rejection.reason == "no_entity" for rejection in refused)
                    sample.labels.extend(
                        Seen(batch.partition, key, event_id)
                        for key, event_id in zip(labels.key, labels.event_id, strict=True)
                        if event_id  # a watermark record is of no event
                    )
    except (KafkaError, LookupError) as error:
        raise StackError(f"The topics could not be read ({error!r:.200}): check that Kafka runs.") from error
    finally:
        await consumer.stop()
    return sample


def _keys_at(batch: RecordBatch, offsets: list[int]) -> list[bytes | None]:
    keys = dict(zip(batch.offsets.tolist(), batch.keys, strict=True))
    return [keys[offset] for offset in offsets]
