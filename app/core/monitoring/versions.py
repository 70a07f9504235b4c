"""What the monitor knows of one model version."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from app.core.alerts.course import limits, strictest
from app.core.alerts.words import Detected
from app.core.counts.calendar import Window
from app.core.drift.describer import Describer
from app.core.drift.judge import Judge
from app.core.errors.fair import FairErrors
from app.core.errors.watch import ErrorWatch, training_errors_of
from app.core.performance.measures import auc, measure
from app.core.verdict.diagnosis import MEASURE, Diagnosis
from models.reference.as_json import to_json
from models.reference.spans import memories_of

if TYPE_CHECKING:
    from app.core.batches import Floats
    from app.core.counts.windows import Stage
    from app.core.errors.detectors import Make
    from app.core.features.origins import Origins
    from models.reference.reference import Reference
    from schemas.pipeline.spec import Pipeline


@dataclass(eq=False)
class WatchedVersion:
    """A registered version, and what follows its windows and errors.

    Parameters
    ----------
    training_metrics
        What ``falls_by`` of alert rules compares with, by measure.
    training
        Event time of the training data.
    is_announced
        Whether its training has been reported.
    detections
        What the detectors of wrong decisions found.
    n_seen
        Of the labels that these have seen: how many, by the slice of their time.
    """

    reference: Reference
    training_metrics: dict[str, float]
    training: Window
    judge: Judge
    diagnosis: Diagnosis
    errors: ErrorWatch
    fair: FairErrors
    is_announced: bool = False
    detections: list[Detected] = field(default_factory=list)
    n_seen: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        reference: Reference,
        training_metrics: dict[str, float],
        training: Window,
        *,
        origins: Origins,
        make_detector: Make,
    ) -> WatchedVersion:
        """A version that nothing is known of but its training."""
        drift, settings = pipeline.drift, pipeline.performance
        known_auc = training_metrics.get(MEASURE, auc(reference.training.outcomes))
        rules = [rule for rule in pipeline.alerts if (rule.on, rule.measure) == ("performance", MEASURE)]
        least = strictest(limit for rule in rules for limit in limits(rule, known_auc))
        trained = training_errors_of(reference, training, drift)
        return cls(
            reference,
            dict(training_metrics),
            training,
            Judge(reference, drift.tests, memories_of(pipeline)),
            Diagnosis(reference, least, pipeline.events.plural, settings, origins),
            ErrorWatch(drift.detectors, trained, make_detector, settings.maturity_ms),
            FairErrors(reference),
        )

    @cached_property
    def describer(self) -> Describer:
        return Describer(self.reference)

    @cached_property
    def training_deciles(self) -> Floats:
        """Of all metrics."""
        return self.describer.describe(self.reference.training, range(len(self.reference.metrics))).deciles

    def metrics(self, stage: Stage) -> range:
        """Which metrics are judged at a stage: the outcome alone, or all but that."""
        outcome = len(self.reference.metrics) - 1
        return range(outcome, outcome + 1) if stage == "labels" else range(outcome)

    def measured(self) -> dict[str, float]:
        """The measures of its training, by name: those that it came with, and those that its counts give."""
        own = {name: value for name, value, _, _ in measure(self.reference.training, self.diagnosis.calibration)}
        return {**own, **self.training_metrics}

    def to_state(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "reference": to_json(self.reference),
            "training_metrics": self.training_metrics,
            "training": [self.training.start_ms, self.training.end_ms],
            "is_announced": self.is_announced,
            "errors": self.errors.snapshot(),
            "fair": self.fair.snapshot(),
            "detections": self.detections,
            "n_seen": sorted(self.n_seen.items()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `to_state` gave of the same version, but for its training."""
        self.is_announced = state["is_announced"]
        self.errors.restore(state["errors"])
        self.fair.restore(state["fair"])
        self.detections = [Detected(*values) for values in state["detections"]]
        self.n_seen = dict(map(tuple, state["n_seen"]))
