"""When a delivery is tried again."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

_S, _MIN, _H = 1_000, 60_000, 3_600_000


@dataclass(frozen=True)
class Schedule:
    """Times between tries, in ms.

    Parameters
    ----------
    soon_ms
        Pauses before the tries that come at once, while everything of the entity waits in memory.
    patience_ms
        How long a record may wait in memory at all: until then its offset is not committed.
    later_ms
        Pauses between the tries of what is parked. After the last one it is given up.
    jitter
        Each pause is longer by up to this share, so that what failed together is not tried together. Derived from the
        id: the same at each start.
    rest_ms
        How long a destination rests that fails: at first, and at most; twice as long each time.
    most_wait_ms
        A destination may ask for a longer pause (``Retry-After``), but for no longer one than this.
    """

    soon_ms: tuple[int, ...] = (500, 1_500)
    patience_ms: int = 10_000
    later_ms: tuple[int, ...] = (5 * _S, 5 * _MIN, 30 * _MIN, 2 * _H, 8 * _H, 24 * _H)
    jitter: float = 0.1
    rest_ms: tuple[int, int] = (1_000, 60_000)
    most_wait_ms: int = _H

    def longest_ms(self, name: str) -> int:
        """How long something is retried before it is given up."""
        return self._stretch(name, sum(self.later_ms))

    def soon(self, name: str, tries: int) -> int | None:
        """The pause after the first ``tries`` failed; None: no more at once."""
        return self._stretch(name, self.soon_ms[tries - 1]) if tries <= len(self.soon_ms) else None

    def later(self, name: str, tries: int, parked_for_ms: int) -> int | None:
        """The pause of what is parked after ``tries`` have failed, the one that parked it included; None: no more.

        Who has waited behind another of its entity begins with the shortest pause when its turn comes, but nothing is
        retried for longer than all pauses together.

        Examples
        --------
        >>> schedule = Schedule(later_ms=(5_000, 300_000), jitter=0)
        >>> [schedule.later("id", tries, 0) for tries in (1, 2, 3)], schedule.later("id", 1, 305_000)
        ([5000, 300000, None], None)
        """
        if tries > len(self.later_ms) or parked_for_ms >= self.longest_ms(name):
            return None
        return self._stretch(name, self.later_ms[tries - 1])

    def bound(self, asked_ms: int) -> int:
        """How long a destination is left alone that asked for it."""
        return min(max(asked_ms, 0), self.most_wait_ms)

    def _stretch(self, name: str, pause_ms: int) -> int:
        return round(pause_ms * (1 + self.jitter * zlib.crc32(name.encode()) / 2**32))
