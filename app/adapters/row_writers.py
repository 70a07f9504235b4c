"""Rows for ClickHouse from a command: by whoever owns it.

The embedded engine has one owner: the monitor while it runs, and then rows go to it by HTTP. Otherwise, and with a
server, the command writes by itself.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from app.adapters.clickhouse import ClickHouseWarehouse, lock_holder
from app.adapters.run_file import read_run
from app.ports import ColumnValues, FloatMaps, WarehouseError

CONTENT_TYPE = "application/vnd.streamgauge.rows+msgpack"
ROWS_PATH = "/api/v1/rows"
_ANSWER_SECONDS = 120.0
_READY_SECONDS = 30.0


class PackedMaps(msgspec.Struct):
    """`FloatMaps` on the way: float64, little-endian, row by row."""

    names: tuple[str, ...]
    rows: int
    values: bytes


class Rows(msgspec.Struct):
    """One insert on its way to the monitor; a column of maps is in ``maps``."""

    table: str
    columns: dict[str, list[Any]]
    maps: dict[str, PackedMaps] = {}
    token: str | None = None


def pack_rows(table: str, columns: Mapping[str, ColumnValues], token: str | None) -> bytes:
    """The body of a request that inserts rows."""
    plain: dict[str, list[Any]] = {}
    maps = {}
    for name, values in columns.items():
        if isinstance(values, FloatMaps):
            data = np.ascontiguousarray(values.values, dtype="<f8").tobytes()
            maps[name] = PackedMaps(values.names, len(values), data)
        else:
            plain[name] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return msgspec.msgpack.encode(Rows(table, plain, maps, token))


def unpack_rows(body: bytes) -> tuple[str, dict[str, ColumnValues], str | None]:
    """Table, columns and token of a request; ``msgspec.DecodeError`` or ValueError when it is none."""
    rows = msgspec.msgpack.decode(body, type=Rows)
    columns: dict[str, ColumnValues] = dict(rows.columns)
    for name, packed in rows.maps.items():
        values = np.frombuffer(packed.values, dtype="<f8").reshape(packed.rows, len(packed.names))
        columns[name] = FloatMaps(packed.names, values)
    return rows.table, columns, rows.token


class RowWriter:
    """Inserts rows and asks questions; it holds the embedded engine, if it is its owner, until it is left.

    Parameters
    ----------
    url
        Of a ClickHouse server; empty: embedded.
    home
        Of the stack: where the monitor says where it listens, and where the embedded engine is.

    Raises
    ------
    WarehouseError
        When nobody can write now; it says what to do.
    """

    def __init__(self, url: str, home: Path) -> None:
        self._warehouse: ClickHouseWarehouse | None = None
        self._monitor: str | None = None
        if url:
            self._warehouse = ClickHouseWarehouse(url)
        else:
            run = read_run(home)
            self._monitor = run.monitor_http.rstrip("/") if run is not None and run.monitor_http else None
            path = home / "clickhouse"
            if self._monitor is None:
                holder = lock_holder(path)
                if holder is not None:
                    raise WarehouseError(
                        f"No monitor of {home} answers, and its data is held by {holder}: wait until it is up,"
                        " or stop it."
                    )
                self._warehouse = ClickHouseWarehouse(path=path)
        self.where = self._monitor or (self._warehouse.where if self._warehouse else "")

    def __enter__(self) -> Self:
        if self._warehouse is not None:
            self._warehouse.wait_ready(_READY_SECONDS)
            self._warehouse.migrate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._warehouse is not None:
            self._warehouse.close()

    def insert(self, table: str, columns: Mapping[str, ColumnValues], token: str | None = None) -> int:
        """Insert rows by columns; see `app.ports.Warehouse.insert`."""
        if self._warehouse is not None:
            return self._warehouse.insert(table, columns, token)
        return int(self._post(ROWS_PATH, pack_rows(table, columns, token), CONTENT_TYPE)["rows"])

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run SQL that reads; rows by column."""
        if self._warehouse is not None:
            answer = self._warehouse.query(sql).to_json()
        else:
            body = msgspec.json.encode({"sql": sql, "limit": 1_000_000})
            answer = self._post("/api/v1/query", body, "application/json")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    def _post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # the address is in the run file of our own stack
            f"{self._monitor}{path}", data=body, headers={"Content-Type": content_type}
        )
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as response:  # noqa: S310  # as above
                answer: dict[str, Any] = msgspec.json.decode(response.read())
        except urllib.error.HTTPError as error:
            try:
                why = str(msgspec.json.decode(error.read())["error"])
            except (msgspec.DecodeError, KeyError, TypeError):
                why = f"The monitor at {self._monitor} answered {error.code} {error.reason}."
            raise WarehouseError(why, retryable=error.code >= 500) from error
        except OSError as error:
            raise WarehouseError(
                f"The monitor at {self._monitor} does not answer ({error}): try again when it is up.", retryable=True
            ) from error
        return answer
