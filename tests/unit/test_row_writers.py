"""Laws of rows on their way to the monitor: nothing is lost on it, and only commands' tables are open."""

from __future__ import annotations

import asyncio
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.arrow_columns import find_table, to_arrow
from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.row_intake import RowIntake
from app.adapters.http.row_pieces import CONTENT_TYPE, MOST_ROWS, cut, pack_rows, unpack_rows
from app.adapters.http.row_writers import ROWS_PATH, RowWriter
from app.adapters.http.server import HttpServer
from app.ports import ColumnValues, FloatMaps, Warehouse, WarehouseError
from app.secret import Secret
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


@given(scores=st.lists(st.floats(allow_nan=False), max_size=5), with_features=st.booleans())
def test_what_is_unpacked_inserts_what_was_packed(scores: list[float], with_features: bool) -> None:
    matrix = np.array([[score, np.nan] for score in scores]).reshape(-1, 2)
    columns = rows(len(scores), scores, matrix if with_features else None)
    found = unpack_rows("backfilled_scores", pack_rows(columns))
    known = find_table("backfilled_scores")
    assert str(to_arrow(known, found).to_pylist()) == str(to_arrow(known, columns).to_pylist())  # nan is nan


def test_pieces_are_small_enough_and_hold_every_row_once() -> None:
    n = 2 * MOST_ROWS + 1
    columns = rows(n, [0.5] * n, np.arange(2 * n, dtype=np.float64).reshape(n, 2))
    pieces = list(cut(columns))
    assert [len(piece["score"]) for piece in pieces] == [MOST_ROWS, MOST_ROWS, 1]
    found = [unpack_rows("backfilled_scores", pack_rows(piece)) for piece in pieces]
    assert [offset for piece in found for offset in piece["offset"]] == list(range(n))
    assert [value for piece in found for value in piece["features"].values[:, 1]] == list(range(1, 2 * n, 2))


def test_the_rows_of_each_open_table_have_a_shape() -> None:
    """Of every type that one of its columns has."""
    diffs: dict[str, ColumnValues] = {
        **{name: ["a"] for name in ("pipeline", "model", "before", "after", "segment", "measure")},
        "range_start": [1],
        "range_end": [2],
        "value": [None],
    }
    assert unpack_rows("score_diffs", pack_rows(diffs)) == diffs


class Failing(MemoryWarehouse):
    """Cannot be written to just now, or for good."""

    def __init__(self, *, retryable: bool) -> None:
        super().__init__()
        self._retryable = retryable

    def insert(self, table: str, columns: Any, token: str | None = None) -> int:  # noqa: ARG002  # the port's signature
        raise WarehouseError("ClickHouse is away.", retryable=self._retryable)


def post(
    body: bytes, content_type: str = CONTENT_TYPE, table: str = "backfilled_scores", warehouse: Warehouse | None = None
) -> tuple[int, dict[str, Any], Warehouse]:
    """What the monitor's server answers; whatever it was, the monitor stays ready."""
    found = warehouse or MemoryWarehouse()

    async def send() -> tuple[int, dict[str, Any]]:
        thread = WarehouseThread(found)
        await thread.open(1)
        server = HttpServer([web.post(f"{ROWS_PATH}/{{table}}", RowIntake(thread).take)])
        address = await server.start("127.0.0.1", 0)
        async with ClientSession() as client:
            answer = await client.post(
                f"{address}{ROWS_PATH}/{table}", data=body, headers={"Content-Type": content_type}
            )
            given = answer.status, await answer.json(content_type=None)
        await server.stop()
        assert (thread.error, thread.failures) == ("", 0)
        await thread.close()
        return given

    return *asyncio.run(send()), found


def test_the_monitor_inserts_rows_of_commands() -> None:
    status, answer, warehouse = post(pack_rows(rows(2, [0.5, 0.25])))
    assert (status, answer) == (200, {"rows": 2})
    assert [row["score"] for row in warehouse.read("backfilled_scores")] == [0.5, 0.25]


@pytest.mark.parametrize(
    "table", ["none", *(name for name in TABLES if name not in {"backfilled_scores", "score_diffs"})]
)
def test_no_other_table_is_open(table: str) -> None:
    status, answer, warehouse = post(pack_rows({"pipeline": ["p"]}), table=table)
    assert status == 403
    assert "monitor's own" in answer["detail"]
    if table in TABLES:
        assert warehouse.read(table) == []


def changed(**columns: Any) -> bytes:
    return msgspec.msgpack.encode({name: _plain(values) for name, values in {**rows(1, [1.0]), **columns}.items()})


def _plain(values: Any) -> Any:
    return values.tolist() if isinstance(values, np.ndarray) else values


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"\xc1", CONTENT_TYPE, 400),
        (b"", CONTENT_TYPE, 400),
        (b"\x90", CONTENT_TYPE, 400),
        (b"\x91" * 100_000, CONTENT_TYPE, 400),
        (b"\x81\xa1a" + b"\x91" * 100_000, CONTENT_TYPE, 400),
        (pack_rows({"pipeline": ["p"]}), CONTENT_TYPE, 400),  # lacks columns
        (pack_rows(rows(MOST_ROWS + 1, [1.0] * (MOST_ROWS + 1))), CONTENT_TYPE, 400),
        (changed(score=[[]]), CONTENT_TYPE, 400),
        (changed(score=[1.0, 2.0]), CONTENT_TYPE, 400),
        (changed(score=[None]), CONTENT_TYPE, 400),
        (changed(customer_id=[1]), CONTENT_TYPE, 400),
        (changed(partition=[2**40]), CONTENT_TYPE, 400),
        (changed(offset=[2**63]), CONTENT_TYPE, 400),
        (changed(event_time=["now"]), CONTENT_TYPE, 400),
        (changed(none_of_ours=[1]), CONTENT_TYPE, 400),
        (changed(features={"names": ["a"], "rows": 2**40, "values": b""}), CONTENT_TYPE, 400),
        (changed(features={"names": ["a"], "rows": 1, "values": b"x"}), CONTENT_TYPE, 400),
        (changed(features={"names": [], "rows": 1, "values": b""}), CONTENT_TYPE, 200),
        (changed(features={"names": [""] * 5_001, "rows": 0, "values": b""}), CONTENT_TYPE, 400),
        (changed(features=[{}]), CONTENT_TYPE, 400),
        (pack_rows(rows(1, [1.0])), "application/json", 415),
        (pack_rows(rows(1, [1.0])), "text/plain", 415),
    ],
)
def test_what_is_no_rows_is_refused_with_a_sentence(body: bytes, content_type: str, status: int) -> None:
    found, answer, warehouse = post(body, content_type)
    assert found == status, answer
    if status != 200:
        assert answer["detail"].endswith(".")
        assert warehouse.read("backfilled_scores") == []


def test_a_warehouse_that_is_away_is_the_senders_to_wait_for() -> None:
    """The monitor neither repeats what is not its own nor takes it for a failure of its own."""
    body = pack_rows(rows(1, [1.0]))
    assert post(body, warehouse=Failing(retryable=True))[0] == 503
    assert post(body, warehouse=Failing(retryable=False))[0] == 400


def test_decoding_the_worst_body_neither_takes_long_nor_much_memory() -> None:
    """Sixteen million empty lists stopped the monitor for 26 seconds and took 1.3 GB."""
    n = 16 << 20
    hostile = [
        b"\x81\xa5score\xdd" + struct.pack(">I", n) + b"\x90" * n,
        b"\x81\xa1a\xdd" + struct.pack(">I", n) + b"\x90" * n,
        b"\xdf" + struct.pack(">I", n // 2) + b"\xa0\xc0" * (n // 2),
        b"\x81\xa8features\x81\xa5names\xdd" + struct.pack(">I", n) + b"\xa0" * n,
    ]
    unpack_rows("score_diffs", pack_rows({"model": ["m"]}))
    tracemalloc.start()
    before = time.process_time()
    for body in hostile:
        with pytest.raises(ValueError, match=r"."):
            unpack_rows("backfilled_scores", body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - before < 0.5
    assert peak < 1 << 20


def test_without_a_monitor_the_command_opens_the_engine_of_the_home(tmp_path: Path) -> None:
    assert RowWriter(Secret(""), tmp_path).where == str(tmp_path / "clickhouse")
