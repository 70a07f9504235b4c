"""How well a version predicts before its labels are here: confidence-based performance estimation on counts (CBPE).

The reference says how often a score of each cell came true (`app.core.calibration`); a window's score counts then give
the labels to expect, and these the measures. All of it works on S score cells: counts of parts add up to those of the
whole, and a window costs O(S) whatever its size.

A band covers 95 % of what the window's labels will realise: the chance of the labels, and the finite reference, both
widened by the design effect of autocorrelated events.

Where it cannot work, and does not notice by itself:

* **Concept drift.** It assumes that a score still means what it meant. When the relation of inputs to label changes,
  the estimate stands still while the performance falls. Only labels tell: `app.core.label_checks`.
* **Inputs that the reference has never seen.** Scores of cells without reference labels widen the band and lower
  `support`; but where unknown inputs are given familiar scores, nothing shows.
* **A reference of the model's own training rows.** There the model is too sure, and all estimates are as optimistic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from app.core.batches import Floats, Ints
from app.core.calibration import Calibration

#: Two-sided 95 % of the standard normal distribution.
_Z = 1.959963984540054


class Estimate(NamedTuple):
    """A measure as it is to be expected, its 95 % band and standard deviation. NaN where it is not determined."""

    name: str
    estimated: float
    low: float
    high: float
    deviation: float


class Comparison(NamedTuple):
    """A measure of a window whose labels are coming in.

    ``realised``: on the labelled events. ``expected`` with its 95 % band ``expected_low``, ``expected_high``: what was
    to be expected *on the labelled events' own scores*, so that labels that come first for certain scores move both
    alike. ``p_value``: of so large a difference of the two, if scores mean what they did. ``combined`` with ``low``
    and ``high``: of the whole window, realised where labels are here and estimated where they are not.
    """

    name: str
    realised: float
    expected: float
    expected_low: float
    expected_high: float
    p_value: float
    combined: float
    low: float
    high: float


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

    >>> from app.core.calibration import fit_calibration
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


def compare(
    calibration: Calibration,
    score_counts: Ints,
    outcomes: Ints,
    arrived: tuple[float, float] = (1.0, 1.0),
) -> list[Comparison]:
    """Compare what has come true so far with what was to be expected of those very events.

    Parameters
    ----------
    score_counts
        The window's events per score cell.
    outcomes
        Label x score cell of those whose label is here. Where there are more of them than events (labels that came
        twice), the rest of that cell is taken as empty.
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
    nothing, no_outcomes = np.zeros_like(labelled), np.zeros_like(outcomes)
    realised = _estimate(calibration, nothing, outcomes)
    expected = _estimate(calibration.among_arrived(arrived), labelled, no_outcomes)
    missing = np.maximum(np.asarray(score_counts) - labelled, 0)
    combined = _estimate(calibration.among_missing(arrived), missing, outcomes)
    return [
        Comparison(
            name=true.name,
            realised=true.estimated,
            expected=due.estimated,
            expected_low=due.low,
            expected_high=due.high,
            p_value=_two_sided(true.estimated - due.estimated, due.deviation),
            combined=whole.estimated,
            low=whole.low,
            high=whole.high,
        )
        for true, due, whole in zip(realised, expected, combined, strict=True)
    ]


def label_maturity(score_counts: Ints, outcomes: Ints) -> float:
    """The share of a window's scored events whose label is here, in [0, 1]; NaN for an empty window."""
    scored = int(np.sum(score_counts))
    return min(int(np.sum(outcomes)) / scored, 1.0) if scored else math.nan


def support(calibration: Calibration, score_counts: Ints) -> float:
    """The share of a window's events in cells with reference labels, in [0, 1]; NaN for an empty window.

    Without drift about 1. What it lacks is estimated from the neighbouring cells, somewhere between which it lies.
    """
    scored = int(np.sum(score_counts))
    return int(np.sum(score_counts[calibration.is_supported])) / scored if scored else math.nan


def estimate_loss(
    loss_sums: Floats,
    loss_squares: Floats,
    counts: Ints,
    detection_counts: Ints,
    design_effect: float = 1.0,
) -> Estimate:
    """Estimate a window's mean loss directly, from the mean loss of each cell in the reference (DLE).

    For any loss of one event: a regressor's absolute or squared error by cells of its prediction (or of whatever else
    the loss depends on). It sees how the window's events are spread over the cells, and nothing else: not that errors
    within a cell have grown (concept drift, noise), nor a shift of inputs that leaves the cells as they are. Over
    cells of the prediction alone it cannot see a model that errs alike everywhere, nor one whose errors depend on
    inputs but not on the prediction.

    Parameters
    ----------
    loss_sums, loss_squares, counts
        Of the reference's labelled events, per cell: sum of the losses, of their squares, and how many.
    detection_counts
        The window's events per cell. Those of cells without reference are left out: `support` says how many.
    design_effect
        How many autocorrelated events count as one.

    Returns
    -------
    A mean loss per event and the 95 % band of what the window will realise. NaN without events in known cells or
    with fewer than two reference events.

    Examples
    --------
    Losses 1, 3 in the first cell and 5, 7 in the second; a window with three quarters in the second: (2 + 3 * 6) / 4.

    >>> found = estimate_loss(np.array([4.0, 12.0]), np.array([10.0, 74.0]), np.array([2, 2]), np.array([1, 3]))
    >>> found.estimated
    5.0

    References
    ----------
    NannyML's direct loss estimation replaces the cells by a second model of the loss.
    """
    known = counts > 0
    n = np.where(known, detection_counts, 0)
    total = int(n.sum())
    free = int(counts.sum()) - int(np.count_nonzero(known))
    if total == 0 or int(counts.sum()) < 2:
        return Estimate("loss", math.nan, math.nan, math.nan, math.nan)
    m = np.maximum(counts, 1)
    means = loss_sums / m
    within = np.maximum(loss_squares - m * means**2, 0.0)
    # A cell with few events knows its own spread badly: it is lent one event of the spread within all cells.
    overall = within.sum() / free if free else np.var(means[known], ddof=1)
    spread = (within + overall) / m
    share = n / total
    variance = float((share**2 * spread / m + share * spread / total).sum()) * max(design_effect, 1.0)
    return _with_band("loss", float(share @ means), math.sqrt(variance), -math.inf, math.inf)


def _estimate(calibration: Calibration, unlabelled: Ints, outcomes: Ints) -> list[Estimate]:
    """Measures of events of which some have labels and others only scores."""
    p = np.where(unlabelled > 0, calibration.probability, 0.0)
    spread = unlabelled * p * (1 - p)
    expected = outcomes + unlabelled * np.array([1 - p, p])
    figures = _figures(calibration, expected, spread)
    gradients = np.array([gradient for _, gradient, _ in figures.values()])
    variances = calibration.design_effect * (gradients**2 @ spread)
    variances += calibration.propagated(gradients * unlabelled)
    return [
        _with_band(name, value, math.nan if math.isnan(value) else math.sqrt(variance), 0.0, largest)
        for (name, (value, _, largest)), variance in zip(figures.items(), variances.tolist(), strict=True)
    ]


def _figures(calibration: Calibration, expected: Floats, spread: Floats) -> dict[str, tuple[float, Floats, float]]:
    """Each measure's value, its gradient in the label of one event per cell, and its largest value.

    ``expected``: label x cell, the events of either label to be expected; ``spread``: per cell, the variance of that.
    """
    negative, positive = expected
    cells = expected.sum(axis=0)
    n, n_positive = float(cells.sum()), float(positive.sum())
    decided = (np.arange(len(cells)) >= calibration.threshold_cell).astype(np.float64)
    true_yes, yes = float(positive @ decided), float(cells @ decided)
    right = true_yes + float(negative @ (1 - decided))
    figures = {
        "auc": (*_auc(expected, spread), 1.0),
        "accuracy": (*_ratio(right, n, 2 * decided - 1, 0.0), 1.0),
        "precision": (*_ratio(true_yes, yes, decided, 0.0), 1.0),
        "recall": (*_ratio(true_yes, n_positive, decided, 1.0), 1.0),
        "f1": (*_ratio(2 * true_yes, yes + n_positive, 2 * decided, 1.0), 1.0),
    }
    if calibration.losses is not None:
        of_negative, of_positive = calibration.losses
        total = float((expected * np.where(cells > 0, calibration.losses, 0.0)).sum())
        figures["log_loss"] = (*_ratio(total, n, of_positive - of_negative, 0.0), math.inf)
    return figures


def _ratio(above: float, below: float, above_moves: Floats, below_moves: float) -> tuple[float, Floats]:
    """A ratio and its gradient, from how much one more positive label moves either part."""
    if not below > 0:
        return math.nan, above_moves
    value = above / below
    return value, (above_moves - value * below_moves) / below


def _auc(expected: Floats, spread: Floats) -> tuple[float, Floats]:
    """Pairs in order of all pairs of a positive and a negative, ties half; an event makes no pair with itself."""
    negative, positive = expected
    n_negative, n_positive = negative.sum(), positive.sum()
    below = np.cumsum(negative) - negative / 2
    above = n_positive - np.cumsum(positive) + positive / 2
    with_itself = spread.sum()
    pairs = float(n_negative * n_positive - with_itself)
    if not pairs > 1e-9 * expected.sum():  # a single event, or one label only: rounding is all that is left
        return math.nan, below
    value = float(positive @ below - with_itself / 2) / pairs
    return min(max(value, 0.0), 1.0), (below - above - value * (n_negative - n_positive)) / pairs


def _with_band(name: str, value: float, deviation: float, smallest: float, largest: float) -> Estimate:
    if math.isnan(deviation):
        return Estimate(name, value, math.nan, math.nan, math.nan)
    half = _Z * deviation
    return Estimate(name, value, max(value - half, smallest), min(value + half, largest), deviation)


def _two_sided(difference: float, deviation: float) -> float:
    """The normal p-value of a difference; NaN where the deviation is not known or there is none to measure by."""
    if not deviation > 0:
        return math.nan
    return float(2 * ndtr(-abs(difference) / deviation))
