"""What logs hold now, and how far a group has come in them, asked on a connection where no fetch is in the way.

A broker answers one request of a connection at a time, and a fetch waits for records. And Faust's consumer works off
two calls at a time: two that wait for a partition without a leader would hold up every fetch.
"""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka import TopicPartition
from faust.types import TP

from app.adapters.faust_batches import Bounds
from app.adapters.lean_consumer import LeanConsumer
from app.adapters.topic_reader import new_consumer


class LogBounds:
    """Asks for a group, which it does not join."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._consumer = new_consumer(bootstrap, group)

    async def start(self) -> None:
        await self._consumer.start()

    async def stop(self) -> None:
        await self._consumer.stop()

    async def end(self, tp: TP) -> int:
        """Offset after the last committed record of a partition."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets([TopicPartition(*tp)])
        return ends[TopicPartition(*tp)]

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, Bounds]:
        """What partitions hold, and what the group has committed."""
        return await ask_bounds(self._consumer, tps)

    async def offsets_at(self, tps: Iterable[TP], time_ms: int) -> dict[TP, int]:
        """The first record of each partition whose time stamp is not before a time; none where there is none yet."""
        found = await self._consumer.offsets_for_times({TopicPartition(*tp): time_ms for tp in tps})
        return {TP(*tp): at.offset for tp, at in found.items() if at is not None}


async def ask_bounds(consumer: LeanConsumer, tps: Iterable[TP]) -> dict[TP, Bounds]:
    """What partitions hold, and what the consumer's group has committed."""
    wanted = [TopicPartition(*tp) for tp in tps]
    firsts = await consumer.beginning_offsets(wanted)
    ends = await consumer.end_offsets(wanted)
    return {TP(*tp): Bounds(await consumer.committed(tp), firsts[tp], ends[tp]) for tp in wanted}
