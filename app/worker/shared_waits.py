"""What a worker's clock decides about windows that partitions share: when a silent one is idle, when waiting ends.

A partition that has something left to read is waited for however long it takes: should its owner be gone, the group
gives it to another. Waiting ends for one that has read all there is and still does not come on (docs/adr/0030).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiokafka.errors import KafkaError
from faust.types import TP

from app.adapters.kafka.log_bounds import Bounds
from app.adapters.patience import Patience
from app.pipeline import PartitionPipeline
from schemas.pipeline.spec import Shared

log = logging.getLogger("streamgauge.worker")


class SharedWaits:
    """The waits of one partition: of others for it while it is silent, and of its events for others.

    Parameters
    ----------
    silent_until
        Asks up to when the partition is known to have nothing that is not merged; None: it is not known.
    bounds
        Asks what the logs hold that a partition (None: whoever answers) reads, and how far it has come in them.
    wake
        Has the partition's task look again.
    """

    def __init__(
        self,
        flow: PartitionPipeline,
        times: Shared,
        silent_until: Callable[[int], Awaitable[int | None]],
        bounds: Callable[[int | None], Awaitable[Mapping[TP, Bounds]]],
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
        """When the partition stays silent, take it to have nothing before ``until_ms``, which others had reached."""
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

    def __init__(self, bounds: Callable[[], Awaitable[Mapping[TP, Bounds]]]) -> None:
        self._bounds = bounds
        self._ends: dict[TP, int] | None = None

    async def is_none(self) -> bool:
        found = await self._bounds()
        if self._ends is None:
            self._ends = {tp: bounds.end for tp, bounds in found.items()}
        return all(max(found[tp].first, found[tp].committed or 0) >= end for tp, end in self._ends.items())


def _is_over(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
