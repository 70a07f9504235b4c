"""Scores and rejections of a batch run as Parquet, CSV or JSON-lines files. A file appears when it is whole."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from app.adapters.sources.csv_cells import plain_cells
from app.adapters.sources.event_tables import TableError
from app.flow.step import Step
from schemas.pipeline.spec import Pipeline
from schemas.wire import DeadLetter

_TIME = pa.timestamp("ms", tz="UTC")

_REJECTED = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("value", pa.string()),
    ]
)


class TableWriter:
    """Writes record batches to a file named .parquet, .csv or .jsonl; an error in its context leaves no file."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._path = path
        self._schema = schema
        self._partial = path.with_name(path.name + ".partial")
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                self._file: Any = pq.ParquetWriter(self._partial, schema, compression="zstd")
            elif path.suffix == ".csv":
                self._file = pyarrow.csv.CSVWriter(self._partial, schema)
            elif path.suffix == ".jsonl":
                self._file = self._partial.open("wb")
            else:
                raise TableError(f"{path} is neither .parquet, .csv nor .jsonl; name the file by what it is to hold.")
        except OSError as error:
            raise TableError(f"{path} cannot be written: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.close()
            self._partial.replace(self._path)
            return
        with suppress(OSError, pa.ArrowException):
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def write(self, columns: list[Any]) -> None:
        """Append rows, given as columns in the schema's order."""
        batch = pa.RecordBatch.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)],
            schema=self._schema,
        )
        if not batch.num_rows:
            return
        if self._path.suffix == ".jsonl":
            self._file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in batch.to_pylist()))
        else:
            self._file.write_batch(plain_cells(batch) if self._path.suffix == ".csv" else batch)
        self.rows += batch.num_rows


class ScoreWriter(TableWriter):
    """Writes the scores of steps: customer_id, event_id, event_time, score, decision, version, and what is asked for.

    Parameters
    ----------
    with_source
        Add partition and offset, for a replay.
    with_features
        Add one column per feature, float64; null is missing; a category is its code, one past its values for any other.
    """

    def __init__(self, path: Path, pipeline: Pipeline, *, with_features: bool, with_source: bool = False) -> None:
        self._with_features = with_features
        self._with_source = with_source
        names = pipeline.feature_names if with_features else ()
        super().__init__(
            path,
            pa.schema(
                [
                    pa.field("customer_id", pa.string()),
                    pa.field("event_id", pa.string()),
                    pa.field("event_time", _TIME),
                    pa.field("score", pa.float64()),
                    pa.field("decision", pa.bool_()),
                    pa.field("version", pa.string()),
                    *([pa.field("partition", pa.int32()), pa.field("offset", pa.int64())] if with_source else []),
                    *(pa.field(_column_name(name), pa.float64()) for name in names),
                ]
            ),
        )

    def add(self, step: Step) -> None:
        """Append the scores of a step."""
        events, n = step.events, len(step.events)
        decisions = np.zeros(n, dtype=bool)
        versions: list[str] = []
        for start, stop, model in step.runs:
            decisions[start:stop] = step.scores[start:stop] >= model.threshold
            versions += [model.version] * (stop - start)
        columns: list[Any] = [
            events.entity,
            events.event_id,
            events.event_time_ms,
            step.scores,
            decisions,
            versions,
        ]
        if self._with_source:
            columns += [np.full(n, step.partition, dtype=np.int32), events.offsets]
        if self._with_features:
            missing = np.isnan(step.matrix)
            columns += [
                pa.array(step.matrix[:, column], pa.float64(), mask=missing[:, column])
                for column in range(step.matrix.shape[1])
            ]
        self.write(columns)


def _column_name(feature: str) -> str:
    """The name of a feature's column; changed where it would repeat the name of a fixed column."""
    fixed = {"customer_id", "event_id", "event_time", "score", "decision", "version", "partition", "offset"}
    return f"feature_{feature}" if feature in fixed else feature


class RejectionWriter:
    """Writes rejections beside the scores, ``<stem>.rejected.<suffix>``; there is no file without rejections."""

    def __init__(self, scores: Path) -> None:
        self.path = scores.with_name(f"{scores.stem}.rejected{scores.suffix}")
        self.rows = 0
        self._writer: TableWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
        elif kind is None:
            self.path.unlink(missing_ok=True)  # left by an earlier run, and would be taken for this one's

    def add(self, letters: Iterable[tuple[int, DeadLetter]]) -> None:
        """Append rejections, each with its row in the file, counted from 1."""
        rows = [
            (row, letter.stage, letter.reason, letter.detail, (letter.value or b"").decode("utf-8", "replace"))
            for row, letter in letters
        ]
        if not rows:
            return
        if self._writer is None:
            self._writer = TableWriter(self.path, _REJECTED)
        self._writer.write([list(column) for column in zip(*rows, strict=True)])
        self.rows += len(rows)
