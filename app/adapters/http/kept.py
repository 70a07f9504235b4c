"""What takes a moment to find and is shown to many: found once for all who ask, and kept while finding takes long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from app.clock import utc_now
from app.ports import WarehouseError

T = TypeVar("T")

#: How long somebody waits for something newer than what is kept, and how long when nothing is kept yet.
PATIENCE_S, FIRST_PATIENCE_S = 0.1, 1.5
#: The pause between two looks that nobody asked for; or this many times what the last one took, if that is longer.
REFRESH_S, _RESTS = 10.0, 20


@dataclass(frozen=True)
class Finding(Generic[T]):
    """What was found last, when, and what was wrong when it was last looked for."""

    value: T | None = None
    found_at: datetime | None = None
    error: str = ""


class Kept(Generic[T]):
    """Keeps what ``find`` found last.

    Parameters
    ----------
    find
        Looks for it; a `WarehouseError` leaves what is kept as it is.
    pause_s
        How long what was found is as good as new.
    """

    def __init__(
        self, find: Callable[[], Awaitable[T]], *, pause_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._find = find
        self._pause_s = pause_s
        self._clock = clock
        self._finding: Finding[T] = Finding()
        self._found_at_s: float | None = None
        self._search: asyncio.Task[None] | None = None

    async def get(self) -> Finding[T]:
        """Look again, together with all who ask now, and return what is known when patience ends."""
        if self._found_at_s is None or self._clock() - self._found_at_s >= self._pause_s:
            is_first = self._finding == Finding()
            await asyncio.wait([self._begin()], timeout=FIRST_PATIENCE_S if is_first else PATIENCE_S)
        return self._finding

    async def keep_fresh(self) -> None:
        """Look now and then, for ever, so that those who ask rarely are not told how things were long ago."""
        while True:
            before_s = self._clock()
            await asyncio.wait([self._begin()])
            await asyncio.sleep(max(REFRESH_S, _RESTS * (self._clock() - before_s)))

    async def close(self) -> None:
        """Stop looking."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])

    def _begin(self) -> asyncio.Task[None]:
        """The search that is under way, or a new one."""
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._look())
        return self._search

    async def _look(self) -> None:
        try:
            value = await self._find()
        except WarehouseError as error:
            self._finding = Finding(self._finding.value, self._finding.found_at, str(error))
        else:
            self._finding = Finding(value, utc_now())
            self._found_at_s = self._clock()
