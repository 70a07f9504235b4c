"""What a worker's clock decides about shared windows: when a silent partition is idle, and when waiting for one ends.

A partition that has something left to read is waited for, however long it takes: if its owner is gone, the group gives
it to another worker. Waiting ends for a partition that has read all there is and still does not move (docs/adr/0030).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiokafka.errors import KafkaError
from faust.types import TP

from app.adapters.kafka.log_bounds import GroupBounds
from app.adapters.patience import Patience
from app.pipeline import PartitionPipeline
from schemas.pipeline.spec import Shared

log = logging.getLogger("streamgauge.worker")


class SharedWaits:
    """The waits of one partition: others wait for it while it is silent, and its events wait for others.

    Parameters
    ----------
    silent_until
        Says up to which time everything of the partition is known to be merged; None: it is not known.
    bounds
        Says what the logs of a partition hold and how far it has read them; for None, the logs of those who answer.
    wake
        Has the partition's task look again.
    """

    def __init__(
        self,
        flow: PartitionPipeline,
        times: Shared,
        silent_until: Callable[[int], Awaitable[int | None]],
        bounds: Callable[[int | None], Awaitable[Mapping[TP, GroupBounds]]],
        wake: Callable[[], None],
    ) -> None:
        self._flow = flow
        self._times = times
        self._silent_until = silent_until
        self._bounds = bounds
        self._wake = wake
        self._moving_on: asyncio.Task[None] | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._late = 0

    def look(self) -> None:
        """Start what has become due; called when the flow has nothing to do."""
        shared = self._flow.shared
        if shared is None:
            return
        if _is_over(self._moving_on) and not self._flow.takes_no_more and shared.others_ms is not None:
            self._moving_on = asyncio.create_task(self._move_on(shared.others_ms))
        if _is_over(self._giving_up) and shared.is_blocked:
            self._giving_up = asyncio.create_task(self._give_up())

    def count_late(self) -> int:
        """How many contributions since the last call came to tiles that others may have read before."""
        if self._flow.shared is None:
            return 0
        before, self._late = self._late, self._flow.shared.late
        if self._late > before:
            log.warning(
                "Partition %s: %s events or labels came later than the delay of the shared windows allows; scores "
                "meanwhile did not count them. Raise the delay, or shared.idle",
                self._flow.partition,
                self._late - before,
            )
        return self._late - before

    async def stop(self) -> None:
        tasks = [task for task in (self._moving_on, self._giving_up) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _move_on(self, until_ms: int) -> None:
        """If the partition stays silent, take it to have nothing before ``until_ms``, which others have reached."""
        received = self._flow.merge.events_received
        try:
            await asyncio.sleep(self._times.idle_ms / 1000)
            silent_ms = await self._silent_until(until_ms)
            if silent_ms is not None and self._flow.merge.events_received == received:
                self._flow.come_to(silent_ms)
        except KafkaError as error:
            log.debug("Partition %s: it is not known whether it is silent: %r", self._flow.partition, error)
        finally:
            self._wake()  # it looks again

    async def _give_up(self) -> None:
        """Let the held events go when waiting is in vain."""
        try:
            await self._wait()
        finally:
            self._wake()  # it looks again

    async def _wait(self) -> None:
        shared, patience = self._flow.shared, Patience(self._times.max_wait_ms)
        assert shared is not None  # look saw it
        awaited, unread = shared.awaited, self._unread(shared.awaited[0])
        while shared.is_blocked:
            if shared.awaited != awaited:
                awaited, unread = shared.awaited, self._unread(shared.awaited[0])
            elif await patience.is_over(awaited, unread.is_none):
                log.warning(
                    "Partition %s: %s for %s ms; %s events go without",
                    self._flow.partition,
                    "answers about its keys have not come"
                    if awaited[0] is None
                    else f"partition {awaited[0]} has read all there is and not moved",
                    self._times.max_wait_ms,
                    shared.give_up(),
                )
                break
            await asyncio.sleep(patience.look_s)

    def _unread(self, partition: int | None) -> _Unread:
        return _Unread(partial(self._bounds, partition))


class _Unread:
    """Whether a reader has come to the ends of its logs, as they were when this was first asked."""

    def __init__(self, bounds: Callable[[], Awaitable[Mapping[TP, GroupBounds]]]) -> None:
        self._bounds = bounds
        self._ends: dict[TP, int] | None = None

    async def is_none(self) -> bool:
        bounds = await self._bounds()
        if self._ends is None:
            self._ends = {tp: bound.end for tp, bound in bounds.items()}
        return all(max(bounds[tp].first, bounds[tp].committed or 0) >= end for tp, end in self._ends.items())


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
