"""Shares partitions between workers so that few of them move: a worker keeps what it has as far as that is fair.

Partition k of all topics goes to the same member (events k and labels k are one stream).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_VERSION = 0


def share(partitions: Iterable[int], owned: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Give each partition to one member. Members have equally many, give or take one, and as few as possible move.

    Parameters
    ----------
    owned
        What each member had. When two claim the same partition, the one whose name sorts first keeps it.
    """
    free = set(partitions)
    members = sorted(owned)
    least, extra = divmod(len(free), len(members))
    kept: dict[str, list[int]] = {}
    for member in members:
        kept[member] = sorted(free.intersection(owned[member]))
        free.difference_update(kept[member])
    # Members with the most partitions keep one more than the others, as long as there are such to keep.
    for place, member in enumerate(sorted(members, key=lambda name: (-len(kept[name]), name))):
        most = least + (place < extra)
        free.update(kept[member][most:])
        del kept[member][most:]
    for partition in sorted(free):
        poorest = min(members, key=lambda name: (len(kept[name]), name))
        kept[poorest].append(partition)
    return {member: sorted(numbers) for member, numbers in kept.items()}


class Standing(msgspec.Struct):
    """What a member tells with each request to join: the partitions that it has, and where it serves HTTP (or "")."""

    owned: list[int] = []
    url: str = ""


_decode_standing = msgspec.json.Decoder(Standing).decode
_decode_owners = msgspec.json.Decoder(dict[int, str]).decode


class StickyAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Calls `share` for aiokafka, and tells each member who has which partition.

    Attributes
    ----------
    url
        Where this member serves HTTP; "": nowhere.
    owners
        Partition -> where its owner serves HTTP, as of the last assignment.
    """

    name = "streamgauge-sticky"

    def __init__(self) -> None:
        self.url = ""
        self.owners: dict[int, str] = {}
        self._owned: list[int] = []

    def metadata(self, topics: Iterable[str]) -> Any:
        standing = msgspec.json.encode(Standing(self._owned, self.url))
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), standing)

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        counts = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        standings = {member: _decode_standing(metadata.user_data or b"{}") for member, metadata in members.items()}
        shares = share(set().union(*counts.values()), {member: of.owned for member, of in standings.items()})
        owners = msgspec.json.encode({k: standings[member].url for member, mine in shares.items() for k in mine})
        return {
            member: ConsumerProtocolMemberAssignment(
                _VERSION, [(topic, [k for k in mine if k in counts[topic]]) for topic in topics], owners
            )
            for member, mine in shares.items()
        }

    def on_assignment(self, assignment: Any) -> None:
        self._owned = sorted({partition for _, mine in assignment.assignment for partition in mine})
        self.owners = _decode_owners(assignment.user_data or b"{}")
