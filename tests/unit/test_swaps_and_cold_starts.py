"""A swap during a backlog and a stream that has only begun are no faults, and what can be judged then still is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from watched_shop import (
    DAY_MS,
    FEATURES,
    HOUR_MS,
    START_MS,
    Payments,
    alarms,
    deltas_of,
    draw,
    make_monitor,
    pipeline,
    records_of,
    reference,
    watch,
)

from app.core.counts.calendar import Window
from app.core.counts.stream_start import StreamStart
from app.core.drift.filling import Filling, FillTimes
from app.core.drift.silences import is_shared, server
from app.core.findings import Findings
from app.core.monitoring.core import MonitorCore
from schemas.pipeline.detectors import default_detector
from schemas.pipeline.feature_reads import names_read
from schemas.pipeline.spec import AlertRule, Feature
from schemas.pipeline.spec import WindowSpec as OverPast
from schemas.wire import ErrorRun, SketchRecord

#: Weeks of a stream through the whole monitor.
pytestmark = pytest.mark.slow

#: Days after the start at which the partitions swap.
SWAPS = (9.2, 9.5, 9.9, 10.6)


def swapped(payments: Payments, days: Sequence[float] = SWAPS, names: tuple[str, str] = ("1.0.0", "2.0.0")) -> Payments:
    at_ms = START_MS + (np.array(days) * DAY_MS).astype(np.int64)
    payments.versions = np.where(payments.times_ms >= at_ms[payments.partitions], names[1], names[0])
    return payments


def kinds(findings: Findings) -> dict[tuple[int, str], str]:
    """The last verdict, by day and version."""
    last = sorted(findings.verdicts, key=lambda each: each.revision)
    return {((each.window_start_ms - START_MS) // DAY_MS, each.version): each.kind for each in last}


# -- swaps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_swap_that_reaches_partitions_at_different_times_alarms_nobody(seed: int) -> None:
    findings = watch(swapped(draw([seed, 1], 14)))
    assert alarms(findings) == []
    said = kinds(findings)
    assert {key for key, kind in said.items() if kind != "none"} == {
        (day, version) for day in (9, 10) for version in ("1.0.0", "2.0.0")
    }
    assert {said[day, "2.0.0"] for day in (11, 12, 13)} == {"none"}


def test_reports_and_verdicts_of_a_shared_window_say_why_they_say_nothing() -> None:
    findings = watch(swapped(draw([7, 1], 12)))
    for version in ("1.0.0", "2.0.0"):
        of_day = [
            each
            for each in findings.reports
            if each.version == version and each.window_start_ms == START_MS + 9 * DAY_MS
        ]
        assert {each.metric for each in of_day} == {*FEATURES, "score", "outcome"}
        words = f"version {version} scored only part of this window: compared in windows of its own"
        assert {(each.signal, each.note, each.p_value) for each in of_day} == {("NONE", words, None)}
        verdict = next(
            each
            for each in findings.verdicts
            if (each.version, each.window_start_ms) == (version, START_MS + 9 * DAY_MS)
        )
        words = f"Version {version} scored only part of this window; it is compared in windows of its own."
        assert (verdict.kind, verdict.headline) == ("too_little_data", words)


def test_a_concept_drift_of_the_new_version_is_said_in_the_window_that_it_shares() -> None:
    payments = swapped(draw([2, 1], 12))
    is_new = payments.versions == "2.0.0"
    payments.scores = np.where(is_new, 1 - payments.scores, payments.scores)
    said = kinds(watch(payments))
    assert said[9, "2.0.0"] == said[10, "2.0.0"] == "concept_drift"
    assert said[9, "1.0.0"] == "too_little_data"


def test_a_few_late_events_of_another_version_silence_nobody_and_many_do_afterwards() -> None:
    payments = draw([3, 1], 6)
    payments.matrix[payments.times_ms >= START_MS + 3 * DAY_MS, 1] *= 3
    late = draw([4, 1], 6)
    late = late.only((late.times_ms >= START_MS + 3 * DAY_MS) & (late.times_ms < START_MS + 4 * DAY_MS))
    late.versions = np.full(len(late.times_ms), "2.0.0")
    monitor = make_monitor(late)
    monitor.register_version("1.0.0", reference(), {})
    for record in records_of(payments):
        monitor.observe(record)
    assert kinds(monitor.collect(1))[3, "1.0.0"] in {"feature_drift", "score_drift"}
    monitor.observe(SketchRecord(0, 0, 0, deltas_of(late.only(np.arange(len(late.times_ms)) < 3))))
    assert kinds(monitor.collect(2)) == {(3, "2.0.0"): "too_little_data"}
    monitor.observe(SketchRecord(0, 0, 0, deltas_of(late.only(np.arange(len(late.times_ms)) >= 3))))
    again = monitor.collect(3)
    assert kinds(again)[3, "1.0.0"] == kinds(again)[3, "2.0.0"] == "too_little_data"
    # What came late is said as if it had come at once.
    straight = make_monitor(late)
    straight.register_version("1.0.0", reference(), {})
    straight.observe(SketchRecord(0, 0, 0, deltas_of(late)))
    for record in records_of(payments):
        straight.observe(record)
    at_once = kinds(straight.collect(4))
    assert at_once[3, "1.0.0"] == "too_little_data"
    assert at_once[4, "1.0.0"] in {"feature_drift", "score_drift"}


def test_a_shared_window_ends_no_alert_that_it_cannot_know_to_be_over() -> None:
    """Amounts are constant from day 5 on; days 9 and 10 are shared, and all is well from day 11 on."""
    payments = swapped(draw([2, 1], 14))
    payments.matrix[(payments.times_ms >= START_MS + 5 * DAY_MS) & (payments.times_ms < START_MS + 9 * DAY_MS), 1] = 7.0
    payments.versions[:] = "1.0.0"
    late = payments.times_ms >= START_MS + 9 * DAY_MS
    payments.versions[late & (np.arange(len(late)) % 3 == 0)] = "2.0.0"
    payments.versions[payments.times_ms >= START_MS + 11 * DAY_MS] = "1.0.0"
    alerts = [alert for alert in watch(payments).alerts if alert.rule == "pipeline-fault"]
    assert [(alert.version, alert.state, (alert.window_start_ms - START_MS) // DAY_MS) for alert in alerts] == [
        ("1.0.0", "raised", 5),
        ("1.0.0", "cleared", 12),  # the second of two days that are known to be well
    ]


def test_windows_that_overlap_are_shared_as_long_as_they_hold_events_of_both() -> None:
    drift = replace(pipeline().drift, window=str(4 * DAY_MS), every_ms=DAY_MS)
    findings = watch(swapped(draw([5, 1], 16)), drift=drift)
    assert alarms(findings) == []
    whole = {day for (day, version), kind in kinds(findings).items() if version == "2.0.0" and kind == "none"}
    assert whole == {11, 12, 13, 14, 15}


def test_a_version_that_is_rolled_back_at_once_and_a_third_one_alarm_nobody() -> None:
    payments = draw([6, 1], 13)
    hours = (payments.times_ms - START_MS) // HOUR_MS
    payments.versions = np.select(
        [hours < 9 * 24 + 5, hours < 9 * 24 + 6, hours < 9 * 24 + 15], ["1.0.0", "2.0.0", "1.0.0"], "3.0.0"
    )
    findings = watch(payments)
    assert alarms(findings) == []
    said = kinds(findings)
    assert {said[9, f"{number}.0.0"] for number in (1, 2, 3)} == {"too_little_data"}
    assert said[10, "3.0.0"] == said[8, "1.0.0"] == "none"


def test_an_origin_that_sends_nothing_is_missing_once_whatever_scored_the_others() -> None:
    payments = swapped(draw([8, 1], 12))
    is_gone = (payments.matrix[:, 0] == 1) & (payments.times_ms >= START_MS + 9 * DAY_MS)
    findings = watch(payments.only(~is_gone))
    faults = [
        each
        for each in findings.verdicts
        if each.kind == "pipeline_fault" and each.window_start_ms == START_MS + 9 * DAY_MS
    ]
    (fault,) = {each.version: each for each in faults}.values()
    assert "No events of origin=e where" in fault.headline


@pytest.mark.parametrize(
    ("version", "day", "is_seen"),
    [("1.0.0", 8.0, True), ("1.0.0", 9.5, False), ("2.0.0", 10.9, False), ("2.0.0", 11.1, True)],
)
def test_detectors_do_not_see_the_decisions_of_windows_that_versions_share(
    version: str, day: float, is_seen: bool
) -> None:
    """Which events a version keeps in a swap is no matter of chance; a decision counts two days after its event."""
    payments = swapped(draw([7, 1], 14))
    monitor = make_monitor(payments, drift=replace(pipeline().drift, detectors=(default_detector("cusum"),)))
    for record in records_of(payments):
        monitor.observe(record)
    times = np.full(4_000, START_MS + int((day + 2) * DAY_MS), "<i8").tobytes()
    run = ErrorRun(version, times, np.ones(4_000, np.uint8).tobytes())
    monitor.observe(SketchRecord(0, START_MS + 200 * DAY_MS, START_MS + 200 * DAY_MS, [], [run]))
    assert any(each.metric == "error" for each in monitor.collect(1).reports) is is_seen


def test_a_version_without_a_reference_shares_a_window_like_any_other() -> None:
    payments = swapped(draw([9, 1], 12))
    monitor = make_monitor(payments.only(payments.versions == "1.0.0"))
    for record in records_of(payments):
        monitor.observe(record)
    findings = monitor.collect(1)
    assert alarms(findings) == []
    assert kinds(findings)[9, "1.0.0"] == "too_little_data"


@pytest.mark.parametrize(
    ("n", "n_others", "expected"), [(10_000, 25, False), (10_000, 26, True), (16, 1, False), (3, 1, True), (0, 1, True)]
)
def test_others_share_a_window_when_they_could_move_a_share_by_half_its_error(
    n: int, n_others: int, expected: bool
) -> None:
    assert is_shared("1", {"1": n, "2": n_others}) is expected
    assert is_shared("1", {"1": n, "2": n_others - 1, "3": 1}) is expected
    assert not is_shared("1", {"1": n})


def test_the_traffic_is_told_by_the_version_of_most_events_the_first_among_equals() -> None:
    assert server({"2": 5, "1": 5, "3": 4}) == "1"
    assert server({"2": 6, "1": 5}) == "2"


# -- cold starts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_windows_that_fill_at_the_beginning_of_a_stream_alarm_nobody(seed: int) -> None:
    findings = watch(draw([seed, 2], 35, is_cold=True), is_warm=False)
    assert alarms(findings) == []
    said = kinds(findings)
    assert {said[day, "1.0.0"] for day in range(32)} == {"too_little_data"}  # 30 days of labels, which take two
    assert {said[day, "1.0.0"] for day in (32, 33, 34)} == {"none"}
    until = str(np.datetime64(START_MS + 32 * DAY_MS, "ms").astype("M8[D]"))
    assert findings.verdicts[0].headline == (
        f"Too early to compare all: `fraud_30d` is filling until {until}, `risk` until {until};"
        " nor are the scores compared, which are made of them."
    )
    notes = {(each.metric, each.note) for each in findings.reports if each.note.endswith(f"until {until}")}
    assert notes == {
        ("fraud_30d", f"`fraud_30d` is filling until {until}"),
        ("risk", f"`risk` is filling until {until}"),
        ("score", f"made of features: `fraud_30d` is filling until {until}"),
    }


def test_scores_of_features_that_are_filling_promise_nothing_and_their_performance_is_known() -> None:
    """The first days' scores are turned round; a rule on their AUC hears of it, one on what they promise does not."""
    payments = draw([5, 2], 5, is_cold=True)
    payments.scores = 1 - payments.scores
    rules = (
        AlertRule("low", "performance", "auc", below=0.4),
        AlertRule("worse", "performance", "auc", below_expected=True, minimum_effect=0.02),
    )
    assert {rule for rule, _ in alarms_of_alerts(watch(payments, is_warm=False, alerts=rules))} == {"low"}
    assert {rule for rule, _ in alarms_of_alerts(watch(payments, alerts=rules))} == {"low", "worse"}


def alarms_of_alerts(findings: Findings) -> list[tuple[str, str]]:
    return [(each.rule, each.state) for each in findings.alerts]


def test_what_does_not_fill_is_compared_from_the_first_window_on() -> None:
    payments = draw([3, 2], 4, is_cold=True)
    payments.matrix[payments.times_ms >= START_MS + DAY_MS, 1] = 7.0
    findings = watch(payments, is_warm=False)
    assert [kind for _, kind in sorted(kinds(findings).items())] == ["too_little_data", *["pipeline_fault"] * 3]
    assert all("`amount`" in each.headline for each in findings.verdicts if each.kind == "pipeline_fault")


def test_a_stray_event_of_long_ago_begins_no_stream_and_unscored_events_do() -> None:
    payments = draw([4, 2], 3, is_cold=True)
    stray = payments.only(np.arange(len(payments.times_ms)) < 1)
    stray.times_ms = stray.times_ms - 50 * DAY_MS
    monitor = make_monitor(payments, is_warm=False)
    monitor.observe(SketchRecord(0, 0, 0, deltas_of(stray)))
    for record in records_of(payments):
        monitor.observe(record)
    assert alarms(monitor.collect(1)) == []
    warm = draw([4, 1], 3)
    assert set(kinds(watch(warm)).values()) == {"none"}
    assert set(kinds(watch(warm, is_warm=False)).values()) == {"too_little_data"}


def test_the_beginning_of_a_stream_is_known_after_a_restart() -> None:
    payments = draw([5, 2], 6, is_cold=True)
    early, late = (payments.only((payments.times_ms < START_MS + 3 * DAY_MS) == is_early) for is_early in (True, False))
    monitor = make_monitor(payments, is_warm=False)
    for record in records_of(early):
        monitor.observe(SketchRecord(record.partition, START_MS + 3 * DAY_MS, START_MS, record.deltas))
    first = monitor.collect(1)
    snapshot = monitor.snapshot()
    again = MonitorCore(pipeline(), keep=100)
    again.restore(snapshot)
    assert again.snapshot() == snapshot
    for record in records_of(late):
        again.observe(record)
    said = {**kinds(first), **kinds(again.collect(2))}
    assert said == kinds(watch(payments, is_warm=False))


@pytest.mark.parametrize(("day", "is_seen"), [(30.0, False), (33.0, False), (34.5, True)])
def test_detectors_wait_for_the_last_labels_of_events_whose_features_were_filling(day: float, is_seen: bool) -> None:
    """The last feature is full after 32 days, and labels take two more."""
    payments = draw([7, 2], 1, is_cold=True)
    monitor = make_monitor(
        payments, is_warm=False, drift=replace(pipeline().drift, detectors=(default_detector("cusum"),))
    )
    for record in records_of(payments):
        monitor.observe(record)
    times = np.full(4_000, START_MS + int(day * DAY_MS), "<i8").tobytes()
    run = ErrorRun("1.0.0", times, np.ones(4_000, np.uint8).tobytes())
    monitor.observe(SketchRecord(0, START_MS + 200 * DAY_MS, START_MS + 200 * DAY_MS, [], [run]))
    assert any(each.metric == "error" for each in monitor.collect(1).reports) is is_seen


def test_detectors_of_wrong_decisions_begin_when_features_are_filled() -> None:
    payments = draw([6, 2], 4, is_cold=True)
    drift = replace(pipeline().drift, detectors=(default_detector("cusum"),))
    wrong = np.ones(4_000, np.uint8).tobytes()
    for is_warm, alarmed in ((True, True), (False, False)):
        monitor = make_monitor(payments, is_warm=is_warm, drift=drift)
        for record in records_of(payments):
            monitor.observe(record)
        times = (START_MS + np.arange(4_000) * DAY_MS // 1_000).astype("<i8").tobytes()
        run = [ErrorRun("1.0.0", times, wrong)]
        monitor.observe(SketchRecord(0, START_MS + 200 * DAY_MS, START_MS + 200 * DAY_MS, [], run))
        reports = monitor.collect(1).reports
        assert any(each.metric == "error" and each.signal == "DRIFT" for each in reports) is alarmed


DAY = 86_400_000


@pytest.mark.parametrize(
    ("slices", "began"),
    [
        ({}, None),
        ({0: 1}, 0),
        ({0: 1, 500: 900, 600: 1_000}, 500),
        ({0: 50, 500: 900, 600: 1_000}, 0),  # as many as a twentieth are no strays
        ({0: 3, 100: 3, 200: 3, 300: 900}, 300),
        ({500: 10, 600: 1_000, 900: 10**9}, 600),  # what comes after the window does not count
    ],
)
def test_a_stream_begins_with_the_first_slice_of_a_substantial_part(slices: dict[int, int], began: int | None) -> None:
    start = StreamStart()
    for at, n in slices.items():
        start.add(at, n)
    assert start.before(800) == began
    again = StreamStart()
    again.from_state(json.loads(json.dumps(start.to_state())))
    assert again.to_state() == start.to_state()
    assert again.before(800) == began


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from([1, 30, 900])), max_size=30))
def test_when_a_stream_began_does_not_depend_on_when_one_asks(slices: list[tuple[int, int]]) -> None:
    asked = StreamStart()
    for at, (start_ms, n) in enumerate(slices, 1):
        asked.add(start_ms, n)
        fresh = StreamStart()
        for each in slices[:at]:
            fresh.add(*each)
        assert [asked.before(end_ms) for end_ms in range(22)] == [fresh.before(end_ms) for end_ms in range(22)]


def test_only_the_oldest_slices_of_a_stream_are_remembered() -> None:
    start = StreamStart()
    for at in range(1_000, 0, -1):
        start.add(at, 5)
    assert start.to_state() == [(at, 5) for at in range(1, 401)]


def over(of: str, size: str, **more: Any) -> OverPast:
    return OverPast(of, ("card",), int(size) * DAY, DAY, "mean", "amount", **more)  # type: ignore[arg-type]  # a literal


def test_a_feature_fills_as_long_as_what_it_is_made_of_and_labels_take_their_time() -> None:
    features = (
        Feature("amount", "float", "amount"),
        Feature("sum_of_all", "float", "ratio + weather.temp * fraud"),
        Feature("ratio", "float", "amount / mean_7d"),
        Feature("mean_7d", "float", window=over("events", "7")),
        Feature("fraud", "float", window=over("labels", "30", delay_ms=DAY)),
        Feature("own", "float", python="f.py:f", arguments=("sum_of_all", "event_time")),
    )
    times = FillTimes(replace(pipeline(), features=features))
    window = Window(10 * DAY, 11 * DAY)
    names = [feature.name for feature in features]
    found = times.filling(names, window, 0)
    assert found == [Filling(name, 33 * DAY) for name in ("sum_of_all", "fraud", "own")]
    assert times.longest_ms == 33 * DAY
    assert [each.metric for each in times.filling(names, window, 4 * DAY)] == names[1:]
    assert times.filling(names, window, None) == []
    # Filling for the last hundredth of a window matters, for less it does not.
    assert times.filling(["mean_7d"], window, 3 * DAY + DAY // 100) != []
    assert times.filling(["mean_7d"], window, 3 * DAY + DAY // 300) == []


def test_a_feature_reads_the_names_in_it_and_no_functions() -> None:
    read = Feature("f", "float", "where(isnull(a), log1p(weather.temp), b) / a if c > 1 else hour(event_time, 'UTC')")
    assert set(names_read(read)) == {"a", "b", "c", "weather.temp", "event_time"}
    assert names_read(Feature("w", "float", window=over("events", "7"))) == ("amount", "card")
    assert names_read(Feature("n", "int", window=OverPast("events", ("a", "b"), 1, 1, "count"))) == ("a", "b")
