"""Kafka's record batches, written here byte by byte: all codecs are read, and what is bad holds up nothing else."""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from app.adapters.kafka import record_batches
from app.adapters.kafka.lean_consumer import _as_parsed
from app.adapters.kafka.record_batches import KeptRecords, UnreadableRecord, hook_into_aiokafka, read_on, unpack
from app.adapters.kafka.topic_reader import to_batch

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = [0, GZIP, SNAPPY, LZ4, ZSTD]
NAMES = ["none", "gzip", "snappy", "lz4", "zstd"]


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(delta: int, key: bytes | None, value: bytes | None, headers: list[tuple[bytes, bytes | None]]) -> bytes:
    body = b"\0" + varint(delta * 10) + varint(delta) + field(key) + field(value) + varint(len(headers))
    body += b"".join(field(name) + field(about) for name, about in headers)
    return varint(len(body)) + body


def batch(base: int, codec: int, payload: bytes, count: int, last_delta: int | None = None) -> bytes:
    """A record batch of format 2, not transactional."""
    last = count - 1 if last_delta is None else last_delta
    checked = struct.pack(">hiqqqhii", codec, last, 1_000, 1_000 + last * 10, -1, -1, -1, count) + payload
    return struct.pack(">qiibI", base, 9 + len(checked), 0, 2, calc_crc32c(checked)) + checked


def pack(codec: int, data: bytes) -> bytes:
    packers: dict[int, Callable[[bytes], Any]] = {
        0: bytes,
        GZIP: gzip.compress,
        SNAPPY: cramjam.snappy.compress_raw,
        LZ4: cramjam.lz4.compress,
        ZSTD: cramjam.zstd.compress,
    }
    return bytes(packers[codec](data))


def fetched(data: bytes, offset: int = 0) -> PartitionRecords:
    hook_into_aiokafka()
    records = PartitionRecords(TopicPartition("t", 0), KeptRecords(data), [], offset, None, None, True, READ_COMMITTED)
    records._consumer_record = _as_parsed
    return records


def read(data: bytes, offset: int = 0) -> list[Any]:
    return list(read_on(fetched(data, offset)))


def outcomes(data: bytes, offset: int = 0) -> list[tuple[int, bytes | None]]:
    return [(records.offset, records.value) for records in read(data, offset)]


GOOD = [(b"k", b"one", [(b"h", b"x"), (b"null", None)]), (None, b"two", []), (b"", None, []), (b"k", b"", [])]


@pytest.mark.parametrize("codec", CODECS)
def test_records_are_read_whatever_packed_them(codec: int) -> None:
    payload = b"".join(record(delta, *what) for delta, what in enumerate(GOOD))
    records = read(batch(7, codec, pack(codec, payload), len(GOOD)))
    assert [(r.offset, r.timestamp, r.key, r.value) for r in records] == [
        (7 + delta, 1_000 + 10 * delta, key, value) for delta, (key, value, _) in enumerate(GOOD)
    ]
    assert list(records[0].headers) == [("h", b"x"), ("null", None)]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_what_aiokafka_packs_is_read_too(codec: int) -> None:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for delta in range(50):
        builder.append(delta, timestamp=5, key=b"k", value=b"v%d" % delta, headers=[])
    assert outcomes(bytes(builder.build())) == [(delta, b"v%d" % delta) for delta in range(50)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_that_is_not_utf_8_holds_up_neither_its_record_nor_its_neighbours(codec: int) -> None:
    strange = [(b"k", b"strange", [(b"\xff\xfe", b"x")]), *GOOD]
    payload = b"".join(record(delta, *what) for delta, what in enumerate([*GOOD, *strange]))
    data = batch(0, codec, pack(codec, payload), 9) + batch(9, 0, record(0, None, b"after", []), 1)
    records = read(data)
    assert [r.offset for r in records] == list(range(10))
    assert records[4].headers == [("\\xff\\xfe", b"x")]
    assert [r.value for r in records] == [what[1] for what in [*GOOD, *strange]] + [b"after"]
    assert [r.timestamp for r in records][:9] == [1_000 + 10 * delta for delta in range(9)]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_one_unreadable_record_and_what_follows_is_read(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_batches, "MOST_UNPACKED_BYTES", 1 << 20)
    fits = record(0, None, b"x" * ((1 << 20) - 30), [])
    bomb = b"".join(record(delta, None, b"x" * 600_000, []) for delta in range(3))
    data = batch(0, codec, pack(codec, fits), 1) + batch(1, codec, pack(codec, bomb), 3)
    data += batch(4, codec, pack(codec, record(0, None, b"after", [])), 1)
    first, unreadable, after = read(data)
    assert first.value == b"x" * ((1 << 20) - 30)
    assert after.value == b"after"
    assert isinstance(unreadable, UnreadableRecord)
    assert unreadable.offset == 3  # the next offset to read is that of the batch after it
    assert "offsets 1 to 3: the " in unreadable.why
    assert "unpacks to more than 1 MiB" in unreadable.why


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_takes_no_more_memory_than_is_allowed(codec: int) -> None:
    packed = pack(codec, bytes(record_batches.MOST_UNPACKED_BYTES + 1))
    tracemalloc.start()
    try:
        with pytest.raises(record_batches.BatchTooLargeError):
            unpack(NAMES[codec], packed)
        assert tracemalloc.get_traced_memory()[1] < 2.1 * record_batches.MOST_UNPACKED_BYTES  # and its copy
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("size_bytes", [300, 30_000, 3_000_000])
def test_a_batch_takes_memory_for_what_it_holds_and_not_for_what_it_may(codec: int, size_bytes: int) -> None:
    """Each batch of a stream pays for its room: 64 MiB of zeros take 45 ms."""
    payload = random.Random(1).randbytes(size_bytes // 3) * 3  # noqa: S311  # chance that can be repeated
    packed = pack(codec, payload)
    tracemalloc.start()
    try:
        assert unpack(NAMES[codec], packed) == payload
        assert tracemalloc.get_traced_memory()[1] < 10 * size_bytes + 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS[1:])
@pytest.mark.parametrize("size_bytes", [0, 1, 65_535, 65_536, 65_537, 524_288, 524_289, 20_000_000])
def test_what_packs_well_is_whole_again(codec: int, size_bytes: int) -> None:
    assert unpack(NAMES[codec], pack(codec, bytes(size_bytes))) == bytes(size_bytes)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("payload", [b"", b"rubbish that nobody packed", record(0, None, b"x", [])[:-2], b"\xff" * 40])
def test_a_batch_that_cannot_be_parsed_is_one_unreadable_record(codec: int, payload: bytes) -> None:
    packed = payload if payload.startswith(b"rubbish") else pack(codec, payload)
    data = batch(0, codec, packed, 2) + batch(2, 0, record(0, None, b"after", []), 1)
    *_, unreadable, after = read(data)
    assert isinstance(unreadable, UnreadableRecord)
    assert (unreadable.offset, after.offset, after.value) == (1, 2, b"after")


def test_records_before_the_place_that_cannot_be_parsed_keep_their_outcome() -> None:
    payload = record(0, b"k", b"good", []) + b"\xff" * 20
    good, unreadable = read(batch(0, 0, payload, 3))
    assert (good.offset, good.value) == (0, b"good")
    assert unreadable.why.startswith("offsets 1 to 2: ")


def test_reading_goes_on_at_the_offset_that_was_asked_for() -> None:
    strange = [(b"k", b"%d" % delta, [(b"\xff", b"")]) for delta in range(4)]
    data = batch(0, 0, b"".join(record(delta, *what) for delta, what in enumerate(strange)), 4)
    assert outcomes(data, offset=2) == [(2, b"2"), (3, b"3")]


def test_after_each_record_the_next_offset_is_the_one_behind_it() -> None:
    strange = [(b"k", b"%d" % delta, [(b"\xff", b"")]) for delta in range(3)]
    data = batch(5, 0, b"".join(record(delta, *what) for delta, what in enumerate(strange)), 3, last_delta=6)
    records = fetched(data, 5)
    reading = read_on(records)
    assert [(next(reading).offset, records.next_fetch_offset) for _ in range(3)] == [(5, 6), (6, 7), (7, 8)]
    assert next(reading, None) is None
    assert records.next_fetch_offset == 12  # compaction has removed the last of the batch


def test_a_damaged_batch_is_fetched_again() -> None:
    data = bytearray(batch(0, 0, record(0, None, b"value", []), 1))
    data[-3] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(data))


def test_a_record_batch_says_where_it_is_unreadable_and_keeps_that_when_cut() -> None:
    data = (
        batch(0, 0, record(0, None, b"a", []), 1)
        + batch(1, ZSTD, b"rubbish", 2)
        + batch(3, 0, record(0, None, b"b", []), 1)
    )
    whole = to_batch(TopicPartition("t", 0), read(data))
    assert whole.offsets.tolist() == [0, 2, 3]
    assert list(whole.unreadable) == [1]
    assert list(whole.cut(1, 3).unreadable) == [0]
    assert whole.cut(2, 3).unreadable == {}
