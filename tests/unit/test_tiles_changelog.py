from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.core.features.state_log
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.features.state_log import META, Generation
from app.flow.marks import Position
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

FILE = """
name = "cards"
[events]
entity = "card"
id = "id"
time = "at_ms"
earliest = 1970-01-01T00:00:00Z
[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
shop = "string"
[[features]]
name = "amount"
type = "float"
expression = "amount"
[[features]]
name = "n"
type = "int"
window = { of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "count" }
[[features]]
name = "shops"
type = "int"
window = { of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "distinct", field = "shop" }
"""
Change = tuple[bytes, bytes | None]


def pipeline_of(folder: Path, text: str = FILE) -> Pipeline:
    path = folder / "cards.toml"
    path.write_text(text)
    return load(path)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return pipeline_of(tmp_path_factory.mktemp("cards"))


def flow_of(pipeline: Pipeline) -> PartitionPipeline:
    return PartitionPipeline(pipeline, FeaturePlan.compile(pipeline, {}, {}), 0, outputs=FlowOutput.STATE)


def step(flow: PartitionPipeline, first: int, events: int) -> list[list[float]]:
    """Events of three cards, one a second; their features."""
    values: list[bytes | None] = [
        f'{{"id":"{n}","card":"c{n % 3}","at_ms":{n * 1000},"amount":{n},"shop":"s{n % 5}"}}'.encode()
        for n in range(first, first + events)
    ]
    flow.receive_events(batch_of([(b"c", value) for value in values], "cards.events", first))
    found = flow.step(None, 1000, 0)
    assert found is not None
    return found.matrix.tolist()


def batch_of(changes: list[Change], topic: str = "cards.state", first: int = 0) -> RecordBatch:
    offsets = np.arange(first, first + len(changes))
    return RecordBatch(topic, 0, offsets, np.zeros_like(offsets), [k for k, _ in changes], [v for _, v in changes])


def log_of(pipeline: Pipeline, first: int = 0, events: int = 30) -> list[Change]:
    flow = flow_of(pipeline)
    step(flow, first, events)
    return flow.drain_state()


@pytest.mark.slow
@settings(max_examples=20)
@given(size=st.integers(1, 40), drains=st.lists(st.integers(1, 9), max_size=4))
def test_a_changelog_read_in_batches_gives_the_state_that_wrote_it(
    pipeline: Pipeline, size: int, drains: list[int]
) -> None:
    flow, at = flow_of(pipeline), 0
    log: list[Change] = []
    for events in [*drains, 5]:
        step(flow, at, events)
        at += events
        log += flow.drain_state()
    again = flow_of(pipeline)
    reader = again.state_reader()
    for start in range(0, len(log), size):
        reader.take(batch_of(log[start : start + size], first=start))
    restored = again.go_on_from(reader)

    assert (restored.records, restored.left_aside) == (len(log), "")
    assert step(again, at, 7) == step(flow, at, 7)


def test_a_state_of_another_feature_set_is_left_aside_in_so_many_words(pipeline: Pipeline, tmp_path: Path) -> None:
    other = pipeline_of(tmp_path, FILE.replace('expression = "amount"', 'expression = "amount * 2"'))
    flow = flow_of(other)

    restored = flow.restore(log_of(pipeline))

    assert f"of feature set {pipeline.feature_set} and the pipeline's is {other.feature_set}" in restored.left_aside
    assert step(flow, 30, 1)[0][1:] == [0, 0]


def test_a_state_left_aside_never_comes_back_and_its_records_are_cleared(pipeline: Pipeline, tmp_path: Path) -> None:
    other = pipeline_of(tmp_path, FILE.replace('expression = "amount"', 'expression = "amount * 2"'))
    log = dict(log_of(pipeline))
    former = set(log) - {META}
    second = flow_of(other)
    second.restore(list(log.items()))
    for key, value in second.drain_state():  # nothing but where it stands, and what is cleared
        log.pop(key, None)
        log[key] = value
    assert {key for key, value in log.items() if value is None} == former

    third = flow_of(other)
    assert third.restore(list(log.items())).left_aside == ""
    assert step(third, 30, 1)[0][1:] == [0, 0]
    first_again = flow_of(pipeline)
    assert first_again.restore(list(log.items())).left_aside != ""
    assert step(first_again, 30, 1)[0][1:] == [0, 0]


def test_records_of_a_former_generation_that_are_still_there_are_passed_over(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    other = pipeline_of(tmp_path, FILE.replace('expression = "amount"', 'expression = "amount * 2"'))
    log = log_of(pipeline)
    second = flow_of(other)
    second.restore(log)
    second.drain_state()  # lost: only what follows is in the log
    step(second, 30, 3)
    third = flow_of(other)

    assert third.restore([*log, *second.drain_state()]).left_aside == ""
    assert step(third, 33, 3) == step(second, 33, 3)
    # All of them are cleared then, though what follows them was read together with them.
    assert {key for key, value in third.drain_state() if value is None} >= {key for key, _ in log} - {META}


@pytest.mark.parametrize("damage", ["short", "key", "meta", "distinct"])
def test_a_record_that_cannot_be_read_is_passed_over_and_named_and_the_rest_is_restored(
    pipeline: Pipeline, damage: str
) -> None:
    log = log_of(pipeline)
    at = len(log) - 1 if damage == "meta" else len(log) // 2
    key, value = log[at]
    assert value is not None
    log[at] = {
        "short": (key, value[:-3]),
        "key": (key[:14] + b"\xc1", value),
        "meta": (key, b"\x01"),
        "distinct": (key, value[:-8]),
    }[damage]
    reader = flow_of(pipeline).state_reader()
    reader.take(batch_of(log[: at - 2]))

    reader.take(batch_of(log[at - 2 :], first=at - 2))
    assert [offset for offset, _ in reader.refused] == [at]

    flow = flow_of(pipeline)
    flow.go_on_from(reader)
    without = flow_of(pipeline)
    without.restore([change for number, change in enumerate(log) if number != at])
    assert step(flow, 40, 5) == step(without, 40, 5)
    if damage == "meta":
        assert flow.position().events is not None  # of what was stepped through here
        again = flow_of(pipeline)
        again.go_on_from(reader)
        assert again.position() == Position(None, None)  # the group's offsets say where to go on


def test_a_record_of_our_key_that_another_program_wrote_leaves_what_was_there(pipeline: Pipeline) -> None:
    """As long as compaction has not removed it; a tile that is used again is written again, too."""
    log = log_of(pipeline)
    forged = [(key, b"rubbish") for key, value in log if value is not None]
    reader = flow_of(pipeline).state_reader()
    reader.take(batch_of([*log, *forged]))
    assert len(reader.refused) == len(forged)
    flow, clean = flow_of(pipeline), flow_of(pipeline)
    flow.go_on_from(reader)
    clean.restore(log)
    assert step(flow, 40, 5) == step(clean, 40, 5)


def with_a_byte(value: bytes, at: int) -> bytes:
    return value[:at] + b"\xff" + value[at + 1 :]


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data())
def test_no_record_of_the_state_topic_stops_a_take_over(pipeline: Pipeline, data: Any) -> None:
    log = log_of(pipeline)
    odd = st.one_of(
        st.none(),
        st.binary(max_size=60),
        st.sampled_from([b"\x91" * 100_000 + b"\xc0", b"\xff" * 8, b"\x7f" + b"\xff" * 31]),
        st.builds(with_a_byte, st.sampled_from([value or b"" for _, value in log]), st.integers(0, 60)),
    )
    keys = st.one_of(
        st.binary(max_size=24),
        st.sampled_from([META, b"", b"o", b"e", b"t\0\0\0\0", b"m\0", b"e\0\0\0\0\xff"]),
        st.sampled_from([key for key, _ in log]),
    )
    for key, value in data.draw(st.lists(st.tuples(keys, odd), min_size=1, max_size=6)):
        log.insert(data.draw(st.integers(0, len(log))), (key, value))
    reader = flow_of(pipeline).state_reader()
    middle = len(log) // 2
    reader.take(batch_of(log[:middle]))
    reader.take(batch_of(log[middle:], first=middle))
    flow = flow_of(pipeline)
    flow.go_on_from(reader)
    flow.drain_state()
    assert len(step(flow, 40, 5)) == 5
    again = flow_of(pipeline)
    again.restore(flow.drain_state())


def test_partitions_of_one_pipeline_write_the_same_names(pipeline: Pipeline) -> None:
    renamed = replace(pipeline, digest="another")

    assert [key for key, _ in log_of(renamed)] == [key for key, _ in log_of(pipeline)]


def test_records_of_former_generations_are_cleared_a_part_at_a_time_and_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app.core.features.state_log, "_MOST_CLEARED", 2)
    keys = [b"t\0\0\0\1%d" % number for number in range(5)]
    generation = Generation(2, list(keys))

    cleared = [generation.clear_some() for _ in range(4)]

    assert [len(part) for part in cleared] == [2, 2, 1, 0]
    assert [change for part in cleared for change in part] == [(key, None) for key in keys]


def test_a_generation_is_named_after_the_kind_of_a_record() -> None:
    assert list(Generation(258).name([(b"tkey", b"1"), (b"e", None)])) == [
        (b"t\0\0\1\2key", b"1"),
        (b"e\0\0\1\2", None),
    ]
