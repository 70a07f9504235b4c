"""What is known of one window of one version, gathered for its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.core.drift.silences import NOTHING_SILENT, Silence
from app.core.labels.selection import WindowLabels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.core.drift.judgement import Judgement
    from app.core.faults.since import Course
    from app.core.faults.traffic import Traffic
    from app.core.findings import PerformanceRow
    from app.core.verdict.situation import Predecessor
    from models.reference.reference import Counts


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a verdict rests on.

    Parameters
    ----------
    counts
        Of the window, by segment.
    drifts
        What the tests call a drift.
    performance
        Rows of the window.
    traffic
        Numbers of events of the window and of past ones, of all versions; None: another version tells them.
    predecessor
        Of `app.core.verdict.succession`, where labels are mature.
    alpha
        What the tests of labels may spend.
    labels
        What is known of its labels.
    awaits_labels
        Whether there are labels, and they are not mature yet.
    is_worse
        Whether `app.core.verdict.diagnosis.MEASURE` is surely below what the scores promise
        (`app.core.alerts.readings.read_performance`).
    silence
        What is not compared.
    course
        Gives the parts of the window and of the one before.
    """

    counts: Mapping[str, Counts]
    drifts: Sequence[Judgement]
    performance: Sequence[PerformanceRow]
    traffic: Traffic | None
    predecessor: Predecessor | None
    alpha: float
    labels: WindowLabels = WindowLabels(is_mature=False)  # noqa: RUF009  # a tuple
    awaits_labels: bool = False
    is_worse: bool = False
    silence: Silence = NOTHING_SILENT
    course: Callable[[], Course | None] = lambda: None
