"""When each version last scored an event of a partition: after that, late labels say nothing of it.

Labels that come later than mature are of one outcome as a rule (a charge-back). While a version scores they are few
among the others. When it has been replaced they are all that still comes, and would look like a change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from app.core.merge import BEGINNING_MS
from app.core.pending import REJECTED

if TYPE_CHECKING:
    from app.core.batches import Ints

#: Of events without a score.
_NOBODY = {"", REJECTED}
#: Start and stop of each stretch of events of one version.
Versions = list[tuple[int, int, str]]


@dataclass(eq=False)
class LastScored:
    """Effective times, by version.

    Parameters
    ----------
    maturity_ms
        How much later than its event a label is late, and how long after the last event of a version that others have
        followed late labels count. 0: none is late; nobody has said when labels come.
    """

    maturity_ms: int
    times_ms: dict[str, int] = field(default_factory=dict)

    def counts(self, at_ms: int, event_ms: int, version: str, before: int, versions: Versions, times_ms: Ints) -> bool:  # noqa: PLR0917  # a label, and the run in which it lies
        """Whether a label counts as a decision of a version that was right or wrong.

        Parameters
        ----------
        at_ms, event_ms, version
            Effective time of the label, the time of its event, and who scored that.
        before
            The event of the run before which the label is applied.
        versions, times_ms
            Of the run's events.
        """
        if at_ms <= event_ms + self.maturity_ms or not self.maturity_ms:
            return True
        of_version = self.times_ms.get(version, BEGINNING_MS)
        of_all = max(self.times_ms.values(), default=BEGINNING_MS)
        for start, stop, scorer in versions:
            if scorer not in _NOBODY and start < before:
                of_all = int(times_ms[min(stop, before) - 1])
                of_version = of_all if scorer == version else of_version
        return of_version == of_all or at_ms <= of_version + self.maturity_ms

    def note(self, versions: Versions, times_ms: Ints) -> None:
        """Note the events of a run."""
        for _, stop, version in versions:
            if version not in _NOBODY:
                self.times_ms[version] = int(times_ms[stop - 1])

    def to_state(self, since_ms: int) -> dict[str, int]:
        """What matters of it, when no label is from before ``since_ms``."""
        least_ms = since_ms - self.maturity_ms
        self.times_ms = {name: at_ms for name, at_ms in sorted(self.times_ms.items()) if at_ms >= least_ms}
        return self.times_ms

    def from_state(self, state: dict[str, Any]) -> None:
        self.times_ms = dict(state)
