"""What all runs over past events need: which steps count, who scores them, and which a version was trained on."""

from __future__ import annotations

import numpy as np

from app.adapters.recordings.part import RecordingPart
from app.core.batches import Ints
from app.core.scoring import ModelRun, ModelSelector
from app.flow.step import Step
from models.versions.manifest import TrainingData


class PartSelector:
    """Scores the events of a part; those of its warm-up only fill the windows."""

    def __init__(self, models: ModelSelector, part: RecordingPart, partition: int) -> None:
        self._models = models
        self._part = part
        self._partition = partition

    def is_ready(self) -> bool:
        """Whether any event can be scored at all."""
        return self._models.is_ready()

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:
        """The stretches that one version scores; none in the warm-up. No batch is partly of the warm-up."""
        if len(offsets) and not self._part.counts(self._partition, int(offsets[0])):
            return []
        return self._models.runs(offsets, event_time_ms)


def is_counted(step: Step, part: RecordingPart) -> bool:
    """Whether a step holds events that count."""
    return len(step.events) > 0 and part.counts(step.partition, int(step.events.offsets[0]))


def count_rejected(step: Step, part: RecordingPart) -> int:
    """The events of a step that count and could not be scored."""
    return sum(
        letter.stage != "label" and part.counts(step.partition, letter.source.offset) for letter in step.dead_letters
    )


class TrainingRows:
    """Counts events that the version was trained on; a stream has others score them (`models.versions.timeline`)."""

    def __init__(self, version: str, training: TrainingData) -> None:
        self.count = 0
        self._version = version
        self._training = training

    def add(self, event_time_ms: Ints) -> None:
        """Count those among these scored events."""
        inside = (event_time_ms >= self._training.from_ms) & (event_time_ms < self._training.to_ms)
        self.count += int(np.count_nonzero(inside))

    def lines(self) -> list[str]:
        """What there is to say: nothing, or one sentence."""
        if not self.count:
            return []
        return [f"{self.count:,} of them are of the time that {self._version} was trained on: they flatter it."]
