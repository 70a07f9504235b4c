"""When rejections mean a wrong deploy rather than bad events."""

from __future__ import annotations

from collections import deque

import numpy as np

from app.core.batches import Ints, Rejection
from schemas.pipeline import Limits


class TooManyDeadLettersError(RuntimeError):
    """The limits of the pipeline file are exceeded: most likely a wrong deploy, so nothing more is rejected."""


class RejectionLimit:
    """Counts rejected events in offset order; see `schemas.pipeline.Limits`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._consecutive = 0
        self._recent: deque[tuple[int, int]] = deque()  # (events, rejected) per step
        self._n_events = 0
        self._n_rejected = 0

    def observe(self, good: Ints, bad: list[int], rejections: list[Rejection]) -> None:
        """Count a step: offsets of its scored and of its rejected events, each ascending.

        Raises
        ------
        TooManyDeadLettersError
            When a limit is reached.
        """
        longest = self._longest_row(good, bad)
        self._recent.append((len(good) + len(bad), len(bad)))
        self._n_events += len(good) + len(bad)
        self._n_rejected += len(bad)
        while self._n_events - self._recent[0][0] >= self._limits.of_last:
            n_events, n_rejected = self._recent.popleft()
            self._n_events -= n_events
            self._n_rejected -= n_rejected
        too_many = self._n_events >= self._limits.of_last and self._n_rejected > self._limits.share * self._n_events
        if longest >= self._limits.consecutive or too_many:
            last = rejections[-1] if rejections else None
            raise TooManyDeadLettersError(
                f"{longest} events in a row and {self._n_rejected} of the last {self._n_events} were rejected"
                f" (last: {last.reason + ', ' + last.detail if last else '-'}). Nothing of this step was published."
                " Mend the pipeline file or the producer, or raise [limits], and start again."
            )

    def _longest_row(self, good: Ints, bad: list[int]) -> int:
        """Most rejections without a good event between them, those of earlier steps included."""
        if not bad:
            self._consecutive = 0 if len(good) else self._consecutive
            return self._consecutive
        stretches = np.bincount(np.searchsorted(good, bad), minlength=len(good) + 1)
        stretches[0] += self._consecutive
        self._consecutive = int(stretches[-1])
        return int(stretches.max())
