"""Served features against features computed anew, by the transformation itself and by SQL."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.adapters.clickhouse.scratch_engine import ScratchEngine
from app.adapters.http.row_writers import RowWriter
from app.adapters.recordings.file import LABELS, RecordingError
from app.adapters.recordings.part import RecordingPart
from app.adapters.recordings.scores import RecordedScores
from app.adapters.sources.features import compile_features
from app.core.batches import Column, Floats, Ints
from app.core.features.plan import FeaturePlan
from app.core.intake.decode import LabelDecoder
from app.core.replay.parity import TOLERANCE, FeatureParity
from app.core.replay.window_sql import (
    ZERO_OF_NONE,
    create_tables,
    derive_tables,
    fields_used,
    unsupported,
    window_queries,
)
from app.flow.step import Step
from app.replay.offline import run_recording
from app.replay.part_selector import is_counted
from app.secret import Secret
from schemas.pipeline.spec import Pipeline

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


#: Of a table with thousands of features, so many fit into an answer.
ROWS_AT_ONCE = 1_000


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
    def open(cls, url: Secret, home: Path, wanted: bool) -> Iterator[ServedFromTable | None]:
        """Ask whoever owns ClickHouse; None when it is not wanted."""
        if not wanted:
            yield None
            return
        with RowWriter(url, home) as rows:
            yield cls(rows)

    def at(self, topic: str, partition: int, offsets: Ints) -> list[ServedRow | None]:
        """What was served of the events at some ascending offsets."""
        found = {}
        for start in range(0, len(offsets), ROWS_AT_ONCE):
            some = ", ".join(map(str, offsets[start : start + ROWS_AT_ONCE].tolist()))
            sql = (
                "SELECT offset, feature_set, stale, features FROM streamgauge.scores"  # noqa: S608  # numbers and a topic's name
                f" WHERE topic = '{topic}' AND partition = {partition} AND offset IN ({some})"
            )
            for row in self._rows.query(sql):
                found[row["offset"]] = ServedRow(row["feature_set"], row["stale"], row["features"])
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
    """Of one partition, for SQL: the compared events, what was served of them, and what features made of windows read.

    ``seq``: their numbers in the log. Lists grow by steps; `joined` makes one of each.
    """

    seq: list[Ints] = field(default_factory=list)
    offsets: list[Ints] = field(default_factory=list)
    times_ms: list[Ints] = field(default_factory=list)
    served: list[Floats] = field(default_factory=list)
    columns: dict[str, list[Column]] = field(default_factory=lambda: defaultdict(list))

    def add(self, step: Step, rows: Ints, served: Floats, first: int, plan: FeaturePlan) -> None:
        """Take rows of a step whose first applied event has the number ``first``."""
        offsets = step.events.offsets[rows]
        self.seq.append(first + np.searchsorted(step.applied.offsets, offsets))
        self.offsets.append(offsets)
        self.times_ms.append(step.events.event_time_ms[rows])
        self.served.append(served)
        for name in plan.derived_reads:
            self.columns[name].append(step.events.columns[name][rows])

    def joined(self) -> _Compared:
        return _Compared(
            np.concatenate(self.seq),
            np.concatenate(self.offsets),
            np.concatenate(self.times_ms),
            np.concatenate(self.served),
            {name: np.concatenate(parts) for name, parts in self.columns.items()},
        )


@dataclass(frozen=True)
class _Compared:
    """What `_Kept` has, whole."""

    seq: Ints
    offsets: Ints
    times_ms: Ints
    served: Floats
    columns: dict[str, Column]


def run_parity(
    pipeline: Pipeline,
    part: RecordingPart,
    table: ServedFromTable | None,
    *,
    with_sql: bool,
    url: Secret,
    see: Callable[[Step], None] = lambda _: None,
    see_sql: Callable[[int, int], None] = lambda _, __: None,
) -> Parity:
    """Compare.

    Parameters
    ----------
    table
        Where the served values are; None: in the recording.
    see, see_sql
        Are shown each step of the transformation; and of SQL how many of how many events are done.
    url
        Of the ClickHouse server whose scratch database computes; empty: the engine in process.

    Raises
    ------
    RecordingError
        When there is nothing to compare.
    """
    parity = Parity([FeatureParity(name) for name in pipeline.feature_names])
    served, plan = _Served(pipeline, part, table), compile_features(pipeline)
    if not (with_sql and window_queries(pipeline)):
        for step in _steps(pipeline, plan, part, see):
            _compare(parity, step, part, served, pipeline)
        _check_compared(parity, pipeline)
        return parity
    parity.without_sql = unsupported(pipeline)
    kept: dict[int, _Kept] = {}
    with ScratchEngine(url) as engine:
        for statement in create_tables(pipeline):
            engine.run(statement)
        counted = dict.fromkeys(part.partitions, 0)
        for step in _steps(pipeline, plan, part, see):
            first = counted[step.partition]
            counted[step.partition] += len(step.applied)
            _load_events(engine, pipeline, part, step, first)
            found = _compare(parity, step, part, served, pipeline)
            if found is not None:
                kept.setdefault(step.partition, _Kept()).add(step, *found, first, plan)
        _check_compared(parity, pipeline)
        see_sql(0, parity.compared)
        _load_labels(engine, pipeline, part)
        for statement in derive_tables(pipeline):
            engine.run(statement)
        joined = {at: of.joined() for at, of in sorted(kept.items())}
        _compare_sql(parity, engine, pipeline, plan, joined, see=lambda done: see_sql(done, parity.compared))
    return parity


def _steps(pipeline: Pipeline, plan: FeaturePlan, part: RecordingPart, see: Callable[[Step], None]) -> Iterator[Step]:
    for step in run_recording(pipeline, plan, part, lambda _: None):
        see(step)
        if len(step.applied):
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


def _load_events(engine: ScratchEngine, pipeline: Pipeline, part: RecordingPart, step: Step, first: int) -> None:
    """Load the events that windows see, those included that were rejected afterwards."""
    events, n = step.applied, len(step.applied)
    counts = part.counts(step.partition, int(events.offsets[0]))
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


def _compare_sql(
    parity: Parity,
    engine: ScratchEngine,
    pipeline: Pipeline,
    plan: FeaturePlan,
    kept: dict[int, _Compared],
    *,
    see: Callable[[int], None],
) -> None:
    """Compare windows with SQL's, and what is made of windows with the same made of SQL's.

    SQL's windows differ in the last bits, and an expression may make much of that. So a window that was served within
    the tolerance of SQL's stands for it, and what is made of it must be equal to the last bit.
    """
    queries = window_queries(pipeline)
    parity.sql = [FeatureParity(query.feature, TOLERANCE) for query in queries]
    derived = [(column, FeatureParity(plan.names[column])) for column in plan.derived]
    begin = min(int(of.seq[0]) for of in kept.values())
    end = max(int(of.seq[-1]) for of in kept.values()) + 1
    size = max(1, _READS // len(kept))
    for start in range(begin, end, size):
        rows = {
            partition: slice(*np.searchsorted(of.seq, (start, start + size)).tolist()) for partition, of in kept.items()
        }
        anew = {partition: of.served[rows[partition]].copy() for partition, of in kept.items()}
        for query, feature in zip(queries, parity.sql, strict=True):
            partitions, found, values = engine.read_values(query.for_reads(start, start + size))
            for partition, of in kept.items():
                computed = np.full(size, 0.0 if query.window.aggregate in ZERO_OF_NONE else np.nan)
                ours = partitions == partition
                computed[found[ours] - start] = values[ours]
                computed = computed[of.seq[rows[partition]] - start]
                served = np.ascontiguousarray(of.served[rows[partition], query.column])
                feature.add(partition, of.offsets[rows[partition]], served, computed)
                anew[partition][:, query.column] = np.where(feature.is_same(served, computed), served, computed)
        for partition, of in kept.items() if derived else ():
            mine = rows[partition]
            plan.derive(anew[partition], of.times_ms[mine], {name: column[mine] for name, column in of.columns.items()})
            for column, feature in derived:
                served, computed = of.served[mine, column], anew[partition][:, column]
                feature.add(partition, of.offsets[mine], *map(np.ascontiguousarray, (served, computed)))
        see(sum(rows[partition].stop for partition in kept))
    parity.sql += [feature for _, feature in derived]
