"""The reference of a model version: the cells its metrics are counted in, and their counts in training.

Training fits it (`fit_reference`) and the manifest keeps it; scoring counts events in its cells (`count`) and labels as
they arrive (`count_outcomes`). Counts are integers and add exactly, so what a window holds does not depend on how its
events were cut into batches, nor on the number of partitions and workers.

The metrics of a reference are its features in signature order, then ``"score"``, then ``"outcome"``.

Cells
-----
* numeric features and the score: cell i holds ``edges[i-1] <= x < edges[i]``. Edges are frozen with the version. A
  value that is frequent in training has a cell to itself, ``[v, nextafter(v))``; with few distinct values each has.
  The first and the last cell hold what lies outside of the training range.
* category: the cell is the code.
* outcome: label 0 and label 1.
* the last used cell of each metric is "missing": NaN; for a category or a label, whatever is not one of its codes.

Infinite values of a numeric metric are values: they count in the outer cells and show as minimum or maximum.

The score has quantile cells of its own for drift. For performance it has, together with the label, ``SCORE_BINS``
uniform bins of [0, 1], the same for every version: a rank curve (AUC) over them is within 1e-3 of the raw scores'.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Fixed-point units of 1.0 in sums (a metric with large values has fewer, see `MetricCells.scale`).
FIXED_POINT = 2**20
SCORE_BINS = 1024
#: Of outcome counts: row = label (0 or 1), column = uniform bin of the score.
OUTCOME_SHAPE = (2, SCORE_BINS)

SCORE = "score"
OUTCOME = "outcome"

# In units, a value of the training range is at most 2**32, so 2**31 of them fit an int64 sum. Beyond 256 times the
# range a value is saturated in the sum (its minimum and maximum stay exact).
_RANGE_BITS = 32
_LARGEST_UNITS = float(2**40)
# As scikit-learn's log_loss did: a certain and wrong score costs 34.5, not infinity.
_SMALLEST_PROBABILITY = 1e-15

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
        Fixed-point units of 1.0: a power of two, at most ``FIXED_POINT``.
    """

    name: str
    kind: MetricKind
    edges: Floats
    codes: int = 0
    scale: float = float(FIXED_POINT)

    @property
    def is_coded(self) -> bool:
        return self.kind in {"category", "outcome"}

    @property
    def size(self) -> int:
        """Number of cells besides "missing"; also the position of "missing"."""
        return self.codes if self.is_coded else len(self.edges) + 1

    @cached_property
    def ladder(self) -> Floats:
        """What the cells but the first begin with; "missing" begins with NaN, which sorts after everything else."""
        return np.append(np.arange(1.0, self.codes) if self.is_coded else self.edges, np.nan)

    def without_strangers(self, codes: Floats) -> Floats:
        """Replace what is no code by NaN."""
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
        Label x score bin, of the events whose label has arrived.
    log_loss_sum
        Over those, in units of ``FIXED_POINT``.
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
    def zeros(cls, n_metrics: int, width: int) -> Counts:
        """Count no events: the neutral element of ``+``."""
        return cls(
            n=0,
            counts=np.zeros((n_metrics, width), np.int64),
            sums=np.zeros(n_metrics, np.int64),
            minima=np.full(n_metrics, np.nan),
            maxima=np.full(n_metrics, np.nan),
            outcomes=np.zeros(OUTCOME_SHAPE, np.int64),
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
    """The metrics of a version and their counts over its training data.

    ``threshold``: a score at or above it is a positive decision.
    """

    metrics: tuple[MetricCells, ...]
    training: Counts
    threshold: float = 0.5

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

    def zeros(self) -> Counts:
        return Counts.zeros(len(self.metrics), self.width)

    def mean(self, counts: Counts, metric: int) -> float:
        """Mean of the values of one metric that are not missing; NaN without any."""
        row = counts.counts[metric]
        present = int(row.sum()) - int(row[self.metrics[metric].size])
        if present == 0:
            return math.nan
        return float(counts.sums[metric]) / self.metrics[metric].scale / present

    def to_json(self) -> str:
        """All of it as JSON, from which `from_json` makes the same bits again."""
        return json.dumps(
            {
                "format": 1,
                "threshold": self.threshold,
                "n": self.training.n,
                "log_loss_sum": self.training.log_loss_sum,
                "n_correct": self.training.n_correct,
                "outcomes": self.training.outcomes.tolist(),
                "metrics": [
                    {
                        "name": metric.name,
                        "kind": metric.kind,
                        "edges": metric.edges.tolist(),
                        "codes": metric.codes,
                        "scale": metric.scale,
                        "counts": self.counts[row, : metric.size + 1].tolist(),
                        "sum": int(self.sums[row]),
                        "minimum": _float_to_json(float(self.minima[row])),
                        "maximum": _float_to_json(float(self.maxima[row])),
                    }
                    for row, metric in enumerate(self.metrics)
                ],
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """Read what `to_json` wrote; ValueError when it is something else."""
        try:
            body = json.loads(text)
            if body["format"] != 1:
                raise ValueError(f"reference format {body['format']!r} is not 1; use the release that wrote it")
            rows: list[dict[str, Any]] = body["metrics"]
            metrics = tuple(
                MetricCells(
                    name=row["name"],
                    kind=row["kind"],
                    edges=np.array(row["edges"], np.float64),
                    codes=row["codes"],
                    scale=float(row["scale"]),
                )
                for row in rows
            )
            training = Counts.zeros(len(metrics), max(metric.size for metric in metrics) + 1)
            for number, row in enumerate(rows):
                training.counts[number, : metrics[number].size + 1] = row["counts"]
                training.sums[number] = row["sum"]
                training.minima[number] = _float_from_json(row["minimum"])
                training.maxima[number] = _float_from_json(row["maximum"])
            training.outcomes[:] = body["outcomes"]
            training.n = body["n"]
            training.log_loss_sum = body["log_loss_sum"]
            training.n_correct = body["n_correct"]
            return cls(metrics, training, float(body["threshold"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a reference as to_json writes it: {error!r}") from error


def fit_reference(  # noqa: PLR0917  # the order in which training has them
    matrix: Floats,
    names: Sequence[str],
    kinds: Sequence[Literal["numeric", "category"]],
    category_sizes: Mapping[str, int],
    scores: Floats,
    outcomes: Floats,
    bins: int,
    threshold: float = 0.5,
) -> Reference:
    """Freeze the cells on the training data and count it in them.

    Parameters
    ----------
    matrix
        Feature matrix, events x features; NaN is missing, a category is its code.
    names, kinds
        Of the features, in the order of the columns.
    category_sizes
        Number of codes of each category.
    scores, outcomes
        Of the same events: what the model says of them, and their labels (0, 1, NaN = never known). Scores of events
        that the model was not fitted on make the better reference: on its own training rows a model is too sure.
    bins
        Most cells of a numeric metric besides "missing"; at least 8.
    threshold
        A score at or above it is a positive decision.
    """
    if bins < 8:
        raise ValueError(f"bins is {bins}; a metric needs at least 8 cells")
    if matrix.shape != (len(scores), len(names)) or len(names) != len(kinds) or len(outcomes) != len(scores):
        raise ValueError(
            f"matrix {matrix.shape}, {len(names)} names, {len(kinds)} kinds, {len(scores)} scores and {len(outcomes)} "
            "outcomes do not fit together; give one row per event and one column, name and kind per feature"
        )
    nothing = np.empty(0)
    metrics = [
        MetricCells(name, "category", nothing, codes=category_sizes[name])
        if kind == "category"
        else MetricCells(name, "numeric", fit_edges(column, bins), scale=_fit_scale(column))
        for name, kind, column in zip(names, kinds, matrix.T, strict=True)
    ]
    metrics.append(MetricCells(SCORE, "score", fit_edges(scores, bins), scale=_fit_scale(scores)))
    metrics.append(MetricCells(OUTCOME, "outcome", nothing, codes=2))
    width = max(metric.size for metric in metrics) + 1
    cells = Reference(tuple(metrics), Counts.zeros(len(metrics), width), threshold)
    return Reference(cells.metrics, count(cells, matrix, scores, outcomes), threshold)


def fit_edges(values: Floats, bins: int) -> Floats:
    """At most ``bins - 1`` interior edges from the finite values.

    Examples
    --------
    Two distinct values make five cells: below, 0, between, 1, above.

    >>> fit_edges(np.array([0.0, 1.0, 1.0]), 8).tolist() == [0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)]
    True
    """
    # Below the largest float, so that each has a successor; + 0.0 makes 0.0 of -0.0.
    distinct, frequency = np.unique(values[np.abs(values) < np.finfo(np.float64).max] + 0.0, return_counts=True)
    if not len(distinct):
        return np.empty(0)
    if 2 * len(distinct) < bins:
        own_cell = np.ones(len(distinct), dtype=bool)
    else:
        own_cell = frequency * (bins // 4) > frequency.sum()  # fewer than bins/4 of them: less than half of the edges
    atoms = distinct[own_cell]
    spread = np.repeat(distinct[~own_cell], frequency[~own_cell])
    n_free = bins - 1 - 2 * len(atoms) - 2  # two are for the ends of the range
    edges = [atoms, np.nextafter(atoms, np.inf), distinct[:1], np.nextafter(distinct[-1:], np.inf)]
    if len(spread):
        # Exact values of the data, not interpolated ones: an edge is then a value that occurs.
        ranks = np.arange(1, n_free + 1) * len(spread) // (n_free + 1)
        edges.append(spread[ranks])
    joined: Floats = np.unique(np.concatenate(edges))
    return joined


def count(reference_cells: Reference, matrix: Floats, scores: Floats, outcomes: Floats | None = None) -> Counts:
    """Count events in the cells of a reference.

    Parameters
    ----------
    matrix, scores
        Events x features, and the score of each event.
    outcomes
        Their labels when they are known already (training); otherwise `count_outcomes` adds them as they arrive.
    """
    metrics = reference_cells.metrics
    n, n_columns = len(scores), len(metrics) - 1
    if n == 0:
        return reference_cells.zeros()
    columns = np.empty((n_columns, n))
    columns[:-1] = matrix.T
    columns[-1] = scores
    columns += 0.0  # -0.0 becomes 0.0: otherwise a minimum would show which of them came first
    for row in reference_cells.coded_rows:
        columns[row] = metrics[row].without_strangers(columns[row])
    # Looking the edges up in the sorted values costs an eighth of looking the values up among the edges (5 000 events).
    columns.sort(axis=1)
    n_missing = np.isnan(columns).sum(axis=1)
    below = np.empty((n_columns, reference_cells.width), np.int64)
    below[:] = (n - n_missing)[:, None]
    for row, (size, ladder) in enumerate(reference_cells.ladders):
        below[row, :size] = columns[row].searchsorted(ladder)
    counts = reference_cells.zeros()
    counts.n = n
    counts.counts[:-1] = below
    counts.counts[:-1, 1:] -= below[:, :-1]
    rows = np.arange(n_columns)
    counts.counts[rows, reference_cells.sizes] = n_missing
    (present,) = np.nonzero(n_missing < n)  # the others stay NaN: one NaN, whatever the bits of those in the data
    counts.minima[present] = columns[present, 0]
    counts.maxima[present] = columns[present, (n - n_missing - 1)[present]]
    scales = reference_cells.scales[:, None]
    np.clip(columns, -_LARGEST_UNITS / scales, _LARGEST_UNITS / scales, out=columns)
    columns *= scales
    np.rint(columns, out=columns)
    columns[np.isnan(columns)] = 0.0
    counts.sums[:-1] = columns.astype(np.int64).sum(axis=1)
    return counts if outcomes is None else counts + count_outcomes(reference_cells, scores, outcomes)


def count_outcomes(reference_cells: Reference, scores: Floats, labels: Floats) -> Counts:
    """Count labels that have just arrived, for the slice of their events (``n`` is 0: no new events).

    A label that is neither 0 nor 1 counts as missing, and, like one whose score is NaN, not in the performance.

    Parameters
    ----------
    scores, labels
        Score and label of each labelled event.
    """
    metric = reference_cells.metrics[-1]
    counts = reference_cells.zeros()
    codes = metric.without_strangers(labels)
    is_label = ~np.isnan(codes)
    positions = np.where(is_label, codes, metric.size).astype(np.int64)
    counts.counts[-1, : metric.size + 1] = np.bincount(positions, minlength=metric.size + 1)
    known = is_label & ~np.isnan(scores)
    label, score = positions[known], scores[known]
    if is_label.any():
        present = positions[is_label]
        counts.sums[-1] = int(present.sum()) * int(metric.scale)
        counts.minima[-1], counts.maxima[-1] = float(present.min()), float(present.max())
    bins = np.clip(score * SCORE_BINS, 0, SCORE_BINS - 1).astype(np.int64)
    counts.outcomes = np.bincount(label * SCORE_BINS + bins, minlength=2 * SCORE_BINS).reshape(OUTCOME_SHAPE)
    likelihood = np.maximum(np.where(label == 1, score, 1.0 - score), _SMALLEST_PROBABILITY)
    counts.log_loss_sum = int(np.rint(-np.log(likelihood) * FIXED_POINT).astype(np.int64).sum())
    counts.n_correct = int(((score >= reference_cells.threshold) == (label == 1)).sum())
    return counts


def _fit_scale(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    _, exponent = math.frexp(largest)  # largest < 2**exponent
    return float(min(FIXED_POINT, 2.0 ** (_RANGE_BITS - exponent)))


def _float_to_json(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _float_from_json(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
