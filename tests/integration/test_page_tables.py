"""What the monitor's page asks of the tables, on the engine, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.adapters.clickhouse.read_pool import ReadPool
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.http.page import Page, render
from app.adapters.http.tables import MonitorTables, Tables
from app.adapters.http.worker import Health

DAY_MS = 86_400_000
HARDLY = "hardly to be judged: 0.75 independent looks a window"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ClickHouseWarehouse]:
    warehouse = ClickHouseWarehouse(path=tmp_path / "clickhouse")
    warehouse.migrate()
    yield warehouse
    warehouse.close()


def insert(engine: ClickHouseWarehouse, table: str, rows: list[dict[str, Any]]) -> None:
    engine.insert(table, {name: [row[name] for row in rows] for name in rows[0]})


def look(engine: ClickHouseWarehouse) -> Tables:
    async def ask() -> Tables:
        pool = ReadPool(engine, running=2, waiting=20)
        tables = MonitorTables("p", pool)
        while (found := await tables.all.get()).value is None:
            assert not found.error
        await pool.close()
        return found.value

    return asyncio.run(ask())


def page_of(tables: Tables) -> str:
    return render(Page("p", {}, {}, Health(live=True, ready=True, why=""), tables, datetime(2026, 1, 1, tzinfo=UTC)))


# -- drift -----------------------------------------------------------------------------------------------------------


def report(metric: str, test: str, day: int = 0, **values: Any) -> dict[str, Any]:
    """A test that was judged and found nothing, unless it is said otherwise."""
    about = {"pipeline": "p", "model": "m", "version": "1", "segment": "all", "metric": metric, "test": test}
    window = {"window_start": day * DAY_MS, "window_end": (day + 1) * DAY_MS}
    numbers = {"statistic": 0.1, "p_value": 0.5, "threshold": 0.01, "effect": 0.1, "n_reference": 9, "n_detection": 9}
    return {**about, **window, **numbers, "signal": "NONE", "revision": 1, "note": "", **values}


def test_what_no_test_could_judge_is_told_apart_from_what_is_quiet(engine: ClickHouseWarehouse) -> None:
    """A past that can be judged says nothing of a comparison that cannot."""
    hard = {"threshold": None, "note": HARDLY}
    rows = [
        *(report("quiet", test) for test in ("psi", "ks")),
        report("quiet", "trend", threshold=None, note="too little history"),
        *(report("hard", test, statistic=3.8, **hard) for test in ("psi", "ks")),
        report("hard", "trend"),
        report("hard", "classic_ks", threshold=0.05, signal="WARNING"),
        report("hard", "psi", segment="land=DE"),
        report("moved", "psi", signal="DRIFT"),
        report("moved", "ks", threshold=None, note="no values to compare"),
        report("silent", "psi", statistic=None, p_value=None, effect=None, threshold=None, note="it is filling"),
        report("silent", "trend", statistic=None, p_value=None, effect=None, threshold=None, note="it is filling"),
        report("of_past", "trend"),
    ]
    insert(engine, "drift_reports", rows)
    found = {row["metric"]: (bool(row["is_judged"]), row["psi"], row["note"]) for row in look(engine).drift}
    assert found == {
        "quiet": (True, 0.1, ""),
        "hard": (False, 3.8, HARDLY),
        "moved": (True, 0.1, ""),
        "silent": (False, None, "it is filling"),
        "of_past": (True, None, ""),
    }


# -- performance -----------------------------------------------------------------------------------------------------


def measured(day: int, segment: str = "all", measure: str = "auc", **values: Any) -> dict[str, Any]:
    """As promised, unless it is said otherwise."""
    about = {"pipeline": "p", "model": "m", "version": "1", "segment": segment, "measure": measure}
    window = {"window_start": day * DAY_MS, "window_end": (day + 1) * DAY_MS}
    numbers = {"estimated": 0.8, "estimated_low": 0.7, "estimated_high": 0.9, "expected": 0.8, "p_value": 0.5}
    came = {"realised": 0.8, "low": 0.75, "high": 0.85, "n_labels": 900, "label_maturity": 1.0, "revision": 1}
    return {**about, **window, **numbers, **came, **values}


def test_the_newest_windows_have_all_their_measures(engine: ClickHouseWarehouse) -> None:
    names = ("accuracy", "auc", "cost", "f1", "log_loss", "positives", "precision", "recall")
    insert(engine, "performance", [measured(day, measure=name) for day in range(30) for name in names])
    rows = look(engine).performance
    assert len({row["window_start"] for row in rows}) * len(names) == len(rows) == 160
    assert rows[0]["window_start"].startswith("1970-01-30")


def test_segments_are_worse_than_promised_where_chance_does_not_explain_it_and_it_matters(
    engine: ClickHouseWarehouse,
) -> None:
    """Of the newest window with labels; the one after it has only estimates."""
    unknown = {"realised": None, "low": None, "high": None, "expected": None}
    rows = [
        *(measured(day) for day in range(3)),
        measured(3, **unknown),
        measured(2, "land=DE", realised=0.6, low=0.5, high=0.7),
        measured(2, "land=FR", realised=0.3, low=0.1, high=0.5),
        measured(2, "land=NG", realised=0.7, low=0.62, high=0.78),  # just outside of its range, as by chance
        measured(2, "land=PL", realised=0.79, low=0.789, high=0.791),  # surely, and by nothing that matters
        measured(2, "land=US", realised=0.95, low=0.94, high=0.96),
        measured(2, "land=XX", realised=0.1, low=None, high=None),
        measured(1, "land=US", realised=0.1, low=0.05, high=0.15),
        measured(3, "land=DE", **unknown),
        measured(2, "land=US", "recall", realised=0.1, low=0.05, high=0.15),
    ]
    insert(engine, "performance", rows)
    assert [row["segment"] for row in look(engine).worse_segments] == ["land=FR", "land=DE"]


def test_until_when_labels_have_come_is_known_where_any_have(engine: ClickHouseWarehouse) -> None:
    assert look(engine).labels == []
    counts = {"too_late": 0, "unknown": 0, "other_partition": 0, "strays": 0, "examples": [], "revision": 1}

    def of_day(day: int, labels: int) -> dict[str, Any]:
        window = {"window_start": day * DAY_MS, "window_end": (day + 1) * DAY_MS}
        return {"pipeline": "p", **window, "events": 9, "labels": labels, **counts}

    insert(engine, "input_checks", [of_day(0, 0)])
    assert look(engine).labels == [{"newest": None}]
    insert(engine, "input_checks", [of_day(1, 5), of_day(2, 0)])
    (row,) = look(engine).labels
    assert row["newest"].startswith("1970-01-03T00:00")
    assert "tables as of" in page_of(look(engine))


# -- alerts ----------------------------------------------------------------------------------------------------------


def told(alert_id: str, revision: int, state: str, message: str, **values: Any) -> dict[str, Any]:
    about = {"alert_id": alert_id, "pipeline": "p", "rule": "r", "severity": "warning", "state": state, "model": "m"}
    window = {"version": "1", "at": revision, "window_start": 0, "window_end": DAY_MS, "since": 0}
    said = {"measure": "auc", "value": 0.5, "threshold": 0.7, "message": message, "action": "", "revision": revision}
    rest = {"who": "", "alert_group": "", "others": [], "owner": "", "runbook": "", "why": ""}
    return {**about, **window, **said, **rest, **values}


def verdict(day: int, headline: str, advice: str, version: str = "1") -> dict[str, Any]:
    about = {"pipeline": "p", "model": "m", "version": version, "kind": "concept_drift", "headline": headline}
    window = {"window_start": day * DAY_MS, "window_end": (day + 1) * DAY_MS}
    lists = {"metrics": [], "shares": [], "words": [], "segments": [], "example": ""}
    numbers = {"n_reference": 9, "n_detection": 9, "with_labels": True, "revision": 1}
    return {**about, **window, **lists, **numbers, "advice": advice, "reason": f"Because of day {day}."}


def test_an_open_alert_stands_beside_what_the_newest_windows_say(engine: ClickHouseWarehouse) -> None:
    """Of performance the newest with labels and the verdict of that window; of verdicts the newest with and without."""
    insert(
        engine,
        "alerts",
        [
            told("a", 1, "raised", "auc of m 1 is 0.5"),
            told("b", 1, "raised", "the verdict", measure="verdict"),
            told("c", 1, "cleared", "over", version="2"),
        ],
    )
    rows = [measured(day, realised=0.5 - day / 10) for day in range(3)]
    insert(engine, "performance", [*rows, measured(3, realised=None), measured(9, version="2")])
    verdicts = [verdict(day, f"Day {day}.", "retrain") | {"with_labels": day < 3} for day in range(4)]
    insert(engine, "verdicts", [*verdicts, verdict(9, "", "", "2")])
    tables = look(engine)
    found = {(row["version"], row["measure"], row["with_labels"]): row for row in tables.newest}
    assert set(found) == {("1", "auc", True), ("1", "verdict", True), ("1", "verdict", False)}
    now = found["1", "auc", True]
    assert (now["window_start"][:10], now["realised"], now["headline"]) == ("1970-01-03", 0.3, "Day 2.")
    assert found["1", "verdict", True]["headline"] == "Day 2."
    assert found["1", "verdict", False]["headline"] == "Day 3."
    page = page_of(tables)
    assert "auc of m 1 is 0.5" in page
    assert (
        "Newest window with labels, 1970-01-03 to 1970-01-04: auc 0.3000 (0.7500 to 0.8500), promised 0.8000." in page
    )
    assert "<b>retrain</b>: Because of day 2." in page
    assert "Newest window, 1970-01-04 to 1970-01-05: Day 3." in page


def test_an_alert_that_is_over_says_what_it_was(engine: ClickHouseWarehouse) -> None:
    """Its first words, whoever took it on in between; one that was silenced has no others."""
    insert(
        engine,
        "alerts",
        [
            told("a", 1, "raised", "auc of m 1 is 0.5"),
            told("a", 2, "acknowledged", "auc of m 1 is 0.5; new since", who="ana"),
            told("a", 3, "cleared", "auc of m 1 is 0.8: r is over"),
            told("b", 1, "silenced", "it is night"),
        ],
    )
    found = {row["alert_id"]: row["opening"] for row in look(engine).other_alerts}
    assert found == {"a": "auc of m 1 is 0.5", "b": "it is night"}
