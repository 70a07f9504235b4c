"""A ClickHouse database for one computation, dropped at its end: in a temporary folder, or on a server."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from app.adapters.clickhouse.url import ClickHouseUrl, explain_of
from app.core.batches import Floats, Ints
from app.ports import WarehouseError
from app.secret import Secret

_SETTINGS = {"join_use_nulls": 1, "max_threads": 2, "allow_experimental_analyzer": 1}


class ScratchEngine:
    """Tables without a past.

    Parameters
    ----------
    url
        Of a ClickHouse server whose user may create a database; empty: the engine in process.
    """

    def __init__(self, url: Secret) -> None:
        self._url = ClickHouseUrl.parse(url) if url else None
        self._where = self._url.where if self._url is not None else "the embedded engine"
        self._database = f"streamgauge_scratch_{uuid.uuid4().hex[:12]}"
        self._stack = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Self:
        import clickhouse_connect  # noqa: PLC0415  # takes 0.3 s, and `--help` does not need it

        try:
            if self._url is not None:
                self._client = clickhouse_connect.get_client(dsn=self._url.to_dsn(), autogenerate_session_id=False)
            else:
                folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="streamgauge-scratch-"))
                self._client = clickhouse_connect.get_client(interface="chdb", path=folder)
            self._client.command(f"CREATE DATABASE {self._database}")
        except Exception as error:  # noqa: BLE001  # as below
            self._stack.close()
            said, cause = explain_of(error, self._url, self._where)
            raise said from cause
        self._client.database = self._database
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):  # a database that stays is named for what it was
            self._client.command(f"DROP DATABASE {self._database}")
        with suppress(Exception):
            self._client.close()
        self._stack.close()

    def run(self, statement: str) -> None:
        """Run a statement without an answer."""
        self._call(lambda: self._client.command(statement, settings=_SETTINGS))

    def insert(self, table: str, columns: Mapping[str, Any]) -> None:
        """Insert rows by columns; NaN is null."""
        arrays = {
            name: pa.array(values, pa.float64(), from_pandas=True)
            if isinstance(values, np.ndarray) and values.dtype == np.float64
            else pa.array(values)
            for name, values in columns.items()
        }
        self._call(lambda: self._client.insert_arrow(table, pa.table(arrays), database=self._database))

    def read_values(self, sql: str) -> tuple[Ints, Ints, Floats]:
        """The rows of (partition, seq, value); null is NaN."""
        arrow = self._call(lambda: self._client.query_arrow(sql, settings=_SETTINGS))
        if not arrow.num_columns:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
        partition, seq = (arrow[name].to_numpy().astype(np.int64) for name in ("partition", "seq"))
        values = arrow["value"].cast(pa.float64()).fill_null(float("nan")).to_numpy().astype(np.float64)
        return partition, seq, values

    def _call(self, run: Any) -> Any:
        try:
            return run()
        except WarehouseError:
            raise
        except Exception as error:  # noqa: BLE001  # the driver's own, urllib3's, and the engine's RuntimeError
            said, cause = explain_of(error, self._url, self._where)
            raise said from cause
