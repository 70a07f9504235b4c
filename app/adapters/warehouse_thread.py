"""The warehouse from an event loop: one thread for all that writes, one for users' queries, and patience."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from app.ports import QueryResult, Warehouse, WarehouseError

T = TypeVar("T")

log = logging.getLogger("streamgauge.warehouse")

_CLOSE_DEADLINE_S = 10.0


class WarehouseThread:
    """Calls a `Warehouse` in threads of its own.

    A call that failed and may succeed later is repeated, for ever, waiting twice as long each time: whoever calls must
    bound what piles up behind it.

    Parameters
    ----------
    warehouse
        Used by nobody else.
    first_wait_s, longest_wait_s
        Pauses between two tries.
    """

    def __init__(self, warehouse: Warehouse, *, first_wait_s: float = 0.2, longest_wait_s: float = 5.0) -> None:
        #: What is wrong with the warehouse now; empty when the last call went well.
        self.error = ""
        self._warehouse = warehouse
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._writing = ThreadPoolExecutor(1, "warehouse-write")
        self._reading = ThreadPoolExecutor(1, "warehouse-read")
        self._giving_up = asyncio.Event()

    async def open(self, deadline_s: float) -> list[str]:
        """Wait until the warehouse answers and bring its tables up to date; the migrations applied."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._warehouse.wait_ready, deadline_s)
        return await loop.run_in_executor(self._writing, self._warehouse.migrate)

    async def call(self, run: Callable[[Warehouse], T]) -> T:
        """Run in the writing thread until it succeeds; `WarehouseError` when trying again is of no use."""
        wait_s = self._first_wait_s
        while True:
            try:
                result = await asyncio.get_running_loop().run_in_executor(self._writing, run, self._warehouse)
            except WarehouseError as error:
                self._note(str(error))
                if not error.retryable or self._giving_up.is_set():
                    raise
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._giving_up.wait(), wait_s)
                wait_s = min(2 * wait_s, self._longest_wait_s)
            else:
                self._note("")
                return result

    async def ask(self, sql: str, limit: int) -> QueryResult:
        """Answer a query that only reads, beside the writing."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, self._warehouse.query_readonly, sql, limit
        )

    def give_up(self) -> None:
        """From now on a call that fails is not repeated."""
        self._giving_up.set()

    async def close(self) -> None:
        """Let go of the warehouse, unless it hangs."""
        self.give_up()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(self._reading, lambda: None), _CLOSE_DEADLINE_S)
            await asyncio.wait_for(loop.run_in_executor(self._writing, self._warehouse.close), _CLOSE_DEADLINE_S)
        self._reading.shutdown(wait=False)
        self._writing.shutdown(wait=False)

    def _note(self, error: str) -> None:
        if error != self.error:
            if error:
                log.warning("Writing to ClickHouse fails and is tried again: %s", error)
            else:
                log.info("Writing to ClickHouse works again.")
            self.error = error
