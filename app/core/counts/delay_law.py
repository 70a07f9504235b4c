"""The law of the delay: which share of a label (0 or 1) has come by which age, learned from counts.

A delay is the effective time at which a label counts, less the time of its event. Delays are counted in cells that are
fixed for ever, by cohort (events of one stretch of event time) and by label. Counts of parts add up to those of the
whole, in any order.

Of young events the slow labels are still missing, so the delays that are here look shorter than they are (right
truncation). The law is therefore estimated backwards, from the longest delay down: of the labels that came within d,
which share took longest, counted only in those cohorts that are old enough to have shown all of d. It needs no count
of events without a label: nobody can say which of the two labels they belong to. What it cannot know is how many labels
take longer than the oldest cohorts are old: all shares are of the labels that come within that reach.

References
----------
S. Lagakos, L. Barraj, V. De Gruttola, "Nonparametric analysis of truncated survival data, with application to AIDS",
Biometrika 75, 1988.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from app.core.batches import Floats, Ints

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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

#: Labels that come up to this share of the greatest age seen may come later, too.
_NEAR = 0.9
#: Fewer labels than this have no law: a share of them would say nothing.
FEWEST_LABELS = 50


def find_cells(delays_ms: Ints) -> Ints:
    """The cell of each delay; a label before its event is in the first one.

    Examples
    --------
    >>> find_cells(np.array([-5, 0, 1023, 1024, 1055, 1056, 2048])).tolist()
    [0, 0, 0, 1, 1, 2, 33]
    """
    cells: Ints = np.searchsorted(EDGES_MS, np.maximum(delays_ms, 0), side="right") - 1
    return np.minimum(cells, N_CELLS - 1)


class Tallied(NamedTuple):
    """Labels of one kind, of the events of one stretch of event time; ``newest_ms``: when the newest of them counts."""

    start_ms: int
    label: int
    cells: Ints
    counts: Ints
    newest_ms: int


def tally(event_time_ms: Ints, unit_ms: int, labels: Floats, delays_ms: Ints) -> Iterator[Tallied]:
    """Count labels that are given one by one; each start is a multiple of the unit."""
    if not len(event_time_ms):
        return
    units = event_time_ms // unit_ms
    first = int(units.min())
    group = (units - first) * 2 + labels.astype(np.int64)
    held, counts = np.unique(group * N_CELLS + find_cells(delays_ms), return_counts=True)
    newest = np.full(int(group.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, group, event_time_ms + delays_ms)
    groups, starts = np.unique(held // N_CELLS, return_index=True)
    ends = [*starts[1:].tolist(), len(held)]
    for number, start, end in zip(groups.tolist(), starts.tolist(), ends, strict=True):
        at = slice(start, end)
        unit, label = first + number // 2, number % 2
        yield Tallied(unit * unit_ms, label, held[at] % N_CELLS, counts[at], int(newest[number]))


@dataclass(frozen=True, eq=False)
class DelayLaw:
    """Shares of labels by delay.

    Parameters
    ----------
    n
        Labels 0 and 1 that it rests on.
    shares
        Label x cell: the share whose delay is in this cell or in one before it, of those that come within the reach.
        NaN where there are too few.
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
        share: Floats = np.interp(ages_ms, EDGES_MS, np.concatenate([[0.0], self.shares[label]]))
        return share

    def within_ms(self, label: int, share: float) -> float:
        """The age by which this share of a label has come: the end of a cell, so rather too late; NaN without a law."""
        if not self.is_known(label):
            return math.nan
        return float(EDGES_MS[1 + int(np.searchsorted(self.shares[label], share - 1e-12))])

    def after_ms(self, label: int) -> float:
        """The age before which hardly any (1 %) of a label comes: the start of a cell; NaN without a law."""
        if not self.is_known(label):
            return math.nan
        return float(EDGES_MS[int(np.searchsorted(self.shares[label], 0.01, side="right"))])

    def is_still_coming(self, label: int, horizon_ms: int) -> bool:
        """Whether a label comes up to the greatest age seen, below the horizon: nobody knows how long it takes."""
        reach_ms = self.reach_ms[label]
        return reach_ms < horizon_ms and self.within_ms(label, 0.99) > _NEAR * reach_ms

    def describe(self, label: int) -> str:
        """A label's law in words: "half of the labels 1 come within 6 days, 99 % within 19 days"."""
        if not self.is_known(label):
            n = self.n[label]
            if not n:
                return f"no label {label} has come yet"
            return f"only {n} label{'s' * (n > 1)} {label} so far, too few to say how long they take"
        half, most, first = self.within_ms(label, 0.5), self.within_ms(label, 0.99), self.after_ms(label)
        if most <= EDGES_MS[1]:
            return f"the labels {label} come at once"
        if most - first <= 0.1 * most:
            return f"nearly all labels {label} come at about {say_ms((most + first) / 2)}"
        return f"half of the labels {label} come within {say_ms(half)}, 99 % within {say_ms(most)}"

    def summary(self, label: int) -> dict[str, Any]:
        """A label's law as JSON values."""
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
    unit, unit_ms = next((candidate for candidate in units if duration_ms >= 2 * candidate[1]), units[-1])
    n = duration_ms / unit_ms
    words = f"{n:.1f}".removesuffix(".0") if n < 9.95 else f"{n:.0f}"
    return f"{words} {unit}{'' if words == '1' else 's'}"


def estimate_law(cohorts: Mapping[int, Ints], cohort_ms: int, known_ms: int, fewest: int = FEWEST_LABELS) -> DelayLaw:
    """Estimate the law from what was here at ``known_ms``, of cohorts whose labels are counted at least up to then.

    Labels that came later are left out, and so are those of cells that ``known_ms`` cuts: what is found is a function
    of the logs up to then, whatever has been read since.

    Parameters
    ----------
    cohorts
        Start of each: label x cell.
    fewest
        How many labels make a law, and must have been seen at the greatest age of which it speaks.

    Examples
    --------
    Labels take one second or five, equally often; the younger cohort has shown only the former.

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
    # A cohort has shown these cells of its youngest events, too.
    shown = np.searchsorted(EDGES_MS[1:], known_ms - cohort_ms - np.array(starts), side="right")
    is_shown = np.arange(shown.max()) < shown[:, None]
    counts = np.stack([cohorts[start][:, : shown.max()] for start in starts]) * is_shown[:, None, :]
    taking = counts.sum(axis=0)
    within = np.einsum("clk,ck->lk", counts.cumsum(axis=2), is_shown)
    shares, reach = np.full((2, N_CELLS), np.nan), [0, 0]
    for label in (0, 1):
        (enough,) = np.nonzero(within[label] >= fewest)
        if len(enough):
            last = int(enough[-1])
            longest = taking[label, : last + 1] / np.maximum(within[label, : last + 1], 1)
            shorter = np.cumprod((1 - longest)[::-1])[::-1]  # by cell: the share below it
            shares[label] = 1.0
            shares[label, :last] = shorter[1:]
            reach[label] = int(EDGES_MS[last + 1])
    n = counts.sum(axis=(0, 2)).tolist()
    return DelayLaw((n[0], n[1]), shares, (reach[0], reach[1]))
