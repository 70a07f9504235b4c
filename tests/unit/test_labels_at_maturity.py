"""What a monitor says of windows whose labels have not all come: nothing that is only how labels come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest
from core_setting import CARD_EVENTS, DAY_MS, HOUR_MS, START_MS

from app.core.counts.buffer import SketchBuffer
from app.core.counts.delay_law import tally
from app.core.findings import Findings
from app.core.labels.delays import LabelDelays
from app.core.monitoring.core import MonitorCore
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import DelayCounts, SketchRecord

#: Weeks of a stream through the whole monitor.
pytestmark = pytest.mark.slow

FILE = f"""
name = "cards"
partitions = 1
[model]
name = "fraud"
{CARD_EVENTS}
[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"
[labels]
horizon = "20d"
[[features]]
name = "amount"
type = "float"
expression = "amount"
[drift]
window = "4d"
slice = "6h"
grace = "1h"
bins = 16
false_alarms = 1
per = "1000d"
[performance]
maturity = "6d"
"""

Floats = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], Floats]
PER_DAY, DAYS = 1_000, 60


@cache
def pipeline() -> Pipeline:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cards.toml"
        path.write_text(FILE)
        return load(path)


def draw(n: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    amounts = rng.normal(size=n)
    scores = 1 / (1 + np.exp(2.2 - 1.5 * amounts))
    return amounts[:, None], scores, (rng.random(n) < scores).astype(np.float64)


@cache
def reference() -> Reference:
    matrix, scores, labels = draw(40_000, np.random.default_rng(1))
    return fit_reference(TrainingEvents(matrix, scores, labels), [numeric("amount")], 16, 0.5)


def watch(
    laws: tuple[Draw, Draw], *, seed: int = 2, every: int = 1, sent: Callable[[Floats], Floats] | None = None
) -> tuple[Findings, MonitorCore]:
    """A stream without drift, asked every so many days.

    ``laws``: delays of labels 0 and 1 in days; ``sent``: how likely it is that a label is sent at all, by the score.
    """
    rng = np.random.default_rng(seed)
    n = PER_DAY * DAYS
    times = START_MS + np.sort(rng.integers(0, DAYS * DAY_MS, n))
    matrix, scores, labels = draw(n, rng)
    is_sent = rng.random(n) < (np.ones(n) if sent is None else sent(scores))
    took = np.where(labels == 1, laws[1](rng, n), laws[0](rng, n)) * DAY_MS
    came = times + np.maximum(took.astype(np.int64), 1)
    monitor = MonitorCore(pipeline())
    monitor.register_version("1.0.0", reference(), {})
    findings = Findings()
    for day in range(DAYS):
        start, end = START_MS + day * DAY_MS, START_MS + (day + 1) * DAY_MS
        buffer = SketchBuffer("fraud", pipeline().drift.slice_ms)
        here = (times >= start) & (times < end)
        buffer.add_scored("1.0.0", reference(), times[here], matrix[here], scores[here])
        now = (came >= start) & (came < end) & (took < 20 * DAY_MS) & is_sent
        buffer.add_labelled("1.0.0", reference(), times[now], scores[now], labels[now])
        delays = [
            DelayCounts(at, label, cells.astype("<u4").tobytes(), counts.astype("<i8").tobytes(), newest)
            for at, label, cells, counts, newest in tally(times[now], 6 * HOUR_MS, labels[now], (came - times)[now])
        ]
        monitor.observe(SketchRecord(0, end, end, buffer.drain(), delays=delays))
        if (day + 1) % every == 0:
            findings.add(monitor.collect(1))
    findings.add(monitor.collect(1))
    return findings, monitor


def kinds(findings: Findings) -> set[str]:
    return {verdict.kind for verdict in findings.verdicts}


def outcome_signals(findings: Findings) -> set[str]:
    """But of the textbook's tests, which are outside of the budget and take past windows as they are by now."""
    return {
        report.signal
        for report in findings.reports
        if report.metric == "outcome" and not report.test.startswith("classic_")
    }


SLOW: tuple[Draw, Draw] = (lambda rng, n: rng.uniform(0, 14, n), lambda rng, n: rng.exponential(1.5, n))


def test_negatives_that_come_later_than_positives_are_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """After six days 97 % of the positives are here and 57 % of the negatives."""
    findings, _ = watch(SLOW)
    assert kinds(findings) == {"none"}
    assert outcome_signals(findings) == {"NONE"}
    assert findings.alerts == []
    realised = [row for row in findings.performance if row.measure == "log_loss" and not math.isnan(row.realised)]
    assert len(realised) >= 5
    # Uncorrected, the same stream is an alarm: the test can fail.
    monkeypatch.setattr(LabelDelays, "arrived", lambda *_: (1.0, 1.0))
    wrong, _ = watch(SLOW)
    assert kinds(wrong) - {"none"}


def test_what_is_said_at_last_does_not_depend_on_when_the_monitor_came_to_it() -> None:
    daily, _ = watch(SLOW)
    weekly, _ = watch(SLOW, every=7)
    assert last_words(weekly) == last_words(daily)


def last_words(findings: Findings) -> dict[tuple[Any, ...], str]:
    """What the tables show in the end, but for the revisions."""
    rows: dict[tuple[Any, ...], tuple[int, str]] = {}
    for verdict in findings.verdicts:
        words = repr(msgspec.structs.replace(verdict, revision=0))
        rows[verdict.window_start_ms,] = max(rows.get((verdict.window_start_ms,), (0, "")), (verdict.revision, words))
    for row in findings.performance:
        key = row.window_start_ms, row.measure
        rows[key] = max(rows.get(key, (0, "")), (row.revision, repr(row._replace(revision=0))))
    return {key: words for key, (_, words) in rows.items()}


def test_a_restored_monitor_says_the_same_of_what_has_arrived() -> None:
    _, monitor = watch(SLOW)
    again = MonitorCore(pipeline())
    again.restore(monitor.snapshot())
    assert again.snapshot() == monitor.snapshot()
    state = json.loads(monitor.snapshot().split(b"\n")[1])["delays"]
    assert any(each[-1] for each in state["shares"])


def test_windows_whose_labels_have_hardly_come_are_judged_without_them() -> None:
    """Negatives by time-out after 12 days, and a maturity of 6: all labels that are here are positive."""
    findings, _ = watch((lambda _, n: np.full(n, 12.0), lambda rng, n: rng.uniform(0.5, 6, n)))
    assert kinds(findings) == {"none"}
    assert outcome_signals(findings) == {"NONE"}
    assert findings.alerts == []
    unjudged = {v.window_start_ms for v in findings.verdicts if "Its labels are not judged: too few" in v.reason}
    assert len(unjudged) >= 10
    # Once they are here, the window is judged by them after all.
    (first,) = {v.window_start_ms for v in findings.verdicts if v.window_start_ms == START_MS + round(17.5 * DAY_MS)}
    assert first in unjudged
    last = max(
        (row.revision, row.realised)
        for row in findings.performance
        if (row.window_start_ms, row.measure) == (first, "auc")
    )
    assert last[1] == pytest.approx(0.82, abs=0.03)


def test_positives_without_negatives_are_a_fault_of_the_labels() -> None:
    """The first windows wait for the law of the delays; then it is said that labels 0 are not sent, and no drift."""
    findings, _ = watch((lambda _, n: np.full(n, 25.0), lambda rng, n: rng.uniform(0.5, 5, n)))
    faults = [verdict for verdict in findings.verdicts if verdict.kind == "pipeline_fault"]
    assert len(faults) > 5
    assert kinds(findings) == {"none", "pipeline_fault"}
    assert all("labels are 1; their scores promise " in verdict.headline for verdict in faults)
    assert all(verdict.headline.endswith("labels 0 are not sent any more.") for verdict in faults)
    assert {verdict.advice for verdict in faults} == {"look_upstream"}
    assert outcome_signals(findings) == {"NONE"}
    (alert,) = findings.alerts
    assert (alert.rule, alert.state) == ("labels-missing", "raised")
    assert alert.message.startswith("labels of fraud 1.0.0 do not come in ")
    assert alert.message.endswith("labels 0 are not sent any more")


def test_delays_longer_than_the_stream_are_no_alarm() -> None:
    """The first windows: how many labels will come is not known yet."""
    findings, _ = watch((lambda rng, n: rng.uniform(0, 19, n), lambda rng, n: rng.exponential(1.5, n)), seed=3)
    assert kinds(findings) == {"none"}
    assert outcome_signals(findings) == {"NONE"}


def test_labels_that_come_in_time_are_judged_from_the_first_window_on() -> None:
    findings, _ = watch((lambda rng, n: rng.uniform(0, 5.5, n), lambda rng, n: rng.exponential(1.0, n)), seed=4)
    assert kinds(findings) == {"none"}
    assert {verdict.window_start_ms for verdict in findings.verdicts if verdict.with_labels} == {
        verdict.window_start_ms
        for verdict in findings.verdicts
        if verdict.window_end_ms + 6 * DAY_MS <= START_MS + DAYS * DAY_MS
    }


AT_ONCE: tuple[Draw, Draw] = (lambda _, n: np.full(n, 0.5),) * 2


def test_labels_of_all_that_is_flagged_and_a_tenth_of_the_rest_are_no_other_share_of_positives() -> None:
    findings, _ = watch(AT_ONCE, sent=lambda scores: np.where(scores >= 0.5, 1.0, 0.1))
    assert kinds(findings) == {"none"}
    assert outcome_signals(findings) == {"NONE"}
    mature = [verdict for verdict in findings.verdicts if verdict.with_labels]
    assert len(mature) > 5
    assert all("are not those of all" in verdict.reason for verdict in mature)
    notes = {each.note for each in findings.reports if (each.metric, each.test) == ("outcome", "chi_square")}
    assert "labels come of one side of the threshold more than of the other" in notes


def test_labels_that_are_due_and_have_not_come_are_said_to_be_missing() -> None:
    findings, _ = watch(AT_ONCE, sent=np.zeros_like)
    mature = [verdict for verdict in findings.verdicts if verdict.with_labels]
    assert len(mature) > 5
    assert all(verdict.reason.endswith("None of them has a label, though all are old enough.") for verdict in mature)
    assert kinds(findings) == {"none"}
