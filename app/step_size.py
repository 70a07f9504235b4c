"""How many events one step of an event loop may have: fewer while somebody waits for an answer."""

from __future__ import annotations

import asyncio
import contextlib

from app.pipeline import STEP_EVENTS

#: How long a step should take at most: slow models get smaller steps, so that other partitions have their turn.
STEP_S = 0.03
#: The same while questions come: the slowest answer waits for the longest step.
ASKED_STEP_S = 0.004
#: For how long after the last question steps stay short.
_ASKED_FOR_S = 1.0
#: How long a step waits while questions are open, after the one before it.
_MOST_DEFERRED_S = 0.004
#: How far apart small steps of a partition are while somebody asks: each of them costs a millisecond.
SPACING_S = 0.05
#: The part of that time that sizes aim at: no two steps of one size take equally long.
_AIM = 0.75


class AskedLately:
    """Whether somebody has asked for a score lately, of all partitions of a worker; and whose turn it is.

    An answer takes a few turns of the event loop. If each partition made a step in each of them, it would wait for all
    of those. So there is one step in a turn, and while questions are open, a step waits, up to `_MOST_DEFERRED_S`.
    """

    def __init__(self) -> None:
        self._until_s = 0.0
        self._open = 0
        self._none_open = asyncio.Event()
        self._turn = asyncio.Lock()

    def note(self) -> None:
        """Somebody asks; `answered` follows."""
        self._open += 1
        self._none_open.clear()
        self._until_s = asyncio.get_running_loop().time() + _ASKED_FOR_S

    def answered(self, questions: int) -> None:
        """So many questions are no longer open."""
        self._open -= questions
        if not self._open:
            self._none_open.set()

    async def wait_for_turn(self) -> None:
        """Wait until a step may begin: at once, or when questions have been answered."""
        if not self.is_busy:
            await asyncio.sleep(0)
            return
        async with self._turn:
            await asyncio.sleep(0)  # two partitions never make a step in one turn
            if self._open:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._none_open.wait(), _MOST_DEFERRED_S)

    @property
    def is_busy(self) -> bool:
        """Whether somebody has asked lately."""
        return asyncio.get_running_loop().time() < self._until_s

    @property
    def step_s(self) -> float:
        """How long a step should take at most now, in seconds."""
        return ASKED_STEP_S if self.is_busy else STEP_S


class StepSize:
    """How many events the next step may have, as the last ones have shown.

    A step has a cost of its own, whatever its size. Where that alone is more than a step may take, smaller steps would
    only make it worse. So a size is at least such that its events, at the cost that each has in large steps, take a
    quarter of the time.
    """

    def __init__(self) -> None:
        #: Seconds an event: in the steps of late, and the least of all, which is that in large steps. 0: not known.
        self._event_s = 0.0
        self._least_s = 0.0

    def of(self, step_s: float) -> int:
        """How many events a step may have that is to take no longer than this, in seconds."""
        if not self._event_s:
            return STEP_EVENTS
        size = max(_AIM * step_s / self._event_s, step_s / (4 * self._least_s))
        return max(1, min(STEP_EVENTS, int(size)))

    def adapt(self, events: int, seconds: float, step_s: float) -> None:
        """Learn from a step: how many events it had, how long it took, and how long it was to take at most."""
        event_s = max(seconds, 1e-6) / max(events, 1)
        if not self._event_s:
            self._event_s = self._least_s = event_s
        elif 2 * events >= self.of(step_s) or event_s < self._event_s:  # small ones say nothing of larger ones
            self._event_s = min(1.25 * self._event_s, event_s)
            self._least_s = min(1.002 * self._least_s, event_s)
