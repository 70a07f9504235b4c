from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.report import write_report
from app.report.facts import SCORE_BINS, AlertStep, Facts, Month, Performance, Report, Version, name_window
from app.report.page import render
from schemas.pipeline.file import load

HOUR = 3_600_000
FEATURES = ("temp", "humid", "late_24h", "days_to_holiday", "hour", "distance", "visib")
REALISED = (0.76, 0.74, 0.75, 0.71, 0.72, 0.70, 0.67, 0.67, 0.69, 0.74)


def month_ms(month: int) -> int:
    return int(datetime(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000)


def served_by(month: int) -> tuple[str, ...]:
    return ("1.0.0",) if month < 7 else ("1.0.0", "1.1.0") if month == 7 else ("1.1.0",)


def make_facts() -> Facts:
    chance = np.random.default_rng(7)
    months = range(3, 13)
    swap = month_ms(7) + 9 * 24 * HOUR
    shares = [(m, version) for m in months for version in served_by(m)]
    reports = [
        Report(version, metric, "psi", month_ms(m), month_ms(m + 1), psi, "DRIFT" if psi >= 0.2 else "NONE", 20_000)
        for m, version in shares
        for place, metric in enumerate((*FEATURES, "score", "outcome"))
        for psi in [float(chance.gamma(1.0, 0.5 / (1 + place)))]
    ]
    deciles: dict[str, dict[str, list[tuple[int, int, tuple[float, ...]]]]] = {}
    for m, version in shares:
        for metric in FEATURES:
            found = tuple(float(v) for v in np.sort(chance.normal(10 * math.sin(m), 5, 9)))
            series = deciles.setdefault(metric, {}).setdefault(version, [])
            series.append((month_ms(m), month_ms(m + 1), found))
    return Facts(
        versions=(
            Version("1.0.0", month_ms(3), swap, 110_000, month_ms(1), month_ms(3), 0.77),
            Version("1.1.0", swap, month_ms(13) - HOUR, 167_000, month_ms(5), month_ms(7), 0.78),
        ),
        performance=tuple(
            Performance(version, month_ms(m), month_ms(m + 1), auc, auc - 0.006, auc + 0.006, 27_000)
            for m, version in shares
            for auc in [REALISED[m - 3] + (0.05 if version == "1.1.0" else 0.0)]
        ),
        reports=tuple(reports),
        months=tuple(
            Month(
                month_ms(m),
                tuple(int(v) for v in np.histogram(chance.beta(1.5 + m / 9, 6, 20_000), SCORE_BINS, (0, 1))[0]),
                0.2 + m / 100,
                0.05,
            )
            for m in months
        ),
        outcome={month_ms(m): 0.2 + 0.02 * math.sin(m) for m in months},
        deciles=deciles,
        training_deciles={name: {"1.0.0": tuple(float(v) for v in range(-4, 5))} for name in FEATURES},
        alerts=(
            AlertStep(
                "raised", "auc-fell", "critical", "1.0.0", month_ms(7), month_ms(6), month_ms(7),
                "auc of flights-late 1.0.0 is 0.71 in 2013-06-01 to 2013-07-01 UTC, below limit 0.72 <b>&", "retrain",
            ),
        ),
    )  # fmt: skip


def make_summary() -> dict[str, Any]:
    account = {"events": 277_000, "scored": 277_000, "dead_letters": 0, "lost": 0, "doubled": 0, "unknown": 0}
    return {
        "events": 277_000, "scored": 277_000, "dead_letters": 0, "lost": 0, "doubled": 0, "swaps": 1, "seconds": 171.3,
        "events_per_second": 4100.0, "drift_reports": 990, "alerts": 1, "peak_rss_mb": 1890.5, "processors": 2,
        "balanced": True, "held_events_per_second": 4000, "events_per_second_unthrottled": 15_000.0,
        "phase_seconds": {"start": 9.0, "train": 21.2, "stream": 90.0, "drain": 12.0, "ledger": 9.0},
        "retrains": [
            {"version": "1.1.0", "seconds": 24.0, "from_ms": month_ms(5), "to_ms": month_ms(7), "held_to": 1500,
             "started_ms": month_ms(7) + 3 * 24 * HOUR},
        ],
        "peak_rss_mb_by_process": {"kafka": 350.2, "worker": 400.0},
        "clickhouse_tables": {"scores": 277_000, "drift_reports": 990},
        "command": "streamgauge demo",
        "ledger": {
            "accounts": [{"where": where, **account, "balanced": True} for where in ("topics", "ClickHouse")],
            "faults": [],
            "runs": [{"partition": 0, "version": "1.0.0", "first_offset": 0, "last_offset": 9, "n": 10}],
        },
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser would fetch from elsewhere, and whether every element is closed."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "srcset"} and not (value or "").startswith(("#", "data:")):
                self.fetched.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_facts(), make_summary(), load("flights"))


@pytest.mark.slow
def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    read = Page(page)
    assert read.fetched == []
    assert read.open == []
    assert "<script" not in page
    assert not re.search(r"@import|url\((?!#)", page)


@pytest.mark.slow
def test_ids_of_all_plots_are_their_own_and_each_reference_has_its_target(page: str) -> None:
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    assert page.count("<svg") == 4
    wanted = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert set(wanted) <= set(ids)


@pytest.mark.slow
def test_equal_facts_give_equal_bytes(page: str) -> None:
    assert render(make_facts(), make_summary(), load("flights")) == page


@pytest.mark.slow
def test_the_page_says_the_numbers_and_escapes_what_others_wrote(page: str) -> None:
    for words in ("277,000", "1.1.0", "0.7600", "0 / 0", "auc-fell raised", "held to at most 4,000 events a second"):
        assert words in page
    assert "limit 0.72 &lt;b&gt;&amp;" in page
    assert "does not balance" not in page
    assert re.search(r"\$\w", page) is None


@pytest.mark.slow
def test_a_ledger_that_does_not_balance_is_said_at_the_top_and_in_its_section() -> None:
    summary = make_summary()
    summary |= {"balanced": False, "lost": 3}
    summary["ledger"]["faults"] = ["topics: 3 lost, e.g. 0@1."]
    page = render(make_facts(), summary, load("flights"))
    assert "does not balance" in page
    assert "topics: 3 lost, e.g. 0@1." in page
    assert '<div class="card bad">' in page


def test_a_short_run_without_closed_windows_still_gives_a_page(tmp_path: Path) -> None:
    facts = make_facts()
    short = replace(
        facts,
        versions=facts.versions[:1],
        performance=(),
        reports=(),
        months=facts.months[:1],
        outcome={},
        deciles={},
        alerts=(),
    )
    text = write_report(tmp_path / "report", short, make_summary() | {"swaps": 0}, load("flights")).read_text()
    assert text.count("<svg") == 1
    assert "Which inputs moved?" not in text


def test_a_whole_month_has_its_name_and_any_other_window_its_first_day() -> None:
    assert name_window(month_ms(2), month_ms(3)) == "Feb"
    assert name_window(month_ms(2) + 24 * HOUR, month_ms(2) + 8 * 24 * HOUR) == "2 Feb"
