"""How well a version predicts before its labels are here: confidence-based performance estimation on counts (CBPE).

The reference says how often a score of each cell came true (`app.core.performance.calibration`); a window's score
counts then give the labels to expect, and these the measures. All of it works on S score cells: counts of parts add up
to those of the whole, and a window costs O(S) whatever its size.

A band covers 95 % of what the window's labels will realise: the chance of the labels, and the finite reference, both
widened by the design effects of autocorrelated events.

Where it cannot work, and does not notice by itself:

* **Concept drift.** It assumes that a score still means what it meant. When the relation of inputs to label changes,
  the estimate stands still while the performance falls. Only labels tell: `app.core.performance.label_checks`.
* **Inputs that the reference has never seen.** Scores of cells without reference labels widen the band; but where
  unknown inputs are given familiar scores, nothing shows.
* **A reference of the model's own training rows.** There the model is too sure, and all estimates are as optimistic.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr

from app.core.batches import Ints
from app.core.performance.calibration import Calibration, fit_calibration
from app.core.performance.expected import expected_measures
from app.core.performance.measures import NORMAL_95

if TYPE_CHECKING:
    from models.reference.reference import Reference


class Estimate(NamedTuple):
    """The expected value of a measure, its 95 % band and its standard deviation; NaN where it is not determined."""

    name: str
    estimated: float
    low: float
    high: float
    deviation: float


class MeasureCheck(NamedTuple):
    """A measure of a window whose labels are here, or some of them.

    ``realised``: on the labelled events. ``expected``, with its standard ``deviation``: what was to be expected *on the
    labelled events' own scores*, so that labels that come first for certain scores move both alike. ``p_value``: of so
    large a difference of the two, if scores mean what they did.
    """

    name: str
    realised: float
    expected: float
    deviation: float
    p_value: float


def estimate(calibration: Calibration, score_counts: Ints) -> list[Estimate]:
    """Estimate AUC, accuracy, precision, recall, F1 and (given the mean scores) log loss of a window without labels.

    Parameters
    ----------
    score_counts
        The window's events per score cell; events without a score are left out.

    Returns
    -------
    One per measure, in this order. NaN where the measure is undefined (no events; for the AUC fewer than two, for
    precision no positive decision) or the reference lacks either label.

    Notes
    -----
    The expected AUC is E[pairs in order] / E[pairs], over pairs of *different* events: exact up to the curvature of a
    ratio, also in windows of a few events. Variances are those of the first order in the labels.

    Examples
    --------
    Two events, with P = 1/5 and 4/5: of the ways to have one positive, 4/5 * 4/5 has it on top, 1/5 * 1/5 below.

    >>> from app.core.performance.calibration import fit_calibration
    >>> calibration = fit_calibration(np.array([[76, 19], [19, 76]]), 1)
    >>> auc, accuracy, *_ = estimate(calibration, np.array([1, 1]))
    >>> round(auc.estimated, 2) == round(16 / 17, 2), round(accuracy.estimated, 2)
    (True, 0.8)

    References
    ----------
    J. Białek et al., "Estimating Model Performance Under Covariate Shift Without Labels", NeurIPS 2025
    (arXiv:2401.08348), section on CBPE.
    """
    return _estimate(calibration, np.asarray(score_counts), np.zeros((2, len(score_counts)), np.int64))


def compare(calibration: Calibration, outcomes: Ints, arrived: tuple[float, float] = (1.0, 1.0)) -> list[MeasureCheck]:
    """Compare what has come true so far with what was to be expected of those very events.

    Parameters
    ----------
    outcomes
        Label x score cell of the window's events whose label is here.
    arrived
        The shares of the labels 0 and 1 that are here at the window's age, as older windows show them. When they
        differ (a fraud is reported later than its absence is assumed), P(y = 1) among the events with label is not
        that of all, and is corrected by Bayes' rule. Equal shares change nothing. Taken as exactly known.

    Returns
    -------
    One per measure. Without drift, ``p_value`` is uniform for large n; NaN where a measure is not determined.
    The log loss counts each event by its cell's mean score, on both sides.
    """
    labelled = outcomes.sum(axis=0)
    realised = _estimate(calibration, np.zeros_like(labelled), outcomes)
    expected = _estimate(calibration.among_arrived(arrived), labelled, np.zeros_like(outcomes))
    return [
        MeasureCheck(
            true.name,
            true.estimated,
            due.estimated,
            due.deviation,
            _two_sided(true.estimated - due.estimated, due.deviation),
        )
        for true, due in zip(realised, expected, strict=True)
    ]


def calibrate(reference: Reference, costs: tuple[float, float] | None = None) -> Calibration:
    """How often a score of each cell came true in training, with bands for labels that err together as in training."""
    outcomes, mean_scores = reference.training.outcomes, reference.mean_scores
    independent = fit_calibration(outcomes, reference.threshold_cell, mean_scores, costs=costs)
    effects = design_effects(independent, reference.outcome_blocks)
    return fit_calibration(outcomes, reference.threshold_cell, mean_scores, effects, costs)


def design_effects(calibration: Calibration, outcomes_by_block: Ints) -> dict[str, float]:
    """Measure how many events count as one for each measure, where labels err together for a while.

    Residuals y - P(y = 1 | cell) of independent events, weighted by a measure's gradient, have a known variance; what
    their sums over blocks of time vary more than that is the measure's design effect. Autocorrelated scores alone have
    none: only what they leave unexplained counts. And it differs between measures: where the rate of positives wanders,
    the number of positives is much less certain, the AUC and the accuracy hardly.

    Parameters
    ----------
    outcomes_by_block
        Block x label x score cell; blocks of consecutive reference events, long against the autocorrelation, best 30
        or more (an effect's relative error is the root of 2 / blocks).

    Returns
    -------
    At least 1 each, which is also what nothing says: "rate", of the number of positives
    (`app.core.performance.label_checks` needs it), and one per measure of `estimate` (`fit_calibration` takes them
    all).

    Examples
    --------
    Four blocks of four events, with P = 1/2 above and below the threshold: the positives are 2 more or fewer than
    expected where 1 is the deviation. As many on both sides: the accuracy does not notice.

    >>> from app.core.performance.calibration import fit_calibration
    >>> half = fit_calibration(np.array([[50, 50], [50, 50]]), 1)
    >>> all_of_a_kind = np.array([[[2, 2], [0, 0]], [[0, 0], [2, 2]]])
    >>> effects = design_effects(half, np.concatenate([all_of_a_kind, all_of_a_kind]))
    >>> effects["rate"], effects["accuracy"]
    (4.0, 1.0)
    """
    counts = outcomes_by_block.sum(axis=1)
    n, p = counts.sum(axis=0), calibration.probability
    spread = n * p * (1 - p)
    measures = expected_measures(calibration, n * np.array([1 - p, p]), spread)
    gradients = {"rate": np.ones(len(n))} | {name: measure.gradient for name, measure in measures.items()}
    residuals = outcomes_by_block[:, 1] - counts * p
    effects = {}
    for name, gradient in gradients.items():
        due = float(gradient**2 @ spread)
        effects[name] = max(1.0, float(((residuals @ gradient) ** 2).sum()) / due) if due > 0 else 1.0
    return effects


def _estimate(calibration: Calibration, unlabelled: Ints, outcomes: Ints) -> list[Estimate]:
    """Measures of events of which some have labels and others only scores."""
    p = np.where(unlabelled > 0, calibration.probability, 0.0)
    spread = unlabelled * p * (1 - p)
    measures = expected_measures(calibration, outcomes + unlabelled * np.array([1 - p, p]), spread)
    gradients = np.array([measure.gradient for measure in measures.values()])
    variances = gradients**2 @ spread + calibration.propagated(gradients * unlabelled)
    estimates = []
    for (name, measure), variance in zip(measures.items(), variances.tolist(), strict=True):
        effect = max(calibration.design_effects.get(name, 1.0), 1.0)
        deviation = math.nan if math.isnan(measure.value) else math.sqrt(effect * variance)
        estimates.append(with_band(name, measure.value, deviation, 0.0, measure.largest))
    return estimates


def with_band(name: str, value: float, deviation: float, smallest: float, largest: float) -> Estimate:
    """The normal 95 % band around a value, cut to the measure's range."""
    if math.isnan(deviation):
        return Estimate(name, value, math.nan, math.nan, math.nan)
    half = NORMAL_95 * deviation
    return Estimate(name, value, max(value - half, smallest), min(value + half, largest), deviation)


def _two_sided(difference: float, deviation: float) -> float:
    """The normal p-value of a difference; NaN where the deviation is not known or there is none to measure by."""
    if not deviation > 0:
        return math.nan
    return float(2 * ndtr(-abs(difference) / deviation))
