"""The deciles of past windows: what the interval and the trend compare with.

A past window speaks through the version that scored most of its events (the first by name among equals), so that a new
version has a history at once; the score means something else in each version, and its history is the version's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.counts.calendar import Window
from app.core.drift.statistics.deciles import DECILES
from models.reference.reference import SCORE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from app.core.batches import Floats
    from app.core.drift.describer import Statistics


@dataclass(eq=False)
class _Entry:
    """Events, and deciles (metrics x 10) by the names of the metrics that were told together."""

    n: int
    deciles: dict[tuple[str, ...], Floats]

    def find(self, metric: str) -> Floats | None:
        return next((block[names.index(metric)] for names, block in self.deciles.items() if metric in names), None)

    def to_state(self) -> list[Any]:
        return [self.n, [[list(names), block.tolist()] for names, block in sorted(self.deciles.items())]]

    @classmethod
    def from_state(cls, state: list[Any]) -> _Entry:
        n, blocks = state
        return cls(n, {tuple(names): np.array(block) for names, block in blocks})


class History:
    """Deciles by window, version, segment and metric, and numbers of events by window and segment.

    Parameters
    ----------
    length
        Past windows that a test looks at.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._entries: dict[Window, dict[str, dict[str, _Entry]]] = {}
        self._events: dict[Window, dict[str, int]] = {}

    def note_events(self, window: Window, by_version: Mapping[str, Mapping[str, int]]) -> bool:
        """Keep the number of events by segment, of all versions together; give whether it is another than before."""
        events: dict[str, int] = {}
        for of_version in by_version.values():
            for segment, n in of_version.items():
                events[segment] = events.get(segment, 0) + n
        is_new = events != self._events.get(window)
        self._events[window] = events
        return is_new

    def remember(  # noqa: PLR0917  # what was counted of what
        self,
        window: Window,
        version: str,
        segment: str,
        n: int,
        statistics: Statistics,
        is_silent: NDArray[np.bool_] | None = None,
    ) -> None:
        """Keep, or replace, the deciles among the statistics of ``n`` events, NaN for metrics that are not compared."""
        of_segment = self._entries.setdefault(window, {}).setdefault(segment, {})
        entry = of_segment.setdefault(version, _Entry(n, {}))
        entry.n = n
        silent = np.zeros(len(statistics.metrics), np.bool_) if is_silent is None else is_silent
        entry.deciles[statistics.metrics] = np.where(silent[:, None], np.nan, statistics.deciles)

    def current(self, window: Window, version: str, segment: str, metrics: tuple[str, ...]) -> Floats:
        """Give the deciles of metrics that were told together: metrics x 10."""
        return self._entries[window][segment][version].deciles[metrics]

    def events(self, window: Window) -> dict[str, int]:
        """Number of events of a window by segment, of all versions."""
        return self._events[window]

    def before(self, window: Window) -> list[Window]:
        """List the newest windows before one that overlap neither it nor each other, oldest first."""
        earlier: list[Window] = []
        following = window
        for other in sorted((other for other in self._entries if other < window), reverse=True):
            if other.end_ms <= following.start_ms:
                earlier.append(other)
                following = other
            if len(earlier) == self._length:
                break
        return earlier[::-1]

    def past(self, windows: Sequence[Window], version: str, segment: str, metrics: tuple[str, ...]) -> Floats:
        """Give the deciles of metrics in some windows: windows x metrics x 10, NaN where a window does not know one."""
        deciles = np.full((len(windows), len(metrics), len(DECILES)), np.nan)
        for at, window in enumerate(windows):
            of_segment = self._entries[window].get(segment, {})
            own = of_segment.get(version)
            if own is not None and len(of_segment) == 1 and metrics in own.deciles:
                deciles[at] = own.deciles[metrics]
                continue
            speakers = _speakers(of_segment)
            block = next((entry.deciles[metrics] for _, entry in speakers if metrics in entry.deciles), None)
            if block is not None:
                deciles[at] = block
            else:
                for row, metric in enumerate(metrics):
                    told = (entry.find(metric) for _, entry in speakers)
                    deciles[at, row] = next((score_ for score_ in told if score_ is not None), np.nan)
            if SCORE in metrics:
                score = own.find(SCORE) if own is not None else None
                deciles[at, metrics.index(SCORE)] = np.nan if score is None else score
        return deciles

    def prune(self, keep: int) -> None:
        """Forget all but the newest windows: those that a test of one of the newest ``keep`` looks at."""
        for window in sorted(self._entries)[:-keep]:
            del self._entries[window]
        for window in sorted(self._events.keys() - self._entries.keys())[:-keep]:
            del self._events[window]

    def to_state(self) -> list[Any]:
        """Give what `from_state` needs: JSON values."""
        return [
            [
                window.start_ms,
                window.end_ms,
                {
                    segment: {version: entry.to_state() for version, entry in of_segment.items()}
                    for segment, of_segment in by_segment.items()
                },
                self._events.get(window, {}),
            ]
            for window, by_segment in sorted(self._entries.items())
        ]

    def from_state(self, state: list[Any]) -> None:
        self._entries = {
            Window(start, end): {
                segment: {version: _Entry.from_state(entry) for version, entry in of_segment.items()}
                for segment, of_segment in by_segment.items()
            }
            for start, end, by_segment, _ in state
        }
        self._events = {Window(start, end): events for start, end, _, events in state}


def _speakers(of_segment: dict[str, _Entry]) -> list[tuple[str, _Entry]]:
    """The versions that scored events of a segment, that of most events first."""
    return sorted(of_segment.items(), key=lambda item: (-item[1].n, item[0]))
