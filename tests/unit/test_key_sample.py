"""What `check` says of the keys in a sample, of producers that are not ours: each with a partitioner of its own."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from app.core.entities.key_sample import (
    Sample,
    Seen,
    describe_keys,
    describe_strays,
    find_partitioners,
    fnv1a,
)
from schemas.partitioning import murmur2

JAVA, LIBRDKAFKA, SARAMA = "murmur2 (Java, aiokafka)", "CRC32 (librdkafka)", "FNV-1a (Sarama)"


def java(key: bytes, n: int) -> int:
    return int((murmur2_of_aiokafka(key) & 0x7FFFFFFF) % n)


def librdkafka(key: bytes, n: int) -> int:
    return crc32(key) % n


def sarama(key: bytes, n: int) -> int:
    signed = int(np.array(fnv1a(key), dtype=np.uint32).astype(np.int32))
    return abs(int(np.fmod(signed, n)))


PRODUCERS = {JAVA: java, LIBRDKAFKA: librdkafka, SARAMA: sarama}
CARDS = [f"card-{number}" for number in range(200)]


def events(producer: str, n: int, cards: list[str] = CARDS) -> list[Seen]:
    choose = PRODUCERS[producer]
    return [Seen(choose(card.encode(), n), card.encode(), f"e{at}", card) for at, card in enumerate(cards)]


def labels(producer: str, n: int, cards: list[str] = CARDS) -> list[Seen]:
    return [Seen(event.partition, event.key, event.event_id) for event in events(producer, n, cards)]


@given(st.binary(max_size=40))
def test_murmur2_is_that_of_another_implementation(data: bytes) -> None:
    assert murmur2(data) == murmur2_of_aiokafka(data) & 0xFFFFFFFF


@pytest.mark.parametrize("n", [2, 3, 4, 12, 64])
@pytest.mark.parametrize("producer", PRODUCERS)
def test_the_partitioner_of_a_producer_is_named(producer: str, n: int) -> None:
    seen = events(producer, n)
    assert find_partitioners(seen, n) == {producer: 1.0}
    assert describe_keys(seen, n) == f"their keys look like {producer}"
    assert Sample(seen, [], n).strays() == {}


@pytest.mark.parametrize("n", [3, 4, 12])
def test_two_producers_that_differ_are_both_named_and_their_entities(n: int) -> None:
    seen = events(JAVA, n) + events(LIBRDKAFKA, n)
    shares = find_partitioners(seen, n)
    assert shares is not None
    assert list(shares) == [JAVA, LIBRDKAFKA] or list(shares) == [LIBRDKAFKA, JAVA]
    assert sum(shares.values()) == pytest.approx(1)
    strays = Sample(seen, [], n).strays()
    expected = {card for card in CARDS if java(card.encode(), n) != librdkafka(card.encode(), n)}
    assert strays.keys() == expected
    first = min(expected)
    assert sorted({java(first.encode(), n), librdkafka(first.encode(), n)}) == strays[first]
    low, high = strays[first]
    assert describe_strays(strays).startswith(f"{first} is in partitions {low} and {high}; ")
    assert describe_strays(strays).endswith(f"and {len(expected) - 3} more")


def test_a_partitioner_that_nobody_knows_is_right_as_long_as_entities_stay() -> None:
    seen = [Seen(at % 4, card.encode(), f"e{at}", card) for at, card in enumerate(CARDS)]
    assert find_partitioners(seen, 4) == {}
    assert Sample(seen, [], 4).strays() == {}
    assert describe_keys(seen, 4) == "their keys look like no partitioner that is known here"


def test_records_without_keys_are_told() -> None:
    seen = [Seen(at % 4, None, f"e{at}", CARDS[at % 7]) for at in range(100)]
    assert describe_keys(seen, 4) == "they have no keys"
    assert len(Sample(seen, [], 4).strays()) == 7
    mixed = seen[:10] + events(JAVA, 4)
    assert describe_keys(mixed, 4) == f"without a key: 10; of the others, their keys look like {JAVA}"


def test_few_keys_and_one_partition_tell_nothing() -> None:
    assert find_partitioners(events(JAVA, 4, CARDS[:7]), 4) is None
    assert find_partitioners(events(JAVA, 1), 1) is None


def test_labels_of_another_partitioner_than_the_events_are_found_by_their_ids() -> None:
    sample = Sample(events(JAVA, 4), labels(LIBRDKAFKA, 4), 4)
    wrong = [card for card in CARDS if java(card.encode(), 4) != librdkafka(card.encode(), 4)]
    misplaced, placed, first = sample.place_labels()
    assert (misplaced, placed) == (len(wrong), 200)
    assert first is not None
    assert first.key == wrong[0].encode()
    assert Sample(events(JAVA, 4), labels(JAVA, 4), 4).place_labels() == (0, 200, None)


def test_a_label_whose_event_is_not_in_the_sample_is_placed_by_its_key() -> None:
    older = [Seen(label.partition, label.key, "older " + label.event_id) for label in labels(LIBRDKAFKA, 4)]
    wrong = [card for card in CARDS if java(card.encode(), 4) != librdkafka(card.encode(), 4)]
    assert Sample(events(JAVA, 4), older, 4).place_labels()[:2] == (len(wrong), 200)
    unknown = [Seen(0, b"\xff", "x"), Seen(0, None, "y")]
    assert Sample(events(JAVA, 4), unknown, 4).place_labels() == (0, 0, None)
