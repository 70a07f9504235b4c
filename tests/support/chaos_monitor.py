"""What a monitor says of a run: of what the workers committed, and of one undisturbed run of the flow.

The first monitor reads as a live one does: it reports under way, so that late events amend what it said, and midway it
is restored from its snapshot. The second one sees each partition as one record, and reports once. In the end their
tables must hold the same, bit for bit: metadata, drift reports (those of the detectors too), performance and verdicts.
Without `Setup.monitored` windows are months, and no run closes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest
from typing import Any

from chaos_pipeline import START_MS
from memory_warehouse import MemoryWarehouse
from monitor_bench import FOUND, rows_of

from app.adapters.river_detectors import make_detector
from app.core.errors.stream import ErrorStream
from app.core.intake.merge import END_MS
from app.core.monitoring.core import MonitorCore
from app.core.scoring import ActiveModel
from app.monitor.rows import findings_columns
from schemas.pipeline.spec import Pipeline
from schemas.wire import SketchRecord

#: Alerts are told once, and what was told first depends on when.
TABLES = tuple(table for table in FOUND if table != "alerts")

#: Thirty days before the first event that is scored.
BEGAN_MS = START_MS - 30 * 86_400_000

#: Of a monitor that reads live.
_REPORTS = 4

Row = dict[str, Any]


class Monitoring:
    """A monitor without its edges, and the tables that it fills.

    The stream began long before, with events that were left unscored: windows have filled, and everything is compared.
    """

    def __init__(self, pipeline: Pipeline, models: Iterable[ActiveModel]) -> None:
        self._pipeline = pipeline
        self._core = MonitorCore(pipeline, make_detector=make_detector)
        for model in models:
            self._core.register_version(model.version, model.reference, {})
        self._core.observe(SketchRecord(0, BEGAN_MS, BEGAN_MS, [], unscored=10_000, unscored_since_ms=BEGAN_MS))
        self.tables = MemoryWarehouse()

    def read(self, records: Sequence[SketchRecord]) -> None:
        """Take records, and report."""
        for record in records:
            self._core.observe(record)
        for table, columns in findings_columns(self._core.collect(0)).items():
            self.tables.insert(table, columns)

    def restart(self) -> None:
        """Go on from a snapshot."""
        snapshot = self._core.snapshot()
        self._core = MonitorCore(self._pipeline, make_detector=make_detector)
        self._core.restore(snapshot)

    def read_live(self, records: Sequence[SketchRecord]) -> None:
        """Report under way, and go on from a snapshot midway."""
        edges = [len(records) * number // _REPORTS for number in range(_REPORTS + 1)]
        for number, (start, stop) in enumerate(pairwise(edges)):
            if 2 * number == _REPORTS:
                self.restart()
            self.read(records[start:stop])


def wrong_rows(found: Monitoring, expected: Monitoring) -> list[tuple[str, Row | None, Row | None]]:
    """Table, row and expected row wherever the tables of two monitors differ, but for revisions."""
    return [
        (table, row, wanted)
        for table in TABLES
        for row, wanted in zip_longest(_content(found.tables, table), _content(expected.tables, table))
        if row != wanted
    ]


def wrong_errors(served: Iterable[SketchRecord], undisturbed: Iterable[SketchRecord]) -> dict[str, int]:
    """By version, how many decisions are otherwise, or elsewhere, in the stream of errors that detectors see."""
    sequences = [_sequences(records) for records in (served, undisturbed)]
    versions = sorted(sequences[0].keys() | sequences[1].keys())
    pairs = {version: zip_longest(*(of.get(version, []) for of in sequences)) for version in versions}
    differ = {version: sum(found != wanted for found, wanted in each) for version, each in pairs.items()}
    return {version: count for version, count in differ.items() if count}


def _sequences(records: Iterable[SketchRecord]) -> dict[str, list[tuple[int, int, int]]]:
    """Time, decision and hour of each error, by version."""
    stream = ErrorStream()
    for record in records:
        stream.add(record)
    due = {version: stream.take_due(version, END_MS) for version in list(stream.held)}
    return {
        version: list(zip(errors.times_ms.tolist(), errors.decisions.tolist(), errors.hours.tolist(), strict=True))
        for version, errors in due.items()
    }


def _content(tables: MemoryWarehouse, table: str) -> list[Row]:
    return [{**row, "revision": 0} for row in rows_of(tables, table)]
