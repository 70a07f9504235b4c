"""Asks what logs hold now and how far a group has come in them, on a connection without fetches.

A broker answers one request of a connection at a time, and a fetch waits for records. Faust's consumer makes two calls
at a time: two that wait for a partition without a leader would hold up every fetch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from faust.types import TP

from app.adapters.kafka.clients import new_consumer
from app.kafka_access import KafkaAccess


class GroupBounds(NamedTuple):
    """Offsets of a partition: committed by the group (None: never), of the first record left, and after its last."""

    committed: int | None
    first: int
    end: int


class LogBounds:
    """Asks about a group without joining it. It reads nothing, so errors of the group end no reader."""

    def __init__(self, kafka: KafkaAccess, group: str) -> None:
        self._consumer = new_consumer(kafka, group)

    async def start(self) -> None:
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def end(self, tp: TP) -> int:
        """Offset after the last committed record of a partition."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets([TopicPartition(*tp)])
        return ends[TopicPartition(*tp)]

    async def ends(self, tps: Iterable[TP]) -> dict[TP, int]:
        """`end` of several partitions."""
        ends = await self._consumer.end_offsets([TopicPartition(*tp) for tp in tps])
        return {TP(*tp): end for tp, end in ends.items()}

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, GroupBounds]:
        """What partitions hold, and what the group has committed."""
        wanted = [TopicPartition(*tp) for tp in tps]
        firsts = await self._consumer.beginning_offsets(wanted)
        ends = await self._consumer.end_offsets(wanted)
        return {TP(*tp): GroupBounds(await self._committed(tp), firsts[tp], ends[tp]) for tp in wanted}

    async def commit(self, tp: TP, offset: int) -> None:
        """Commit for the group how far it has come in a partition; always the same partition."""
        place = TopicPartition(*tp)
        if place not in self._consumer.assignment():
            self._consumer.assign([place])
            self._consumer.pause(place)
        await self._consumer.commit({place: offset})

    async def _committed(self, tp: TopicPartition) -> int | None:
        try:
            committed: int | None = await self._consumer.committed(tp)
        except AssertionError as error:  # aiokafka raises it when its metadata knows no broker
            raise KafkaConnectionError from error
        return committed

    async def offsets_at(self, tps: Iterable[TP], time_ms: int) -> dict[TP, int]:
        """The first offset of each partition whose time stamp is not before a time, where there is one."""
        records = await self._consumer.offsets_for_times({TopicPartition(*tp): time_ms for tp in tps})
        return {TP(*tp): record.offset for tp, record in records.items() if record is not None}
