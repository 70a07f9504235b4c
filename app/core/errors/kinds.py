"""Kinds of events: hours of the week at which errors are as frequent as each other, and counts of events by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from app.core.errors.run_length import ALL_ALIKE
from models.reference.error_hours import find_level

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints
    from app.core.errors.detectors import Bits, TrainingErrors


@dataclass(eq=False, slots=True)  # frozen, it takes three times as long to make
class Tally:
    """Events, how many were wrong, and how many were of each kind."""

    n: int
    wrong: int
    events: Ints

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.n + other.n, self.wrong + other.wrong, self.events + other.events)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.n - other.n, self.wrong - other.wrong, self.events - other.events)

    def to_state(self) -> list[int]:
        return [self.wrong, *self.events.tolist()]

    @classmethod
    def from_state(cls, state: list[int]) -> Tally:
        return cls(sum(state[1:]), state[0], np.array(state[1:], np.int64))


class Kinds:
    """The kinds of events that training tells apart by the log odds of their errors.

    ``log_odds``: of each kind, relative to one level. ``shares``: of the events of training. ``training``: what
    training counted.
    """

    def __init__(self, training: TrainingErrors) -> None:
        #: The kind of each hour of the week; None: there is only one.
        self._kind_of: Ints | None = None
        self.log_odds: Floats = np.zeros(1)
        self.shares: Floats = ALL_ALIKE
        events = np.array([training.n])
        if training.hourly is not None:
            self.log_odds, kind_of = np.unique(training.hourly.log_odds, return_inverse=True)
            self._kind_of = kind_of.astype(np.int64)
            events = np.zeros(len(self.log_odds), np.int64)
            np.add.at(events, kind_of, training.hourly.events)
            self.shares = events / events.sum()
        self.training = Tally(training.n, training.wrong, events)

    @property
    def are_by_hour(self) -> bool:
        return self._kind_of is not None

    def of(self, hours: Bits | None) -> Ints | None:
        """The kind of each event; None: there is only one."""
        if self._kind_of is None:
            return None
        if hours is None:
            raise ValueError("the rate of errors differs by the hour: give the hour of each event")
        return self._kind_of[hours]

    def count(self, wrong: int, kinds: Ints | None, start: int, stop: int) -> Tally:
        """Count a part of a batch; ``kinds``: of all its events."""
        n = stop - start
        if kinds is None:
            return Tally(n, wrong, np.array([n]))
        return Tally(n, wrong, np.bincount(kinds[start:stop], minlength=len(self.log_odds)))

    def nothing(self) -> Tally:
        """Count no events."""
        return Tally(0, 0, np.zeros(len(self.log_odds), np.int64))

    def rates(self, known: Tally) -> Floats:
        """The rate of errors of each kind, from what is ``known``."""
        level = find_level(known.events, known.wrong, self.log_odds)
        return np.asarray(expit(level + self.log_odds))

    def expect(self, known: Tally, of: Tally) -> float:
        """The rate to be expected ``of`` other events, for their kinds, from what is ``known``."""
        if len(self.log_odds) == 1:
            return known.wrong / known.n
        return float(of.events @ self.rates(known)) / of.n
