"""What labels say against the scores of a version's windows and their segments, in units of what matters.

A segment is held against its own part of training: a model may be off in a segment from the start (it misses what makes
that segment different), and that is no drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.sketches import ALL
from app.core.performance.calibration import fit_calibration
from app.core.performance.estimation import calibrate
from app.core.performance.label_checks import ALL_ARRIVED, LabelCheck, check_labels
from app.core.performance.measures import least_loss, loss_of
from app.core.performance.order_weights import Weights, order_weights
from app.core.verdict.situation import Misfit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.batches import Ints
    from app.core.findings import PerformanceRow
    from app.core.performance.calibration import Calibration
    from models.reference.reference import Counts, Reference
    from schemas.pipeline.spec import Performance

#: A segment has a calibration of its own from so many labels of either kind in training.
_FEWEST_LABELS = 50


@dataclass(eq=False)
class Misfits:
    """The labels of one version's windows against its reference.

    Parameters
    ----------
    reference
        Of the version.
    performance
        What matters, and what errors cost.
    """

    reference: Reference
    performance: Performance
    _calibrations: dict[str, Calibration] = field(default_factory=dict)
    _weights: dict[str, Weights] = field(default_factory=dict)

    def calibration(self, segment: str = ALL) -> Calibration:
        """What scores mean in a segment."""
        if segment not in self._calibrations:
            self._calibrations[segment] = self._calibrate(segment)
        return self._calibrations[segment]

    def check(self, counts: Counts, segment: str = ALL, arrived: tuple[float, float] = ALL_ARRIVED) -> LabelCheck:
        """Test the labels of a window's segment; ``arrived``: the shares of the labels 0 and 1 that are here."""
        outcomes = self._outcomes(segment)
        if segment not in self._weights:
            self._weights[segment] = order_weights(outcomes, self.reference.mean_scores)
        return check_labels(
            outcomes,
            counts.outcomes,
            self._weights[segment],
            self.reference.label_effect,
            arrived,
            prior_effect=float(self.reference.design_effects[-1]),
        )

    def tell(self, check: LabelCheck, counts: Counts, rows: Iterable[PerformanceRow], segment: str = ALL) -> Misfit:
        """Say what a test found, and how much it is worth; ``rows``: the performance of that segment of the window."""
        outcomes = self._outcomes(segment)
        rate = float(outcomes[1].sum() / max(outcomes.sum(), 1))
        deviation = math.sqrt(rate * (1 - rate)) or 1.0
        n = counts.n_labels
        realised = float(counts.outcomes[1].sum()) / n if n else math.nan
        return Misfit(
            p_direction=check.p_direction,
            gap=check.rate_gap / deviation,
            rate_expected=realised - check.rate_gap,
            rate_realised=realised,
            p_order=check.p_order,
            losses=self._losses(rows),
            p_shape=check.p_shape,
            effect=check.effect / deviation,
            segment="" if segment == ALL else segment,
            n=n,
        )

    def _losses(self, rows: Iterable[PerformanceRow]) -> dict[str, float]:
        losses = {}
        for row in rows:
            effect = self.performance.minimum_effects.get(row.measure)
            if effect is not None and not math.isnan(row.realised - row.expected):
                least = least_loss(row.measure, effect, row.expected)
                losses[row.measure] = loss_of(row.measure, row.realised, row.expected) / least if least > 0 else 0.0
        return losses

    def _outcomes(self, segment: str) -> Ints:
        counts = self.reference.training if segment == ALL else self.reference.segments.get(segment)
        return counts.outcomes if counts is not None else np.zeros_like(self.reference.training.outcomes)

    def _calibrate(self, segment: str) -> Calibration:
        if segment == ALL:
            return calibrate(self.reference, self.performance.costs)
        outcomes = self._outcomes(segment)
        if outcomes.sum(axis=1).min() < _FEWEST_LABELS:
            return self.calibration()
        reference, effects = self.reference, self.calibration().design_effects
        return fit_calibration(
            outcomes, reference.threshold_cell, reference.mean_scores, effects, self.performance.costs
        )
