"""Records of the state topic one by one: what can just be is taken as it was written, and a step beyond is refused."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from app.core.records.state import (
    FORGOTTEN_IDS,
    check_open_tile,
    check_order,
    read_event,
    read_forgotten,
    read_meta,
)
from schemas.refusal import RefusedRecordError

LATEST_MS = 2_000
META: dict[str, Any] = {
    "event_watermark_ms": 1_000,
    "label_watermark_ms": 900,
    "promised_ms": 800,
    "position": (5, None),
    "feature_set": "f1",
    "generation": 3,
    "pipeline": "p",
    "rejected": {"events": {"consecutive": 1, "ago": [-5]}, "labels": {"consecutive": 0, "ago": []}},
}
EVENT: list[Any] = [1_500, 1_200, "1.0.0", 0.25, ["red", 2.5, None], [0, 4]]


def packed(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def meta_of(**changes: object) -> dict[str, Any]:
    return read_meta(packed(META | changes), "f1", ["shared"] if "shared" in changes else [], LATEST_MS)


def event_of(at: int, to: object, **options: Any) -> tuple[Any, ...]:
    taken = {
        "texts": (True, False, True),
        "n_segments": 5,
        "latest_ms": LATEST_MS,
        "times_ms": (1_000, 1_800),
    } | options
    texts, n_segments = taken.pop("texts"), taken.pop("n_segments")
    return read_event(packed([*EVENT[:at], to, *EVENT[at + 1 :]]), texts, n_segments, **taken)


def test_how_far_a_partition_had_come_is_read_as_it_was_written() -> None:
    assert meta_of() == META | {"position": [5, None]}
    assert meta_of(shared=(2_000, 1, 2))["shared"] == [2_000, 1, 2]


@pytest.mark.parametrize("name", ["event_watermark_ms", "label_watermark_ms", "promised_ms", "shared", "scored"])
def test_no_time_of_it_is_later_than_can_be(name: str) -> None:
    def said(time_ms: int) -> Any:
        return {"shared": (time_ms, 0, 0), "scored": {"1.0.0": 5, "": time_ms}}.get(name, time_ms)

    assert meta_of(**{name: said(LATEST_MS)})[name]
    with pytest.raises(RefusedRecordError, match="2001, and 2000 can be") as refused:
        meta_of(**{name: said(LATEST_MS + 1)})
    assert refused.value.reason == "out_of_range"


def test_what_a_feature_set_needs_is_in_its_records_and_may_be_missing_in_those_of_another() -> None:
    needed = ["shared", "repartition"]
    with pytest.raises(RefusedRecordError, match="how far shared and repartition windows were") as refused:
        read_meta(packed(META), "f1", needed, LATEST_MS)
    assert refused.value.reason == "inconsistent"
    with pytest.raises(RefusedRecordError, match="how far repartition windows"):
        read_meta(packed(META | {"shared": (1, 1, 1)}), "f1", needed, LATEST_MS)
    assert read_meta(packed(META), "f2", needed, LATEST_MS)["feature_set"] == "f1"


@pytest.mark.parametrize(
    ("name", "most", "beyond"),
    [
        ("generation", 2**31, 2**31 + 1),
        ("generation", 0, -1),
        ("repartition", (0, 2**62, 0), (0, 2**62 + 1, 0)),
        ("repartition", (0, -1, 0), (0, -2, 0)),
        ("rejected", META["rejected"] | {"events": {"consecutive": 2**31, "ago": [-(2**31), 2**53]}}, {}),
        ("rejected", META["rejected"], META["rejected"] | {"events": {"consecutive": -1, "ago": []}}),
        ("rejected", META["rejected"], META["rejected"] | {"labels": {"consecutive": 2**31 + 1, "ago": []}}),
        ("rejected", META["rejected"], META["rejected"] | {"labels": {"consecutive": 0, "ago": [2**53 + 1]}}),
        ("rejected", META["rejected"], META["rejected"] | {"labels": {"consecutive": 0, "ago": [-(2**31) - 1]}}),
    ],
)
def test_its_numbers_have_ranges(name: str, most: Any, beyond: Any) -> None:
    assert packed(meta_of(**{name: most})[name]) == packed(most)
    with pytest.raises(RefusedRecordError):
        meta_of(**{name: beyond})


def test_offsets_never_go_back() -> None:
    for before, now in (((3, 4), (3, 4)), ((3, None), (3, 0)), ((None, 4), (0, 5)), ((3, 4), (None, 4)), ((), (1, 2))):
        check_order(before, now)
    for before, now in (((3, 4), (2, 9)), ((3, 4), (9, 3)), ((1, None), (0, 5))):
        with pytest.raises(RefusedRecordError, match="the record before"):
            check_order(before, now)


def forgotten(number: int, rows: list[tuple[int, int]] | bytes | None) -> tuple[int, Any]:
    value = np.array(rows, "<i8").tobytes() if isinstance(rows, list) else rows
    found, read = read_forgotten(b"f" + number.to_bytes(8, "big"), value, LATEST_MS)
    return found, None if read is None else read.tolist()


def test_forgotten_ids_are_read_with_their_times_up_to_as_many_as_a_record_holds() -> None:
    assert forgotten(7, [(5, 2_000), (-9, 1)]) == (7, [[5, 2_000], [-9, 1]])
    assert forgotten(2**62, None) == (2**62, None)
    full = [(number, 2) for number in range(FORGOTTEN_IDS)]
    assert len(forgotten(0, full)[1]) == FORGOTTEN_IDS == 512
    for number, rows, reason in (
        (2**62 + 1, None, "bad_key"),
        (0, b"", "inconsistent"),
        (0, bytes(15), "inconsistent"),
        (0, bytes(24), "inconsistent"),
        (0, [*full, (0, 0)], "inconsistent"),
        (0, [(5, 1), (LATEST_MS + 9_000, LATEST_MS + 1)], "out_of_range"),
    ):
        with pytest.raises(RefusedRecordError) as refused:
            forgotten(number, rows)
        assert refused.value.reason == reason
    for key in (b"f" + bytes(7), b"f" + bytes(9)):
        with pytest.raises(RefusedRecordError, match="No record of forgotten ids"):
            read_forgotten(key, None, LATEST_MS)


def test_an_open_tile_is_a_window_key_and_a_tile_of_its_form() -> None:
    form = struct.Struct("<qd")
    key = b"s00w" + packed(["berlin", 3, 2.5, True])
    check_open_tile(key, None, form)
    check_open_tile(key, form.pack(-(2**62), 2.0**62), form)
    for bad_key, value, reason in (
        (b"s00w" + packed([]), None, "inconsistent"),
        (b"s00w" + packed([None]), None, "wrong_type"),
        (b"s00w", None, "malformed"),
        (key, form.pack(0, 0.0)[:-1], "inconsistent"),
        (key, form.pack(2**62 + 1, 0.0), "out_of_range"),
        (key, form.pack(0, -(2.0**62) * 1.01), "out_of_range"),
    ):
        with pytest.raises(RefusedRecordError) as refused:
            check_open_tile(bad_key, value, form)
        assert refused.value.reason == reason, (bad_key, value)


@pytest.mark.parametrize(
    ("at", "to"),
    [
        *((0, 2_000), (0, 1_200), (1, 1_000), (1, 1_500), (2, ""), (2, "2.0.0-rc.1+x_y"), (2, "a" * 100)),
        *((4, [None, None, None]), (4, ["", 7, "x"]), (4, ["", True, "x"]), (5, []), (5, [4])),
    ],
)
def test_an_event_that_waits_is_read_as_it_was_written(at: int, to: Any) -> None:
    expected = [tuple(part) if isinstance(part, list) else part for part in (*EVENT[:at], to, *EVENT[at + 1 :])]
    assert event_of(at, to) == tuple(expected)


@pytest.mark.parametrize(
    ("at", "to", "reason"),
    [
        *((0, 2_001, "out_of_range"), (0, 1_199, "out_of_range"), (1, 999, "out_of_range")),
        *(
            (2, "-1", "out_of_range"),
            (2, "a" * 101, "out_of_range"),
            (2, "1.0\n", "out_of_range"),
            (2, None, "wrong_type"),
        ),
        *((3, float("inf"), "out_of_range"), (3, float("-inf"), "out_of_range"), (3, "x", "wrong_type")),
        *((4, [1.0, 2.5, None], "inconsistent"), (4, ["red", "x", None], "inconsistent"), (4, [], "inconsistent")),
        *((4, ["red", 2.5], "inconsistent"), (4, ["red", 2.5, None, 1], "inconsistent")),
        *((5, [5], "inconsistent"), (5, [5, 0], "inconsistent"), (5, [-1], "out_of_range")),
    ],
)
def test_an_event_that_cannot_be_does_not_wait(at: int, to: Any, reason: str) -> None:
    with pytest.raises(RefusedRecordError) as refused:
        event_of(at, to)
    assert refused.value.reason == reason


def test_its_time_is_one_that_can_be_and_nobody_asks_for_what_is_not_known() -> None:
    assert event_of(1, 1_500, times_ms=(1_500, 1_500))[1] == 1_500
    with pytest.raises(RefusedRecordError, match="An event of 1500 waits"):
        event_of(1, 1_500, times_ms=(0, 1_499))
    assert event_of(4, [1, 2, 3, 4], texts=None)[4] == (1, 2, 3, 4)
    assert event_of(5, [2**31], n_segments=None)[5] == (2**31,)
    assert event_of(5, [], n_segments=0)[5] == ()
    assert np.isnan(event_of(3, float("nan"))[3])  # of an event without a score
