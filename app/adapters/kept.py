"""What takes a moment to find and is shown to many: found once for all who ask, and kept while finding takes long."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from app.ports import WarehouseError

T = TypeVar("T")

#: How long somebody waits for what is newer than what is kept.
PATIENCE_S = 0.05
#: The same while nothing is kept, or only what is old: who asks rarely would always be told of the time before.
FIRST_PATIENCE_S = 1.5
OLD_S = 30.0


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
        What was found is as good as new for so long.
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
        age_s = math.inf if self._found_at_s is None else self._clock() - self._found_at_s
        if age_s < self._pause_s:
            return self._finding
        patience_s = FIRST_PATIENCE_S if self._finding.value is None else PATIENCE_S
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._look())
            if age_s > OLD_S and not self._finding.error:
                patience_s = FIRST_PATIENCE_S
        await asyncio.wait([self._search], timeout=patience_s)
        return self._finding

    async def close(self) -> None:
        """Stop looking."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait([self._search])

    async def _look(self) -> None:
        try:
            value = await self._find()
        except WarehouseError as error:
            self._finding = Finding(self._finding.value, self._finding.found_at, str(error))
        else:
            self._finding = Finding(value, datetime.now(UTC))
            self._found_at_s = self._clock()
