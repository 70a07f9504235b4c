"""The drift tests of a pipeline on one closed window, each brought to a verdict within the budget of false alarms.

A signal needs evidence and an effect that matters: with enough events every difference is significant, with few every
statistic is large. Evidence is what the budget's procedure (`app.core.drift.budget`) rejects. Its hypotheses are, for
each metric and segment: *now* (the smallest p-value of the tests that compare the window with its reference, calibrated
by `app.core.drift.smallest_p`), *trend* and *interval* (the deciles against their past). A rejection with an effect of
at least ``minimum_effect`` is DRIFT, with a smaller one WARNING: both are false alarms where nothing has moved.

============== =========================== ============================ ==========================================
test           statistic                   effect                       p-value
============== =========================== ============================ ==========================================
psi            PSI                         what of it is beyond chance  (1/n + 1/m) chi^2
ks             D                           D                            Smirnov's limit law
wasserstein    W in deviations             W                            gamma law of the Brownian bridge integral
jensen_shannon distance                    what of it is beyond chance  likelihood ratio
chi_square     chi^2                       Cramer's V                   chi^2
null_rate      change of the share         its size                     normal or binomial
unseen         change of the share         its size                     normal or binomial
range          share beyond training's     the share                    exceedance, exact
interval       deciles outside their past  largest distance, in [0, 1]  rank of the clearest decile, times nine
trend          t of the clearest decile    fitted change over the       t of that many independent windows, times
                                           windows / (d9 - d1)          nine
classic_…      the textbook's ks, interval and trend, as they are: WARNING where they reject at their own level, which
               they exceed by far on quiet data (docs/drift-evaluation.md); no part of the budget, and never DRIFT
============== =========================== ============================ ==========================================

``wasserstein``, ``ks`` and ``range`` are about numbers, ``chi_square`` about categories and the outcome, ``unseen``
about categories, ``null_rate`` about all but the outcome. ``threshold`` is the p-value below which the test would have
signalled in this window (of the classic ones their level). All count n divided by the design effect of the metric
(`models.reference.dependence`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from app.core.drift.budget import Spent, spend
from app.core.drift.comparison import Comparison, Statistic, smallest_p
from app.core.drift.judgement import FEWEST_INDEPENDENT, DriftResult, Judgement, Signal, View
from app.core.drift.over_time import Past, PastResult, classic_interval, classic_trend, look_at_interval, look_for_trend
from app.core.drift.smallest_p import SmallestP
from app.core.drift.statistics.ks import ks
from app.core.drift.words import SAYING, say_counts, say_power

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from models.reference.reference import Reference
    from schemas.pipeline.spec import DriftTest

#: What a metric's hypotheses weigh in the budget: now, trend, interval. The past is looked at again and again.
_WEIGHTS = np.array([0.8, 0.1, 0.1])
_NOW, _TREND, _INTERVAL = range(3)
#: Of what changes slowly by itself, its past says nothing: it rises or falls for a while.
_SLOW = "not compared with past windows: it has too few independent events in one"


class _Sizes(NamedTuple):
    """Events of both windows, by segment and metric, and which are enough to be tested."""

    reference: list[list[int]]
    detection: list[list[int]]
    is_enough: NDArray[np.bool_]


class _Evidence(NamedTuple):
    """What the verdicts of a window are made of, all but the first two by segment and metric.

    Parameters
    ----------
    sizes
        Events of both windows.
    of_tests
        By test: statistic, p-value and effect, each by segment and metric.
    told
        What their past says, by hypothesis.
    rejected, thresholds
        By hypothesis: whether the budget accepts it as a change, and the p-value from which on it would.
    limits
        What the smallest p-value of a metric's tests must be below, for the metric to be rejected.
    """

    sizes: _Sizes
    of_tests: Mapping[str, Sequence[list[list[float]]]]
    told: Mapping[tuple[int, int], Mapping[int, PastResult]]
    rejected: list[list[list[bool]]]
    thresholds: list[list[list[float]]]
    limits: list[list[float]]


class Judge:
    """Judges the windows of one version.

    Parameters
    ----------
    reference
        Of the version.
    tests
        Those of the pipeline file.
    memories
        Of each feature: how many windows it carries the past; empty: none does.
    """

    def __init__(self, reference: Reference, tests: Sequence[DriftTest], memories: Sequence[float] = ()) -> None:
        self._reference = reference
        self._memories = [*memories, *(0.0 for _ in reference.metrics[len(memories) :])]
        self._settings: dict[str, Mapping[str, float]] = {test.test: test.settings for test in tests}
        self._comparison = Comparison(reference, self._settings)

    def calibrate(self, view: View) -> list[SmallestP | None]:
        """Work out, once, what smallest p-values are worth in windows of such sizes; None where there is too little."""
        return self._laws(view, self._sizes(view))

    def judge(self, view: View) -> list[Judgement]:
        """Run all tests on a window and spend its budget; in the order of segments, metrics and tests."""
        past = Past.side_by_side(view.past)
        evidence, classic = self._weigh(view, past), self._classic(view, past)
        return [judgement for at, told in classic.items() for judgement in self._tell(view, evidence, at, told)]

    def drifts(self, view: View) -> list[Judgement]:
        """List those of `judge` that are drifts, without the work that the others are."""
        evidence = self._weigh(view, Past.side_by_side(view.past))
        (segments, rows) = np.nonzero(np.any(evidence.rejected, axis=-1))
        told = [self._tell(view, evidence, at, {}) for at in zip(segments.tolist(), rows.tolist(), strict=True)]
        return [judgement for of_metric in told for judgement in of_metric if judgement.verdict.signal == "DRIFT"]

    # -- evidence ------------------------------------------------------------------------------------------------------

    def _sizes(self, view: View) -> _Sizes:
        reference, detection = view.reference.sum(axis=-1), view.detection.sum(axis=-1)
        is_enough = np.minimum(reference, detection) >= FEWEST_INDEPENDENT * self._reference.design_effects
        return _Sizes(reference.tolist(), detection.tolist(), is_enough)

    def _laws(self, view: View, sizes: _Sizes) -> list[SmallestP | None]:
        row = view.rows[0] if view.rows else 0
        # The past alone may be looked at, or nothing be compared.
        is_asked = self._comparison.tests and not (view.rows and view.silent.keys() >= set(view.rows))
        return [
            SmallestP.draw(self._reference, self._comparison.tests, _rounded(reference[row]), _rounded(detection[row]))
            if is_enough.any() and is_asked
            else None
            for reference, detection, is_enough in zip(*sizes, strict=True)
        ]

    def _weigh(self, view: View, past: Past) -> _Evidence:
        sizes = self._sizes(view)
        statistics = self._comparison.compare(view.reference, view.detection)
        laws = self._laws(view, sizes)
        told = self._look_back(view, past, sizes.is_enough)
        spent = self._spend(view, statistics, laws, sizes.is_enough, told)
        limits = [
            (alone if law is None else law.smallest(alone)).tolist()
            for alone, law in zip(spent.threshold[..., _NOW], laws, strict=True)
        ]
        of_tests = {test: [values.tolist() for values in outcome] for test, outcome in statistics.items()}
        return _Evidence(sizes, of_tests, told, spent.rejected.tolist(), spent.threshold.tolist(), limits)

    def _look_back(
        self, view: View, past: Past, is_enough: NDArray[np.bool_]
    ) -> dict[tuple[int, int], dict[int, PastResult]]:
        """By segment and metric, and hypothesis; nothing of what resembles past windows by itself."""
        said: dict[int, list[PastResult]] = {}
        if "trend" in self._settings:
            said[_TREND] = look_for_trend(past, self._settings["trend"]["minimum_history"])
        if "interval" in self._settings:
            said[_INTERVAL] = look_at_interval(past)
        results = {
            at: {which: past_results[place] for which, past_results in said.items()}
            for place, at in enumerate(_places(view))
        }
        is_slow = ~is_enough & (self._reference.design_effects > 1)
        for (s, row), of_metric in results.items():
            if self._memories[row] > 1:
                note = f"not compared with past windows: it carries the past of {self._memories[row]:.3g} of them"
            elif is_slow[s, row]:
                note = _SLOW
            else:
                continue
            results[s, row] = dict.fromkeys(of_metric, PastResult(math.nan, math.nan, math.nan, note))
        return results

    def _spend(
        self,
        view: View,
        statistics: dict[str, Statistic],
        laws: list[SmallestP | None],
        is_enough: NDArray[np.bool_],
        told: dict[tuple[int, int], dict[int, PastResult]],
    ) -> Spent:
        """Spend the budget on hypotheses, segments x metrics x (now, trend, interval)."""
        p_values = np.full((*view.detection.shape[:2], len(_WEIGHTS)), np.nan)
        if statistics:
            smallest = smallest_p(statistics)
            for s, law in enumerate(laws):
                if law is not None:
                    p_values[s, :, _NOW] = np.where(is_enough[s], law.p_value(smallest[s]), np.nan)
        weights = np.broadcast_to(_WEIGHTS, p_values.shape)
        unjudged = np.ones(p_values.shape[1], dtype=bool)
        unjudged[list(view.rows)] = False
        unjudged[list(view.silent)] = True
        for (s, row), of_metric in told.items():
            for which, result in of_metric.items():
                p_values[s, row, which] = result.p_value
        p_values[:, unjudged] = np.nan
        # A hypothesis that such a past cannot reject would take its part of the budget away from the others.
        is_open = ~np.isnan(p_values)
        alone = view.alpha * weights / max(float(weights[is_open].sum()), 1e-9)
        for (s, row), of_metric in told.items():
            for which, result in of_metric.items():
                if result.least > alone[s, row, which]:
                    p_values[s, row, which] = np.nan
        return spend(p_values, weights, view.alpha)

    # -- verdicts ------------------------------------------------------------------------------------------------------

    def _tell(
        self, view: View, evidence: _Evidence, at: tuple[int, int], classic: dict[str, DriftResult]
    ) -> list[Judgement]:
        """What all tests say of a metric in a segment."""
        s, row = at
        rejected, sizes = evidence.rejected[s][row], evidence.sizes
        verdicts = {
            **self._now(evidence.of_tests, view, at, rejected[_NOW], evidence.limits[s][row]),
            **self._over_time(evidence.told[at], rejected, evidence.thresholds[s][row]),
            **classic,
        }
        if row in view.silent:
            verdicts = dict.fromkeys(verdicts, DriftResult(None, None, None, None, "NONE", view.silent[row]))
        name = self._reference.metrics[row].name
        numbers = sizes.reference[s][row], sizes.detection[s][row]
        return [
            Judgement(view.segments[s], name, test, *numbers, verdicts[test])
            for test in self._settings
            if test in verdicts
        ]

    def _now(
        self,
        of_tests: Mapping[str, Sequence[list[list[float]]]],
        view: View,
        at: tuple[int, int],
        is_rejected: bool,
        limit: float,
    ) -> dict[str, DriftResult]:
        """What the tests say of a metric; ``of_tests``: statistic, p-value and effect, by segment and metric."""
        verdicts = {}
        s, row = at
        for test, outcome in of_tests.items():
            if not self._comparison.concerned[test][row]:
                continue
            statistic, p_value, effect = outcome[0][s][row], outcome[1][s][row], outcome[2][s][row]
            if math.isnan(p_value):
                is_absent = not view.reference[s, row].any()
                note = view.absence if is_absent else "no values to compare"
                verdicts[test] = DriftResult(None, None, None, None, "NONE", note)
            elif math.isnan(limit):
                n, m = int(view.reference[at].sum()), int(view.detection[at].sum())
                words = say_power(float(self._reference.design_effects[row]), n, m, view.alpha)
                verdicts[test] = DriftResult(statistic, p_value, None, effect, "NONE", words)
            else:
                signal = self._grade(test, effect) if is_rejected and p_value <= limit else "NONE"
                cells = self._reference.metrics[row]
                note = say_counts(test, cells, view.reference[at], view.detection[at]) if test in SAYING else ""
                verdicts[test] = DriftResult(statistic, p_value, limit, effect, signal, note)
        return verdicts

    def _over_time(
        self, told: Mapping[int, PastResult], rejected: list[bool], thresholds: list[float]
    ) -> dict[str, DriftResult]:
        """What a metric's past says; by hypothesis."""
        verdicts = {}
        for which, result in told.items():
            test = "trend" if which == _TREND else "interval"
            threshold = thresholds[which]
            if math.isnan(result.p_value):
                verdicts[test] = DriftResult(None, None, None, None, "NONE", result.note)
            elif math.isnan(threshold):
                note = f"too little history for this budget: its p-value cannot be below {result.least:.2g}"
                verdicts[test] = DriftResult(result.statistic, result.p_value, None, result.effect, "NONE", note)
            else:
                signal = self._grade(test, abs(result.effect)) if rejected[which] else "NONE"
                statistic, effect = _finite(result.statistic), _finite(result.effect)
                verdicts[test] = DriftResult(statistic, result.p_value, threshold, effect, signal, result.note)
        return verdicts

    def _classic(self, view: View, past: Past) -> dict[tuple[int, int], dict[str, DriftResult]]:
        """What the textbook's tests say, by segment and metric."""
        verdicts: dict[tuple[int, int], dict[str, DriftResult]] = {at: {} for at in _places(view)}
        for test, settings in self._settings.items():
            if test == "classic_interval":
                told = classic_interval(past, settings)
            elif test == "classic_trend":
                told = classic_trend(past, settings)
            elif test == "classic_ks":
                told = self._classic_ks(view)
            else:
                continue
            for at, results in zip(verdicts, told, strict=True):
                if test != "classic_ks" or not self._reference.metrics[at[1]].is_coded:
                    verdicts[at][test] = _at_its_level(results, settings.get("alpha"))
        return verdicts

    def _classic_ks(self, view: View) -> list[PastResult]:
        rows = list(view.rows)
        sizes = np.array([self._reference.metrics[row].size for row in rows])
        reference, detection = (counts[:, rows] for counts in (view.reference, view.detection))
        for counts in (reference, detection):
            counts[:, np.arange(len(rows)), sizes] = 0
        distance = ks(reference, detection)
        return [
            PastResult(statistic, p_value, statistic, "no values to compare" if math.isnan(p_value) else "")
            for statistic, p_value in zip(
                distance.statistic.ravel().tolist(), distance.p_value.ravel().tolist(), strict=True
            )
        ]

    def _grade(self, test: str, effect: float) -> Signal:
        return "DRIFT" if effect >= self._settings[test].get("minimum_effect", 0.0) else "WARNING"


def _places(view: View) -> list[tuple[int, int]]:
    """The segments and metrics that are judged, in the order of their past."""
    return [(s, row) for s in range(len(view.segments)) for row in view.rows]


def _at_its_level(told: PastResult, level: float | None) -> DriftResult:
    """A textbook's test; without a level it rejects or not, and has no p-value."""
    if math.isnan(told.p_value):
        return DriftResult(None, None, level, None, "NONE", told.note)
    signal: Signal = "WARNING" if told.p_value < (0.5 if level is None else level) else "NONE"
    p_value = None if level is None else told.p_value
    return DriftResult(_finite(told.statistic), p_value, level, _finite(told.effect), signal, told.note)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(n: int) -> int:
    """To the nearest power of four: what a p-value is worth hardly depends on the number of events."""
    return int(4 ** round(math.log(max(n, 1), 4)))
