"""Who looks at windows of counts: the product, the classic tests, an n-calibrated PSI, and one that always fires.

To add one, write a function of a `Watched` that says which windows it alarms in, and name it in `WINDOW_CONTESTANTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.core.drift.statistics.deciles import DECILES, deciles
from app.core.drift.statistics.interval import interval
from app.core.drift.statistics.ks import ks
from app.core.drift.statistics.psi import group_cells, psi
from app.core.drift.statistics.trend import trend
from app.core.findings import Findings
from app.evaluation.product import Bools, alarmed, consecutive, make_pipeline, watch
from models.reference.counting import count as count_cells
from models.reference.fit import fit_reference
from models.reference.reference import Counts, MetricCells, Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.spec import Pipeline

Floats = NDArray[np.float64]

OURS = "streamgauge"
ALWAYS = "always-fire"
#: Past windows before which the classic tests of a history say nothing, and the last so many that they look at.
HISTORY = 5, 60
CLASSIC_LEVEL = 0.05
PSI_GROUPS = 20


@dataclass(frozen=True)
class Subject:
    """A model that is watched in windows: its features, its budget, and the window's size in events.

    ``per_events``: one false alarm in so many events is what it declares.
    """

    features: tuple[str, ...]
    categories: Mapping[str, Sequence[str]]
    window: int
    per_events: int
    labels: bool = False

    @cached_property
    def pipeline(self) -> Pipeline:
        """Its pipeline; made once in each process."""
        return make_pipeline(
            self.features, self.categories, self.window, per_events=self.per_events, labels=self.labels
        )

    @property
    def budget(self) -> float:
        """Share of windows that may alarm without a change."""
        return self.window / self.per_events

    def fit(self, matrix: Floats, scores: Floats, labels: Floats) -> Reference:
        """The reference of a version that was trained on these events, in their order."""
        sizes = {name: len(values) for name, values in self.categories.items()}
        columns = [category(name, sizes[name]) if name in sizes else numeric(name) for name in self.features]
        return fit_reference(TrainingEvents(matrix, scores, labels), columns, self.pipeline.drift.bins)

    def cut(self, reference: Reference, matrix: Floats, scores: Floats, labels: Floats | None = None) -> list[Counts]:
        """Count consecutive windows; a last one that is not full is left out."""
        windows = []
        for start in range(0, len(scores) - self.window + 1, self.window):
            rows = slice(start, start + self.window)
            of_labels = None if labels is None or not self.labels else labels[rows]
            windows.append(count_cells(reference, matrix[rows], scores[rows], of_labels))
        return windows


@dataclass(frozen=True, eq=False)
class Watched:
    """One run: what was trained on, and the windows that followed."""

    subject: Subject
    reference: Reference
    windows: Sequence[Counts]

    @cached_property
    def findings(self) -> Findings:
        """What the product says."""
        return watch(self.subject.pipeline, self.reference, consecutive(self.subject.pipeline, self.windows))

    @property
    def metrics(self) -> list[tuple[int, MetricCells]]:
        """What the other contestants look at: features and score, and with labels the outcome."""
        every = list(enumerate(self.reference.metrics))
        return every if self.subject.labels else every[:-1]

    @cached_property
    def deciles(self) -> Floats:
        """Of every window and metric, windows x metrics x 10."""
        return np.array(
            [
                [
                    deciles(cells, counts.counts[row], float(counts.minima[row]), float(counts.maxima[row]))
                    for row, cells in self.metrics
                ]
                for counts in self.windows
            ]
        ).reshape(len(self.windows), len(self.metrics), len(DECILES))


def _ours(run: Watched) -> Bools:
    pipeline = run.subject.pipeline
    return alarmed(run.findings.reports, [window for window, _ in consecutive(pipeline, run.windows)])


def _interval(run: Watched) -> Bools:
    """A decile, d1 … d9, of any metric is outside of the 2.5 … 97.5 % range of its past."""
    return _by_history(run, lambda past, current, _: bool(np.any(interval(past, current).side)))


def _trend(run: Watched) -> Bools:
    """A decile of any metric has a slope with p < 0.05 over the windows."""

    def has_trend(past: Floats, current: Floats, times: Floats) -> bool:
        return bool(np.any(trend(times, np.vstack([past, current])).p_value < CLASSIC_LEVEL))

    return _by_history(run, has_trend)


def _by_history(run: Watched, judge: Callable[[Floats, Floats, Floats], bool]) -> Bools:
    least, most = HISTORY
    # All deciles of all metrics side by side; what has no values somewhere is no decile to compare.
    table = run.deciles[:, :, :-1].reshape(len(run.windows), -1)
    table = table[:, np.isfinite(table).all(axis=0)]
    alarmed = np.zeros(len(run.windows), np.bool_)
    for number in range(least, len(run.windows)):
        first = max(0, number - most)
        alarmed[number] = judge(table[first:number], table[number], np.arange(first, number + 1, dtype=np.float64))
    return alarmed


def _ks(run: Watched) -> Bools:
    """Any metric has p < 0.05 against training."""
    return _by_counts(
        run,
        lambda cells, then, now: bool(ks(then[: cells.size], now[: cells.size]).p_value < CLASSIC_LEVEL),
    )


def _classic(run: Watched) -> Bools:
    return _interval(run) | _trend(run) | _ks(run)


def _psi(run: Watched) -> Bools:
    """PSI against its law without drift (Yurdakul), at the declared budget, divided by the number of metrics."""
    level = run.subject.budget / len(run.metrics)

    def differs(cells: MetricCells, then: NDArray[np.int64], now: NDArray[np.int64]) -> bool:
        groups = group_cells(then, PSI_GROUPS, by_size=cells.is_coded)
        grouped = [np.bincount(groups, weights=counts).astype(np.int64) for counts in (then, now)]
        return bool(psi(grouped[0], grouped[1]).p_value < level)

    return _by_counts(run, differs)


def _by_counts(run: Watched, judge: Callable[[MetricCells, NDArray[np.int64], NDArray[np.int64]], bool]) -> Bools:
    return np.array(
        [
            any(
                judge(cells, run.reference.counts[row, : cells.size + 1], counts.counts[row, : cells.size + 1])
                for row, cells in run.metrics
            )
            for counts in run.windows
        ],
        np.bool_,
    )


def _always(run: Watched) -> Bools:
    return np.ones(len(run.windows), np.bool_)


#: Name -> which windows of a run it alarms in, in the order of the tables.
WINDOW_CONTESTANTS: dict[str, Callable[[Watched], Bools]] = {
    OURS: _ours,
    "psi-calibrated": _psi,
    "classic-interval": _interval,
    "classic-trend": _trend,
    "classic-ks": _ks,
    "classic": _classic,
    ALWAYS: _always,
}
#: How the tables call them.
TITLES = {
    OURS: "streamgauge",
    "psi-calibrated": "PSI at the budget (Yurdakul)",
    "classic-interval": "classic: interval 2.5/97.5 %",
    "classic-trend": "classic: trend p < 0.05",
    "classic-ks": "classic: KS p < 0.05",
    "classic": "classic: any of the three",
    ALWAYS: "always-fire",
}
