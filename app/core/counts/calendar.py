"""Which windows of event time there are.

Windows are half-open, [start, end), and unions of slices; "month" is the calendar month in UTC, a duration is aligned
to 1970 UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from models.reference.spans import MEAN_MONTH_MS

if TYPE_CHECKING:
    from schemas.pipeline.spec import PastWindow

_DAY_MS = 86_400_000
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": _DAY_MS, "w": 7 * _DAY_MS}


class Window(NamedTuple):
    """[start, end) of event time; in order of time."""

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        start, end = (str(np.datetime64(time, "ms").astype("M8[s]")) for time in (self.start_ms, self.end_ms))
        if start.endswith("T00:00:00") and end.endswith("T00:00:00"):
            start, end = start[:10], end[:10]
        return f"{start} to {end} UTC"


@dataclass(frozen=True)
class Calendar:
    """How event time is cut into windows.

    ``size_ms`` None: calendar months. ``every_ms``: windows overlap, and one ends at each multiple of it; None: each
    begins where the last one ends.
    """

    size_ms: int | None
    every_ms: int | None = None

    @classmethod
    def parse(cls, window: str, slice_ms: int, every_ms: int | None = None) -> Calendar:
        """Read "month" or a duration ("7d", "1h", plain milliseconds); ValueError when slices do not fill windows.

        Examples
        --------
        >>> Calendar.parse("7d", 3_600_000, 86_400_000)
        Calendar(size_ms=604800000, every_ms=86400000)
        """
        if window == "month":
            size_ms, unit_ms = None, _DAY_MS
        else:
            match = re.fullmatch(r"(\d+)\s*(ms|s|m|h|d|w)?", window)
            if match is None or int(match[1]) == 0:
                raise ValueError(f'drift.window is {window!r}; write "month" or a duration such as "7d"')
            size_ms = unit_ms = int(match[1]) * _UNITS_MS[match[2] or "ms"]
        if slice_ms < 1 or unit_ms % slice_ms:
            raise ValueError(f"drift.slice is {slice_ms} ms; windows of {window!r} need one that divides {unit_ms} ms")
        if every_ms is not None and (
            size_ms is None or every_ms < slice_ms or every_ms % slice_ms or size_ms % every_ms
        ):
            raise ValueError(
                f"drift.every is {every_ms} ms; it must be a multiple of the slice, and windows of {window!r} one of it"
            )
        return cls(size_ms, every_ms)

    @property
    def step_ms(self) -> float:
        """How far apart windows end; of months, on average."""
        return self.every_ms or self.size_ms or MEAN_MONTH_MS

    def pane_at(self, time_ms: int) -> Window:
        """Find the pane that holds an event time: the largest stretch that is never divided by the end of a window.

        Examples
        --------
        >>> Calendar(30, 10).pane_at(25)
        Window(start_ms=20, end_ms=30)
        """
        if self.every_ms is None:
            return self.window_at(time_ms)
        start = time_ms // self.every_ms * self.every_ms
        return Window(start, start + self.every_ms)

    def windows_of(self, pane: Window) -> list[Window]:
        """List the windows that a pane is part of, oldest first.

        Examples
        --------
        >>> [window.start_ms for window in Calendar(30, 10).windows_of(Window(20, 30))]
        [0, 10, 20]
        """
        if self.every_ms is None or self.size_ms is None:
            return [pane]
        starts = range(pane.end_ms - self.size_ms, pane.start_ms + 1, self.every_ms)
        return [Window(start, start + self.size_ms) for start in starts]

    def panes_of(self, window: Window) -> list[Window]:
        """List the panes of a window, oldest first."""
        if self.every_ms is None:
            return [window]
        starts = range(window.start_ms, window.end_ms, self.every_ms)
        return [Window(start, start + self.every_ms) for start in starts]

    def before(self, window: Window, past: PastWindow) -> Window:
        """Find the window that one is compared with: a given one, or that of a season ago."""
        if past.start_ms is not None:
            return self.window_at(past.start_ms)
        if past.season_ms is not None:
            return Window(window.start_ms - past.season_ms, window.end_ms - past.season_ms)
        month = np.datetime64(window.start_ms, "ms").astype("M8[M]") - np.timedelta64(past.months or 12, "M")
        return self.window_at(int(month.astype("M8[ms]").astype(np.int64)))

    def preceding(self, window: Window) -> Window:
        """Find the window of the same length that ends where one begins; of months, the one before.

        Examples
        --------
        >>> Calendar(30, 10).preceding(Window(50, 80))
        Window(start_ms=20, end_ms=50)
        """
        if self.size_ms is not None:
            return Window(window.start_ms - self.size_ms, window.start_ms)
        return self.window_at(window.start_ms - 1)

    def window_at(self, time_ms: int) -> Window:
        """Find the window that holds an event time; of overlapping ones, that which begins in the same pane.

        Examples
        --------
        >>> str(Calendar(None).window_at(1_361_000_000_000))
        '2013-02-01 to 2013-03-01 UTC'
        """
        if self.size_ms is not None:
            step = self.every_ms or self.size_ms
            start = time_ms // step * step
            return Window(start, start + self.size_ms)
        month = np.datetime64(time_ms, "ms").astype("M8[M]")
        edges = (month, month + np.timedelta64(1, "M"))
        return Window(*(int(edge.astype("M8[ms]").astype(np.int64)) for edge in edges))

    def ordinal(self, window: Window) -> int:
        """Number the windows: consecutive ones differ by 1."""
        if self.size_ms is not None:
            return window.start_ms // (self.every_ms or self.size_ms)
        return int(np.datetime64(window.start_ms, "ms").astype("M8[M]").astype(np.int64))
