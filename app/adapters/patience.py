"""How long something has been waited for in vain: only time in which that could be observed counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiokafka.errors import KafkaError

#: How many looks there are within the limit of a wait, and the longest time between two of them.
_LOOKS = 20
_LOOK_S = 1.0
#: An answer may have to wait for a fetch that waits for records.
_ANSWER_S = 1.0


class Patience:
    """Counts the time for which something has not moved and has nothing left to do.

    Whether waiting is in vain is asked at each look. Time from look to look counts when both say so. When it is long,
    this worker had no turn, or the broker has not answered: no more of it counts than looks and answers should take.

    Parameters
    ----------
    limit_ms
        How much of such time there may be.
    """

    def __init__(self, limit_ms: int) -> None:
        self._limit_s = limit_ms / 1000
        #: How often to ask `is_over`.
        self.look_s = min(_LOOK_S, self._limit_s / _LOOKS)
        self._seen: object = None
        self._was_in_vain = False
        self._looked_at = 0.0
        self._spent_s = 0.0

    async def is_over(self, seen: object, is_in_vain: Callable[[], Awaitable[bool]]) -> bool:
        """Look: ``seen`` is how far what is awaited has come; while it moves, waiting has a point."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        try:
            in_vain = await is_in_vain()
        except KafkaError:
            in_vain = False  # nobody could read it now
        still = seen == self._seen and in_vain and self._was_in_vain
        if seen != self._seen:
            self._seen, self._spent_s = seen, 0.0
        elif still:
            self._spent_s += min(asked_at - self._looked_at, 2 * self.look_s)
            self._spent_s += min(loop.time() - asked_at, _ANSWER_S)
        self._was_in_vain, self._looked_at = in_vain, loop.time()
        return still and self._spent_s >= self._limit_s
