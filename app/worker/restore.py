"""Restores what the former owner of a partition had: its state, and which entities it has seen."""

from __future__ import annotations

import logging

from app.adapters.kafka.topic_reader import read_to_end
from app.pipeline import PartitionPipeline
from app.worker.context import WorkerContext
from app.worker.input_offsets import UnusableInputError

log = logging.getLogger("streamgauge.worker")


async def restore_state(flow: PartitionPipeline, context: WorkerContext) -> None:
    """Read the changelog of a partition to its end, and have its flow go on from there.

    Raises
    ------
    UnusableInputError
        When the state was computed from other topics.
    """
    pipeline, now_ms = context.pipeline, context.now_ms()
    reader = flow.state_reader(now_ms)

    def begin(first: int, end: int) -> int:
        return reader.open_snapshot(first, end, now_ms)

    async for batch in read_to_end(context.kafka, [pipeline.topics.state], flow.partition, begin):
        reader.take(batch, now_ms)
        for offset, error in reader.refused:
            context.shelf.refusals.note(batch.topic, batch.partition, offset, error)
        reader.refused.clear()
    restored = flow.go_on_from(reader)
    if restored.left_aside:
        log.warning("Partition %s: %s", flow.partition, restored.left_aside)
    if flow.has_other_input:
        switched, scored = ("on", "as they are sent") if pipeline.events.repartition else ("off", "by entity")
        raise UnusableInputError(
            f"repartition was switched {switched} in [events] of {pipeline.path}, but {pipeline.name} has scored its"
            f" events {scored}: they would be scored again, and the state is of other partitions. Switch it back,"
            " or give the pipeline a new name and topics, and send the events to these."
        )


async def restore_entities(flow: PartitionPipeline, context: WorkerContext) -> None:
    """Read which entities the partition has seen, once it is known where those of all partitions belong."""
    if context.entities is not None:
        await context.entities.is_read.wait()
    if flow.entities is not None:
        batches = read_to_end(context.kafka, [context.pipeline.topics.entities], flow.partition)
        records = [pair async for batch in batches for pair in zip(batch.keys, batch.values, strict=True)]
        latest_ms = flow.rules.latest_come_to_ms(context.now_ms())
        flow.entities.restore(((key, value) for key, value in records if key is not None), latest_ms)
