"""What a sequential detector of the error stream is, and what it says when it fires.

The error stream of a model version has one bit per decision whose label has come: 1, the decision was wrong. Its events
are numbered from 0. A detector takes them in batches, and what it says does not depend on where those are cut. With
each comes the hour of the week of its event: at some hours more decisions are wrong than at others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.core.batches import Floats, Ints
    from schemas.pipeline.spec import ErrorDetector

Bits = NDArray[np.uint8]


class Detection(NamedTuple):
    """A change of the error rate.

    Parameters
    ----------
    position
        Number of the event at which it was noticed.
    change
        Number of the first event after the estimated time of the change.
    n_since, wrong_since
        Events from ``change`` to ``position``, both included, and how many of their decisions were wrong.
    n_before, rate_before
        Events that the rate before the change rests on, and that rate: at the hours of the events since.
    statistic, threshold
        What was compared; None where a detector does not tell.
    rose
        False: the decisions have become better, which is no alarm.
    """

    position: int
    change: int
    n_since: int
    wrong_since: int
    n_before: int
    rate_before: float
    statistic: float | None = None
    threshold: float | None = None
    rose: bool = True

    @property
    def rate_since(self) -> float:
        return self.wrong_since / self.n_since


class Detector(Protocol):
    """Watches one error stream. After a detection it starts again by itself."""

    def observe(self, wrong: Bits, hours: Bits | None = None) -> list[Detection]:
        """Take the next events; return what was noticed among them, in their order.

        Parameters
        ----------
        wrong
            1: the decision was wrong.
        hours
            The hour of the week of each event (`models.reference.error_hours.hours_of`); None: for a detector that
            needs none.
        """

    def snapshot(self) -> dict[str, Any]:
        """The whole state, as values that JSON keeps."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that a detector of the same settings gave; it goes on as that one would have."""


class HourlyRate(NamedTuple):
    """How the rate of errors differs by the hour of the week.

    Parameters
    ----------
    events
        Decisions of training in each hour.
    log_odds
        By how much the log odds of an error differ from their level.
    """

    events: Ints
    log_odds: Floats


class TrainingErrors(NamedTuple):
    """What training knows of the error rate, and what the budget allows.

    Parameters
    ----------
    n, wrong
        Decisions of training whose label is known, and how many were wrong.
    arl_events
        The average number of events between two false alarms that the budget allows.
    design_effect
        How many events count as one, because errors come in bursts; 1: each is independent.
    hourly
        How the rate differs by hour; None: it is not known to differ.
    """

    n: int
    wrong: int
    arl_events: float
    design_effect: float = 1.0
    hourly: HourlyRate | None = None


if TYPE_CHECKING:
    #: Makes the detector that a pipeline file asks for.
    Make = Callable[[ErrorDetector, TrainingErrors], Detector]


def locate_change(wrong: Bits) -> int:
    """Estimate where the rate of a stretch of errors changed: the split of the highest likelihood.

    Returns
    -------
    Number of the first event after the change, from 1 to n - 1 (n >= 2). Without a change it means nothing.

    Examples
    --------
    No two rates explain 0, 0, 0, 1, 1 better than 0 for the first three and 1 for the last two.

    >>> locate_change(np.array([0, 0, 0, 1, 1], np.uint8))
    3

    References
    ----------
    D. Hinkley, E. Hinkley, "Inference about the change-point in a sequence of binomial variables", Biometrika 57, 1970.
    """
    n = len(wrong)
    total = np.cumsum(wrong, dtype=np.int64)
    size = np.arange(1, n)
    before, after = total[:-1], total[-1] - total[:-1]
    rest = n - size
    likelihood = (
        xlogy(before, before / size)
        + xlogy(size - before, 1 - before / size)
        + xlogy(after, after / rest)
        + xlogy(rest - after, 1 - after / rest)
    )
    return int(np.argmax(likelihood)) + 1
