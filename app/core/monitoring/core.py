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

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.alerts.book import AlertBook
from app.core.alerts.words import Detected
from app.core.counts.calendar import Calendar, Window
from app.core.counts.sketch_rules import SketchRules, named_versions
from app.core.counts.windows import WindowStore
from app.core.drift.filling import FillTimes
from app.core.drift.history import History
from app.core.errors.stream import ErrorStream
from app.core.errors.watch import make_cusum
from app.core.features.origins import Origins
from app.core.findings import Findings, Subject
from app.core.input_checks import InputChecks
from app.core.labels.delays import LabelDelays
from app.core.monitoring.facts import Sources, VersionWindow
from app.core.monitoring.judging import FEWEST_TO_ALERT, Judging
from app.core.monitoring.versions import WatchedVersion
from app.core.records.rules import RecordRules
from app.core.verdict.succession import Succession
from models.reference.as_json import from_json, to_json
from models.reference.reference import Reference

if TYPE_CHECKING:
    from app.core.counts.windows import Stage
    from app.core.errors.detectors import Make
    from schemas.pipeline.spec import Pipeline
    from schemas.wire import SketchRecord

_MAGIC = b"streamgauge monitor 9\n"


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
        calendar = Calendar.parse(drift.window, drift.slice_ms, drift.every_ms)
        self._store = WindowStore(
            calendar,
            pipeline.partitions,
            drift.grace_ms,
            pipeline.performance.maturity_ms if pipeline.labels is not None else None,
            keep=keep,
            against=drift.against,
            slice_ms=drift.slice_ms,
        )
        self._make_version = partial(
            WatchedVersion.of, pipeline, origins=Origins(pipeline), make_detector=make_detector
        )
        self._versions: dict[str, WatchedVersion] = {}
        self._rules = SketchRules(pipeline, RecordRules.of(pipeline))
        #: How many metrics the counts have that are held of versions without a reference; 0: none are.
        self._strangers: dict[str, int] = {}
        self._history = History(history)
        self._succession = Succession(FEWEST_TO_ALERT)
        #: Windows before one that its tests look at: overlapping ones are passed over where they look back.
        self._n_past = history * len(calendar.panes_of(calendar.window_at(0)))
        #: What is raised, acknowledged and cleared; whoever judges windows lets it see what was found.
        self.alerts = AlertBook(pipeline.name, pipeline.model.name, pipeline.alerts)
        self._errors = ErrorStream(pipeline.performance.maturity_ms)
        #: What is wrong with the stream itself.
        self.inputs = InputChecks(pipeline.name, drift.slice_ms, drift.grace_ms)
        #: How long labels take.
        self.delays = LabelDelays(
            pipeline.name, drift.slice_ms, max(pipeline.horizon_ms, 1), pipeline.performance.maturity_ms
        )
        self._sources = Sources(
            pipeline, calendar, self._versions, self._store, self._history, self.delays, FillTimes(pipeline)
        )
        #: Whether `collect` has left closed windows for its next call.
        self.is_behind = False

    @property
    def windows(self) -> WindowStore:
        """The windows, for watermarks, `Watermarks.declare_idle` and what came too late."""
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
            if to_json(known.reference) != to_json(reference):
                raise ValueError(
                    f"version {version} is registered with another reference; give the new one a new version"
                )
            return 0
        window = training or Window(0, 0)
        made = self._versions[version] = self._make_version(reference, training_metrics, window)
        self.alerts.add_version(version, made.measured())
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
            self._strangers[version] = self._store.panes.n_metrics(version)
        return len(record.deltas) - len(checked.deltas)

    def calibrate(self, most: int | None = None) -> None:
        """Work out beforehand what `collect` needs and takes seconds for; changes nothing that anyone can see."""
        for window in self._next_windows(most):
            stages = self._stages(window)
            for version, holding in self._store.holdings(window):
                is_due = any(holding[stage].is_due(is_history_changed=False) for stage in stages)
                if is_due and version in self._versions:
                    look = VersionWindow(self._sources, window, version)
                    look.known.judge.calibrate(look.view_of_sizes())

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
                about = Subject(self._pipeline.name, self._pipeline.model.name, version, known.training, 1)
                everything = range(len(known.reference.metrics))
                for segment, counts in known.reference.by_segment():
                    statistics = known.describer.describe(counts, everything)
                    findings.metadata += about.metadata("training", segment, statistics, now_ms)
        self._watch_errors(findings)
        closed = self._next_windows(most)
        mature = [window for window in closed if self._store.is_mature(window)]
        later = self._store.closed()[len(closed) :]
        self.is_behind = bool(later)
        judging = Judging(self._sources, self._succession, self.alerts, findings, now_ms)
        judging.judge(closed, later, "features")
        judging.judge(mature, later, "labels")
        judging.conclude()
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
        self._store.forget_reported()
        if self._store.settled_before_ms is not None:
            self.alerts.forget(self._store.settled_before_ms)
            for known in self._versions.values():
                kept = (seen for seen in known.n_seen.items() if seen[0] >= self._store.settled_before_ms)
                known.n_seen = dict(kept)
        n_remembered = max(self._store.keep, len(self._store.closed())) + self._n_past
        self._history.prune(n_remembered)
        self._succession.prune(n_remembered)
        return findings

    def snapshot(self) -> bytes:
        """Give the whole state as bytes: equal states give equal bytes."""
        state = {
            "versions": {version: known.to_state() for version, known in self._versions.items()},
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
        self._versions.clear()
        self._strangers.clear()
        for version, saved in state["versions"].items():
            reference = from_json(saved["reference"])
            self.register_version(version, reference, saved["training_metrics"], Window(*saved["training"]))
            self._versions[version].restore(saved)
        self.alerts.from_state(state["alerts"])
        self._history.from_state(state["history"])
        self._succession.from_state(state["succession"])
        self._errors.restore(state["errors"])
        for strange in (self._store.panes.versions() | self._errors.held.keys()) - self._versions.keys():
            self._strangers[strange] = self._store.panes.n_metrics(strange)
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
            due = self._sources.of_full_features(self._errors.take_due(version, self._store.label_watermark_ms))
            due = known.fair.take(self._sources.of_own_windows(version, due))
            slices, numbers = np.unique(due.times_ms // slice_ms * slice_ms, return_counts=True)
            for start_ms, n in zip(slices.tolist(), numbers.tolist(), strict=True):
                known.n_seen[start_ms] = known.n_seen.get(start_ms, 0) + n
            about = Subject(self._pipeline.name, self._pipeline.model.name, version, known.training, 1)
            detected = known.errors.observe(due, about)
            findings.reports += detected
            known.detections += [
                Detected(report.window_end_ms, report.test, report.note)
                for report in detected
                if report.signal == "DRIFT"
            ]

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
                    detections = [
                        detection
                        for detection in known.detections
                        if window.start_ms <= detection.time_ms < window.end_ms
                    ]
                    slices = range(window.start_ms, window.end_ms, self._pipeline.drift.slice_ms)
                    n_seen = sum(known.n_seen.get(start_ms, 0) for start_ms in slices)
                    self.alerts.see_detections(version, window, detections, is_steady=n_seen >= FEWEST_TO_ALERT)
