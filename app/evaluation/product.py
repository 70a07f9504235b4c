"""The product on windows of counts: a monitor of one version, fed and closed as that of a stream is.

Counts take the way that they take in a stream: counted in the cells of a reference, packed as a delta of the sketches
topic, merged and judged by `app.core.monitoring.core.MonitorCore`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL, pack
from app.core.findings import Findings
from app.core.monitoring.core import MonitorCore
from models.reference.reference import Counts, Reference
from schemas.pipeline.drift import DRIFT_TESTS
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import DriftReport, SketchRecord

Bools = NDArray[np.bool_]

#: What a drift report must say for its window to count as alarmed, and of which tests it is no alarm: the textbook's,
#: which stand beside and have no part in the budget.
ALARMING = frozenset({"WARNING", "DRIFT"})
BESIDE = "classic_"
VERSION = "1.0.0"


def make_pipeline(
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    window: int,
    *,
    per_events: int,
    labels: bool,
    maturity_s: int = 0,
    tests: Iterable[str] = tuple(DRIFT_TESTS),
) -> Pipeline:
    """A pipeline of fields that are features, with tumbling windows of so many events, one event a second.

    Parameters
    ----------
    categories
        The values of the features that are categories; the others are numbers.
    per_events
        The declared budget: one false alarm in so many events.
    maturity_s
        How long after its end a window waits for labels.
    tests
        The drift tests that run; all by default.
    """
    types = {name: "string" if name in categories else "float" for name in features}
    lines = [
        'name = "evaluation"\npartitions = 1\n[model]\nname = "evaluation"\n[events]\nentity = "id"\nid = "id"',
        'time = "time_ms"\nearliest = 1970-01-01T00:00:00Z\n[events.fields]\nid = "string"\ntime_ms = "int"',
        *(f'{name} = "{kind}?"' for name, kind in types.items()),
        *(_feature(name, categories.get(name)) for name in features),
        f'[drift]\nwindow = "{window}s"\nslice = "{window}s"\ngrace = "0s"\nbins = 128',
        f"false_alarms = 1\nper_events = {per_events}",
        f"tests = [{', '.join(_test(name) for name in tests)}]",
        f'[labels]\nhorizon = "{maturity_s + 1}s"\n[performance]\nmaturity = "{maturity_s}s"' if labels else "",
    ]
    return read_pipeline("\n".join(lines))


def read_pipeline(text: str) -> Pipeline:
    """The pipeline of a file with this text."""
    with tempfile.TemporaryDirectory(prefix="streamgauge-evaluation-") as folder:
        path = Path(folder) / "evaluation.toml"
        path.write_text(text, encoding="utf-8")
        return load(path)


def watch(pipeline: Pipeline, reference: Reference, windows: Iterable[tuple[Window, Counts]]) -> Findings:
    """What a monitor says of windows; their labels, if any, are in their counts, and all mature.

    What is said of a window depends on its counts and those before it alone, so all are closed at once.
    """
    windows = list(windows)
    deltas = [pack(pipeline.model.name, VERSION, ALL, window.start_ms, counts) for window, counts in windows]
    end_ms = windows[-1][0].end_ms + pipeline.drift.grace_ms + pipeline.performance.maturity_ms
    ends = [SketchRecord(partition, end_ms, end_ms, []) for partition in range(pipeline.partitions)]
    ends[0].deltas = deltas
    return follow(pipeline, reference, ends, keep=len(windows))


def follow(
    pipeline: Pipeline,
    reference: Reference,
    records: Iterable[SketchRecord],
    *,
    keep: int,
    training: Window | None = None,
    versions: Iterable[str] = (VERSION,),
) -> Findings:
    """What a monitor says as records of the sketches topic come.

    ``keep``: closed windows that stay open to labels; ``training``: event time of the training data; ``versions``:
    those with this reference.
    """
    monitor = MonitorCore(pipeline, keep=keep)
    for version in versions:
        monitor.register_version(version, reference, {}, training)
    findings = Findings()
    for record in records:
        monitor.observe(record)
        findings.add(monitor.collect(now_ms=0))
    return findings


def consecutive(pipeline: Pipeline, windows: Sequence[Counts]) -> list[tuple[Window, Counts]]:
    """Counts as windows of a pipeline of `make_pipeline`, one after the other."""
    size_ms = pipeline.drift.slice_ms
    return [(Window(at * size_ms, (at + 1) * size_ms), counts) for at, counts in enumerate(windows)]


def alarms(report: DriftReport) -> bool:
    """Whether a report is an alarm."""
    return report.signal in ALARMING and not report.test.startswith(BESIDE)


def alarmed(reports: Iterable[DriftReport], windows: Iterable[Window]) -> Bools:
    """Which windows have a report that alarms."""
    starts = {report.window_start_ms for report in reports if alarms(report)}
    return np.array([window.start_ms in starts for window in windows], np.bool_)


def _feature(name: str, values: Sequence[str] | None) -> str:
    kind = 'type = "float"' if values is None else f'type = "category"\nvalues = {list(values)}'
    return f'[[features]]\nname = "{name}"\n{kind}\nexpression = "{name}"'


def _test(name: str) -> str:
    return f'{{ test = "{name}" }}'
