"""How far consumers are behind: asks the broker for committed offsets and for the ends of topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from app.adapters.kafka.clients import new_admin, new_consumer
from app.adapters.kafka.topic_reader import drain
from app.kafka_access import KafkaAccess


@dataclass(frozen=True)
class Position:
    """Next offset to handle of a partition, and the offset after its last committed record."""

    next_offset: int
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - self.next_offset)


def worker_group(pipeline: str) -> str:
    """The consumer group of a pipeline's workers."""
    return f"streamgauge-{pipeline}"


def router_group(pipeline: str) -> str:
    """The consumer group of a pipeline's routers (`app.worker.router`)."""
    return f"{worker_group(pipeline)}.router"  # a pipeline's name holds no dot, so no other pipeline has this group


async def read_commits(kafka: KafkaAccess, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """The offsets that a group has committed, with their metadata."""
    admin: Any = new_admin(kafka)
    try:
        await admin.start()
        commits: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group)
        return {tp: commit for tp, commit in commits.items() if commit.offset >= 0}
    finally:
        await admin.close()


class LagReader:
    """Asks a broker, without being a member of any group."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._admin: Any = new_admin(kafka)
        self._consumer: Any = new_consumer(kafka)
        #: As of the last call of `past_markers`: where each partition stood, and whether a record was left to handle.
        self._standing: dict[TP, tuple[Position, bool | None]] = {}

    async def start(self) -> None:
        await self._admin.start()
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def ends(self, tps: Sequence[TP]) -> dict[TP, int]:
        """Offsets after the last committed records."""
        ends = await self._consumer.end_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(tp.topic, tp.partition): end for tp, end in ends.items()}

    async def firsts(self, tps: Sequence[TP]) -> dict[TP, int]:
        """Offsets of the first records that are still there."""
        firsts = await self._consumer.beginning_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(tp.topic, tp.partition): first for tp, first in firsts.items()}

    async def members(self, group: str) -> int | None:
        """How many members this consumer group has now; None when the broker does not say."""
        (answer,) = await self._admin.describe_consumer_groups([group])
        error, _, _, _, _, members, *_ = answer.groups[0]
        return None if error else len(members)

    async def positions(self, group: str, tps: Sequence[TP]) -> dict[TP, Position]:
        """Where a consumer group is; a partition without a commit counts from the first record that is still there."""
        partitions = [TopicPartition(*tp) for tp in tps]
        committed = await self._admin.list_consumer_group_offsets(group)
        first = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return {
            TP(tp.topic, tp.partition): Position(committed[tp].offset if tp in committed else first[tp], ends[tp])
            for tp in partitions
        }

    async def past_markers(self, positions: Mapping[TP, Position]) -> dict[TP, Position]:
        """The same positions; one with only markers and aborted records of transactions before the end is moved to it.

        A position that moves is right by itself. Only partitions whose position is that of the last call are read.
        """
        known, self._standing = self._standing, {}
        for tp, position in positions.items():
            place, holds_record = known.get(tp, (None, None))
            if place == position and position.lag and holds_record is None:
                holds_record = await self._holds_record(tp, position)
            self._standing[tp] = position, holds_record if place == position else None
        return {
            tp: Position(position.end, position.end) if self._standing[tp][1] is False else position
            for tp, position in positions.items()
        }

    async def _holds_record(self, tp: TP, position: Position) -> bool:
        try:
            async with aclosing(
                drain(self._consumer, {TopicPartition(*tp): (position.next_offset, position.end)})
            ) as rest:
                async for batch in rest:
                    return int(batch.offsets[0]) < position.end
            return False
        finally:
            self._consumer.unsubscribe()
