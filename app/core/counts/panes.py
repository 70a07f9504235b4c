"""Counts by pane: a window, or where windows overlap a part that none divides. A window is the sum of its panes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.core.counts.calendar import Calendar, Window
from app.core.counts.sketches import ALL, Sketch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.reference.soundness import CellLaws
    from schemas.wire import SketchDelta

#: Of one version in one pane or window, by segment.
Sketches = dict[str, Sketch]


class Panes:
    """The counts that are held, by pane, version and segment."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._held: dict[Window, dict[str, Sketches]] = {}

    def add(self, delta: SketchDelta) -> None:
        """Merge a delta into the pane of its slice."""
        pane = self._calendar.pane_at(delta.slice_start_ms)
        of_version = self._held.setdefault(pane, {}).setdefault(delta.version, {})
        of_version.setdefault(delta.segment, Sketch()).add(delta)

    def counts(self, window: Window, version: str) -> Sketches:
        """The counts of a window by segment; they are not to be changed. Empty: nothing is known."""
        panes = [self._held[pane] for pane in self._calendar.panes_of(window) if pane in self._held]
        parts = [held[version] for held in panes if version in held]
        if len(parts) == 1:
            return parts[0]
        sketches: Sketches = {}
        for part in parts:
            for segment, sketch in part.items():
                sketches.setdefault(segment, Sketch()).merge(sketch)
        return sketches

    def numbers(self, window: Window) -> dict[str, dict[str, int]]:
        """Number of events of a window by version (whether its reference is known or not) and segment."""
        numbers: dict[str, dict[str, int]] = {}
        for pane in self._calendar.panes_of(window):
            for version, sketches in self._held.get(pane, {}).items():
                of_version = numbers.setdefault(version, {})
                for segment, sketch in sketches.items():
                    of_version[segment] = of_version.get(segment, 0) + sketch.n
        return numbers

    def n_scored(self, window: Window) -> dict[str, int]:
        """Number of events of a window by version."""
        events: dict[str, int] = {}
        for pane in self._calendar.panes_of(window):
            for version, sketches in self._held.get(pane, {}).items():
                events[version] = events.get(version, 0) + (sketches[ALL].n if ALL in sketches else 0)
        return events

    def versions(self) -> set[str]:
        """The versions that counts are held of."""
        return {version for held in self._held.values() for version in held}

    def n_metrics(self, version: str) -> int:
        """How many metrics the counts that are held of a version have; 0: none are held."""
        sketches = (held[version] for held in self._held.values() if version in held)
        return next((len(sketch.sums) for of in sketches for sketch in of.values() if len(sketch.sums)), 0)

    def drop_unsound(self, version: str, laws: CellLaws) -> list[Window]:
        """Drop what is held of a version outside of the cells of its reference; the panes in which that was."""
        unsound = [
            pane
            for pane, held in self._held.items()
            if any(laws.find_fault(sketch.to_sparse()) for sketch in held.get(version, {}).values())
        ]
        for pane in unsound:
            del self._held[pane][version]
        return unsound

    def keep(self, is_needed: Callable[[Window], bool]) -> None:
        """Forget the panes that are not needed any more."""
        for pane in [pane for pane in self._held if not is_needed(pane)]:
            del self._held[pane]

    def to_deltas(self) -> Iterator[SketchDelta]:
        """All counts in a fixed order, as `add` takes them."""
        for pane, versions in sorted(self._held.items()):
            for version, sketches in sorted(versions.items()):
                for segment, sketch in sorted(sketches.items()):
                    yield sketch.to_delta("", version, segment, pane.start_ms)
