"""From what was counted and tested of a window to one verdict, and to what its labels are expected to say.

Everything here is a function of the counts of the window, of its version's reference and of the windows before it: the
same counts give the same words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.sketches import ALL
from app.core.drift.statistics.deciles import DecileCells
from app.core.faults.find import find_faults
from app.core.faults.since import find_since
from app.core.findings import PerformanceRow, Subject
from app.core.performance.estimation import compare, estimate
from app.core.performance.label_checks import ALL_ARRIVED
from app.core.performance.measures import NORMAL_95, Measure, least_loss, measure, wilson
from app.core.verdict.attribution import attribute
from app.core.verdict.decide import decide
from app.core.verdict.misfits import Misfits
from app.core.verdict.situation import Least, Performance, SegmentChange, Situation
from app.core.verdict.words import Change
from schemas.pipeline.spec import UNSEEN
from schemas.wire import Explained, VerdictExample, VerdictSegment, WindowVerdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.core.batches import Floats
    from app.core.drift.judgement import Judgement
    from app.core.faults.fault import Fault
    from app.core.faults.traffic import Traffic
    from app.core.features.origins import Origins
    from app.core.performance.calibration import Calibration
    from app.core.performance.label_checks import LabelCheck
    from app.core.verdict.decide import Verdict
    from app.core.verdict.evidence import Evidence
    from app.core.verdict.situation import Misfit, Predecessor
    from models.reference.reference import Counts, MetricCells, Reference
    from schemas.pipeline.spec import Performance as PerformanceSettings

#: The measure by which a verdict calls a version good enough.
MEASURE = "auc"
#: A difference of shares that may be part of a fault.
_MUCH = 0.1


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
    def _cells(self) -> DecileCells:
        return DecileCells.stack(self.reference.metrics)

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
        estimated = {each.name: each for each in estimate(calibration, scored)}
        compared = compare(calibration, counts.outcomes, arrived) if with_labels else ()
        expected = {each.name: each for each in compared}
        realised = {each.name: each for each in measure(counts, calibration)} if with_labels else {}
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
        moved = [name for name in reference.names if any(each[:2] == (ALL, name) for each in known.drifts)]
        changes = self._changes(moved, whole) if moved else []
        features = len(reference.metrics) - 2
        before, now = reference.mean(reference.training, -2), reference.mean(whole, -2)
        shares = attribute(
            reference.names[:features],
            reference.counts[:features],
            whole.counts[:features],
            reference.profiles[:features],
            before,
            now,
        )
        rows = {row.measure: row for row in known.performance if row.segment == ALL}
        # Scores that are made of features that are filling do not say what they said in training.
        is_asked = known.labels.can_be_judged and not known.silence.filling
        asked = known.counts.items() if is_asked else ()
        checks = {segment: self._misfits.check(each, segment, known.labels.here) for segment, each in asked}
        misfits = {
            segment: self._tell(segment, known.counts[segment], each, known.performance)
            for segment, each in checks.items()
        }
        # Labels of chosen events say nothing of how many of all events are positive.
        is_rate_known = is_asked and known.labels.chosen is None
        return decide(
            Situation(
                n=whole.n,
                n_reference=reference.n,
                changes=tuple(changes),
                segments=tuple(self._segments(known.drifts, known.counts)),
                faults=self._faults(known, moved),
                score_before=before,
                score_now=now,
                attribution=shares,
                misfit=misfits.get(ALL),
                misfits=tuple(each for segment, each in misfits.items() if segment != ALL),
                p_prior=checks[ALL].p_prior if is_rate_known else math.nan,
                rate_before=_rate(reference.training),
                rate_now=_rate(whole) if is_asked else math.nan,
                alpha=known.alpha,
                least=Least(*(self.settings.minimum_effects[name] for name in ("rate", "calibration"))),
                performance=self._performance(rows, known.predecessor, is_worse=known.is_worse),
                events=self.events,
                silence=known.silence,
                awaits_labels=known.awaits_labels,
            )
        )

    def _faults(self, known: Evidence, moved: Sequence[str]) -> tuple[Fault, ...]:
        """What is wrong upstream, and since when."""
        silent = {each.metric for each in known.silence.filling}
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
        reference = self.reference
        return find_faults(
            reference.metrics,
            reference.training,
            counts,
            set(moved),
            design_effects=reference.design_effects.tolist(),
            values={cells.name: (*cells.values, UNSEEN) for cells in reference.metrics if cells.values},
            traffic=traffic,
            suspected=self._suspects(counts) - silent if moved else frozenset(),
            silent=silent,
            events=self.events,
            origins=self.origins,
        )

    def _suspects(self, window: Counts) -> set[str]:
        """The features that differ much, certain or not.

        One that changes slowly by itself cannot signal in a short window, though it may be displaced in it.
        """
        features = enumerate(self.reference.metrics[:-2])
        return {cells.name for row, cells in features if _apart(cells, *self._shares(row, window)) >= _MUCH}

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

    def _segments(self, drifts: Iterable[Judgement], counts: Mapping[str, Counts]) -> Iterable[SegmentChange]:
        """What has signalled in segments, each beside all events, signalled or not."""
        largest: dict[tuple[str, str], float] = {}
        for each in drifts:
            if each.segment != ALL:
                at = each.segment, each.metric
                largest[at] = max(largest.get(at, 0.0), min(abs(each.verdict.effect or 0.0), 1.0))
        for (segment, metric), effect in largest.items():
            there, whole = (self._moved(metric, name, counts[name]) for name in (segment, ALL))
            yield SegmentChange(segment, metric, effect, counts[segment].n, there / whole if whole else math.inf)

    def _moved(self, metric: str, segment: str, window: Counts) -> float:
        """How far a metric is from where it was in the training of a segment."""
        row = self.reference.names.index(metric)
        training = self.reference.segments.get(segment, self.reference.training)
        return _apart(self.reference.metrics[row], *self._shares(row, window, training))

    def _shares(self, row: int, window: Counts, training: Counts | None = None) -> tuple[Floats, Floats]:
        """Shares of a metric's cells in training (None: that of all events) and in a window, "missing" last."""
        cells = self.reference.metrics[row]
        sides = []
        for counts in (training or self.reference.training, window):
            held = counts.counts[row, : cells.size + 1]
            if cells.kind == "outcome":  # what has no label yet is not missing
                held = np.append(held[:-1], 0)
            sides.append(held / max(int(held.sum()), 1))
        before, now = sides
        return before, now

    def _changes(self, metrics: Sequence[str], window: Counts) -> list[Change]:
        sides = self.reference.training, window
        tenths = [self._cells.deciles(side.counts, side.minima, side.maxima).tolist() for side in sides]
        return [self._change(row, window, tenths) for row in map(self.reference.names.index, metrics)]

    def _change(self, row: int, window: Counts, tenths: list[list[list[float]]]) -> Change:
        """``tenths``: deciles of all metrics, in training and in the window."""
        cells, training = self.reference.metrics[row], self.reference.training
        before, now = self._shares(row, window)
        deciles_before, deciles_now = (tuple(side[row]) for side in tenths)
        at_least = (math.nan, math.nan, math.nan)
        if len(cells.edges):
            below, below_now = np.cumsum(before[:-2]), np.cumsum(now[:-2])
            # Of places that are as far apart the last: of a flag 1, and not what is next to 0.
            at = len(below) - 1 - int(np.argmax(np.abs(below_now - below).round(12)[::-1]))
            there, there_now = (1 - each[-1] - held[at] for each, held in ((before, below), (now, below_now)))
            at_least = float(cells.edges[at]), float(there), float(there_now)
        low, high = float(training.minima[row]), float(training.maxima[row])
        beyond = (0.0, 0.0)
        if cells.kind == "numeric" and len(cells.edges):  # the outer cells hold what is outside of training's range
            beyond = (float(now[0]) if math.isfinite(low) else 0.0, float(now[-2]) if math.isfinite(high) else 0.0)
        names = (*cells.values, UNSEEN) if cells.values else ("0", "1") if cells.kind == "outcome" else ()
        return Change(
            metric=cells.name,
            kind=cells.kind,
            effect=_apart(cells, before, now),
            deciles_before=() if cells.is_coded else deciles_before,
            deciles_now=() if cells.is_coded else deciles_now,
            range_before=(low, high),
            missing_before=float(before[-1]),
            missing_now=float(now[-1]),
            shares_before=tuple(before[:-1].tolist()) if cells.is_coded else (),
            shares_now=tuple(now[:-1].tolist()) if cells.is_coded else (),
            values=names,
            at_least=at_least,
            beyond=beyond,
        )


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
            Explained(each.metric, None if math.isnan(each.share) else each.share, each.words)
            for each in verdict.explained_by
        ],
        segments=[VerdictSegment(each.segment, each.effect, each.n, list(each.metrics)) for each in verdict.segments],
        example=None if example is None else VerdictExample(example.what, example.before, example.after),
        advice=verdict.advice.action,
        reason=verdict.advice.reason,
        n_reference=n_reference,
        n_detection=n_detection,
        with_labels=with_labels,
        revision=about.revision,
    )


def _apart(cells: MetricCells, before: Floats, now: Floats) -> float:
    """The largest difference of shares: of a code, or of all values up to one; or of "missing"."""
    apart = now - before if cells.is_coded else np.append(np.cumsum(now[:-1] - before[:-1]), now[-1] - before[-1])
    return float(np.abs(apart).max())


def _rate(counts: Counts) -> float:
    n = int(counts.outcomes.sum())
    return int(counts.outcomes[1].sum()) / n if n else math.nan
