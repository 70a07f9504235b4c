"""When a stream began, by counts alone: what tells windows that are still filling from those that have emptied.

The start is the first slice with a substantial number of events: at least a twentieth of those in the slice in which
the middle event happened. So a stray event of long ago starts no stream. It is found among the slices before the end of
a window, so that what is said of that window does not depend on what comes after it.

Events that were left unscored have filled windows, too. A worker tells about when they happened.

Where it errs: whoever lacks the beginning of the sketches topic takes the first slice that is there for the start, and
keeps silent for longer than it had to.
"""

from __future__ import annotations

from typing import Any

#: A slice with this part of the events of the typical one is not a stray.
_SUBSTANTIAL = 1 / 20
#: Slices that are remembered: the oldest ones.
_KEPT = 400


class StreamStart:
    """The number of events in the oldest slices of a stream."""

    def __init__(self) -> None:
        self._events: dict[int, int] = {}
        #: What was found; a window is asked about again and again, and mostly the newest slice alone has changed.
        self._found: dict[int, int | None] = {}
        self._changed_ms: int | None = None

    def add(self, slice_start_ms: int, n: int) -> None:
        """Count events."""
        self._changed_ms = slice_start_ms if self._changed_ms is None else min(self._changed_ms, slice_start_ms)
        self._events[slice_start_ms] = self._events.get(slice_start_ms, 0) + n
        if len(self._events) > _KEPT:
            del self._events[max(self._events)]

    def before(self, end_ms: int) -> int | None:
        """When the stream began, by what happened before a time; None: nothing had happened.

        Examples
        --------
        >>> start = StreamStart()
        >>> for slice_start_ms, n in ((0, 1), (500, 900), (600, 1_000), (700, 1_100)):
        ...     start.add(slice_start_ms, n)
        >>> start.before(800)
        500
        """
        if self._changed_ms is not None:
            self._found = {version: when for version, when in self._found.items() if version <= self._changed_ms}
            self._changed_ms = None
        if end_ms not in self._found:
            self._found[end_ms] = self._find(end_ms)
        return self._found[end_ms]

    def _find(self, end_ms: int) -> int | None:
        events = sorted((start_ms, n) for start_ms, n in self._events.items() if start_ms < end_ms)
        left = sum(n for _, n in events) / 2
        for n in sorted(n for _, n in events):
            left -= n
            if left <= 0:
                return next(start_ms for start_ms, here in events if here >= n * _SUBSTANTIAL)
        return None

    def to_state(self) -> list[Any]:
        """Give what `from_state` needs: JSON values."""
        return sorted(self._events.items())

    def from_state(self, state: list[Any]) -> None:
        self._events = dict(map(tuple, state))
        self._found.clear()
