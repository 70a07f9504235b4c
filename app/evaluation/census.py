"""Performance without labels against what came true, on real scores and labels in windows.

Made for the US census of Massachusetts (2015 as the reference, 2016 to 2018 as the stream), and for any other set of
scores and labels in their order. It runs what the product runs: the reference's cells, counts in them, estimates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import log_loss, roc_auc_score

from app.core.batches import Floats, Ints
from app.core.performance.estimation import calibrate, estimate
from app.core.performance.label_checks import LabelCheck, check_labels
from app.core.performance.order_weights import order_weights
from models.reference.counting import count, count_outcomes
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents

MEASURES = ("auc", "accuracy", "log_loss")
#: The score's row among the metrics of a reference.
_SCORE_ROW = -2
_BINS = 64


@dataclass(frozen=True)
class MeasureErrors:
    """How far estimates of one measure are from what the windows realise; NaN where a window has one label only.

    ``mean``, ``largest``: of the absolute error; ``bias``: of the error with its sign. ``constant``: the mean absolute
    error of always saying what the reference has; ``previous``: of saying what the window before realised, which
    nobody knows in time. ``coverage``: the share of windows within their 95 % band.
    """

    name: str
    mean: float
    largest: float
    bias: float
    constant: float
    previous: float
    coverage: float


@dataclass(frozen=True, eq=False)
class CensusFigures:
    """The errors per measure of `MEASURES`, and what they are made of: windows x measures, and a check per window."""

    errors: tuple[MeasureErrors, ...]
    design_effects: Mapping[str, float]
    realised: Floats
    estimated: Floats
    low: Floats
    high: Floats
    checks: tuple[LabelCheck, ...]


def census(
    reference_scores: Floats,
    reference_labels: Floats,
    scores: Floats,
    labels: Floats,
    *,
    threshold: float = 0.5,
    window: int = 5000,
) -> CensusFigures:
    """Estimate each window's performance from its scores alone and compare it with what its labels say.

    Parameters
    ----------
    reference_scores, reference_labels
        In their order: events that the model was not fitted on.
    scores, labels
        The stream in its order, cut to windows of ``window`` events; the last one is as long as it is. Rows without
        score or label (NaN) are left out on both sides.
    threshold
        A score at or above it is a positive decision.
    """
    reference_scores, reference_labels = _known(reference_scores, reference_labels)
    scores, labels = _known(scores, labels)
    reference = fit_reference(
        TrainingEvents(np.empty((len(reference_scores), 0)), reference_scores, reference_labels), [], _BINS, threshold
    )
    calibration = calibrate(reference)
    weights = order_weights(reference.training.outcomes, reference.mean_scores)
    truth = _realise(reference_scores, reference_labels, threshold)
    realised, bands, checks = [], [], []
    for start in range(0, len(scores), window):
        cut = slice(start, start + window)
        seen = {expected.name: expected for expected in estimate(calibration, _count_scores(reference, scores[cut]))}
        bands.append([seen[name][1:4] for name in MEASURES])
        realised.append(_realise(scores[cut], labels[cut], threshold))
        outcomes = count_outcomes(reference, scores[cut], labels[cut]).outcomes
        checks.append(check_labels(reference.training.outcomes, outcomes, weights, calibration.design_effects["rate"]))
    true, (estimated, low, high) = np.array(realised), np.array(bands).transpose(2, 0, 1)
    return CensusFigures(
        errors=tuple(
            MeasureErrors(
                name=name,
                mean=float(np.abs(error).mean()),
                largest=float(np.abs(error).max()),
                bias=float(error.mean()),
                constant=float(np.abs(column - constant).mean()),
                previous=float(np.abs(np.diff(column)).mean()) if len(column) > 1 else math.nan,
                coverage=float(within.mean()),
            )
            for name, column, error, within, constant in zip(
                MEASURES, true.T, (estimated - true).T, ((low <= true) & (true <= high)).T, truth, strict=True
            )
        ),
        design_effects=calibration.design_effects,
        realised=true,
        estimated=estimated,
        low=low,
        high=high,
        checks=tuple(checks),
    )


def _known(scores: Floats, labels: Floats) -> tuple[Floats, Floats]:
    known = ~(np.isnan(scores) | np.isnan(labels))
    return scores[known], labels[known]


def _count_scores(reference: Reference, scores: Floats) -> Ints:
    counted: Ints = count(reference, np.empty((len(scores), 0)), scores).counts[_SCORE_ROW, : reference.score_cells]
    return counted


def _realise(scores: Floats, labels: Floats, threshold: float) -> tuple[float, float, float]:
    """What the rows themselves say, without cells."""
    area = float(roc_auc_score(labels, scores)) if len(np.unique(labels)) == 2 else math.nan
    return area, float(((scores >= threshold) == labels).mean()), float(log_loss(labels, scores, labels=[0, 1]))
