from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from app.adapters.sources.python_features import load_function
from schemas.pipeline.file import load
from schemas.source import SourceRecord

PIPELINE = load("flights")
RECORDS: Callable[..., Iterator[list[SourceRecord]]] = load_function("flights_source.py:records", PIPELINE)
HOLIDAY: Callable[..., Any] = load_function("flights_features.py:days_to_holiday", PIPELINE)


def utc_ms(*parts: int) -> int:
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]  # ints alone


def stream(*days: int, limit: int | None = None) -> list[SourceRecord]:
    """The records of June 2013 between two days."""
    first, last = days
    found = RECORDS(from_ms=utc_ms(2013, 6, first), to_ms=utc_ms(2013, 6, last), limit=limit)
    return [record for chunk in found for record in chunk]


@pytest.mark.slow
def test_the_first_flight_of_the_year_worked_out_by_hand() -> None:
    # Row 1 of the file: due 05:15 (10:15 UTC), left 2 minutes late, 227 in the air, arrived 11 minutes late.
    first = next(iter(RECORDS(limit=1)))
    event, label = first

    assert event.kind == "event"
    assert (event.key, event.time_ms) == ("EWR", utc_ms(2013, 1, 1, 10, 15))
    assert event.value == {
        "flight_id": "2013-01-01/EWR/UA1545/0515",
        "scheduled_departure_ms": utc_ms(2013, 1, 1, 10, 15),
        "origin": "EWR",
        "dest": "IAH",
        "carrier": "UA",
        "flight": 1545,
        "tailnum": "N14228",
        "distance": 1400.0,
    }
    assert label.kind == "label"
    known_ms = utc_ms(2013, 1, 1, 10, 15) + (2 + 227 + 20) * 60_000
    assert label.value == {"event_id": "2013-01-01/EWR/UA1545/0515", "label": 0.0, "label_time_ms": known_ms}
    assert (label.key, label.time_ms) == ("EWR", known_ms)


@pytest.mark.slow
def test_pieces_of_time_make_up_the_whole() -> None:
    whole, pieces = stream(3, 6), [*stream(3, 4), *stream(4, 6)]

    assert [r for r in pieces if r.kind != "watermark"] == [r for r in whole if r.kind != "watermark"]
    assert any(r.kind == "label" for r in stream(4, 5)[:50]), "labels of the evening before belong to the day they come"


@pytest.mark.slow
def test_a_watermark_ends_the_stream_after_everything_else() -> None:
    found = stream(3, 4)

    assert [record.kind for record in found].index("watermark") == len(found) - 1
    assert found[-1] == SourceRecord("watermark", None, found[-2].time_ms + 1, None)


@pytest.mark.slow
def test_a_limit_keeps_the_first_events_and_no_labels_of_others() -> None:
    whole, found = stream(3, 6), stream(3, 6, limit=700)
    events = [r for r in whole if r.kind == "event"][:700]
    dropped = {r.value["flight_id"] for r in whole if r.kind == "event" and r.value} - {
        r.value["flight_id"] for r in events if r.value
    }
    labels = [r for r in whole if r.kind == "label" and r.value and r.value["event_id"] not in dropped]

    assert [r for r in found if r.kind == "event"] == events
    assert [r for r in found if r.kind == "label"] == labels


@pytest.mark.slow
def test_nothing_is_yielded_where_there_is_nothing() -> None:
    assert list(RECORDS(from_ms=utc_ms(2012, 1, 1), to_ms=utc_ms(2012, 2, 1))) == []


@pytest.mark.slow
def test_times_never_go_back_and_a_label_follows_its_event() -> None:
    found = stream(3, 6)
    departed = {r.value["flight_id"]: r.time_ms for r in found if r.kind == "event" and r.value}

    assert all(a.time_ms <= b.time_ms for a, b in pairwise(found))
    labels = [r for r in found if r.kind == "label" and r.value]
    own = [(departed[r.value["event_id"]], r) for r in labels if r.value and r.value["event_id"] in departed]
    assert len(own) > 2000
    assert all(departure < label.time_ms for departure, label in own)


@pytest.mark.parametrize(
    ("date", "days"),
    [
        ((2013, 1, 1), 0),
        ((2013, 1, 2), -1),
        ((2013, 1, 11), 7),  # ten days before Martin Luther King's day, the 21st
        ((2013, 5, 24), 3),  # Memorial Day is the 27th
        ((2013, 7, 1), 3),
        ((2013, 7, 20), -7),
        ((2013, 11, 27), 1),  # Thanksgiving is the 28th
        ((2013, 12, 1), -3),
        ((2013, 12, 28), -3),
        ((2013, 12, 29), 3),
    ],
)
def test_days_to_the_nearest_holiday(date: tuple[int, int, int], days: int) -> None:
    early, late = utc_ms(*date, 5, 1), utc_ms(*date, 23, 59) + 3_600_000  # both on that date in New York

    assert HOLIDAY(np.array([early, late])).tolist() == [days, days]


def test_holidays_of_no_events_are_none() -> None:
    assert HOLIDAY(np.zeros(0, dtype=np.int64)).shape == (0,)
