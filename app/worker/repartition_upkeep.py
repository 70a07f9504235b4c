"""What the owner of keys does beside answering: it says how far it has answered, and deletes what nobody needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable

from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError
from faust.types import TP

from app.adapters.kafka.clients import new_admin
from app.adapters.kafka.log_bounds import GroupBounds, LogBounds
from app.kafka_access import KafkaAccess
from app.worker.pace import clock_s

log = logging.getLogger("streamgauge.worker")

#: How often it says how far it has answered.
_SAY_S = 1.0


class _Occasional:
    """Work in a task of its own: at most once in an interval, and not while the last of it is under way."""

    def __init__(self, interval_s: float, first_s: float) -> None:
        self._interval_s = interval_s
        self._due_at = clock_s() + first_s
        self._task: asyncio.Task[None] | None = None

    def start_if_due(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        if clock_s() > self._due_at and (self._task is None or self._task.done()):
            self._due_at = clock_s() + self._interval_s
            self._task = asyncio.create_task(work())

    async def stop(self, within_s: float = 0.0) -> None:
        """End what is under way, after waiting ``within_s`` for it to end by itself."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=within_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class AnsweredMark:
    """Says up to where questions are answered, by the offsets of a group that serves nothing else.

    Parameters
    ----------
    group
        Name of that group.
    topic
        Of the questions.
    partition
        Whose questions are answered here.
    """

    def __init__(self, kafka: KafkaAccess, group: str, topic: str, partition: int, partitions: Iterable[int]) -> None:
        self._logs = LogBounds(kafka, group)
        self._is_connected = asyncio.Event()
        self._mine = TP(topic, partition)
        self._all = [TP(topic, number) for number in partitions]
        self._said = 0
        self._saying = _Occasional(_SAY_S, first_s=0.0)

    async def start(self) -> None:
        await self._logs.start()
        self._is_connected.set()

    async def stop(self) -> None:
        """Disconnect, after the last commit has arrived."""
        await self._saying.stop(within_s=_SAY_S)
        await self._logs.stop()

    async def bounds(self) -> dict[TP, GroupBounds]:
        """What the questions' topic holds, all partitions, and how far each has been answered."""
        await self._is_connected.wait()
        return await self._logs.bounds(self._all)

    def move(self, offset: int) -> None:
        """All questions before an offset are answered, except those that wait for an input partition."""
        if offset > self._said:
            self._saying.start_if_due(lambda: self._say(offset))

    async def _say(self, offset: int) -> None:
        try:
            await self._logs.commit(self._mine, offset)
            self._said = offset
        except KafkaError as error:
            log.debug("Repartition %s: could not say how far it is: %r", self._mine.partition, error)


class LogSweeper:
    """Deletes the records of logs that nobody needs any more; when that fails, the logs are only larger.

    Parameters
    ----------
    interval_s
        How often, in seconds.
    """

    def __init__(self, kafka: KafkaAccess, interval_s: float) -> None:
        self._kafka = kafka
        self._deleted: dict[TopicPartition, int] = {}
        self._sweeping = _Occasional(interval_s, first_s=interval_s)

    async def stop(self) -> None:
        await self._sweeping.stop()

    def sweep_if_due(self, find_needed: Callable[[], dict[TopicPartition, int | None]]) -> None:
        """Delete what is before the first offset needed of each log (None: nothing is), when it is time for that."""
        self._sweeping.start_if_due(lambda: self._sweep(find_needed()))

    async def _sweep(self, needed: dict[TopicPartition, int | None]) -> None:
        offsets = {tp: offset for tp, offset in needed.items() if offset and offset > self._deleted.get(tp, 0)}
        if not offsets:
            return
        admin = new_admin(self._kafka)
        try:
            await admin.start()
            await admin.delete_records({tp: RecordsToDelete(offset) for tp, offset in offsets.items()})
            self._deleted |= offsets
        except KafkaError as error:
            log.warning("Old records of %s were not deleted: %r", " and ".join(tp.topic for tp in offsets), error)
        finally:
            await admin.close()
