"""A working warehouse in memory, for tests: the same checks, keys and tokens as ClickHouse, no SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.adapters.clickhouse.arrow_columns import find_column, find_table, to_arrow, to_rows
from app.ports import Checkpoint, ColumnValues, JsonRows, QueryResult, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from schemas.tables import Column

Row = dict[str, Any]
_NO_SQL = "The warehouse in memory knows no SQL."


class MemoryWarehouse:
    """`app.ports.Warehouse` in memory; ``query`` and ``query_readonly`` always fail, for it knows no SQL."""

    most_reads = 2

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[Any, ...], Row]] = {}
        self._tokens: set[tuple[str, str]] = set()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._saved: dict[tuple[str, int], int] = {}
        self._is_migrated = False

    def wait_ready(self, deadline_s: float) -> None:
        """Return at once."""

    def migrate(self) -> list[str]:
        applied = [] if self._is_migrated else ["memory"]
        self._is_migrated = True
        return applied

    def insert(self, table: str, columns: Mapping[str, ColumnValues], token: str | None = None) -> int:
        known = find_table(table)
        arrow = to_arrow(known, columns)
        if token is not None:
            if (table, token) in self._tokens:
                return int(arrow.num_rows)
            self._tokens.add((table, token))
        stored = self._rows.setdefault(table, {})
        for given in to_rows(known, arrow):
            row = {column.name: given.get(column.name, _default(column)) for column in known.columns}
            key = tuple(row[name] for name in known.key)
            older = stored.get(key)
            if older is None or row[known.row_version] >= older[known.row_version]:
                stored[key] = row
        return int(arrow.num_rows)

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, limit: int | None = None) -> QueryResult:  # noqa: ARG002  # the port's signature
        raise WarehouseError(_NO_SQL)

    def query_readonly(self, sql: str, limit: int = 1000, *, as_objects: bool = False, mark: str = "") -> JsonRows:  # noqa: ARG002  # the port's signature
        raise WarehouseError(_NO_SQL)

    def stop(self, mark: str) -> None:
        """Nothing runs for long."""

    def read(
        self, table: str, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[Row]:
        known = find_table(table)
        for name in (*(where or {}), *(columns or [])):
            find_column(known, name)
        rows = self._rows.get(table, {})
        wanted = (where or {}).items()
        found = (rows[key] for key in sorted(rows) if all(rows[key][name] == value for name, value in wanted))
        return [{name: value for name, value in row.items() if columns is None or name in columns} for row in found]

    def latest_checkpoint(self, pipeline: str) -> Checkpoint | None:
        return self._checkpoints.get(pipeline)

    def save_checkpoint(
        self, pipeline: str, offsets: Mapping[str, Mapping[int, int]], state: bytes, *, term: int
    ) -> int:
        newest = self._saved.get((pipeline, term), term << 32)
        revision = self._saved[pipeline, term] = newest + 1
        saved = Checkpoint(revision, {topic: dict(of) for topic, of in offsets.items()}, state)
        latest = self._checkpoints.get(pipeline)
        if latest is None or latest.revision <= revision:
            self._checkpoints[pipeline] = saved
        return revision

    def close(self) -> None:
        """Keep everything: a test may look at it afterwards."""


def _default(column: Column) -> Any:
    if column.type.startswith("Nullable("):
        return None
    if column.name == "revision":
        return 1
    empty: dict[str, Any] = {"Bool": False, "Array(String)": [], "Map(String, Float64)": {}}
    return empty.get(column.type, "")
