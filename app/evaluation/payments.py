"""Payments: false alarms where nothing changes, and what is said of what does, beside an oracle's power.

The monitor is fed as a stream feeds it: a record a day, with the events of the day, the labels of the day that has
become mature, and the wrong decisions whose labels came, in their order.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.core.budget import OF_LABELS
from app.core.drift_calendar import Window
from app.core.error_watch import ERROR
from app.core.findings import Findings
from app.core.monitoring import MonitorCore
from app.core.sketches import ALL, pack
from app.evaluation.payment_changes import CHANGES, PaymentChange, oracle_finds
from app.evaluation.payment_stream import (
    A_DAY,
    DAY_MS,
    FEATURES,
    FIRST_DAY,
    MERCHANTS,
    SLOWEST_DAYS,
    Bank,
    PaymentLaw,
    Payments,
)
from app.evaluation.product import VERSION
from app.evaluation.run import generator
from models.counting import count, count_outcomes
from models.error_hours import hours_of
from models.grouped_counts import GroupedCounts, count_groups, count_outcome_groups
from models.reference import Counts, Reference
from models.reference_fit import fit_reference
from models.segments import Segments
from models.spans import memories_of, span_of
from schemas.pipeline_file import load
from schemas.wire import ErrorRun, SketchRecord

if TYPE_CHECKING:
    from schemas.pipeline import Pipeline
    from schemas.wire import SketchDelta, WindowVerdict

#: Days of training, and quiet days after it; runs of each reference.
TRAINING, QUIET, RUNS = 20, 30, 2
_TRAINED = FIRST_DAY + TRAINING
#: One false alarm in a hundred windows.
PER_EVENTS = 100 * A_DAY
BASE_RATES = (0.001, 0.005, 0.01, 0.05, 0.2)
_BUDGET = A_DAY / PER_EVENTS
#: What labels may be asked: what an oracle is given.
_ALPHA = OF_LABELS * _BUDGET
_CATEGORIES = {"merchant": MERCHANTS}

_FILE = """
name = "payments"
partitions = 1
[model]
name = "fraud"
[events]
entity = "card"
id = "id"
time = "at_ms"
earliest = 1960-01-01T00:00:00Z
plural = "payments"
[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float?"
merchant = "string?"
is_foreign = "bool?"
card_risk = "float?"
distance = "float?"
email_age = "float?"
[labels]
horizon = "{horizon}"
[performance]
maturity = "{maturity}"
[drift]
window = "1d"
slice = "1h"
grace = "0s"
bins = 128
segments = ["merchant"]
false_alarms = 1
per_events = {per_events}
[[features]]
name = "amount"
type = "float"
expression = "amount"
[[features]]
name = "log_amount"
type = "float"
expression = "log1p(amount)"
[[features]]
name = "hour"
type = "float"
expression = "at_ms / 3600000 % 24"
[[features]]
name = "merchant"
type = "category"
expression = "merchant"
values = {merchants}
[[features]]
name = "is_foreign"
type = "bool"
expression = "is_foreign"
[[features]]
name = "card_risk"
type = "float"
expression = "card_risk"
[[features]]
name = "distance"
type = "float"
expression = "distance"
[[features]]
name = "email_age"
type = "float"
expression = "email_age"
[[features]]
name = "payments_1d"
type = "int"
window = {{ of = "events", key = ["card"], size = "1d", hop = "1h", aggregate = "count" }}
[[features]]
name = "fraud_30d"
type = "float"
[features.window]
of = "labels"
key = ["merchant"]
size = "30d"
hop = "1h"
aggregate = "mean"
field = "label"
delay = "1h"
"""


@cache
def make_pipeline(delay: str) -> Pipeline:
    """The pipeline file of payments whose labels come so."""
    days = 0 if delay == "now" else SLOWEST_DAYS
    text = _FILE.format(horizon=f"{days + 1}d", maturity=f"{days}d", per_events=PER_EVENTS, merchants=list(MERCHANTS))
    with tempfile.TemporaryDirectory(prefix="streamgauge-evaluation-") as folder:
        path = Path(folder) / "payments.toml"
        path.write_text(text, encoding="utf-8")
        return load(path)


def fit(pipeline: Pipeline, payments: Payments) -> Reference:
    """The reference of a version that was trained on these payments, all of whose labels have come."""
    return fit_reference(
        payments.matrix,
        FEATURES,
        ["category" if name in _CATEGORIES else "numeric" for name in FEATURES],
        {name: len(values) + 1 for name, values in _CATEGORIES.items()},
        payments.scores,
        payments.labels,
        pipeline.drift.bins,
        vocabularies=_CATEGORIES,
        segments=Segments.of(pipeline),
        span=span_of(pipeline, payments.times_ms),
        memories=memories_of(pipeline),
        times_ms=payments.times_ms,
    )


def records(pipeline: Pipeline, reference: Reference, payments: Payments, first: int) -> Iterator[SketchRecord]:
    """What one partition sends: a record a day, from the ``first`` one until the last day's labels are mature."""
    last = int(payments.times_ms[-1]) // DAY_MS
    waiting = pipeline.performance.maturity_ms // DAY_MS
    right = (payments.scores >= reference.threshold) == (payments.labels == 1)
    order = np.argsort(payments.label_times_ms, kind="stable")
    came_ms, wrong = payments.label_times_ms[order], (~right[order]).astype(np.uint8)
    counts_ms = np.maximum(came_ms, payments.times_ms[order] + pipeline.performance.maturity_ms).astype("<i8")
    hours = hours_of(payments.times_ms[order]).astype(np.uint8)
    for day in range(first, last + waiting + 1):
        end_ms = (day + 1) * DAY_MS
        deltas: list[SketchDelta] = []
        if day <= last:
            deltas += _of_events(pipeline, reference, payments.day(day), day)
        if first <= day - waiting <= last:
            deltas += _of_labels(pipeline, reference, payments.day(day - waiting), day - waiting)
        start, stop = np.searchsorted(came_ms, [day * DAY_MS, end_ms])
        columns = (each[start:stop].tobytes() for each in (counts_ms, wrong, hours))
        errors = ErrorRun(VERSION, *columns)
        unscored = A_DAY * first if day == first else 0  # the stream is older than what is scored
        yield SketchRecord(0, end_ms, end_ms, deltas, [errors], unscored, unscored_since_ms=0 if unscored else None)


def _of_events(pipeline: Pipeline, reference: Reference, of: Payments, day: int) -> list[SketchDelta]:
    segments = Segments.of(pipeline)
    parts = count_groups(reference, of.matrix, of.scores, segments.find(of.matrix))
    return _deltas(pipeline, day, count(reference, of.matrix, of.scores), parts, segments)


def _of_labels(pipeline: Pipeline, reference: Reference, of: Payments, day: int) -> list[SketchDelta]:
    segments = Segments.of(pipeline)
    parts = [count_outcome_groups(reference, of.scores, of.labels, keys) for keys in segments.find(of.matrix)]
    return _deltas(pipeline, day, count_outcomes(reference, of.scores, of.labels), parts, segments)


def _deltas(
    pipeline: Pipeline, day: int, whole: Counts, parts: list[GroupedCounts], segments: Segments
) -> list[SketchDelta]:
    of = {ALL: whole} | {segments.names[at]: counts for at, counts in GroupedCounts.merge(parts).split().items()}
    return [pack(pipeline.model.name, VERSION, name, day * DAY_MS, counts) for name, counts in of.items()]


def follow(pipeline: Pipeline, reference: Reference, payments: Payments, first: int) -> Findings:
    """What the monitor says of these days, in its order."""
    monitor = MonitorCore(pipeline, keep=SLOWEST_DAYS + 4)
    monitor.register_version(VERSION, reference, {}, Window(FIRST_DAY * DAY_MS, first * DAY_MS))
    findings = Findings()
    for record in records(pipeline, reference, payments, first):
        monitor.observe(record)
        findings.add(monitor.collect(now_ms=0))
    return findings


def alarmed_windows(findings: Findings) -> dict[str, set[int]]:
    """Days with an alarm, by what alarmed: kinds of verdicts, detectors ("error") and alerts ("alert")."""
    days: dict[str, set[int]] = {}
    for verdict in findings.verdicts:
        if verdict.kind != "none":
            days.setdefault(verdict.kind, set()).add(verdict.window_start_ms // DAY_MS)
    for report in findings.reports:
        if report.metric == ERROR and report.signal == "DRIFT":
            days.setdefault("error", set()).add((report.window_end_ms - 1) // DAY_MS)
    for alert in findings.alerts:
        if alert.state == "raised":
            days.setdefault("alert", set()).add((alert.window_start_ms or 0) // DAY_MS)
    return days


@dataclass(frozen=True)
class Said:
    """Of one drifted window: the kind of the last verdict on it, whether it names what is concerned, the oracle."""

    kind: str
    names_it: bool
    oracle: bool


def said_of(findings: Findings, change: PaymentChange, day: int) -> tuple[str, bool]:
    """The newest verdict on a day, and whether it names the field or the segment of the change."""
    of_day = [each for each in findings.verdicts if each.window_start_ms == day * DAY_MS]
    verdict = max(of_day, key=lambda each: each.revision)
    return verdict.kind, _names(verdict, change)


def _names(verdict: WindowVerdict, change: PaymentChange) -> bool:
    if change.segment:
        return bool(verdict.segments) and verdict.segments[0].segment == f"merchant={change.segment}"
    words = " ".join([verdict.headline, *(each.words for each in verdict.explained_by)])
    return all(f"`{name}`" in words for name in change.fields)


# -- tasks -------------------------------------------------------------------------------------------------------------


def _start(law: PaymentLaw, chance: np.random.Generator) -> tuple[Pipeline, Bank, Reference, Payments]:
    pipeline = make_pipeline(law.delay)
    bank = Bank(law, chance)
    trained = bank.draw(chance, TRAINING)
    return pipeline, bank, fit(pipeline, trained), trained


def quiet(task: tuple[int, PaymentLaw, int]) -> list[Counter[str]]:
    """Alarmed days by source, of `RUNS` runs after one reference."""
    seed, law, number = task
    chance = generator(seed, 700, _number(law), number)
    pipeline, bank, reference, _ = _start(law, chance)
    found = []
    for _ in range(RUNS):
        days = alarmed_windows(follow(pipeline, reference, bank.fork().draw(chance, QUIET), _TRAINED))
        any_ = set().union(*days.values()) if days else set()
        found.append(Counter({name: len(each) for name, each in days.items()} | {"all": len(any_)}))
    return found


def changed(task: tuple[int, PaymentLaw, int]) -> dict[str, list[Said]]:
    """What is said of the first changed day, by change, `RUNS` times after one reference."""
    seed, law, number = task
    chance = generator(seed, 701, _number(law), number)
    pipeline, bank, reference, _ = _start(law, chance)
    found: dict[str, list[Said]] = {}
    for change in CHANGES:
        if getattr(change, "times", 1.0) * law.base_rate > 0.5:
            continue
        for _ in range(RUNS):
            drawn = bank.fork().draw(chance, 1, change)
            kind, names_it = said_of(follow(pipeline, reference, drawn, _TRAINED), change, _TRAINED)
            found.setdefault(change.name, []).append(Said(kind, names_it, oracle_finds(drawn, _ALPHA, chance)))
    return found


def _number(law: PaymentLaw) -> int:
    return LAWS.index(law)


LAWS = tuple(
    PaymentLaw(base_rate, delay, cards, carried)
    for base_rate in BASE_RATES
    for delay in ("now", "late", "split")
    for cards in ("uniform", "zipf")
    for carried in (False, True)
)
