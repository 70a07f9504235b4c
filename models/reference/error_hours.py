"""The wrong decisions of training by the hour of the week of their events, and what is certain about the hours.

Decisions are wrong more often at some hours than at others: at night most payments of a shop are frauds, or none. A
detector of changes that does not know this takes every night for a change. So does a detector that takes the rate of
each hour of training for exact: at ten errors an hour, a third of them is chance.

So hours count as different only where that is sure, and as far as it is sure. The 24 hours of the day are compared over
the days of training, and the 7 days of the week over its weeks. What repeats is held against what changes from one day
or week to the next. Bursts of errors enlarge both alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import expit, fdtrc, logit

from models.reference.dependence import effect_of_residuals

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.reference.dependence import Span

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

HOUR_MS = 3_600_000
#: Hours of a week, from Monday 00:00 UTC on.
HOURS = 7 * 24
#: The fewest days of training from which hours are compared, and the fewest weeks from which days are.
FEWEST_DAYS = 3
FEWEST_WEEKS = 4

# Thursday, on which 1970 began, has three days of its week before it.
_SHIFT = 3 * 24
# Hours, or days, are taken to differ where chance would make them differ as much in one training of a thousand.
_CHANCE = 1e-3
# Waves of the curve that hours of a day lie about, and steps until it is found.
_WAVES = 2
_STEPS = 12
# How exactly a level, and the errors expected at it, are found.
_NEAR = 1e-12


@dataclass(frozen=True, eq=False)
class ErrorHours:
    """The decisions of training by the hour of the week of their events.

    Parameters
    ----------
    events, wrong
        Per hour: decisions whose label is known, and how many were wrong. All 0 where training has no times.
    log_odds
        Per hour: by how much the log odds of an error differ from their level. All 0 where no hours surely differ.
    effect
        How many neighbouring decisions count as one, by where they were wrong beyond what their hours say.
    """

    events: Ints
    wrong: Ints
    log_odds: Floats
    effect: float = 1.0

    @classmethod
    def none(cls) -> ErrorHours:
        """Nothing is known of hours."""
        return cls(np.zeros(HOURS, np.int64), np.zeros(HOURS, np.int64), np.zeros(HOURS))

    @property
    def differ(self) -> bool:
        return bool((self.log_odds != 0).any())


def hours_of(times_ms: Ints) -> Ints:
    """The hour of the week of each time.

    Examples
    --------
    The first of January 1970 was a Thursday.

    >>> hours_of(np.array([0, 3_600_000, 4 * 86_400_000])).tolist()
    [72, 73, 0]
    """
    return (times_ms // HOUR_MS + _SHIFT) % HOURS


def find_level(events: Floats | Ints, wrong: float, log_odds: Floats) -> float:
    """The level of log odds at which ``wrong`` errors are expected in all; infinite where none or all were wrong.

    Examples
    --------
    >>> round(find_level(np.array([30]), 10, np.zeros(1)), 6) == round(float(np.log(0.5)), 6)
    True
    """
    n = float(events.sum())
    if not 0 < wrong < n:
        return -np.inf if wrong <= 0 else np.inf
    mean = math.log(wrong / (n - wrong))
    if len(events) == 1:
        return mean - float(log_odds[0])
    used = log_odds[events > 0]
    low, high = mean - float(used.max()), mean - float(used.min())
    level = mean - float(events @ log_odds) / n
    while high - low > _NEAR:
        rates = expit(level + log_odds)
        beyond = float(events @ rates) - wrong
        low, high = (low, level) if beyond > 0 else (level, high)
        # Newton's step, and half of the bracket where that leaves it.
        level -= beyond / float(events @ (rates * (1 - rates)))
        if abs(beyond) < _NEAR * wrong:
            break
        if not low < level < high:
            level = (low + high) / 2
    return level


def fit_error_hours(wrong: Bools, times_ms: Ints | None = None, span: Span | None = None) -> ErrorHours:
    """Count the decisions of training, see which hours surely differ, and how errors depend beyond that.

    Parameters
    ----------
    wrong
        Of the events whose label is known, in the order of time.
    times_ms
        Of the same events; None: they have none.
    span
        In which detection windows they lie; None: that is not known.
    """
    errors = wrong.astype(np.float64)
    if times_ms is None or not len(wrong):
        return ErrorHours(*_no_hours(), effect_of_residuals(errors - errors.mean(), span) if len(wrong) else 1.0)
    hours = hours_of(times_ms)
    events, errors_of = (np.bincount(hours[rows], minlength=HOURS) for rows in (slice(None), wrong))
    of_day = _find_odds(
        _Cells.of(errors, np.full(len(wrong), errors.mean()), times_ms // HOUR_MS, 24), FEWEST_DAYS, _WAVES
    )
    log_odds = np.tile(of_day, 7)
    expected = _expect(events, int(wrong.sum()), log_odds)
    weeks = _Cells.of(errors, expected[hours], (times_ms // HOUR_MS + _SHIFT) // 24, 7)
    log_odds = log_odds + np.repeat(_find_odds(weeks, FEWEST_WEEKS, 0), 24)
    expected = _expect(events, int(wrong.sum()), log_odds)
    effect = effect_of_residuals(errors - expected[hours], span)
    if log_odds.any():
        # The rates of the hours have an error of their own, the same on each day: the mean of an hour's errors over n
        # days of training has 1/n of the variance of the errors of a future hour.
        effect *= 1 + 1 / len(np.unique(times_ms // (24 * HOUR_MS)))
    return ErrorHours(events, errors_of, log_odds, effect)


def _no_hours() -> tuple[Ints, Ints, Floats]:
    nothing = ErrorHours.none()
    return nothing.events, nothing.wrong, nothing.log_odds


def _expect(events: Ints, wrong: int, log_odds: Floats) -> Floats:
    """The chance of an error in each hour."""
    return np.asarray(expit(find_level(events, wrong, log_odds) + log_odds))


class _Cells(NamedTuple):
    """Events, errors, expected errors and their variance: rounds (days, weeks) x places in a round (hours, days)."""

    n: Floats
    wrong: Floats
    expected: Floats
    variance: Floats

    @classmethod
    def of(cls, wrong: Floats, expected: Floats, numbers: Ints, places: int) -> _Cells:
        """The cells of events; ``numbers``: those of the cells in which they lie, ascending, ``places`` to a round."""
        first = int(numbers[0]) // places * places
        rounds = int(numbers[-1] - first) // places + 1
        # Rounds without events do not count.
        is_there = np.bincount((numbers - first) // places, minlength=rounds) > 0

        def add(values: Floats) -> Floats:
            sums = np.bincount(numbers - first, values, minlength=rounds * places).reshape(rounds, places)
            return np.asarray(sums[is_there], np.float64)

        return cls(add(np.ones(len(wrong))), add(wrong), add(expected), add(expected * (1 - expected)))


def _find_odds(cells: _Cells, fewest: int, waves: int) -> Floats:
    """Per place: how much the log odds of an error differ from what is expected; 0 for all unless they surely do.

    ``waves``: how many waves make up the curve about which places lie.
    """
    rounds, places = cells.n.shape
    differences = np.zeros(places)
    if rounds < fewest:
        return differences
    # A round's own level is not a difference between places.
    totals = np.maximum(cells.expected.sum(axis=1), np.finfo(float).tiny)
    beyond = cells.wrong - cells.expected * (cells.wrong.sum(axis=1) / totals)[:, None]
    variances = cells.variance.sum(axis=0)
    is_there = variances > 0
    if np.count_nonzero(is_there) <= 2 * waves + 1:
        return differences
    beyond, variances = beyond[:, is_there], variances[is_there]
    expected, n = cells.expected.sum(axis=0)[is_there], cells.n.sum(axis=0)[is_there]
    basis = _make_waves(np.flatnonzero(is_there) / places, waves)
    standard = beyond / np.sqrt(variances)
    likely = standard @ np.linalg.qr(np.sqrt(variances)[:, None] * basis)[0][:, 1:]
    freedom = len(variances) - 1
    bursts, chance = _compare_rounds(standard, freedom)
    if waves:
        chance = 2 * min(chance, _compare_rounds(likely, 2 * waves)[1])
    if chance > _CHANCE:
        return differences
    usual = logit(expected / n)
    wrong = expected + beyond.sum(axis=0)
    curve = _fit_curve(n, wrong, usual, basis, bursts)
    # A place differs from the curve as far as such differences are more than chance.
    expected, noise = n * curve, bursts * n * curve * (1 - curve)
    beside = wrong - expected
    spread = max(float((beside**2 - noise).sum() / (expected**2).sum()), 0.0)
    rates = curve * (1 + spread / (spread + noise / expected**2) * beside / expected)
    differences[is_there] = logit(np.clip(rates, 1e-9, 1 - 1e-9)) - usual
    return differences


def _compare_rounds(standard: Floats, freedom: int) -> tuple[float, float]:
    """Whether what repeats in all rounds is more than what differs between them: the analysis of repeated measures.

    Parameters
    ----------
    standard
        Rounds x what is compared, such that the sum over independent rounds has a variance of 1.
    freedom
        How many of these are free.

    Returns
    -------
    By how much bursts raise the variance (at least 1), and the probability of as much repetition by chance: by the
    degrees of freedom that correlated places leave (Greenhouse and Geisser, without the bias of few rounds).
    """
    rounds = len(standard)
    centred = standard - standard.mean(axis=0)
    covariance = centred.T @ centred * rounds / (rounds - 1)
    trace = float(np.trace(covariance))
    squares = (
        (float((covariance**2).sum()) - trace**2 / (rounds - 1)) * (rounds - 1) ** 2 / ((rounds - 2) * (rounds + 1))
    )
    free = min(max(trace**2 / max(squares, np.finfo(float).tiny), 1.0), float(freedom))
    bursts = max(trace / freedom, 1.0)
    surprise = float((standard.sum(axis=0) ** 2).sum()) / (bursts * freedom)
    return bursts, float(fdtrc(free, free * (rounds - 1), surprise))


def _make_waves(at: Floats, waves: int) -> Floats:
    """1, and waves over a round, at places in [0, 1) of it."""
    angles = 2 * np.pi * np.outer(at, np.arange(1, waves + 1))
    return np.column_stack([np.ones(len(at)), np.cos(angles), np.sin(angles)])


def _fit_curve(n: Floats, wrong: Floats, usual: Floats, basis: Floats, bursts: float) -> Floats:
    """Rates as a curve: waves of log odds beside the ``usual`` ones."""
    heights = np.zeros(basis.shape[1])
    # A prior: waves are within about two in log odds. Without it, they would grow without end where rates are 0.
    ridge = np.eye(len(heights)) / 4
    for _ in range(_STEPS):
        rates = expit(usual + basis @ heights)
        weights = n * rates * (1 - rates) / bursts
        gradient = basis.T @ ((wrong - n * rates) / bursts) - ridge @ heights
        heights = heights + np.linalg.solve(basis.T @ (weights[:, None] * basis) + ridge, gradient)
    return np.asarray(expit(usual + basis @ heights))
