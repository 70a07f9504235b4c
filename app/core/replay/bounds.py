"""Where a run over a log begins and ends: at a time, or at an offset of each partition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bound:
    """A time, or offsets of the events topic by partition; neither: open. See `names`."""

    time_ms: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether it bounds nothing."""
        return self.time_ms is None and not self.offsets


OPEN = Bound()


def names(begin: Bound, end: Bound, partition: int) -> bool:
    """Whether two bounds include a partition. Where offsets are given, they include the partitions that have one.

    Examples
    --------
    >>> [names(Bound(offsets={0: 5}), Bound(offsets={1: 9}), partition) for partition in range(3)]
    [True, True, False]
    >>> names(Bound(time_ms=3), OPEN, 2)
    True
    """
    named = {*begin.offsets, *end.offsets}
    return not named or partition in named


def parse_offsets(text: str) -> dict[int, int] | None:
    """Offsets by partition, written ``0:1500,1:1480``; None for any other text.

    Examples
    --------
    >>> parse_offsets("0:1500,1:1480")
    {0: 1500, 1: 1480}
    >>> parse_offsets("2013-01-31T06:00:00Z") is None
    True
    """
    offsets: dict[int, int] = {}
    for pair in text.split(","):
        partition, _, offset = pair.strip().partition(":")
        if not (partition.isdecimal() and offset.isdecimal()) or int(partition) in offsets:
            return None
        offsets[int(partition)] = int(offset)
    return offsets
