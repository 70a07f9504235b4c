"""What is said of closed windows: their tests, their verdicts, and what alerts are told of both."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from app.core.alerts.readings import LABELS_MISSING, NOTHING, read_drift, read_labels, read_performance, read_verdict
from app.core.monitoring.facts import VersionWindow
from app.core.verdict.diagnosis import MEASURE, to_record
from app.core.verdict.evidence import Evidence
from schemas.wire import encode_packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.alerts.book import AlertBook
    from app.core.alerts.readings import Reading
    from app.core.counts.calendar import Window
    from app.core.counts.windows import Note, Stage
    from app.core.drift.judgement import Judgement
    from app.core.findings import Findings, PerformanceRow
    from app.core.monitoring.facts import Sources
    from app.core.verdict.succession import Succession

#: A window of fewer events (for performance and errors: labels) is reported but neither raises nor clears an alert.
FEWEST_TO_ALERT = 200


class Judging:
    """One look at what has closed, matured or changed.

    Parameters
    ----------
    sources
        What is known of windows. Its history learns what they were like.
    succession
        Learns how well versions did.
    alerts
        Are told what there is to say.
    findings
        What is to be reported: filled here.
    now_ms
        Processing time, for the rows' time stamps alone.
    """

    def __init__(
        self, sources: Sources, succession: Succession, alerts: AlertBook, findings: Findings, now_ms: int
    ) -> None:
        self._sources = sources
        self._succession = succession
        self._alerts = alerts
        self._findings = findings
        self._now_ms = now_ms
        #: By stage: what the tests said of the windows that were judged.
        self._tested: dict[Stage, dict[tuple[Window, str], list[Judgement]]] = {"features": {}, "labels": {}}

    def judge(self, windows: Iterable[Window], later: Iterable[Window], stage: Stage) -> None:
        """Judge what is new or changed in the windows at a stage; ``later``: those that are judged another time."""
        is_history_changed = False
        for window in windows:
            is_history_changed |= stage == "features" and self._note_events(window)
            for version, holding in self._sources.store.holdings(window):
                is_known = version in self._sources.versions
                if not is_known or not holding[stage].is_due(is_history_changed=is_history_changed):
                    continue
                is_history_changed |= self._test(VersionWindow(self._sources, window, version), stage, holding[stage])
        if is_history_changed:
            self._sources.store.note_history(later, stage)

    def conclude(self) -> None:
        """Give the verdicts of all windows of which something was judged.

        What is said of a version depends on the others in its window: on their events and their labels.
        """
        for window in sorted({window for tested in self._tested.values() for window, _ in tested}):
            for version, holding in self._sources.store.holdings(window):
                if version in self._sources.versions:
                    self._conclude(VersionWindow(self._sources, window, version), holding["verdict"])

    def _note_events(self, window: Window) -> bool:
        """Note how many events a window has, if any have come; whether they are others than before."""
        store = self._sources.store
        if not any(holding["features"].is_changed for _, holding in store.holdings(window)):
            return False
        return self._sources.history.note_events(window, store.panes.numbers(window))

    def _test(self, look: VersionWindow, stage: Stage, note: Note) -> bool:
        """Run the tests of a stage and report what they say; whether that is new."""
        window, version, known = look.window, look.version, look.known
        metrics = known.metrics(stage)
        statistics = {segment: known.describer.describe(sketch, metrics) for segment, sketch in look.counts.items()}
        is_silent = np.isin(metrics, list(look.silence.notes(known.reference.metrics, metrics)))
        for segment, sketch in look.counts.items():
            self._sources.history.remember(window, version, segment, sketch.n, statistics[segment], is_silent)
        if stage == "labels":
            effects = known.diagnosis.calibration.design_effects
            self._succession.remember(window, version, look.whole, effects["auc"])
        tested = self._tested[stage][window, version] = known.judge.judge(look.view(stage))
        said = {segment: of_segment.values.tobytes() for segment, of_segment in statistics.items()}
        revision = note.report(_digest(said, tested))
        if revision is None:
            return False
        about = look.about(revision)
        self._findings.reports += about.reports(tested)
        for segment, each_statistics in statistics.items():
            self._findings.metadata += about.metadata("scoring", segment, each_statistics, self._now_ms)
        if stage == "features":
            is_said = look.whole.n >= FEWEST_TO_ALERT and not look.silence
            self._alerts.see_drift(version, window, read_drift(tested) if is_said else NOTHING)
        return True

    def _conclude(self, look: VersionWindow, note: Note) -> None:
        """Say what has happened in a window, from what its tests say and what labels there are."""
        known, labels, whole = look.known, look.labels, look.whole
        about, with_labels = look.about(0), labels.can_be_judged
        performance = self._perform(look)
        measured = self._measure(look, performance)
        evidence = Evidence(
            look.counts,
            [*self._drifts(look, "features"), *(self._drifts(look, "labels") if with_labels else ())],
            performance,
            look.traffic(),
            self._succession.predecessor(look.version, look.window, look.past) if with_labels else None,
            look.alpha_of_labels,
            labels,
            awaits_labels=self._sources.pipeline.labels is not None and not look.is_mature,
            is_worse=MEASURE in measured and measured[MEASURE].is_worse,
            silence=look.silence,
            course=look.course,
        )
        verdict = known.diagnosis.verdict(evidence)
        notes = labels.notes(whole.n_labels)
        revision = note.report(_digest(performance, verdict, *notes))
        if revision is None:
            return
        about = replace(about, revision=revision)
        self._findings.performance += [row._replace(revision=revision) for row in performance]
        record = to_record(verdict, about, known.reference.n, whole.n, with_labels=with_labels)
        self._findings.verdicts.append(msgspec.structs.replace(record, reason=" ".join([record.reason, *notes])))
        read = read_verdict(verdict, whole, with_labels=with_labels, silence=look.silence)
        self._alerts.see_verdict(look.version, look.window, read)
        if look.is_mature:
            if labels.arrived is not None and whole.n >= FEWEST_TO_ALERT:
                measured[LABELS_MISSING] = read_labels(labels.one_kind, whole.n_labels)
            self._alerts.see_performance(look.version, look.window, measured)

    def _perform(self, look: VersionWindow) -> list[PerformanceRow]:
        """The measures of a window, by segment."""
        if self._sources.pipeline.labels is None:
            return []
        about, labels = look.about(0), look.labels
        tell = partial(look.known.diagnosis.performance, with_labels=labels.can_be_judged, arrived=labels.here)
        return [row for segment, counts in look.counts.items() for row in tell(about, segment, counts)]

    def _measure(self, look: VersionWindow, performance: list[PerformanceRow]) -> dict[str, Reading]:
        """What alert rules are told of the measures; nothing of too few labels."""
        if not look.labels.can_be_judged or look.whole.n_labels < FEWEST_TO_ALERT:
            return {}
        reference = look.known.reference
        return read_performance(
            performance,
            look.whole,
            look.known.diagnosis.calibration.among_arrived(look.labels.here),
            look.alpha_of_labels,
            minimum_effects=self._sources.pipeline.performance.minimum_effects,
            label_effect=reference.label_effect,
            silence=look.silence,
        )

    def _drifts(self, look: VersionWindow, stage: Stage) -> list[Judgement]:
        """What the tests call a drift: what they have just said, or would say again."""
        tested = self._tested[stage].get((look.window, look.version))
        if tested is None:
            return look.known.judge.drifts(look.view(stage))
        return [judgement for judgement in tested if judgement.verdict.signal == "DRIFT"]


def _digest(*said: object) -> str:
    return hashlib.sha256(encode_packed(said)).hexdigest()
