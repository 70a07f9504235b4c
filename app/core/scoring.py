"""The model in force, and which events of a run it scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from app.core.batches import Floats, Ints
from models.reference.reference import Reference
from models.versions.manifest import Manifest
from schemas.pipeline.spec import Pipeline

#: In place of a model: the event is left unscored.
UNSCORED = -1
_ALWAYS = np.iinfo(np.int64).min


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

    @classmethod
    def champion(cls, pipeline: Pipeline, manifest: Manifest, scorer: Scorer) -> ActiveModel:
        """A version of a pipeline's model, as champion; ManifestError when its reference cannot be read."""
        return cls(
            model=manifest.model,
            version=manifest.version,
            role="champion",
            feature_set=manifest.feature_set,
            threshold=pipeline.model.threshold,
            scorer=scorer,
            reference=manifest.read_reference(),
        )


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
        """Cut a run of events into stretches of one version each, in order; what is in none is left unscored."""


class ChampionTimeline:
    """The loaded champions, in the order in which they were promoted.

    In force at event time t: the champion promoted last among those valid at t. Where there is none, and before
    ``score_from_ms``, events are left unscored. Replaced as a whole, never changed: a run of events sees one timeline.
    """

    def __init__(self, champions: Sequence[ActiveModel] = (), score_from_ms: int | None = None) -> None:
        self._champions = tuple(champions)
        begins = [champion.valid_from_ms if champion.valid_from_ms is not None else _ALWAYS for champion in champions]
        starts = np.maximum(np.array(begins, np.int64), score_from_ms if score_from_ms is not None else _ALWAYS)
        self._bounds = np.unique(starts)
        #: Who is in force before the first bound, and from each of them on.
        self._places = np.full(len(self._bounds) + 1, UNSCORED, np.int64)
        for place, start in enumerate(starts.tolist()):
            self._places[1:][self._bounds >= start] = place

    @property
    def champions(self) -> tuple[ActiveModel, ...]:
        return self._champions

    def is_ready(self) -> bool:
        return bool(self._champions)

    def runs(self, offsets: Ints, event_time_ms: Ints) -> list[ModelRun]:  # noqa: ARG002  # by time, not by offset
        return cut_runs(self._champions, self._places[np.searchsorted(self._bounds, event_time_ms, side="right")])


def cut_runs(models: Sequence[ActiveModel], places: Ints) -> list[ModelRun]:
    """Stretches of the same model.

    Parameters
    ----------
    places
        Each event's place in ``models``, or `UNSCORED`.
    """
    edges = [0, *((np.flatnonzero(places[1:] != places[:-1]) + 1).tolist() if len(places) > 1 else ()), len(places)]
    return [
        ModelRun(start, stop, models[places[start]])
        for start, stop in pairwise(edges)
        if start < stop and places[start] != UNSCORED
    ]
