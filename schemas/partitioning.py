"""Which partition Kafka's own clients give a key."""

from __future__ import annotations


def murmur2(data: bytes) -> int:
    """The hash of Kafka's own partitioner (Java's signed number as an unsigned one).

    Examples
    --------
    From the tests of Kafka (`UtilsTest.testMurmur2`): -973932308 and -790332482.

    >>> [murmur2(text) - 2**32 for text in (b"21", b"foobar")]
    [-973932308, -790332482]
    """
    mask, mix = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * mix & mask
        hashed = (hashed * mix & mask) ^ ((word ^ word >> 24) * mix & mask)
    rest = data[whole:]
    if rest:
        hashed = (hashed ^ int.from_bytes(rest, "little")) * mix & mask
    hashed = (hashed ^ hashed >> 13) * mix & mask
    return hashed ^ hashed >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among so many, as Java's clients and aiokafka choose it.

    Examples
    --------
    >>> partition_of(b"card-1", 4)
    3
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
