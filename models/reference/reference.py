"""The reference of a model version: the cells its metrics are counted in, and their counts in training.

Training fits it (`models.reference.fit`) and the manifest keeps it; scoring counts events in its cells, and labels as
they arrive (`models.reference.counting`). Counts are integers and add exactly, so what a window holds does not depend
on how its events were cut into batches, nor on the number of partitions and workers.

The metrics of a reference are its features in signature order, then ``"score"``, then ``"outcome"``.

Cells
-----
* numeric features and the score: cell i holds ``edges[i-1] <= x < edges[i]``. Edges are frozen with the version. A
  value that is frequent in training has a cell to itself, ``[v, nextafter(v))``; with few distinct values, each does.
  The first and the last cell hold what lies outside of the training range.
* category: the cell is the code; the last code is any value that is not in the vocabulary.
* outcome: label 0 and label 1.
* the last used cell of each metric is "missing": NaN; for a category or a label, whatever is not one of its codes.

Infinite values of a numeric metric are values: they count in the outer cells and show as minimum or maximum.

The score's cells serve drift and performance. They are as fine as the training scores are dense, at least as fine as a
grid of ``GRID`` over [0, 1] (scores may move where there were none), and one begins at the threshold: a rank curve
(AUC) over them is within 1e-3 of the raw scores', and decisions are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.reference.error_hours import ErrorHours
from models.reference.soundness import CellLaws
from models.reference.units import COUNT_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Cells of the score over [0, 1], at least.
GRID = 64

SCORE = "score"
OUTCOME = "outcome"

MetricKind = Literal["numeric", "category", "score", "outcome"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MetricCells:
    """The cells of one metric.

    Parameters
    ----------
    edges
        Interior edges, ascending (numeric and score; else empty).
    codes
        Number of codes (category and outcome; else 0).
    scale
        Fixed-point units of 1.0: a power of two, at most ``COUNT_UNITS``.
    values
        The vocabulary of a category: what its codes, except the last, stand for. Empty where it is not known.
    """

    name: str
    kind: MetricKind
    edges: Floats
    codes: int = 0
    scale: float = float(COUNT_UNITS)
    values: tuple[str, ...] = ()

    @property
    def is_coded(self) -> bool:
        return self.kind in {"category", "outcome"}

    @property
    def size(self) -> int:
        """Number of cells besides "missing"; also the position of "missing"."""
        return self.codes if self.is_coded else len(self.edges) + 1

    @cached_property
    def ladder(self) -> Floats:
        """What each cell but the first begins with; "missing" begins with NaN, which sorts after everything else."""
        return np.append(np.arange(1.0, self.codes) if self.is_coded else self.edges, np.nan)

    def codes_or_nan(self, codes: Floats) -> Floats:
        """The codes that have cells; NaN in the place of any other number."""
        return np.where((codes >= 0) & (codes < self.codes) & (codes == np.floor(codes)), codes, np.nan)


@dataclass(eq=False)
class Counts:
    """What is known of a set of events: integers, extremes, and nothing that depends on their order.

    Parameters
    ----------
    n
        Events.
    counts
        Metrics x cells. The row of the outcome counts labels as they arrive, so it need not add up to ``n``.
    sums
        Per metric, in units of its ``scale``.
    minima, maxima
        Per metric; NaN when it has no value.
    outcomes
        Label (0 or 1) x cell of the score, of the events whose label has arrived.
    log_loss_sum
        Over those, in units of ``COUNT_UNITS``.
    n_correct
        Those whose decision (score >= threshold) was right.
    """

    n: int
    counts: Ints
    sums: Ints
    minima: Floats
    maxima: Floats
    outcomes: Ints
    log_loss_sum: int = 0
    n_correct: int = 0

    @classmethod
    def zeros(cls, n_metrics: int, width: int, score_cells: int) -> Counts:
        """Count no events: the neutral element of ``+``."""
        return cls(
            n=0,
            counts=np.zeros((n_metrics, width), np.int64),
            sums=np.zeros(n_metrics, np.int64),
            minima=np.full(n_metrics, np.nan),
            maxima=np.full(n_metrics, np.nan),
            outcomes=np.zeros((2, score_cells), np.int64),
        )

    def __add__(self, other: Counts) -> Counts:
        """Count both sets of events together; exact, associative and commutative."""
        return Counts(
            n=self.n + other.n,
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            minima=np.fmin(self.minima, other.minima),
            maxima=np.fmax(self.maxima, other.maxima),
            outcomes=self.outcomes + other.outcomes,
            log_loss_sum=self.log_loss_sum + other.log_loss_sum,
            n_correct=self.n_correct + other.n_correct,
        )

    @property
    def n_labels(self) -> int:
        return int(self.outcomes.sum())


@dataclass(frozen=True, eq=False)
class Reference:
    """The metrics of a version and what is known of its training data.

    Parameters
    ----------
    metrics
        The features, the score, the outcome.
    training
        Their counts. The scores are of rows that the model had not seen, so ``training.outcomes`` calibrate them.
    threshold
        A score at or above it is a positive decision.
    design_effects
        Per metric: how many neighbouring events count as one (`models.reference.dependence`).
    profiles
        Metrics x cells: mean score of the events in a cell; NaN where there are none.
    outcome_blocks
        Block x label x score cell: ``training.outcomes`` in consecutive blocks of events, which show how labels err
        together for a while.
    segments
        The counts of each segment that had events in training, by name.
    label_effect
        How many labels count as one, beyond what their scores explain.
    errors
        Where decisions were wrong: by the hours of the week, and how errors depend on each other beyond that.
    tail_effects
        As ``design_effects``, of the largest and smallest values; None, in references of former releases: the same.
    """

    metrics: tuple[MetricCells, ...]
    training: Counts
    threshold: float
    design_effects: Floats
    profiles: Floats
    outcome_blocks: Ints
    segments: Mapping[str, Counts] = field(default_factory=dict)
    errors: ErrorHours = field(default_factory=ErrorHours.none)
    label_effect: float = 1.0
    tail_effects: Floats | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(metric.name for metric in self.metrics)

    @property
    def n(self) -> int:
        return self.training.n

    @property
    def counts(self) -> Ints:
        return self.training.counts

    @property
    def sums(self) -> Ints:
        return self.training.sums

    @property
    def minima(self) -> Floats:
        return self.training.minima

    @property
    def maxima(self) -> Floats:
        return self.training.maxima

    @cached_property
    def width(self) -> int:
        """Columns of a counts matrix: the cells of the widest metric, its "missing" included."""
        return max(metric.size for metric in self.metrics) + 1

    @cached_property
    def scales(self) -> Floats:
        return np.array([metric.scale for metric in self.metrics[:-1]])

    @cached_property
    def sizes(self) -> Ints:
        return np.array([metric.size for metric in self.metrics[:-1]])

    @cached_property
    def ladders(self) -> list[tuple[int, Floats]]:
        return [(metric.size, metric.ladder) for metric in self.metrics[:-1]]

    @cached_property
    def coded_rows(self) -> list[int]:
        return [row for row, metric in enumerate(self.metrics[:-1]) if metric.is_coded]

    @cached_property
    def laws(self) -> CellLaws:
        return CellLaws(self)

    @property
    def score_cells(self) -> int:
        """Cells of the score, "missing" aside."""
        return self.metrics[-2].size

    @property
    def threshold_cell(self) -> int:
        """The first cell of the score whose decision is positive."""
        return int(np.searchsorted(self.metrics[-2].edges, self.threshold)) + 1

    def zeros(self) -> Counts:
        return Counts.zeros(len(self.metrics), self.width, self.score_cells)

    def by_segment(self) -> list[tuple[str, Counts]]:
        """List the training counts by segment, those of all events first."""
        return [("all", self.training), *sorted(self.segments.items())]

    @property
    def mean_scores(self) -> Floats:
        """The mean score of the events in each score cell; NaN for an empty one."""
        return self.profiles[-2, : self.score_cells]

    def mean(self, counts: Counts, metric: int) -> float:
        """Mean of the values of one metric that are not missing; NaN without any."""
        row = counts.counts[metric]
        present = int(row.sum()) - int(row[self.metrics[metric].size])
        if present == 0:
            return math.nan
        return float(counts.sums[metric]) / self.metrics[metric].scale / present
