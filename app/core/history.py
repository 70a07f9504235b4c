"""The deciles of past windows: what the interval and the trend compare with.

A past window speaks through the version that scored most of its events (the first by name among equals), so that a new
version has a history at once; the score means something else in each version, and its history is the version's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.drift.deciles import DECILES
from app.core.drift_calendar import Window
from models.reference import SCORE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.core.batches import Floats
    from app.core.findings import Statistic


@dataclass(eq=False)
class _Entry:
    n: int
    deciles: dict[str, list[float]]


class History:
    """Deciles by window, version, segment and metric.

    Parameters
    ----------
    length
        Past windows that a test looks at.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._entries: dict[Window, dict[tuple[str, str], _Entry]] = {}

    def remember(self, window: Window, version: str, segment: str, n: int, statistics: Iterable[Statistic]) -> None:
        """Keep, or replace, the deciles among the statistics of ``n`` events."""
        entry = self._entries.setdefault(window, {}).setdefault((version, segment), _Entry(n, {}))
        entry.n = n
        found: dict[str, list[float]] = {}
        for metric, decile, value in statistics:
            if decile in DECILES:
                found.setdefault(metric, []).append(value)
        entry.deciles.update(found)

    def current(self, window: Window, version: str, segment: str, metric: str) -> Floats:
        return np.array(self._entries[window][version, segment].deciles[metric])

    def events(self, window: Window) -> dict[str, int]:
        """Number of events of a window by segment, of all versions."""
        found: dict[str, int] = {}
        for (_, segment), entry in self._entries[window].items():
            found[segment] = found.get(segment, 0) + entry.n
        return found

    def before(self, window: Window) -> list[Window]:
        """List the newest windows before one that overlap neither it nor each other, oldest first."""
        found: list[Window] = []
        following = window
        for other in sorted((other for other in self._entries if other < window), reverse=True):
            if other.end_ms <= following.start_ms:
                found.append(other)
                following = other
            if len(found) == self._length:
                break
        return found[::-1]

    def past(self, windows: Iterable[Window], version: str, segment: str, metric: str) -> tuple[list[Window], Floats]:
        """Give those of some windows that know the metric, and its deciles in them (T x 10)."""
        known, rows = [], []
        for window in windows:
            speakers = [
                (-entry.n, name, entry.deciles[metric])
                for (name, of), entry in self._entries[window].items()
                if of == segment and metric in entry.deciles and (metric != SCORE or name == version)
            ]
            if speakers:
                known.append(window)
                rows.append(min(speakers)[2])
        return known, np.array(rows, np.float64).reshape(len(rows), len(DECILES))

    def prune(self, keep: int) -> None:
        """Forget all but the newest windows: those that a test of one of the newest ``keep`` looks at."""
        for window in sorted(self._entries)[:-keep]:
            del self._entries[window]

    def to_state(self) -> list[Any]:
        return [
            [window.start_ms, window.end_ms, [[*key, entry.n, entry.deciles] for key, entry in sorted(held.items())]]
            for window, held in sorted(self._entries.items())
        ]

    def from_state(self, state: list[Any]) -> None:
        self._entries = {
            Window(start, end): {(version, segment): _Entry(n, by_metric) for version, segment, n, by_metric in held}
            for start, end, held in state
        }
