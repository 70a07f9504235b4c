"""One run of events that went through the flow."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Flag, auto

import numpy as np

from app.core.batches import EventBatch, Floats
from app.core.intake.joining import JoinedLabels
from app.core.intake.pending import REJECTED
from app.core.scoring import ActiveModel
from schemas.wire import DeadLetter

#: A record to publish: key, value (None: tombstone), time stamp in milliseconds.
Outgoing = tuple[bytes | None, bytes | None, int]


class FlowOutput(Flag):
    """What is wanted of a flow."""

    #: Scores, so events wait for a model. Without: the flow stops at the features (training sets).
    SCORES = auto()
    #: The scores as records to publish. Without: as arrays alone.
    RECORDS = auto()
    #: The changelog of the state, and the counts. Without: nothing will be drained.
    STATE = auto()
    NONE = 0
    REPLAYED = SCORES | RECORDS
    ALL = SCORES | RECORDS | STATE


@dataclass(slots=True)
class Step:
    """What one run of events gave. Events, feature matrix, scores and versions stay aligned, in offset order.

    ``applied``: the events that were counted in windows. They are ``events``, and those that were rejected afterwards.
    Events that are in none of ``runs`` were left unscored: their score is NaN, and nothing of them goes out.
    """

    partition: int
    events: EventBatch
    matrix: Floats
    scores: Floats
    runs: list[tuple[int, int, ActiveModel]]
    labels: JoinedLabels
    applied: EventBatch
    outgoing_scores: list[Outgoing] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    is_stale: bool = False  # scored without labels, or without others, that should have been waited for

    @property
    def n_scored(self) -> int:
        """How many of the events were scored."""
        return sum(stop - start for start, stop, _ in self.runs)

    def scored(self) -> Step:
        """The events that were scored, by themselves and without labels."""
        if self.n_scored == len(self.events):
            return self
        rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(start, stop) for start, stop, _ in self.runs)])
        runs, reached = [], 0
        for start, stop, model in self.runs:
            runs.append((reached, reached + stop - start, model))
            reached = runs[-1][1]
        events, scores = self.events.take(rows), self.scores[rows]
        return replace(self, events=events, matrix=self.matrix[rows], scores=scores, runs=runs, labels=JoinedLabels())

    def leave_out(self, rejected: list[int]) -> None:
        """Keep what has a score: not the rows ``rejected`` (ascending), and no labels of such events."""
        self.labels = self.labels.without(rejected)
        if not rejected:
            return
        kept = np.setdiff1d(np.arange(len(self.events)), rejected)
        edges = np.searchsorted(kept, np.array([run[:2] for run in self.runs]).reshape(-1, 2)).tolist()
        whole: list[tuple[int, int, ActiveModel]] = []
        for (start, stop), (*_, model) in zip(edges, self.runs, strict=True):
            first = whole.pop()[0] if whole and whole[-1][1:] == (start, model) else start
            whole.append((first, stop, model))
        self.runs = whole
        self.events, self.matrix, self.scores = self.applied.take(kept), self.matrix[kept], self.scores[kept]


def versions_of(step: Step, rejected: list[int]) -> list[tuple[int, int, str]]:
    """The stretches of one version each, in order; "" is the version of events that were left unscored."""
    known = [(start, stop, model.version) for start, stop, model in step.runs]
    stretches, reached = [], 0
    for start, stop, version in sorted([*known, *((row, row + 1, REJECTED) for row in rejected)]):
        if start > reached:
            stretches.append((reached, start, ""))
        stretches.append((start, stop, version))
        reached = stop
    if reached < len(step.events):
        stretches.append((reached, len(step.events), ""))
    return stretches
