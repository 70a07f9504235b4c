"""What is said of alarms: how many were false, how late the true ones were, and both in one number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv


@dataclass(frozen=True)
class Rate:
    """A rate and its 95 % range."""

    value: float
    low: float
    high: float

    def __truediv__(self, by: float) -> Rate:
        return Rate(self.value / by, self.low / by, self.high / by)


def rate(counts: Sequence[int] | NDArray[np.int64], exposure: float) -> Rate:
    """Estimate a rate from the counts of independent runs.

    The range is the exact one of a Poisson count. Alarms of one run come together (they share a reference and a
    history), so the count is first divided by its dispersion: the variance of the runs' counts over their mean.

    Parameters
    ----------
    counts
        Alarms of each run.
    exposure
        Of one run: windows, events, or whatever the rate is per.

    Examples
    --------
    Four runs of 10 with 2 alarms each: 0.2, and for a Poisson count of 8 the range is 3.45 … 15.76.

    >>> found = rate([2, 2, 2, 2], 10)
    >>> found.value, round(found.low * 40, 2), round(found.high * 40, 2)
    (0.2, 3.45, 15.76)

    Without any alarm the range ends at 3.69 over all that was seen:

    >>> round(rate([0, 0], 1).high * 2, 2)
    3.69

    References
    ----------
    F. Garwood, "Fiducial limits for the Poisson distribution", Biometrika 28, 1936.
    """
    values = np.asarray(counts, np.float64)
    total, seen = float(values.sum()), exposure * len(values)
    dispersion = float(values.var(ddof=1) / values.mean()) if len(values) > 1 and total else 1.0
    scale = max(1.0, dispersion)
    independent = total / scale
    low = float(gammaincinv(independent, 0.025)) if independent else 0.0
    high = float(gammaincinv(independent + 1, 0.975))
    return Rate(total / seen, low * scale / seen, high * scale / seen)


@dataclass(frozen=True)
class Episode:
    """A stream with one change, and the positions of the alarms in it.

    The change begins at ``start`` and is complete at ``end``; abrupt: the same. Alarms were counted from position
    ``first`` up to, and without, ``last``.
    """

    alarms: tuple[int, ...]
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Detection:
    """What is said of alarms over episodes; ``delay``: mean from the start of the change, NaN when all were missed.

    ``false_alarms`` is per 1 000 events in which an alarm would have been false, ``apart`` the mean number of them
    between two false alarms (all of them, where there was none).
    """

    f1: float
    precision: float
    recall: float
    missed: float
    delay: float
    false_alarms: float
    apart: float


def judge_episodes(episodes: Iterable[Episode], max_delay: int) -> Detection:
    """Judge by the protocol of the KDD 2026 benchmark.

    An alarm from the start of a change up to ``max_delay`` after its end is a true positive, each of them; any other is
    a false positive; an episode without a true positive is one false negative. The three are summed over the episodes,
    and F1 is that of the sums.

    Examples
    --------
    The first episode has one alarm too early and two in time, 10 and 50 after the change; the second has none. So TP 2,
    FP 1, FN 1: precision 2/3, recall 2/3. In each of them 400 of the 500 events could bring a false alarm.

    >>> first, second = Episode((20, 310, 350), 300, 300, 0, 500), Episode((), 200, 200, 0, 500)
    >>> found = judge_episodes([first, second], 100)
    >>> round(found.f1, 3), found.missed, found.delay, found.false_alarms
    (0.667, 0.5, 10.0, 1.25)

    References
    ----------
    V. Cerqueira, H. Gomes, M. Heyden, B. Pfahringer, A. Bifet, arXiv 2606.07789, 2026; and its code,
    vcerqueira/experiments-drift_evaluation, src/eval_detector.py.
    """
    true = false = missed = n = free = 0
    delays = []
    for episode in episodes:
        n += 1
        hits = [at for at in episode.alarms if episode.start <= at <= episode.end + max_delay]
        true += len(hits)
        false += len(episode.alarms) - len(hits)
        free += episode.start - episode.first + max(episode.last - episode.end - max_delay, 0)
        if hits:
            delays.append(hits[0] - episode.start)
        else:
            missed += 1
    precision = true / (true + false) if true + false else 0.0
    recall = true / (true + missed) if true + missed else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Detection(
        f1=f1,
        precision=precision,
        recall=recall,
        missed=missed / n if n else math.nan,
        delay=float(np.mean(delays)) if delays else math.nan,
        false_alarms=1000 * false / free if free else math.nan,
        apart=free / max(false, 1),
    )


def mean_time_ratio(between_false_alarms: float, delay: float, missed: float) -> float:
    """MTR = MTFA / MTD x (1 - MDR): the larger the better, 0 when everything was missed.

    ``between_false_alarms`` (MTFA) and ``delay`` (MTD) are in the same unit; ``missed`` (MDR) is a share.

    Examples
    --------
    >>> mean_time_ratio(1000.0, 50.0, 0.25)
    15.0

    References
    ----------
    A. Bifet, "Classifier concept drift detection and the illusion of progress", ICAISC 2017; as used by Lukats et al.,
    JDSA 2024.
    """
    if missed >= 1 or math.isnan(delay):
        return 0.0
    return between_false_alarms / max(delay, 1.0) * (1 - missed)


def onsets(alarms: Iterable[bool]) -> list[int]:
    """Where a row of alarmed windows begins: a monitor that stays in alarm has alarmed once.

    Examples
    --------
    >>> onsets([True, True, False, True])
    [0, 3]
    """
    starts, before = [], False
    for number, is_alarmed in enumerate(alarms):
        if is_alarmed and not before:
            starts.append(number)
        before = bool(is_alarmed)
    return starts
