"""The difference of two versions on the same events, for ``streamgauge replay --diff``: table, plot, rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from app.adapters.http.row_writers import RowWriter
from app.adapters.recordings.part import RecordingPart
from app.adapters.recordings.scores import RecordedScores, score_columns
from app.cli.model_context import ModelContext
from app.core.replay.score_diff import ALL, DiffRow, ScoreDiff
from app.core.scoring import ActiveModel
from app.flow.step import Step
from app.ports import ColumnValues
from app.replay.models import load_model
from app.replay.part_selector import is_counted
from schemas.tables import SCORE_DIFFS

RECORDED = "recorded"
_SHOWN = {
    "n": "events",
    "mean_difference": "mean diff",
    "abs_p50": "|diff| p50",
    "abs_p90": "p90",
    "abs_p99": "p99",
    "abs_max": "max",
    "changed_share": "decisions changed",
    "correlation": "correlation",
    "psi": "PSI",
    "n_labels": "labels",
    "auc_before": "AUC before",
    "auc_after": "AUC after",
}


class Comparison:
    """Two sides on the events of a replay that the second side scores.

    Parameters
    ----------
    model
        Who scores the first side; None: the recorded scores.
    """

    def __init__(self, before: str, after: str, model: ActiveModel | None, part: RecordingPart) -> None:
        self.before = before
        self.after = after
        self.diff = ScoreDiff()
        self._model = model
        self._recorded = {
            partition: RecordedScores(part, partition, lambda offset, of=partition: part.counts(of, offset))  # type: ignore[misc]  # binds the loop's value
            for partition in part.partitions
        }
        self._first_ms: int | None = None
        self._last_ms = 0
        self._rows: list[DiffRow] = []

    @classmethod
    def load(cls, context: ModelContext, before: str, after: str, part: RecordingPart) -> Comparison:
        """Load the version that scores the first side."""
        model = None if before == RECORDED else load_model(context.pipeline, context.registry, before)
        return cls(before, after, model, part)

    def add(self, step: Step, part: RecordingPart) -> None:
        """Take a step of the replay; of a step of the warm-up, only its labels."""
        if not is_counted(step, part):
            if not len(step.events):
                self.diff.add_labels(step.partition, step.labels)
            return
        ((_, _, model),) = step.runs  # one version scores the second side
        if self._model is None:
            before = score_columns(self._recorded[step.partition].at(step.events.offsets))
        else:
            scores = self._model.scorer.score(step.matrix)
            before = scores, scores >= self._model.threshold
        self.diff.add_events(
            step.partition,
            step.events,
            (before[0], step.scores),
            (before[1], step.scores >= model.threshold),
            step.labels,
        )
        first, last = int(step.events.event_time_ms.min()), int(step.events.event_time_ms.max())
        self._first_ms = first if self._first_ms is None else min(first, self._first_ms)
        self._last_ms = max(last, self._last_ms)

    @property
    def range_ms(self) -> tuple[int, int]:
        """Event times of the events compared, half-open."""
        return (self._first_ms, self._last_ms + 1) if self._first_ms is not None else (0, 0)

    @property
    def rows(self) -> list[DiffRow]:
        """Every measure of every segment."""
        if not self._rows:
            self._rows = self.diff.rows()
        return self._rows

    def segments(self) -> dict[str, dict[str, float]]:
        """Measures by segment, all events first."""
        segments: dict[str, dict[str, float]] = {}
        for row in self.rows:
            segments.setdefault(row.segment, {})[row.measure] = row.value
        return segments

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        segments = {
            segment: {name: None if math.isnan(value) else value for name, value in measures.items()}
            for segment, measures in self.segments().items()
        }
        return {
            "before": self.before,
            "after": self.after,
            "only_before": self.diff.only_before,
            "only_after": self.diff.only_after,
            "segments": segments,
        }


def describe_diff(comparison: Comparison) -> list[str]:
    """The difference as lines of a table."""
    segments = comparison.segments()
    table = Table(title=f"{comparison.before} → {comparison.after}", title_justify="left", header_style="bold")
    table.add_column("")
    for title in _SHOWN.values():
        table.add_column(title, justify="right")
    for segment, measures in segments.items():
        table.add_row(segment, *(_format(name, measures[name]) for name in _SHOWN))
    console = Console(width=150, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    lines = [capture.get().rstrip("\n")]
    if comparison.diff.only_before:
        lines.append(f"{comparison.diff.only_before:,} events have a score of {comparison.before} alone.")
    if comparison.diff.only_after:
        lines.append(f"{comparison.diff.only_after:,} events have a score of {comparison.after} alone.")
    return lines


def _format(name: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    if name in {"n", "n_labels"}:
        return f"{value:,.0f}"
    if name == "changed_share":
        return f"{100 * value:.2f} %"
    return f"{value:+.4f}" if name == "mean_difference" else f"{value:.4f}"


def check_plot(path: Path) -> None:
    """UsageError when a plot cannot be drawn into that file: said before hours of work, not after."""
    if path.suffix not in {".svg", ".png"}:
        raise click.UsageError(f"--plot {path}: name it .svg or .png.")
    try:
        import matplotlib as mpl  # noqa: PLC0415  # an extra; only for --plot
    except ImportError as error:
        raise click.UsageError("--plot needs matplotlib: pip install 'streamgauge[demo]'.") from error
    del mpl


def draw_diff(comparison: Comparison, path: Path, threshold: float) -> None:
    """Draw the difference; the file appears when it is whole."""
    from app.report.diff_plot import draw  # noqa: PLC0415  # matplotlib takes a second; only for --plot

    before, after = comparison.diff.scores()
    names = comparison.before, comparison.after
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    draw(partial, names, (before, after), comparison.segments(), threshold)
    partial.replace(path)


def write_diff(context: ModelContext, comparison: Comparison) -> int:
    """Write every measure to ClickHouse; how many rows."""
    rows = comparison.rows
    start_ms, end_ms = comparison.range_ms
    columns: dict[str, ColumnValues] = {
        "pipeline": [context.pipeline.name] * len(rows),
        "model": [context.model] * len(rows),
        "before": [comparison.before] * len(rows),
        "after": [comparison.after] * len(rows),
        "range_start": [start_ms] * len(rows),
        "range_end": [end_ms] * len(rows),
        "segment": [row.segment for row in rows],
        "measure": [row.measure for row in rows],
        "value": [row.value if math.isfinite(row.value) else None for row in rows],
    }
    with RowWriter(context.settings.clickhouse, context.home) as writer:
        return writer.insert(SCORE_DIFFS.name, columns)


__all__ = ["ALL", "RECORDED", "Comparison", "check_plot", "describe_diff", "draw_diff", "write_diff"]
