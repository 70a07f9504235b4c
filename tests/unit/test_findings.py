"""Rows say what they are about, and findings are added up in their order."""

from __future__ import annotations

import numpy as np

from app.core.counts.calendar import Window
from app.core.drift.describer import Statistics
from app.core.drift.judgement import DriftResult, Judgement
from app.core.findings import Findings, InputRow, Subject
from schemas.wire import DriftReport

ABOUT = Subject("p", "m", "7", Window(10, 20), 3)


def test_a_row_of_metadata_is_of_one_statistic() -> None:
    labels = (("x", "d1"), ("x", "mean"), ("y", "n"))
    statistics = Statistics(("x", "y"), np.zeros((2, 10)), labels, np.array([0.5, 1.5, 2.0]))
    rows = ABOUT.metadata("scoring", "k=1", statistics, 77)
    assert [(row.metric, row.decile, row.value) for row in rows] == [
        ("x", "d1", 0.5),
        ("x", "mean", 1.5),
        ("y", "n", 2.0),
    ]
    for row in rows:
        assert (row.pipeline, row.model, row.version, row.stage, row.segment) == ("p", "m", "7", "scoring", "k=1")
        assert (row.timestamp_ms, row.window_start_ms, row.window_end_ms, row.revision) == (77, 10, 20, 3)


def test_a_report_has_the_numbers_of_its_verdict() -> None:
    judged = [
        Judgement("k=1", "x", "psi", 400, 50, DriftResult(0.3, 0.01, 0.05, 0.2, "DRIFT", "words")),
        Judgement("all", "y", "ks", 300, 40, DriftResult(None, None, None, None, "NONE")),
    ]
    assert ABOUT.reports(judged) == [
        DriftReport("p", "m", "7", "k=1", "x", "psi", 10, 20, 0.3, 0.01, 0.05, 0.2, 400, 50, "DRIFT", 3, "words"),
        DriftReport("p", "m", "7", "all", "y", "ks", 10, 20, None, None, None, None, 300, 40, "NONE", 3, ""),
    ]


def test_findings_are_nothing_until_there_is_a_row_and_later_ones_come_after() -> None:
    first, later = Findings(), Findings()
    assert (bool(first), first.rows) == (False, 0)
    row = InputRow("p", 0, 1, 1, 1, 0, 0, 0, 0, [], 1)
    first.inputs.append(row)
    later.inputs.append(row._replace(revision=2))
    later.reports += ABOUT.reports([Judgement("all", "x", "ks", 1, 1, DriftResult(None, None, None, None, "NONE"))])
    first.add(later)
    assert (bool(first), first.rows, later.rows) == (True, 3, 2)
    assert [each.revision for each in first.inputs] == [1, 2]
    assert first.reports == later.reports
    assert first.reports is not later.reports
