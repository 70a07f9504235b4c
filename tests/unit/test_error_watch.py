"""What the monitor says of the errors follows from them alone, and reads well."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_setting import SPECIFICATION
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.counts.buffer import SketchBuffer
from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL
from app.core.errors.detectors import Bits, Detection, TrainingErrors
from app.core.errors.stream import Errors
from app.core.errors.watch import ErrorWatch, make_cusum, training_errors_of
from app.core.findings import Findings, Subject
from app.core.monitoring.core import MonitorCore
from models.reference.error_hours import ErrorHours
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.detectors import default_detector
from schemas.pipeline.drift import default_test
from schemas.pipeline.file import load
from schemas.pipeline.spec import AlertRule, Drift, FalseAlarms, Pipeline
from schemas.wire import DriftReport, ErrorRun, SketchRecord

HOUR_MS = 3_600_000
END_MS = 10**9


@functools.cache
def reference() -> Reference:
    """A model whose decisions are wrong in one case of five."""
    scores = np.tile([0.9, 0.1], 2_000)
    labels = np.where(np.arange(4_000) % 5 == 0, 1 - (scores > 0.5), scores > 0.5) * 1.0
    return fit_reference(TrainingEvents(scores[:, None], scores, labels), [numeric("x")], 16)


@functools.cache
def make_pipeline(partitions: int = 1) -> Pipeline:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "cards.toml"
        path.write_text(SPECIFICATION)
        pipeline = load(path)
        return replace(
            pipeline,
            partitions=partitions,
            performance=replace(pipeline.performance, maturity_ms=0),
            events=replace(pipeline.events, earliest_ms=0),
            drift=replace(pipeline.drift, false_alarms=FalseAlarms(1, per_events=500_000)),
        )


def make_monitor(partitions: int = 1) -> MonitorCore:
    monitor = MonitorCore(make_pipeline(partitions))
    monitor.register_version("1", reference(), {}, Window(0, 4_000 * HOUR_MS))
    return monitor


def stream() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    rates = np.repeat([0.2, 0.4], 3_000)
    return np.arange(6_000) * 1_000, (generator.random(6_000) < rates).astype(np.uint8)


def records(partition_of: np.ndarray, partitions: int, cuts: list[int]) -> list[SketchRecord]:
    times, wrong = stream()
    sketches = []
    for rows in np.split(np.arange(6_000), sorted(cuts)):
        for partition in range(partitions):
            mine = rows[partition_of[rows] == partition]
            run = ErrorRun("1", times[mine].astype("<i8").tobytes(), wrong[mine].tobytes())
            said = int(times[rows[-1]]) if len(rows) else 0
            sketches.append(SketchRecord(partition, 0, said, [], [run]))
    return [*sketches, *(SketchRecord(partition, 0, END_MS, []) for partition in range(partitions))]


def reports_of(monitor: MonitorCore, sketches: list[SketchRecord], restart_at: int = -1) -> list[DriftReport]:
    reports = []
    for number, record in enumerate(sketches):
        monitor.observe(record)
        reports += monitor.collect(now_ms=7).reports
        if number == restart_at:
            snapshot = monitor.snapshot()
            monitor = make_monitor(len({each.partition for each in sketches}))
            monitor.restore(snapshot)
            assert monitor.snapshot() == snapshot
    return reports


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 8), st.lists(st.integers(0, 6_000), max_size=5), st.integers(-1, 9), st.integers(0, 2**32))
def test_partitions_cuts_and_restarts_do_not_show(partitions: int, cuts: list[int], restart_at: int, seed: int) -> None:
    (expected,) = reports_of(make_monitor(), records(np.zeros(6_000, int), 1, []))
    partition_of = np.random.default_rng(seed).integers(0, partitions, 6_000)
    assert reports_of(make_monitor(partitions), records(partition_of, partitions, cuts), restart_at) == [expected]


def test_a_report_says_since_when_how_many_and_how_it_was_before() -> None:
    (report,) = reports_of(make_monitor(), records(np.zeros(6_000, int), 1, []))
    assert (report.metric, report.test, report.signal, report.revision) == ("error", "cusum", "DRIFT", 1)
    assert 2_800_000 < report.window_start_ms < 3_050_000 < report.window_end_ms < 3_200_000
    assert report.statistic is not None
    assert report.threshold is not None
    assert report.statistic >= report.threshold
    assert report.effect == pytest.approx(0.2, abs=0.08)
    assert report.n_reference == pytest.approx(4_000 + report.window_start_ms / 1000, abs=20)
    wrong, n = report.note.removeprefix("the decisions are wrong in ").split(" % of ")
    assert n.startswith(f"{report.n_detection} cases since 1970-01-01, ")
    before = float(n.removesuffix(" % before").split(", ")[1])
    assert float(wrong) - before == pytest.approx(100 * (report.effect or 0), abs=0.1)


def test_errors_of_an_unknown_version_wait_for_it() -> None:
    sketches = records(np.zeros(6_000, int), 1, [])
    monitor = MonitorCore(make_monitor()._pipeline)
    for record in sketches:
        monitor.observe(record)
    assert not monitor.collect(now_ms=7).reports
    monitor.register_version("1", reference(), {}, Window(0, 4_000 * HOUR_MS))
    assert monitor.collect(now_ms=7).reports == reports_of(make_monitor(), sketches)


def test_a_record_whose_errors_are_not_whole_changes_nothing() -> None:
    monitor = make_monitor()
    before = monitor.snapshot()
    with pytest.raises(ValueError, match="fit"):
        monitor.observe(SketchRecord(0, 5, 5, [], [ErrorRun("1", b"1", b"\0")]))
    assert monitor.snapshot() == before


def drift(budget: FalseAlarms) -> Drift:
    return replace(make_pipeline().drift, false_alarms=budget)


def test_the_budget_is_in_events_or_in_time_at_the_pace_of_training() -> None:
    # 4 000 labels in 4 000 hours are 720 in 30 days; four tenths of the one false alarm is for these detectors.
    hours, month = Window(0, 4_000 * HOUR_MS), FalseAlarms(1, per_ms=30 * 24 * HOUR_MS)
    assert training_errors_of(reference(), hours, drift(month)) == (
        4_000,
        800,
        1_800,
        reference().design_effects[-1],
        None,
    )
    assert training_errors_of(reference(), hours, drift(FalseAlarms(1, per_events=50_000))).arl_events == 125_000
    assert training_errors_of(reference(), hours, drift(FalseAlarms(4, per_events=50_000))).arl_events == 31_250
    assert training_errors_of(reference(), Window(0, 0), drift(month)).arl_events == 10_000


def test_a_detector_that_is_new_in_the_file_starts_without_a_past() -> None:
    monitor = make_monitor()
    for record in records(np.zeros(6_000, int), 1, [])[:1]:
        monitor.observe(record)
    assert monitor.collect(now_ms=7).reports
    pipeline = monitor._pipeline
    detectors = (replace(default_detector("cusum"), settings={"learn": 500}),)
    changed = MonitorCore(replace(pipeline, drift=replace(pipeline.drift, detectors=detectors)))
    changed.restore(monitor.snapshot())
    wrong = np.tile(np.array([1, 1, 0], np.uint8), 700)
    times = 10_000_000 + np.arange(2_100)
    changed.observe(SketchRecord(0, 0, END_MS + 9, [], [ErrorRun("1", times.astype("<i8").tobytes(), wrong.tobytes())]))
    findings: Findings = changed.collect(now_ms=8)
    assert [report.n_reference for report in findings.reports] == [pytest.approx(4_000, abs=20)]
    assert findings.reports[0].window_start_ms == pytest.approx(10_000_000, abs=40)


def test_the_core_alone_has_the_cusum_and_says_so() -> None:
    wanted = default_detector("adwin")
    with pytest.raises(ValueError, match="adwin"):
        ErrorWatch((wanted,), training_errors_of(reference(), Window(0, 0), make_pipeline().drift), make_cusum)


class Told:
    """A detector that says what it was told to say, when it comes to that event."""

    def __init__(self, *detections: Detection) -> None:
        self.detections = detections
        self.n = 0

    def observe(self, wrong: Bits, hours: Bits | None = None) -> list[Detection]:
        assert hours is not None
        assert hours.shape == wrong.shape
        start, self.n = self.n, self.n + len(wrong)
        return [each for each in self.detections if start <= each.position < self.n]

    def snapshot(self) -> dict[str, Any]:
        return {"n": self.n}

    def restore(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


ABOUT = Subject("p", "m", "7", Window(1, 2), 3)
WANTED = (default_detector("adwin"),)


def watch(*detections: Detection) -> ErrorWatch:
    return ErrorWatch(WANTED, TrainingErrors(10, 2, 1_000.0), lambda *_: Told(*detections))


def found_at(position: int, change: int) -> Detection:
    return Detection(position, change, position - change + 1, 1, 10, 0.2)


def of_times(times: np.ndarray) -> Errors:
    return Errors(times.astype(np.int64), np.zeros(len(times), np.uint8), np.zeros(len(times), np.uint8))


@pytest.mark.parametrize("cuts", [[], [1], [16, 17], [7, 40, 40, 97], list(range(1, 100))])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_change_is_dated_by_every_sixteenth_event_wherever_batches_are_cut(
    cuts: list[int], is_restarted: bool
) -> None:
    times = np.arange(100) * 1_000 + 5
    detections = [found_at(99, change) for change in (0, 15, 16, 33, 95, 96, 99)]
    watching, reports = watch(*detections), []
    for part in np.split(times, cuts):
        reports += watching.observe(of_times(part), ABOUT)
        if is_restarted:
            state = json.loads(json.dumps(watching.snapshot()))
            watching = watch(*detections)
            watching.restore(state)
    assert [report.window_start_ms for report in reports] == [1_000 * event + 5 for event in (0, 0, 16, 32, 80, 96, 96)]
    assert {report.window_end_ms for report in reports} == {99_005}


def test_a_change_before_all_that_is_remembered_is_dated_by_the_oldest_of_it() -> None:
    """Of every sixteenth event the last 4 096: of 70 000 events from the 4 464th on."""
    watching = watch(found_at(70_000, 3), found_at(70_000, 4_463), found_at(70_000, 4_480), found_at(70_000, 69_999))
    assert watching.observe(of_times(np.arange(70_000)), ABOUT) == []
    reports = watching.observe(of_times(np.arange(70_000, 70_016)), ABOUT)
    assert [report.window_start_ms for report in reports] == [4_464, 4_464, 4_480, 69_984]
    again = watching.observe(of_times(np.array([], np.int64)), ABOUT)
    assert again == []


def test_a_change_is_not_dated_after_it_was_noticed_though_labels_come_late() -> None:
    (report,) = watch(found_at(20, 18)).observe(of_times(np.arange(30)[::-1] * 10), ABOUT)
    assert (report.window_start_ms, report.window_end_ms) == (90, 90)


def test_a_change_is_dated_by_its_events_and_noticed_when_their_labels_are_mature() -> None:
    """Errors count from the maturity of their events on, here 100 ms later."""
    watching = ErrorWatch(WANTED, TrainingErrors(10, 2, 1_000.0), lambda *_: Told(found_at(20, 16)), maturity_ms=100)
    (report,) = watching.observe(of_times(np.arange(30) * 10 + 100), ABOUT)
    assert (report.window_start_ms, report.window_end_ms) == (160, 300)


def test_a_detector_that_began_later_counts_from_there() -> None:
    watching = watch()
    watching.observe(of_times(np.arange(40)), ABOUT)
    state = watching.snapshot()
    later = ErrorWatch((default_detector("kswin"),), TrainingErrors(10, 2, 1_000.0), lambda *_: Told(found_at(10, 9)))
    later.restore(state)
    (report,) = later.observe(of_times(np.arange(40, 60)), ABOUT)
    assert (report.window_start_ms, report.window_end_ms) == (48, 50)
    again = ErrorWatch((default_detector("kswin"),), TrainingErrors(10, 2, 1_000.0), lambda *_: Told(found_at(25, 25)))
    again.restore(later.snapshot())
    (report,) = again.observe(of_times(np.arange(60, 70)), ABOUT)
    assert (report.window_start_ms, report.window_end_ms) == (64, 65)


@pytest.mark.parametrize("rose", [True, False])
def test_a_report_has_the_numbers_of_the_detection(rose: bool) -> None:
    detection = Detection(30, 16, 20, 10, 400, 0.3, 6.5, 5.5, rose)
    (report,) = watch(detection).observe(of_times(np.arange(31) * 86_400_000), ABOUT)
    assert (report.pipeline, report.model, report.version, report.revision) == ("p", "m", "7", 3)
    assert (report.segment, report.metric, report.test) == (ALL, "error", "adwin")
    assert (report.n_reference, report.n_detection) == (400, 20)
    assert (report.statistic, report.threshold, report.p_value) == (6.5, 5.5, None)
    assert report.effect == pytest.approx(0.2)
    assert report.signal == ("DRIFT" if rose else "NONE")
    words = "the decisions are wrong in 50 % of 20 cases since 1970-01-17, 30 % before"
    fewer = ": fewer than before, from here on compared with the new rate"
    assert report.note == (words if rose else words + fewer)


def test_a_report_tells_rates_apart_that_are_small() -> None:
    """Of rare positives hardly a decision is wrong: a third more is half a percent."""
    detection = Detection(10_000, 5_000, 2_500, 38, 4_000, 0.0114, 6.5, 5.5)
    (report,) = watch(detection).observe(of_times(np.arange(10_001) * 1_000), ABOUT)
    assert report.note == "the decisions are wrong in 1.52 % of 2500 cases since 1970-01-01, 1.14 % before"


def test_a_thousand_events_between_false_alarms_are_the_fewest() -> None:
    known = training_errors_of(reference(), Window(0, 0), drift(FalseAlarms(1, per_events=400)))
    assert known.arl_events == 1_000
    assert training_errors_of(reference(), Window(0, 0), drift(FalseAlarms(1, per_events=600))).arl_events == 1_500


@pytest.mark.parametrize(("of_labels", "of_errors"), [(3.5, 2.0), (2.0, 3.5)])
def test_events_count_by_the_larger_of_the_design_effects_of_labels_and_of_errors(
    of_labels: float, of_errors: float
) -> None:
    known = replace(reference(), design_effects=np.array([7.0, 2.0, of_labels]))
    known = replace(known, errors=replace(known.errors, effect=of_errors))
    errors = training_errors_of(known, Window(0, 0), drift(FalseAlarms(1, per_events=600)))
    assert (errors.design_effect, errors.hourly) == (3.5, None)


def test_a_detector_is_given_the_hours_where_training_shows_that_they_differ() -> None:
    log_odds = np.zeros(168)
    log_odds[:24] = 1.0
    counts = np.arange(168), np.arange(168) // 5
    known = replace(reference(), errors=ErrorHours(*counts, log_odds))
    hourly = training_errors_of(known, Window(0, 0), drift(FalseAlarms(1, per_events=600))).hourly
    assert hourly is not None
    assert (hourly.events.tolist(), hourly.log_odds.tolist()) == (counts[0].tolist(), log_odds.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_ms", "label_watermark_ms", "raised"),
    [
        (999, 1_000, [0]),
        (999, 999, []),
        (0, 1_000, [0]),
        (1_000, 1_500, []),
        (1_000, 2_000, [1_000]),
        (5_999, 6_500, [5_000]),
    ],
)
@pytest.mark.parametrize("n_next", [0, 199, 200])
def test_an_alert_on_wrong_decisions_is_of_the_window_they_were_noticed_in_and_stays_while_labels_are_behind(
    at_ms: int, label_watermark_ms: int, raised: list[int], n_next: int
) -> None:
    """All seven windows have closed; those that labels have not reached, or few, say nothing of the errors."""
    pipeline = make_pipeline()
    drift = replace(
        pipeline.drift, window="1000", slice_ms=100, every_ms=None, grace_ms=0, detectors=WANTED, segments=()
    )
    rule = AlertRule("wrong", "error", "error", clears_after=1)
    pipeline = replace(
        pipeline,
        drift=replace(drift, tests=(default_test("classic_ks"),), detectors=WANTED),
        alerts=(rule,),
        features=(),  # none has to fill first
    )
    monitor = MonitorCore(pipeline, make_detector=lambda *_: Told(found_at(0, 0)))
    monitor.register_version("1", reference(), {}, Window(0, 1))
    buffer = SketchBuffer(pipeline.model.name, 100)
    buffer.add_scored("1", reference(), np.arange(0, 7_000, 10), np.ones((700, 1)), np.full(700, 0.5))
    run = ErrorRun("1", np.array([at_ms], "<i8").tobytes(), b"\1")
    monitor.observe(SketchRecord(0, 7_000, label_watermark_ms, buffer.drain(), [run]))
    findings = monitor.collect(now_ms=7)
    alerts, snapshot = findings.alerts, monitor.snapshot()
    monitor = MonitorCore(pipeline, make_detector=lambda *_: Told(found_at(0, 0)))
    monitor.restore(snapshot)
    assert monitor.snapshot() == snapshot
    assert [each.window_start_ms for each in alerts if each.state == "raised"] == raised
    assert [each.state for each in alerts if each.state != "raised"] == []
    started = at_ms // 1_000 * 1_000
    times = np.full(n_next, started + 1_000)
    times[times < label_watermark_ms] = label_watermark_ms
    monitor.observe(SketchRecord(0, 8_000, 8_000, [], [ErrorRun("1", times.astype("<i8").tobytes(), bytes(n_next))]))
    later = monitor.collect(now_ms=8)
    over = later.alerts
    assert [(each.state, each.window_start_ms) for each in over] == [
        *([] if raised else [("raised", started)]),
        *([("cleared", started + 1_000)] if n_next >= 200 else []),
    ]
    (note,) = [each.note for each in (*findings.reports, *later.reports) if each.metric == "error"]
    assert f" errs more often: {note} (noticed by " in (*alerts, *over)[0].message
    other = MonitorCore(pipeline, make_detector=lambda *_: Told(found_at(0, 0)))
    other.restore(monitor.snapshot())
    assert other.snapshot() == monitor.snapshot()


def labels_of_frauds(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sixty days: when events happen, when their labels come, and whether the decision was wrong.

    One in a hundred is a fraud, known after 1 to 20 days and mostly let through; the others are known after 20 days.
    """
    generator = np.random.default_rng(seed)
    day_ms = 24 * HOUR_MS
    times = np.sort(generator.integers(0, 60 * day_ms, 60_000))
    is_fraud = generator.random(len(times)) < 0.01
    delays = np.where(is_fraud, generator.integers(day_ms, 20 * day_ms, len(times)), 20 * day_ms)
    wrong = np.where(is_fraud, generator.random(len(times)) < 0.8, generator.random(len(times)) < 0.002)
    return times, times + delays, wrong.astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_a_stream_whose_first_labels_are_all_of_frauds_does_not_begin_with_an_alarm(seed: int) -> None:
    """In the order of their labels it does: all of the first decisions are wrong."""
    times, came, wrong = labels_of_frauds(seed)
    maturity_ms = 20 * 24 * HOUR_MS
    alarms = []
    for counts_ms in (np.maximum(came, times + maturity_ms), came):
        order = np.argsort(counts_ms, kind="stable")
        errors = Errors(counts_ms[order], wrong[order], np.zeros(len(order), np.uint8))
        watching = ErrorWatch((default_detector("cusum"),), TrainingErrors(60_000, 600, 2e7), make_cusum, maturity_ms)
        alarms.append([each for each in watching.observe(errors, ABOUT) if each.signal == "DRIFT"])
    assert alarms[0] == []
    assert alarms[1][0].window_end_ms < maturity_ms
