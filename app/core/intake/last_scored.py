"""When each version last scored an event of a partition: after that, late labels say nothing about it.

Labels that come after maturity are mostly of one outcome (a charge-back). While a version scores they are few
among the others. When it has been replaced they are all that still comes, and would look like a change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from app.core.intake.merge import BEGINNING_MS
from app.core.intake.pending import REJECTED

if TYPE_CHECKING:
    from app.core.batches import Ints

#: What stands for a version where events have no score.
_NOBODY = {"", REJECTED}
#: Start and stop of each stretch of events of one version.
Versions = list[tuple[int, int, str]]


@dataclass(eq=False)
class LastScored:
    """Effective times, by version.

    Parameters
    ----------
    maturity_ms
        A label that comes this much later than its event is late. For a version that others have followed, late labels
        count for this long after its last event. 0: all count; nobody has said when labels come.
    """

    maturity_ms: int
    times_ms: dict[str, int] = field(default_factory=dict)
    _versions: Versions = field(default_factory=list)
    _event_times_ms: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _stretch: int = 0

    def begin(self, versions: Versions, times_ms: Ints) -> None:
        """Begin a run of events: its stretches of one version each, and their effective times."""
        self._versions, self._event_times_ms, self._stretch = versions, times_ms, 0

    def come_to(self, before: int) -> None:
        """Note the events of the run before this one; in the order of the run."""
        while self._stretch < len(self._versions):
            start, stop, version = self._versions[self._stretch]
            if start >= before:
                return
            if version not in _NOBODY:
                self.times_ms[version] = int(self._event_times_ms[min(stop, before) - 1])
            if stop > before:
                return
            self._stretch += 1

    def counts(self, at_ms: int, version: str, before: int) -> bool:
        """Whether a late label counts as a decision of a version that was right or wrong.

        Parameters
        ----------
        at_ms, version
            Effective time of the label, and the version that scored its event.
        before
            The event of the run before which it is applied; never an earlier one than for the label before it.
        """
        self.come_to(before)
        of_version = self.times_ms.get(version, BEGINNING_MS)
        of_all = max(self.times_ms.values(), default=BEGINNING_MS)
        return not self.maturity_ms or of_version == of_all or at_ms <= of_version + self.maturity_ms

    def to_state(self, since_ms: int) -> dict[str, int]:
        """What still matters of it when no label is from before ``since_ms``."""
        least_ms = since_ms - self.maturity_ms
        self.times_ms = {name: at_ms for name, at_ms in sorted(self.times_ms.items()) if at_ms >= least_ms}
        return self.times_ms

    def from_state(self, state: dict[str, Any]) -> None:
        self.times_ms = dict(state)
