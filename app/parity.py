"""Served features against features computed anew, by the transformation itself and by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.adapters.recorded_scores import RecordedScores
from app.adapters.recording_parts import RecordingPart
from app.adapters.recordings import LABELS, RecordingError
from app.adapters.row_writers import RowWriter
from app.adapters.scratch_engine import ScratchEngine
from app.bootstrap import compile_features
from app.core.batches import Floats, Ints
from app.core.decode import LabelDecoder
from app.core.parity import TOLERANCE, FeatureParity
from app.core.window_sql import ZERO_OF_NONE, create_tables, derive_tables, fields_used, unsupported, window_queries
from app.offline import run_recording
from app.pipeline import Step
from app.replaying import is_counted
from schemas.pipeline import Pipeline

#: Reads of one SQL query: bounds what its join holds.
_READS = 20_000


@dataclass
class Parity:
    """What a comparison found.

    Attributes
    ----------
    compared
        Events whose served values were compared.
    without_sql
        Window features whose aggregate has no SQL.
    """

    transform: list[FeatureParity]
    sql: list[FeatureParity] = field(default_factory=list)
    compared: int = 0
    stale: int = 0
    other_features: int = 0
    without_score: int = 0
    without_sql: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return all(feature.is_equal for feature in (*self.transform, *self.sql))


@dataclass(frozen=True)
class ServedRow:
    """What was served of one event."""

    feature_set: str
    stale: bool
    features: dict[str, float | None]


class ServedFromTable:
    """Served values from the ClickHouse table scores."""

    def __init__(self, rows: RowWriter) -> None:
        self._rows = rows

    @classmethod
    @contextmanager
    def open(cls, url: str, home: Path, wanted: bool) -> Iterator[ServedFromTable | None]:
        """Ask whoever owns ClickHouse; None when it is not wanted."""
        if not wanted:
            yield None
            return
        with RowWriter(url, home) as rows:
            yield cls(rows)

    def at(self, topic: str, partition: int, offsets: Ints) -> list[ServedRow | None]:
        """What was served of the events at some ascending offsets."""
        sql = (
            "SELECT offset, feature_set, stale, features FROM streamgauge.scores"  # noqa: S608  # numbers and a topic's name
            f" WHERE topic = '{topic}' AND partition = {partition}"
            f" AND offset BETWEEN {int(offsets[0])} AND {int(offsets[-1])}"
        )
        found = {
            row["offset"]: ServedRow(row["feature_set"], row["stale"], row["features"]) for row in self._rows.query(sql)
        }
        return [found.get(offset) for offset in offsets.tolist()]


class _Served:
    """Served values of each partition, from the recording or from the table."""

    def __init__(self, pipeline: Pipeline, part: RecordingPart, table: ServedFromTable | None) -> None:
        self._pipeline = pipeline
        self._table = table
        self._recorded = {partition: RecordedScores(part, partition) for partition in part.partitions}

    def at(self, partition: int, offsets: Ints) -> list[ServedRow | None]:
        if self._table is not None:
            return self._table.at(self._pipeline.topics.events, partition, offsets)
        return [
            ServedRow(score.feature_set, score.stale, score.features) if score is not None else None
            for score in self._recorded[partition].at(offsets)
        ]


@dataclass
class _Kept:
    """Of one partition, for SQL: seq and offset of the compared events, and their served window values."""

    seq: list[Ints] = field(default_factory=list)
    offsets: list[Ints] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)


def run_parity(
    pipeline: Pipeline, part: RecordingPart, table: ServedFromTable | None, *, with_sql: bool, url: str
) -> Parity:
    """Compare.

    Parameters
    ----------
    table
        Where the served values are; None: in the recording.
    url
        Of the ClickHouse server whose scratch database computes; empty: the engine in process.

    Raises
    ------
    RecordingError
        When there is nothing to compare.
    """
    parity = Parity([FeatureParity(name) for name in pipeline.feature_names])
    served = _Served(pipeline, part, table)
    windows = [query.column for query in window_queries(pipeline)]
    if not (with_sql and windows):
        for step in _steps(pipeline, part):
            _compare(parity, step, part, served, pipeline)
        _check_compared(parity, pipeline)
        return parity
    parity.without_sql = unsupported(pipeline)
    kept: dict[int, _Kept] = {}
    with ScratchEngine(url) as engine:
        for statement in create_tables(pipeline):
            engine.run(statement)
        counted = dict.fromkeys(part.partitions, 0)
        for step in _steps(pipeline, part):
            first = counted[step.partition]
            counted[step.partition] += len(step.events)
            _load_events(engine, pipeline, step, first, counts=is_counted(step, part))
            found = _compare(parity, step, part, served, pipeline)
            if found is not None:
                rows, matrix = found
                of = kept.setdefault(step.partition, _Kept())
                of.seq.append(rows + first)
                of.offsets.append(step.events.offsets[rows])
                of.values.append(matrix[:, windows])
        _check_compared(parity, pipeline)
        _load_labels(engine, pipeline, part)
        for statement in derive_tables(pipeline):
            engine.run(statement)
        _compare_sql(parity, engine, pipeline, kept)
    return parity


def _steps(pipeline: Pipeline, part: RecordingPart) -> Iterator[Step]:
    for step in run_recording(pipeline, compile_features(pipeline), part, lambda _: None):
        if len(step.events):
            yield step


def _check_compared(parity: Parity, pipeline: Pipeline) -> None:
    if parity.compared:
        return
    if parity.other_features:
        raise RecordingError(
            f"All scores were served by other features than those of {pipeline.path}; use the pipeline file of then."
        )
    raise RecordingError(
        "No score holds features: set publish_features = true in the pipeline file, and score some events."
    )


def _compare(
    parity: Parity, step: Step, part: RecordingPart, served: _Served, pipeline: Pipeline
) -> tuple[Ints, Floats] | None:
    """Compare a step by the transformation; the rows compared and what was served of them."""
    if not is_counted(step, part):
        return None
    rows: list[int] = []
    values: list[list[float]] = []
    names = pipeline.feature_names
    for row, found in enumerate(served.at(step.partition, step.events.offsets)):
        if found is None or not found.features:
            parity.without_score += 1
        elif found.feature_set != pipeline.feature_set:
            parity.other_features += 1
        elif found.stale:
            parity.stale += 1
        else:
            rows.append(row)
            values.append([np.nan if (value := found.features.get(name)) is None else value for name in names])
    if not rows:
        return None
    taken = np.array(rows, dtype=np.int64)
    matrix = np.array(values, dtype=np.float64)
    computed, offsets = step.matrix[taken], step.events.offsets[taken]
    for column, feature in enumerate(parity.transform):
        feature.add(
            step.partition, offsets, np.ascontiguousarray(matrix[:, column]), np.ascontiguousarray(computed[:, column])
        )
    parity.compared += len(rows)
    return taken, matrix


def _load_events(engine: ScratchEngine, pipeline: Pipeline, step: Step, first: int, *, counts: bool) -> None:
    events, n = step.events, len(step.events)
    engine.insert(
        "events",
        {
            "partition": np.full(n, step.partition, dtype=np.int32),
            "seq": np.arange(first, first + n, dtype=np.int64),
            "time_ms": events.event_time_ms,
            "event_id": events.event_id,
            "counts": np.full(n, counts, dtype=np.uint8),
            **{
                f"f_{used.name}": column if (column := events.columns[used.name]).dtype != object else column.tolist()
                for used in fields_used(pipeline)
            },
        },
    )


def _load_labels(engine: ScratchEngine, pipeline: Pipeline, part: RecordingPart) -> None:
    if pipeline.labels is None:
        return
    decode = LabelDecoder(pipeline).decode
    for partition in part.partitions:
        first = 0
        for batch in part.read(LABELS, partition, pipeline):
            labels, _ = decode(batch)
            n = len(labels)
            if not n:
                continue
            engine.insert(
                "labels",
                {
                    "partition": np.full(n, partition, dtype=np.int32),
                    "seq": np.arange(first, first + n, dtype=np.int64),
                    "time_ms": labels.label_time_ms,
                    "event_id": labels.event_id,
                    "label": np.nan_to_num(labels.label),  # of a watermark record, which has no event
                },
            )
            first += n


def _compare_sql(parity: Parity, engine: ScratchEngine, pipeline: Pipeline, kept: dict[int, _Kept]) -> None:
    queries = window_queries(pipeline)
    parity.sql = [FeatureParity(query.feature, TOLERANCE) for query in queries]
    served = {
        partition: (np.concatenate(of.seq), np.concatenate(of.offsets), np.concatenate(of.values))
        for partition, of in sorted(kept.items())
    }
    begin = min(int(seq[0]) for seq, _, _ in served.values())
    end = max(int(seq[-1]) for seq, _, _ in served.values()) + 1
    size = max(1, _READS // len(served))
    for start in range(begin, end, size):
        for place, (query, feature) in enumerate(zip(queries, parity.sql, strict=True)):
            of, found, values = engine.read_values(query.for_reads(start, start + size))
            for partition, (seq, offsets, matrix) in served.items():
                rows = slice(*np.searchsorted(seq, (start, start + size)).tolist())
                computed = np.full(size, 0.0 if query.window.aggregate in ZERO_OF_NONE else np.nan)
                ours = of == partition
                computed[found[ours] - start] = values[ours]
                was = np.ascontiguousarray(matrix[rows, place])
                feature.add(partition, offsets[rows], was, computed[seq[rows] - start])
