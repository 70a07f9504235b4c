"""When a destination that fails, or asks for it, is left alone."""

from __future__ import annotations

#: Failures in a row after which a destination rests.
_FAILURES = 10


class Rest:
    """Of one destination. While it fails, one delivery at a time shows whether it is back.

    Parameters
    ----------
    first_ms, longest_ms
        How long it rests at first, and at most; twice as long each time.
    """

    def __init__(self, first_ms: int, longest_ms: int) -> None:
        self.failures = 0
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._until_ms = 0

    @property
    def is_failing(self) -> bool:
        """Whether nothing has arrived for so many tries that no more than one is made at a time."""
        return self.failures >= _FAILURES

    def rests_at(self, now_ms: int) -> bool:
        return now_ms < self._until_ms

    @property
    def until_ms(self) -> int:
        return self._until_ms

    def arrived(self) -> None:
        """A delivery arrived."""
        self.failures, self._until_ms = 0, 0

    def failed(self, now_ms: int, asked_ms: int) -> None:
        """A delivery failed; ``asked_ms``: for how long the destination wants to be left alone."""
        if not self.rests_at(now_ms):  # what was under way fails together, and counts once
            self.failures += 1
            if self.is_failing:
                doubled = min(self.failures - _FAILURES, 16)  # more would be longer than the longest by far
                self._until_ms = now_ms + min(self._first_ms << doubled, self._longest_ms)
        self._until_ms = max(self._until_ms, now_ms + asked_ms)
