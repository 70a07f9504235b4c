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
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.alerting import Watch, limits
from app.core.drift.deciles import deciles
from app.core.drift.wasserstein import Scale
from app.core.drift_reports import Evidence, concerns, judge
from app.core.drift_windows import Calendar, Window, WindowStore
from app.core.error_stream import ErrorStream
from app.core.error_watch import ErrorWatch, baseline_of, make_cusum
from app.core.findings import Findings, Judgement, Subject, describe
from app.core.history import History
from app.core.performance import measure
from models.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.batches import Floats
    from app.core.detectors import Make
    from models.reference import Counts
    from schemas.pipeline import Pipeline
    from schemas.wire import SketchRecord

#: A window of fewer events (for performance: labels) is reported but neither raises nor clears an alert.
FEWEST = 200
_MAGIC = b"streamgauge monitor 2\n"


@dataclass(eq=False)
class _Version:
    reference: Reference
    training_metrics: dict[str, float]
    training: Window
    watches: list[Watch]
    errors: ErrorWatch
    is_announced: bool = False

    @cached_property
    def training_deciles(self) -> list[Floats]:
        counts = self.reference.training
        return [
            deciles(cells, counts.counts[row], float(counts.minima[row]), float(counts.maxima[row]))
            for row, cells in enumerate(self.reference.metrics)
        ]

    @cached_property
    def scales(self) -> list[Scale]:
        return [
            Scale.of(cells.edges, counts[: cells.size])
            for cells, counts in zip(self.reference.metrics, self.reference.counts, strict=True)
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
    make_detector
        Makes the detectors that the pipeline file asks for.
    """

    def __init__(
        self, pipeline: Pipeline, *, keep: int = 24, history: int = 60, make_detector: Make = make_cusum
    ) -> None:
        self._pipeline = pipeline
        self._calendar = Calendar.parse(pipeline.drift.window, pipeline.drift.slice_ms)
        self._store = WindowStore(
            self._calendar,
            pipeline.partitions,
            pipeline.drift.grace_ms,
            pipeline.performance.maturity_ms if pipeline.labels is not None else None,
            keep=keep,
        )
        self._n_kept = keep
        self._versions: dict[str, _Version] = {}
        self._history = History(history)
        self._errors = ErrorStream()
        self._make_detector = make_detector

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
        window, drift = training or Window(0, 0), self._pipeline.drift
        errors = ErrorWatch(drift.detectors, baseline_of(reference, window, drift), self._make_detector)
        self._versions[version] = _Version(reference, dict(training_metrics), window, watches, errors)

    def observe(self, record: SketchRecord) -> None:
        """Take a record of the sketches topic, in offset order per partition."""
        for delta in record.deltas:
            if delta.model != self._pipeline.model.name:
                raise ValueError(
                    f"a sketch of model {delta.model!r} on a topic of {self._pipeline.model.name!r}; "
                    "give each model a pipeline of its own"
                )
        self._errors.check(record)
        self._store.add(record)
        self._errors.add(record)

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
                statistics = describe(known.reference, known.reference.training, range(len(known.reference.metrics)))
                findings.metadata += self._about(version, known.training, 1).metadata("training", statistics, now_ms)
        for version, known in sorted(self._versions.items()):
            released = self._errors.release(version, self._store.label_watermark_ms)
            findings.reports += known.errors.observe(released, self._about(version, known.training, 1))
        closed = self._store.closed()
        self._judge(closed, now_ms, findings)
        mature = [window for window in closed if self._store.is_mature(window)]
        self._judge(mature, now_ms, findings, of_labels=True)
        for _, known in sorted(self._versions.items()):
            for watch in known.watches:
                findings.alerts += watch.announce(now_ms)
        self._store.release()
        self._history.prune(self._n_kept)
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
                    "watches": {watch.rule.name: watch.to_state() for watch in known.watches},
                }
                for version, known in self._versions.items()
            },
            "history": self._history.to_state(),
            "errors": self._errors.snapshot(),
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
            self._versions[version].errors.restore(saved["errors"])
            for watch in self._versions[version].watches:
                if watch.rule.name in saved["watches"]:
                    watch.from_state(saved["watches"][watch.rule.name])
        self._history.from_state(state["history"])
        self._errors.restore(state["errors"])

    def _judge(self, windows: list[Window], now_ms: int, findings: Findings, *, of_labels: bool = False) -> None:
        """Judge what is new or changed in the windows: features and score, or outcome and performance."""
        is_history_changed = False
        for window in windows:
            for version, holding in self._store.holdings(window):
                if version not in self._versions or not holding.is_due(of_labels, is_history_changed):
                    continue
                known = self._versions[version]
                counts = holding.sketch.to_counts(known.reference)
                last = len(known.reference.metrics) - 1
                metrics = range(last, last + 1) if of_labels else range(last)
                statistics = describe(known.reference, counts, metrics)
                self._history.remember(window, version, counts.n, statistics)
                tested = self._test(window, version, counts, metrics)
                performance = self._about(version, window, 0).performance(counts) if of_labels else []
                digest = hashlib.sha256(repr((statistics, tested, performance)).encode()).hexdigest()
                revision = holding.report(digest, of_labels)
                if revision is None:
                    continue
                is_history_changed = True
                about = self._about(version, window, revision)
                findings.metadata += about.metadata("scoring", statistics, now_ms)
                findings.reports += about.reports(tested)
                if of_labels:
                    findings.performance += about.performance(counts)
                values = {row.measure: row.realised for row in performance}
                share = _share_of_drift(tested)
                is_enough = (counts.n_labels if of_labels else counts.n) >= FEWEST
                for watch in known.watches:
                    if (watch.rule.on == "performance") == of_labels:
                        value = values.get(watch.rule.measure, math.nan) if of_labels else share
                        watch.see(window, value if is_enough else math.nan)

    def _test(self, window: Window, version: str, counts: Counts, metrics: Iterable[int]) -> list[Judgement]:
        known = self._versions[version]
        tested = []
        for row in metrics:
            cells = known.reference.metrics[row]
            past_windows, past = self._history.past(window, version, cells.name)
            evidence = Evidence(
                cells=cells,
                reference=known.reference.counts[row, : cells.size + 1],
                detection=counts.counts[row, : cells.size + 1],
                scale=known.scales[row],
                reference_deciles=known.training_deciles[row],
                deciles=self._history.current(window, version, cells.name),
                times=np.array([self._calendar.ordinal(each) for each in (*past_windows, window)], np.float64),
                past=past,
            )
            numbers = int(evidence.reference.sum()), int(evidence.detection.sum())
            tested += [
                Judgement(cells.name, test.test, *numbers, judge(test, evidence))
                for test in self._pipeline.drift.tests
                if concerns(test, cells)
            ]
        return tested

    def _about(self, version: str, window: Window, revision: int) -> Subject:
        return Subject(self._pipeline.name, self._pipeline.model.name, version, window, revision)


def _share_of_drift(tested: list[Judgement]) -> float:
    metrics = {each.metric for each in tested}
    return (
        len({each.metric for each in tested if each.verdict.signal == "DRIFT"}) / len(metrics) if metrics else math.nan
    )
