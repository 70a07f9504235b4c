from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import RecordBatch
from app.core.intake.decode import MOST_TEXT_BYTES, EventDecoder, LabelDecoder
from schemas.pipeline.file import load
from schemas.pipeline.spec import EventField, Events, Pipeline
from schemas.topics import WATERMARK_HEADER

EARLIEST_MS, LATEST_MS, DAY_MS = 1_000_000_000_000, 2_000_000_000_000, 86_400_000
NOW_MS = 1_500_000_000_000

EVENTS = Events(
    entity="card",
    event_id="id",
    time="at",
    fields=(
        EventField("id", "string"),
        EventField("card", "string"),
        EventField("at", "int"),
        EventField("amount", "float"),
        EventField("tries", "int", nullable=True),
        EventField("is_new", "bool", nullable=True),
        EventField("shop", "string", nullable=True),
    ),
    earliest_ms=EARLIEST_MS,
    latest_ms=LATEST_MS,
    max_ahead_ms=DAY_MS,
)
GOOD: dict[str, Any] = {"id": "e1", "card": "c1", "at": NOW_MS, "amount": 2.5}


def records(values: list[bytes | None], headers: list[Any] | None = None) -> RecordBatch:
    n = len(values)
    return RecordBatch(
        "t",
        0,
        np.arange(10, 10 + n),
        np.full(n, NOW_MS),
        [b"c1"] * n,
        values,
        [tuple(h) for h in headers or []] or None,
    )


def event(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def without(name: str) -> bytes:
    return json.dumps({field: value for field, value in GOOD.items() if field != name}).encode()


def raw(amount: str = "2.5", tries: str = "1", extra: str = "") -> bytes:
    return f'{{"id":"e1","card":"c1","at":{NOW_MS},"amount":{amount},"tries":{tries}{extra}}}'.encode()


BAD: dict[str, tuple[bytes | None, str, str]] = {
    "tombstone": (None, "decode", "tombstone"),
    "empty": (b"", "decode", "empty"),
    "blank": (b"  \n", "decode", "not_json"),
    "words": (b"hello", "decode", "not_json"),
    "a megabyte of rubbish": (b"\x00\xff{" * 350_000, "decode", "not_json"),
    "a megabyte of brackets": (b"[" * 1_000_000, "decode", "not_an_object"),
    "nested beyond reason in a field that nobody reads": (
        raw(extra=',"z":' + "[" * 100_000 + "]" * 100_000),
        "decode",
        "not_json",
    ),
    "cut short": (event()[:-1], "decode", "not_json"),
    "two values": (event() + event(), "decode", "not_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + event(), "decode", "not_json"),
    "invalid UTF-8": (event().replace(b"e1", b"\xff1"), "decode", "not_json"),
    "half a surrogate pair": (event().replace(b"e1", b"\\ud800"), "decode", "not_json"),
    "NaN": (raw("NaN"), "decode", "not_json"),
    "Infinity": (raw("Infinity"), "decode", "not_json"),
    "-Infinity": (raw("-Infinity"), "decode", "not_json"),
    "a float beyond float64": (raw("1e999"), "decode", "wrong_type"),
    "an integer of 400 digits for a float": (raw("1" * 400), "decode", "wrong_type"),
    "an integer beyond 64 bits": (raw(tries=str(2**63)), "decode", "wrong_type"),
    "an integer below 64 bits": (raw(tries=str(-(2**63) - 1)), "decode", "wrong_type"),
    "an integer of 400 digits": (raw(tries="1" * 400), "decode", "wrong_type"),
    "a time beyond 64 bits": (event(at=10**30), "decode", "wrong_type"),
    "a fraction for an int": (raw(tries="1.5"), "decode", "wrong_type"),
    "a string for a float": (event(amount="2.5"), "decode", "wrong_type"),
    "a number for a string": (event(card=7), "decode", "wrong_type"),
    "a bool for a number": (event(amount=True), "decode", "wrong_type"),
    "a number for a bool": (event(is_new=1), "decode", "wrong_type"),
    "an object for a number": (event(amount={"value": 2.5}), "decode", "wrong_type"),
    "null where it may not be": (event(amount=None), "decode", "wrong_type"),
    "a missing field": (without("amount"), "decode", "missing_field"),
    "a missing key": (without("card"), "decode", "missing_field"),
    "an empty object": (b"{}", "decode", "missing_field"),
    "a list": (b"[1]", "decode", "not_an_object"),
    "null alone": (b"null", "decode", "not_an_object"),
    "an empty entity": (event(card=""), "validate", "empty_key"),
    "an empty id": (event(id=""), "validate", "empty_key"),
    "the year 1970": (event(at=0), "validate", "time_too_early"),
    "before 1970": (event(at=-(2**63)), "validate", "time_too_early"),
    "the year 2100": (event(at=4_102_444_800_000), "validate", "time_too_late"),
    "the last of 64 bits": (event(at=2**63 - 1), "validate", "time_too_late"),
    "a day and a millisecond ahead": (event(at=NOW_MS + DAY_MS + 1), "validate", "time_ahead"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_event_is_rejected_with_its_reason_and_its_neighbours_are_kept(what: str) -> None:
    value, stage, reason = BAD[what]
    events, rejections = EventDecoder(EVENTS).decode(records([event(id="a"), value, event(id="b")]))
    assert events.event_id == ["a", "b"]
    assert events.offsets.tolist() == [10, 12]
    assert [(r.position, r.stage, r.reason) for r in rejections] == [(1, stage, reason)]
    assert 0 < len(rejections[0].detail) <= 300


def test_what_the_rules_allow_is_kept() -> None:
    values = [
        event(more="fields", of=["any", {"kind": 1}]),
        event(tries=None, is_new=None, shop=None),
        event(id="e1"),  # a repeated id is an event like any other
        event(at=NOW_MS + DAY_MS),
        event(shop=""),
        event(amount=3),
        b" \n" + event(is_new=True) + b"\n",
    ]
    events, rejections = EventDecoder(EVENTS).decode(records(values))
    assert rejections == []
    assert events.columns["amount"].tolist() == [2.5, 2.5, 2.5, 2.5, 2.5, 3.0, 2.5]
    assert events.columns["shop"].tolist() == [None, None, None, None, "", None, None]
    assert events.columns["is_new"][6] == 1.0
    assert math.isnan(events.columns["is_new"][0])
    assert events.event_time_ms.tolist() == [NOW_MS] * 3 + [NOW_MS + DAY_MS] + [NOW_MS] * 3
    assert events.entity == ["c1"] * 7


@pytest.mark.parametrize(("value", "is_hinted"), [(b"\x00\x00\x00\x00\x07\x02e1", True), (b"{", False), (b"[", False)])
def test_a_schema_registry_is_named_only_where_its_header_is(value: bytes, is_hinted: bool) -> None:
    _, (rejection,) = EventDecoder(EVENTS).decode(records([value]))
    assert ("schema registry" in rejection.detail) == is_hinted


@given(choices=st.lists(st.sampled_from([None, *BAD]), max_size=8))
def test_many_records_are_decoded_as_one_by_one(choices: list[str | None]) -> None:
    decoder = EventDecoder(EVENTS)
    batch = records([event(id=f"e{row}") if what is None else BAD[what][0] for row, what in enumerate(choices)])
    events, rejections = decoder.decode(batch)
    ids, reasons = [], []
    for row, value in enumerate(batch.values):
        one = records([value])
        single, rejected = decoder.decode(one)
        ids += single.event_id
        reasons += [(row, r.stage, r.reason, r.detail) for r in rejected]
    assert events.event_id == ids
    assert [(r.position, r.stage, r.reason, r.detail) for r in rejections] == reasons


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {
            "id": st.text(min_size=1),
            "card": st.text(min_size=1),
            "at": st.integers(EARLIEST_MS, NOW_MS),
            "amount": st.floats(allow_nan=False, allow_infinity=False),
            "tries": st.none() | st.integers(-(2**63), 2**63 - 1),
            "shop": st.none() | st.text(),
        }
    )
)
def test_decoding_gives_back_what_was_encoded(fields: dict[str, Any]) -> None:
    events, rejections = EventDecoder(EVENTS).decode(records([msgspec.json.encode(fields)]))
    assert rejections == []
    assert (events.event_id, events.entity) == ([fields["id"]], [fields["card"]])
    assert events.event_time_ms.tolist() == [fields["at"]]
    assert events.columns["amount"].tobytes() == np.array([fields["amount"]]).tobytes()
    assert events.columns["shop"].tolist() == [fields["shop"]]
    tries = events.columns["tries"][0]
    assert math.isnan(tries) if fields["tries"] is None else tries == float(fields["tries"])


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load("flights")


LABEL_MS = 1_370_000_000_000  # in May 2013, within the bounds of the flights


def label(**changes: Any) -> bytes:
    return json.dumps({"event_id": "e1", "label": 1, "label_time_ms": LABEL_MS, **changes}).encode()


BAD_LABELS: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "empty"),
    "words": (b"late", "not_json"),
    "NaN": (label().replace(b": 1,", b": NaN,"), "not_json"),
    "no id": (label(event_id=""), "empty_key"),
    "a third class": (label(label=2), "not_binary"),
    "a bool": (label(label=True), "wrong_type"),
    "the year 1970": (label(label_time_ms=0), "time_too_early"),
    "the year 2100": (label(label_time_ms=4_102_444_800_000), "time_too_late"),
    "an integer of 400 digits": (label(label_time_ms=10**400), "wrong_type"),
    "a missing field": (b'{"event_id": "e1"}', "missing_field"),
}


@pytest.mark.parametrize("what", BAD_LABELS)
def test_a_bad_label_is_rejected_with_its_reason_and_its_neighbours_are_kept(what: str, flights: Pipeline) -> None:
    value, reason = BAD_LABELS[what]
    labels, rejections = LabelDecoder(flights).decode(records([label(), value, label(event_id="e2", label=0)]))
    assert labels.event_id == ["e1", "e2"]
    assert labels.label.tolist() == [1.0, 0.0]
    assert labels.offsets.tolist() == [10, 12]
    assert [(r.position, r.stage, r.reason) for r in rejections] == [(1, "label", reason)]


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"label": True}, "Write 0 or 1."),
        ({"label": "1"}, "Write 0 or 1."),
        ({"label": None}, "Write 0 or 1."),
        ({"label_time_ms": "2013-01-05T10:00:00Z"}, "Write milliseconds since 1970 (UTC), a whole number."),
        ({"label_time_ms": 1.5}, "Write milliseconds since 1970 (UTC), a whole number."),
        ({"event_id": 7}, "Write a text, in quotes."),
    ],
)
def test_a_label_of_a_wrong_type_is_told_what_to_write(changes: dict[str, Any], advice: str, flights: Pipeline) -> None:
    _, (rejection,) = LabelDecoder(flights).decode(records([label(**changes)]))
    assert rejection.reason == "wrong_type"
    assert rejection.detail.startswith("Expected `")
    assert rejection.detail.endswith(f"at `$.{next(iter(changes))}`. {advice}")


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"amount": "2.5"}, "Write a number, without quotes."),
        ({"amount": True}, "Write a number, without quotes."),
        ({"tries": 1.5}, "Write a whole number, without quotes."),
        ({"is_new": 1}, "Write true or false."),
        ({"card": 7}, "Write a text, in quotes."),
        ({"at": "2013-01-05T10:00:00Z"}, "Write milliseconds since 1970 (UTC), a whole number."),
    ],
)
def test_a_field_of_a_wrong_type_is_told_what_to_write(changes: dict[str, Any], advice: str) -> None:
    _, (rejection,) = EventDecoder(EVENTS).decode(records([event(**changes)]))
    assert rejection.reason == "wrong_type"
    assert rejection.detail.endswith(f"at `$.{next(iter(changes))}`. {advice}")


def test_a_label_ahead_of_its_record_is_rejected(flights: Pipeline) -> None:
    batch = records([label(label_time_ms=LABEL_MS + DAY_MS), label(label_time_ms=LABEL_MS + DAY_MS + 1)])
    batch.timestamps_ms = np.full(2, LABEL_MS)
    labels, rejections = LabelDecoder(flights).decode(batch)
    assert len(labels) == 1
    assert [(r.position, r.reason) for r in rejections] == [(1, "time_ahead")]


def test_a_label_may_be_later_than_the_last_event_by_the_horizon(flights: Pipeline) -> None:
    assert flights.labels is not None
    last_ms = flights.events.latest_ms + flights.labels.horizon_ms
    batch = records([label(label_time_ms=last_ms), label(label_time_ms=last_ms + 1)])
    batch.timestamps_ms = np.full(2, last_ms)
    labels, rejections = LabelDecoder(flights).decode(batch)
    assert labels.label_time_ms.tolist() == [last_ms]
    assert [(r.position, r.reason) for r in rejections] == [(1, "time_too_late")]


def test_a_watermark_record_is_a_label_of_no_event_whatever_its_value(flights: Pipeline) -> None:
    marked = [(WATERMARK_HEADER, str(LABEL_MS).encode())]
    labels, rejections = LabelDecoder(flights).decode(records([None, label(), b"{"], [marked, [], marked]))
    assert rejections == []
    assert labels.event_id == ["", "e1", ""]
    assert labels.label_time_ms.tolist() == [LABEL_MS] * 3
    assert np.isnan(labels.label).tolist() == [True, False, True]


@pytest.mark.parametrize("data", [None, b"", b"-1", b"soon", b"1" * 5000, b"1" * 18, b"0"])
def test_a_watermark_that_is_no_time_of_this_pipeline_is_no_watermark(data: bytes | None, flights: Pipeline) -> None:
    labels, rejections = LabelDecoder(flights).decode(records([None], [[(WATERMARK_HEADER, data)]]))
    assert len(labels) == 0
    assert [r.stage for r in rejections] == ["label"]


@pytest.mark.parametrize("neighbour", [event(), b"rubbish", None])
def test_what_stands_for_an_unreadable_batch_is_rejected_as_such(neighbour: bytes | None) -> None:
    batch = records([neighbour, None, event(id="e2")])
    batch.unreadable = {1: ("offsets 11 to 14: too large", 900)}
    events, rejections = EventDecoder(EVENTS).decode(batch)
    assert events.event_id[-1] == "e2"
    assert [(r.stage, r.reason, r.detail) for r in rejections if r.position == 1] == [
        ("decode", "unreadable_batch", "offsets 11 to 14: too large")
    ]


def test_the_text_of_an_event_is_bounded_as_it_stands_in_json_whatever_else_is_in_its_record() -> None:
    quotes = 2 * 3  # of "e1", "c1" and the shop, each with two
    most = MOST_TEXT_BYTES - len("e1") - len("c1") - quotes
    values = [
        event(shop="x" * most),
        event(shop="x" * (most + 1)),
        event(shop="x" * most, more="y" * MOST_TEXT_BYTES),
        event(shop='"' * (most // 2)),
        event(shop='"' * (most // 2 + 1)),
        event(shop="x", card="z" * MOST_TEXT_BYTES),
    ]
    events, rejections = EventDecoder(EVENTS).decode(records(values))
    assert events.offsets.tolist() == [10, 12, 13]
    assert [(r.position, r.stage, r.reason) for r in rejections] == [(at, "validate", "too_large") for at in (1, 4, 5)]
    assert rejections[0].detail.startswith(f"{MOST_TEXT_BYTES + 1} bytes of text, most of them in shop; ")
    assert "in card;" in rejections[2].detail


def test_of_two_reasons_the_first_of_the_rules_counts_and_rejections_are_in_order() -> None:
    values = [event(id="", at=0), event(at=0), b"", event(card=""), event()]
    events, rejections = EventDecoder(EVENTS).decode(records(values))
    assert [(r.position, r.reason) for r in rejections] == [
        *((0, "empty_key"), (1, "time_too_early"), (2, "empty"), (3, "empty_key"))
    ]
    assert rejections[0].detail == "card and id must not be empty."
    assert events.offsets.tolist() == [14]


def test_the_words_about_a_bad_record_are_bounded() -> None:
    name = "x" * 400
    decoder = EventDecoder(replace(EVENTS, fields=(*EVENTS.fields, EventField(name, "float"))))
    _, (rejection,) = decoder.decode(records([event(**{name: "no number"})]))
    assert rejection.reason == "wrong_type"
    assert len(rejection.detail) == 300
    assert rejection.detail.startswith("Expected `float`, got `str` - at `$.xxx")


def test_a_label_time_is_of_64_bits(flights: Pipeline) -> None:
    times = [2**63 - 1, 2**63, -(2**63), -(2**63) - 1]
    labels, rejections = LabelDecoder(flights).decode(records([label(label_time_ms=time_ms) for time_ms in times]))
    assert len(labels) == 0
    assert [r.reason for r in rejections] == ["time_too_late", "wrong_type", "time_too_early", "wrong_type"]


def test_a_promise_may_look_ahead_by_the_horizon_and_what_a_label_may(flights: Pipeline) -> None:
    assert flights.labels is not None
    events, horizon_ms = flights.events, flights.labels.horizon_ms
    last_ms, ahead_ms = events.latest_ms + horizon_ms + events.max_ahead_ms, events.max_ahead_ms + horizon_ms
    for stamp_ms, most_ms, reason in (
        (last_ms, last_ms, "time_too_late"),
        (LABEL_MS, LABEL_MS + ahead_ms, "time_ahead"),
    ):
        marks = [[(WATERMARK_HEADER, str(most_ms + more).encode())] for more in (0, 1)]
        batch = records([b"", label(label_time_ms=LABEL_MS)], [marks[0], marks[1]])
        batch.timestamps_ms = np.full(2, stamp_ms)
        labels, rejections = LabelDecoder(flights).decode(batch)
        assert (labels.label_time_ms.tolist(), labels.event_id) == ([most_ms], [""])
        assert [(r.position, r.reason) for r in rejections] == [(1, reason)]


def test_where_records_are_repartitioned_a_label_says_of_its_entity_by_its_value_or_else_its_key(
    flights: Pipeline,
) -> None:
    events = replace(flights.events, repartition=True)
    said = events.entity
    values = [
        label(**{said: "from the value"}),
        label(),
        label(**{said: None}),
        label(**{said: 7}),
        label(**{said: ""}),
        *[label()] * 4,
    ]
    batch = records(values)
    batch.keys[:] = [b"k0", b"k1", b"k2", b"k3", b"k4", None, b"", b"e1", b"\xff"]
    labels, rejections = LabelDecoder(replace(flights, events=events)).decode(batch)
    assert labels.key == [b"from the value", b"k1", b"k2", b"k3", b"k4"]
    assert [(r.position, r.reason) for r in rejections] == [(at, "no_entity") for at in range(5, 9)]
    assert f"names no {said}" in rejections[0].detail
    # Where the entity is the id itself, a key that is the id is one; and nobody asks where nothing is repartitioned.
    own = replace(events, entity=events.event_id)
    labels, _ = LabelDecoder(replace(flights, events=own)).decode(batch)
    assert labels.key[-1] == b"e1"
    labels, rejections = LabelDecoder(flights).decode(batch)
    assert (labels.key, rejections) == (batch.keys, [])
