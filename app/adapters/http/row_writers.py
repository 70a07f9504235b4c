"""Rows for ClickHouse from a command, written by whoever owns it.

The embedded engine has one owner: the monitor while it runs, and then rows go to it by HTTP. Otherwise, and with a
server, the command writes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse, lock_holder
from app.adapters.http.client import MonitorClient, MonitorError, RefusedError
from app.adapters.http.row_pieces import CONTENT_TYPE, cut, pack_rows
from app.adapters.stack.run_file import read_run
from app.ports import ColumnValues, WarehouseError
from app.secret import Secret

ROWS_PATH = "/api/v1/rows"
MOST_ROWS = 1_000_000
_ANSWER_SECONDS = 120.0
_READY_SECONDS = 30.0


class RowWriter:
    """Inserts rows and asks questions; where it owns the embedded engine, it holds that until its context ends.

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

    def __init__(self, url: Secret, home: Path) -> None:
        self._warehouse: ClickHouseWarehouse | None = None
        run = None if url else read_run(home)
        monitor = run.monitor_http if run is not None else None
        self._monitor = MonitorClient(lambda: monitor, _ANSWER_SECONDS)
        if url:
            self._warehouse = ClickHouseWarehouse(url, query_seconds=_ANSWER_SECONDS)
        elif monitor is None:
            path = home / "clickhouse"
            holder = lock_holder(path)
            if holder is not None:
                raise WarehouseError(
                    f"No monitor of {home} answers, and its data is held by {holder}: wait until it is up, or stop it."
                )
            self._warehouse = ClickHouseWarehouse(path=path, query_seconds=_ANSWER_SECONDS)
        self.where = self._warehouse.where if self._warehouse is not None else str(monitor)

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

    def insert(self, table: str, columns: Mapping[str, ColumnValues]) -> int:
        """Insert rows by columns; see `app.ports.Warehouse.insert`."""
        if self._warehouse is not None:
            return self._warehouse.insert(table, columns)
        path = f"{ROWS_PATH}/{table}"
        with _errors_of_the_warehouse():
            return sum(self._monitor.ask(path, pack_rows(piece), CONTENT_TYPE)["rows"] for piece in cut(columns))

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run SQL that reads; rows by column."""
        if self._warehouse is not None:
            return self._warehouse.query_readonly(sql, MOST_ROWS, as_objects=True).read()
        with _errors_of_the_warehouse():
            return self._monitor.query(sql, MOST_ROWS)


@contextmanager
def _errors_of_the_warehouse() -> Iterator[None]:
    try:
        yield
    except MonitorError as error:
        raise WarehouseError(str(error), retryable=not isinstance(error, RefusedError)) from error
