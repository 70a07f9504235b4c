"""Turns what was counted and tested of a window into one verdict, and into what its labels are expected to say.

Everything here is a function of the counts of the window, of its version's reference and of the windows before it: the
same counts give the same words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from app.core.counts.sketches import ALL
from app.core.faults.find import FaultFinder
from app.core.faults.since import find_since
from app.core.features.origins import Origins
from app.core.findings import PerformanceRow, Subject
from app.core.performance.estimation import compare, estimate
from app.core.performance.label_checks import ALL_ARRIVED
from app.core.performance.measures import NORMAL_95, Measure, least_loss, measure, wilson
from app.core.verdict.attribution import attribute
from app.core.verdict.decide import decide
from app.core.verdict.misfits import Misfits
from app.core.verdict.movements import Movements
from app.core.verdict.situation import Performance, RateChange, ScoreChange, Situation, Thresholds
from schemas.pipeline.spec import UNSEEN
from schemas.wire import Explained, VerdictExample, VerdictSegment, WindowVerdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.core.faults.fault import Fault
    from app.core.faults.traffic import Traffic
    from app.core.performance.calibration import Calibration
    from app.core.performance.label_checks import LabelCheck
    from app.core.verdict.decide import Verdict
    from app.core.verdict.evidence import Evidence
    from app.core.verdict.situation import Misfit, Predecessor
    from models.reference.reference import Counts, Reference
    from schemas.pipeline.spec import Performance as PerformanceSettings

#: The measure by which a verdict calls a version good enough.
MEASURE = "auc"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What is known of a version, for the diagnosis of its windows.

    Parameters
    ----------
    reference
        Its reference.
    least
        What the alert rules of the pipeline ask of `MEASURE`; NaN: nothing.
    events
        What an event is called, in the plural.
    settings
        What matters of its performance, and what errors cost.
    origins
        What its features are made of; None: each is a field of its own.
    """

    reference: Reference
    least: float
    events: str
    settings: PerformanceSettings
    origins: Origins | None = None

    @cached_property
    def _misfits(self) -> Misfits:
        return Misfits(self.reference, self.settings)

    @cached_property
    def _movements(self) -> Movements:
        return Movements(self.reference)

    @cached_property
    def _fault_finder(self) -> FaultFinder:
        reference = self.reference
        return FaultFinder(
            reference.metrics,
            reference.training,
            reference.design_effects.tolist(),
            values={cells.name: (*cells.values, UNSEEN) for cells in reference.metrics if cells.values},
            events=self.events,
            origins=self.origins or Origins(),
        )

    @property
    def calibration(self) -> Calibration:
        """What scores mean."""
        return self._misfits.calibration()

    def performance(
        self,
        about: Subject,
        segment: str,
        counts: Counts,
        *,
        with_labels: bool,
        arrived: tuple[float, float] = ALL_ARRIVED,
    ) -> list[PerformanceRow]:
        """Estimate the measures of a window's events and, ``with_labels``, set beside them what came true.

        ``arrived``: the shares of the labels 0 and 1 that are here.
        """
        scored = counts.counts[-2, : self.reference.score_cells]
        calibration = self._misfits.calibration(segment)
        estimated = {figure.name: figure for figure in estimate(calibration, scored)}
        compared = compare(calibration, counts.outcomes, arrived) if with_labels else ()
        expected = {figure.name: figure for figure in compared}
        realised = {figure.name: figure for figure in measure(counts, calibration)} if with_labels else {}
        if with_labels:
            reach = NORMAL_95 * math.sqrt(calibration.design_effects.get("positives", 1.0))
            share = _rate(counts)
            realised["positives"] = Measure("positives", share, *wilson(share, int(counts.outcomes.sum()), reach))
        rows = []
        for name, guess in estimated.items():
            due, true = expected.get(name), realised.get(name)
            # Of measures that are not counted exactly, what the score cells say.
            come = true.realised if true is not None else due.realised if due is not None else math.nan
            rows.append(
                PerformanceRow(
                    pipeline=about.pipeline,
                    model=about.model,
                    version=about.version,
                    segment=segment,
                    window_start_ms=about.window.start_ms,
                    window_end_ms=about.window.end_ms,
                    measure=name,
                    estimated=guess.estimated,
                    estimated_low=guess.low,
                    estimated_high=guess.high,
                    realised=come,
                    low=true.low if true is not None else math.nan,
                    high=true.high if true is not None else math.nan,
                    expected=due.expected if due is not None else math.nan,
                    p_value=due.p_value if due is not None else math.nan,
                    n_labels=counts.n_labels if with_labels else 0,
                    label_maturity=min(counts.n_labels / counts.n, 1.0) if with_labels and counts.n else math.nan,
                    revision=about.revision,
                )
            )
        return rows

    def verdict(self, known: Evidence) -> Verdict:
        """Give the verdict of a window."""
        reference, whole = self.reference, known.counts[ALL]
        moved = [name for name in reference.names if any(drift[:2] == (ALL, name) for drift in known.drifts)]
        changes = self._movements.changes(moved, whole) if moved else []
        features = len(reference.metrics) - 2
        mean_scores = reference.mean(reference.training, -2), reference.mean(whole, -2)
        shares = attribute(
            reference.names[:features],
            reference.counts[:features],
            whole.counts[:features],
            reference.profiles[:features],
            *mean_scores,
        )
        rows = {row.measure: row for row in known.performance if row.segment == ALL}
        # Scores that are made of features that are filling do not say what they said in training.
        is_asked = known.labels.can_be_judged and not known.silence.filling
        asked = known.counts.items() if is_asked else ()
        checks = {segment: self._misfits.check(counts, segment, known.labels.here) for segment, counts in asked}
        misfits = {
            segment: self._tell(segment, known.counts[segment], check, known.performance)
            for segment, check in checks.items()
        }
        # Labels of chosen events say nothing of how many of all events are positive.
        least = self.settings.minimum_effects
        is_rate_known = is_asked and known.labels.chosen is None
        return decide(
            Situation(
                n=whole.n,
                n_reference=reference.n,
                changes=tuple(changes),
                segments=tuple(self._movements.segments(known.drifts, known.counts)),
                faults=self._faults(known, moved),
                score=ScoreChange(*mean_scores, shares),
                misfit=misfits.get(ALL),
                misfits=tuple(misfit for segment, misfit in misfits.items() if segment != ALL),
                rate=RateChange(
                    reference=_rate(reference.training),
                    detection=_rate(whole) if is_asked else math.nan,
                    p_value=checks[ALL].p_prior if is_rate_known else math.nan,
                ),
                thresholds=Thresholds(known.alpha, least["rate"], least["calibration"]),
                performance=self._performance(rows, known.predecessor, is_worse=known.is_worse),
                events=self.events,
                silence=known.silence,
                awaits_labels=known.awaits_labels,
            )
        )

    def _faults(self, known: Evidence, moved: Sequence[str]) -> tuple[Fault, ...]:
        """What is wrong upstream, and since when."""
        silent = {feature.metric for feature in known.silence.filling}
        faults = self._find_faults(known.counts[ALL], moved, silent, known.traffic)
        # What a time of day alone decides is different in each part of a window.
        of_fields = [name for name in moved if self.origins is None or self.origins[name].fields]
        course = known.course() if of_fields else None
        if course is not None:
            places = [self.reference.names.index(name) for name in of_fields]
            faults = find_since(course, places, faults, lambda counts: self._find_faults(counts, of_fields, silent))
        unsent = known.labels.unsent
        return faults if unsent is None else (*faults, unsent)

    def _find_faults(
        self, counts: Counts, moved: Sequence[str], silent: AbstractSet[str], traffic: Traffic | None = None
    ) -> tuple[Fault, ...]:
        suspected = self._movements.suspects(counts) - silent if moved else frozenset()
        return self._fault_finder.find(counts, set(moved), suspected=suspected, silent=silent, traffic=traffic)

    def _performance(
        self, rows: Mapping[str, PerformanceRow], predecessor: Predecessor | None, *, is_worse: bool
    ) -> Performance | None:
        row = rows.get(MEASURE)
        if row is None:
            return None
        value = row.estimated if math.isnan(row.realised) else row.realised
        return Performance(
            measure=MEASURE.upper(),
            value=value,
            limit=self.least,
            predecessor=predecessor,
            expected=row.expected,
            least=least_loss(MEASURE, self.settings.minimum_effects[MEASURE], row.expected),
            is_realised=not math.isnan(row.realised),
            is_worse=is_worse,
        )

    def _tell(self, segment: str, counts: Counts, check: LabelCheck, performance: Sequence[PerformanceRow]) -> Misfit:
        rows = [row for row in performance if row.segment == segment]
        return self._misfits.tell(check, counts, rows, segment)


def to_record(
    verdict: Verdict, about: Subject, n_reference: int, n_detection: int, *, with_labels: bool
) -> WindowVerdict:
    """The verdict as others are told."""
    example = verdict.example
    return WindowVerdict(
        pipeline=about.pipeline,
        model=about.model,
        version=about.version,
        window_start_ms=about.window.start_ms,
        window_end_ms=about.window.end_ms,
        kind=verdict.kind,
        headline=verdict.headline,
        explained_by=[
            Explained(
                explanation.metric, None if math.isnan(explanation.share) else explanation.share, explanation.words
            )
            for explanation in verdict.explained_by
        ],
        segments=[
            VerdictSegment(segment.segment, segment.effect, segment.n, list(segment.metrics))
            for segment in verdict.segments
        ],
        example=None if example is None else VerdictExample(example.what, example.before, example.after),
        advice=verdict.advice.action,
        reason=verdict.advice.reason,
        n_reference=n_reference,
        n_detection=n_detection,
        with_labels=with_labels,
        revision=about.revision,
    )


def _rate(counts: Counts) -> float:
    n = int(counts.outcomes.sum())
    return int(counts.outcomes[1].sum()) / n if n else math.nan
