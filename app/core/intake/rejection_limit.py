"""When rejections mean a wrong deploy rather than bad records.

A partition has one count of its events and one of its labels. What is counted is a function of the log alone: not of
where the steps are cut, and, as it travels with the state (`RejectionLimit.state`), not of restarts. A worker that is
started again and again by its supervisor therefore stops at the same record each time, and lets no more dead letters
through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from app.core.batches import Ints
from schemas.pipeline.spec import Limits
from schemas.wire import DeadLetter


class TooManyDeadLettersError(RuntimeError):
    """The limits of the pipeline file are exceeded: most likely a wrong deploy, so nothing more is rejected."""


class RejectionLimit:
    """Counts the rejected records of one log in offset order; see `schemas.pipeline.spec.Limits`.

    Parameters
    ----------
    what
        What the records are, for the error: "events" or "labels".
    """

    def __init__(self, limits: Limits, what: str = "events") -> None:
        self._limits = limits
        self._what = what
        self._most = limits.share * limits.of_last
        self._seen = 0
        self._consecutive = 0
        self._rejected: deque[int] = deque()  # running numbers of those among the last `of_last`

    def observe(self, good: Ints, bad: Sequence[int], letters: Sequence[DeadLetter] = ()) -> None:
        """Count a stretch of the log: offsets of its good and of its rejected records, each ascending.

        Raises
        ------
        TooManyDeadLettersError
            When a limit is reached.
        """
        if not bad:
            self._seen += len(good)
            self._consecutive = 0 if len(good) else self._consecutive
            return
        before = np.searchsorted(good, bad)
        numbers = self._seen + before + np.arange(len(bad))
        self._seen += len(good) + len(bad)
        longest, most = self._longest_row(before, len(good)), 0
        if self._limits.share < 1:  # a share of 1 can never be exceeded: nothing is kept for it
            most = self._most_in_window(numbers.tolist())
        if longest >= self._limits.consecutive or most > self._most:
            last = letters[-1] if letters else None
            raise TooManyDeadLettersError(
                f"{longest} {self._what} in a row and {most} of {self._limits.of_last} were rejected"
                f" (last: {last.reason + ', ' + last.detail if last else '-'}). Nothing of this step was published."
                " Mend the pipeline file or the producer, or raise [limits], and start again."
            )

    def _longest_row(self, before: Ints, n_good: int) -> int:
        """Most rejections without a good record between them, those of earlier stretches included."""
        rows = np.bincount(before, minlength=n_good + 1)
        rows[0] += self._consecutive
        self._consecutive = int(rows[-1])
        return int(rows.max())

    def _most_in_window(self, numbers: list[int]) -> int:
        """Most rejections among any ``of_last`` records that end in this stretch: they only grow at a rejection."""
        rejected, most = self._rejected, 0
        for number in numbers:
            rejected.append(number)
            while rejected[0] <= number - self._limits.of_last:
                rejected.popleft()
            most = max(most, len(rejected))
        return most

    def state(self) -> dict[str, Any]:
        """What `restore` takes; small while few are rejected."""
        while self._rejected and self._rejected[0] < self._seen - self._limits.of_last:
            self._rejected.popleft()
        return {"consecutive": self._consecutive, "ago": [self._seen - number for number in self._rejected]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._consecutive = state["consecutive"]
        self._rejected = deque(self._seen - ago for ago in state["ago"])
