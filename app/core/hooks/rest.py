"""When a destination that fails, or asks for it, is left alone."""

from __future__ import annotations

#: Failures in a row after which a destination rests, and how long: a second first, twice as long each time.
_FAILURES = 10
_FIRST_MS, _LONGEST_MS = 1_000, 60_000


class Rest:
    """Of one destination. While it fails, one delivery at a time shows whether it is back."""

    def __init__(self) -> None:
        self.failures = 0
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
                self._until_ms = now_ms + min(_FIRST_MS << doubled, _LONGEST_MS)
        self._until_ms = max(self._until_ms, now_ms + asked_ms)
