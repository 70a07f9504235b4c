"""The monitor without its edges: sketch records in; metadata, drift reports, performance and alerts out.

What `MonitorCore.collect` says of a window is a function of the counts of that window and of the windows before it,
never of the order or the batches in which they came. When a window changes after it was reported, it and the later ones
(whose history it is) are judged again, and what then says something else is reported under the next revision. Only the
revision of what late data changed, and the processing time, depend on when `collect` was called.

The interval and the trend look at past windows of the model, whichever version served (`app.core.history`).

The outcome, like the performance, is judged when its labels are mature; everything else when the window closes.

A version must be registered before its windows are reported. Until then they are held, merged per window, so that what
is held grows with windows and not with events; nothing is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.alerting import Watch, limits
from app.core.budget import OF_OUTCOMES, OF_WINDOWS, alpha_of_window
from app.core.drift.deciles import deciles
from app.core.drift_calendar import Calendar, Window
from app.core.drift_reports import Judge, Judgement, View
from app.core.drift_windows import WindowStore
from app.core.findings import Findings, Subject, describe
from app.core.history import History
from app.core.over_time import Past
from app.core.performance import measure
from app.core.sketches import ALL, Sketch
from models.reference import Reference

if TYPE_CHECKING:
    from app.core.batches import Floats
    from models.reference import Counts
    from schemas.pipeline import Pipeline
    from schemas.wire import SketchRecord

#: A window of fewer events (for performance: labels) is reported but neither raises nor clears an alert.
FEWEST = 200
_MAGIC = b"streamgauge monitor 1\n"


@dataclass(eq=False)
class _Version:
    reference: Reference
    training_metrics: dict[str, float]
    training: Window
    watches: list[Watch]
    judge: Judge
    is_announced: bool = False

    @cached_property
    def training_deciles(self) -> list[Floats]:
        counts = self.reference.training
        return [
            deciles(cells, counts.counts[row], float(counts.minima[row]), float(counts.maxima[row]))
            for row, cells in enumerate(self.reference.metrics)
        ]


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
    """

    def __init__(self, pipeline: Pipeline, *, keep: int = 24, history: int = 60) -> None:
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
        )
        self._versions: dict[str, _Version] = {}
        self._history = History(history)
        #: Windows whose history is kept: overlapping ones are passed over where tests look back.
        self._n_remembered = keep + history * len(self._calendar.panes_of(self._calendar.window_at(0)))

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
    ) -> None:
        """Make a version's reference known; again with the same one is no error, with another one is a ValueError.

        Parameters
        ----------
        training_metrics
            What ``falls_by`` of alert rules compares with, by measure; what is absent is computed from the reference.
        training
            Event time of the training data, for its metadata rows (None: 0 to 0).
        """
        known = self._versions.get(version)
        if known is not None:
            if known.reference.to_json() != reference.to_json():
                raise ValueError(
                    f"version {version} is registered with another reference; give the new one a new version"
                )
            return
        own = {name: value for name, value, _, _ in measure(reference.training)}
        watches = [
            Watch(
                pipeline=self._pipeline.name,
                model=self._pipeline.model.name,
                version=version,
                rule=rule,
                limits=limits(rule, training_metrics.get(rule.measure, own.get(rule.measure, math.nan))),
            )
            for rule in self._pipeline.alerts
        ]
        judge = Judge(reference, self._pipeline.drift.tests)
        self._versions[version] = _Version(reference, dict(training_metrics), training or Window(0, 0), watches, judge)

    def observe(self, record: SketchRecord) -> None:
        """Take a record of the sketches topic, in offset order per partition."""
        for delta in record.deltas:
            if delta.model != self._pipeline.model.name:
                raise ValueError(
                    f"a sketch of model {delta.model!r} on a topic of {self._pipeline.model.name!r}; "
                    "give each model a pipeline of its own"
                )
        self._store.add(record)

    def calibrate(self) -> None:
        """Work out beforehand what `collect` needs and takes seconds for; changes nothing that anyone can see."""
        for window in self._store.closed():
            for version, holding in self._store.holdings(window):
                is_due = any(holding.is_due(of_labels, is_history_changed=False) for of_labels in (False, True))
                if is_due and version in self._versions:
                    known = self._versions[version]
                    known.judge.calibrate(self._view(window, version, self._counts(window, version), range(0)))

    def collect(self, now_ms: int) -> Findings:
        """Report what has closed, matured or changed.

        Parameters
        ----------
        now_ms
            Processing time, for the rows' time stamps alone.
        """
        findings = Findings()
        for version, known in sorted(self._versions.items()):
            if not known.is_announced:
                known.is_announced = True
                about = self._about(version, known.training, 1)
                for segment, counts in known.reference.by_segment():
                    statistics = describe(known.reference, counts, range(len(known.reference.metrics)))
                    findings.metadata += about.metadata("training", segment, statistics, now_ms)
        closed = self._store.closed()
        self._judge(closed, now_ms, findings)
        mature = [window for window in closed if self._store.is_mature(window)]
        self._judge(mature, now_ms, findings, of_labels=True)
        for _, known in sorted(self._versions.items()):
            for watch in known.watches:
                findings.alerts += watch.announce(now_ms)
        self._store.release()
        self._history.prune(self._n_remembered)
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
                    "watches": {watch.rule.name: watch.to_state() for watch in known.watches},
                }
                for version, known in self._versions.items()
            },
            "history": self._history.to_state(),
        }
        return _MAGIC + json.dumps(state, sort_keys=True).encode() + b"\n" + self._store.snapshot()

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot of the same pipeline; ValueError when it was not made by such a monitor.

        An alert rule that is new in the pipeline file starts without a past.
        """
        if not snapshot.startswith(_MAGIC):
            raise ValueError("not a snapshot of a monitor of this release; read the sketches topic from its beginning")
        head, _, windows = snapshot[len(_MAGIC) :].partition(b"\n")
        state: dict[str, Any] = json.loads(head)
        self._store.restore(windows)
        self._versions = {}
        for version, saved in state["versions"].items():
            reference = Reference.from_json(saved["reference"])
            self.register_version(version, reference, saved["training_metrics"], Window(*saved["training"]))
            self._versions[version].is_announced = saved["is_announced"]
            for watch in self._versions[version].watches:
                if watch.rule.name in saved["watches"]:
                    watch.from_state(saved["watches"][watch.rule.name])
        self._history.from_state(state["history"])

    def _judge(self, windows: list[Window], now_ms: int, findings: Findings, *, of_labels: bool = False) -> None:
        """Judge what is new or changed in the windows: features and score, or outcome and performance."""
        is_history_changed = False
        for window in windows:
            for version, holding in self._store.holdings(window):
                if version not in self._versions or not holding.is_due(of_labels, is_history_changed):
                    continue
                known = self._versions[version]
                counts = self._counts(window, version)
                last = len(known.reference.metrics) - 1
                metrics = range(last, last + 1) if of_labels else range(last)
                statistics = {segment: describe(known.reference, each, metrics) for segment, each in counts.items()}
                for segment, each in counts.items():
                    self._history.remember(window, version, segment, each.n, statistics[segment])
                tested = known.judge.judge(self._view(window, version, counts, metrics))
                about = self._about(version, window, 0)
                performance = [
                    row for segment, each in counts.items() if of_labels for row in about.performance(segment, each)
                ]
                digest = hashlib.sha256(repr((statistics, tested, performance)).encode()).hexdigest()
                revision = holding.report(digest, of_labels)
                if revision is None:
                    continue
                is_history_changed = True
                about = replace(about, revision=revision)
                for segment, found in statistics.items():
                    findings.metadata += about.metadata("scoring", segment, found, now_ms)
                findings.reports += about.reports(tested)
                findings.performance += [replace(row, revision=revision) for row in performance]
                whole = counts[ALL]
                values = {row.measure: row.realised for row in performance if row.segment == ALL}
                share = _share_of_drift(tested)
                is_enough = (whole.n_labels if of_labels else whole.n) >= FEWEST
                for watch in known.watches:
                    if (watch.rule.on == "performance") == of_labels:
                        value = values.get(watch.rule.measure, math.nan) if of_labels else share
                        watch.see(window, value if is_enough else math.nan)

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
            against = self._counts(before, version) if before < window else {}
            absence = f"version {version} scored none in {before}, which it is compared with"
        nothing = known.reference.zeros()
        past_windows = self._history.before(window)

        def look_back(s: int, row: int) -> Past:
            segment, name = list(counts)[s], known.reference.metrics[row].name
            windows, past = self._history.past(past_windows, version, segment, name)
            return Past(
                times=np.array([self._calendar.ordinal(each) for each in (*windows, window)], np.float64),
                deciles=past,
                current=self._history.current(window, version, segment, name),
                reference=known.training_deciles[row],
            )

        share = 1.0
        if self._pipeline.labels is not None:
            share = OF_OUTCOMES if len(known.reference.metrics) - 1 in metrics else OF_WINDOWS
        return View(
            segments=list(counts),
            rows=metrics,
            reference=np.stack([against.get(segment, nothing).counts for segment in counts]),
            detection=np.stack([each.counts for each in counts.values()]),
            past=cache(look_back),
            alpha=alpha_of_window(drift.false_alarms, share, self._calendar.step_ms, counts[ALL].n),
            absence=absence,
        )

    def _about(self, version: str, window: Window, revision: int) -> Subject:
        return Subject(self._pipeline.name, self._pipeline.model.name, version, window, revision)


def _share_of_drift(tested: list[Judgement]) -> float:
    metrics = {each.metric for each in tested}
    drifting = {each.metric for each in tested if each.segment == ALL and each.verdict.signal == "DRIFT"}
    return len(drifting) / len(metrics) if metrics else math.nan
