"""Shares partitions between workers so that few of them move: a worker keeps what it has as far as that is fair.

Partition k of all topics goes to the same member (events k and labels k are one stream).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

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


class StickyAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Calls `share` for aiokafka. What this member has travels with each request to join."""

    name = "streamgauge-sticky"

    def __init__(self) -> None:
        self._owned: list[int] = []

    def metadata(self, topics: Iterable[str]) -> Any:
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), json.dumps(self._owned).encode())

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        counts = {topic: cluster.partitions_for_topic(topic) or set() for topic in topics}
        owned = {member: json.loads(metadata.user_data or b"[]") for member, metadata in members.items()}
        shares = share(set().union(*counts.values()), owned)
        return {
            member: ConsumerProtocolMemberAssignment(
                _VERSION, [(topic, [k for k in mine if k in counts[topic]]) for topic in topics], b""
            )
            for member, mine in shares.items()
        }

    def on_assignment(self, assignment: Any) -> None:
        self._owned = sorted({partition for _, mine in assignment.assignment for partition in mine})
