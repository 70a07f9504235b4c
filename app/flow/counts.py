"""What is counted of a partition's runs, by version and slice of time, until it is drained for the sketches topic."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from app.core.batches import Ints
from app.core.counts.buffer import SketchBuffer
from app.core.counts.label_tally import LabelTally
from app.core.entities.log import EntityLog
from app.core.intake.last_scored import LastScored
from app.core.intake.merge import BEGINNING_MS
from app.core.scoring import ActiveModel
from app.flow.step import Step
from models.reference.reference import Reference
from models.reference.segments import Segments
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord

#: Stretches of a run, each with its version.
Versions = list[tuple[int, int, str]]


class FlowCounts:
    """The counts of one partition.

    Parameters
    ----------
    is_kept
        False: nothing will be drained, so nothing is counted.
    entities
        What the labels are looked up in; None: entities are not watched.
    """

    def __init__(self, pipeline: Pipeline, partition: int, entities: EntityLog | None, *, is_kept: bool) -> None:
        self._partition = partition
        self._is_kept = is_kept
        self._has_labels = pipeline.labels is not None
        self._maturity_ms = pipeline.performance.maturity_ms
        self.segments = Segments.of(pipeline)
        self._sketch = SketchBuffer(pipeline.model.name, pipeline.drift.slice_ms, self.segments)
        self._references: dict[str, Reference] = {}
        self.last_scored = LastScored(self._maturity_ms)
        #: Labels as they are applied.
        self.labels = LabelTally(pipeline.drift.slice_ms, entities)
        self._unscored_ms: list[Ints] = []
        self._said = BEGINNING_MS, BEGINNING_MS

    def know(self, version: str, reference: Reference) -> None:
        """Give the cells of a version."""
        self._references.setdefault(version, reference)

    def add_scored(self, step: Step, rows: slice, model: ActiveModel) -> None:
        """Count what a model has scored."""
        if self._is_kept:
            self.know(model.version, model.reference)
            times_ms = step.events.event_time_ms[rows]
            self._sketch.add_scored(model.version, model.reference, times_ms, step.matrix[rows], step.scores[rows])

    def add_unscored(self, step: Step, rejected: list[int]) -> None:
        """Count the events that no version scored; ``rejected``: rows that are not scored as they failed."""
        if len(step.events) == step.n_scored + len(rejected):
            return
        is_unscored = np.ones(len(step.events), np.bool_)
        is_unscored[rejected] = False
        for start, stop, _ in step.runs:
            is_unscored[start:stop] = False
        self._unscored_ms.append(step.events.event_time_ms[is_unscored])

    def segments_of(self, step: Step) -> list[tuple[int, ...]]:
        """The segments of each event of the run, for when its label comes."""
        if not (self.segments and self._is_kept and self._has_labels):
            return [()] * len(step.events)
        return list(map(tuple, self.segments.find(step.matrix).T.tolist()))

    def add_labels(self, step: Step, segments: list[tuple[int, ...]], versions: Versions) -> None:
        """Count the labels of a run beside the scores of their events."""
        if not self._is_kept:
            return
        maturity_ms = self._maturity_ms
        groups: dict[str, list[tuple[int, float, float, int, bool, tuple[int, ...]]]] = defaultdict(list)
        joined = step.labels.scored(versions, step.events.event_time_ms, step.scores, segments)
        for label, at_ms, before, (version, time_ms, score, of_event) in zip(
            step.labels.label, step.labels.effective_ms, step.labels.before, joined, strict=True
        ):
            is_told = at_ms <= time_ms + maturity_ms or self.last_scored.counts(at_ms, version, before)
            groups[version].append((time_ms, score, label, at_ms, is_told, of_event))
        for version, rows in groups.items():
            reference = self._references.get(version)
            if reference is not None:
                *columns, of_events = zip(*rows, strict=True)
                times, scores, labels, at, are_told = (np.array(column) for column in columns)
                self._sketch.add_labelled(version, reference, times, scores, labels, of_events)
                known = np.isfinite(scores) & are_told
                wrong = (scores >= reference.threshold) != (labels == 1)
                # Labels that come early are of one outcome as a rule: an error counts when all of its day can be known.
                counts_ms = np.maximum(at, times + maturity_ms)
                self._sketch.add_errors(version, counts_ms[known], wrong[known], labels[known] == 1, times[known])

    def drain(self, watermark_ms: int, label_watermark_ms: int) -> SketchRecord | None:
        """What was counted since the last drain, and how far the partition has come; None if neither moved."""
        deltas, labels, delays = self._sketch.drain(), self.labels.drain(), self.labels.drain_delays()
        unscored, since_ms = self._drain_unscored()
        marks = watermark_ms, label_watermark_ms
        if not deltas and not labels and not unscored and marks == self._said:
            return None
        self._said = marks
        errors = self._sketch.drain_errors()
        return SketchRecord(self._partition, *marks, deltas, errors, unscored, labels, delays, since_ms)

    def _drain_unscored(self) -> tuple[int, int | None]:
        """How many events were left unscored since the last drain, and before when a twentieth of them happened."""
        if not self._unscored_ms:
            return 0, None
        times_ms, self._unscored_ms = np.concatenate(self._unscored_ms), []
        place = len(times_ms) // 20
        return len(times_ms), int(np.partition(times_ms, place)[place])
