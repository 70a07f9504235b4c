"""How long the labels of a stream take: counted by cohort, and what that says of each window.

The law is `app.core.delay_law`'s. What is said of a window is a function of the logs up to the moment at which it is
judged; it is kept with the window, so that counts of old cohorts may go.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.delay_law import EDGES_MS, FEWEST_LABELS, N_CELLS, DelayLaw, estimate_law, tally
from app.core.drift_calendar import Window
from app.core.findings import DelayRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.batches import Floats, Ints
    from schemas.wire import SketchRecord

#: A share of the labels of a window that is nearly all of them.
COMPLETE = 0.9
#: Cohorts to a horizon, at most.
_COHORTS = 32
#: How many horizons back the monitor's law looks.
_HORIZONS = 3
#: Ages within a window at which its shares are looked up.
_AGES = 32


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
        #: What has been told of each cohort: how many labels, when.
        self._said: dict[int, int] = {}
        self._arrived: dict[Window, tuple[float, float]] = {}

    def add(self, record: SketchRecord) -> None:
        """Take a record of the sketches topic."""
        for delays in record.delays:
            cells = np.frombuffer(delays.cells, "<u4").astype(np.int64)
            self.count(delays.slice_start_ms, delays.label, cells, np.frombuffer(delays.counts, "<i8"))

    def count(self, event_time_ms: int, label: int, cells: Ints, counts: Ints) -> None:
        """Count labels of events of one slice; no cell is given twice."""
        start = event_time_ms // self.cohort_ms * self.cohort_ms
        cohort = self._cohorts.get(start)
        if cohort is None:
            cohort = self._cohorts[start] = np.zeros((2, N_CELLS), np.int64)
        cohort[label, cells] += counts

    def count_each(self, event_time_ms: Ints, labels: Floats, delays_ms: Ints) -> None:
        """Count labels one by one."""
        for start, label, cells, counts in tally(event_time_ms, self.cohort_ms, labels, delays_ms):
            self.count(start, label, cells, counts)

    def law(self, known_ms: int, fewest: int = FEWEST_LABELS) -> DelayLaw:
        """The law of what was here at ``known_ms``, of all cohorts that are held."""
        return estimate_law(self._cohorts, self.cohort_ms, known_ms, fewest)

    def recent_law(self, known_ms: int) -> DelayLaw:
        """The law of what was here at ``known_ms``, of events of the three horizons before that."""
        recent = {start: each for start, each in self._cohorts.items() if start >= known_ms - self._span_ms}
        return estimate_law(recent, self.cohort_ms, known_ms)

    def arrived(self, window: Window) -> tuple[float, float]:
        """The shares of the labels 0 and 1 that are here when a window is judged, of those that will ever come.

        For `app.core.estimation.compare` and `app.core.label_checks.check_labels`. Ask once the window is mature: what
        is said of it then is a function of the logs up to its end and ``maturity``, and stays. 1 where there is no law.
        """
        found = self._arrived.get(window)
        if found is None:
            law = self.recent_law(window.end_ms + self._maturity_ms)
            ages = self._maturity_ms + (window.end_ms - window.start_ms) * (np.arange(_AGES) + 0.5) / _AGES
            shares = [float(law.arrived(label, ages).mean()) if law.is_known(label) else 1.0 for label in (0, 1)]
            found = self._arrived[window] = (shares[0], shares[1])
        return found

    def rows(self, label_watermark_ms: int | None) -> list[DelayRow]:
        """Rows of cohorts that are mature, and again of those past the horizon if they changed."""
        found = []
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
                found.append(DelayRow(self._pipeline, start, end_ms, label, n_label, *delays, n))
        return found

    def prune(
        self,
        label_watermark_ms: int | None,
        closed_before_ms: int | None,
        closed: Sequence[Window],
        mature: Sequence[Window],
    ) -> None:
        """Forget cohorts that no law of a window to come looks at.

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
        asked_ms = [each.end_ms + self._maturity_ms for each in closed if each not in self._arrived]
        before_ms = min([label_watermark_ms, closed_before_ms, *asked_ms]) - self._span_ms
        for start in [start for start in self._cohorts if start < before_ms]:
            del self._cohorts[start]
            self._said.pop(start, None)
        kept = set(closed)
        for window in [window for window in self._arrived if window not in kept]:
            del self._arrived[window]

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
            "said": sorted(self._said.items()),
            "arrived": [[window.start_ms, window.end_ms, *each] for window, each in sorted(self._arrived.items())],
        }

    def from_state(self, state: dict[str, Any]) -> None:
        """Take a state."""
        self._cohorts = {}
        for start, *of_labels in state["cohorts"]:
            for label, (cells, counts) in enumerate(of_labels):
                self.count(start, label, np.array(cells, np.int64), np.array(counts, np.int64))
        self._said = dict(map(tuple, state["said"]))
        self._arrived = {Window(start, end): (zero, one) for start, end, zero, one in state["arrived"]}
