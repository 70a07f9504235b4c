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
    from collections.abc import Iterable, Sequence

    from app.core.batches import Floats
    from app.core.findings import Statistic


@dataclass(eq=False)
class _Entry:
    """Events, and deciles (metrics x 10) by the names of the metrics that were told together."""

    n: int
    deciles: dict[tuple[str, ...], Floats]

    def find(self, metric: str) -> Floats | None:
        return next((block[names.index(metric)] for names, block in self.deciles.items() if metric in names), None)


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
        entry.deciles[tuple(found)] = np.array(list(found.values()), np.float64)

    def current(self, window: Window, version: str, segment: str, metrics: tuple[str, ...]) -> Floats:
        """Give the deciles of metrics that were told together: metrics x 10."""
        return self._entries[window][version, segment].deciles[metrics]

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

    def past(self, windows: Sequence[Window], version: str, segment: str, metrics: tuple[str, ...]) -> Floats:
        """Give the deciles of metrics in some windows: windows x metrics x 10, NaN where a window does not know one."""
        found = np.full((len(windows), len(metrics), len(DECILES)), np.nan)
        for at, window in enumerate(windows):
            entries = self._entries[window]
            speakers = sorted((-entry.n, name, entry) for (name, of), entry in entries.items() if of == segment)
            block = next((entry.deciles[metrics] for *_, entry in speakers if metrics in entry.deciles), None)
            if block is not None:
                found[at] = block
            else:
                for row, metric in enumerate(metrics):
                    told = (entry.find(metric) for *_, entry in speakers)
                    found[at, row] = next((each for each in told if each is not None), np.nan)
            if SCORE in metrics and (not speakers or speakers[0][1] != version):
                own = entries.get((version, segment))
                score = own.find(SCORE) if own is not None else None
                found[at, metrics.index(SCORE)] = np.nan if score is None else score
        return found

    def prune(self, keep: int) -> None:
        """Forget all but the newest windows: those that a test of one of the newest ``keep`` looks at."""
        for window in sorted(self._entries)[:-keep]:
            del self._entries[window]

    def to_state(self) -> list[Any]:
        return [
            [
                window.start_ms,
                window.end_ms,
                [
                    [*key, entry.n, [[list(names), block.tolist()] for names, block in sorted(entry.deciles.items())]]
                    for key, entry in sorted(held.items())
                ],
            ]
            for window, held in sorted(self._entries.items())
        ]

    def from_state(self, state: list[Any]) -> None:
        self._entries = {
            Window(start, end): {
                (version, segment): _Entry(n, {tuple(names): np.array(block) for names, block in blocks})
                for version, segment, n, blocks in held
            }
            for start, end, held in state
        }
