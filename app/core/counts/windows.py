"""The counts that each window of event time holds, and when it closes.

Time
----
A window closes when the watermark (`app.core.counts.watermarks`) reaches its end + grace. What an idle partition brings
for closed windows, when it reports again, is late.

Counts
------
They are kept by pane (`app.core.counts.panes`). Counts for a closed window are merged like any others and mark it as
changed: it is reported again under a higher revision. So, whatever the order in which partitions are read, the last
revision says the same. The counts of the newest ``keep`` closed windows are kept, and of those that they are compared
with; what comes for older ones is only counted (`WindowStore.n_too_late`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from app.core.counts.calendar import Calendar, Window
from app.core.counts.panes import Panes
from app.core.counts.parts import WindowParts
from app.core.counts.sketches import ALL
from app.core.counts.stream_start import StreamStart
from app.core.counts.watermarks import Watermarks
from schemas.wire import SketchRecord, decode_packed, encode_packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from models.reference.soundness import CellLaws
    from schemas.pipeline.spec import PastWindow
    from schemas.wire import SketchDelta

_MAGIC = b"streamgauge windows 5\n"

#: What is told of a version in a window, each under revisions of its own; the performance has those of the verdict.
Stage = Literal["features", "labels", "verdict"]


@dataclass
class Note:
    """What has been said of one version in one window, at one stage.

    ``revision`` is 0 until something is reported; ``digest`` is that of what was. ``is_changed``: what it rests on has
    changed since, or its past has.
    """

    is_changed: bool = False
    revision: int = 0
    digest: str = ""

    def is_due(self, *, is_history_changed: bool) -> bool:
        """Say whether it must be judged: what it rests on has changed, or its past has."""
        return self.is_changed or (is_history_changed and self.revision > 0)

    def note_history(self) -> None:
        """What was reported must be judged again: its past has changed."""
        self.is_changed = self.is_changed or self.revision > 0

    def report(self, digest: str) -> int | None:
        """Note what is said now; give the revision to report it under, None when it has been reported already."""
        self.is_changed = False
        if digest == self.digest:
            return None
        self.digest, self.revision = digest, self.revision + 1
        return self.revision


#: What has been said of one version in one window.
Holding = dict[Stage, Note]


def nothing_said() -> Holding:
    """What is held of a version as long as nothing has been said of it."""
    return {stage: Note() for stage in get_args(Stage)}


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
    against
        The past windows that windows are compared with, whose counts are kept too.
    slice_ms
        Length of a slice, for the parts of windows; None: there are none.
    """

    def __init__(
        self,
        calendar: Calendar,
        partitions: int,
        grace_ms: int,
        maturity_ms: int | None,
        *,
        keep: int = 24,
        against: PastWindow | None = None,
        slice_ms: int | None = None,
    ) -> None:
        self._calendar = calendar
        self._against = against
        self._grace_ms = grace_ms
        self._maturity_ms = maturity_ms
        #: Closed windows whose counts are kept.
        self.keep = keep
        self.watermarks = Watermarks(partitions)
        #: The counts of the windows that are held.
        self.panes = Panes(calendar)
        self._windows: dict[Window, dict[str, Holding]] = {}
        self._frozen_before_ms: int | None = None
        self._floors: dict[tuple[str, int, Stage], int] = {}
        #: The counts of parts of the windows that are held, and of those before them.
        self.parts = WindowParts(calendar, slice_ms)
        #: When the stream began.
        self.start = StreamStart()
        self.n_too_late = 0
        #: Events that workers left unscored: they are in no window.
        self.n_unscored = 0

    @property
    def watermark_ms(self) -> int | None:
        """Event time of all partitions; None: some have never reported."""
        return self.watermarks.events_ms

    @property
    def label_watermark_ms(self) -> int | None:
        """As `watermark_ms`, for labels."""
        return self.watermarks.labels_ms

    @property
    def closed_before_ms(self) -> int | None:
        """Windows that end by then have closed; None: nothing has been read."""
        return None if self.watermark_ms is None else self.watermark_ms - self._grace_ms

    @property
    def settled_before_ms(self) -> int | None:
        """No window that starts before this will change any more; None: any may."""
        if self._frozen_before_ms is None:
            return None
        return min([self._frozen_before_ms, *(window.start_ms for window in self._windows)])

    def add(self, record: SketchRecord) -> None:
        """Merge a record of the sketches topic and move its partition's watermarks; those never go back."""
        self.watermarks.check(record.partition)
        for delta in record.deltas:
            self._merge(delta)
        self.n_unscored += record.unscored
        if record.unscored:
            since_ms = record.unscored_since_ms if record.unscored_since_ms is not None else record.watermark_ms
            self.start.add(since_ms, record.unscored)
        self.watermarks.report(record.partition, record.watermark_ms, record.label_watermark_ms)

    def closed(self) -> list[Window]:
        """List the closed windows whose counts are held, oldest first."""
        if self.watermark_ms is None:
            return []
        return sorted(window for window in self._windows if window.end_ms + self._grace_ms <= self.watermark_ms)

    @property
    def n_open(self) -> int:
        """Number of windows that hold counts and have not closed."""
        return len(self._windows) - len(self.closed())

    def is_mature(self, window: Window) -> bool:
        """Say whether labels have been applied far enough for the window's performance to be final."""
        if self._maturity_ms is None or self.label_watermark_ms is None:
            return False
        return window.end_ms + self._maturity_ms <= self.label_watermark_ms

    def raise_revisions(self, reported: Mapping[tuple[str, int, Stage], int]) -> None:
        """Report each window only under revisions above those reported before, as others know them.

        Parameters
        ----------
        reported
            Highest revision by version, start of the window, and what was told.
        """
        self._floors = dict(reported)
        for window, held in self._windows.items():
            for version, holding in held.items():
                self._raise(window, version, holding)

    def keep_reported(self, reported: Mapping[tuple[str, int, Stage], int]) -> None:
        """Leave alone the windows that were reported before and are not held: their counts cannot be made again."""
        held = {window.start_ms for window in self._windows}
        lost = [start_ms for _, start_ms, _ in reported if start_ms not in held]
        if lost:
            self._freeze(max(lost))

    def _raise(self, window: Window, version: str, holding: Holding) -> None:
        for stage, note in holding.items():
            note.revision = max(note.revision, self._floors.get((version, window.start_ms, stage), 0))

    def holdings(self, window: Window) -> list[tuple[str, Holding]]:
        """List what has been said of a window, by version."""
        return sorted(self._windows[window].items())

    def note_history(self, windows: Iterable[Window], stage: Stage) -> None:
        """What was reported of windows must be judged again: their past has changed."""
        for window in windows:
            for holding in self._windows[window].values():
                holding[stage].note_history()

    def drop_unsound(self, version: str, laws: CellLaws) -> int:
        """Drop what is held of a version outside of the cells of its reference; return of how many panes that was."""
        self.parts.drop_unsound(version, laws)
        unsound = self.panes.drop_unsound(version, laws)
        for pane in unsound:
            for window in self._calendar.windows_of(pane):
                held = self._windows.get(window, {})
                if not self.panes.counts(window, version):
                    held.pop(version, None)
                for holding in held.values():
                    holding["features"].is_changed = holding["labels"].is_changed = True
        return len(unsound)

    def forget_reported(self) -> None:
        """Forget the counts of old closed windows once everything about them has been reported."""
        closed = self.closed()
        for window in closed[: max(len(closed) - self.keep, 0)]:
            held = self._windows[window]
            is_final = self._maturity_ms is None or self.is_mature(window)
            for version, holding in list(held.items()):
                awaited = holding["features"].is_changed or (
                    holding["labels"].is_changed and self._maturity_ms is not None
                )
                if is_final and not awaited:
                    del held[version]
            if not held:
                del self._windows[window]
            self._freeze(window.start_ms)
        if self._frozen_before_ms is not None:
            self.panes.keep(self._is_needed)
            oldest = min(self._windows, default=self._calendar.window_at(self._frozen_before_ms))
            self.parts.prune(self._calendar.preceding(oldest).start_ms)

    def _is_needed(self, pane: Window) -> bool:
        """Whether a window that is held, or may still come, is made of a pane or compared with it."""
        windows = self._calendar.windows_of(pane)
        if any(window in self._windows or not self._is_frozen(window) for window in windows):
            return True
        if self._against is None:
            return False
        if self._against.start_ms is not None:
            return self._calendar.window_at(self._against.start_ms) in windows
        oldest = min(self._windows, default=None)
        return oldest is None or self._calendar.before(oldest, self._against).start_ms < pane.end_ms

    def _freeze(self, start_ms: int) -> None:
        before = self._frozen_before_ms
        self._frozen_before_ms = start_ms + 1 if before is None else max(before, start_ms + 1)

    def _is_frozen(self, window: Window) -> bool:
        return self._frozen_before_ms is not None and window.start_ms < self._frozen_before_ms

    def snapshot(self) -> bytes:
        """Give the whole state as bytes: equal states give equal bytes."""
        deltas = [*self.panes.to_deltas(), *self.parts.to_deltas()]
        notes = [
            [*window, version, {stage: asdict(note) for stage, note in holding.items()}]
            for window, held in sorted(self._windows.items())
            for version, holding in sorted(held.items())
        ]
        state = {
            "made_for": self._made_for(),
            **self.watermarks.to_state(),
            "frozen_before_ms": self._frozen_before_ms,
            "n_too_late": self.n_too_late,
            "n_unscored": self.n_unscored,
            "start": self.start.to_state(),
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
        self.watermarks.from_state(state)
        self._frozen_before_ms = state["frozen_before_ms"]
        self.n_too_late = state["n_too_late"]
        self.n_unscored = state["n_unscored"]
        self.start.from_state(state["start"])
        self.panes, self._windows = Panes(self._calendar), {}
        for delta in self.parts.take_deltas(decode_packed(body, SketchRecord).deltas):
            self.panes.add(delta)
        for start_ms, end_ms, version, holding in state["notes"]:
            self._windows.setdefault(Window(start_ms, end_ms), {})[version] = {
                stage: Note(**note) for stage, note in holding.items()
            }

    def _made_for(self) -> dict[str, Any]:
        return {
            **asdict(self._calendar),
            "partitions": self.watermarks.partitions,
            "grace_ms": self._grace_ms,
            "maturity_ms": self._maturity_ms,
            "against": asdict(self._against) if self._against is not None else None,
        }

    def _merge(self, delta: SketchDelta) -> None:
        pane = self._calendar.pane_at(delta.slice_start_ms)
        windows = [
            window
            for window in self._calendar.windows_of(pane)
            if not self._is_frozen(window) or delta.version in self._windows.get(window, {})
        ]
        if not windows:
            self.n_too_late += delta.n if delta.segment == ALL else 0
            return
        if delta.n and delta.segment == ALL:
            self.start.add(delta.slice_start_ms, delta.n)
        self.panes.add(delta)
        self.parts.add(delta)
        for window in windows:
            held = self._windows.setdefault(window, {})
            if delta.version not in held:
                held[delta.version] = nothing_said()
                held[delta.version]["features"].is_changed = True
                self._raise(window, delta.version, held[delta.version])
            held[delta.version]["labels"].is_changed = True
            if delta.n:  # what is said of a version depends on who else scored in the window
                for holding in held.values():
                    holding["features"].is_changed = holding["labels"].is_changed = True
