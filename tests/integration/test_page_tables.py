"""What the monitor's page asks of the tables, on the engine, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.adapters.clickhouse import ClickHouseWarehouse
from app.adapters.monitor_page import Page, render
from app.adapters.monitor_tables import MonitorTables, Tables
from app.adapters.read_pool import ReadPool
from app.adapters.worker_http import Health

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
