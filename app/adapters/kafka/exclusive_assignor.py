"""Gives all partitions of a group to one member; when it goes, one of the others takes over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

_VERSION = 0


class ExclusiveAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Gives all partitions to the member that came first.

    Parameters
    ----------
    since_ms
        When this member came; it travels with each request to join, so that the assignment does not change hands when
        others join. Members of the same millisecond are ordered by their ids.
    """

    name = "streamgauge-exclusive"

    def __init__(self, since_ms: int) -> None:
        self._since_ms = since_ms

    def metadata(self, topics: Iterable[str]) -> Any:
        return ConsumerProtocolMemberMetadata(_VERSION, list(topics), str(self._since_ms).encode())

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        owner = min(members, key=lambda member: (int(members[member].user_data), member))
        topics = sorted(members[owner].subscription)
        everything = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
        return {
            member: ConsumerProtocolMemberAssignment(_VERSION, everything if member == owner else [], b"")
            for member in members
        }

    def on_assignment(self, assignment: Any) -> None:
        """Nothing is kept between assignments."""
