"""How often a Bernoulli CUSUM raises a false alarm, when the rate before the change is an estimate.

The statistic rises by ``up`` at an error, falls by ``down`` at a right decision, and never below 0.

The rate may differ by the time of day. Then each event is of a *kind*, which has a rate and steps of its own, and the
walk is that of the mean event. Kinds take turns slowly. But the likelihood ratios of all kinds have a root of 1 where
p0 is right, and nearly the same root where its odds are wrong by a factor. Only the frequency of alarms differs between
kinds, and of that the mean is wanted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from app.core.batches import Floats, Ints
from models.reference.error_hours import find_level

#: Of events that are all of one kind: its share.
ALL_ALIKE = np.ones(1)

#: Of the normal distribution of the log odds: where it is evaluated, in deviations, and the weights.
_DEVIATIONS = np.linspace(-4.5, 4.5, 37)
_WEIGHTS = np.exp(-(_DEVIATIONS**2) / 2) / np.exp(-(_DEVIATIONS**2) / 2).sum()
_SMALL = 1e-4
_NEAR = 1e-13


class Steps(NamedTuple):
    """Log likelihood ratios of an error and (its size) of a right decision, in nats."""

    up: Floats
    down: Floats


class Rate(NamedTuple):
    """An error rate as estimated: the log odds and their standard deviation."""

    log_odds: float
    deviation: float

    @classmethod
    def of(cls, n: int, wrong: int, design_effect: float = 1.0) -> Rate:
        """Estimate the rate from ``wrong`` errors in ``n`` events (with half a pseudo-count: the rate is never 0)."""
        p = (wrong + 0.5) / (n + 1)
        return cls(math.log(p / (1 - p)), math.sqrt(design_effect / ((n + 1) * p * (1 - p))))

    @classmethod
    def of_kinds(cls, events: Ints, wrong: int, log_odds: Floats, design_effect: float = 1.0) -> Rate:
        """Estimate the level of rates that differ by ``log_odds`` from it, from the ``events`` of each kind."""
        n = int(events.sum())
        if len(events) == 1 or not n:
            return cls.of(n, wrong, design_effect)
        counted = np.asarray(events * (1 + 1 / n), np.float64)
        level = find_level(counted, wrong + 0.5, log_odds)
        rates = expit(level + log_odds)
        return cls(level, math.sqrt(design_effect / float(counted @ (rates * (1 - rates)))))

    def rates(self, log_odds: Floats | None = None) -> Floats:
        """The rates that it may really be, for `_WEIGHTS`; of each kind (last axis) where ``log_odds`` are given."""
        levels = self.log_odds + _DEVIATIONS * self.deviation
        return np.asarray(expit(levels if log_odds is None else levels[:, None] + log_odds))

    def above(self, deviations: float) -> float:
        """The rate that is some deviations above the estimate."""
        return 1 / (1 + math.exp(-(self.log_odds + deviations * self.deviation)))


def log_likelihood_steps(p0: float, odds_ratios: Floats) -> Steps:
    """Compute the steps for the alternatives whose odds are ``odds_ratios`` times those of p0.

    Examples
    --------
    Odds of 1/4 doubled are 1/2, so p1 = 1/3: an error is 5/3 times as likely, a right decision 5/6 times.

    >>> up, down = log_likelihood_steps(0.2, np.array([2.0]))
    >>> round(math.exp(up[0]), 6), round(math.exp(-down[0]), 6)
    (1.666667, 0.833333)
    """
    p1 = odds_ratios * p0 / (1 - p0 + odds_ratios * p0)
    return Steps(np.log(p1 / p0), np.log((1 - p0) / (1 - p1)))


def conjugate_roots(steps: Steps, rates: Floats, shares: Floats | None = None) -> Floats:
    """Solve p exp(t up) + (1 - p) exp(-t down) = 1 for t other than 0 (0 where the mean step is 0).

    With ``shares`` of the kinds of events along the last axis, the mean of the logarithm of the left side is 0.
    """
    if shares is None:
        return conjugate_roots(Steps(*(step[..., None] for step in steps)), rates[..., None], ALL_ALIKE)
    drift = (rates * steps.up - (1 - rates) * steps.down) @ shares
    log_rise, log_fall = np.log(rates), np.log1p(-rates)
    # Beyond the root one term alone makes 1; the log of the sum is convex, so that from there Newton comes down to it.
    t = np.where(drift < 0, (-log_rise / steps.up).max(axis=-1), (log_fall / steps.down).min(axis=-1))
    for _ in range(25):
        risen, fallen = log_rise + t[..., None] * steps.up, log_fall - t[..., None] * steps.down
        log_moment = np.logaddexp(risen, fallen)
        slope = np.exp(risen - log_moment) * (steps.up + steps.down) - steps.down
        step = (log_moment @ shares) / (slope @ shares)
        t = t - step
        if (np.abs(step) < _NEAR).all():
            break
    return np.where(np.abs(drift) < _SMALL * ((steps.up * steps.down) @ shares), 0.0, t)


def false_alarm_rate(steps: Steps, threshold: Floats, rates: Floats, design_effect: float = 1.0) -> Floats:
    """Approximate the share of events at which a CUSUM alarms: one over its average run length.

    Siegmund's formula with the threshold raised by (up + down) / 3 for what the path overshoots. Against the exact
    solution of the Markov chain (rates .01 to .4, the same times 1.05 and 1.2, odds ratios 1.33 to 3, thresholds 4 to
    10) it is 0.85 to 1.02 times the true run length, and within 5 % for odds ratios up to 1.7 below a rate of .4.

    Parameters
    ----------
    rates
        True error rates; arrays broadcast against each other.

    References
    ----------
    D. Siegmund, "Sequential Analysis", 1985, section 2.6.
    M. Reynolds, Z. Stoumbos, "A CUSUM chart for monitoring a proportion when inspecting continuously", 1999.
    """
    alike = Steps(*(step[..., None] for step in steps))
    return _Walk.of(alike, rates[..., None], design_effect, ALL_ALIKE).alarms(threshold + (steps.up + steps.down) / 3)


class _Walk(NamedTuple):
    """Those properties of a CUSUM's path that do not depend on its threshold."""

    root: Floats
    drift: Floats
    variance: Floats

    @classmethod
    def of(cls, steps: Steps, rates: Floats, design_effect: float, shares: Floats) -> _Walk:
        drift = (rates * steps.up - (1 - rates) * steps.down) @ shares
        variance = (rates * steps.up**2 + (1 - rates) * steps.down**2) @ shares
        # In the Brownian limit, a variance that is larger by the design effect makes the root smaller by it.
        return cls(conjugate_roots(steps, rates, shares) / design_effect, drift, variance * design_effect)

    def alarms(self, height: Floats) -> Floats:
        x = np.minimum(self.root * height, 700.0)
        is_flat = np.abs(x) < _SMALL
        x = np.where(is_flat, 1.0, x)
        return np.where(is_flat, self.variance / height**2, self.root * -self.drift / (np.expm1(x) - x))


def thresholds(
    steps: Steps,
    rate: Rate,
    false_alarms: Floats,
    design_effect: float = 1.0,
    *,
    log_odds: Floats | None = None,
    shares: Floats = ALL_ALIKE,
) -> Floats:
    """Find the threshold of each CUSUM at which its false alarm rate, averaged over the estimate, is as given.

    The rate is averaged, not the run length: a few lucky estimates would make the mean run length arbitrarily long.

    Parameters
    ----------
    steps
        Of each CUSUM; with ``log_odds``, of each CUSUM and kind of event.
    false_alarms
        Of each, per event.
    log_odds, shares
        Of each kind of event: by how much its log odds differ from those of the rate, and its share; None: one kind.

    Returns
    -------
    In nats, 0.05 to 10 000: an estimate too poor for an alternative puts it out of reach.
    """
    kinds = np.zeros(1) if log_odds is None else log_odds
    columns = Steps(*(step.reshape(len(false_alarms), 1, len(kinds)) for step in steps))
    walk = _Walk.of(columns, rate.rates(kinds), design_effect, shares)
    margin = (columns.up + columns.down)[:, 0, 0] / 3  # the odds rise by the same factor for all kinds
    low, high = np.full(len(margin), math.log(0.05)), np.full(len(margin), math.log(10_000.0))
    for _ in range(28):
        middle = (low + high) / 2
        height = (np.exp(middle) + margin)[:, None]
        is_too_low = (walk.alarms(height) * _WEIGHTS).sum(axis=1) > false_alarms
        low, high = np.where(is_too_low, middle, low), np.where(is_too_low, high, middle)
    return np.asarray(np.exp(high))
