"""The model in force, and which events of a run it scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from app.core.batches import Floats, Ints
from models.reference import Reference


class Scorer(Protocol):
    """Turns feature rows into probabilities of the positive class.

    A row's score may not depend on the rows it travels with: replays cut batches elsewhere.
    """

    def score(self, matrix: Floats) -> Floats:
        """Scores (n,) of the feature matrix (n, n_features), each in [0, 1]."""


@dataclass(frozen=True, eq=False)
class ActiveModel:
    """A verified model version, ready to score. ``valid_from_ms``: event time it is in force from (None: always)."""

    model: str
    version: str
    role: str
    feature_set: str
    threshold: float
    scorer: Scorer
    reference: Reference
    valid_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRun:
    """Events start…stop are scored by one version."""

    start: int
    stop: int
    model: ActiveModel


class ModelSelector(Protocol):
    """Says which version scores which event."""

    def is_ready(self) -> bool:
        """Whether any event can be scored at all."""

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:
        """Cut a run of events into stretches of one version each, in order and without gaps."""


class ChampionTimeline:
    """The loaded champions, in the order in which they were announced.

    In force at event time t: the champion announced last among those valid at t; before the first valid time, the first
    champion. Replaced as a whole, never changed: a run of events sees one timeline.
    """

    def __init__(self, champions: Sequence[ActiveModel] = ()) -> None:
        self._champions = tuple(champions)

    @property
    def champions(self) -> tuple[ActiveModel, ...]:
        return self._champions

    def is_ready(self) -> bool:
        return bool(self._champions)

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:  # noqa: ARG002  # by time, not by offset
        chosen = np.zeros(len(event_time_ms), dtype=np.int64)
        for place, champion in enumerate(self._champions):
            if champion.valid_from_ms is None:
                chosen[:] = place
            else:
                chosen[event_time_ms >= champion.valid_from_ms] = place
        return cut_runs([self._champions[place] for place in chosen.tolist()])


def cut_runs(models: Sequence[ActiveModel]) -> list[ModelRun]:
    """Stretches of the same version."""
    runs: list[ModelRun] = []
    start = 0
    for row in range(1, len(models) + 1):
        if row == len(models) or models[row] is not models[start]:
            runs.append(ModelRun(start, row, models[start]))
            start = row
    return runs
