"""How far apart the scores of two versions are on the same events: of all, and by month (UTC) of event time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.core.batches import EventBatch, Floats, Ints
from app.core.drift.statistics.psi import psi
from app.core.intake.joining import JoinedLabels
from app.core.performance.measures import auc

Bools = NDArray[np.bool_]

ALL = "all"
#: What a `DiffRow` may measure, with a line of help each; ``before`` and ``after`` are the two sides.
MEASURES = {
    "n": "events that both sides scored",
    "mean_before": "mean score, before",
    "mean_after": "mean score, after",
    "mean_difference": "mean of after - before",
    "abs_p50": "median of |after - before|",
    "abs_p90": "90th percentile of it",
    "abs_p99": "99th percentile of it",
    "abs_max": "largest of it",
    "changed_share": "share of events whose decision is another",
    "raised_share": "share that became positive",
    "lowered_share": "share that became negative",
    "correlation": "Pearson correlation of the scores",
    "psi": "population stability index of the scores, on the deciles of before",
    "n_labels": "of the events, those whose label is known",
    "auc_before": "area under the ROC curve on them, before",
    "auc_after": "area under the ROC curve on them, after",
}


@dataclass(frozen=True)
class DiffRow:
    """One measure of one segment; NaN where it cannot be computed."""

    segment: str
    measure: str
    value: float


@dataclass
class ScoreDiff:
    """Collects two scores and the label of each event.

    It keeps 26 bytes per event, and the event's id until its label comes. Measures are exact, and do not depend on the
    order in which partitions ran.

    Attributes
    ----------
    only_before, only_after
        Events that only one side has scored; they are in no measure.
    """

    only_before: int = 0
    only_after: int = 0
    _times: list[Ints] = field(default_factory=list)
    _scores: list[tuple[Floats, Floats]] = field(default_factory=list)
    _decisions: list[tuple[Bools, Bools]] = field(default_factory=list)
    _labels: dict[int, float] = field(default_factory=dict)
    _waiting: dict[tuple[int, str], int] = field(default_factory=dict)
    _rows: int = 0

    def add_events(
        self,
        partition: int,
        events: EventBatch,
        scores: tuple[Floats, Floats],
        decisions: tuple[Bools, Bools],
        joined: JoinedLabels,
    ) -> None:
        """Take the events of a step with their scores before and after (NaN: none), and the labels in it."""
        self.add_labels(partition, joined)
        for row, event_id in enumerate(events.event_id):
            if row not in joined.own_rows:
                self._waiting[partition, event_id] = self._rows + row
        self._times.append(events.event_time_ms)
        self._scores.append(scores)
        self._decisions.append(decisions)
        self._rows += len(events)

    def add_labels(self, partition: int, joined: JoinedLabels) -> None:
        """Take labels without events: of earlier events, or of those that will be added next."""
        for event_id, label, event in zip(joined.event_id, joined.label, joined.events, strict=True):
            row = self._rows + event if isinstance(event, int) else self._waiting.pop((partition, event_id), None)
            if row is not None:
                self._labels[row] = label

    def scores(self) -> tuple[Floats, Floats]:
        """Both scores of each event that both sides scored."""
        table = self._table()
        return table.before, table.after

    def rows(self) -> list[DiffRow]:
        """Every measure of all events, and of each month."""
        table = self._table()
        self.only_before, self.only_after = table.only_before, table.only_after
        rows = [DiffRow(ALL, *pair) for pair in _measure(table, np.ones(len(table.before), dtype=bool))]
        months = table.times.astype("datetime64[ms]").astype("datetime64[M]")
        for month in np.unique(months):
            rows += [DiffRow(str(month), *pair) for pair in _measure(table, months == month)]
        return rows

    def _table(self) -> _Table:
        nothing = np.zeros(0)
        labels = np.full(self._rows, np.nan)
        labels[list(self._labels)] = list(self._labels.values())
        before, after = (np.concatenate([nothing, *(pair[side] for pair in self._scores)]) for side in (0, 1))
        before_positive, after_positive = (
            np.concatenate([np.zeros(0, dtype=bool), *(pair[side] for pair in self._decisions)]) for side in (0, 1)
        )
        times: Ints = np.concatenate([np.zeros(0, dtype=np.int64), *self._times])
        both = ~np.isnan(before) & ~np.isnan(after)
        return _Table(
            times[both],
            before[both],
            after[both],
            before_positive[both],
            after_positive[both],
            labels[both],
            int((~np.isnan(before) & np.isnan(after)).sum()),
            int((np.isnan(before) & ~np.isnan(after)).sum()),
        )


@dataclass(frozen=True, eq=False)
class _Table:
    times: Ints
    before: Floats
    after: Floats
    before_positive: Bools
    after_positive: Bools
    labels: Floats
    only_before: int
    only_after: int


def _measure(table: _Table, rows: Bools) -> list[tuple[str, float]]:
    before, after = table.before[rows], table.after[rows]
    before_positive, after_positive = table.before_positive[rows], table.after_positive[rows]
    labels = table.labels[rows]
    n = len(before)
    if n == 0:
        return [(name, 0.0 if name in {"n", "n_labels"} else math.nan) for name in MEASURES]
    apart = np.abs(after - before)
    p50, p90, p99 = np.quantile(apart, (0.5, 0.9, 0.99), method="inverted_cdf").tolist()
    known = ~np.isnan(labels)
    values = (
        float(n),
        _mean(before),
        _mean(after),
        _mean(after - before),
        p50,
        p90,
        p99,
        float(apart.max()),
        float((before_positive != after_positive).sum()) / n,
        float((~before_positive & after_positive).sum()) / n,
        float((before_positive & ~after_positive).sum()) / n,
        _correlation(before, after),
        _psi(before, after),
        float(known.sum()),
        _auc(before[known], labels[known]),
        _auc(after[known], labels[known]),
    )
    return list(zip(MEASURES, values, strict=True))


def _mean(values: Floats) -> float:
    """Exactly rounded, so that the order of the values changes no bit."""
    return math.fsum(values.tolist()) / len(values)


def _correlation(before: Floats, after: Floats) -> float:
    left, right = before - _mean(before), after - _mean(after)
    spread = math.sqrt(math.fsum((left * left).tolist()) * math.fsum((right * right).tolist()))
    return math.fsum((left * right).tolist()) / spread if spread > 0 else math.nan


def _psi(before: Floats, after: Floats) -> float:
    edges = np.unique(np.quantile(before, np.arange(1, 10) / 10, method="inverted_cdf"))
    cells = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (before, after)]
    return float(psi(cells[0], cells[1]).statistic)


def _auc(scores: Floats, labels: Floats) -> float:
    if not len(scores):
        return math.nan
    distinct, place = np.unique(scores, return_inverse=True)
    counts = np.zeros((2, len(distinct)), dtype=np.int64)
    np.add.at(counts, (labels.astype(np.int64), place), 1)
    return auc(counts)
