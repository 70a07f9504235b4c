"""What the status topic hears of one partition."""

from __future__ import annotations

from app.flow.step import Step
from app.worker.model_statuses import ModelStatuses


class PartitionNews:
    """Where a partition began, and which event each model version scored first in it; told with the next commit."""

    def __init__(self, topic: ModelStatuses, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._beginnings: list[tuple[int, bytes]] = []
        #: Versions that have scored here.
        self._served: set[str] = set()
        self._first_offsets: dict[str, int] = {}

    @property
    def has_beginning(self) -> bool:
        """Whether it is still to be told where the partition began."""
        return bool(self._beginnings)

    def begin_at(self, events: int, labels: int | None) -> None:
        """Take note that the partition, which nobody has had before, begins at these offsets."""
        self._beginnings.append((0, self._topic.describe_beginning(self._partition, events, labels)))

    def note(self, step: Step) -> None:
        """Take note of the versions that scored a step."""
        for start, _, model in step.runs:
            if model.version not in self._served:
                self._served.add(model.version)
                self._first_offsets[model.version] = int(step.events.offsets[start])

    def take(self) -> tuple[list[tuple[int, bytes]], dict[str, int]]:
        """What a commit is to hold: records for the status topic, and the first offset of each version new here."""
        beginnings, self._beginnings = self._beginnings, []
        first_offsets, self._first_offsets = self._first_offsets, {}
        return beginnings, first_offsets

    async def tell_serving(self, first_offsets: dict[str, int]) -> None:
        """Say where versions scored first, now that it is committed."""
        for version, offset in first_offsets.items():
            await self._topic.tell_serving(version, self._partition, offset)
