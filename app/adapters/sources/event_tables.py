"""Parquet and CSV files as logs of events and labels, and scores as such files.

Rows become the JSON that a producer would have sent. So they are decoded, rejected and scored as in a stream.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from app.core.batches import RecordBatch
from schemas.pipeline.spec import EventField, Pipeline

ROWS = 10_000
SUFFIXES = (".parquet", ".csv")

_LABEL_FIELDS = (EventField("event_id", "string"), EventField("label", "float"), EventField("label_time_ms", "int"))


class TableError(RuntimeError):
    """A file that cannot be read as a table of events or labels, or written; one sentence."""


def check_suffix(path: Path) -> Path:
    """TableError when the name says neither Parquet nor CSV."""
    if path.suffix not in SUFFIXES:
        raise TableError(f"{path} is neither .parquet nor .csv; name the file by what it is to hold.")
    return path


class EventTable:
    """A file of events or labels, in the order of their times.

    Parameters
    ----------
    kind
        "events": columns are the event fields; "labels": event_id, label and label_time_ms.
    say
        Is told when a file that is not in time order has to be sorted in memory.
    """

    def __init__(self, path: Path, pipeline: Pipeline, kind: str, now_ms: int, say: Callable[[str], None]) -> None:
        self._path = check_suffix(path)
        self._topic = f"{pipeline.name}.{kind}"
        self._now_ms = now_ms
        self._fields = pipeline.events.fields if kind == "events" else _LABEL_FIELDS
        self._time = pipeline.events.time if kind == "events" else "label_time_ms"
        self._names = self._read_names()
        needed = [field.name for field in self._fields if not field.nullable]
        missing = [name for name in needed if name not in self._names]
        if missing:
            raise TableError(
                f"{path} has no column {', '.join(missing)}; {kind} of {pipeline.name} need {', '.join(needed)}."
            )
        self._columns = [field for field in self._fields if field.name in self._names]
        times = self._read_times()
        self.rows = len(times)
        self._order = None
        if (np.diff(times) < 0).any():
            say(f"{path} is not in the order of {self._time}; it is sorted in memory.")
            self._order = np.argsort(times, kind="stable")

    def original_row(self, offset: int) -> int:
        """The row of the file, counted from 0, that a record's offset stands for."""
        return offset if self._order is None else int(self._order[offset])

    def read(self) -> Iterator[RecordBatch]:
        """The rows as records; the offset is the place in time order."""
        to_json = msgspec.json.Encoder().encode
        start = 0
        for table in self._tables():
            columns = [
                _to_values(table[field.name], field, is_time=field.name == self._time) for field in self._columns
            ]
            names = [field.name for field in self._columns]
            values = [to_json(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]
            n = len(values)
            yield RecordBatch(
                topic=self._topic,
                partition=0,
                offsets=np.arange(start, start + n, dtype=np.int64),
                timestamps_ms=np.full(n, self._now_ms, dtype=np.int64),
                keys=[None] * n,
                values=list(values),
            )
            start += n

    def _tables(self, names: Sequence[str] | None = None) -> Iterator[Any]:
        names = [field.name for field in self._columns] if names is None else list(names)
        if self._order is not None:
            whole = pa.Table.from_batches(list(self._batches(names))).take(pa.array(self._order))
            yield from whole.to_batches(max_chunksize=ROWS)
        else:
            yield from self._batches(names)

    def _batches(self, names: list[str]) -> Iterator[Any]:
        try:
            if self._path.suffix == ".parquet":
                with pq.ParquetFile(self._path) as file:
                    yield from file.iter_batches(ROWS, columns=names)
                return
            # All columns as text: then one bad cell makes one bad row, not a bad file.
            convert = pyarrow.csv.ConvertOptions(
                include_columns=names,
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=["", "NA", "N/A", "NULL", "null", "NaN", "nan"],
            )
            with pyarrow.csv.open_csv(self._path, convert_options=convert) as file:
                yield from file
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{self._path} cannot be read: {str(error).splitlines()[0]}.") from error

    def _read_names(self) -> list[str]:
        try:
            if self._path.suffix == ".parquet":
                return list(pq.read_schema(self._path).names)
            with pyarrow.csv.open_csv(self._path) as file:
                return list(file.schema.names)
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{self._path} cannot be read: {str(error).splitlines()[0]}.") from error

    def _read_times(self) -> np.ndarray[Any, Any]:
        """Times to sort rows by; a row whose time cannot be read stays behind the row before it."""
        field = next(field for field in self._columns if field.name == self._time)
        times: list[int] = []
        last = -(2**62)
        for table in self._batches([self._time]):
            for value in _to_values(table[self._time], field, is_time=True):
                last = value if isinstance(value, int) and abs(value) < 2**62 else last
                times.append(last)
        return np.array(times, dtype=np.int64)


def _to_values(column: Any, field: EventField, *, is_time: bool) -> list[Any]:
    """A column as JSON values of the field's type; values of other types stay as they are and are rejected later."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if is_time and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        stamps = column.cast(pa.timestamp("ms", tz=getattr(kind, "tz", None)), safe=False)
        return list(stamps.cast(pa.int64()).to_pylist())
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64(), safe=False)
    if field.type == "string":
        is_plain = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        return list((column.cast(pa.string()) if is_plain else column).to_pylist())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parse = _parse_time if is_time else _PARSERS[field.type]
        return [None if text is None else parse(text) for text in column.to_pylist()]
    if pa.types.is_floating(kind):
        column = pc.if_else(pc.is_finite(column), column, None)
        if field.type == "int":  # pandas writes integers with nulls as floats
            return [int(value) if value is not None and value.is_integer() else value for value in column.to_pylist()]
    return list(column.to_pylist())


def _parse_float(text: str) -> float | str | None:
    try:
        value = float(text)
    except ValueError:
        return text
    return value if np.isfinite(value) else None


def _parse_int(text: str) -> int | float | str | None:
    try:
        return int(text)
    except ValueError:
        value = _parse_float(text)
        return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_bool(text: str) -> bool | str:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)


def _parse_time(text: str) -> int | float | str | None:
    value = _parse_int(text)
    if isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            return text
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
        return round(moment.timestamp() * 1000)
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {"float": _parse_float, "int": _parse_int, "bool": _parse_bool}
