"""Served features against features computed anew, by the transformation itself and by SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from app.adapters.clickhouse.scratch_engine import ScratchEngine
from app.adapters.recordings.file import RecordingError
from app.adapters.recordings.part import RecordingPart
from app.adapters.sources.features import compile_features
from app.core.batches import Floats, Ints
from app.core.features.plan import FeaturePlan
from app.core.replay.parity import FeatureParity
from app.core.replay.window_sql import unsupported, window_queries
from app.flow.step import Step
from app.replay.offline import run_recording
from app.replay.part_selector import is_counted
from app.replay.served import Served, ServedFromTable
from app.replay.sql_parity import SqlParity
from app.secret import Secret
from schemas.pipeline.spec import Pipeline


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
    """Compare the served features of a part with features computed anew.

    Parameters
    ----------
    table
        Where the served values are; None: in the recording.
    see, see_sql
        ``see`` is shown each step of the transformation; ``see_sql`` is told how many of how many events SQL has done.
    url
        Of the ClickHouse server whose scratch database computes; empty: the engine in process.

    Raises
    ------
    RecordingError
        When there is nothing to compare.
    """
    parity = Parity([FeatureParity(name) for name in pipeline.feature_names])
    served, plan = Served(pipeline, part, table), compile_features(pipeline)
    if not (with_sql and window_queries(pipeline)):
        for step in _steps(pipeline, plan, part, see):
            _compare(parity, step, part, served, pipeline)
        _check_compared(parity, pipeline)
        return parity
    parity.without_sql = unsupported(pipeline)
    with ScratchEngine(url) as engine:
        sql = SqlParity(engine, pipeline, plan, part)
        for step in _steps(pipeline, plan, part, see):
            sql.add(step, _compare(parity, step, part, served, pipeline))
        _check_compared(parity, pipeline)
        see_sql(0, parity.compared)
        parity.sql = sql.compare(lambda done: see_sql(done, parity.compared))
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
    parity: Parity, step: Step, part: RecordingPart, served: Served, pipeline: Pipeline
) -> tuple[Ints, Floats] | None:
    """Compare a step with the transformation; return the rows compared and what was served of them."""
    if not is_counted(step, part):
        return None
    rows: list[int] = []
    values: list[list[float]] = []
    names = pipeline.feature_names
    for row, score in enumerate(served.at(step.partition, step.events.offsets)):
        if score is None or not score.features:
            parity.without_score += 1
        elif score.feature_set != pipeline.feature_set:
            parity.other_features += 1
        elif score.stale:
            parity.stale += 1
        else:
            rows.append(row)
            values.append([np.nan if (value := score.features.get(name)) is None else value for name in names])
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
