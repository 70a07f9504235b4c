"""Rows of a table on their way from a command to the monitor: pieces of a bounded size, of known columns and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np

from app.ports import ColumnValues, FloatMaps
from schemas.tables import BACKFILLED_SCORES, FLOAT_MAP, MAYBE, SCORE_DIFFS, TABLES, TIME, WORD

CONTENT_TYPE = "application/vnd.streamgauge.rows+msgpack"
#: What commands may write; the monitor's own tables are its own.
OPEN_TABLES = (BACKFILLED_SCORES.name, SCORE_DIFFS.name)
#: Of a piece.
MOST_ROWS = 5_000
MOST_BYTES = 32 << 20
MOST_FEATURES = 5_000


class PackedMaps(msgspec.Struct, forbid_unknown_fields=True):
    """`FloatMaps` on the way: float64, little-endian, row by row."""

    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_FEATURES)]
    rows: Annotated[int, msgspec.Meta(ge=0, le=MOST_ROWS)]
    values: bytes


_PIECE = msgspec.Meta(max_length=MOST_ROWS)
_SHAPES: dict[str, Any] = {
    "String": Annotated[list[str], _PIECE],
    WORD: Annotated[list[str], _PIECE],
    "Bool": Annotated[list[bool], _PIECE],
    "Float64": Annotated[list[float], _PIECE],
    MAYBE: Annotated[list[float | None], _PIECE],
    "Int32": Annotated[list[int], _PIECE],
    "Int64": Annotated[list[int], _PIECE],
    "UInt64": Annotated[list[int], _PIECE],
    TIME: Annotated[list[int], _PIECE],
    FLOAT_MAP: PackedMaps,
}


def pack_rows(columns: Mapping[str, ColumnValues]) -> bytes:
    """The body of a request that inserts rows."""
    return msgspec.msgpack.encode({name: _pack(values) for name, values in columns.items()})


def unpack_rows(table: str, body: bytes) -> dict[str, ColumnValues]:
    """Columns of a request that inserts into one of `OPEN_TABLES`; ValueError says what is wrong with it."""
    try:
        given = msgspec.msgpack.decode(body, type=_shape_of(table))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    columns = {name: getattr(given, name) for name in given.__struct_fields__}
    return {
        name: _unpack(values) if isinstance(values, PackedMaps) else values
        for name, values in columns.items()
        if values is not msgspec.UNSET
    }


def cut(columns: Mapping[str, ColumnValues]) -> Iterator[dict[str, ColumnValues]]:
    """Cut rows into pieces."""
    n = max((len(values) for values in columns.values()), default=0)
    for start in range(0, n, MOST_ROWS):
        yield {name: _slice(values, start) for name, values in columns.items()}


def _slice(values: ColumnValues, start: int) -> ColumnValues:
    if isinstance(values, FloatMaps):
        return FloatMaps(values.names, values.values[start : start + MOST_ROWS])
    return values[start : start + MOST_ROWS]


def _pack(values: ColumnValues) -> PackedMaps | list[Any]:
    if isinstance(values, FloatMaps):
        return PackedMaps(values.names, len(values), np.ascontiguousarray(values.values, dtype="<f8").tobytes())
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _unpack(packed: PackedMaps) -> FloatMaps:
    values = np.frombuffer(packed.values, dtype="<f8").reshape(packed.rows, len(packed.names))
    return FloatMaps(packed.names, values)


@cache
def _shape_of(table: str) -> type[msgspec.Struct]:
    """The table's columns, each of which may be absent: inserting checks that the required ones are there."""
    return msgspec.defstruct(
        f"Columns_{table}",
        [(column.name, _SHAPES[column.type] | msgspec.UnsetType, msgspec.UNSET) for column in TABLES[table].columns],
        forbid_unknown_fields=True,
    )
