"""What the monitor says follows from the events alone: not from partitions, batches, order or restarts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.alerts.readings import read_drift
from app.core.counts.buffer import SketchBuffer
from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.drift.judge import Judge
from app.core.drift.judgement import DriftResult as Said
from app.core.drift.judgement import Judgement, Signal, View
from app.core.drift.smallest_p import SmallestP
from app.core.findings import Findings, MetadataRow
from app.core.monitoring.core import MonitorCore
from app.core.performance.measures import measure
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Counts, Reference
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.detectors import default_detector
from schemas.pipeline.drift import DEFAULT_TESTS, DRIFT_TESTS, default_test
from schemas.pipeline.spec import (
    AlertRule,
    Drift,
    Events,
    FalseAlarms,
    Labels,
    Limits,
    Model,
    PastWindow,
    Performance,
    Pipeline,
    Shared,
)
from schemas.wire import SketchRecord

SLICE_MS, WINDOW_MS = 100, 1_000
FEATURES = ["amount", "kind"]
COLUMNS = [numeric("amount"), category("kind", 3)]
END_MS = 10**9


def make_pipeline(
    partitions: int = 1,
    labels: Labels | None = Labels(5_000, 0),  # noqa: B008  # frozen
    tests: Iterable[str] = DEFAULT_TESTS,
) -> Pipeline:
    return Pipeline(
        name="payments",
        path=Path("payments.toml"),
        partitions=partitions,
        delivery="exactly_once",
        commit_interval_ms=100,
        publish_features=True,
        source=None,
        events=Events("card", "id", "at", (), 0, END_MS, 0),
        labels=labels,
        shared=Shared(1_000, 30_000),
        lookups=(),
        features=(),
        model=Model("fraud"),
        drift=Drift(
            window=str(WINDOW_MS),
            slice_ms=SLICE_MS,
            grace_ms=50,
            bins=16,
            tests=tuple(map(default_test, tests)),
        ),
        performance=Performance(maturity_ms=200),
        alerts=(
            AlertRule("auc-fell", "performance", "auc", "critical", falls_by=0.05, action="retrain"),
            AlertRule("drifting", "drift", "share", above=0.3),
        ),
        limits=Limits(10, 0.5, 100),
        digest="",
    )


class Stream:
    """Seeded events over some windows; from window ``moves_at`` on amounts double and labels turn random."""

    def __init__(self, seed: int, n: int, windows: int = 6, moves_at: int = 99) -> None:
        generator = np.random.default_rng(seed)
        self.times = np.sort(generator.integers(0, windows * WINDOW_MS, n))
        moved = self.times >= moves_at * WINDOW_MS
        self.matrix = np.column_stack(
            [generator.gamma(2.0, size=n) * np.where(moved, 2.0, 1.0), generator.integers(0, 3, n)]
        )
        self.matrix[generator.random((n, 2)) < 0.05] = np.nan
        self.scores = generator.random(n)
        self.labels = (generator.random(n) < np.where(moved, 0.5, self.scores)) * 1.0
        self.is_labelled = generator.random(n) < 0.9
        self.versions = np.where(self.times < 3.5 * WINDOW_MS, "1", "2")

    def keep(self, rows: np.ndarray) -> None:
        for name in ("times", "matrix", "scores", "labels", "is_labelled", "versions"):
            setattr(self, name, getattr(self, name)[rows])

    def records(self, partition_of: np.ndarray, partitions: int, cuts: list[int]) -> list[list[SketchRecord]]:
        """Cut each partition's events into transactions at ``cuts``; labels come one transaction later."""
        found = []
        edges = [0, *sorted(cuts), len(self.times)]
        for partition in range(partitions):
            here, due = [], np.zeros(len(self.times), bool)
            for start, end in zip(edges, [*edges[1:], len(self.times)], strict=True):
                buffer = SketchBuffer("fraud", SLICE_MS)
                rows = np.zeros(len(self.times), bool)
                rows[start:end] = partition_of[start:end] == partition
                for version in ("1", "2"):
                    of_version = self.versions == version
                    events, labelled = rows & of_version, due & of_version
                    buffer.add_scored(
                        version, reference(), self.times[events], self.matrix[events], self.scores[events]
                    )
                    buffer.add_labelled(
                        version, reference(), self.times[labelled], self.scores[labelled], self.labels[labelled]
                    )
                watermark = int(self.times[start]) if start < len(self.times) else END_MS
                # Labels have been applied up to the events before these.
                label_watermark = (
                    int(self.times[edges[max(edges.index(start) - 1, 0)]]) if start < len(self.times) else END_MS
                )
                here.append(SketchRecord(partition, watermark, label_watermark, buffer.drain()))
                due = rows & self.is_labelled
            here.append(SketchRecord(partition, END_MS, END_MS, []))
            found.append(here)
        return found


class Swap(Stream):
    """A swap in the middle of window 8, after which a share ``blind`` of the scores says nothing of the label."""

    def __init__(self, seed: int, n: int, blind: float, names: tuple[str, str] = ("1", "2")) -> None:
        super().__init__(seed, n, windows=11)
        generator = np.random.default_rng([seed, 1])
        is_new = self.times >= 8.5 * WINDOW_MS
        self.versions = np.where(is_new, names[1], names[0])
        if blind < 0:  # better than before: scores go towards the label
            self.scores = np.where(is_new, self.scores + blind * (self.scores - self.labels), self.scores)
        else:
            blinded = is_new & (generator.random(n) < blind)
            self.labels = np.where(blinded, (generator.random(n) < 0.5) * 1.0, self.labels)


@functools.cache
def reference() -> Reference:
    stream = Stream(100, 4_000)
    return fit_reference(TrainingEvents(stream.matrix, stream.scores, stream.labels), COLUMNS, 16)


def make_monitor(
    partitions: int = 1, versions: tuple[str, ...] = ("1", "2"), tests: Iterable[str] = DEFAULT_TESTS
) -> MonitorCore:
    monitor = MonitorCore(make_pipeline(partitions, tests=tests))
    for version in versions:
        monitor.register_version(version, reference(), {"auc": 0.8})
    return monitor


def run(monitor: MonitorCore, stream: Stream, cuts: list[int] | None = None) -> Findings:
    (records,) = stream.records(np.zeros(len(stream.times), int), 1, cuts or [])
    for record in records:
        monitor.observe(record)
    return monitor.collect(now_ms=7)


def last_words(all_findings: list[Findings]) -> dict[tuple[object, ...], str]:
    """What the tables show: of each key the row of the highest revision, without that revision."""
    rows: dict[tuple[object, ...], tuple[int, str]] = {}
    for findings in all_findings:
        for row in findings.metadata:
            key = ("metadata", row.version, row.stage, row.metric, row.decile, row.window_start_ms)
            rows[key] = max(rows.get(key, (0, "")), (row.revision, repr(row._replace(revision=0))))
        for report in findings.reports:
            key = ("report", report.version, report.metric, report.test, report.window_start_ms)
            words = repr({name: getattr(report, name) for name in report.__struct_fields__ if name != "revision"})
            rows[key] = max(rows.get(key, (0, "")), (report.revision, words))
        for each in findings.performance:
            key = ("performance", each.version, each.measure, each.window_start_ms)
            rows[key] = max(rows.get(key, (0, "")), (each.revision, repr(each._replace(revision=0))))
        for verdict in findings.verdicts:
            key = ("verdict", verdict.version, verdict.window_start_ms)
            words = repr({name: getattr(verdict, name) for name in verdict.__struct_fields__ if name != "revision"})
            rows[key] = max(rows.get(key, (0, "")), (verdict.revision, words))
    return {key: words for key, (_, words) in rows.items()}


@pytest.mark.slow
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    partitions=st.sampled_from([1, 2, 8]),
    cuts=st.lists(st.integers(0, 600), max_size=6),
    chance=st.randoms(use_true_random=False),
)
def test_rows_are_bit_identical_for_any_partitions_batches_and_interleaving(
    seed: int, partitions: int, cuts: list[int], chance: object
) -> None:
    stream = Stream(seed, 600, moves_at=4)
    expected = run(make_monitor(), stream)
    partition_of = np.random.default_rng(seed).integers(0, partitions, 600)
    queues = stream.records(partition_of, partitions, cuts)
    monitor = make_monitor(partitions)
    turns = [number for number, queue in enumerate(queues) for _ in queue]
    chance.shuffle(turns)  # type: ignore[attr-defined]  # Hypothesis's Random
    for turn in turns:
        monitor.observe(queues[turn].pop(0))
    found = monitor.collect(now_ms=7)
    assert repr(found) == repr(expected)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 600), max_size=12), st.integers(0, 14), st.booleans())
def test_collecting_often_restarting_and_late_data_end_in_the_same_words(
    seed: int, cuts: list[int], restart_at: int, reorder: bool
) -> None:
    stream = Stream(seed, 600, moves_at=4)
    expected = last_words([run(make_monitor(), stream)])
    (records,) = stream.records(np.zeros(600, int), 1, cuts)
    if reorder:  # what it brings for closed windows is late
        records.insert(0, records.pop())
    monitor = make_monitor()
    found = []
    for number, record in enumerate(records):
        monitor.observe(record)
        found.append(monitor.collect(now_ms=7))
        if number == restart_at:
            snapshot = monitor.snapshot()
            monitor = MonitorCore(make_pipeline())
            monitor.restore(snapshot)
            assert monitor.snapshot() == snapshot
    assert last_words(found) == expected
    assert not monitor.collect(now_ms=8)


@pytest.mark.slow
def test_a_monitor_restored_from_an_older_snapshot_says_the_same_again() -> None:
    (records,) = Stream(3, 900, moves_at=4).records(np.zeros(900, int), 1, [200, 400, 600])
    monitor = make_monitor()
    for record in records[:2]:
        monitor.observe(record)
    monitor.collect(now_ms=7)
    snapshot = monitor.snapshot()
    runs = []
    for _ in range(2):
        again = MonitorCore(make_pipeline())
        again.restore(snapshot)
        said = []
        for record in records[2:]:
            again.observe(record)
            said.append(repr(again.collect(now_ms=7)))
        runs.append((said, again.snapshot()))
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_a_version_without_a_reference_is_held_until_it_is_registered() -> None:
    stream = Stream(4, 900)
    expected = last_words([run(make_monitor(), stream)])
    monitor = make_monitor(versions=("1",))
    first = run(monitor, stream, [300])
    assert {row.version for row in first.metadata} == {"1"}
    assert monitor.unknown_versions == ["2"]
    monitor.register_version("2", reference(), {"auc": 0.8})
    second = monitor.collect(now_ms=7)
    assert {row.version for row in second.metadata} >= {"2"}
    assert last_words([first, second]) == expected
    assert monitor.unknown_versions == []


def test_training_rows_come_once_per_version_with_every_statistic() -> None:
    monitor = make_monitor()
    rows = monitor.collect(now_ms=3).metadata
    assert (
        len(rows) == 2 * 4 * 15
    )  # versions x (2 features, score, outcome) x (ten deciles, n, null_rate, min, max, mean)
    assert {row.stage for row in rows} == {"training"}
    amount = {row.decile: row.value for row in rows if (row.version, row.metric) == ("1", "amount")}
    data = Stream(100, 4_000).matrix[:, 0]
    assert amount["n"] == 4_000
    assert amount["null_rate"] == np.isnan(data).mean()
    assert (amount["min"], amount["max"]) == (np.nanmin(data), np.nanmax(data))
    assert amount["mean"] == pytest.approx(np.nanmean(data), abs=1e-6)
    assert amount["d5"] == pytest.approx(np.nanmedian(data), rel=0.05)
    assert amount["d10"] == amount["max"]
    assert not monitor.collect(now_ms=4)
    monitor.register_version("1", reference(), {})
    assert not monitor.collect(now_ms=5)


def test_training_rows_are_of_the_time_of_the_training_data() -> None:
    monitor = make_monitor(versions=())
    monitor.register_version("1", reference(), {}, Window(30, 70))
    monitor.register_version("2", reference(), {})
    times = {(row.version, row.window_start_ms, row.window_end_ms) for row in monitor.collect(now_ms=3).metadata}
    assert times == {("1", 30, 70), ("2", 0, 0)}


def test_a_window_is_reported_when_it_closes_and_its_outcome_when_labels_are_mature() -> None:
    monitor = make_monitor()
    monitor.collect(now_ms=0)
    stream = Stream(5, 900)
    (records,) = stream.records(np.zeros(900, int), 1, [])
    monitor.observe(replace_marks(records[0], WINDOW_MS + 49, WINDOW_MS + 49))
    assert not replace(monitor.collect(now_ms=1), inputs=[])  # slices of it have ended
    monitor.observe(replace_marks(records[-1], WINDOW_MS + 50, WINDOW_MS + 199))
    closed = monitor.collect(now_ms=2)
    assert {row.metric for row in closed.metadata} == {"amount", "kind", "score"}
    assert {(row.window_start_ms, row.window_end_ms) for row in closed.metadata} == {(0, WINDOW_MS)}
    assert {row.n_labels for row in closed.performance} == {0}
    assert all(math.isnan(row.realised) and not math.isnan(row.estimated) for row in closed.performance[:3])
    assert [(each.kind, each.with_labels) for each in closed.verdicts] == [("too_little_data", False)]
    assert {report.n_detection for report in closed.reports} == {int((stream.times < WINDOW_MS).sum())}
    monitor.observe(replace_marks(records[1], WINDOW_MS + 50, WINDOW_MS + 200))
    mature = monitor.collect(now_ms=3)
    assert {row.metric for row in mature.metadata} == {"outcome"}
    assert [(each.with_labels, each.revision) for each in mature.verdicts] == [(True, 2)]
    assert {row.revision for row in mature.performance} == {2}
    performance = {row.measure: row for row in mature.performance}
    assert set(performance) == {"auc", "accuracy", "precision", "recall", "f1", "log_loss", "positives"}
    here = (stream.times < WINDOW_MS) & stream.is_labelled
    assert mature.performance[0].n_labels == here.sum()
    assert mature.performance[0].label_maturity == here.sum() / (stream.times < WINDOW_MS).sum()
    accuracy = ((stream.scores >= 0.5) == (stream.labels == 1))[here].mean()
    assert performance["accuracy"].realised == pytest.approx(accuracy)


def test_a_quiet_window_says_before_its_labels_come_that_more_may_show_with_them() -> None:
    monitor = make_monitor()
    stream = Stream(5, 6_000)
    (records,) = stream.records(np.zeros(6_000, int), 1, [])
    monitor.observe(replace_marks(records[0], WINDOW_MS + 49, WINDOW_MS + 49))
    monitor.observe(replace_marks(records[-1], WINDOW_MS + 50, WINDOW_MS + 199))
    (before,) = monitor.collect(now_ms=1).verdicts
    monitor.observe(replace_marks(records[1], WINDOW_MS + 50, WINDOW_MS + 200))
    (after,) = monitor.collect(now_ms=2).verdicts
    assert (before.kind, before.with_labels, after.kind, after.with_labels) == ("none", False, "none", True)
    assert before.headline.startswith("Nothing has moved that shows before labels come: ")
    assert before.reason.endswith("; whether the same inputs lead to other outcomes, labels will tell.")
    assert after.headline == "Nothing has moved: the events are like those of training."


def replace_marks(record: SketchRecord, watermark_ms: int, label_watermark_ms: int) -> SketchRecord:
    return SketchRecord(record.partition, watermark_ms, label_watermark_ms, record.deltas)


def test_late_events_amend_a_window_under_the_next_revision() -> None:
    monitor = make_monitor()
    stream = Stream(6, 900)
    first = run(monitor, stream)
    buffer = SketchBuffer("fraud", SLICE_MS)
    buffer.add_scored("1", reference(), np.array([2_500]), np.array([[1.0, 1.0]]), np.array([0.5]))
    monitor.observe(SketchRecord(0, 0, 0, buffer.drain()))
    second = monitor.collect(now_ms=9)

    def count(findings: Findings, start_ms: int) -> list[tuple[int, float]]:
        return [
            (row.revision, row.value)
            for row in findings.metadata
            if (row.metric, row.decile, row.window_start_ms, row.stage) == ("score", "n", start_ms, "scoring")
        ]

    ((_, before),) = count(first, 2_000)
    assert count(second, 2_000) == [(2, before + 1)]
    assert count(second, 1_000) == []  # earlier windows do not know of it
    assert {report.revision for report in second.reports} == {2}
    assert not monitor.collect(now_ms=10)


@pytest.mark.slow
def test_a_drift_is_reported_from_the_window_it_begins_in_and_raises_alerts() -> None:
    findings = run(make_monitor(), Stream(7, 6_000, moves_at=4))
    signals = {
        (report.window_start_ms // WINDOW_MS, report.metric): report.signal
        for report in findings.reports
        if report.test == "psi"
    }
    assert {window for (window, metric), signal in signals.items() if metric == "amount" and signal == "DRIFT"} == {
        4,
        5,
    }
    assert {signal for (_, metric), signal in signals.items() if metric in {"kind", "score"}} == {"NONE"}
    areas = {row.window_start_ms: row.realised for row in findings.performance if row.measure == "auc"}
    assert areas[1_000] > 0.75
    assert areas[4_000] < 0.6
    raised = {(alert.rule, alert.version, alert.window_start_ms, alert.action) for alert in findings.alerts}
    assert raised == {("auc-fell", "2", 4_000, "retrain"), ("drifting", "2", 4_000, "")}


def test_a_steady_stream_raises_no_alert() -> None:
    findings = run(make_monitor(), Stream(8, 6_000))
    assert findings.alerts == []
    assert not [each for each in findings.reports if each.test in {"psi", "ks"} and each.signal == "DRIFT"]


@pytest.mark.slow
def test_an_acknowledged_alert_stays_with_who_took_it_over_restarts_and_late_data() -> None:
    stream = Stream(7, 6_000, moves_at=4)
    monitor = make_monitor()
    raised = {alert.rule: alert for alert in run(monitor, stream).alerts}["auc-fell"]
    monitor.alerts.acknowledge(raised.alert_id, "ann", "looking", 8)
    snapshot = monitor.snapshot()
    monitor = MonitorCore(make_pipeline())
    monitor.restore(snapshot)
    assert monitor.snapshot() == snapshot
    (alert,) = monitor.collect(now_ms=9).alerts
    assert (alert.alert_id, alert.state, alert.by, alert.why) == (raised.alert_id, "acknowledged", "ann", "looking")
    buffer = SketchBuffer("fraud", SLICE_MS)
    late = np.full(2_000, 4_500)
    scores = np.linspace(0, 1, 2_000)
    buffer.add_scored("2", reference(), late, np.ones((2_000, 2)), scores)
    buffer.add_labelled("2", reference(), late, scores, (scores > 0.5) * 1.0)
    (delta,) = buffer.drain()
    monitor.observe(SketchRecord(0, 0, 0, [delta]))
    amended = [alert for alert in monitor.collect(now_ms=10).alerts if alert.rule == "auc-fell"]
    # The window is fine now; the trouble begins with the next one.
    assert [(alert.state, alert.window_start_ms) for alert in amended] == [("cleared", 4_000), ("raised", 5_000)]


def test_a_monitor_that_reads_everything_again_tells_nothing_of_alerts_again() -> None:
    stream = Stream(7, 6_000, moves_at=4)
    told = run(make_monitor(), stream).alerts
    monitor = make_monitor()
    monitor.alerts.recall(told)
    assert len(told) == 2
    assert run(monitor, stream, cuts=[1_000, 3_000, 5_000]).alerts == []


def test_an_alert_of_a_version_that_was_replaced_is_cleared_when_it_has_scored_nothing_for_long_enough() -> None:
    stream = Stream(7, 6_000, moves_at=2)
    alerts = [alert for alert in run(make_monitor(), stream).alerts if alert.rule == "auc-fell"]
    # Version 2 takes over within window 3.
    assert [(alert.version, alert.state, alert.window_start_ms) for alert in alerts] == [
        ("1", "raised", 2_000),
        ("1", "cleared", 5_000),
        ("2", "raised", 3_000),
    ]
    assert "scored nothing" in alerts[1].message


def test_what_is_found_is_told_in_the_order_of_windows_and_versions() -> None:
    findings = run(make_monitor(tests=("classic_ks",)), Stream(25, 900, windows=30))
    told = [(each.window_start_ms, each.version) for each in findings.verdicts]
    assert len(told) == 31
    assert told == sorted(told)
    for rows in (
        findings.performance,
        [row for row in findings.metadata if row.metric == "score" and row.stage == "scoring"],
    ):
        assert list(dict.fromkeys((row.window_start_ms, row.version) for row in rows)) == told


@pytest.mark.parametrize(("history", "every_ms"), [(3, None), (2, WINDOW_MS // 2)])
def test_no_more_of_the_past_is_remembered_than_is_looked_at(history: int, every_ms: int | None) -> None:
    """The one window that is kept, and as many as its tests look at; of two that overlap one is passed over."""
    pipeline = make_pipeline(tests=("classic_ks",))
    monitor = MonitorCore(replace(pipeline, drift=replace(pipeline.drift, every_ms=every_ms)), keep=1, history=history)
    monitor.register_version("1", reference(), {})
    stream = Stream(26, 300, windows=10)
    stream.versions = np.full(300, "1")
    (records,) = stream.records(np.zeros(300, int), 1, [100, 200])
    for record in records:
        monitor.observe(record)
        monitor.collect(now_ms=7)
    state = json.loads(monitor.snapshot().split(b"\n")[1])
    assert len(state["history"]) == 1 + history * (1 if every_ms is None else 2)
    assert len(state["succession"]) <= len(state["history"])


def test_advice_is_by_the_limits_that_the_alert_rules_ask_of_the_auc() -> None:
    """In training it is said to be 0.8, and 0.05 less is the limit."""
    findings = run(make_monitor(tests=("classic_ks",)), Stream(7, 3_000, moves_at=4))
    reasons = {each.reason for each in findings.verdicts if each.window_start_ms >= 4 * WINDOW_MS}
    assert {reason.split(", ", 1)[1] for reason in reasons} == {"below its limit of 0.75."}
    pipeline = make_pipeline(tests=("classic_ks",))
    others = tuple(rule for rule in pipeline.alerts if rule.on != "performance")
    accuracy = AlertRule("accuracy", "performance", "accuracy", below=0.99)
    monitor = MonitorCore(replace(pipeline, alerts=(*others, accuracy)))
    for version in ("1", "2"):
        monitor.register_version(version, reference(), {"auc": 0.8})
    findings = run(monitor, Stream(7, 3_000, moves_at=4))
    assert not {each.reason for each in findings.verdicts if "below its limit" in each.reason}


@pytest.mark.slow
def test_old_windows_leave_the_alerts_and_what_is_said_stays_the_same() -> None:
    stream = Stream(7, 12_000, windows=12, moves_at=4)
    (records,) = stream.records(np.zeros(len(stream.times), int), 1, list(range(0, 12_000, 500)))
    said = []
    for keep in (1, 24):
        monitor = MonitorCore(make_pipeline(), keep=keep)
        for version in ("1", "2"):
            monitor.register_version(version, reference(), {"auc": 0.8})
        alerts = []
        for record in records:
            monitor.observe(record)
            alerts += monitor.collect(now_ms=7).alerts
        said.append(alerts)
        readings = monitor.alerts.to_state()["said"]["2"]["auc"]
        assert len(readings) <= keep
    assert said[0] == said[1] != []


def test_history_continues_across_versions_but_for_the_score() -> None:
    findings = run(make_monitor(), Stream(9, 1_400, windows=7))
    notes = {
        (report.version, report.window_start_ms, report.metric): report.note
        for report in findings.reports
        if report.test == "classic_interval"
    }
    assert notes["1", 0, "amount"] == "too little history (0 of 5 windows)"
    # They share window 3, which is compared with nothing and is nobody's history.
    for version in ("1", "2"):
        words = f"version {version} scored only part of this window: compared in windows of its own"
        assert {notes[version, 3_000, metric] for metric in ("amount", "score")} == {words}
    assert notes["2", 4_000, "amount"] == "too little history (3 of 5 windows)"
    assert "too little" not in notes["2", 6_000, "amount"]
    assert notes["2", 4_000, "score"] == "too little history (0 of 5 windows)"
    assert notes["2", 6_000, "score"] == "too little history (2 of 5 windows)"


def test_without_labels_there_is_no_performance_and_windows_are_released() -> None:
    monitor = MonitorCore(make_pipeline(labels=None), keep=1)
    monitor.register_version("1", reference(), {})
    monitor.register_version("2", reference(), {})
    findings = run(monitor, Stream(10, 600))
    assert findings.performance == []
    assert {row.metric for row in findings.metadata if row.stage == "scoring"} == {"amount", "kind", "score"}
    assert len(monitor.windows.closed()) == 1


def test_what_cannot_be_right_is_refused_in_a_sentence() -> None:
    monitor = make_monitor()
    other = fit_reference(TrainingEvents(np.ones((9, 1)), np.ones(9), np.ones(9)), [numeric("x")], 8)
    with pytest.raises(ValueError, match="give the new one a new version"):
        monitor.register_version("1", other, {})
    buffer = SketchBuffer("other-model", SLICE_MS)
    buffer.add_scored("1", reference(), np.array([0]), np.ones((1, 2)), np.ones(1))
    with pytest.raises(ValueError, match="other-model"):
        monitor.observe(SketchRecord(0, 0, 0, buffer.drain()))
    with pytest.raises(ValueError, match="not a snapshot of a monitor"):
        monitor.restore(b"")


def test_a_window_of_missing_values_gives_rows_and_no_signal() -> None:
    monitor = make_monitor()
    buffer = SketchBuffer("fraud", SLICE_MS)
    buffer.add_scored("1", reference(), np.arange(3), np.full((3, 2), math.nan), np.full(3, math.nan))
    monitor.observe(SketchRecord(0, END_MS, END_MS, buffer.drain()))
    findings = monitor.collect(now_ms=1)
    scoring: list[MetadataRow] = [row for row in findings.metadata if row.stage == "scoring"]
    assert {row.value for row in scoring if row.decile == "null_rate"} == {1.0}
    assert all(math.isnan(row.value) for row in scoring if row.decile in {"d1", "d10", "min", "mean"})
    tested = {report.test: report for report in findings.reports if report.metric == "amount"}
    assert tested["ks"].statistic is None
    assert (tested["psi"].signal, tested["psi"].n_detection) == ("NONE", 3)
    assert tested["psi"].note == "too few events to judge: 30 are needed in both windows"


@pytest.mark.slow
def test_a_category_has_no_distances_and_a_number_no_chi_square() -> None:
    findings = run(make_monitor(tests=DRIFT_TESTS), Stream(1, 3_000, windows=2))
    kinds: dict[str, set[str]] = {}
    for report in findings.reports:
        kinds.setdefault(report.metric, set()).add(report.test)
    both = {"psi", "jensen_shannon", "interval", "trend", "classic_interval", "classic_trend"}
    assert kinds["score"] == both | {"ks", "wasserstein", "range", "null_rate", "classic_ks"}
    assert kinds["kind"] == both | {"chi_square", "null_rate", "unseen"}
    assert kinds["outcome"] == both | {"chi_square"}


def alerts_of(monitor: MonitorCore, n: int, n_labels: int) -> dict[str, float | None]:
    """Of one window of ``n`` events that are all unlike those of training, with so many labels, all contradicting."""
    buffer = SketchBuffer("fraud", SLICE_MS)
    times, scores = np.arange(n), np.where(np.arange(n) % 2, 0.99, 0.98)
    buffer.add_scored("1", reference(), times, np.column_stack([np.full(n, 90.0), np.full(n, 2.0)]), scores)
    some = slice(n_labels)
    buffer.add_labelled("1", reference(), times[some], scores[some], (scores[some] < 0.985) * 1.0)
    monitor.observe(SketchRecord(0, END_MS, END_MS, buffer.drain()))
    return {alert.rule: alert.limit for alert in monitor.collect(now_ms=7).alerts}


@pytest.mark.parametrize(
    ("n", "n_labels", "rules"),
    [
        (199, 199, set()),
        (200, 199, {"drifting"}),
        (200, 200, {"drifting", "auc-fell"}),
    ],
)
def test_alerts_heed_two_hundred_events_and_two_hundred_labels(n: int, n_labels: int, rules: set[str]) -> None:
    assert alerts_of(make_monitor(versions=("1",)), n, n_labels).keys() == rules


def test_a_fall_is_from_what_the_training_is_said_to_have_had_or_else_from_the_reference() -> None:
    assert alerts_of(make_monitor(versions=("1",)), 300, 300)["auc-fell"] == pytest.approx(0.8 - 0.05)
    monitor = make_monitor(versions=())
    monitor.register_version("1", reference(), {})
    own = {name: value for name, value, _, _ in measure(reference().training)}
    assert alerts_of(monitor, 300, 300)["auc-fell"] == pytest.approx(own["auc"] - 0.05)


def _of_two_tests_and_a_segment(signal: Signal) -> list[tuple[str, str, Signal]]:
    return [(ALL, "psi", signal), (ALL, "ks", signal), ("kind=1", "psi", "DRIFT")]


@pytest.mark.parametrize(("signals", "share"), [(["NONE", "WARNING"], 0.0), (["DRIFT", "NONE"], 0.5)])
def test_the_share_of_drift_counts_each_metric_once_and_heeds_all_events_only(
    signals: list[Signal], share: float
) -> None:
    """Of two metrics, each judged twice; what a segment says does not count."""
    judged = [
        Judgement(segment, metric, test, 100, 100, Said(None, None, 0.01, None, said))
        for metric, signal in zip("ab", signals, strict=False)
        for segment, test, said in _of_two_tests_and_a_segment(signal)
    ]
    assert read_drift(judged)[:4] == (share, "", share, share)


def test_metrics_that_could_not_be_judged_leave_the_share_of_drift_open() -> None:
    def judge(metric: str, signal: Signal, threshold: float | None) -> Judgement:
        return Judgement(ALL, metric, "psi", 100, 100, Said(None, None, threshold, None, signal))

    judged = [judge("a", "DRIFT", 0.01), judge("b", "NONE", 0.01), judge("c", "NONE", None), judge("d", "NONE", None)]
    reading = read_drift(judged)
    assert (reading.value, reading.range) == (0.25, (0.25, 0.75))
    assert math.isnan(read_drift([]).value)


def test_a_window_of_few_events_is_reported_and_alerts_nobody() -> None:
    stream = Stream(16, 600, windows=6, moves_at=4)  # 100 a window
    findings = run(make_monitor(), stream)
    assert len(findings.performance) == 7 * 7  # measures; six windows, one of them of both versions
    assert findings.alerts == []


@pytest.mark.parametrize("side", ["above", "below"])
def test_labels_of_one_side_of_the_threshold_are_no_drift_and_no_fall_and_are_said_to_be_that(side: str) -> None:
    stream = Stream(1, 6_000)
    is_above = stream.scores >= 0.5
    stream.is_labelled &= is_above if side == "above" else ~is_above
    findings = run(make_monitor(), stream)
    assert not findings.alerts
    assert {row.realised for row in findings.performance if not math.isnan(row.realised)} == set()
    said = {verdict.reason for verdict in findings.verdicts if verdict.window_end_ms < 6 * WINDOW_MS}
    where = "at or above" if side == "above" else "below"
    assert all(f"Labels come only of events scored {where} 0.5 (" in reason for reason in said)
    assert {verdict.kind for verdict in findings.verdicts} <= {"none", "too_little_data"}


@pytest.mark.slow
def test_labels_that_never_come_are_no_drift_of_the_outcome() -> None:
    data = Stream(100, 4_000)
    labels = np.where(np.arange(4_000) % 10 == 0, np.nan, data.labels)
    monitor = MonitorCore(make_pipeline())
    trained = fit_reference(TrainingEvents(data.matrix, data.scores, labels), COLUMNS, 16)
    for version in ("1", "2"):
        monitor.register_version(version, trained, {})
    findings = run(monitor, Stream(17, 3_000))
    psi = [report for report in findings.reports if (report.metric, report.test) == ("outcome", "psi")]
    assert len(psi) == 7
    assert max(report.statistic or 0.0 for report in psi) < 0.05


@pytest.mark.slow
def test_late_events_change_what_is_said_of_the_windows_whose_history_they_are() -> None:
    stream = Stream(18, 1_200)
    monitor = make_monitor()
    first = run(monitor, stream)
    buffer = SketchBuffer("fraud", SLICE_MS)
    late = np.full(300, 2_500)
    matrix = np.column_stack([np.full(300, 9.0), np.full(300, 1.0)])
    buffer.add_scored("1", reference(), late, matrix, np.full(300, 0.5))
    (delta,) = buffer.drain()
    monitor.observe(SketchRecord(0, 0, 0, [delta]))
    second = monitor.collect(now_ms=7)
    starts = {report.window_start_ms for report in second.reports}
    assert starts == {2_000, 4_000, 5_000}  # it is in the past of those that follow; window 3 is not compared
    on_time = make_monitor()
    on_time.observe(SketchRecord(0, 0, 0, [delta]))
    assert last_words([first, second]) == last_words([run(on_time, stream)])


# -- what is judged ----------------------------------------------------------------------------------------------------


def views_of(
    monkeypatch: pytest.MonkeyPatch, monitor: MonitorCore, stream: Stream
) -> tuple[dict[tuple[bool, str, float], View], Findings]:
    """What was judged: of labels or not, the version in the first row's events, and the number of the window."""
    seen: list[tuple[Judge, View]] = []
    judge = Judge.judge

    def see(self: Judge, view: View) -> list[Judgement]:
        seen.append((self, view))
        return judge(self, view)

    monkeypatch.setattr(Judge, "judge", see)
    findings = run(monitor, stream)
    version_of = {known.judge: version for version, known in monitor._versions.items()}
    return {(view.rows[0] == 3, version_of[by], view.past[0].times[-1]): view for by, view in seen}, findings


def counts_of(stream: Stream, version: str, number: int) -> Counts:
    here = (stream.versions == version) & (stream.times // WINDOW_MS == number)
    return count(reference(), stream.matrix[here], stream.scores[here])


@pytest.mark.parametrize("has_detectors", [True, False])
def test_a_window_is_judged_by_its_counts_beside_training_and_the_windows_before_it(
    monkeypatch: pytest.MonkeyPatch, has_detectors: bool
) -> None:
    pipeline = make_pipeline(tests=("psi", "trend"))
    drift = replace(pipeline.drift, detectors=(default_detector("cusum"),) if has_detectors else ())
    budget = FalseAlarms(1, per_events=50_000)
    monitor = MonitorCore(replace(pipeline, drift=replace(drift, false_alarms=budget)))
    for version in ("1", "2"):
        monitor.register_version(version, reference(), {})
    stream = Stream(21, 400)
    views, findings = views_of(monkeypatch, monitor, stream)
    told = {
        (row.version, row.window_start_ms // WINDOW_MS, row.metric, row.decile): row.value
        for row in findings.metadata
        if row.stage == "scoring" and row.segment == ALL
    }
    trained = {(row.metric, row.decile): row.value for row in findings.metadata if row.stage == "training"}
    labels, share = [False, True], 0.3 if has_detectors else 0.7
    scored = {*(("1", number) for number in range(4)), *(("2", number) for number in (3, 4, 5))}
    assert views.keys() == {(of_labels, *each) for of_labels in labels for each in scored}
    for (of_labels, version, number), view in views.items():
        counts = counts_of(stream, version, int(number))
        assert (view.segments, list(view.rows)) == ([ALL], [3] if of_labels else [0, 1, 2])
        assert view.alpha == pytest.approx((0.05 if of_labels else share) * counts.n / 50_000)
        np.testing.assert_array_equal(view.reference, reference().counts[None])
        np.testing.assert_array_equal(view.detection[0, :3], counts.counts[:3])
        (past,) = view.past
        assert past.times.tolist() == list(range(int(number) + 1))
        names = ["outcome"] if of_labels else ["amount", "kind", "score"]
        deciles = [f"d{tenth}" for tenth in range(1, 11)]
        for row, name in enumerate(names):
            current = [math.nan if number == 3 else told[version, number, name, decile] for decile in deciles]
            assert past.current[row].tolist() == pytest.approx(current, nan_ok=True)
            assert past.reference[row].tolist() == pytest.approx([trained[name, decile] for decile in deciles])
            for before in range(int(number)):
                # Both scored part of window 3: nobody speaks for it. The score is each version's own.
                known = before != 3 and (name != "score" or (version, before) in scored)
                who = version if name == "score" else "1" if before < 3 else "2"
                expected = [told[who, before, name, decile] if known else math.nan for decile in deciles]
                assert past.deciles[before, row].tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.slow
def test_a_window_is_compared_with_one_a_season_ago_and_what_is_missing_there_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, pipeline = Stream(22, 400), make_pipeline(tests=("psi",))
    for against, compared in (
        (PastWindow(season_ms=2 * WINDOW_MS), {2: 0, 3: 1}),
        (PastWindow(start_ms=WINDOW_MS + 7), {2: 1, 3: 1}),
    ):
        monitor = MonitorCore(replace(pipeline, drift=replace(pipeline.drift, against=against)))
        for version in ("1", "2"):
            monitor.register_version(version, reference(), {})
        views, findings = views_of(monkeypatch, monitor, stream)
        for (of_labels, version, number), view in views.items():
            if not of_labels:
                then = compared.get(int(number)) if version == "1" else None  # window 3 was shared
                expected = reference().zeros() if then is None else counts_of(stream, version, then)
                np.testing.assert_array_equal(view.reference[0, :3], expected.counts[:3])
                window = monitor._sources.calendar.before(
                    Window(int(number) * WINDOW_MS, int(number + 1) * WINDOW_MS), against
                )
                words = f"version {version} scored none of {window}, which it is compared with, or only a part"
                assert view.absence == words
        notes = {report.note for report in findings.reports if report.window_start_ms == 0 and report.metric == "kind"}
        assert notes == {views[False, "1", 0.0].absence}
    views, _ = views_of(monkeypatch, make_monitor(tests=("psi",)), stream)
    assert {view.absence for view in views.values()} == {"training had no such events"}


def test_what_is_worked_out_beforehand_is_not_seen_and_not_worked_out_again() -> None:
    pipeline = make_pipeline(tests=("ks", "range"))
    monitor, other = MonitorCore(pipeline), MonitorCore(pipeline)
    (records,) = Stream(23, 900).records(np.zeros(900, int), 1, [300])
    for each in (monitor, other):
        each.register_version("1", reference(), {})  # nobody has said what version 2 was trained on
        for record in records:
            each.observe(record)
    before = monitor.snapshot()
    monitor.calibrate()
    assert monitor.snapshot() == before
    n_drawn = SmallestP.draw.cache_info().misses
    found = monitor.collect(now_ms=7)
    assert SmallestP.draw.cache_info().misses == n_drawn
    assert repr(found) == repr(other.collect(now_ms=7))
    assert monitor.snapshot() == other.snapshot()


def test_what_was_held_of_a_version_without_a_reference_is_known_after_a_restart() -> None:
    """Three windows of it; of another number of metrics than these no more is taken."""
    monitor = make_monitor(versions=())
    stream = Stream(24, 300, windows=3)
    (records,) = stream.records(np.zeros(300, int), 1, [])
    for record in records:
        monitor.observe(record)
    wide = fit_reference(
        TrainingEvents(np.ones((9, 5)), np.ones(9), np.ones(9)), [numeric(name) for name in "abcde"], 8
    )
    buffer = SketchBuffer("fraud", SLICE_MS)
    buffer.add_scored("1", wide, np.array([50]), np.ones((1, 5)), np.ones(1))
    other = SketchRecord(0, END_MS, END_MS, buffer.drain())
    again = make_monitor(versions=())
    again.restore(monitor.snapshot())
    for each in (monitor, again):
        assert each.unknown_versions == ["1"]
        with pytest.raises(ValueError, match="metrics"):
            each.observe(other)
        assert not replace(each.collect(now_ms=1), inputs=[])
        each.register_version("1", reference(), {})
        assert each.unknown_versions == []
    assert repr(again.collect(now_ms=2)) == repr(monitor.collect(now_ms=2))


# -- verdicts and estimates --------------------------------------------------------------------------------------------


def verdicts_of(findings: Findings) -> dict[int, str]:
    """By the number of the window, the last words of the version that scored most of it."""
    found: dict[int, tuple[int, int, str]] = {}
    for each in findings.verdicts:
        number = each.window_start_ms // WINDOW_MS
        found[number] = max(found.get(number, (0, 0, "")), (each.n_detection, each.revision, each.kind))
    return {number: kind for number, (_, _, kind) in sorted(found.items())}


@pytest.mark.slow
def test_a_steady_stream_has_no_verdict_and_its_performance_is_estimated() -> None:
    findings = run(make_monitor(), Stream(8, 12_000))
    assert verdicts_of(findings) == {**dict.fromkeys(range(6), "none"), 3: "too_little_data"}  # of a swap
    for row in findings.performance:
        if row.measure in {"auc", "accuracy", "log_loss"} and row.n_labels > 1_000:
            assert row.estimated == pytest.approx(row.realised, abs=0.05)
            assert row.estimated_low < row.estimated < row.estimated_high
            assert row.p_value > 1e-4


def test_labels_that_contradict_the_scores_are_a_concept_drift_that_estimates_do_not_see() -> None:
    findings = run(make_monitor(), Stream(7, 12_000, moves_at=4))
    assert verdicts_of(findings) == {
        **dict.fromkeys(range(3), "none"),
        3: "too_little_data",  # of a swap
        4: "concept_drift",
        5: "concept_drift",
    }
    after = next(each for each in findings.verdicts if each.window_start_ms == 4 * WINDOW_MS)
    assert after.advice == "retrain"
    accuracy = {row.window_start_ms: row for row in findings.performance if row.measure == "accuracy"}[4 * WINDOW_MS]
    assert accuracy.realised < 0.55
    assert accuracy.estimated > 0.7
    assert accuracy.p_value < 1e-6


def test_a_feature_that_is_constant_is_a_fault_upstream_from_the_close_of_its_window_on() -> None:
    stream = Stream(9, 12_000)
    stream.matrix[stream.times >= 4 * WINDOW_MS, 0] = 3.0
    monitor = make_monitor()
    (records,) = stream.records(np.zeros(len(stream.times), int), 1, [])
    for record in records:
        monitor.observe(replace_marks(record, record.watermark_ms, 0))
    before_labels = monitor.collect(now_ms=1)
    kinds = {**dict.fromkeys(range(3), "none"), 3: "too_little_data", 4: "pipeline_fault", 5: "pipeline_fault"}
    assert verdicts_of(before_labels) == kinds
    fault = next(each for each in before_labels.verdicts if each.kind == "pipeline_fault")
    assert (fault.advice, [each.metric for each in fault.explained_by]) == ("look_upstream", ["amount"])
    assert "`amount`" in fault.headline
    assert not fault.with_labels


@pytest.mark.slow
def test_a_verdict_alerts_and_one_that_late_events_change_is_given_anew() -> None:
    rule = AlertRule("upstream", "verdict", "verdict", "critical", kinds=("pipeline_fault",))
    monitor = MonitorCore(replace(make_pipeline(), alerts=(rule,)))
    for version in ("1", "2"):
        monitor.register_version(version, reference(), {})
    stream = Stream(9, 12_000)
    stream.matrix[(stream.times >= 4 * WINDOW_MS) & (stream.times < 5 * WINDOW_MS), 0] = 3.0
    first = run(monitor, stream)
    assert [(each.rule, each.state, each.window_start_ms) for each in first.alerts if each.state == "raised"] == [
        ("upstream", "raised", 4 * WINDOW_MS)
    ]
    buffer = SketchBuffer("fraud", SLICE_MS)
    late = Stream(10, 40_000)
    here = (late.times >= 4 * WINDOW_MS) & (late.times < 5 * WINDOW_MS)
    buffer.add_scored("2", reference(), late.times[here], late.matrix[here], late.scores[here])
    monitor.observe(SketchRecord(0, 0, 0, buffer.drain()))
    second = monitor.collect(now_ms=8)
    amended = [each for each in second.verdicts if each.window_start_ms == 4 * WINDOW_MS]
    assert [(each.revision, each.version, each.kind) for each in amended] == [(2, "2", "feature_drift")]
    assert amended[0].headline.startswith("`amount` is higher")


@pytest.mark.slow
def test_a_swap_is_no_missing_traffic_of_either_version() -> None:
    for seed in (5, 6, 7):  # each version scores about half of the window
        stream = Swap(seed, 11_000, blind=0.0)
        findings = run(make_monitor(), stream)
        assert ("pipeline_fault", 8_000) not in {(each.kind, each.window_start_ms) for each in findings.verdicts}


def test_traffic_that_is_missing_is_that_of_all_versions_and_said_once_by_the_one_of_most_events() -> None:
    stream = Swap(5, 11_000, blind=0.0)
    is_here = (stream.times >= 8_000) & (stream.times < 9_000)
    kept = (stream.times < 8_000) | (np.arange(11_000) % 4 == 0)
    stream.keep(kept)
    n_of = {version: int((stream.versions[stream.times // WINDOW_MS == 8] == version).sum()) for version in "12"}
    found = {each.version: each for each in run(make_monitor(), stream).verdicts if each.window_start_ms == 8_000}
    most = max(n_of, key=n_of.__getitem__)
    (other,) = n_of.keys() - {most}
    assert found[most].kind == "pipeline_fault"
    assert found[most].headline == f"Only {kept[is_here].sum()} events where 1000 are usual: some do not arrive."
    assert found[other].kind == "too_little_data"


@pytest.mark.slow
def test_late_events_of_one_version_are_traffic_of_the_others_in_the_window() -> None:
    stream = Swap(5, 11_000, blind=0.0, names=("2", "1"))
    late = (stream.times >= 8_000) & (stream.versions == "2")
    on_time = Swap(5, 11_000, blind=0.0, names=("2", "1"))
    on_time.keep(~late)
    monitor = make_monitor()
    first = run(monitor, on_time)
    assert "pipeline_fault" in {each.kind for each in first.verdicts if each.window_start_ms == 8_000}
    buffer = SketchBuffer("fraud", SLICE_MS)
    rows = stream.times[late], stream.matrix[late], stream.scores[late]
    buffer.add_scored("2", reference(), *rows)
    deltas = buffer.drain()
    monitor.observe(SketchRecord(0, 0, 0, deltas))
    second = monitor.collect(now_ms=7)
    assert {each.kind for each in second.verdicts if (each.version, each.window_start_ms) == ("1", 8_000)} == {
        "too_little_data"
    }
    at_once = make_monitor()
    at_once.observe(SketchRecord(0, 0, 0, deltas))
    assert last_words([first, second]) == last_words([run(at_once, on_time)])


@pytest.mark.slow
def test_labels_that_mature_after_more_windows_than_are_kept_are_judged_all_the_same() -> None:
    stream = Stream(8, 6_000, windows=30)
    (records,) = stream.records(np.zeros(6_000, int), 1, list(range(0, 6_000, 200)))
    said = []
    for keep, history in ((1, 2), (30, 2)):
        monitor = MonitorCore(make_pipeline(), keep=keep, history=history)
        for version in ("1", "2"):
            monitor.register_version(version, reference(), {})
        found = []
        for record in records:
            monitor.observe(replace_marks(record, record.watermark_ms, max(record.label_watermark_ms - 20_000, 0)))
            found.append(monitor.collect(now_ms=7))
        said.append(last_words(found))
        assert len(monitor.windows.closed()) == keep
    assert said[0] == said[1]
    assert any("with_labels': True" in words for (kind, *_), words in said[0].items() if kind == "verdict")


@pytest.mark.slow
def test_labels_of_events_that_were_lost_stop_nobody() -> None:
    monitor = make_monitor()
    buffer = SketchBuffer("fraud", SLICE_MS)
    scores = np.linspace(0, 1, 300)
    buffer.add_labelled("1", reference(), np.arange(300), scores, (scores > 0.5) * 1.0)
    monitor.observe(SketchRecord(0, END_MS, END_MS, buffer.drain()))
    findings = monitor.collect(now_ms=1)
    assert [(each.kind, each.n_detection, each.with_labels) for each in findings.verdicts] == [
        ("too_little_data", 0, True)
    ]
    assert {row.realised for row in findings.performance if row.measure == "auc"} == {1.0}
    assert {row.n_labels for row in findings.performance} == {300}


def test_verdicts_call_the_events_what_the_pipeline_file_calls_them() -> None:
    pipeline = make_pipeline()
    for plural in ("events", "payments"):
        monitor = MonitorCore(replace(pipeline, events=replace(pipeline.events, plural=plural)))
        monitor.register_version("1", reference(), {})
        monitor.register_version("2", reference(), {})
        findings = run(monitor, Stream(8, 6_000))
        assert {each.headline for each in findings.verdicts if each.kind == "none"} == {
            f"Nothing has moved: the {plural} are like those of training."
        }


# -- roll back ---------------------------------------------------------------------------------------------------------


def make_patient_monitor(versions: tuple[str, ...] = ("1", "2")) -> MonitorCore:
    """Its labels may spend 0.005 a window."""
    pipeline = make_pipeline()
    monitor = MonitorCore(replace(pipeline, drift=replace(pipeline.drift, false_alarms=FalseAlarms(1, per_ms=20_000))))
    for version in versions:
        monitor.register_version(version, reference(), {})
    return monitor


def rolled_back(findings: Findings) -> dict[tuple[str, int], str]:
    """The last words on windows with labels that advise a roll back, by version and number of the window."""
    last = {(each.version, each.window_start_ms // WINDOW_MS): each for each in findings.verdicts}
    return {key: each.reason for key, each in sorted(last.items()) if each.advice == "roll_back"}


def test_a_new_version_that_is_worse_is_to_be_rolled_back_from_the_window_of_the_swap_on() -> None:
    findings = run(make_patient_monitor(), Swap(1, 11_000, blind=0.9))
    areas = {(row.version, row.window_start_ms): row for row in findings.performance if row.measure == "auc"}
    said = rolled_back(findings)
    assert list(said) == [("2", 8), ("2", 9), ("2", 10)]
    now, before = areas["2", 8_000].realised, areas["1", 8_000].realised
    assert said["2", 8].startswith("Version 1, which scored before, did better on its events of this window: its AUC")
    assert f"was {before:.3g}, not {now:.3g}" in said["2", 8]
    assert {row.kind for row in findings.verdicts if (row.version, row.advice) == ("2", "roll_back")} == {
        "concept_drift"
    }


@pytest.mark.slow
@pytest.mark.parametrize("blind", [0.0, -0.3])
def test_a_new_version_that_is_as_good_or_better_is_never_rolled_back(blind: float) -> None:
    for seed in range(6):
        findings = run(make_patient_monitor(), Swap(seed, 8_000, blind))
        areas = {(row.version, row.window_start_ms): row.realised for row in findings.performance}
        assert ("2", 10_000) in areas
        assert rolled_back(findings) == {}


def test_without_enough_labels_nothing_is_rolled_back() -> None:
    stream = Swap(1, 11_000, blind=0.9)
    is_new = stream.versions == "2"
    stream.is_labelled &= ~is_new | (np.cumsum(is_new) % 10 == 0)  # a hundred a window
    findings = run(make_patient_monitor(), stream)
    assert {row.realised < 0.75 for row in findings.performance if (row.version, row.measure) == ("2", "auc")} == {True}
    assert rolled_back(findings) == {}


def test_before_its_labels_are_mature_nothing_is_rolled_back() -> None:
    stream = Swap(1, 11_000, blind=0.9)
    monitor = make_patient_monitor()
    (records,) = stream.records(np.zeros(len(stream.times), int), 1, [])
    for record in records:
        monitor.observe(replace_marks(record, record.watermark_ms, 0))
    assert rolled_back(monitor.collect(now_ms=1)) == {}


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 6_000), max_size=6),
    restart_at=st.integers(0, 7),
    reorder=st.booleans(),
    names=st.sampled_from([("1", "2"), ("2", "1")]),
)
def test_what_is_rolled_back_does_not_depend_on_batches_order_or_restarts(
    seed: int, cuts: list[int], restart_at: int, reorder: bool, names: tuple[str, str]
) -> None:
    stream = Swap(seed, 6_000, blind=0.9, names=names)
    straight = run(make_patient_monitor(), stream)
    (records,) = stream.records(np.zeros(6_000, int), 1, cuts)
    if reorder:
        records.insert(0, records.pop())
    monitor = make_patient_monitor()
    found = []
    for number, record in enumerate(records):
        monitor.observe(record)
        found.append(monitor.collect(now_ms=7))
        if number == restart_at:
            snapshot = monitor.snapshot()
            monitor = make_patient_monitor(versions=())
            monitor.restore(snapshot)
            assert monitor.snapshot() == snapshot
    assert {version for version, _ in rolled_back(straight)} == {names[1]}
    assert last_words(found) == last_words([straight])


@pytest.mark.slow
@pytest.mark.parametrize("names", [("1", "2"), ("2", "1")])
def test_late_labels_of_the_version_before_change_what_is_said_of_the_new_one(names: tuple[str, str]) -> None:
    old, new = names
    stream = Swap(1, 11_000, blind=0.9, names=names)
    late = (stream.versions == old) & (stream.times >= 8 * WINDOW_MS)
    stream.is_labelled &= ~late
    monitor = make_patient_monitor()
    first = run(monitor, stream)
    assert "of this window" not in rolled_back(first)[new, 8]  # it has no labels of the version before
    buffer = SketchBuffer("fraud", SLICE_MS)
    buffer.add_labelled(old, reference(), stream.times[late], stream.scores[late], stream.labels[late])
    deltas = buffer.drain()
    monitor.observe(SketchRecord(0, 0, 0, deltas))
    second = monitor.collect(now_ms=7)
    assert "of this window" in rolled_back(second)[new, 8]
    on_time = make_patient_monitor()
    on_time.observe(SketchRecord(0, 0, 0, deltas))
    assert last_words([first, second]) == last_words([run(on_time, stream)])


# -- a bit at a time ---------------------------------------------------------------------------------------------------


def collect_bit_by_bit(monitor: MonitorCore, most: int) -> list[Findings]:
    found = [monitor.collect(7, most)]
    while monitor.is_behind:
        found.append(monitor.collect(7, most))
    return found


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 600), max_size=4), st.integers(1, 5), st.booleans())
def test_collecting_a_bit_at_a_time_ends_in_the_same_words(
    seed: int, cuts: list[int], most: int, reorder: bool
) -> None:
    stream = Stream(seed, 600, moves_at=4)
    expected = last_words([run(make_monitor(), stream)])
    (records,) = stream.records(np.zeros(600, int), 1, cuts)
    if reorder:
        records.insert(0, records.pop())
    monitor = make_monitor()
    found = []
    for record in records:
        monitor.observe(record)
        found.append(monitor.collect(7, most))  # the rest waits for the next record
    snapshot = monitor.snapshot()
    monitor = MonitorCore(make_pipeline())
    monitor.restore(snapshot)
    found += collect_bit_by_bit(monitor, most)
    assert last_words(found) == expected
    assert not monitor.collect(now_ms=8)


@pytest.mark.slow
def test_windows_of_which_thousands_close_at_once_are_judged_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever calls can do something else in between; and none twice."""
    monitor = MonitorCore(make_pipeline())
    monitor.register_version("1", reference(), {})
    buffer = SketchBuffer("fraud", SLICE_MS)
    times = np.arange(2_000, dtype=np.int64) * WINDOW_MS
    buffer.add_scored("1", reference(), times, np.ones((2_000, 2)), np.full(2_000, 0.5))
    monitor.observe(SketchRecord(0, END_MS, END_MS, buffer.drain()))
    calls = [0]
    judge = Judge.judge

    def count(self: Judge, view: View) -> list[Judgement]:
        calls[-1] += 1
        return judge(self, view)

    monkeypatch.setattr(Judge, "judge", count)
    monitor.collect(7, 4)
    while monitor.is_behind and len(calls) < 20:
        calls.append(0)
        monitor.collect(7, 4)
    assert set(calls) == {4}
    assert monitor.is_behind
