"""What was served of past events: the features of their scores, in a recording or in ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.adapters.http.row_writers import RowWriter
from app.adapters.recordings.part import RecordingPart
from app.adapters.recordings.scores import RecordedScores
from app.core.batches import Ints
from app.secret import Secret
from schemas.pipeline.spec import Pipeline

#: Rows asked for at a time: so many fit into an answer even with thousands of features.
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
        """Connect to whoever owns ClickHouse; None when the table is not wanted."""
        if not wanted:
            yield None
            return
        with RowWriter(url, home) as rows:
            yield cls(rows)

    def at(self, topic: str, partition: int, offsets: Ints) -> list[ServedRow | None]:
        """What was served of the events at some ascending offsets."""
        rows: dict[int, ServedRow] = {}
        for start in range(0, len(offsets), ROWS_AT_ONCE):
            some = ", ".join(map(str, offsets[start : start + ROWS_AT_ONCE].tolist()))
            sql = (
                "SELECT offset, feature_set, stale, features FROM streamgauge.scores"  # noqa: S608  # numbers and a topic's name
                f" WHERE topic = '{topic}' AND partition = {partition} AND offset IN ({some})"
            )
            for row in self._rows.query(sql):
                rows[row["offset"]] = ServedRow(row["feature_set"], row["stale"], row["features"])
        return [rows.get(offset) for offset in offsets.tolist()]


class Served:
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
