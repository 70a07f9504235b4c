"""Users' questions from an event loop: only so many run or wait at a time, and none run for those who have gone."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from app.ports import JsonRows, Warehouse, WarehouseError

log = logging.getLogger("streamgauge.reads")

#: How often a question is told to stop until it has: the first time, it may not have begun yet.
_STOP_AGAIN_S = 0.25
_STOP_DEADLINE_S = 10.0


class BusyError(WarehouseError):
    """There is too much to do: ask again after ``retry_after_s``."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("Too many queries run and wait already: ask again soon.", retryable=True)
        self.retry_after_s = retry_after_s


class ReadPool:
    """Asks a `Warehouse` in threads of its own, beside whoever writes.

    Parameters
    ----------
    running
        Questions that run at a time; each holds its place until its answer has been sent.
    waiting
        Questions that wait for a place; one more is refused.
    patience_s
        How long one waits.
    """

    def __init__(
        self, warehouse: Warehouse, *, running: int, waiting: int, patience_s: float = 10.0, name: str = "read"
    ) -> None:
        self._warehouse = warehouse
        self._places = asyncio.Semaphore(running)
        self._running = running
        self._most_waiting = waiting
        self._waiting = 0
        self._patience_s = patience_s
        self._threads = ThreadPoolExecutor(running, f"warehouse-{name}")
        #: One more thread, for when all the others are at work.
        self._stopping = ThreadPoolExecutor(1, f"warehouse-{name}-stop")
        self._marks: set[str] = set()
        self._ends: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def answer(self, sql: str, limit: int, *, as_objects: bool = False) -> AsyncIterator[JsonRows]:
        """Give the answer of a question that only reads; `WarehouseError`, or `BusyError` before it has begun.

        When the caller is cancelled, the question is stopped.
        """
        await self._take_place()
        mark = uuid.uuid4().hex
        self._marks.add(mark)
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: self._warehouse.query_readonly(sql, limit, as_objects=as_objects, mark=mark)
        )
        try:
            rows = await asyncio.shield(work)
        except asyncio.CancelledError:
            end = asyncio.create_task(self._stop(work, mark))
            self._ends.add(end)
            end.add_done_callback(self._ends.discard)
            raise
        except BaseException:
            self._leave_place(mark)
            raise
        try:
            yield rows
        finally:
            self._leave_place(mark)

    async def close(self) -> None:
        """Stop what runs, and let go of the threads."""
        for mark in tuple(self._marks):
            await self._stop_once(mark)
        if self._ends:
            await asyncio.wait(self._ends, timeout=_STOP_DEADLINE_S)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._stopping.shutdown(wait=False)

    async def _take_place(self) -> None:
        if self._places.locked() and self._waiting >= self._most_waiting:
            raise BusyError(self._patience_s / 2)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise BusyError(self._patience_s) from None
        finally:
            self._waiting -= 1

    def _leave_place(self, mark: str) -> None:
        self._marks.discard(mark)
        self._places.release()

    async def _stop(self, work: asyncio.Future[JsonRows], mark: str) -> None:
        """Stop a question whose asker has gone; it holds its place until it has ended."""
        try:
            while not work.done():
                await self._stop_once(mark)
                await asyncio.wait([work], timeout=_STOP_AGAIN_S)
            work.exception()
        finally:
            self._leave_place(mark)

    async def _stop_once(self, mark: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._stopping, self._warehouse.stop, mark)
        except WarehouseError as error:
            log.debug("A query could not be stopped, and runs until its time limit: %s", error)
