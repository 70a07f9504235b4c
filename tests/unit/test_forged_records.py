"""What one record of a stranger once did to whoever read it, each by its smallest example."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from core_setting import DAY_MS, START_MS
from memory_warehouse import MemoryWarehouse
from record_attacks import Raw
from record_kinds import (
    NOW_MS,
    AskedReader,
    EntitiesReader,
    StateReader,
    cluster,
    cluster_setting,
    output,
    setting,
    states,
)

from app.core.entities.copies import origin_header, read_origin, read_stand_in, stand_in_header
from app.core.entities.log import EntityLog
from app.core.monitoring.core import MonitorCore
from app.core.records.entities import CHUNK, Place
from app.core.records.rules import RecordRules
from app.core.shared.answers import ComingAnswers
from app.core.shared.board import PLACE, TILE, TIMES, SharedBoard
from app.monitor.rows import findings_columns, read_alert
from app.monitor.takeover import Saved
from schemas.ranges import MOST_PARTITIONS
from schemas.refusal import RefusedRecordError
from schemas.topics import ORIGIN_HEADER, UNREADABLE_HEADER
from schemas.wire import (
    AnswersRecord,
    EntityChunk,
    LabelCounts,
    RepartitionRecord,
    SharedTile,
    SharedTimes,
    SketchRecord,
    decode_packed,
    encode_packed,
)

#: After all that can be by the clock of the reader.
TO_COME_MS = NOW_MS + 30 * DAY_MS
META = next(raw for raw in states(is_shared=True) if raw.key == b"m")


def i8(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def sent(fields: list[Any], event_id: bytes = b"id") -> Raw:
    """An event at offset 0 that was sent once."""
    return Raw(b"i" + bytes(4) + bytes(8) + event_id, encode_packed(fields))


def meta(**other: Any) -> Raw:
    said = msgspec.msgpack.decode(META.value or b"")
    return Raw(b"m", encode_packed({**said, **other}))


def chunk(*names: str) -> bytes:
    n = len(names)
    return encode_packed(EntityChunk(i8(*range(n)), i8(*[START_MS] * n), list(names)))


# -- entities ----------------------------------------------------------------------------------------------------------


def new_log() -> EntityLog:
    pipeline = setting().pipeline
    return EntityLog(pipeline.remember_ms, RecordRules.of(pipeline))


def test_a_record_of_entities_with_a_number_far_off_is_cleared_alone() -> None:
    span_ms = setting().pipeline.remember_ms
    generation = START_MS // span_ms
    log = new_log()
    log.restore([(Place(generation, 2**31).to_key(), chunk("a")), (Place(generation, 0).to_key(), chunk("b"))])
    log.see(["c"], np.array([START_MS + 2 * span_ms]))
    cleared = [key for key, value in log.drain() if value is None]
    assert cleared == [Place(generation, 0).to_key(), Place(generation, 2**31).to_key()]


def test_after_a_full_record_of_entities_there_is_always_a_next_number() -> None:
    full = chunk(*(f"e{number}" for number in range(CHUNK)))
    reader = EntitiesReader()
    with pytest.raises(RefusedRecordError, match="record 4294967295 of a generation"):
        reader.take(Raw(Place(START_MS // setting().pipeline.remember_ms, 2**32 - 1).to_key(), full))
    reader.settle()


def test_no_generation_of_entities_is_later_than_the_clock() -> None:
    span_ms = setting().pipeline.remember_ms
    log = new_log()
    log.restore([(Place(TO_COME_MS // span_ms + 1, 0).to_key(), chunk("a"))], NOW_MS)
    log.see(["b"], np.array([START_MS]))
    assert [Place(*struct.unpack(">qI", key)).generation for key, _ in log.drain()] == [START_MS // span_ms]


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (Raw(None, b"x"), "bad_key"),
        (Raw(b"t\xff\xff", b"x"), "bad_key"),
        (Raw(b"t\xff\xff\xff\xff" + bytes(9), b"x"), "bad_key"),
        (Raw(b"z" + bytes(12), b"x"), "bad_key"),
        (Raw(b"x" + bytes(4) + b"\xff" * 8, i8(1, START_MS)), "bad_key"),
        (Raw(b"x" + bytes(4) + bytes(20), i8(1, START_MS)), "bad_key"),
        (Raw(b"x" + bytes(12), i8(*[START_MS] * 2 * 513)), "inconsistent"),
        (Raw(b"x" + bytes(12), b""), "inconsistent"),
        (Raw(b"x" + bytes(12), i8(1, TO_COME_MS)), "out_of_range"),
        (
            Raw(b"e" + bytes(4) + b"id", msgspec.msgpack.encode([TO_COME_MS, START_MS, "1", 0.5, [], []])),
            "out_of_range",
        ),
        (Raw(b"e" + bytes(4) + b"id", encode_packed([START_MS, 0, "1", 0.5, [], []])), "out_of_range"),
        (Raw(b"e" + bytes(4) + b"id", encode_packed([START_MS, START_MS + 1, "1", 0.5, [], []])), "out_of_range"),
        (Raw(b"e" + bytes(4) + b"id", encode_packed([START_MS, START_MS, "a b", 0.5, [], []])), "out_of_range"),
        (Raw(b"e" + bytes(4) + b"id", encode_packed([START_MS, START_MS, "1", math.inf, [], []])), "out_of_range"),
        (sent([1, START_MS, 1, START_MS, "1", 0.5, True, False]), "inconsistent"),
        (sent([0, START_MS, 1, START_MS, "1", math.inf, True, False]), "inconsistent"),
        (sent([0, START_MS, 1, START_MS, "a b", 0.5, True, False]), "out_of_range"),
        (sent([0, START_MS, 1, START_MS, "1"]), "wrong_type"),
        (sent([0, START_MS, 1, START_MS, "1", 0.5, True, False], b""), "bad_key"),
        (meta(shared=None), "inconsistent"),
        (meta(repartition=None), "inconsistent"),
        (meta(rejected={}), "wrong_type"),
        (meta(event_watermark_ms=TO_COME_MS), "out_of_range"),
        (meta(label_watermark_ms=2**62), "out_of_range"),
        (meta(promised_ms=TO_COME_MS), "out_of_range"),
        (meta(shared=[TO_COME_MS, 1, 1]), "out_of_range"),
        (meta(repartition=[1, 2**63 - 1, 1]), "out_of_range"),
        (meta(generation=2**32 - 2), "out_of_range"),
    ],
)
def test_a_record_of_the_state_that_cannot_be_is_refused_and_the_next_owner_goes_on(raw: Raw, reason: str) -> None:
    reader = StateReader(is_shared=True)
    with pytest.raises(RefusedRecordError) as refused:
        reader.take(raw)
    assert refused.value.reason == reason
    reader.settle()


def test_an_old_record_of_how_far_it_was_that_is_written_again_is_refused() -> None:
    """A worker would go on from there, find that the group is further, and end for good."""
    old = next(raw for raw in output().state if raw.key == b"m")
    reader = StateReader(is_shared=False)
    with pytest.raises(RefusedRecordError) as refused:
        reader.take(old)
    assert refused.value.reason == "inconsistent"
    assert reader.goes_on_at() == (None, None)  # at the group's offsets, which were committed with what was there
    reader.settle()


def test_an_old_record_is_refused_though_one_of_another_generation_came_between() -> None:
    metas = [raw for raw in output().state if raw.key == b"m"]
    said = msgspec.msgpack.decode(metas[-1].value or b"")
    between = Raw(b"m", encode_packed({**said, "generation": 1}))
    reader = StateReader(is_shared=False, with_state=False)
    reader.give([*metas, between, metas[0]])
    assert [error.reason for error in reader.refused()] == ["inconsistent"]


def test_records_that_are_taken_again_because_one_beside_them_is_bad_stay_in_order() -> None:
    metas = [raw for raw in output().state if raw.key == b"m"]
    reader = StateReader(is_shared=False, with_state=False)
    reader.give([*metas[:3], Raw(b"?", b"x"), *metas[3:]])
    assert [error.reason for error in reader.refused()] == ["bad_key"]
    assert reader.goes_on_at() == tuple(msgspec.msgpack.decode(metas[-1].value or b"")["position"])


def test_a_tombstone_does_not_throw_the_state_away() -> None:
    reader = StateReader(is_shared=False)
    before = reader.entries()
    reader.take(Raw(b"t" + (2**31).to_bytes(4, "big") + bytes(20), None))
    assert reader.entries() == before > 0


def test_a_short_key_does_not_throw_the_state_away() -> None:
    reader = StateReader(is_shared=False)
    before = reader.entries()
    assert before > 0
    with pytest.raises(RefusedRecordError):
        reader.take(Raw(b"t\xff\xff", b"x"))
    assert reader.entries() == before


# -- shared and repartitioned windows ----------------------------------------------------------------------------------


def board() -> SharedBoard:
    return SharedBoard(cluster_setting().plan.shared, range(3))


def tile(place: int, piece: int = 0) -> tuple[bytes, bytes]:
    store = board().plan.stores[0]
    key = encode_packed(["a"] * len(store.key))
    return TILE + store.name + PLACE.pack(place, piece), encode_packed(SharedTile([key], i8(1), i8(1)))


def test_a_record_of_shared_windows_without_a_key_is_refused() -> None:
    with pytest.raises(RefusedRecordError, match="no key"):
        board().hear(1, None, b"x")


def test_of_a_tile_only_the_pieces_are_cleared_that_there_are() -> None:
    place = START_MS // board().plan.stores[0].hop_ms
    found = board()
    found.hear(1, *tile(place, 65_535))
    found.hear(1, TIMES + found.plan.name, encode_packed(SharedTimes(START_MS, START_MS)))
    assert found.pieces(1) == {(0, place): {65_535}}


def test_no_tile_is_of_a_time_that_cannot_be() -> None:
    """The first one decides what others are counted from."""
    hop_ms = board().plan.stores[0].hop_ms
    board().hear(1, *tile(2**44 // hop_ms))
    with pytest.raises(RefusedRecordError, match="cannot be"):
        board().hear(1, *tile(2**44 // hop_ms + 1))
    asked = next(
        record
        for _, log in cluster().asked
        for value in log
        if (record := decode_packed(value, RepartitionRecord)).parts
    )
    part = asked.parts[0]
    far = msgspec.structs.replace(part, tiles=i8(*[2**43] * len(part.keys)))
    with pytest.raises(RefusedRecordError, match="tiles are from"):
        AskedReader().take(Raw(None, encode_packed(msgspec.structs.replace(asked, parts=[far]))))


@pytest.mark.parametrize("what", ["term", "added_ms", "scored_ms"])
def test_no_partition_has_come_further_than_the_clock_and_no_state_begins_after_it(what: str) -> None:
    asked = decode_packed(cluster().asked[0][1][0], RepartitionRecord)
    reader = AskedReader()
    with pytest.raises(RefusedRecordError) as refused:
        reader.take(Raw(None, encode_packed(msgspec.structs.replace(asked, **{what: TO_COME_MS}))))
    assert refused.value.reason == "out_of_range"
    reader.take(Raw(None, encode_packed(asked)))


def test_answers_for_a_state_that_is_to_come_hold_back_nothing() -> None:
    """Otherwise nothing that follows on the topic would ever be deleted."""
    answers = ComingAnswers(cluster_setting().plan.shared.repartitioned(), "f")
    with pytest.raises(RefusedRecordError, match="to come"):
        answers.hear(0, encode_packed(AnswersRecord("f", TO_COME_MS, [])), 1, NOW_MS)
    assert answers.position(0) == 1


# -- copies of records on topics by entity -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"1024/5", b"9" * 19 + b"/5", b"5/" + b"9" * 19, b"5/x", b"-1/5", b"1/-5", b"1", b"/", b"", None]
)
def test_a_header_that_names_no_place_names_none(data: bytes | None) -> None:
    assert read_origin([(ORIGIN_HEADER, data)]) is None


def test_what_a_copy_says_of_itself_is_read_back_up_to_the_largest_numbers() -> None:
    for partition, offset in ((0, 0), (7, 12), (MOST_PARTITIONS - 1, 10**18 - 1)):
        assert read_origin([("trace", b"5/5"), origin_header(partition, offset), origin_header(1, 1)]) == (
            partition,
            offset,
        )
    for why, size_bytes in (("", 0), ("it is damaged, ä", 10**15 - 1)):
        headers = [("trace", b"5 x"), stand_in_header(why, size_bytes), stand_in_header("another", 1)]
        assert read_stand_in(headers) == (why, size_bytes)
    assert read_origin([("trace", b"5/5")]) is read_stand_in([("trace", b"5 x")]) is None


@pytest.mark.parametrize(
    "data",
    [b"9" * 16 + b" why", "\u00b2 why".encode(), "\u0663 why".encode(), b"-1 why", b"1_0 why", b"", b"\xff", None],
)
def test_a_size_that_no_dead_letter_can_hold_is_none(data: bytes | None) -> None:
    assert read_stand_in([(UNREADABLE_HEADER, data)]) is None


# -- a monitor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(2**50, 0, 0, b""), (2, 1, 1, i8(7)), (0, 0, 1, b"")])
def test_labels_that_do_not_add_up_are_not_counted(counts: tuple[int, int, int, bytes]) -> None:
    core = MonitorCore(setting().pipeline)
    slice_ms = setting().pipeline.drift.slice_ms
    labels = LabelCounts(START_MS // slice_ms * slice_ms, *counts)
    with pytest.raises(RefusedRecordError) as refused:
        core.observe(SketchRecord(0, START_MS, START_MS, [], [], 0, [labels]))
    assert refused.value.reason == "inconsistent"
    assert core.inputs.totals.labels == 0


def test_an_alert_on_the_stream_itself_is_read_back_from_checkpoint_and_table() -> None:
    pipeline = setting().pipeline
    core = MonitorCore(pipeline)
    slice_ms = pipeline.drift.slice_ms
    start_ms = START_MS // slice_ms * slice_ms
    old_ms = start_ms - 10 * slice_ms  # the stream is no longer at its beginning
    labels = [LabelCounts(old_ms, 1, 0, 0, b""), LabelCounts(start_ms, 1_000, 0, 900, b"")]
    core.observe(SketchRecord(0, NOW_MS, NOW_MS, [], [], 0, labels))
    findings = core.collect(NOW_MS)
    assert [(alert.rule, alert.version) for alert in findings.alerts] == [("labels-without-event", "")]
    assert decode_packed(encode_packed(Saved(core.snapshot(), findings)), Saved).findings == findings
    warehouse = MemoryWarehouse()
    warehouse.insert("alerts", findings_columns(findings)["alerts"])
    assert [read_alert(row) for row in warehouse.read("alerts")] == findings.alerts
