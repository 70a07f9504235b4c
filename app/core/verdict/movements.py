"""How far the metrics of a window are from training, over all events and in segments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.sketches import ALL
from app.core.drift.statistics.deciles import DecileCells
from app.core.verdict.situation import SegmentChange
from app.core.verdict.words import Change
from schemas.pipeline.spec import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from app.core.batches import Floats
    from app.core.drift.judgement import Judgement
    from models.reference.reference import Counts, MetricCells, Reference

#: A difference of shares that may be part of a fault.
_MUCH = 0.1


class Movements:
    """Compares the windows of one version with its reference."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._cells = DecileCells.stack(reference.metrics)

    def suspects(self, window: Counts) -> set[str]:
        """The features that differ much, certain or not.

        One that changes slowly by itself cannot signal in a short window, though it may be displaced in it.
        """
        features = enumerate(self._reference.metrics[:-2])
        return {
            cells.name for row, cells in features if _largest_difference(cells, *self._shares(row, window)) >= _MUCH
        }

    def segments(self, drifts: Iterable[Judgement], counts: Mapping[str, Counts]) -> Iterable[SegmentChange]:
        """What has signalled in segments, each beside all events, signalled or not."""
        effects: dict[tuple[str, str], float] = {}
        for drift in drifts:
            if drift.segment != ALL:
                place = drift.segment, drift.metric
                effects[place] = max(effects.get(place, 0.0), min(abs(drift.verdict.effect or 0.0), 1.0))
        for (segment, metric), effect in effects.items():
            in_segment, in_all = (self._distance(metric, name, counts[name]) for name in (segment, ALL))
            times = in_segment / in_all if in_all else math.inf
            yield SegmentChange(segment, metric, effect, counts[segment].n, times)

    def changes(self, metrics: Sequence[str], window: Counts) -> list[Change]:
        """How each of these metrics has moved."""
        deciles = [
            self._cells.deciles(counts.counts, counts.minima, counts.maxima).tolist()
            for counts in (self._reference.training, window)
        ]
        return [self._change(row, window, deciles) for row in map(self._reference.names.index, metrics)]

    def _change(self, row: int, window: Counts, deciles: list[list[list[float]]]) -> Change:
        """How a metric has moved; ``deciles``: of all metrics, in training and in the window."""
        cells, training = self._reference.metrics[row], self._reference.training
        reference, detection = self._shares(row, window)
        deciles_before, deciles_now = (tuple(of_metrics[row]) for of_metrics in deciles)
        at_least = (math.nan, math.nan, math.nan)
        if len(cells.edges):
            below, below_now = np.cumsum(reference[:-2]), np.cumsum(detection[:-2])
            # Of edges that are as far apart the last: of a flag 1, and not what is next to 0.
            edge = len(below) - 1 - int(np.argmax(np.abs(below_now - below).round(12)[::-1]))
            above, above_now = 1 - reference[-1] - below[edge], 1 - detection[-1] - below_now[edge]
            at_least = float(cells.edges[edge]), float(above), float(above_now)
        low, high = float(training.minima[row]), float(training.maxima[row])
        beyond = (0.0, 0.0)
        if cells.kind == "numeric" and len(cells.edges):  # the outer cells hold what is outside of training's range
            beyond = (
                float(detection[0]) if math.isfinite(low) else 0.0,
                float(detection[-2]) if math.isfinite(high) else 0.0,
            )
        names = (*cells.values, UNSEEN) if cells.values else ("0", "1") if cells.kind == "outcome" else ()
        return Change(
            metric=cells.name,
            kind=cells.kind,
            effect=_largest_difference(cells, reference, detection),
            deciles_before=() if cells.is_coded else deciles_before,
            deciles_now=() if cells.is_coded else deciles_now,
            range_before=(low, high),
            missing_before=float(reference[-1]),
            missing_now=float(detection[-1]),
            shares_before=tuple(reference[:-1].tolist()) if cells.is_coded else (),
            shares_now=tuple(detection[:-1].tolist()) if cells.is_coded else (),
            values=names,
            at_least=at_least,
            beyond=beyond,
        )

    def _distance(self, metric: str, segment: str, window: Counts) -> float:
        """How far a metric is from where it was in the training of a segment."""
        row = self._reference.names.index(metric)
        training = self._reference.segments.get(segment, self._reference.training)
        return _largest_difference(self._reference.metrics[row], *self._shares(row, window, training))

    def _shares(self, row: int, window: Counts, training: Counts | None = None) -> tuple[Floats, Floats]:
        """Shares of a metric's cells in training (None: that of all events) and in a window, "missing" last."""
        cells = self._reference.metrics[row]

        def shares_of(counts: Counts) -> Floats:
            in_cells = counts.counts[row, : cells.size + 1]
            if cells.kind == "outcome":  # what has no label yet is not missing
                in_cells = np.append(in_cells[:-1], 0)
            return np.asarray(in_cells / max(int(in_cells.sum()), 1))

        return shares_of(training or self._reference.training), shares_of(window)


def _largest_difference(cells: MetricCells, reference: Floats, detection: Floats) -> float:
    """The largest difference of shares: of a code, or of all values up to one; or of "missing"."""
    apart = detection - reference
    if not cells.is_coded:
        apart = np.append(np.cumsum(apart[:-1]), apart[-1])
    return float(np.abs(apart).max())
