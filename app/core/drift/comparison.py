"""The two-sample tests, on all metrics of a version at once: a detection window's counts against a reference's.

Arrays have the axes (…, metrics, cells) as `models.reference.reference.Counts` has them; what stands before them holds
independent windows (segments, or draws of a calibration). A test says NaN of a metric that it does not concern.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.drift.statistics.divergence import jensen_shannon
from app.core.drift.statistics.ks import ks
from app.core.drift.statistics.psi import group_cells, psi
from app.core.drift.statistics.shares import beyond_range, change_of_share, chi_square
from app.core.drift.statistics.wasserstein import Scale, wasserstein

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from app.core.batches import Floats, Ints
    from models.reference.reference import MetricKind, Reference

#: Groups that counts are joined into for PSI, Jensen-Shannon and chi^2, "missing" beside them.
N_GROUPS = 20


class Statistic(NamedTuple):
    """What a test finds, per metric: its statistic, the p-value of no drift, and how large the difference is."""

    statistic: Floats
    p_value: Floats
    effect: Floats


class Sides(NamedTuple):
    """Both windows in the forms that tests want: counts of cells with a value, of groups, of missing values."""

    reference: Ints
    detection: Ints
    reference_groups: Ints
    detection_groups: Ints
    reference_missing: Ints
    detection_missing: Ints


class Comparison:
    """Compares windows with the reference of one version.

    Parameters
    ----------
    reference
        Its cells, and how its events depend on each other.
    tests
        Names of ``TESTS``; others are left out.
    """

    def __init__(self, reference: Reference, tests: Iterable[str]) -> None:
        self._reference = reference
        self.tests = tuple(test for test in tests if test in TESTS)
        self.design_effects = reference.design_effects
        tails = reference.tail_effects
        #: The design effects of the largest and smallest values, where they are more than those of all.
        self.least_tails = np.ones(len(reference.metrics)) if tails is None else tails
        self._sizes = np.array([cells.size for cells in reference.metrics])
        self._n_metrics, self._width = reference.counts.shape
        kinds = [cells.kind for cells in reference.metrics]
        #: By test: the metrics that it has anything to say of.
        self.concerned = {test: np.array([kind in TESTS[test].kinds for kind in kinds]) for test in self.tests}
        self._is_outcome = np.array([kind == "outcome" for kind in kinds])
        groups = [
            group_cells(counts[: cells.size + 1], N_GROUPS, by_size=cells.is_coded)
            for cells, counts in zip(reference.metrics, reference.counts, strict=True)
        ]
        self._n_groups = max(int(of_row.max()) for of_row in groups) + 1
        flat = np.zeros((self._n_metrics, self._width), np.int64)  # whatever the group, what pads a row holds nothing
        for row, of_row in enumerate(groups):
            flat[row, : len(of_row)] = of_row
        self._missing_groups = flat[np.arange(self._n_metrics), self._sizes]
        of_cells = (flat + np.arange(self._n_metrics)[:, None] * self._n_groups).ravel()
        #: All cells, those of a group side by side; where each group begins among them, and which it is.
        self._order = np.argsort(of_cells, kind="stable")
        self._groups, self._starts = np.unique(of_cells[self._order], return_index=True)
        #: Position of each metric's last cell with a value.
        self.last_cells = self._sizes - 1

    @cached_property
    def scale(self) -> Scale:
        """Of all metrics; only one test asks for it, and it is dear."""
        of_metric = [
            Scale.of(cells.edges, counts[: cells.size])
            for cells, counts in zip(self._reference.metrics, self._reference.counts, strict=True)
        ]
        return Scale.stack(of_metric, self._width)

    def with_independent_events(self) -> Comparison:
        """The same comparison where each event counts as one."""
        other = copy(self)
        other.design_effects = other.least_tails = np.ones(self._n_metrics)
        return other

    @property
    def tail_effects(self) -> Floats:
        """The design effects of the largest and smallest values."""
        return np.maximum(self.design_effects, self.least_tails)

    def compare(self, reference: Ints, detection: Ints) -> dict[str, Statistic]:
        """Run the tests.

        Parameters
        ----------
        reference, detection
            Counts (…, metrics, cells). One window may stand beside several of the other side, as arrays broadcast.

        Returns
        -------
        By test, arrays (…, metrics). NaN where a window has no events with a value.
        """
        sides = self._prepare(reference, detection)
        statistics = {}
        for test in self.tests:
            outcome = TESTS[test].run(sides, self)
            statistics[test] = Statistic(*(np.where(self.concerned[test], values, np.nan) for values in outcome))
        return statistics

    def _prepare(self, reference: Ints, detection: Ints) -> Sides:
        rows = np.arange(self._n_metrics)
        sides = []
        for counts in (reference, detection):
            # A label that never comes is not counted as missing in a window: the two cannot be compared.
            missing = np.where(self._is_outcome, 0, counts[..., rows, self._sizes])
            present = counts.copy()
            present[..., rows, self._sizes] = 0
            groups = self._join(present)
            groups[..., rows, self._missing_groups] = missing
            sides.append((present, groups, missing))
        (before, before_groups, before_missing), (now, now_groups, now_missing) = sides
        return Sides(before, now, before_groups, now_groups, before_missing, now_missing)

    def _join(self, counts: Ints) -> Ints:
        joined = np.zeros((*counts.shape[:-2], self._n_metrics * self._n_groups), np.int64)
        in_order = counts.reshape(*counts.shape[:-2], -1)[..., self._order]
        joined[..., self._groups] = np.add.reduceat(in_order, self._starts, axis=-1)
        return joined.reshape(*counts.shape[:-1], self._n_groups)


def _psi(sides: Sides, of: Comparison) -> Statistic:
    moved = psi(sides.reference_groups, sides.detection_groups, of.design_effects)
    n, m = sides.reference_groups.sum(axis=-1), sides.detection_groups.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_chance = (moved.groups - 1) * (1 / n + 1 / m) * of.design_effects
    return Statistic(moved.statistic, moved.p_value, np.maximum(moved.statistic - by_chance, 0.0))


def _ks(sides: Sides, of: Comparison) -> Statistic:
    distance = ks(sides.reference, sides.detection, of.design_effects)
    return Statistic(*distance, distance.statistic)


def _wasserstein(sides: Sides, of: Comparison) -> Statistic:
    distance = wasserstein(sides.reference, sides.detection, of.scale, of.design_effects)
    return Statistic(*distance, distance.statistic)


def _jensen_shannon(sides: Sides, of: Comparison) -> Statistic:
    return Statistic(*jensen_shannon(sides.reference_groups, sides.detection_groups, of.design_effects))


def _chi_square(sides: Sides, of: Comparison) -> Statistic:
    return Statistic(*chi_square(sides.reference_groups, sides.detection_groups, of.design_effects))


def _null_rate(sides: Sides, of: Comparison) -> Statistic:
    missing, missing_now = sides.reference_missing, sides.detection_missing
    n, m = sides.reference.sum(axis=-1) + missing, sides.detection.sum(axis=-1) + missing_now
    change = change_of_share(missing, n, missing_now, m, of.design_effects)
    return Statistic(*change, np.abs(change.statistic))


def _unseen(sides: Sides, of: Comparison) -> Statistic:
    """Of the values that are there, those that training's vocabulary did not have: the last cell of a category."""
    rows = np.arange(len(of.last_cells))
    unseen, unseen_now = sides.reference[..., rows, of.last_cells], sides.detection[..., rows, of.last_cells]
    n, m = sides.reference.sum(axis=-1), sides.detection.sum(axis=-1)
    change = change_of_share(unseen, n, unseen_now, m, of.design_effects)
    return Statistic(*change, np.abs(change.statistic))


def _range(sides: Sides, of: Comparison) -> Statistic:
    n, m = sides.reference.sum(axis=-1), sides.detection.sum(axis=-1)
    rows = np.arange(len(of.last_cells))
    below, above = sides.detection[..., 0], sides.detection[..., rows, of.last_cells]
    p_value = np.minimum(*(beyond_range(n, beyond, m, of.tail_effects).p_value for beyond in (below, above)))
    with np.errstate(invalid="ignore"):
        share = np.where(n > 0, (below + above) / m, np.nan)
    return Statistic(share, np.minimum(2 * p_value, 1.0), share)


class _Test(NamedTuple):
    run: Callable[[Sides, Comparison], Statistic]
    kinds: frozenset[MetricKind]


_NUMBERS: frozenset[MetricKind] = frozenset({"numeric", "score"})
_CODES: frozenset[MetricKind] = frozenset({"category", "outcome"})
_INPUTS: frozenset[MetricKind] = _NUMBERS | {"category"}

#: By name, with the kinds of metrics that each is about.
TESTS: dict[str, _Test] = {
    "psi": _Test(_psi, _NUMBERS | _CODES),
    "ks": _Test(_ks, _NUMBERS),
    "wasserstein": _Test(_wasserstein, _NUMBERS),
    "jensen_shannon": _Test(_jensen_shannon, _NUMBERS | _CODES),
    "chi_square": _Test(_chi_square, _CODES),
    "null_rate": _Test(_null_rate, _INPUTS),
    "unseen": _Test(_unseen, frozenset({"category"})),
    "range": _Test(_range, _NUMBERS),
}


def smallest_p(statistics: dict[str, Statistic]) -> Floats:
    """The smallest p-value of the tests of each metric; NaN where none says anything."""
    smallest: Floats = np.fmin.reduce([outcome.p_value for outcome in statistics.values()], axis=0)
    return smallest
