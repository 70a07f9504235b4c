"""The design effect: how many events count as one where events resemble each other, from events in time order.

A share of n independent events has the variance p (1 - p) / n. The variance is larger for events that resemble their
neighbours (weather, bursts, sessions) or that carry the past (a window of thirty days, a state that changes slowly).
The ratio of the two variances is the design effect. n divided by it is the number of independent events that say as
much. Tests that take n itself for that number raise false alarms.

Wanted is the variance of a *detection window's* share about that of training. Neighbouring events show it where
dependence ends before the window does. What repeats within each window (the hours of a day, in windows of a day) makes
neighbours alike, but does not make windows differ: it is taken away first. What is slower than a window is seen by
comparing windows with windows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

#: How many blocks there are of the longest length considered; fewer say too little about the variance between them.
FEWEST_BLOCKS = 32
#: Windows of training below which they are not compared with each other.
FEWEST_WINDOWS = 8
# Blocks between which a variance is known to some percent.
_MANY = 2_048
# Where a value is cut into "below" and "not below": the deciles.
_CUTS = 9
# From how many values on, those of a window that lie beyond all windows before it are taken to be of one entity. And
# how many windows before it are considered: at least, and at most.
_MANY_BEYOND, _BACK = 5, (6, 28)
# The shares of the values that are large, or small.
_OUTER = (0.01, 0.001)
# A correlation counts as found from this many standard errors on: over nine cuts and some ten lengths of blocks, about
# one independent metric in two hundred is taken for a dependent one.
_FOUND = 4.0
# Windows count as different from each other where chance would make them so no more often than this: over the cuts, as
# above.
_CHANCE = 1e-4
# An estimate counts by its upper 90 % limit.
_UPPER = 1.28
# Places in a window at which a value is compared with itself: the hours of a day.
_PARTS = 24


class Span(NamedTuple):
    """Events in windows of time.

    Parameters
    ----------
    windows, places
        The number of the detection window in which each event lies, ascending, and where in it: in [0, 1).
    memory
        Over how many windows a value may carry the past: the longest window of a feature, in detection windows; 0 or
        less than 1: none.
    """

    windows: Ints
    places: Floats
    memory: float = 0.0

    def of(self, rows: Ints | Bools | slice) -> Span:
        """Some of the events."""
        return Span(self.windows[rows], self.places[rows], self.memory)

    def starts(self) -> Ints:
        """Where each window begins."""
        starts: Ints = np.flatnonzero(np.diff(self.windows, prepend=self.windows[:1] - 1))
        return starts


class _Blocks(NamedTuple):
    """Variances of the sums of blocks, relative to independent events, at each length; and what neighbours show."""

    effects: list[float]
    is_correlated: list[bool]

    @property
    def last_correlated(self) -> int:
        """The longest length (as a power of two) at which neighbouring blocks are correlated; -1: at none."""
        return max(np.flatnonzero(self.is_correlated).tolist(), default=-1)


def design_effect(cells: Ints, n_cells: int, *, in_order: bool, span: Span | None = None) -> float:
    """Estimate the variance of shares relative to independent events; at least 1, and 1 without evidence of more.

    Values are cut at their nine deciles and where they are missing, and their ranks are taken as well (categories: each
    of the nine most frequent against the rest). The events are divided into blocks of 1, 2, 4, … neighbours. Blocks are
    too short while neighbouring ones are correlated. At twice the first length at which none are correlated any more,
    blocks are taken for independent, and their variance is compared with that of independent events. The largest of
    these ratios counts. As it is an estimate, its upper 90 % limit is taken. (AR(1) of 0.6: the share below the median
    needs 2.9, the mean rank 3.9.)

    Where the windows of the events are known, what repeats in each of them is taken away first: the mean at each place
    in it. The variance between windows counts where blocks as long as a window are still correlated, or where windows
    surely differ by more. Windows may also resemble the ones before them, or a value may carry the past of several
    windows. Then the variance goes on growing with the distance, and is followed to the end of that memory, as it grows
    for a sliding mean.

    Parameters
    ----------
    cells
        The cell of each of n events, in the order of time; ``n_cells`` where it has no value.
    n_cells
        Number of cells.
    in_order
        Whether the order of the cells means something (numbers) or not (categories).
    span
        In which windows the events lie; None: that is not known, and neighbours are all there is.

    Returns
    -------
    1 for fewer than 64 events, and for a metric of one value.

    Examples
    --------
    A value that stays for eight events at a time: eight of them are one.

    >>> values = np.random.default_rng(1).integers(0, 10, 4096)
    >>> 7 < design_effect(np.repeat(values, 8), 10, in_order=True) < 11
    True
    >>> design_effect(values, 10, in_order=True)
    1.0

    Each window holds the same ten values one after the other: neighbours are alike, and windows are no different.

    >>> days = np.tile(np.repeat(np.arange(10), 100), 20)
    >>> of_days = Span(np.repeat(np.arange(20), 1000), np.tile(np.arange(1000) / 1000, 20))
    >>> design_effect(days, 10, in_order=True) > 50, design_effect(days, 10, in_order=True, span=of_days)
    (True, 1.0)

    References
    ----------
    H. Flyvbjerg, H. Petersen, "Error estimates on averages of correlated data", J. Chem. Phys. 91, 1989; L. Kish,
    "Survey Sampling", Wiley 1965, for the name.
    """
    marks = _marks(cells, n_cells, in_order=in_order)
    if not len(marks):
        return 1.0
    marks -= marks.mean(axis=1, keepdims=True)
    variances = (marks**2).mean(axis=1)
    if span is not None and len(span.starts()) >= FEWEST_WINDOWS:
        marks = _without_profile(marks, span.places)
    return _effect(marks, variances, span)


def tail_effect(values: Floats, span: Span | None = None) -> float:
    """The design effect of the largest and of the smallest values: of being in the outer hundredth, or thousandth.

    Values resemble each other most where few entities have them: the sum of a month is largest for one card, in all of
    its events, for days. So values beyond all of training are mostly of one entity. Training shows this where a window
    has five values or more beyond the windows before it (a third of training, six to 28). Then all events of a window
    count as one: five independent values would lie beyond with a chance of one in 7 to the power of five.

    Parameters
    ----------
    values
        Of the events, in the order of time; NaN is missing.

    Examples
    --------
    One event in fifty has more than all others, on every tenth day.

    >>> rng = np.random.default_rng(1)
    >>> days = Span(np.repeat(np.arange(30), 2000), np.tile(np.arange(2000) / 2000, 30))
    >>> values = rng.random(60_000)
    >>> round(tail_effect(values, days), 1)
    1.0
    >>> tail_effect(values + (rng.random(60_000) < 0.02) * (days.windows % 10 == 0), days) > 10
    True
    """
    present = np.sort(values[~np.isnan(values)])
    if len(present) < 2 * FEWEST_BLOCKS:
        return 1.0
    ranks = [int(share * len(present)) for share in _OUTER]
    with np.errstate(invalid="ignore"):
        beyond = [values > present[-1 - rank] for rank in ranks] + [values < present[rank] for rank in ranks]
    marks = np.stack(beyond).astype(np.float64)
    marks = marks[marks.any(axis=1)]
    if not len(marks):
        return 1.0
    marks -= marks.mean(axis=1, keepdims=True)
    variances = (marks**2).mean(axis=1)
    starts = np.zeros(0, np.int64) if span is None else span.starts()
    if span is None or len(starts) < FEWEST_WINDOWS:
        return _effect(marks, variances, span)
    effect = _effect(_without_profile(marks, span.places), variances, span)
    is_in_runs = max(_most_beyond(values, starts), _most_beyond(-values, starts)) >= _MANY_BEYOND
    return max(effect, float(np.median(np.diff(starts, append=len(values))))) if is_in_runs else effect


def _most_beyond(values: Floats, starts: Ints) -> int:
    """The most values that a window has above all of the windows before it."""
    back = min(max(len(starts) // 3, _BACK[0]), _BACK[1])
    known = np.where(np.isnan(values), -np.inf, values)
    largest = np.maximum.reduceat(known, starts)
    most_before = np.array([largest[at - back : at].max() for at in range(back, len(starts))])
    most_before[np.isneginf(most_before)] = np.inf  # nothing is known of them
    sizes = np.diff(starts, append=len(values))
    is_beyond = known[starts[back] :] > np.repeat(most_before, sizes[back:])
    return int(np.add.reduceat(is_beyond.astype(np.int64), starts[back:] - starts[back]).max())


def effect_of_residuals(residuals: Floats, span: Span | None = None) -> float:
    """The design effect of values less what is expected of each, in the order of time; see `design_effect`.

    What repeats in each window is not taken away: it is already part of what is expected. Where dependence is too weak
    to be detected, the variance between `_MANY` blocks counts as estimated, with its error of 3 %.
    """
    variance = float((residuals**2).mean()) if len(residuals) >= 2 * FEWEST_BLOCKS else 0.0
    if not variance > 0:
        return 1.0
    length = max(len(residuals) // _MANY, 1)
    sums = residuals[: len(residuals) // length * length].reshape(-1, length).sum(axis=1)
    estimated = float((sums**2).mean()) / (length * variance) if len(residuals) >= _MANY else 1.0
    return max(estimated, _effect(residuals[None], np.array([variance]), span))


def _effect(marks: Floats, variances: Floats, span: Span | None) -> float:
    blocks = _compare_blocks(marks, variances)
    settled = blocks.last_correlated + 2
    effect = 1.0
    if blocks.last_correlated >= 0:
        level = min(settled, len(blocks.effects) - 1)
        effect = blocks.effects[level] * (1 + _UPPER * math.sqrt(2 / (marks.shape[1] >> level)))
    starts = np.zeros(0, np.int64) if span is None else span.starts()
    if span is None or len(starts) < FEWEST_WINDOWS:
        return max(1.0, effect)
    of_windows = _compare_windows(marks, variances, starts, span.memory)
    is_settled = settled < len(blocks.effects) and 2**settled * len(starts) <= marks.shape[1]
    if blocks.last_correlated >= 0 and not is_settled:
        return max(1.0, of_windows.upper)
    return max(1.0, effect, of_windows.beyond(effect))


def _without_profile(marks: Floats, places: Floats) -> Floats:
    """Marks less their mean at the same place in all windows."""
    parts = max(1, min(_PARTS, marks.shape[1] // (4 * FEWEST_BLOCKS)))
    part = (places * parts).astype(np.int64)
    sizes = np.maximum(np.bincount(part, minlength=parts), 1)
    return np.stack([mark - (np.bincount(part, mark, minlength=parts) / sizes)[part] for mark in marks])


def _compare_blocks(marks: Floats, variances: Floats) -> _Blocks:
    sums, length = marks, 1
    effects, is_correlated = [], []
    while sums.shape[1] >= FEWEST_BLOCKS:
        blocks = sums.shape[1]
        squares = (sums**2).sum(axis=1)
        effects.append(float((squares / (blocks * length * variances)).max()))
        neighbours = (sums[:, 1:] * sums[:, :-1]).sum(axis=1)
        is_correlated.append(bool((neighbours > _FOUND / math.sqrt(blocks) * squares).any()))
        in_pairs = blocks // 2 * 2
        sums = sums[:, 0:in_pairs:2] + sums[:, 1:in_pairs:2]
        length *= 2
    return _Blocks(effects, is_correlated)


class _Windows(NamedTuple):
    """The variance between windows, relative to independent events: per mark, and its upper limit over all of them."""

    effects: Floats
    n: int
    upper: float
    is_slow: bool

    def beyond(self, effect: float) -> float:
        """The upper limit where windows surely differ by more than ``effect`` explains, or carry the past; else 0."""
        limit = effect * float(chdtri(self.n - 1, _CHANCE)) / (self.n - 1)
        return self.upper if self.is_slow or bool((self.effects > limit).any()) else 0.0


def _compare_windows(marks: Floats, variances: Floats, starts: Ints, memory: float) -> _Windows:
    n = len(starts)
    sizes = np.diff(starts, append=marks.shape[1])
    means = np.add.reduceat(marks, starts, axis=1) / sizes
    effects = (means**2 * sizes).sum(axis=1) / ((n - 1) * variances)
    upper = float(effects.max()) * (1 + _UPPER * math.sqrt(2 / (n - 1)))
    centred = means - means.mean(axis=1, keepdims=True)
    alike = (centred[:, 1:] * centred[:, :-1]).sum(axis=1) > _FOUND / math.sqrt(n) * (centred**2).sum(axis=1)
    is_slow = memory > 1 or bool((alike & (effects > 1)).any())
    if is_slow:
        upper = max(upper, _follow(means, variances, float(np.median(sizes)), memory if memory > 1 else float(n)))
    return _Windows(effects, n, upper, is_slow)


def _follow(means: Floats, variances: Floats, size: float, memory: float) -> float:
    """The design effect of a window far from training, of values that remember ``memory`` windows.

    Windows h apart differ by 2 c h beyond the chance of their events, as far as a sliding mean of ``memory`` windows
    remembers, and no further. c is fitted to lags of up to half of training. The mean of training wanders with it.
    """
    n = means.shape[1]
    lags = np.arange(1, max(n // 2, 1) + 1)
    apart = np.array([((means[:, lag:] - means[:, :-lag]) ** 2).mean(axis=1) / 2 for lag in lags]).T
    beyond = apart - variances[:, None] / size
    growth = np.maximum(beyond @ lags / float(lags @ lags), 0.0)
    wander = growth * memory
    reach = n / memory
    kept = 1 - reach / 3 if reach < 1 else (1 - 1 / (3 * reach)) / reach
    chance = variances / size * (1 + 1 / n)
    return float(((chance + wander * (1 + kept)) / chance).max())


def _marks(cells: Ints, n_cells: int, *, in_order: bool) -> Floats:
    """Marks x events: 1 where the event is below the cut (or of the category), 0 where not; and ranks."""
    n = len(cells)
    if n < 2 * FEWEST_BLOCKS:
        return np.empty((0, n))
    counts = np.bincount(cells, minlength=n_cells + 1)
    if not in_order:
        frequent = np.argsort(-counts, kind="stable")[:_CUTS]
        frequent = frequent[(counts[frequent] > 0) & (counts[frequent] < n)]
        marks: Floats = (cells == frequent[:, None]).astype(np.float64)
        return marks
    upto = np.cumsum(counts)
    tenths = np.arange(1, _CUTS + 1) * n
    last = np.unique(np.append(np.searchsorted(upto * 10, tenths), n_cells - 1))
    last = last[(upto[last] > 0) & (upto[last] < n)]
    if not len(last):
        return np.empty((0, n))
    ranks = (upto - counts / 2)[cells] / n
    return np.vstack([cells <= last[:, None], ranks])
