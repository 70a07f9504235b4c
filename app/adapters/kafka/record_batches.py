"""Kafka's record batches as aiokafka 0.14 (pinned) unpacks them, but with a bound, and past what its parser refuses.

A batch of 2 MB may unpack to gigabytes: aiokafka would unpack all of it. A record may have a header whose name is not
UTF-8: aiokafka would fail at it again and again. Here a batch unpacks to at most `MOST_UNPACKED_BYTES`, and a parser of
ours reads what aiokafka's does not take. What cannot be read at all becomes one `UnreadableRecord`, so that its offsets
are accounted for like all others.

Formats: https://kafka.apache.org/documentation/#recordbatch.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cramjam
import numpy as np
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record import default_records, legacy_records
from aiokafka.record._crecords import default_records as c_default_records
from aiokafka.record._crecords import legacy_records as c_legacy_records
from aiokafka.record.memory_records import MemoryRecords

from schemas.topics import UNREADABLE_HEADER

#: The most bytes that the records of one batch may have. Brokers take batches of 1 MiB (packed) by default.
MOST_UNPACKED_BYTES = 64 << 20
#: Room for unpacking: first this many times the packed size; where that is too little, this many times more.
_LEAST_ROOM_BYTES, _USUAL_RATIO = 1 << 16, 8
#: Of the whole batch: base offset, length, leader's epoch, magic, checksum, attributes, last offset's delta, first and
#: last time stamp, producer's id and epoch, first sequence, number of records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_BEGINNING = struct.Struct(">qi")
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
_CODEC_MASK, _APPEND_TIME_MASK = 0x07, 0x08
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class BatchTooLargeError(Exception):
    """A batch unpacks to more than is taken."""

    def __init__(self, codec: str) -> None:
        super().__init__(f"the {codec} batch unpacks to more than {MOST_UNPACKED_BYTES >> 20} MiB")


#: What unpacking and parsing raise for bytes that are no batch.
_UNREADABLE = (
    BatchTooLargeError,
    CorruptRecordException,
    cramjam.DecompressionError,
    zlib.error,
    EOFError,
    IndexError,  # for a number that ends beyond the batch, or a codec that does not exist
    ValueError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """A record that aiokafka's parser did not take; the fields are those of aiokafka's records."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """Stands for the rest of a batch that cannot be read; ``offset`` is the last one of it.

    ``why``: in words, with the offsets. ``size_bytes``: of the batch as it was sent. ``headers`` is never empty, so
    that code that looks for headers finds this.
    """

    offset: int
    timestamp: int
    why: str
    size_bytes: int
    key: None = None
    value: None = None
    headers: tuple[tuple[str, bytes], ...] = ((UNREADABLE_HEADER, b""),)


class KeptRecords:
    """aiokafka's batches of one fetch, and the bytes of that fetch."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._records = MemoryRecords(data)
        self.has_next = self._records.has_next
        self.next_batch = self._records.next_batch
        self.size_in_bytes = self._records.size_in_bytes


def hook_into_aiokafka() -> None:
    """Have aiokafka unpack with a bound, and keep the bytes of a fetch; calling it again changes nothing."""
    fetcher.MemoryRecords = KeptRecords
    for module in (default_records, legacy_records, c_default_records, c_legacy_records):
        for name, function in _FUNCTIONS.items():
            if hasattr(module, name):
                setattr(module, name, function)


def read_on(records: Any) -> Iterator[Any]:
    """The records of aiokafka's ``PartitionRecords``, past what its parser does not take.

    Raises
    ------
    CorruptRecordException
        When a batch is not as it was written; it is fetched again.
    """
    while True:
        try:
            yield from records._unpack_records()  # noqa: SLF001  # begins where the last one stopped
        except Exception as error:
            batch = _batch_at(records._records.data, records.next_fetch_offset)  # noqa: SLF001
            if batch is None or _is_damaged(batch):
                raise
            for record in _read_batch(batch, records.next_fetch_offset, error):
                records.next_fetch_offset = record.offset + 1
                yield record
            records.next_fetch_offset = _last_offset(batch) + 1
        else:
            return


# -- unpacking with a bound --------------------------------------------------------------------------------------------


def unpack(codec: str, data: bytes | memoryview) -> bytes:
    """Unpack the records of a batch.

    Raises
    ------
    BatchTooLargeError
        When they come to more than `MOST_UNPACKED_BYTES`.
    """
    return _UNPACK[codec](data)


def _unpack_gzip(data: bytes | memoryview) -> bytes:
    parts: list[bytes] = []
    room, left = MOST_UNPACKED_BYTES, bytes(data)
    while left:  # a file of several members is one, too
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(left, room + 1))
        room -= len(parts[-1])
        if room < 0:
            raise BatchTooLargeError("gzip")
        if not member.eof:
            raise EOFError("the gzip batch ends too soon")
        left = member.unused_data
    return b"".join(parts)


def _unpack_snappy(data: bytes | memoryview) -> bytes:
    data = memoryview(data)
    if bytes(data[: len(_XERIAL)]) != _XERIAL:
        return _unpack_snappy_block(data, MOST_UNPACKED_BYTES)
    parts: list[bytes] = []
    room, place = MOST_UNPACKED_BYTES, _XERIAL_HEADER_BYTES
    while place < len(data):
        (size,) = struct.unpack_from(">i", data, place)
        if size < 0:
            raise ValueError("a block of the snappy batch has a negative size")
        parts.append(_unpack_snappy_block(data[place + 4 : place + 4 + size], room))
        room -= len(parts[-1])
        place += 4 + size
    return b"".join(parts)


def _unpack_snappy_block(data: memoryview, room: int) -> bytes:
    # A block states its length, and does not unpack when that is wrong.
    if cramjam.snappy.decompress_raw_len(data) > room:
        raise BatchTooLargeError("snappy")
    return bytes(cramjam.snappy.decompress_raw(data))


def _unpack_lz4(data: bytes | memoryview) -> bytes:
    return _unpack_into("lz4", cramjam.lz4.decompress_into, data)


def _unpack_zstd(data: bytes | memoryview) -> bytes:
    return _unpack_into("zstd", cramjam.zstd.decompress_into, data)


def _unpack_into(codec: str, decompress_into: Callable[[Any, Any], int], data: bytes | memoryview) -> bytes:
    # Not a bytearray: filling it with zeros costs as much as unpacking, 45 ms for the largest batch.
    room_bytes = max(_LEAST_ROOM_BYTES, _USUAL_RATIO * len(data))
    while True:
        room = np.empty(min(room_bytes, MOST_UNPACKED_BYTES), np.uint8)
        try:
            size = decompress_into(data, room)
        except cramjam.DecompressionError as error:
            if "failed to write whole buffer" not in str(error):
                raise
            if room_bytes >= MOST_UNPACKED_BYTES:
                raise BatchTooLargeError(codec) from error
            room_bytes *= _USUAL_RATIO
        else:
            return room[:size].tobytes()


def _pack_gzip(data: Any) -> bytes:
    return gzip.compress(data, compresslevel=1)


def _pack_lz4(data: Any) -> bytes:
    # Brokers read neither blocks that depend on each other nor a checksum of the content.
    packer = cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False)
    packer.compress(data)
    return bytes(packer.finish())


def _pack_zstd(data: Any) -> bytes:
    return bytes(cramjam.zstd.compress(data, level=-1))


_UNPACK: dict[str, Callable[[bytes | memoryview], bytes]] = {
    "gzip": _unpack_gzip,
    "snappy": _unpack_snappy,
    "lz4": _unpack_lz4,
    "zstd": _unpack_zstd,
}
#: By their names in aiokafka. It packs at levels that cost more than scoring does: lz4 39, zstd 2.8 us a score of 435
#: bytes; at these, they cost 1.3 and 0.8 and pack 3.2 and 4.0 to 1 instead of 3.9 and 5.2.
_FUNCTIONS: dict[str, Callable[[Any], bytes]] = {
    "gzip_encode": _pack_gzip,
    "lz4_encode": _pack_lz4,
    "zstd_encode": _pack_zstd,
    **{f"{codec}_decode": function for codec, function in _UNPACK.items()},
}


# -- reading on --------------------------------------------------------------------------------------------------------


def _batch_at(data: bytes, offset: int) -> memoryview | None:
    """The batch of a fetch that holds an offset, or the first one after it."""
    place = 0
    while place + _HEADER.size <= len(data):
        _, length = _BEGINNING.unpack_from(data, place)
        batch = memoryview(data)[place : place + _BEGINNING.size + length]
        if len(batch) < _BEGINNING.size + length:
            return None
        if _last_offset(batch) >= offset:
            return batch
        place += len(batch)
    return None


def _last_offset(batch: memoryview) -> int:
    header = _HEADER.unpack_from(batch)
    return int(header[0] + header[6])


def _is_damaged(batch: memoryview) -> bool:
    return not c_default_records.DefaultRecordBatch(bytes(batch)).validate_crc()


def _read_batch(batch: memoryview, offset: int, error: Exception) -> Iterator[ReadRecord | UnreadableRecord]:
    """The records of a batch from an offset on; ``error``: what aiokafka's parser said."""
    base, _, _, _, _, attributes, _, first_ms, last_ms, _, _, _, count = _HEADER.unpack_from(batch)
    last = _last_offset(batch)
    codec = attributes & _CODEC_MASK
    try:
        packed = batch[_HEADER.size :]
        data = bytes(packed) if codec == 0 else unpack(_CODECS[codec], packed)
        place = 0
        for _ in range(count):
            record, place = _read_record(data, place, base, first_ms)
            if attributes & _APPEND_TIME_MASK:
                record = ReadRecord(record.offset, last_ms, record.key, record.value, record.headers)
            if record.offset >= offset:
                offset = record.offset + 1
                yield record
    except _UNREADABLE as own_error:
        reason = str(own_error) or repr(error)
        where = f"offset {last}" if offset >= last else f"offsets {max(offset, base)} to {last}"
        yield UnreadableRecord(last, last_ms, f"{where}: {reason:.200}", len(batch))


def _read_record(data: bytes, place: int, base: int, first_ms: int) -> tuple[ReadRecord, int]:
    """The record that begins at ``place``, and where the next one begins."""
    size, place = _read_varint(data, place)
    end = place + size
    if not place < end <= len(data):
        raise CorruptRecordException(f"a record of {size} bytes at byte {place} of {len(data)}")
    _, place = _read_varint(data, place)  # its attributes: none are in use
    since_ms, place = _read_varint(data, place)
    delta, place = _read_varint(data, place)
    key, place = _read_bytes(data, place, end)
    value, place = _read_bytes(data, place, end)
    count, place = _read_varint(data, place)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, place = _read_bytes(data, place, end)
        about, place = _read_bytes(data, place, end)
        headers.append(((name or b"").decode(errors="backslashreplace"), about))
    if place != end:
        raise CorruptRecordException(f"a record ends at byte {place}, and says {end}")
    return ReadRecord(base + delta, first_ms + since_ms, key, value, headers), end


def _read_bytes(data: bytes, place: int, end: int) -> tuple[bytes | None, int]:
    size, place = _read_varint(data, place)
    if size < 0:
        return None, place
    if place + size > end:
        raise CorruptRecordException(f"a field of {size} bytes at byte {place}, in a record that ends at {end}")
    return data[place : place + size], place + size


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), place
        shift += 7
        if shift > 63:
            raise CorruptRecordException(f"a number of more than 64 bits at byte {place}")
