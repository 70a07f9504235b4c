"""The drift tests of a pipeline on one metric of one closed window, each brought to a verdict.

A signal needs two things: an effect that matters and, where there is a p-value, evidence that it is not chance. With
enough events every difference is significant, with few every statistic is large; one of the two alone is no alarm.

============== ============ ===================== =============== =============================================
test           statistic    effect                threshold       signal DRIFT (WARNING: half of what is *)
============== ============ ===================== =============== =============================================
psi            PSI          PSI                   ``threshold``   p < ``alpha`` and PSI >= ``threshold`` *
ks             D            D                     ``alpha``       p < ``alpha`` and D >= ``minimum_effect`` *
wasserstein    W in         W                     ``alpha``       p < ``alpha`` and W >= ``minimum_effect`` *
               deviations
jensen_shannon distance     what of it is beyond  ``alpha``       the same, with the effect *
                            chance, in [0, 1]
chi_square     chi^2        Cramer's V            ``alpha``       the same, with V *
null_rate      change of    its size              ``alpha``       the same, with the size of the change *
               the share
unseen         change of    its size              ``alpha``       the same, with the size of the change *
               the share
range          share beyond the share             ``alpha``       the same, with the share *
               training's
interval       deciles      largest distance,     ``deciles``     >= ``deciles`` of the ten outside by an effect
               outside      in [0, 1]                             of ``minimum_effect`` (WARNING: outside at all)
trend          t of the     fitted change over    ``alpha``       p < ``alpha`` and |effect| >=
               clearest     the windows / (d9 -                   ``minimum_effect`` *
               decile       d1) of the reference
============== ============ ===================== =============== =============================================

``wasserstein`` and ``range`` are about numbers, ``chi_square`` about categories and the outcome, ``unseen`` about
categories, ``null_rate`` about all but the outcome; of other metrics they say nothing.

The trend's p is that of its clearest decile times the ten that were looked at (Bonferroni). The interval asks for
several deciles, outside by as much as their range is wide, because deciles move together and the range of a short past
is narrow. Share of stable windows (1 000 normal values each, 1 500 windows) with a decile outside / WARNING or DRIFT /
DRIFT: past of 3 windows .99 / .60 / .051, 5 .94 / .31 / .003, 10 .77 / .14 / 0, 40 .49 / .03 / 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from app.core.drift.deciles import DECILES
from app.core.drift.divergence import jensen_shannon
from app.core.drift.interval import interval
from app.core.drift.ks import ks
from app.core.drift.psi import group_cells, psi
from app.core.drift.shares import beyond_range, change_of_share, chi_square
from app.core.drift.trend import trend
from app.core.drift.wasserstein import Scale, wasserstein

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.core.batches import Floats, Ints
    from models.reference import MetricCells, MetricKind
    from schemas.pipeline import DriftTest

Signal = Literal["NONE", "WARNING", "DRIFT"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the tests may look at: one metric, its counts in both windows, its deciles now, then and in between.

    ``scale``: the reference's, for distances. ``times`` are the ordinals of the past windows and, last, of the window
    under test; ``past`` (T x 10) holds the deciles of the former.
    """

    cells: MetricCells
    reference: Ints
    detection: Ints
    scale: Scale
    reference_deciles: Floats
    deciles: Floats
    times: Floats
    past: Floats

    @cached_property
    def groups(self) -> tuple[Ints, Ints]:
        """Both windows' counts in about twenty groups."""
        groups = group_cells(self.reference, 20, by_size=self.cells.is_coded)
        reference, detection = (
            np.bincount(groups, weights=counts).astype(np.int64) for counts in (self.reference, self.detection)
        )
        if self.cells.kind == "outcome":  # a label that never comes is not counted, so "missing" cannot be compared
            return reference[:-1], detection[:-1]
        return reference, detection


class Verdict(NamedTuple):
    """What one test says; None where it says nothing, and ``note`` why."""

    statistic: float | None
    p_value: float | None
    threshold: float | None
    effect: float | None
    signal: Signal
    note: str = ""


def judge(test: DriftTest, evidence: Evidence) -> Verdict:
    """Run one test with its settings; those that are not given have the defaults of this module."""
    return TESTS[test.test](evidence, test.settings)


def concerns(test: DriftTest, cells: MetricCells) -> bool:
    """Whether a test has anything to say of a metric."""
    return cells.kind in _KINDS.get(test.test, {cells.kind})


def _psi(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    threshold, alpha = settings.get("threshold", 0.2), settings.get("alpha", 0.01)
    result = psi(*evidence.groups)
    if math.isnan(result.statistic):
        return Verdict(None, None, threshold, None, "NONE", "no events to compare")
    signal = _grade(result.statistic, threshold) if result.p_value < alpha else "NONE"
    return Verdict(result.statistic, result.p_value, threshold, result.statistic, signal)


def _ks(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    size = evidence.cells.size
    result = ks(evidence.reference[:size], evidence.detection[:size])
    return _decide(*result, result.statistic, settings, nothing="no values to compare")


def _wasserstein(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    size = evidence.cells.size
    result = wasserstein(evidence.cells.edges, evidence.reference[:size], evidence.detection[:size], evidence.scale)
    nothing = "no values to compare, or all of training's are the same"
    return _decide(*result, result.statistic, settings, nothing=nothing)


def _jensen_shannon(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    return _decide(*jensen_shannon(*evidence.groups), settings)


def _chi_square(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    return _decide(*chi_square(*evidence.groups), settings)


def _null_rate(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    size = evidence.cells.size
    numbers = [(int(counts[size]), int(counts.sum())) for counts in (evidence.reference, evidence.detection)]
    result = change_of_share(*numbers[0], *numbers[1])
    note = " against ".join(f"{missing / max(n, 1):.2%}" for missing, n in reversed(numbers)) + " missing"
    return _decide(*result, abs(result.statistic), settings, note=note, least=0.02)


def _unseen(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    unseen = evidence.cells.size - 1
    numbers = [
        (int(counts[unseen]), int(counts[: unseen + 1].sum())) for counts in (evidence.reference, evidence.detection)
    ]
    result = change_of_share(*numbers[0], *numbers[1])
    note = " against ".join(f"{some / max(n, 1):.2%}" for some, n in reversed(numbers)) + " are none of its values"
    return _decide(*result, abs(result.statistic), settings, note=note, least=0.01, nothing="no values to compare")


def _range(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    size = evidence.cells.size
    if not len(evidence.cells.edges):
        return _decide(math.nan, math.nan, math.nan, settings, nothing="no values in training")
    n, m = int(evidence.reference[:size].sum()), int(evidence.detection[:size].sum())
    below, above = int(evidence.detection[0]), int(evidence.detection[size - 1])
    p_value = min(1.0, 2 * min(beyond_range(n, beyond, m).p_value for beyond in (below, above)))
    share = (below + above) / m if m else math.nan
    low, high = evidence.cells.edges[0], evidence.cells.edges[-1]
    note = f"{below} below {low:.4g}, {above} above {high:.4g} of training" if below + above else ""
    return _decide(share, p_value, share, settings, note=note, least=0.01, nothing="no values to compare")


def _interval(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    many, minimum_effect = settings.get("deciles", 5.0), settings.get("minimum_effect", 0.5)
    past, _ = _finite_past(evidence)
    refusal = _refusal(evidence, len(past), settings)
    if refusal:
        return Verdict(None, None, many, None, "NONE", refusal)
    result = interval(past, evidence.deciles, settings.get("low", 2.5), settings.get("high", 97.5))
    n_outside = int(np.count_nonzero(result.side))
    words = [
        f"{', '.join(name for name, at in zip(DECILES, result.side.tolist(), strict=True) if at == side)} {where}"
        for side, where in ((-1, "below"), (1, "above"))
        if side in result.side
    ]
    note = f"{' and '.join(words)} the interval of {len(past)} past windows" if words else ""
    n_far = int(np.count_nonzero(result.effect >= minimum_effect))
    signal: Signal = "DRIFT" if n_far >= many else "WARNING" if n_outside >= many else "NONE"
    return Verdict(float(n_outside), None, many, float(result.effect.max()), signal, note)


def _trend(evidence: Evidence, settings: Mapping[str, float]) -> Verdict:
    alpha, minimum_effect = settings.get("alpha", 0.05), settings.get("minimum_effect", 0.1)
    past, times = _finite_past(evidence)
    refusal = _refusal(evidence, len(past), settings, least=2)
    if refusal:
        return Verdict(None, None, alpha, None, "NONE", refusal)
    times = np.append(times, evidence.times[-1])
    result = trend(times, np.vstack([past, evidence.deciles]))
    clearest = int(np.argmin(result.p_value))
    p_value = min(1.0, float(result.p_value[clearest]) * len(DECILES))
    t_statistic = float(result.t_statistic[clearest])
    spread = float(evidence.reference_deciles[8] - evidence.reference_deciles[0])
    change = float(result.beta[clearest]) * float(times[-1] - times[0])
    # Of a metric that did not vary in training, any change is as large as can be.
    effect = change / spread if spread > 0 else math.copysign(1.0, change) if change else 0.0
    signal = _grade(abs(effect), minimum_effect) if p_value < alpha else "NONE"
    note = f"{DECILES[clearest]} changes by {result.beta[clearest]:.4g} a window over {len(times)} windows"
    return Verdict(
        t_statistic if math.isfinite(t_statistic) else None,
        p_value,
        alpha,
        effect if math.isfinite(effect) else None,
        signal,
        note,
    )


#: By the name that a pipeline file gives them.
TESTS: dict[str, Callable[[Evidence, Mapping[str, float]], Verdict]] = {
    "psi": _psi,
    "ks": _ks,
    "wasserstein": _wasserstein,
    "jensen_shannon": _jensen_shannon,
    "chi_square": _chi_square,
    "null_rate": _null_rate,
    "unseen": _unseen,
    "range": _range,
    "interval": _interval,
    "trend": _trend,
}


#: Of what kind the metrics are that a test is about, where it is not about all.
_KINDS: dict[str, set[MetricKind]] = {
    "wasserstein": {"numeric", "score"},
    "range": {"numeric", "score"},
    "chi_square": {"category", "outcome"},
    "null_rate": {"numeric", "category", "score"},
    "unseen": {"category"},
}


def _decide(
    statistic: float,
    p_value: float,
    effect: float,
    settings: Mapping[str, float],
    *,
    least: float = 0.1,
    note: str = "",
    nothing: str = "no events to compare",
) -> Verdict:
    """Ask for evidence and an effect that matters, both; ``nothing``: what to say of a statistic that is NaN."""
    alpha = settings.get("alpha", 0.01)
    if math.isnan(statistic):
        return Verdict(None, None, alpha, None, "NONE", nothing)
    signal = _grade(effect, settings.get("minimum_effect", least)) if p_value < alpha else "NONE"
    return Verdict(statistic, p_value, alpha, effect, signal, note)


def _grade(effect: float, enough: float) -> Signal:
    if effect >= enough:
        return "DRIFT"
    return "WARNING" if effect >= enough / 2 else "NONE"


def _finite_past(evidence: Evidence) -> tuple[Floats, Floats]:
    usable = np.isfinite(evidence.past).all(axis=1)
    return evidence.past[usable], evidence.times[:-1][usable]


def _refusal(evidence: Evidence, n_past: int, settings: Mapping[str, float], least: int = 1) -> str:
    if not np.isfinite(evidence.deciles).all():
        return "no finite values in the window"
    needed = max(int(settings.get("minimum_history", 5)), least)
    return f"too little history ({n_past} of {needed} windows)" if n_past < needed else ""
