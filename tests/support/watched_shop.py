"""A shop whose payments are counted and watched: drawn events, a version that fits them, and what a monitor says.

Origins are spread unevenly over the partitions, so that a swap that reaches each partition at a time of its own leaves
each version with events unlike those of all. Scores are the true chances, but for what a cold start does to them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.counts.buffer import SketchBuffer
from app.core.findings import Findings
from app.core.monitoring.core import MonitorCore
from models.reference.fit import fit_reference
from models.reference.reference import Reference
from models.reference.segments import Segments
from models.reference.training_events import TrainingEvents, category, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchDelta, SketchRecord

Array = NDArray[Any]

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: A day at midnight.
START_MS = 1_750_000_000_000 // DAY_MS * DAY_MS
PARTITIONS = 4
ORIGINS = ["n", "e", "s", "w"]
#: A row per partition: how often each origin comes there.
_SPREAD = np.array([[0.9, 0.1, 0, 0], [0.05, 0.9, 0.05, 0], [0, 0.05, 0.15, 0.8], [0, 0, 0.9, 0.1]])
FEATURES = ["origin", "amount", "weight", "fraud_30d", "risk"]

FILE = f"""
name = "shop"
partitions = {PARTITIONS}

[model]
name = "fraud"

[events]
entity = "card"
id = "payment_id"
time = "at_ms"
earliest = 2020-01-01T00:00:00Z

[events.fields]
payment_id = "string"
card = "string"
at_ms = "int"
origin = "string"
amount = "float"
weight = "float"

[labels]
horizon = "20d"

[performance]
maturity = "2d"

[[features]]
name = "origin"
type = "category"
expression = "origin"
values = {ORIGINS}

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "weight"
type = "float"
expression = "weight"

[[features]]
name = "fraud_30d"
type = "float"
window = {{ of = "labels", key = ["card"], size = "30d", hop = "1d", aggregate = "mean", field = "label" }}

[[features]]
name = "risk"
type = "float"
expression = "fraud_30d * weight"

[drift]
window = "1d"
slice = "6h"
segments = ["origin"]
bins = 32
false_alarms = 1
per = "1000d"
"""


@cache
def pipeline() -> Pipeline:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.toml"
        path.write_text(FILE, encoding="utf-8")
        return load(path)


@dataclass(eq=False)
class Payments:
    """Drawn payments, in the order of time."""

    times_ms: Array
    partitions: Array
    matrix: Array
    scores: Array
    labels: Array
    versions: Array

    def only(self, rows: Array) -> Payments:
        return Payments(
            *(
                getattr(self, name)[rows]
                for name in ("times_ms", "partitions", "matrix", "scores", "labels", "versions")
            )
        )


def draw(seed: int | Sequence[int], days: float, per_day: int = 2_000, *, is_cold: bool = False) -> Payments:
    """Draw payments of so many days; ``is_cold``: windows are empty at first, and the model trusts what they say."""
    rng = np.random.default_rng(seed)
    n = int(per_day * days)
    times = np.sort(START_MS + rng.integers(0, int(days * DAY_MS), n))
    partitions = rng.integers(0, PARTITIONS, n)
    origin = (rng.random(n)[:, None] > np.cumsum(_SPREAD, axis=1)[partitions]).sum(axis=1)
    amount = rng.lognormal(2.0 + 0.7 * origin, 0.8)
    weight = rng.gamma(2.0 + origin, size=n)
    fraud = np.where(rng.random(n) < 0.3, np.nan, rng.beta(1.0 + 0.3 * origin, 6.0))
    logit = -2.0 + 0.5 * (origin == 3) + 0.4 * np.log(amount / 20) + 4.0 * np.nan_to_num(fraud)
    chance = 1 / (1 + np.exp(-logit))
    if is_cold:  # a label is known after two days at the earliest, and 30 days of them after 32
        age_days = (times - START_MS) / DAY_MS
        known = np.clip((age_days - rng.uniform(0, 2, n)) / 30, 0, 1)
        fraud = np.where(rng.random(n) < known, fraud * (0.5 + known / 2), np.nan)
        logit = -2.0 + 0.5 * (origin == 3) + 0.4 * np.log(amount / 20) + 4.0 * np.nan_to_num(fraud)
    scores = 1 / (1 + np.exp(-logit))
    matrix = np.column_stack([origin, amount, weight, fraud, fraud * weight])
    labels = (rng.random(n) < chance) * 1.0
    return Payments(times, partitions, matrix, scores, labels, np.full(n, "1.0.0"))


@cache
def reference() -> Reference:
    trained = draw(0, 10)
    events = TrainingEvents(trained.matrix, trained.scores, trained.labels)
    columns = [category("origin", 5, ORIGINS), *(numeric(name) for name in FEATURES[1:])]
    return fit_reference(events, columns, 32, segments=Segments.of(pipeline()))


def records_of(payments: Payments) -> list[SketchRecord]:
    """A record for each partition; the first ones hold everything back until the last has come."""
    end_ms = int(payments.times_ms[-1]) + 100 * DAY_MS
    return [
        SketchRecord(partition, end_ms, end_ms, deltas_of(payments.only(payments.partitions == partition)))
        for partition in range(PARTITIONS)
    ]


def deltas_of(payments: Payments) -> list[SketchDelta]:
    """What workers count of payments and their labels."""
    segments = Segments.of(pipeline())
    buffer = SketchBuffer("fraud", pipeline().drift.slice_ms, segments)
    for version in np.unique(payments.versions).tolist():
        some = payments.only(payments.versions == version)
        buffer.add_scored(version, reference(), some.times_ms, some.matrix, some.scores)
        of_events = segments.find(some.matrix).T.tolist()
        buffer.add_labelled(version, reference(), some.times_ms, some.scores, some.labels, of_events)
    return buffer.drain()


def make_monitor(payments: Payments, *, is_warm: bool = True, **changes: Any) -> MonitorCore:
    """A monitor of the versions of payments; ``is_warm``: the stream began long before, with events left unscored."""
    monitor = MonitorCore(replace(pipeline(), **changes), keep=100)
    for version in np.unique(payments.versions).tolist():
        monitor.register_version(version, reference(), {})
    if is_warm:
        since_ms = START_MS - 60 * DAY_MS
        monitor.observe(SketchRecord(0, since_ms, since_ms, [], [], 10_000, [], [], since_ms))
    return monitor


def watch(payments: Payments, *, is_warm: bool = True, **changes: Any) -> Findings:
    """What a monitor says of payments once all have come."""
    monitor = make_monitor(payments, is_warm=is_warm, **changes)
    for record in records_of(payments):
        monitor.observe(record)
    return monitor.collect(now_ms=1)


def alarms(findings: Findings) -> list[tuple[Any, ...]]:
    """What asks for attention: verdicts that are none, signals, alerts."""
    quiet = {"none", "too_little_data"}
    return [
        *(
            (each.window_start_ms, each.version, each.kind, each.headline)
            for each in findings.verdicts
            if each.kind not in quiet
        ),
        *(
            (each.window_start_ms, each.version, each.segment, each.metric, each.test, each.signal)
            for each in findings.reports
            if each.signal != "NONE" and not each.test.startswith("classic")
        ),
        *((each.rule, each.message) for each in findings.alerts),
    ]
