"""Event-time windows: which slices make one, when it closes, and the counts that each holds.

Time
----
Windows are half-open, [start, end), and unions of slices; "month" is the calendar month in UTC, a duration is aligned
to 1970 UTC. A partition's watermark is the event time before which it expects no on-time event; the store's is the
lowest over its partitions, and never goes back. A window closes when the watermark reaches its end + grace.

A partition that has never reported holds the watermark back: nothing is known of it. One without any events must still
report watermarks (workers do). Only whoever has a clock can tell a silent partition from a slow one, so idleness is
declared from outside (`WindowStore.declare_idle`); an idle partition holds nothing back until it reports again, and
what it then brings for closed windows is late.

Late counts
-----------
Counts for a closed window are merged like any others and mark it as changed: it is reported again under a higher
revision. So, whatever the order in which partitions are read, the last revision says the same. The counts of the newest
``keep`` closed windows are kept; what comes for older ones is only counted (`WindowStore.n_too_late`).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.sketches import ALL, Sketch
from schemas.wire import SketchRecord, decode_packed, encode_packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from schemas.wire import SketchDelta

_DAY_MS = 86_400_000
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": _DAY_MS, "w": 7 * _DAY_MS}
_MAGIC = b"streamgauge windows 1\n"


@dataclass(frozen=True, order=True)
class Window:
    """[start, end) of event time."""

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        start, end = (str(np.datetime64(time, "ms").astype("M8[s]")) for time in (self.start_ms, self.end_ms))
        if start.endswith("T00:00:00") and end.endswith("T00:00:00"):
            start, end = start[:10], end[:10]
        return f"{start} to {end} UTC"


@dataclass(frozen=True)
class Calendar:
    """How event time is cut into windows. ``size_ms`` None: calendar months."""

    size_ms: int | None

    @classmethod
    def parse(cls, window: str, slice_ms: int) -> Calendar:
        """Read "month" or a duration ("7d", "1h", plain milliseconds); ValueError when slices do not fill windows.

        Examples
        --------
        >>> Calendar.parse("7d", 3_600_000)
        Calendar(size_ms=604800000)
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
        return cls(size_ms)

    def window_at(self, time_ms: int) -> Window:
        """Find the window that holds an event time.

        Examples
        --------
        >>> str(Calendar(None).window_at(1_361_000_000_000))
        '2013-02-01 to 2013-03-01 UTC'
        """
        if self.size_ms is not None:
            start = time_ms // self.size_ms * self.size_ms
            return Window(start, start + self.size_ms)
        month = np.datetime64(time_ms, "ms").astype("M8[M]")
        edges = (month, month + np.timedelta64(1, "M"))
        return Window(*(int(edge.astype("M8[ms]").astype(np.int64)) for edge in edges))

    def ordinal(self, window: Window) -> int:
        """Number the windows: consecutive ones differ by 1."""
        if self.size_ms is not None:
            return window.start_ms // self.size_ms
        return int(np.datetime64(window.start_ms, "ms").astype("M8[M]").astype(np.int64))


@dataclass(eq=False)
class Holding:
    """The counts of one version in one window, and what has been said about them.

    A ``revision`` is 0 until something is reported; ``digest`` is of what was. ``is_changed``/``labels_changed``:
    counts of events / of labels or events have come since.
    """

    sketch: Sketch = field(default_factory=Sketch)
    is_changed: bool = False
    revision: int = 0
    digest: str = ""
    labels_changed: bool = False
    labels_revision: int = 0
    labels_digest: str = ""

    def is_due(self, of_labels: bool, is_history_changed: bool) -> bool:
        """Say whether the features (or labels) must be judged: they have changed, or their past has."""
        if of_labels:
            return self.labels_changed or (is_history_changed and self.labels_revision > 0)
        return self.is_changed or (is_history_changed and self.revision > 0)

    def report(self, digest: str, of_labels: bool) -> int | None:
        """Note what the features (or labels) say; give the revision to report it under, None when that is known."""
        if of_labels:
            self.labels_changed = False
            if digest == self.labels_digest:
                return None
            self.labels_digest, self.labels_revision = digest, self.labels_revision + 1
            return self.labels_revision
        self.is_changed = False
        if digest == self.digest:
            return None
        self.digest, self.revision = digest, self.revision + 1
        return self.revision


class WindowStore:
    """The windows of one model and pipeline, per version.

    Parameters
    ----------
    calendar
        How time is cut.
    partitions
        Number of partitions of the sketches topic; all of them, from the start.
    grace_ms
        How far the watermark must be past the end of a window before it closes.
    maturity_ms
        How far labels must have been applied past the end of a window before its performance is final; None: no labels.
    keep
        Closed windows whose counts are kept, for late events.
    """

    def __init__(
        self, calendar: Calendar, partitions: int, grace_ms: int, maturity_ms: int | None, *, keep: int = 24
    ) -> None:
        self._calendar = calendar
        self._partitions = partitions
        self._grace_ms = grace_ms
        self._maturity_ms = maturity_ms
        self._keep = keep
        self._reported: dict[int, tuple[int, int]] = {}
        self._idle: set[int] = set()
        self._watermark_ms: int | None = None
        self._label_watermark_ms: int | None = None
        self._windows: dict[Window, dict[str, Holding]] = {}
        self._frozen_before_ms: int | None = None
        self._floors: dict[tuple[str, int, bool], int] = {}
        self.n_too_late = 0

    @property
    def watermark_ms(self) -> int | None:
        return self._watermark_ms

    @property
    def label_watermark_ms(self) -> int | None:
        return self._label_watermark_ms

    @property
    def settled_before_ms(self) -> int | None:
        """No window that starts before this will change any more; None: any may."""
        if self._frozen_before_ms is None:
            return None
        return min([self._frozen_before_ms, *(window.start_ms for window in self._windows)])

    def add(self, record: SketchRecord) -> None:
        """Merge a record of the sketches topic and move its partition's watermarks; those never go back."""
        self._check(record.partition)
        for delta in record.deltas:
            self._merge(delta)
        before = self._reported.get(record.partition, (record.watermark_ms, record.label_watermark_ms))
        self._reported[record.partition] = (
            max(before[0], record.watermark_ms),
            max(before[1], record.label_watermark_ms),
        )
        self._idle.discard(record.partition)
        self._move_watermarks()

    def has_reported(self, partition: int) -> bool:
        """Whether a partition has ever said how far it is."""
        return partition in self._reported

    def declare_idle(self, partition: int) -> None:
        """Let a partition hold nothing back until it reports again."""
        self._check(partition)
        self._idle.add(partition)
        self._move_watermarks()

    def closed(self) -> list[Window]:
        """List the closed windows whose counts are held, oldest first."""
        if self._watermark_ms is None:
            return []
        return sorted(window for window in self._windows if window.end_ms + self._grace_ms <= self._watermark_ms)

    @property
    def n_open(self) -> int:
        """Number of windows that hold counts and have not closed."""
        return len(self._windows) - len(self.closed())

    def is_mature(self, window: Window) -> bool:
        """Say whether labels have been applied far enough for the window's performance to be final."""
        if self._maturity_ms is None or self._label_watermark_ms is None:
            return False
        return window.end_ms + self._maturity_ms <= self._label_watermark_ms

    def raise_revisions(self, reported: Mapping[tuple[str, int, bool], int]) -> None:
        """Report no window under a revision that is not above what was reported before, as others know it.

        Parameters
        ----------
        reported
            Highest revision by version, start of the window, and whether it is of labels.
        """
        self._floors = dict(reported)
        for window, held in self._windows.items():
            for version, holding in held.items():
                self._raise(window, version, holding)

    def keep_reported(self, reported: Mapping[tuple[str, int, bool], int]) -> None:
        """Leave windows alone that were reported before and are not held: their counts cannot be made again."""
        held = {window.start_ms for window in self._windows}
        lost = [start_ms for _, start_ms, _ in reported if start_ms not in held]
        if lost:
            end_ms = self._calendar.window_at(max(lost)).end_ms
            self._frozen_before_ms = max(self._frozen_before_ms or end_ms, end_ms)

    def _raise(self, window: Window, version: str, holding: Holding) -> None:
        holding.revision = max(holding.revision, self._floors.get((version, window.start_ms, False), 0))
        holding.labels_revision = max(holding.labels_revision, self._floors.get((version, window.start_ms, True), 0))

    def holdings(self, window: Window) -> list[tuple[str, Holding]]:
        """List what a window holds, by version."""
        return sorted(self._windows[window].items())

    def release(self) -> None:
        """Forget the counts of old closed windows once everything about them has been reported."""
        closed = self.closed()
        for window in closed[: max(len(closed) - self._keep, 0)]:
            held = self._windows[window]
            is_final = self._maturity_ms is None or self.is_mature(window)
            for version, holding in list(held.items()):
                if (
                    is_final
                    and not holding.is_changed
                    and not (holding.labels_changed and self._maturity_ms is not None)
                ):
                    del held[version]
            if not held:
                del self._windows[window]
            self._frozen_before_ms = max(self._frozen_before_ms or window.end_ms, window.end_ms)

    def snapshot(self) -> bytes:
        """Give the whole state as bytes: equal states give equal bytes."""
        deltas, notes = [], []
        for window, held in sorted(self._windows.items()):
            for version, holding in sorted(held.items()):
                deltas.append(holding.sketch.to_delta("", version, ALL, window.start_ms))
                notes.append(
                    [
                        holding.is_changed,
                        holding.revision,
                        holding.digest,
                        holding.labels_changed,
                        holding.labels_revision,
                        holding.labels_digest,
                    ]
                )
        state = {
            "made_for": self._made_for(),
            "reported": sorted([partition, *marks] for partition, marks in self._reported.items()),
            "idle": sorted(self._idle),
            "watermark_ms": self._watermark_ms,
            "label_watermark_ms": self._label_watermark_ms,
            "frozen_before_ms": self._frozen_before_ms,
            "n_too_late": self.n_too_late,
            "notes": notes,
        }
        return (
            _MAGIC + json.dumps(state, sort_keys=True).encode() + b"\n" + encode_packed(SketchRecord(0, 0, 0, deltas))
        )

    def restore(self, snapshot: bytes) -> None:
        """Take the state of a snapshot; ValueError when it was not made by such a store."""
        if not snapshot.startswith(_MAGIC):
            raise ValueError("not a snapshot of windows of this release; read the sketches topic from its beginning")
        head, _, body = snapshot[len(_MAGIC) :].partition(b"\n")
        state: dict[str, Any] = json.loads(head)
        if state["made_for"] != self._made_for():
            raise ValueError(
                f"the snapshot is of windows with {state['made_for']}, the pipeline says {self._made_for()}; "
                "read the sketches topic from its beginning"
            )
        self._reported = {partition: (events, labels) for partition, events, labels in state["reported"]}
        self._idle = set(state["idle"])
        self._watermark_ms = state["watermark_ms"]
        self._label_watermark_ms = state["label_watermark_ms"]
        self._frozen_before_ms = state["frozen_before_ms"]
        self.n_too_late = state["n_too_late"]
        self._windows = {}
        for delta, note in zip(decode_packed(body, SketchRecord).deltas, state["notes"], strict=True):
            sketch = Sketch()
            sketch.add(delta)
            window = self._calendar.window_at(delta.slice_start_ms)
            self._windows.setdefault(window, {})[delta.version] = Holding(sketch, *note)

    def _made_for(self) -> dict[str, Any]:
        return {
            **asdict(self._calendar),
            "partitions": self._partitions,
            "grace_ms": self._grace_ms,
            "maturity_ms": self._maturity_ms,
        }

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self._partitions:
            raise ValueError(f"partition {partition} is none of the {self._partitions} that the pipeline file says")

    def _merge(self, delta: SketchDelta) -> None:
        if delta.segment != ALL:
            raise ValueError(f"segment {delta.segment!r} of a sketch is not {ALL!r}, the only one there is")
        window = self._calendar.window_at(delta.slice_start_ms)
        held = self._windows.get(window)
        is_frozen = self._frozen_before_ms is not None and window.start_ms < self._frozen_before_ms
        if is_frozen and (held is None or delta.version not in held):
            self.n_too_late += delta.n
            return
        held = self._windows.setdefault(window, {})
        if delta.version not in held:
            held[delta.version] = Holding()
            self._raise(window, delta.version, held[delta.version])
        holding = held[delta.version]
        holding.sketch.add(delta)
        holding.is_changed |= delta.n > 0
        holding.labels_changed = True

    def _move_watermarks(self) -> None:
        active = set(range(self._partitions)) - self._idle
        if not active or not active <= self._reported.keys():
            return
        events, labels = (min(self._reported[partition][kind] for partition in active) for kind in (0, 1))
        self._watermark_ms = events if self._watermark_ms is None else max(self._watermark_ms, events)
        self._label_watermark_ms = labels if self._label_watermark_ms is None else max(self._label_watermark_ms, labels)
