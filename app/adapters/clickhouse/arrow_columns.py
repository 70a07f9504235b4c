"""Columns of the monitor as Arrow, which the engine takes fastest, and Arrow as rows."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.ports import ColumnValues, FloatMaps, WarehouseError
from schemas.ranges import EARLIEST_TABLE_MS, LATEST_TABLE_MS
from schemas.tables import FLOAT_MAP, MAYBE_TIME, TABLES, TIME, Column, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class UnfitRowsError(WarehouseError):
    """Rows that no table of ours can hold: wrong whatever the warehouse is like."""


_TIMESTAMP = pa.timestamp("ms", "UTC")

# Strings travel as binary: keys and values of dead letters and the monitor's state are bytes of any kind.
_ARROW_TYPES: dict[str, Any] = {
    "String": pa.binary(),
    "LowCardinality(String)": pa.binary(),
    "Nullable(String)": pa.binary(),
    "Array(String)": pa.list_(pa.binary()),
    "Array(Float64)": pa.list_(pa.float64()),
    "Bool": pa.bool_(),
    "Float64": pa.float64(),
    "Nullable(Float64)": pa.float64(),
    "Int32": pa.int32(),
    "Nullable(Int32)": pa.int32(),
    "Int64": pa.int64(),
    "Nullable(Int64)": pa.int64(),
    "UInt64": pa.uint64(),
    TIME: _TIMESTAMP,
    MAYBE_TIME: _TIMESTAMP,
}


def find_table(name: str) -> Table:
    """Look up a table of the contract by its name."""
    table = TABLES.get(name)
    if table is None:
        msg = f"There is no table {name!r}; there are {', '.join(TABLES)}."
        raise WarehouseError(msg)
    return table


def find_column(table: Table, name: str) -> Column:
    """Look up a column of a table by its name."""
    column = table.column(name)
    if column is None:
        raise WarehouseError(f"Table {table.name} has no column {name}.")
    return column


def to_arrow(table: Table, columns: Mapping[str, ColumnValues]) -> Any:
    """Check ``columns`` against the table and return them as one `pyarrow.Table`."""
    unknown = [name for name in columns if table.column(name) is None]
    if unknown:
        msg = (
            f"Table {table.name} has no column {', '.join(unknown)}; it has {', '.join(c.name for c in table.columns)}."
        )
        raise UnfitRowsError(msg)
    missing = [name for name in table.required if name not in columns]
    if missing:
        msg = f"Rows for table {table.name} lack the column {', '.join(missing)}."
        raise UnfitRowsError(msg)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        msg = (
            f"The columns for table {table.name} differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}."
        )
        raise UnfitRowsError(msg)
    present = [column for column in table.columns if column.name in columns]
    return pa.table({column.name: _to_array(table, column, columns[column.name]) for column in present})


def _to_array(table: Table, column: Column, values: ColumnValues) -> Any:
    nullable = column.type.startswith("Nullable(")
    try:
        if column.type == FLOAT_MAP:
            array = _to_maps(values)
        elif isinstance(values, np.ndarray):
            array = _from_numpy(values, column.type, nullable=nullable)
        else:
            array = pa.array(values, _ARROW_TYPES[column.type], from_pandas=nullable)
    except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError) as error:
        msg = f"Column {column.name} of table {table.name} is {column.type} and cannot take these values: {error}."
        raise UnfitRowsError(msg) from error
    if array.null_count and not nullable:
        row = array.is_null().index(pa.scalar(value=True)).as_py()
        msg = f"Column {column.name} of table {table.name} cannot be null, and is in row {row}."
        raise UnfitRowsError(msg)
    return array


def _from_numpy(values: Any, type_name: str, *, nullable: bool) -> Any:
    arrow_type = _ARROW_TYPES[type_name]
    if values.dtype.kind == "U":
        return pa.array(values.tolist(), arrow_type)
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[ms]")).cast(arrow_type)
    if arrow_type == _TIMESTAMP and values.dtype.kind in "iu":
        return pa.array(values.astype(np.int64)).cast(arrow_type)
    if values.dtype.kind == "O":
        return pa.array(values, arrow_type, from_pandas=nullable)
    # From numpy, Arrow turns nan into null only when asked to.
    return pa.array(values, from_pandas=nullable).cast(arrow_type)


def _to_maps(values: Any) -> Any:
    if isinstance(values, FloatMaps):
        n, k = values.values.shape
        offsets = np.arange(n + 1, dtype=np.int32) * k
        codes = pa.array(np.tile(np.arange(k, dtype=np.int32), n))
        keys = pa.DictionaryArray.from_arrays(codes, pa.array(values.names, pa.string())).cast(pa.string())
        numbers = pa.array(np.ascontiguousarray(values.values, dtype=np.float64).ravel())
        return pa.MapArray.from_arrays(pa.array(offsets), keys, numbers)
    rows: Sequence[Mapping[str, float | None]] = list(values)
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    keys = pa.array(list(chain.from_iterable(rows)), pa.string())
    numbers = pa.array(list(chain.from_iterable(row.values() for row in rows)), pa.float64()).fill_null(float("nan"))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, numbers)


def to_rows(table: Table, arrow: Any) -> Iterator[dict[str, Any]]:
    """Rows of a `pyarrow.Table` as dicts: times as aware datetimes, strings as str, or bytes where not UTF-8.

    A time that a table cannot hold (some other program wrote it) comes out as the nearest that it can.
    """
    for row in _within_range(arrow).to_pylist():
        yield {name: _to_python(table, name, value) for name, value in row.items()}


def _within_range(arrow: Any) -> Any:
    for place, column in enumerate(arrow.schema):
        if pa.types.is_timestamp(column.type):
            times = pc.cast(arrow.column(place), pa.int64())
            earliest, latest = (pa.scalar(bound, pa.int64()) for bound in (EARLIEST_TABLE_MS, LATEST_TABLE_MS))
            times = pc.min_element_wise(
                pc.max_element_wise(times, earliest, skip_nulls=False), latest, skip_nulls=False
            )
            arrow = arrow.set_column(place, column, pc.cast(times, column.type))
    return arrow


def _to_python(table: Table, name: str, value: Any) -> Any:
    column = table.column(name)
    if column is not None and column.type == FLOAT_MAP:
        return {_to_text(key): number for key, number in value}
    if isinstance(value, list):
        return [_to_text(item) for item in value]
    return _to_text(value)


def _to_text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
