"""What the monitor reports, as values: rows of ``model_metadata`` and ``performance``, drift reports, alerts.

Times are milliseconds; NaN stands for a value that there is nothing to compute from.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, NamedTuple

from schemas.wire import Alert, DriftReport, WindowVerdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.counts.calendar import Window
    from app.core.drift.describer import Statistics
    from app.core.drift.judgement import Judgement


class MetadataRow(NamedTuple):
    """A row of ``model_metadata``; NaN: nothing to compute it from."""

    pipeline: str
    model: str
    version: str
    stage: str
    segment: str
    metric: str
    decile: str
    value: float
    timestamp_ms: int
    window_start_ms: int
    window_end_ms: int
    revision: int


class PerformanceRow(NamedTuple):
    """A row of ``performance``, one field for each column, hence so many; NaN: none."""

    pipeline: str
    model: str
    version: str
    segment: str
    window_start_ms: int
    window_end_ms: int
    measure: str
    estimated: float
    estimated_low: float
    estimated_high: float
    realised: float
    low: float
    high: float
    expected: float
    p_value: float
    n_labels: int
    label_maturity: float
    revision: int


class InputRow(NamedTuple):
    """A row of ``input_checks``: a slice of the stream, and what was wrong with it."""

    pipeline: str
    window_start_ms: int
    window_end_ms: int
    events: int
    labels: int
    too_late: int
    unknown: int
    other_partition: int
    strays: int
    examples: list[str]
    revision: int


class DelayRow(NamedTuple):
    """A row of ``label_delays``: how long a label took, of the events of one stretch of event time; NaN: none came."""

    pipeline: str
    window_start_ms: int
    window_end_ms: int
    label: int
    n: int
    half_s: float
    share_90_s: float
    share_99_s: float
    slowest_s: float
    revision: int


@dataclass
class Findings:
    """What is new since the last `MonitorCore.collect`, in a fixed order."""

    metadata: list[MetadataRow] = field(default_factory=list)
    reports: list[DriftReport] = field(default_factory=list)
    performance: list[PerformanceRow] = field(default_factory=list)
    verdicts: list[WindowVerdict] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    inputs: list[InputRow] = field(default_factory=list)
    delays: list[DelayRow] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.rows > 0

    @property
    def rows(self) -> int:
        return sum(len(getattr(self, kind.name)) for kind in fields(self))

    def add(self, later: Findings) -> None:
        """What was found after this."""
        for kind in fields(self):
            getattr(self, kind.name).extend(getattr(later, kind.name))


@dataclass(frozen=True)
class Subject:
    """What a set of rows is about."""

    pipeline: str
    model: str
    version: str
    window: Window
    revision: int

    def metadata(
        self, stage: Literal["training", "scoring"], segment: str, statistics: Statistics, now_ms: int
    ) -> list[MetadataRow]:
        about = self.pipeline, self.model, self.version, stage, segment
        when = now_ms, self.window.start_ms, self.window.end_ms, self.revision
        return [MetadataRow(*about, metric, decile, value, *when) for metric, decile, value in statistics.rows()]

    def reports(self, tested: Iterable[Judgement]) -> list[DriftReport]:
        return [
            DriftReport(
                pipeline=self.pipeline,
                model=self.model,
                version=self.version,
                segment=segment,
                metric=metric,
                test=test,
                window_start_ms=self.window.start_ms,
                window_end_ms=self.window.end_ms,
                statistic=verdict.statistic,
                p_value=verdict.p_value,
                threshold=verdict.threshold,
                effect=verdict.effect,
                n_reference=n_reference,
                n_detection=n_detection,
                signal=verdict.signal,
                revision=self.revision,
                note=verdict.note,
            )
            for segment, metric, test, n_reference, n_detection, verdict in tested
        ]
