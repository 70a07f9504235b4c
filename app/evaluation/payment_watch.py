"""A monitor of payments: the pipeline file, the reference of a version, what workers send, and what is said of it.

The monitor is fed as a stream feeds it: a record a day, with the events of the day, the labels of the day that has
become mature, and the wrong decisions whose labels came, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL, pack
from app.core.errors.watch import ERROR
from app.core.findings import Findings
from app.evaluation.payment_stream import (
    A_DAY,
    COLUMN,
    DAY_MS,
    FIRST_DAY,
    MERCHANTS,
    SLOWEST_DAYS,
    Ints,
    Payments,
)
from app.evaluation.product import VERSION, read_pipeline
from app.evaluation.product import follow as watch_records
from models.reference.counting import count, count_outcomes
from models.reference.error_hours import hours_of
from models.reference.reference import Counts, Reference
from models.reference.segments import Segments
from models.training import make_reference
from models.training_rows import LabelledRows
from schemas.wire import ErrorRun, SketchRecord

if TYPE_CHECKING:
    from schemas.pipeline.spec import Pipeline
    from schemas.wire import SketchDelta

#: One false alarm in a hundred windows.
PER_EVENTS = 100 * A_DAY
#: The version that another one takes the place of is `VERSION`.
NEXT_VERSION = "2.0.0"
_NO_ALARM = frozenset({"none", "too_little_data"})

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
    return read_pipeline(text)


def fit(pipeline: Pipeline, payments: Payments) -> Reference:
    """The reference of a version that was trained on these payments, all of whose labels have come."""
    rows = LabelledRows(payments.matrix, payments.labels, payments.times_ms)
    return make_reference(pipeline, rows, payments.scores)


def records(
    pipeline: Pipeline,
    reference: Reference,
    payments: Payments,
    first: int,
    *,
    is_new: bool = False,
    swap: Ints | None = None,
) -> Iterator[SketchRecord]:
    """What one partition sends: a record a day, from the ``first`` one until the last day's labels are mature.

    Parameters
    ----------
    is_new
        Whether the stream begins with the first day; else windows had been filled before.
    swap
        Of each merchant, the event time from which another version, trained on the same, scores it; None: none does.
    """
    last = int(payments.times_ms[-1]) // DAY_MS
    waiting = pipeline.performance.maturity_ms // DAY_MS
    for day in range(first, last + waiting + 1):
        end_ms = (day + 1) * DAY_MS
        deltas: list[SketchDelta] = []
        errors: list[ErrorRun] = []
        for version, part in _by_version(payments, swap):
            if day <= last:
                deltas += _of_events(pipeline, reference, part.day(day), day, version)
            if first <= day - waiting <= last:
                deltas += _of_labels(pipeline, reference, part.day(day - waiting), day - waiting, version)
            errors.append(_of_errors(pipeline, reference, part, day, version))
        unscored = A_DAY * first if day == first and not is_new else 0  # the stream is older than what is scored
        yield SketchRecord(0, end_ms, end_ms, deltas, errors, unscored, unscored_since_ms=0 if unscored else None)


def _by_version(payments: Payments, swap: Ints | None) -> Iterator[tuple[str, Payments]]:
    if swap is None:
        yield VERSION, payments
        return
    merchants = payments.matrix[:, COLUMN["merchant"]].astype(np.int64)
    is_new = payments.times_ms >= swap[merchants]
    yield VERSION, payments.of(~is_new)
    yield NEXT_VERSION, payments.of(is_new)


def _of_events(pipeline: Pipeline, reference: Reference, of: Payments, day: int, version: str) -> list[SketchDelta]:
    segments = Segments.of(pipeline).split(of.matrix)
    counted = {name: count(reference, of.matrix[at], of.scores[at]) for name, at in segments}
    return _pack(pipeline, counted, day, version)


def _of_labels(pipeline: Pipeline, reference: Reference, of: Payments, day: int, version: str) -> list[SketchDelta]:
    segments = Segments.of(pipeline).split(of.matrix)
    counted = {name: count_outcomes(reference, of.scores[at], of.labels[at]) for name, at in segments}
    return _pack(pipeline, counted, day, version)


def _of_errors(pipeline: Pipeline, reference: Reference, of: Payments, day: int, version: str) -> ErrorRun:
    """Of the labels that come on a day, in the order in which they come."""
    of = of.of((of.label_times_ms >= day * DAY_MS) & (of.label_times_ms < (day + 1) * DAY_MS))
    of = of.of(np.argsort(of.label_times_ms, kind="stable"))
    counts_ms = np.maximum(of.label_times_ms, of.times_ms + pipeline.performance.maturity_ms)
    wrong = (of.scores >= reference.threshold) != (of.labels == 1)
    return ErrorRun(
        version,
        counts_ms.astype("<i8").tobytes(),
        (wrong + 2 * (of.labels == 1)).astype(np.uint8).tobytes(),
        hours_of(of.times_ms).astype(np.uint8).tobytes(),
    )


def _pack(pipeline: Pipeline, of_segments: dict[str, Counts], day: int, version: str) -> list[SketchDelta]:
    """Of each segment and, if there are any, of all events: the segments of one column add up to them."""
    if not of_segments:
        return []
    counted = {ALL: reduce(add, of_segments.values()), **of_segments}
    return [pack(pipeline.model.name, version, name, day * DAY_MS, counts) for name, counts in counted.items()]


def follow(
    pipeline: Pipeline,
    reference: Reference,
    payments: Payments,
    first: int,
    *,
    is_new: bool = False,
    swap: Ints | None = None,
) -> Findings:
    """What the monitor says of these days, in its order; see `records`."""
    return watch_records(
        pipeline,
        reference,
        records(pipeline, reference, payments, first, is_new=is_new, swap=swap),
        keep=SLOWEST_DAYS + 4,
        training=Window(FIRST_DAY * DAY_MS, first * DAY_MS),
        versions=(VERSION,) if swap is None else (VERSION, NEXT_VERSION),
    )


def alarmed_windows(findings: Findings) -> dict[str, set[int]]:
    """Days with an alarm, by what alarmed: kinds of verdicts, detectors ("error") and alerts ("alert")."""
    days: dict[str, set[int]] = {}
    for verdict in findings.verdicts:
        if verdict.kind not in _NO_ALARM:
            days.setdefault(verdict.kind, set()).add(verdict.window_start_ms // DAY_MS)
    for report in findings.reports:
        if report.metric == ERROR and report.signal == "DRIFT":
            days.setdefault("error", set()).add((report.window_end_ms - 1) // DAY_MS)
    for alert in findings.alerts:
        if alert.state == "raised":
            days.setdefault("alert", set()).add((alert.window_start_ms or 0) // DAY_MS)
    return days
