"""The monitor without its edges: sketch records in; metadata, drift reports, performance and alerts out.

What `MonitorCore.collect` says of a window is a function of the counts of that window and of the windows before it,
never of the order or the batches in which they came. When a window changes after it was reported, it and the later ones
(whose history it is) are judged again, and what then says something else is reported under the next revision. Only the
revision of what late data changed, and the processing time, depend on when `collect` was called.

The interval and the trend look at past windows of the model, whichever version served (`app.core.drift.history`).

A window that versions share, as in a swap, compares none of them, and features that are filling are not compared; what
labels say, and the traffic of all versions together, is judged all the same (`app.core.drift.silences`).

The outcome, like the performance, is judged when its labels are mature; everything else when the window closes.

A version must be registered before its windows are reported. Until then they are held, merged per window, so that what
is held grows with windows and not with events; nothing is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from app.core.alerts.book import AlertBook
from app.core.alerts.course import limits, strictest
from app.core.alerts.readings import LABELS_MISSING, NOTHING, read_drift, read_labels, read_performance, read_verdict
from app.core.alerts.words import Detected
from app.core.counts.calendar import Calendar, Window
from app.core.counts.sketch_rules import SketchRules, named_versions
from app.core.counts.sketches import ALL, Sketch
from app.core.counts.windows import Stage, WindowStore
from app.core.drift.budget import OF_LABELS, OF_OUTCOMES, alpha_of_window, of_windows
from app.core.drift.describer import Describer
from app.core.drift.filling import FillTimes
from app.core.drift.history import History
from app.core.drift.judge import Judge, Judgement, View
from app.core.drift.over_time import Past
from app.core.drift.silences import Silence, is_shared, server
from app.core.errors.fair import FairErrors
from app.core.errors.stream import Errors, ErrorStream
from app.core.errors.watch import ErrorWatch, baseline_of, make_cusum
from app.core.faults.since import Course, Part
from app.core.faults.traffic import Traffic, choose_past, events_by_hour, events_due, of_same_season
from app.core.features.origins import Origins
from app.core.findings import Findings, Subject
from app.core.input_checks import InputChecks
from app.core.labels.delays import COMPLETE, LabelDelays
from app.core.labels.selection import WindowLabels, find_one_kind, find_selection
from app.core.performance.label_checks import ALL_ARRIVED, thinning
from app.core.performance.measures import auc, measure
from app.core.records.rules import RecordRules
from app.core.verdict.diagnosis import MEASURE, Diagnosis, to_record
from app.core.verdict.succession import Succession
from models.reference.reference import Reference
from models.reference.spans import memories_of
from schemas.wire import encode_packed

if TYPE_CHECKING:
    from app.core.alerts.readings import Reading
    from app.core.batches import Floats
    from app.core.drift.filling import Filling
    from app.core.errors.detectors import Make
    from app.core.findings import PerformanceRow
    from models.reference.reference import Counts
    from schemas.pipeline.spec import Pipeline
    from schemas.wire import SketchRecord

#: A window of fewer events (for performance and errors: labels) is reported but neither raises nor clears an alert.
FEWEST = 200
_MAGIC = b"streamgauge monitor 8\n"


@dataclass(eq=False)
class _Version:
    reference: Reference
    training_metrics: dict[str, float]
    training: Window
    judge: Judge
    diagnosis: Diagnosis
    errors: ErrorWatch
    fair: FairErrors
    is_announced: bool = False
    #: What the detectors of wrong decisions found.
    detections: list[Detected] = field(default_factory=list)
    #: Of the labels that these have seen: how many, by the slice of their time.
    n_seen: dict[int, int] = field(default_factory=dict)

    @cached_property
    def describer(self) -> Describer:
        return Describer(self.reference)

    @cached_property
    def training_deciles(self) -> Floats:
        """Of all metrics."""
        return self.describer.describe(self.reference.training, range(len(self.reference.metrics))).deciles


class MonitorCore:
    """The state of one pipeline's monitor.

    Parameters
    ----------
    pipeline
        What is monitored.
    keep
        Closed windows whose counts are kept, so that late events amend them.
    history
        Past windows that the interval and the trend look at.
    make_detector
        Makes the detectors that the pipeline file asks for.
    """

    def __init__(
        self, pipeline: Pipeline, *, keep: int = 24, history: int = 60, make_detector: Make = make_cusum
    ) -> None:
        self._pipeline = pipeline
        drift = pipeline.drift
        self._calendar = Calendar.parse(drift.window, drift.slice_ms, drift.every_ms)
        self._store = WindowStore(
            self._calendar,
            pipeline.partitions,
            drift.grace_ms,
            pipeline.performance.maturity_ms if pipeline.labels is not None else None,
            keep=keep,
            against=drift.against,
            slice_ms=drift.slice_ms,
        )
        self._origins = Origins(pipeline)
        self._fill_times = FillTimes(pipeline)
        self._versions: dict[str, _Version] = {}
        self._rules = SketchRules(pipeline, RecordRules.of(pipeline))
        #: How many metrics the counts have that are held of versions without a reference; 0: none are.
        self._strangers: dict[str, int] = {}
        self._history = History(history)
        self._succession = Succession(FEWEST)
        self._keep = keep
        #: Windows before one that its tests look at: overlapping ones are passed over where they look back.
        self._n_past = history * len(self._calendar.panes_of(self._calendar.window_at(0)))
        #: What is raised, acknowledged and cleared; whoever judges windows lets it see what was found.
        self.alerts = AlertBook(pipeline.name, pipeline.model.name, pipeline.alerts)
        self._errors = ErrorStream(pipeline.performance.maturity_ms)
        #: What is wrong with the stream itself.
        self.inputs = InputChecks(pipeline.name, drift.slice_ms, drift.grace_ms)
        #: How long labels take.
        self.delays = LabelDelays(
            pipeline.name, drift.slice_ms, max(pipeline.horizon_ms, 1), pipeline.performance.maturity_ms
        )
        self._make_detector = make_detector
        #: Whether `collect` has left closed windows for its next call.
        self.is_behind = False

    @property
    def windows(self) -> WindowStore:
        """The windows, for watermarks, `WindowStore.declare_idle` and what came too late."""
        return self._store

    @property
    def unknown_versions(self) -> list[str]:
        """Versions that have counts and no reference yet."""
        held = {version for window in self._store.closed() for version, _ in self._store.holdings(window)}
        return sorted(held - self._versions.keys())

    def register_version(
        self,
        version: str,
        reference: Reference,
        training_metrics: dict[str, float],
        training: Window | None = None,
    ) -> int:
        """Make a version's reference known; again with the same one is no error, with another one is a ValueError.

        Parameters
        ----------
        training_metrics
            What ``falls_by`` of alert rules compares with, by measure; what is absent is computed from the reference.
        training
            Event time of the training data, for its metadata rows (None: 0 to 0).

        Returns
        -------
        How many windows' counts were held of the version that are not in the cells of this reference: they are dropped.
        """
        known = self._versions.get(version)
        if known is not None:
            if known.reference.to_json() != reference.to_json():
                raise ValueError(
                    f"version {version} is registered with another reference; give the new one a new version"
                )
            return 0
        window, drift = training or Window(0, 0), self._pipeline.drift
        maturity_ms = self._pipeline.performance.maturity_ms
        baseline = baseline_of(reference, window, drift)
        errors = ErrorWatch(drift.detectors, baseline, self._make_detector, maturity_ms)
        judge = Judge(reference, drift.tests, memories_of(self._pipeline))
        known_auc = training_metrics.get(MEASURE, auc(reference.training.outcomes))
        rules = [rule for rule in self._pipeline.alerts if (rule.on, rule.measure) == ("performance", MEASURE)]
        least = strictest(limit for rule in rules for limit in limits(rule, known_auc))
        diagnosis = Diagnosis(reference, least, self._pipeline.events.plural, self._pipeline.performance, self._origins)
        own = {name: value for name, value, _, _ in measure(reference.training, diagnosis.calibration)}
        self.alerts.add_version(version, {**own, **training_metrics})
        fair = FairErrors(reference)
        self._versions[version] = _Version(reference, dict(training_metrics), window, judge, diagnosis, errors, fair)
        self._strangers.pop(version, None)
        return self._store.drop_unsound(version, reference.laws)

    def observe(self, record: SketchRecord, clock_ms: int | None = None) -> int:
        """Take a record of the sketches topic, in offset order per partition.

        Parameters
        ----------
        clock_ms
            Processing time, as a bound on how far partitions can have come; None: no bound.

        Returns
        -------
        How many of its deltas are left out, being of segments that the pipeline does not have.

        Raises
        ------
        RefusedRecordError
            When it cannot be; nothing has been changed then.
        """
        laws = {version: known.reference.laws for version, known in self._versions.items()}
        checked = self._rules.check(record, laws, self._strangers, clock_ms)
        self._store.add(checked)
        self._errors.add(checked)
        self.inputs.add(checked)
        self.delays.add(checked)
        for version in named_versions(checked) - laws.keys():
            self._strangers[version] = self._store.n_metrics(version)
        return len(record.deltas) - len(checked.deltas)

    def calibrate(self, most: int | None = None) -> None:
        """Work out beforehand what `collect` needs and takes seconds for; changes nothing that anyone can see."""
        for window in self._next_windows(most):
            stages = self._stages(window)
            for version, holding in self._store.holdings(window):
                is_due = any(holding[stage].is_due(is_history_changed=False) for stage in stages)
                if is_due and version in self._versions:
                    known = self._versions[version]
                    known.judge.calibrate(self._view(window, version, self._counts(window, version), range(0)))

    def collect(self, now_ms: int, most: int | None = None) -> Findings:
        """Report what has closed, matured or changed.

        Parameters
        ----------
        now_ms
            Processing time, for the rows' time stamps alone.
        most
            As soon as so many judgements are due, later windows are left for the next call (`is_behind`); None: none
            are. Whoever calls until nothing is left is told the same.
        """
        findings = Findings()
        for version, known in sorted(self._versions.items()):
            if not known.is_announced:
                known.is_announced = True
                about = self._about(version, known.training, 1)
                everything = range(len(known.reference.metrics))
                for segment, counts in known.reference.by_segment():
                    statistics = known.describer.describe(counts, everything)
                    findings.metadata += about.metadata("training", segment, statistics, now_ms)
        self._watch_errors(findings)
        closed = self._next_windows(most)
        mature = [window for window in closed if self._store.is_mature(window)]
        later = self._store.closed()[len(closed) :]
        self.is_behind = bool(later)
        judged = self._judge(closed, later, now_ms, findings, "features")
        of_labels = self._judge(mature, later, now_ms, findings, "labels")
        for window in sorted({window for window, _ in (*judged, *of_labels)}):
            # What is said of a version depends on the others in its window: on their events and their labels.
            for version, _ in self._store.holdings(window):
                if version in self._versions:
                    tested = judged.get((window, version)), of_labels.get((window, version))
                    self._conclude(window, version, tested, findings)
        self._note_absences(closed)
        self._note_absences(mature, of_labels=True)
        self._note_detections(closed)
        findings.inputs = self.inputs.rows(self._store.watermark_ms)
        said = self.inputs.label_readings(self._store.label_watermark_ms, self._store.start, self._pipeline.horizon_ms)
        self.alerts.see_stream("labels", said)
        self.alerts.see_stream("entities", self.inputs.entity_readings(self._store.watermark_ms))
        self.inputs.prune()
        findings.delays = self.delays.rows(self._store.label_watermark_ms)
        before_ms = self._store.label_watermark_ms, self._store.closed_before_ms
        self.delays.prune(*before_ms, self._store.closed(), mature)
        findings.alerts += self.alerts.announce(now_ms)
        self._store.release()
        if self._store.settled_before_ms is not None:
            self.alerts.forget(self._store.settled_before_ms)
            for known in self._versions.values():
                kept = (each for each in known.n_seen.items() if each[0] >= self._store.settled_before_ms)
                known.n_seen = dict(kept)
        n_remembered = max(self._keep, len(self._store.closed())) + self._n_past
        self._history.prune(n_remembered)
        self._succession.prune(n_remembered)
        return findings

    def snapshot(self) -> bytes:
        """Give the whole state as bytes: equal states give equal bytes."""
        state = {
            "versions": {
                version: {
                    "reference": known.reference.to_json(),
                    "training_metrics": known.training_metrics,
                    "training": [known.training.start_ms, known.training.end_ms],
                    "is_announced": known.is_announced,
                    "errors": known.errors.snapshot(),
                    "fair": known.fair.snapshot(),
                    "detections": known.detections,
                    "n_seen": sorted(known.n_seen.items()),
                }
                for version, known in self._versions.items()
            },
            "history": self._history.to_state(),
            "succession": self._succession.to_state(),
            "alerts": self.alerts.to_state(),
            "errors": self._errors.snapshot(),
            "inputs": self.inputs.to_state(),
            "delays": self.delays.to_state(),
        }
        return _MAGIC + json.dumps(state, sort_keys=True).encode() + b"\n" + self._store.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot of the same pipeline; ValueError when it was not made by such a monitor.

        An alert rule that is new in the pipeline file, or was changed there, judges the windows that are kept.
        """
        if not snapshot.startswith(_MAGIC):
            raise ValueError("not a snapshot of a monitor of this release; read the sketches topic from its beginning")
        head, _, windows = snapshot[len(_MAGIC) :].partition(b"\n")
        state: dict[str, Any] = json.loads(head)
        self._store.restore(windows)
        self._versions, self._strangers = {}, {}
        for version, saved in state["versions"].items():
            reference = Reference.from_json(saved["reference"])
            self.register_version(version, reference, saved["training_metrics"], Window(*saved["training"]))
            self._versions[version].is_announced = saved["is_announced"]
            self._versions[version].errors.restore(saved["errors"])
            self._versions[version].fair.restore(saved["fair"])
            self._versions[version].detections = [Detected(*each) for each in saved["detections"]]
            self._versions[version].n_seen = dict(map(tuple, saved["n_seen"]))
        self.alerts.from_state(state["alerts"])
        self._history.from_state(state["history"])
        self._succession.from_state(state["succession"])
        self._errors.restore(state["errors"])
        for strange in (self._store.versions() | self._errors.held.keys()) - self._versions.keys():
            self._strangers[strange] = self._store.n_metrics(strange)
        come_to_ms = max(self._store.watermark_ms or 0, self._store.label_watermark_ms or 0)
        if come_to_ms > self._rules.latest_come_to_ms:
            raise ValueError(f"the snapshot has come to {come_to_ms}, where nothing can be")
        self.inputs.from_state(state["inputs"])
        self.delays.from_state(state["delays"])

    def _next_windows(self, most: int | None) -> list[Window]:
        """The closed windows, oldest first, up to the one with which so many judgements are due; None: all."""
        closed = self._store.closed()
        if most is None:
            return closed
        due = 0
        for place, window in enumerate(closed, start=1):
            stages = self._stages(window)
            holdings = [holding for version, holding in self._store.holdings(window) if version in self._versions]
            due += sum(holding[stage].is_due(is_history_changed=due > 0) for holding in holdings for stage in stages)
            if due >= most:
                return closed[:place]
        return closed

    def _stages(self, window: Window) -> tuple[Stage, ...]:
        """What of a closed window can be judged."""
        return ("features", "labels") if self._store.is_mature(window) else ("features",)

    def _watch_errors(self, findings: Findings) -> None:
        """Show the detectors of wrong decisions what labels have come."""
        slice_ms = self._pipeline.drift.slice_ms
        for version, known in sorted(self._versions.items()):
            released = self._of_full_features(self._errors.release(version, self._store.label_watermark_ms))
            released = known.fair.take(self._of_own_windows(version, released))
            slices, numbers = np.unique(released.times_ms // slice_ms * slice_ms, return_counts=True)
            for start_ms, n in zip(slices.tolist(), numbers.tolist(), strict=True):
                known.n_seen[start_ms] = known.n_seen.get(start_ms, 0) + n
            detected = known.errors.observe(released, self._about(version, known.training, 1))
            findings.reports += detected
            known.detections += [
                Detected(each.window_end_ms, each.test, each.note) for each in detected if each.signal == "DRIFT"
            ]

    def _judge(
        self, windows: list[Window], later: list[Window], now_ms: int, findings: Findings, stage: Stage
    ) -> dict[tuple[Window, str], list[Judgement]]:
        """Judge what is new or changed in the windows: features and score, or the outcome; give what the tests say.

        ``later``: windows that are judged another time.
        """
        found: dict[tuple[Window, str], list[Judgement]] = {}
        is_history_changed = False
        for window in windows:
            is_history_changed |= stage == "features" and self._note_events(window)
            for version, holding in self._store.holdings(window):
                if version not in self._versions or not holding[stage].is_due(is_history_changed=is_history_changed):
                    continue
                known = self._versions[version]
                counts = self._counts(window, version)
                metrics = self._metrics(known, stage)
                statistics = {segment: known.describer.describe(each, metrics) for segment, each in counts.items()}
                silence = self._silence(window, version)
                is_silent = np.isin(metrics, list(silence.notes(known.reference.metrics, metrics)))
                for segment, each in counts.items():
                    self._history.remember(window, version, segment, each.n, statistics[segment], is_silent)
                if stage == "labels":
                    effects = known.diagnosis.calibration.design_effects
                    self._succession.remember(window, version, counts[ALL], effects["auc"])
                tested = known.judge.judge(self._view(window, version, counts, metrics))
                found[window, version] = tested
                said = {segment: each.values.tobytes() for segment, each in statistics.items()}
                revision = holding[stage].report(_digest(said, tested))
                if revision is None:
                    continue
                is_history_changed = True
                about = self._about(version, window, revision)
                findings.reports += about.reports(tested)
                for segment, each_statistics in statistics.items():
                    findings.metadata += about.metadata("scoring", segment, each_statistics, now_ms)
                if stage == "features":
                    is_said = counts[ALL].n >= FEWEST and not silence
                    self.alerts.see_drift(version, window, read_drift(tested) if is_said else NOTHING)
        if is_history_changed:
            self._store.note_history(later, stage)
        return found

    def _note_events(self, window: Window) -> bool:
        """Note how many events a window has, if any have come; whether they are others than before."""
        if not any(holding["features"].is_changed for _, holding in self._store.holdings(window)):
            return False
        return self._history.note_events(window, self._store.numbers(window))

    def _conclude(
        self,
        window: Window,
        version: str,
        tested: tuple[list[Judgement] | None, list[Judgement] | None],
        findings: Findings,
    ) -> None:
        """Say what has happened in a window, from what its tests say (None: as before) and what labels there are."""
        known, counts = self._versions[version], self._counts(window, version)
        labels = self._look_at_labels(known, window, counts[ALL])
        arrived, with_labels = labels.arrived, labels.can_be_judged
        drifts = self._drifts(window, version, counts, tested[0], "features")
        if with_labels:
            drifts += self._drifts(window, version, counts, tested[1], "labels")
        about = self._about(version, window, 0)
        performance: list[PerformanceRow] = []
        if self._pipeline.labels is not None:
            for segment, each in counts.items():
                performance += known.diagnosis.performance(
                    about, segment, each, with_labels=with_labels, arrived=arrived or ALL_ARRIVED
                )
        alpha = alpha_of_window(self._pipeline.drift.false_alarms, OF_LABELS, self._calendar.step_ms, counts[ALL].n)
        past = self._history.before(window)
        traffic = self._traffic(window, past, version)
        before = self._succession.predecessor(version, window, past) if with_labels else None
        silence = self._silence(window, version)
        measured: dict[str, Reading] = {}
        if with_labels and counts[ALL].n_labels >= FEWEST:
            calibration = known.diagnosis.calibration.among_arrived(arrived or ALL_ARRIVED)
            effects = self._pipeline.performance.minimum_effects
            measured = read_performance(
                performance,
                counts[ALL],
                calibration,
                alpha,
                minimum_effects=effects,
                label_effect=known.reference.label_effect,
                silence=silence,
            )
        verdict = known.diagnosis.verdict(
            counts,
            drifts,
            performance,
            traffic,
            before,
            with_labels=with_labels,
            awaits_labels=self._pipeline.labels is not None and not self._store.is_mature(window),
            alpha=alpha,
            is_worse=MEASURE in measured and measured[MEASURE].is_worse,
            is_chosen=labels.chosen is not None,
            arrived=arrived or ALL_ARRIVED,
            silence=silence,
            unsent=labels.unsent,
            course=lambda: self._course(window, version),
        )
        holding = dict(self._store.holdings(window))[version]
        notes = labels.notes(counts[ALL].n_labels)
        revision = holding["verdict"].report(_digest(performance, verdict, *notes))
        if revision is None:
            return
        about = replace(about, revision=revision)
        findings.performance += [row._replace(revision=revision) for row in performance]
        record = to_record(verdict, about, known.reference.n, counts[ALL].n, with_labels=with_labels)
        findings.verdicts.append(msgspec.structs.replace(record, reason=" ".join([record.reason, *notes])))
        read = read_verdict(verdict, counts[ALL], with_labels=with_labels, silence=silence)
        self.alerts.see_verdict(version, window, read)
        if self._store.is_mature(window):
            if arrived is not None and counts[ALL].n >= FEWEST:
                measured[LABELS_MISSING] = read_labels(labels.one_kind, counts[ALL].n_labels)
            self.alerts.see_performance(version, window, measured)

    def _drifts(
        self,
        window: Window,
        version: str,
        counts: dict[str, Counts],
        tested: list[Judgement] | None,
        stage: Stage,
    ) -> list[Judgement]:
        """What the tests call a drift; ``tested``: what they have just said, None: the same as before."""
        if tested is None:
            known = self._versions[version]
            return known.judge.drifts(self._view(window, version, counts, self._metrics(known, stage)))
        return [each for each in tested if each.verdict.signal == "DRIFT"]

    def _look_at_labels(self, known: _Version, window: Window, counts: Counts) -> WindowLabels:
        if not self._store.is_mature(window):
            return WindowLabels(is_mature=False)
        arrived = self.delays.arrived(window)
        one_kind = find_one_kind(known.reference, counts) if arrived is not None else None
        labels = WindowLabels(True, arrived, one_kind)
        # Labels of one kind are not those of chosen events: where the scores are high, more come true. And young labels
        # may only seem to be chosen.
        if arrived is None or min(arrived) < COMPLETE or labels.unsent is not None:
            return labels
        return labels._replace(chosen=find_selection(known.reference, counts))

    def _metrics(self, known: _Version, stage: Stage) -> range:
        """The outcome alone, or all but that."""
        last = len(known.reference.metrics) - 1
        return range(last, last + 1) if stage == "labels" else range(last)

    def _of_full_features(self, errors: Errors) -> Errors:
        """Those of events whose features were filled: while they are filling, a model does worse than in training."""
        filling_ms = self._fill_times.longest_ms
        if not filling_ms:
            return errors
        filling_ms += self._pipeline.performance.maturity_ms  # until the last of their labels has come
        slices, at = np.unique(errors.times_ms // self._pipeline.drift.slice_ms, return_inverse=True)
        ends_ms = (slices + 1) * self._pipeline.drift.slice_ms
        began = [self._store.start.before(end_ms) for end_ms in ends_ms.tolist()]
        full_ms = np.array([-math.inf if each is None else each + filling_ms for each in began])
        is_full = errors.times_ms >= full_ms[at]
        return errors.take(np.flatnonzero(is_full))

    def _of_own_windows(self, version: str, errors: Errors) -> Errors:
        """Those of events in windows that no other version shares: in a swap, the events that one keeps are no sample.

        A decision counts a maturity after its event, or when its label comes if that is later: those few are left in.
        """
        slice_ms = self._pipeline.drift.slice_ms
        slices, at = np.unique(
            (errors.times_ms - self._pipeline.performance.maturity_ms) // slice_ms, return_inverse=True
        )
        windows = [self._calendar.windows_of(self._calendar.pane_at(each * slice_ms)) for each in slices.tolist()]
        is_own = [not any(is_shared(version, self._store.n_scored(each)) for each in held) for held in windows]
        return errors.take(np.flatnonzero(np.array(is_own, np.bool_)[at]))

    def _silence(self, window: Window, version: str) -> Silence:
        filling: list[Filling] = []
        if self._fill_times.longest_ms:
            began_ms = self._store.start.before(window.end_ms)
            filling = self._fill_times.filling(self._versions[version].reference.names, window, began_ms)
        return Silence(version, is_shared(version, self._store.n_scored(window)), filling)

    def _course(self, window: Window, version: str) -> Course | None:
        """The parts of a window and of the one before; None where that was not the version's own, or is not known."""
        before = self._calendar.preceding(window)
        if is_shared(version, self._store.parts.numbers(before)) or not self._store.parts.of(before, version):
            return None
        reference = self._versions[version].reference
        now, then = (
            [Part(start_ms, sketch.to_counts(reference)) for start_ms, sketch in self._store.parts.of(each, version)]
            for each in (window, before)
        )
        return Course(now, then, window.start_ms - before.start_ms)

    def _traffic(self, window: Window, past_windows: list[Window], version: str) -> Traffic | None:
        """How many events past windows and this one had, whichever version scored them; one version tells it."""
        if version != server(self._store.n_scored(window)):
            return None
        compared = choose_past(window, past_windows)
        past = [self._history.events(each) for each in compared]
        now = self._history.events(window)
        segments = sorted({segment for numbers in (*past, now) for segment in numbers} - {ALL})
        season = of_same_season(window, compared) if compared is past_windows else []
        return Traffic(
            n=now.get(ALL, 0),
            past=[numbers.get(ALL, 0) for numbers in past],
            season=[self._history.events(each).get(ALL, 0) for each in season],
            segments={segment: [numbers.get(segment, 0) for numbers in past] for segment in segments},
            segments_now={segment: now.get(segment, 0) for segment in segments},
            promised=lambda: self._promised(version, window, compared),
        )

    def _promised(self, version: str, window: Window, past: list[Window]) -> tuple[float, list[float]]:
        """How many events the hours of a version's training promise for a window and for past ones."""
        known = self._versions[version]
        by_hour = events_by_hour(known.reference.errors.events, known.training)
        return events_due(by_hour, window), [events_due(by_hour, each) for each in past]

    def _note_absences(self, windows: list[Window], *, of_labels: bool = False) -> None:
        """Let alerts of versions end that others have taken the place of."""
        for window in windows:
            held = {version for version, _ in self._store.holdings(window)}
            for version in self._versions.keys() - held:
                self.alerts.see_absence(version, window, of_labels=of_labels)

    def _note_detections(self, closed: list[Window]) -> None:
        """Let alerts see what detectors of wrong decisions found in windows whose labels have come that far."""
        label_watermark_ms = self._store.label_watermark_ms
        for version, known in self._versions.items():
            for window in closed:
                if label_watermark_ms is not None and window.end_ms <= label_watermark_ms:
                    found = [each for each in known.detections if window.start_ms <= each.time_ms < window.end_ms]
                    slices = range(window.start_ms, window.end_ms, self._pipeline.drift.slice_ms)
                    n_seen = sum(known.n_seen.get(start_ms, 0) for start_ms in slices)
                    self.alerts.see_detections(version, window, found, is_steady=n_seen >= FEWEST)

    def _counts(self, window: Window, version: str) -> dict[str, Counts]:
        """The counts of a window by segment, that of all events first."""
        reference = self._versions[version].reference
        held = self._store.counts(window, version)
        segments = [ALL, *sorted(held.keys() - {ALL})]
        return {segment: held.get(segment, Sketch()).to_counts(reference) for segment in segments}

    def _view(self, window: Window, version: str, counts: dict[str, Counts], metrics: range) -> View:
        known, drift = self._versions[version], self._pipeline.drift
        if drift.against is None:
            against, absence = dict(known.reference.by_segment()), "training had no such events"
        else:
            before = self._calendar.before(window, drift.against)
            is_own = before < window and not is_shared(version, self._store.n_scored(before))
            against = self._counts(before, version) if is_own else {}
            absence = f"version {version} scored none of {before}, which it is compared with, or only a part"
        nothing = known.reference.zeros()
        past_windows = self._history.before(window)

        names = tuple(known.reference.metrics[row].name for row in metrics)
        times = np.array([self._calendar.ordinal(each) for each in (*past_windows, window)], np.float64)
        training = known.training_deciles[metrics.start : metrics.stop]

        has_labels = self._pipeline.labels is not None
        share = of_windows(has_labels=has_labels, has_detectors=bool(drift.detectors))
        reference = np.stack([against.get(segment, nothing).counts for segment in counts])
        silent = self._silence(window, version).notes(known.reference.metrics, metrics)
        outcome = len(known.reference.metrics) - 1
        if outcome in metrics:
            share = OF_OUTCOMES
            labels = self._look_at_labels(known, window, counts[ALL])
            if labels.silence:
                silent[outcome] = labels.silence
            elif labels.arrived is not None and drift.against is None:  # of past windows, as many are here
                reference[:, outcome, :2] = np.rint(reference[:, outcome, :2] * thinning(labels.arrived))
        return View(
            segments=list(counts),
            rows=metrics,
            reference=reference,
            detection=np.stack([each.counts for each in counts.values()]),
            past=[
                Past(
                    times=times,
                    deciles=self._history.past(past_windows, version, segment, names),
                    current=self._history.current(window, version, segment, names),
                    reference=training,
                )
                for segment in counts
                if names
            ],
            alpha=alpha_of_window(drift.false_alarms, share, self._calendar.step_ms, counts[ALL].n),
            absence=absence,
            silent=silent,
        )

    def _about(self, version: str, window: Window, revision: int) -> Subject:
        return Subject(self._pipeline.name, self._pipeline.model.name, version, window, revision)


def _digest(*found: object) -> str:
    return hashlib.sha256(encode_packed(found)).hexdigest()
