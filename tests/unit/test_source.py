from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from app.adapters.sources.json_lines import read_lines
from app.adapters.sources.source import EncodedRecord, Partitioner, SourceError, cut_batches, encode, read_source
from app.cli.produce import Pace
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline, PipelineError
from schemas.source import SourceRecord


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load("flights")


@given(key=st.binary(min_size=1, max_size=30), partitions=st.integers(1, 12))
def test_a_key_goes_where_kafka_clients_send_it(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert Partitioner(partitions)(key) == DefaultPartitioner()(key, everywhere, everywhere)
    partition_of = Partitioner(partitions)
    assert partition_of(key) == partition_of(key)


def test_records_become_logs_with_labels_first_and_offsets_of_their_own(flights: Pipeline) -> None:
    first = [
        EncodedRecord("event", b"JFK", 1, b"1", partition=2),
        EncodedRecord("label", b"JFK", 2, b"2", partition=2),
        EncodedRecord("event", b"JFK", 3, b"3", partition=2),
    ]
    second = [EncodedRecord("event", b"JFK", 4, b"4", partition=2), EncodedRecord("watermark", None, 5, None)]
    batches = list(cut_batches([first, second], flights))
    logs = [(batch.topic, batch.partition, batch.offsets.tolist(), batch.values) for batch in batches]
    assert logs == [
        ("flights.labels", 2, [0], [b"2"]),
        ("flights.events", 2, [0, 1], [b"1", b"3"]),
        ("flights.labels", 0, [0], [None]),
        ("flights.labels", 1, [0], [None]),
        ("flights.labels", 2, [1], [None]),
        ("flights.labels", 3, [0], [None]),
        ("flights.events", 2, [2], [b"4"]),
    ]
    assert batches[2].headers == [(("streamgauge-watermark-ms", b"5"),)]
    assert batches[1].timestamps_ms.tolist() == [1, 3]


def test_values_are_json_and_keys_are_bytes() -> None:
    (event, mark) = encode(
        [SourceRecord("event", "JFK", 7, {"a": None, "b": 1.5}), SourceRecord("watermark", None, 8, None)]
    )
    assert event == EncodedRecord("event", b"JFK", 7, b'{"a":null,"b":1.5}')
    assert mark == EncodedRecord("watermark", None, 8, None)


def test_a_source_that_fails_is_one_sentence(tmp_path: Path) -> None:
    text = (
        Path("schemas/pipelines/bench.toml")
        .read_text()
        .replace('name = "bench"', 'name = "bench"\nsource = "s.py:records"')
    )
    (tmp_path / "bench.toml").write_text(text)
    (tmp_path / "s.py").write_text(
        "def records(*_):\n    yield []\n    raise ValueError('the disk is full of holes')\n"
    )
    with pytest.raises(SourceError, match=r"s\.py:records .* failed: the disk is full of holes"):
        list(read_source(load(tmp_path / "bench.toml"), None, None))


def test_a_pipeline_without_a_source_says_what_to_name() -> None:
    with pytest.raises(PipelineError, match="source is missing"):
        list(read_source(load("bench"), None, None))


# -- lines -----------------------------------------------------------------------------------------------------------


class Trickle(io.RawIOBase):
    """Gives a few bytes at a time, as a terminal or a pipe does."""

    def __init__(self, data: bytes, size: int) -> None:
        self._parts: Iterator[bytes] = (data[start : start + size] for start in range(0, len(data), size))

    def read1(self, _: int) -> bytes:
        return next(self._parts, b"")


LINES = b'{"origin":"JFK","scheduled_departure_ms":12}\nrubbish\r\n\n{"origin":3}\n[1]\n{"scheduled_departure_ms":"x"}'


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_each_line_is_a_record_whatever_it_holds_and_however_it_arrives(flights: Pipeline, size: int) -> None:
    chunks = read_lines(Trickle(LINES, size), flights, "event")  # type: ignore[arg-type]  # read1 is all that is used
    assert [record for chunk in chunks for record in chunk] == [
        EncodedRecord("event", b"JFK", 12, b'{"origin":"JFK","scheduled_departure_ms":12}'),
        EncodedRecord("event", None, 0, b"rubbish"),
        EncodedRecord("event", b"3", 0, b'{"origin":3}'),
        EncodedRecord("event", None, 0, b"[1]"),
        EncodedRecord("event", None, 0, b'{"scheduled_departure_ms":"x"}'),
    ]


def test_a_label_line_needs_the_entity_of_its_event(flights: Pipeline) -> None:
    good = b'{"origin":"JFK","event_id":"e","label":1,"label_time_ms":5}\n'
    assert [r.key for chunk in read_lines(io.BytesIO(good), flights, "label") for r in chunk] == [b"JFK"]
    with pytest.raises(SourceError, match='Line 2 has no "origin"'):
        list(read_lines(io.BytesIO(good + b'{"event_id":"e","label":1,"label_time_ms":5}\n'), flights, "label"))


# -- pace ------------------------------------------------------------------------------------------------------------


def test_a_record_is_due_by_its_time_and_by_the_number_of_events_before_it() -> None:
    chunk = [
        EncodedRecord(kind, None, time_ms, None) for kind, time_ms in (("event", 0), ("label", 4000), ("event", 4000))
    ]
    assert Pace(speed=2).due_times(chunk, 0, 0) == [0.0, 2.0, 2.0]
    assert Pace(rate=10).due_times(chunk, 0, 5) == [0.5, 0.6, 0.6]
    assert Pace(speed=2, rate=0.1).due_times(chunk, 0, 0) == [0.0, 10.0, 10.0]
    assert Pace().due_times(chunk, 0, 9) == [0.0, 0.0, 0.0]
