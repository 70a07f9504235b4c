"""The warehouse from an event loop: one thread for all that writes, and patience."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from app.ports import FencedError, Warehouse, WarehouseError

T = TypeVar("T")

log = logging.getLogger("streamgauge.warehouse")

_CLOSE_DEADLINE_S = 10.0
#: Between two sentences about what fails.
_SAY_AGAIN_S = 60.0


class WarehouseThread:
    """Calls a `Warehouse` in a thread of its own.

    A call that failed and may succeed later is repeated, for ever, waiting twice as long each time: whoever calls must
    bound what piles up behind it.

    Parameters
    ----------
    warehouse
        Used by nobody else, except by those who only ask.
    first_wait_s, longest_wait_s
        Pauses between two tries.
    clock
        Seconds that only go forward.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        *,
        first_wait_s: float = 0.2,
        longest_wait_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: What is wrong with the warehouse now; empty when the last call went well.
        self.error = ""
        #: Calls that failed since the start.
        self.failures = 0
        self._warehouse = warehouse
        self._first_wait_s = first_wait_s
        self._longest_wait_s = longest_wait_s
        self._clock = clock
        self._down_since: float | None = None
        self._said_at: float | None = None
        self._is_said = False
        self._writing = ThreadPoolExecutor(1, "warehouse-write")
        self._giving_up = asyncio.Event()

    @property
    def down_seconds(self) -> float:
        """For how long calls have failed now; 0 when the last one went well."""
        return 0.0 if self._down_since is None else self._clock() - self._down_since

    async def open(self, deadline_s: float) -> list[str]:
        """Wait until the warehouse answers and bring its tables up to date; return the migrations applied."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, self._warehouse.wait_ready, deadline_s)
        return await loop.run_in_executor(self._writing, self._warehouse.migrate)

    async def call(self, run: Callable[[Warehouse], T]) -> T:
        """Run in the writing thread until it succeeds; `WarehouseError` when trying again is of no use."""
        wait_s = self._first_wait_s
        while True:
            try:
                result = await asyncio.get_running_loop().run_in_executor(self._writing, run, self._warehouse)
            except FencedError:
                raise  # nothing is wrong with the warehouse
            except WarehouseError as error:
                self._note_failure(error)
                if not error.retryable or self._giving_up.is_set():
                    raise
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._giving_up.wait(), wait_s)
                wait_s = min(2 * wait_s, self._longest_wait_s)
            else:
                self._note_success()
                return result

    async def try_once(self, run: Callable[[Warehouse], T]) -> T:
        """Run in the writing thread for somebody else, who repeats what fails; our own writing is not affected."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, run, self._warehouse)

    def give_up(self) -> None:
        """From now on a call that fails is not repeated."""
        self._giving_up.set()

    async def close(self) -> None:
        """Let go of the warehouse, unless it hangs."""
        self.give_up()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(self._writing, self._warehouse.close), _CLOSE_DEADLINE_S)
        self._writing.shutdown(wait=False)

    def _note_failure(self, error: WarehouseError) -> None:
        """Say so, at most once a minute, however often and in however many ways it fails."""
        self.error, self.failures = str(error), self.failures + 1
        now = self._clock()
        if self._down_since is None:
            self._down_since, self._is_said = now, False
        if not error.retryable:
            log.error("Writing to ClickHouse failed, and trying again is of no use: %s", error)
        elif self._said_at is None or now - self._said_at >= _SAY_AGAIN_S:
            self._said_at, self._is_said = now, True
            log.warning(
                "Writing to ClickHouse fails (for %.0f s now) and is tried again; Kafka keeps what is not written: %s",
                now - self._down_since,
                error,
            )

    def _note_success(self) -> None:
        if self._down_since is not None and self._is_said:
            log.info("Writing to ClickHouse works again, after %.0f s.", self.down_seconds)
        self.error, self._down_since = "", None
