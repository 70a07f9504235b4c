"""When a partition commits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CommitTimer:
    """When a partition commits: no later than an interval after there is something to commit.

    Parameters
    ----------
    interval_s
        Longest time between commits, in seconds.
    turn
        When in the interval this partition commits, from 0 to 1: partitions take turns at the broker.
    begin
        Begins a transaction.
    """

    def __init__(self, interval_s: float, turn: float, begin: Callable[[], None]) -> None:
        self._interval_s = interval_s
        self._phase_s = interval_s * turn
        self._begin = begin
        self._due_at: float | None = None

    @property
    def is_requested(self) -> bool:
        """Whether there is something to commit."""
        return self._due_at is not None

    def request(self) -> None:
        """There is something to commit."""
        if self._due_at is None:
            now, interval = clock_s(), self._interval_s
            self._due_at = now + (interval and interval - (now - self._phase_s) % interval)
            self._begin()

    def is_due(self) -> bool:
        """Whether it is time to commit what was requested."""
        return self._due_at is not None and clock_s() >= self._due_at

    def left_s(self) -> float | None:
        """Seconds until the commit is due; None: there is nothing to commit."""
        return None if self._due_at is None else max(0.0, self._due_at - clock_s())

    def cut(self) -> None:
        """What was requested is being committed; what comes from now on is for the commit after it."""
        self._due_at = None

    def committed(self) -> None:
        """A commit is over: if the next one was requested meanwhile, its transaction begins now."""
        if self._due_at is not None:
            self._begin()


def clock_s() -> float:
    """Time of the running event loop."""
    return asyncio.get_running_loop().time()
