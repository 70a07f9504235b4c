"""Laws of rows on their way to the monitor: nothing is lost on it, and only commands' tables are open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.arrow_columns import find_table, to_arrow
from app.adapters.memory_warehouse import MemoryWarehouse
from app.adapters.row_intake import RowIntake
from app.adapters.row_writers import CONTENT_TYPE, ROWS_PATH, RowWriter, pack_rows, unpack_rows
from app.adapters.warehouse_thread import WarehouseThread
from app.ports import ColumnValues, FloatMaps
from schemas.tables import TABLES


def rows(n: int, scores: list[float], matrix: Any = None) -> dict[str, ColumnValues]:
    found: dict[str, ColumnValues] = {
        "pipeline": ["p"] * n,
        "customer_id": [f"c{row}" for row in range(n)],
        "event_id": [f"é{row}" for row in range(n)],
        "event_time": list(range(n)),
        "score": np.array(scores),
        "decision": [score > 0 for score in scores],
        "model": ["m"] * n,
        "version": ["1"] * n,
        "role": ["backfill"] * n,
        "topic": ["p.events"] * n,
        "partition": [0] * n,
        "offset": np.arange(n, dtype=np.int64),
    }
    if matrix is not None:
        found["features"] = FloatMaps(("a", "b"), matrix)
    return found


@given(
    scores=st.lists(st.floats(allow_nan=False), max_size=5), with_features=st.booleans(), token=st.none() | st.text()
)
def test_what_is_unpacked_inserts_what_was_packed(scores: list[float], with_features: bool, token: str | None) -> None:
    matrix = np.array([[score, np.nan] for score in scores]).reshape(-1, 2)
    columns = rows(len(scores), scores, matrix if with_features else None)
    table, found, same_token = unpack_rows(pack_rows("backfilled_scores", columns, token))
    assert (table, same_token) == ("backfilled_scores", token)
    known = find_table(table)
    assert str(to_arrow(known, found).to_pylist()) == str(to_arrow(known, columns).to_pylist())  # nan is nan


def post(body: bytes, content_type: str = CONTENT_TYPE) -> tuple[int, dict[str, Any], MemoryWarehouse]:
    warehouse = MemoryWarehouse()

    async def send() -> tuple[int, dict[str, Any]]:
        thread = WarehouseThread(warehouse)
        await thread.open(1)
        app = Application()
        app.router.add_post(ROWS_PATH, RowIntake(thread).take)
        async with TestClient(TestServer(app)) as client:
            answer = await client.post(ROWS_PATH, data=body, headers={"Content-Type": content_type})
            found = answer.status, await answer.json()
        await thread.close()
        return found

    return *asyncio.run(send()), warehouse


def test_the_monitor_inserts_rows_of_commands() -> None:
    status, answer, warehouse = post(pack_rows("backfilled_scores", rows(2, [0.5, 0.25]), None))
    assert (status, answer) == (200, {"rows": 2})
    assert [row["score"] for row in warehouse.read("backfilled_scores")] == [0.5, 0.25]


@pytest.mark.parametrize("table", [name for name in TABLES if name not in {"backfilled_scores", "score_diffs"}])
def test_no_other_table_is_open(table: str) -> None:
    status, answer, warehouse = post(pack_rows(table, {"pipeline": ["p"]}, None))
    assert status == 403
    assert "monitor's own" in answer["error"]
    assert warehouse.read(table) == []


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"\xc1", CONTENT_TYPE, 400),
        (b"", CONTENT_TYPE, 400),
        (pack_rows("backfilled_scores", {"pipeline": ["p"]}, None), CONTENT_TYPE, 400),  # lacks columns
        (pack_rows("backfilled_scores", rows(1, [1.0]), None), "application/json", 415),
        (pack_rows("backfilled_scores", rows(1, [1.0]), None), "text/plain", 415),
    ],
)
def test_what_is_no_rows_is_refused_with_a_sentence(body: bytes, content_type: str, status: int) -> None:
    found, answer, warehouse = post(body, content_type)
    assert found == status
    assert answer["error"].endswith(".")
    assert warehouse.read("backfilled_scores") == []


def test_without_a_monitor_the_command_opens_the_engine_of_the_home(tmp_path: Path) -> None:
    assert RowWriter("", tmp_path).where == str(tmp_path / "clickhouse")
