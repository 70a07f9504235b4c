"""What a sample of the events and labels topics says of their keys: whether each entity stays in its partition.

Any partitioner and any key will do, as long as each does stay there. Which partitioner a producer has is told by the
partitions in which its keys are: that of Java, of librdkafka, or that of Sarama.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

from schemas.partitioning import partition_of

_MOST_NAMED = 3
#: How much of a name is told.
_NAME_CHARACTERS = 64


@dataclass(frozen=True)
class Seen:
    """A record of the sample; ``entity``: "" for a label."""

    partition: int
    key: bytes | None
    event_id: str
    entity: str = ""


def fnv1a(data: bytes) -> int:
    """FNV-1a, 32 bits.

    Examples
    --------
    From http://www.isthe.com/chongo/src/fnv/test_fnv.c:

    >>> [f"{fnv1a(text):08x}" for text in (b"", b"a", b"foobar")]
    ['811c9dc5', 'e40c292c', 'bf9cf968']
    """
    hashed = 0x811C9DC5
    for byte in data:
        hashed = (hashed ^ byte) * 0x01000193 & 0xFFFFFFFF
    return hashed


def _sarama(key: bytes, partitions: int) -> int:
    """Go takes the remainder of a signed number, and then its absolute value."""
    hashed = fnv1a(key)
    return hashed % partitions if hashed < 2**31 else (2**32 - hashed) % partitions


#: By what people know them as.
PARTITIONERS: Mapping[str, Callable[[bytes, int], int]] = {
    "murmur2 (Java, aiokafka)": partition_of,
    "CRC32 (librdkafka)": lambda key, partitions: crc32(key) % partitions,
    "FNV-1a (Sarama)": _sarama,
}


def find_partitioners(records: Iterable[Seen], partitions: int) -> dict[str, float] | None:
    """Who may have chosen the partitions: name -> share of the keys that are where it puts them, the largest first.

    One name with 1.0 if it explains all; several, each with what it explains besides those before it, if there are
    several producers. Empty: none of these. None: there are too few keys to tell.
    """
    places = {(record.key, record.partition) for record in records if record.key is not None}
    if partitions == 1 or len(places) < _by_chance(len(places), partitions):
        return None
    explained = {
        name: {place for place in places if choose(place[0], partitions) == place[1]}
        for name, choose in PARTITIONERS.items()
    }
    agreeing: dict[str, float] = {}
    left = set(places)
    while left:
        name = max(explained, key=lambda each: len(explained[each] & left))
        more = explained[name] & left
        if len(more) < _by_chance(len(left), partitions):
            break
        agreeing[name] = len(more) / len(places)
        left -= more
    return agreeing


def _by_chance(keys: int, partitions: int) -> float:
    """How many keys may be where a partitioner would put them by chance: five standard deviations above the mean."""
    return keys / partitions + 5 * math.sqrt(keys * (partitions - 1)) / partitions


@dataclass
class Sample:
    """What was read of both topics; ``nameless_labels``: without an entity, where one is needed."""

    events: list[Seen]
    labels: list[Seen]
    partitions: int
    nameless_labels: int = 0

    @property
    def n_entities(self) -> int:
        """Different entities."""
        return len({event.entity for event in self.events})

    def strays(self) -> dict[str, list[int]]:
        """Entities in more than one partition, and in which, in the order of their names."""
        partitions = self._partitions_of(lambda event: event.entity)
        return {name: sorted(of) for name, of in sorted(partitions.items()) if len(of) > 1}

    def misname_labels(self) -> tuple[int, int, Seen | None]:
        """How many labels name another entity than their event's, of how many that is known, and the first of them."""
        entities = {event.event_id: event.entity.encode() for event in self.events}
        known = [label for label in self.labels if label.event_id in entities]
        misnamed = [label for label in known if label.key != entities[label.event_id]]
        return len(misnamed), len(known), misnamed[0] if misnamed else None

    def place_labels(self) -> tuple[int, int, Seen | None]:
        """How many labels are in a partition without their event, of how many that is known, and the first of them.

        Of a label whose event is not in the sample, the entity that its key names tells where that is.
        """
        of_ids = self._partitions_of(lambda event: event.event_id)
        of_entities = self._partitions_of(lambda event: event.entity)
        misplaced, n = [], 0
        for label in self.labels:
            key = label.key.decode(errors="replace") if label.key is not None else ""
            where = of_ids.get(label.event_id) or of_entities.get(key)
            n += where is not None
            if where is not None and label.partition not in where:
                misplaced.append(label)
        return len(misplaced), n, misplaced[0] if misplaced else None

    def _partitions_of(self, name_of: Callable[[Seen], str]) -> dict[str, set[int]]:
        partitions: dict[str, set[int]] = defaultdict(set)
        for event in self.events:
            partitions[name_of(event)].add(event.partition)
        return partitions


def describe_keys(records: list[Seen], partitions: int) -> str:
    """In words: who may have chosen the partitions of these records."""
    unkeyed = sum(record.key is None for record in records)
    if unkeyed == len(records):
        return "they have no keys"
    shares = find_partitioners(records, partitions)
    if shares is None:
        words = "there are too few keys to tell a partitioner"
    elif not shares:
        words = "their keys look like no partitioner that is known here"
    elif len(shares) == 1 and min(shares.values()) == 1:
        words = f"their keys look like {next(iter(shares))}"
    else:
        words = "their keys look like " + " and ".join(f"{name} ({share:.0%})" for name, share in shares.items())
    return f"without a key: {unkeyed}; of the others, {words}" if unkeyed else words


def describe_strays(strays: Mapping[str, list[int]]) -> str:
    """In words: which entities are in which partitions, the first few of them."""
    named = []
    for name, partitions in list(strays.items())[:_MOST_NAMED]:
        *others, last = map(str, partitions)
        named.append(f"{name[:_NAME_CHARACTERS]} is in partitions {', '.join(others)} and {last}")
    more = len(strays) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")
