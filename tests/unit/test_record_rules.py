"""What the pipeline file says that records must satisfy: bounds that can just be reached, and a step beyond."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from app.core.batches import RecordBatch
from app.core.records.event_time import CLOCK_SKEW_MS
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules, check_readable
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import DeadLetter, Score, Source, encode_json

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
RULES = RecordRules(Topics("p", 4), "m", 100, 10_000, 3, 20)


def test_the_rules_are_those_of_the_pipeline_file(small_pipeline: Pipeline) -> None:
    from_2020, to_2030 = 1_577_836_800_000, 1_893_456_000_000
    expected = RecordRules(Topics("shop", 1), "shop-returns", from_2020, to_2030, 48 * HOUR_MS, DAY_MS)
    assert RecordRules.of(small_pipeline) == expected
    assert RecordRules.of(replace(small_pipeline, labels=None)) == replace(expected, horizon_ms=0)


@pytest.mark.parametrize(
    ("clock_ms", "expected"),
    [
        (None, 10_000 + 20 + 3),
        (10**15, 10_000 + 20 + 3),
        (9_000 - CLOCK_SKEW_MS, 9_000 + 20 + 3),
        (10_000 - CLOCK_SKEW_MS, 10_000 + 20 + 3),
        (0 - CLOCK_SKEW_MS, 20 + 3),
    ],
)
def test_a_partition_has_come_as_far_as_clocks_promises_and_labels_can(clock_ms: int | None, expected: int) -> None:
    assert RULES.latest_come_to_ms(clock_ms) == expected


def test_an_event_has_a_time_within_the_bounds() -> None:
    for time_ms in (100, 10_000):
        RULES.check_event_time(time_ms, "A slice")
    for time_ms in (99, 10_001):
        with pytest.raises(RefusedRecordError, match=f"A slice {time_ms} is not from 100 to 10000") as refused:
            RULES.check_event_time(time_ms, "A slice")
        assert refused.value.reason == "out_of_range"


def test_a_record_lies_in_the_partition_of_its_source() -> None:
    topics = ("p.events", "p.labels")
    for topic in topics:
        RULES.check_source(topic, 3, 3, topics)
    for topic, partition in (("p.scores", 3), ("p.events", 2)):
        with pytest.raises(RefusedRecordError) as refused:
            RULES.check_source(topic, partition, 3, topics)
        assert refused.value.reason == "foreign"


def test_what_stands_for_records_that_could_not_be_unpacked_is_refused() -> None:
    offsets = np.arange(2)
    batch = RecordBatch("t", 0, offsets, offsets, [None] * 2, [b""] * 2, unreadable={1: ("it is torn", 10)})
    check_readable(batch, 0)
    with pytest.raises(RefusedRecordError, match="it is torn") as refused:
        check_readable(batch, 1)
    assert refused.value.reason == "unreadable_batch"


# -- scores and dead letters -------------------------------------------------------------------------------------------

READER = OutputReader(RULES)
SCORE = Score("e1", "c1", 10_000, 0.5, True, "m", "1.0.0", "champion", "set", Source(RULES.topics.events, 2, 7), 10_000)


def test_a_score_is_read_in_the_partition_of_its_event() -> None:
    assert READER.score(2, encode_json(SCORE)) == SCORE
    assert READER.score(2, encode_json(replace_struct(SCORE, event_time_ms=100, score=-1e300))).score == -1e300


@pytest.mark.parametrize(
    ("partition", "other", "reason"),
    [
        (1, {}, "foreign"),
        (2, {"source": Source(RULES.topics.labels, 2, 7)}, "foreign"),
        (2, {"event_time_ms": 10_001}, "out_of_range"),
        (2, {"event_time_ms": 99}, "out_of_range"),
    ],
)
def test_a_score_that_no_worker_wrote_is_refused(partition: int, other: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedRecordError) as refused:
        READER.score(partition, encode_json(replace_struct(SCORE, **other)))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"{", b"[]", b'{"event_id": 1}'),
        *(encode_json(SCORE).replace(b'"score":0.5', b'"score":' + bad) for bad in (b"1e999", b"NaN", b"null")),
    ],
)
def test_what_is_no_score_or_no_number_that_is_finite_is_refused(value: bytes | None) -> None:
    with pytest.raises(RefusedRecordError):
        READER.score(2, value)


@pytest.mark.parametrize("kind", ["events", "labels", "scores"])
def test_a_dead_letter_is_of_the_partition_of_its_event_or_label(kind: str) -> None:
    source = Source(getattr(RULES.topics, kind), 3, 9)
    letter = DeadLetter(source, "decode", "malformed", "why", b"k", b"v", 5, 6)
    for partition in (3, 2):
        if partition == 3 and kind != "scores":
            assert READER.letter(partition, b"k", b"v", letter.to_headers()) == letter
        else:
            with pytest.raises(RefusedRecordError) as refused:
                READER.letter(partition, b"k", b"v", letter.to_headers())
            assert refused.value.reason == "foreign"
