"""How long labels take, learned for each label from counts: the law of the delay.

A delay is the effective time at which a label counts, less the time of its event. Delays are counted in cells that are
fixed for ever, by cohort (events of one stretch of event time) and by label. Counts of parts add up to those of the
whole, in any order.

Of young events the slow labels are still missing, so the delays that are here look shorter than they are (right
truncation). The law is therefore estimated backwards, from the longest delay down: of the labels that came within d,
which share took longest, counted in those cohorts alone that are old enough to have shown all of d. It needs no count
of events without a label, of which nobody can say to which of the two labels they belong. What it cannot know is how
many labels take longer than the oldest cohorts are old: all shares are of the labels that come within that reach.

References
----------
S. Lagakos, L. Barraj, V. De Gruttola, "Nonparametric analysis of truncated survival data, with application to AIDS",
Biometrika 75, 1988.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.drift_calendar import Window
from app.core.findings import DelayRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from app.core.batches import Floats, Ints
    from schemas.wire import SketchRecord

# Cells: one for what is below 2**10 ms (a second), then 32 to each doubling, up to 2**42 ms (139 years).
_FIRST_BIT, _LAST_BIT, _PER_DOUBLING = 10, 42, 32
N_CELLS = 1 + (_LAST_BIT - _FIRST_BIT) * _PER_DOUBLING
_starts = 2 ** np.arange(_FIRST_BIT, _LAST_BIT, dtype=np.int64)
#: Cell k holds EDGES_MS[k] <= delay < EDGES_MS[k + 1].
EDGES_MS: Ints = np.concatenate(
    [
        [0],
        (_starts[:, None] + np.arange(_PER_DOUBLING, dtype=np.int64) * (_starts // _PER_DOUBLING)[:, None]).ravel(),
        [2**_LAST_BIT],
    ]
)

#: Fewer labels than this have no law: a share of them would say nothing.
FEWEST_LABELS = 50
#: A share of the labels of a window that is nearly all of them.
COMPLETE = 0.9
#: Cohorts to a horizon, at most.
_COHORTS = 32
#: How many horizons back the monitor's law looks.
_HORIZONS = 3
#: Ages within a window at which its shares are looked up.
_AGES = 32


def find_cells(delays_ms: Ints) -> Ints:
    """The cell of each delay; a label before its event is in the first one.

    Examples
    --------
    >>> find_cells(np.array([-5, 0, 1023, 1024, 1055, 1056, 2048])).tolist()
    [0, 0, 0, 1, 1, 2, 33]
    """
    cells: Ints = np.searchsorted(EDGES_MS, np.maximum(delays_ms, 0), side="right") - 1
    return np.minimum(cells, N_CELLS - 1)


def tally(event_time_ms: Ints, unit_ms: int, labels: Floats, delays_ms: Ints) -> Iterator[tuple[int, int, Ints, Ints]]:
    """Start, label, cells and counts, of labels one by one; each start is a multiple of the unit."""
    if not len(event_time_ms):
        return
    units = event_time_ms // unit_ms
    first = int(units.min())
    places = ((units - first) * 2 + labels.astype(np.int64)) * N_CELLS + find_cells(delays_ms)
    held, counts = np.unique(places, return_counts=True)
    groups, starts = np.unique(held // N_CELLS, return_index=True)
    ends = [*starts[1:].tolist(), len(held)]
    for group, start, end in zip(groups.tolist(), starts.tolist(), ends, strict=True):
        yield (first + group // 2) * unit_ms, group % 2, held[start:end] % N_CELLS, counts[start:end]


def cohort_of(slice_ms: int, horizon_ms: int) -> int:
    """Length of a cohort: whole slices, and at most 32 cohorts to a horizon.

    Examples
    --------
    >>> cohort_of(3_600_000, 48 * 3_600_000) / 3_600_000
    2.0
    """
    return max(-(-horizon_ms // _COHORTS // slice_ms), 1) * slice_ms


@dataclass(frozen=True, eq=False)
class DelayLaw:
    """Shares of labels by delay.

    Parameters
    ----------
    n
        Labels 0 and 1 that it rests on.
    shares
        Label x cell: the share whose delay is in this cell or in one before it, of those that come within the reach.
        NaN where there are fewer than ``FEWEST_LABELS``.
    reach_ms
        Of each label: the greatest age at which enough labels have been seen; 0 without a law.
    """

    n: tuple[int, int]
    shares: Floats
    reach_ms: tuple[int, int]

    def is_known(self, label: int) -> bool:
        return self.reach_ms[label] > 0

    def arrived(self, label: int, ages_ms: Floats) -> Floats:
        """The share of a label that is here at each age, in [0, 1]; NaN without a law. Linear within a cell."""
        if not self.is_known(label):
            return np.full(len(ages_ms), np.nan)
        found: Floats = np.interp(ages_ms, EDGES_MS, np.concatenate([[0.0], self.shares[label]]))
        return found

    def within_ms(self, label: int, share: float) -> float:
        """By which age this share of a label has come: the end of a cell, so rather too late; NaN without a law."""
        if not self.is_known(label):
            return math.nan
        return float(EDGES_MS[1 + int(np.searchsorted(self.shares[label], share - 1e-12))])

    def after_ms(self, label: int) -> float:
        """Before which age hardly any (1 %) of a label comes: the start of a cell; NaN without a law."""
        if not self.is_known(label):
            return math.nan
        return float(EDGES_MS[int(np.searchsorted(self.shares[label], 0.01, side="right"))])

    def describe(self, label: int) -> str:
        """Of a label, in words: "half of the labels 1 come within 6 days, 99 % within 19 days"."""
        if not self.is_known(label):
            return f"of the labels {label} only {self.n[label]} came, too few to say when"
        half, most, first = self.within_ms(label, 0.5), self.within_ms(label, 0.99), self.after_ms(label)
        if most <= EDGES_MS[1]:
            return f"the labels {label} come at once"
        if most - first <= 0.1 * most:
            return f"nearly all labels {label} come at about {say_ms((most + first) / 2)}"
        return f"half of the labels {label} come within {say_ms(half)}, 99 % within {say_ms(most)}"

    def summary(self, label: int) -> dict[str, Any]:
        """Of a label, as JSON values."""
        known = self.is_known(label)
        return {
            "labels": self.n[label],
            "half_s": self.within_ms(label, 0.5) / 1000 if known else None,
            "share_99_s": self.within_ms(label, 0.99) / 1000 if known else None,
            "words": self.describe(label),
        }


def say_ms(duration_ms: float) -> str:
    """A duration in words, to two digits or so.

    Examples
    --------
    >>> [say_ms(each) for each in (1_000, 90_000, 8_000_000, 1_700_000_000)]
    ['1 second', '90 seconds', '2.2 hours', '20 days']
    """
    units = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000))
    unit, unit_ms = next((each for each in units if duration_ms >= 2 * each[1]), units[-1])
    n = duration_ms / unit_ms
    words = f"{n:.1f}".removesuffix(".0") if n < 9.95 else f"{n:.0f}"
    return f"{words} {unit}{'' if words == '1' else 's'}"


def estimate_law(cohorts: Mapping[int, Ints], cohort_ms: int, known_ms: int) -> DelayLaw:
    """Estimate the law from what was here at ``known_ms``, of cohorts whose labels are counted at least up to then.

    Labels that came later are left out, and so are those of cells that ``known_ms`` cuts: what is found is a function
    of the logs up to then, whatever has been read since.

    Parameters
    ----------
    cohorts
        Start of each: label x cell.

    Examples
    --------
    Labels take one second or five, as often; the younger cohort has shown only the former.

    >>> old, young = np.zeros((2, N_CELLS), np.int64), np.zeros((2, N_CELLS), np.int64)
    >>> cell_1, cell_5 = find_cells(np.array([1_500, 5_500]))
    >>> old[1, [cell_1, cell_5]] = 100, 100
    >>> young[1, cell_1] = 100
    >>> law = estimate_law({0: old, 10_000: young}, 1_000, 15_000)
    >>> law.arrived(1, np.array([1_000.0, 3_000.0, 9_000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    starts = sorted(start for start in cohorts if start + cohort_ms <= known_ms)
    if not starts:
        return DelayLaw((0, 0), np.full((2, N_CELLS), np.nan), (0, 0))
    # Of its youngest events, too, a cohort has shown these cells.
    shown = np.searchsorted(EDGES_MS[1:], known_ms - cohort_ms - np.array(starts), side="right")
    is_shown = np.arange(shown.max()) < shown[:, None]
    counts = np.stack([cohorts[start][:, : shown.max()] for start in starts]) * is_shown[:, None, :]
    taking = counts.sum(axis=0)
    within = np.einsum("clk,ck->lk", counts.cumsum(axis=2), is_shown)
    shares, reach = np.full((2, N_CELLS), np.nan), [0, 0]
    for label in (0, 1):
        (enough,) = np.nonzero(within[label] >= FEWEST_LABELS)
        if len(enough):
            last = int(enough[-1])
            longest = taking[label, : last + 1] / np.maximum(within[label, : last + 1], 1)
            shorter = np.cumprod((1 - longest)[::-1])[::-1]  # by cell: the share below it
            shares[label] = 1.0
            shares[label, :last] = shorter[1:]
            reach[label] = int(EDGES_MS[last + 1])
    n = counts.sum(axis=(0, 2)).tolist()
    return DelayLaw((n[0], n[1]), shares, (reach[0], reach[1]))


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

    def law(self, known_ms: int) -> DelayLaw:
        """The law of what was here at ``known_ms``, of all cohorts that are held."""
        return estimate_law(self._cohorts, self.cohort_ms, known_ms)

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
        return _HORIZONS * self._horizon_ms + self.cohort_ms

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
