"""How long the labels of a stream take, counted by cohort, and what that says of each window.

The law is that of `app.core.counts.delay_law`. What is said of a window is a function of the logs up to the moment at
which it is judged. It is kept with the window, so counts of old cohorts can be dropped.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.counts.calendar import Window
from app.core.counts.delay_law import EDGES_MS, FEWEST_LABELS, N_CELLS, DelayLaw, Tallied, estimate_law, tally
from app.core.findings import DelayRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Floats, Ints
    from schemas.wire import SketchRecord

#: A share of the labels of a window that is nearly all of them ...
COMPLETE = 0.9
#: ... and one below which they are too few to speak for the others.
_HALF = 0.5
#: Cohorts to a horizon, at most.
_COHORTS = 32
#: How many horizons back the monitor's law looks.
_HORIZONS = 3
#: Ages of which a law is kept, and ages within a window at which its shares are looked up.
_AGES = 64


def cohort_of(slice_ms: int, horizon_ms: int) -> int:
    """Length of a cohort: whole slices, and at most 32 cohorts to a horizon.

    Examples
    --------
    >>> cohort_of(3_600_000, 48 * 3_600_000) / 3_600_000
    2.0
    """
    return max(-(-horizon_ms // _COHORTS // slice_ms), 1) * slice_ms


class LabelDelays:
    """Counts of delays of one pipeline, by cohort.

    Parameters
    ----------
    pipeline
        Its name.
    slice_ms, horizon_ms
        Length of a slice of event time, and how long events wait for their labels.
    maturity_ms
        Age at which windows are judged by their labels.
    """

    def __init__(self, pipeline: str, slice_ms: int, horizon_ms: int, maturity_ms: int) -> None:
        self._pipeline = pipeline
        self._horizon_ms = horizon_ms
        self._maturity_ms = maturity_ms
        self.cohort_ms = cohort_of(slice_ms, horizon_ms)
        self._cohorts: dict[int, Ints] = {}
        #: When the newest label of each cohort counts.
        self._newest: dict[int, int] = {}
        #: What has been told of each cohort: how many labels, when.
        self._said: dict[int, int] = {}
        #: Of each window the shares of labels 0 and 1 at some ages, by the law of its maturity; None: nobody knows.
        self._shares: dict[Window, list[list[float]] | None] = {}

    def add(self, record: SketchRecord) -> None:
        """Take a record of the sketches topic."""
        for delay in record.delays:
            cells = np.frombuffer(delay.cells, "<u4").astype(np.int64)
            counts = np.frombuffer(delay.counts, "<i8")
            self.count(Tallied(delay.slice_start_ms, delay.label, cells, counts, delay.newest_ms))

    def count(self, tallied: Tallied) -> None:
        """Count labels of events of one slice; no cell is given twice."""
        start = tallied.start_ms // self.cohort_ms * self.cohort_ms
        cohort = self._cohorts.get(start)
        if cohort is None:
            cohort = self._cohorts[start] = np.zeros((2, N_CELLS), np.int64)
        cohort[tallied.label, tallied.cells] += tallied.counts
        self._newest[start] = max(self._newest.get(start, tallied.newest_ms), tallied.newest_ms)

    def count_each(self, event_time_ms: Ints, labels: Floats, delays_ms: Ints) -> None:
        """Count labels one by one."""
        for cohort in tally(event_time_ms, self.cohort_ms, labels, delays_ms):
            self.count(cohort)

    def law(self, known_ms: int, fewest: int = FEWEST_LABELS) -> DelayLaw:
        """The law of what was here at ``known_ms``, of all cohorts that are held."""
        return estimate_law(self._cohorts, self.cohort_ms, known_ms, fewest)

    def recent_law(self, known_ms: int) -> DelayLaw:
        """The law of what was here at ``known_ms``, of events of the three horizons before that."""
        return estimate_law(self._recent(known_ms), self.cohort_ms, known_ms)

    def _recent(self, known_ms: int) -> dict[int, Ints]:
        before_ms = known_ms - self._span_ms
        return {start: counts for start, counts in self._cohorts.items() if before_ms <= start < known_ms}

    def arrived(self, window: Window) -> tuple[float, float] | None:
        """The shares of the labels 0 and 1 of a window that are here, of those that will ever come.

        For `app.core.performance.estimation.compare` and `app.core.performance.label_checks.check_labels`. Call it once
        the window is mature. The law is that of the window's maturity, and the age is that of its newest label. So the
        answer is a function of the logs up to there, whenever it is asked for. It is 1 where there is no law, and None
        where labels say nothing of the window: fewer than half of either are here, or it was not known yet how long
        they take.
        """
        if window not in self._shares:
            self._shares[window] = self._at_ages(window)
        shares = self._shares[window]
        if shares is None:
            return None
        come_to_ms = window.end_ms + self._maturity_ms
        for start in range(-(-window.start_ms // self.cohort_ms) * self.cohort_ms, window.end_ms, self.cohort_ms):
            come_to_ms = max(come_to_ms, self._newest.get(start, come_to_ms))
        ages = come_to_ms - window.end_ms + (window.end_ms - window.start_ms) * (np.arange(_AGES) + 0.5) / _AGES
        zero, one = (float(np.interp(ages, self._ages(window), arrived).mean()) for arrived in shares)
        return (zero, one) if min(zero, one) >= _HALF else None

    def _at_ages(self, window: Window) -> list[list[float]] | None:
        known_ms = window.end_ms + self._maturity_ms
        law = self.recent_law(known_ms)
        is_young = known_ms - min(self._recent(known_ms), default=known_ms) < self._horizon_ms
        is_unknown = any(
            law.is_still_coming(label, self._horizon_ms) if law.is_known(label) else is_young and sum(law.n)
            for label in (0, 1)
        )
        if is_unknown:
            return None
        ages = self._ages(window)
        return [
            law.arrived(label, ages).round(6).tolist() if law.is_known(label) else [1.0] * _AGES for label in (0, 1)
        ]

    def _ages(self, window: Window) -> Floats:
        """Ages of which the law of a window is kept: from its maturity to when no label counts any more."""
        latest_ms = self._horizon_ms + window.end_ms - window.start_ms
        return np.linspace(self._maturity_ms, max(latest_ms, self._maturity_ms + 1), _AGES)

    def rows(self, label_watermark_ms: int | None) -> list[DelayRow]:
        """Rows of cohorts that are mature, and again of those past the horizon if they changed."""
        rows = []
        for start, cohort in sorted(self._cohorts.items()):
            end_ms = start + self.cohort_ms
            if label_watermark_ms is None or end_ms + self._maturity_ms > label_watermark_ms:
                continue
            is_final = end_ms + self._horizon_ms <= label_watermark_ms
            n = int(cohort.sum())
            if start in self._said and not (is_final and n != self._said[start]):
                continue
            self._said[start] = n
            for label in (0, 1):
                n_label = int(cohort[label].sum())
                shares = cohort[label].cumsum() / max(n_label, 1)
                half, most, nearly_all, all_ = (
                    float(EDGES_MS[1 + int(np.searchsorted(shares, share - 1e-12))]) / 1000 if n_label else math.nan
                    for share in (0.5, 0.9, 0.99, 1.0)
                )
                delays = half, most, nearly_all, all_
                rows.append(DelayRow(self._pipeline, start, end_ms, label, n_label, *delays, n))
        return rows

    def prune(
        self,
        label_watermark_ms: int | None,
        closed_before_ms: int | None,
        closed: Sequence[Window],
        mature: Sequence[Window],
    ) -> None:
        """Forget the cohorts that no future window's law will look at.

        Parameters
        ----------
        closed_before_ms
            Windows that end by then have closed.
        closed, mature
            The closed windows that are held, and those of them that are judged by their labels.
        """
        for window in mature:
            self.arrived(window)
        if label_watermark_ms is None or closed_before_ms is None:
            return
        asked_ms = [window.end_ms + self._maturity_ms for window in closed if window not in self._shares]
        before_ms = min([label_watermark_ms, closed_before_ms, *asked_ms]) - self._span_ms
        for start in [start for start in self._cohorts if start < before_ms]:
            del self._cohorts[start]
            self._said.pop(start, None)
        oldest_ms = min([before_ms, *(window.start_ms for window in closed)])
        self._newest = {start: newest_ms for start, newest_ms in self._newest.items() if start >= oldest_ms}
        kept = set(closed)
        self._shares = {window: shares for window, shares in self._shares.items() if window in kept}

    @property
    def _span_ms(self) -> int:
        return _HORIZONS * self._horizon_ms

    def to_state(self) -> dict[str, Any]:
        """Give what `from_state` needs: JSON values."""
        return {
            "cohorts": [
                [start, *([np.flatnonzero(of).tolist(), of[of > 0].tolist()] for of in cohort)]
                for start, cohort in sorted(self._cohorts.items())
            ],
            "newest": sorted(self._newest.items()),
            "said": sorted(self._said.items()),
            "shares": [[window.start_ms, window.end_ms, self._shares[window]] for window in sorted(self._shares)],
        }

    def from_state(self, state: dict[str, Any]) -> None:
        """Take a state."""
        self._cohorts = {}
        for start, *of_labels in state["cohorts"]:
            cohort = self._cohorts[start] = np.zeros((2, N_CELLS), np.int64)
            for label, (cells, counts) in enumerate(of_labels):
                cohort[label, cells] = counts
        self._newest = dict(map(tuple, state["newest"]))
        self._said = dict(map(tuple, state["said"]))
        self._shares = {Window(start, end): shares for start, end, shares in state["shares"]}
