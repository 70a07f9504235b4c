"""How sure it is that a version does worse than its scores promise: p-values that hold in the tail and of few labels.

Given the labelled events' scores, the calibration says how often each comes true; so a measure of the labels that came
has a known law. With a hundred positives it is still so skewed that a normal law would call it worse three times as
often as it should at one in a thousand, and with three, fifty times. So the tail is taken from the saddlepoint of its
cumulants, which know all moments:

* *AUC*: a positive's share of the negatives that it is above, and a negative's of the positives below which it is, each
  as likely as their score; the number of either label is taken as it came;
* *recall*: the place of each positive, above the threshold or below, likewise;
* *log loss, accuracy, precision, cost*: each label by itself.

What is uncertain about the calibration itself is added as a normal number. A map of fifty positives promises too much
more often than one: its variance counts half as much again. Labels that err together for a while are
taken as fewer: that widens the law and leaves it as skewed as that of so many fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr

from app.core.performance.expected import expected_measures

if TYPE_CHECKING:
    from app.core.batches import Floats, Ints
    from app.core.performance.calibration import Calibration

#: What p-values there are of.
MEASURES = ("auc", "accuracy", "log_loss", "precision", "recall", "cost")
#: Steps towards the saddlepoint, and how far from the mean (in deviations) there is nothing to ask.
_STEPS, _NEAR = 60, 1e-3
#: How often a saddlepoint is doubled to leave the place where its formula goes wrong.
_DOUBLINGS = 12
#: What the variance of the calibration is worth, whose errors are no normal numbers: with this, references of 50 and of
#: 200 positives call a version worse no more than about as often as they should, to one in a thousand.
_OF_CALIBRATION = 1.5
#: Of what hangs by the positives that scores say are hardly there: by a handful of those in the reference, too.
_OF_MISSES = {"recall": 4.0, "cost": 4.0}


class _Cumulants(NamedTuple):
    """The cumulant generating function at a point, and its first two derivatives."""

    value: float
    slope: float
    curve: float


_Law = Callable[[float], _Cumulants]


def find_p_of_losses(calibration: Calibration, outcomes: Ints, names: Collection[str] = MEASURES) -> dict[str, float]:
    """How often the measures of labels are as bad as they are, if scores mean what they did; by name.

    Parameters
    ----------
    outcomes
        Label x score cell, of the labelled events.
    names
        Some of `MEASURES`.

    Returns
    -------
    Of each that there is (a log loss where mean scores are known, a cost where errors cost something). One-sided: about
    uniform without drift, small where a version does worse; 1 where it does better. NaN where one is not determined.

    References
    ----------
    R. Lugannani, S. Rice, "Saddle point approximation for the distribution of the sum of independent random variables",
    Adv. Appl. Probab. 12, 1980.
    """
    labelled = outcomes.sum(axis=0).astype(np.float64)
    p = calibration.probability
    if not labelled.any() or np.isnan(p).any():
        return dict.fromkeys(names, math.nan)
    expected = labelled * np.array([1 - p, p])
    measures = expected_measures(calibration, expected, labelled * p * (1 - p))
    names = [name for name in MEASURES if name in names and name in measures]
    gradients = np.array([measures[name].gradient for name in names])
    unknown = calibration.propagated(gradients * labelled)
    p_values: dict[str, float] = {}
    for name, by_calibration in zip(names, unknown.tolist(), strict=True):
        effect = max(calibration.design_effects.get(name, 1.0), 1.0)
        variance = _OF_MISSES.get(name, _OF_CALIBRATION) * by_calibration * effect
        if name == "auc":
            p_values[name] = _p_of_auc(outcomes, expected, effect, variance)
        elif name == "recall":
            p_values[name] = _p_of_recall(calibration.decided, outcomes, expected, effect, variance)
        else:
            goodness = _goodness(calibration, name)
            p_values[name] = _p_of_mean(calibration, outcomes, goodness, effect, variance)
    return p_values


class _Goodness(NamedTuple):
    """What the labels 0 and 1 of a cell add to a measure that is a mean of labels.

    ``of``: per cell, 1 where its labels are among those that the mean is of. ``step``: what the mean's sum, of whole
    decisions, comes in; 0: in steps of any size.
    """

    of_negative: Floats
    of_positive: Floats
    of: Floats
    step: float


def _goodness(calibration: Calibration, name: str) -> _Goodness:
    decided = calibration.decided
    everywhere = np.ones(len(decided))
    if name == "accuracy":
        return _Goodness(1 - decided, decided, everywhere, 1.0)
    if name == "precision":
        return _Goodness(np.zeros(len(decided)), decided, decided, 1.0)
    losses = calibration.losses if name == "log_loss" else calibration.cost_of_cells
    assert losses is not None  # or there is no such measure
    return _Goodness(-losses[0], -losses[1], everywhere, 0.0)


def _p_of_mean(calibration: Calibration, outcomes: Ints, goodness: _Goodness, effect: float, variance: float) -> float:
    labelled = outcomes.sum(axis=0) * goodness.of
    n = float(labelled.sum())
    if not n:
        return math.nan
    step = (goodness.of_positive - goodness.of_negative) / n
    base = float(goodness.of_negative @ labelled) / n
    value = base + float(step @ outcomes[1]) + 0.5 * goodness.step / n
    law = _law_of_labels(labelled / effect, calibration.probability, step * effect, base, variance)
    return find_lower_tail(value, law)


def _p_of_recall(decided: Floats, outcomes: Ints, expected: Floats, effect: float, variance: float) -> float:
    n_positive = float(outcomes[1].sum())
    if not n_positive:
        return math.nan
    value = (float(outcomes[1] @ decided) + 0.5) / n_positive
    places = [(n_positive / effect, expected[1] / expected[1].sum(), decided)]
    return find_lower_tail(value, law_of_means(places, 0.0, variance))


def _p_of_auc(outcomes: Ints, expected: Floats, effect: float, variance: float) -> float:
    n_negative, n_positive = (float(n) for n in outcomes.sum(axis=1))
    if not n_negative or not n_positive:
        return math.nan
    negative, positive = (counts / counts.sum() for counts in expected)
    over = np.cumsum(negative) - negative / 2
    under = 1 - np.cumsum(positive) + positive / 2
    mean = float(positive @ over)
    of_negative, of_positive = (counts / counts.sum() for counts in outcomes)
    value = float(of_positive @ (np.cumsum(of_negative) - of_negative / 2))
    parts = [(n_positive / effect, positive, over), (n_negative / effect, negative, under)]
    return find_lower_tail(value, law_of_means(parts, -mean, variance))


def law_of_means(parts: list[tuple[float, Floats, Floats]], constant: float, variance: float) -> _Law:
    """Of a constant, a normal number and means of n values each, drawn with such probabilities."""

    def law(at: float) -> _Cumulants:
        value, slope, curve = constant * at + variance * at * at / 2, constant + variance * at, variance
        for n, chances, values in parts:
            exponents = at / n * values
            largest = float(exponents.max())
            tilted = chances * np.exp(exponents - largest)
            total = float(tilted.sum())
            mean = float(tilted @ values) / total
            value += n * (math.log(total) + largest)
            slope += mean
            curve += max(float(tilted @ values**2) / total - mean * mean, 0.0) / n
        return _Cumulants(value, slope, curve)

    return law


def _law_of_labels(n: Floats, p: Floats, step: Floats, base: float, variance: float) -> _Law:
    """Of a constant, a normal number and a step for each of n labels per cell that is 1, as likely as p."""
    odds, none = logit(p), np.log1p(-p)

    def law(at: float) -> _Cumulants:
        exponents = odds + at * step
        shares = expit(exponents)
        value = base * at + variance * at * at / 2 + float(n @ (none + np.logaddexp(0, exponents)))
        slope = base + variance * at + float(n @ (shares * step))
        return _Cumulants(value, slope, variance + float(n @ (shares * (1 - shares) * step**2)))

    return law


def find_lower_tail(value: float, law: _Law) -> float:
    """P(no more than a value), by Lugannani and Rice; 1 where the value is no less than the mean."""
    middle = law(0.0)
    if value >= middle.slope or not middle.curve > 0:
        return 1.0
    deviation = math.sqrt(middle.curve)
    if middle.slope - value < _NEAR * deviation:
        return 0.5
    # The slope rises with the point. The normal law's saddlepoint is the first guess.
    low, high, at = -math.inf, 0.0, (value - middle.slope) / middle.curve
    for _ in range(_STEPS):
        here = law(at)
        if abs(here.slope - value) < _NEAR**2 * deviation:
            break
        low, high = (at, high) if here.slope < value else (low, at)
        following = at - (here.slope - value) / here.curve if here.curve > 0 else 2 * at
        at = following if low < following < high else 2 * at if low == -math.inf else (low + high) / 2
    tail, is_near = _tail_at(at, law(at))
    # Of a law that leans so far to this side, the formula goes wrong near the mean. What is further away is rarer.
    for _ in range(_DOUBLINGS if is_near else 0):
        at *= 2
        here = law(at)
        if not is_near or not here.curve > 0:
            break
        further, is_near = _tail_at(at, here)
        tail = max(tail, further)
    return tail


def _tail_at(at: float, here: _Cumulants) -> tuple[float, bool]:
    """P(no more than the slope at a point), and whether that is mostly what corrects the normal law's tail."""
    root = -math.sqrt(max(2 * (at * here.slope - here.value), 0.0))
    scaled = at * math.sqrt(here.curve)
    if root == 0 or scaled == 0:
        return 0.5, False
    tail = float(ndtr(root))
    more = math.exp(-root * root / 2) / math.sqrt(2 * math.pi) * (1 / root - 1 / scaled)
    return min(max(tail + more, 0.0), 1.0), more < -tail / 2
