"""What a set of events is described by: deciles, numbers, extremes, means and shares of its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from app.core.drift.statistics.deciles import DECILES, DecileCells
from schemas.pipeline.spec import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.core.batches import Floats
    from models.reference.reference import Counts, Reference

_OF_ALL = (*DECILES, "n", "null_rate", "min", "max", "mean")


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of some metrics of a set of events.

    ``deciles`` (metrics x 10) are those of the ``metrics``; ``labels`` say of each of the ``values``, which hold them
    and all others, which metric and which statistic it is.
    """

    metrics: tuple[str, ...]
    deciles: Floats
    labels: tuple[tuple[str, str], ...]
    values: Floats

    def rows(self) -> Iterator[tuple[str, str, float]]:
        """Metric, name of the statistic, and value."""
        for (metric, name), value in zip(self.labels, self.values.tolist(), strict=True):
            yield metric, name, value


class Describer:
    """Describes sets of events that were counted in the cells of a reference."""

    def __init__(self, reference: Reference) -> None:
        self._names = tuple(cells.name for cells in reference.metrics)
        self._cells = DecileCells.stack(reference.metrics)
        self._scales = np.array([cells.scale for cells in reference.metrics])
        #: Of categories, what their codes stand for; of other metrics nothing.
        self._values = [(*cells.values, UNSEEN) if cells.values else () for cells in reference.metrics]
        self._labels = [
            tuple((name, label) for label in (*_OF_ALL, *(f"share:{value}" for value in values)))
            for name, values in zip(self._names, self._values, strict=True)
        ]

    def describe(self, counts: Counts, metrics: range) -> Statistics:
        """Compute the statistics of some metrics of a set of events; NaN: there is nothing to compute it from.

        Each has its deciles d1 … d10, ``n``, the number of events, ``null_rate``, the share of them without a value (of
        the outcome: without a label), ``min``, ``max`` and ``mean``. A category has its shares besides, of the events
        with a value: ``share:<value>``, and ``share:unseen`` for all that are not in its vocabulary.
        """
        deciles = self._cells.deciles(counts.counts, counts.minima, counts.maxima)
        rows = np.arange(len(self._names))
        n_present = counts.counts.sum(axis=1) - counts.counts[rows, self._cells.sizes]
        table = np.empty((len(rows), len(_OF_ALL)))
        table[:, : len(DECILES)] = deciles
        table[:, -5] = counts.n
        table[:, -4] = (counts.n - n_present) / counts.n if counts.n else np.nan
        table[:, -3], table[:, -2] = counts.minima, counts.maxima
        table[:, -1] = counts.sums / self._scales / np.where(n_present > 0, n_present, np.nan)
        parts = []
        for row in metrics:
            codes = counts.counts[row, : len(self._values[row])]
            parts += [table[row], codes / n_present[row] if n_present[row] else np.full(len(codes), np.nan)]
        return Statistics(
            metrics=self._names[metrics.start : metrics.stop],
            deciles=deciles[metrics.start : metrics.stop],
            labels=tuple(chain.from_iterable(self._labels[row] for row in metrics)),
            values=np.concatenate(parts),
        )
