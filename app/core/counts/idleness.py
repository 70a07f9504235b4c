"""Which partitions hold no window back: those that bring nothing, while others show that time goes on.

Only a caller that has a clock can tell a silent partition from a slow one, and only one that knows the ends of the logs
can tell it from one whose worker is gone: both are given as arguments.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Sight:
    """What is seen of a partition.

    ``position``: anything that changes when events come or are scored. ``is_done``: all its events are scored, and what
    was counted of them is here. ``has_reported``: it has said at least once how far it is.
    """

    position: Hashable
    is_done: bool
    has_reported: bool


class Idleness:
    """Watches the partitions of one topic; times are seconds of a clock that never goes back.

    A partition is idle when it is done and has not moved for ``idle_after_s``, while another one has: if nothing moves
    anywhere, no time passes, and windows stay as they are. One that never had an event is idle as soon as another has
    reported, even if nothing has moved since the watch began.
    """

    def __init__(self, idle_after_s: float) -> None:
        self._idle_after_s = idle_after_s
        self._since: dict[int, tuple[Hashable, float]] = {}
        self._moved_at = float("-inf")

    def observe(self, sights: dict[int, Sight], now_s: float) -> list[int]:
        """Take what is seen now; return the partitions that are idle."""
        for partition, sight in sights.items():
            before = self._since.get(partition)
            if before is None or before[0] != sight.position:
                self._since[partition] = sight.position, now_s
                self._moved_at = now_s if before is not None else self._moved_at
        is_late = any(sight.has_reported for sight in sights.values())
        return [
            partition
            for partition, sight in sorted(sights.items())
            if sight.is_done
            and now_s - self._since[partition][1] >= self._idle_after_s
            and (self._moved_at > self._since[partition][1] or (is_late and not sight.has_reported))
        ]
