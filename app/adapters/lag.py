"""How far consumers are behind: offsets committed by the workers, and the ends of topics, asked of the broker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from faust.types import TP

from app.adapters.topic_reader import new_consumer


@dataclass(frozen=True)
class Position:
    """Next offset to handle of a partition, and the offset after its last committed record."""

    next_offset: int
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - self.next_offset)


class LagReader:
    """Asks a broker; it is no member of any group."""

    def __init__(self, bootstrap: str) -> None:
        self._admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._consumer: Any = new_consumer(bootstrap)

    async def start(self) -> None:
        await self._admin.start()
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def ends(self, tps: Sequence[TP]) -> dict[TP, int]:
        """Offsets after the last committed records."""
        found = await self._consumer.end_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(tp.topic, tp.partition): end for tp, end in found.items()}

    async def firsts(self, tps: Sequence[TP]) -> dict[TP, int]:
        """Offsets of the first records that are still there."""
        found = await self._consumer.beginning_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(tp.topic, tp.partition): first for tp, first in found.items()}

    async def positions(self, group: str, tps: Sequence[TP]) -> dict[TP, Position]:
        """Where a consumer group is; what it never committed counts from the first record that is still there."""
        partitions = [TopicPartition(*tp) for tp in tps]
        committed = await self._admin.list_consumer_group_offsets(group)
        first = await self._consumer.beginning_offsets(partitions)
        ends = await self._consumer.end_offsets(partitions)
        return {
            TP(tp.topic, tp.partition): Position(committed[tp].offset if tp in committed else first[tp], ends[tp])
            for tp in partitions
        }
