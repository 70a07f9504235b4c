from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from app.adapters.sources.event_tables import EventTable, TableError
from app.core.intake.decode import EventDecoder
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

NOW_MS = 1_700_000_000_000
TIME_MS = 1_370_000_000_000
TIME = dt.datetime.fromtimestamp(TIME_MS / 1000, dt.UTC)


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load("flights")


def columns(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "flight_id": [f"f{row}" for row in range(n)],
        "scheduled_departure_ms": [TIME_MS + row for row in range(n)],
        "origin": ["JFK"] * n,
        "dest": ["LAX"] * n,
        "carrier": ["B6"] * n,
        "flight": list(range(n)),
        "tailnum": [None] * n,
        "distance": [100.5] * n,
        **changes,
    }


def save(path: Path, table: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


def read(path: Path, pipeline: Pipeline, said: list[str] | None = None) -> list[dict[str, Any]]:
    sentences: list[str] = [] if said is None else said
    table = EventTable(path, pipeline, "events", NOW_MS, sentences.append)
    return [json.loads(value or b"") for batch in table.read() for value in batch.values]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_become_the_events_that_a_producer_would_send(tmp_path: Path, flights: Pipeline, suffix: str) -> None:
    wanted = columns(3, tailnum=["N1", None, "N3"])
    path = save(tmp_path / f"events{suffix}", pa.table({**wanted, "more": [1, 2, 3]}))
    expected = [dict(zip(wanted, row, strict=True)) for row in zip(*wanted.values(), strict=True)]
    assert read(path, flights) == expected


@pytest.mark.parametrize(
    "times",
    [
        pa.array([TIME], pa.timestamp("us", tz="UTC")),
        pa.array([TIME.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array([TIME.isoformat()], pa.string()),
        pa.array([str(TIME_MS)], pa.string()),
        pa.array([float(TIME_MS)], pa.float64()),
    ],
)
def test_the_event_time_may_be_a_time_stamp_a_text_or_milliseconds(
    tmp_path: Path, flights: Pipeline, times: Any
) -> None:
    path = save(tmp_path / "events.parquet", pa.table(columns(1, scheduled_departure_ms=times)))
    assert read(path, flights)[0]["scheduled_departure_ms"] == TIME_MS


def test_whole_numbers_that_nulls_made_floats_are_ints_again_and_nan_is_null(tmp_path: Path, flights: Pipeline) -> None:
    table = pa.table(columns(2, flight=[7.0, 8.5], distance=[float("nan"), float("inf")]))
    rows = read(save(tmp_path / "events.parquet", table), flights)
    assert [row["flight"] for row in rows] == [7, 8.5]
    assert [row["distance"] for row in rows] == [None, None]


def test_a_bad_cell_of_a_csv_is_a_bad_row_and_no_more(tmp_path: Path, flights: Pipeline) -> None:
    table = pa.table(columns(4, distance=["10", "far", "", "1e3"], flight=["1", "2", "3", "4.5"]))
    path = save(tmp_path / "events.csv", table)
    (batch,) = EventTable(path, flights, "events", NOW_MS, print).read()
    events, rejections = EventDecoder(flights.events).decode(batch)
    assert events.columns["distance"].tolist() == [10.0]
    assert [(rejection.position, rejection.reason) for rejection in rejections] == [
        (1, "wrong_type"),
        (2, "wrong_type"),
        (3, "wrong_type"),
    ]


def test_rows_out_of_order_are_sorted_and_keep_their_number(tmp_path: Path, flights: Pipeline) -> None:
    times = [TIME_MS + 5, TIME_MS, TIME_MS + 9, TIME_MS + 5]
    path = save(tmp_path / "events.parquet", pa.table(columns(4, scheduled_departure_ms=times)))
    said: list[str] = []
    table = EventTable(path, flights, "events", NOW_MS, said.append)
    ids = [json.loads(value or b"")["flight_id"] for batch in table.read() for value in batch.values]
    assert ids == ["f1", "f0", "f3", "f2"]
    assert [table.original_row(offset) for offset in range(4)] == [1, 0, 3, 2]
    assert "sorted" in said[0]


def test_a_missing_column_is_named(tmp_path: Path, flights: Pipeline) -> None:
    without = columns(1)
    del without["dest"], without["distance"]
    with pytest.raises(TableError, match="no column dest, distance"):
        EventTable(save(tmp_path / "events.csv", pa.table(without)), flights, "events", NOW_MS, print)
    del (nullable := columns(1))["tailnum"]
    assert read(save(tmp_path / "fine.parquet", pa.table(nullable)), flights)[0]["flight_id"] == "f0"


@pytest.mark.parametrize(
    ("name", "content"), [("events.txt", b""), ("events.parquet", b"not one"), ("events.csv", b"")]
)
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, flights: Pipeline, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=name):
        EventTable(tmp_path / name, flights, "events", NOW_MS, print)
