"""What a worker's clock decides about windows that partitions share: when a silent one is idle, when waiting ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.pipeline import PartitionPipeline
from schemas.pipeline import Shared

log = logging.getLogger("streamgauge.worker")

_LOOK_S = 0.05


class SharedWaits:
    """The waits of one partition: of others for it while it is silent, and of its events for others.

    Parameters
    ----------
    is_idle
        Asks whether all that the partition's topics hold now has been merged.
    wake
        Has the partition's task look again.
    """

    def __init__(
        self,
        flow: PartitionPipeline,
        times: Shared,
        is_idle: Callable[[], Awaitable[bool]],
        wake: Callable[[], None],
    ) -> None:
        self._flow = flow
        self._times = times
        self._is_idle = is_idle
        self._wake = wake
        self._moving_on: asyncio.Task[None] | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._late = 0

    def look(self) -> None:
        """Start what has become due; the flow has nothing to do at the moment."""
        shared = self._flow.shared
        if shared is None:
            return
        if _is_over(self._moving_on) and not self._flow.takes_no_more and shared.others_ms is not None:
            self._moving_on = asyncio.create_task(self._move_on(shared.others_ms))
        if _is_over(self._giving_up) and shared.is_blocked:
            self._giving_up = asyncio.create_task(self._give_up())

    def count_late(self) -> int:
        """Contributions since the last call to tiles that others may have read before."""
        if self._flow.shared is None:
            return 0
        before, self._late = self._late, self._flow.shared.contributor.late
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
        """When the partition stays silent, take it to have nothing before ``until_ms``, which others had reached."""
        received = self._flow.merge.events_received
        await asyncio.sleep(self._times.idle_ms / 1000)
        if await self._is_idle() and self._flow.merge.events_received == received:
            self._flow.come_to(until_ms)
        self._wake()

    async def _give_up(self) -> None:
        """Let the held events go when what they wait for has not moved for too long."""
        shared, loop = self._flow.shared, asyncio.get_running_loop()
        assert shared is not None  # look saw it
        awaited, moved_at = shared.awaited, loop.time()
        while shared.is_blocked:
            if shared.awaited != awaited:
                awaited, moved_at = shared.awaited, loop.time()
            elif loop.time() > moved_at + self._times.max_wait_ms / 1000:
                log.warning(
                    "Partition %s: %s for %s ms; %s events go without",
                    self._flow.partition,
                    awaited[0],
                    self._times.max_wait_ms,
                    shared.held.events,
                )
                shared.held.release(shared.held.received)
                break
            await asyncio.sleep(_LOOK_S)
        self._wake()


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
