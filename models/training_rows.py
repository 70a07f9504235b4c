"""The events that a version learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.versions.manifest import LabelFacts, TrainingData, digest_training_data

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Labelled events: matrix [n x features], labels (0 or 1) and event times [n].

    Columns are in the pipeline's order. NaN is missing. A category is its code, and a code past its vocabulary is a
    value that is not in it.
    """

    matrix: Floats
    labels: Floats
    event_time_ms: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Ints | Bools | slice) -> LabelledRows:
        """Some of the rows, or all in another order."""
        return LabelledRows(self.matrix[rows], self.labels[rows], self.event_time_ms[rows])

    def beside(self, other: LabelledRows) -> LabelledRows:
        """These rows, and after them the others."""
        return LabelledRows(
            np.concatenate([self.matrix, other.matrix]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.event_time_ms, other.event_time_ms]),
        )


@dataclass(frozen=True, eq=False)
class WeighedRows(LabelledRows):
    """Labelled events, and how many events each stands for: weights [n]."""

    weights: Floats


@dataclass(frozen=True, eq=False)
class TrainingRange:
    """What a version learns from: the labelled events of a range of event time, and what is known of its other events.

    Parameters
    ----------
    rows
        The labelled events that are old enough for their labels to have come. They may be in any order; those of equal
        times keep theirs.
    from_ms, to_ms
        The half-open range of event time that was asked for.
    event_rows
        Events in the range, those without a label included; None: as many as rows.
    young
        Events whose labels have not all come. They are fitted on by weight beside the others; they judge nothing, and
        are in no reference.
    label_facts
        What was known of the labels, for the manifest.
    """

    rows: LabelledRows
    from_ms: int
    to_ms: int
    event_rows: int | None = None
    young: WeighedRows | None = None
    label_facts: LabelFacts | None = None

    def in_time_order(self) -> TrainingRange:
        order = np.argsort(self.rows.event_time_ms, kind="stable")
        return replace(self, rows=self.rows.take(order))

    @property
    def labelled_share(self) -> float:
        """The share of the events old enough that have a label."""
        unlabelled = self.label_facts.unlabelled_rows if self.label_facts is not None else 0
        return len(self.rows) / (len(self.rows) + unlabelled)

    def to_fit(self) -> tuple[LabelledRows, Floats | None]:
        """All rows to fit on, and their weights; None: each counts once."""
        if self.young is None:
            return self.rows, None
        weights = np.concatenate([np.ones(len(self.rows)), self.young.weights])
        return self.rows.beside(self.young), weights

    def describe(self, fitted_on: LabelledRows) -> TrainingData:
        """For the manifest; ``fitted_on``: the rows of `to_fit`."""
        return TrainingData(
            from_ms=self.from_ms,
            to_ms=self.to_ms,
            rows=len(self.rows) if self.event_rows is None else self.event_rows,
            labelled_rows=len(self.rows),
            positive_share=float(self.rows.labels.mean()),
            sha256=digest_training_data(fitted_on.matrix, fitted_on.labels, fitted_on.event_time_ms),
            label_facts=self.label_facts,
        )
