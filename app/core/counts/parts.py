"""The counts of parts of windows: they show since when something is wrong, where a whole window is only a mixture.

A part is an eighth of a window, of whole slices; where windows overlap, the stretch between two of their ends. Counted
are all events, by version; segments are not, so that there is little to keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.core.counts.sketches import ALL, Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.core.counts.calendar import Calendar, Window
    from models.reference.soundness import CellLaws
    from schemas.wire import SketchDelta

#: Parts of a window that is not a sum of panes.
PARTS = 8
#: In place of a model, in the deltas of a snapshot.
_MARK = "part"


class WindowParts:
    """The parts of one model's windows, per version.

    Parameters
    ----------
    calendar
        How time is cut into windows.
    slice_ms
        And into slices; None: no parts are kept.
    """

    def __init__(self, calendar: Calendar, slice_ms: int | None) -> None:
        self._calendar = calendar
        self._slice_ms = slice_ms
        self._parts: dict[str, dict[int, Sketch]] = {}

    def add(self, delta: SketchDelta) -> None:
        """Count a delta, if it is of all events."""
        if self._slice_ms is not None and delta.segment == ALL:
            start_ms = self._start_of(delta.slice_start_ms, self._slice_ms)
            self._parts.setdefault(delta.version, {}).setdefault(start_ms, Sketch()).add(delta)

    def of(self, window: Window, version: str) -> list[tuple[int, Sketch]]:
        """The parts of a window in which a version scored: when each begins, and its counts; they are not to change."""
        parts = self._parts.get(version, {})
        return sorted((start_ms, sketch) for start_ms, sketch in parts.items() if _holds(window, start_ms))

    def numbers(self, window: Window) -> dict[str, int]:
        """Events of a window by version, as far as its parts are known."""
        return {version: sum(sketch.n for _, sketch in self.of(window, version)) for version in self._parts}

    def drop_unsound(self, version: str, laws: CellLaws) -> None:
        """Drop what is not in the cells of a version's reference."""
        parts = self._parts.get(version, {})
        for start_ms in [start_ms for start_ms, sketch in parts.items() if laws.find_fault(sketch.to_sparse())]:
            del parts[start_ms]

    def prune(self, before_ms: int) -> None:
        """Forget the parts that begin before a time."""
        for version, parts in list(self._parts.items()):
            self._parts[version] = {start_ms: sketch for start_ms, sketch in parts.items() if start_ms >= before_ms}
            if not self._parts[version]:
                del self._parts[version]

    def to_deltas(self) -> Iterator[SketchDelta]:
        """Give what `take_deltas` needs."""
        for version, parts in sorted(self._parts.items()):
            for start_ms, sketch in sorted(parts.items()):
                yield sketch.to_delta(_MARK, version, ALL, start_ms)

    def take_deltas(self, deltas: Iterable[SketchDelta]) -> list[SketchDelta]:
        """Take a state; give the deltas that are not part of it."""
        self._parts = {}
        others = []
        for delta in deltas:
            if delta.model == _MARK:
                self._parts.setdefault(delta.version, {}).setdefault(delta.slice_start_ms, Sketch()).add(delta)
            else:
                others.append(delta)
        return others

    def _start_of(self, time_ms: int, slice_ms: int) -> int:
        pane = self._calendar.pane_at(time_ms)
        if self._calendar.every_ms is not None:
            return pane.start_ms
        slices = (pane.end_ms - pane.start_ms) // slice_ms
        part = (time_ms - pane.start_ms) // slice_ms * PARTS // slices
        return pane.start_ms + -(-part * slices // PARTS) * slice_ms


def _holds(window: Window, start_ms: int) -> bool:
    return window.start_ms <= start_ms < window.end_ms
