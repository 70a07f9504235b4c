"""Which version scored before a new one, and whether it did better. A verdict needs this to advise a roll back.

Versions score one after another, so two of them never score the same events: a swap divides the window in which it
happens, and other windows have one version each. So the AUC of a version on its events is compared with that of another
version on other events. But the AUC changes from window to window without any swap (seasons, weather). Past windows say
by how much: by the steps of the AUC from one window to the next one that the same version scored. The former version
did better only if the difference is more than chance *and* such steps explain.

The *server* of a window is the version that scored most of its events. The former version is the server of the last
window that the new version did not serve. It is judged by its part of the same window, or else by the last window that
it served.

Limits. With few past windows, or an AUC that goes up and down, only a large difference counts: better versions are
missed. And parts of one window may differ by more than whole windows do (a swap at noon, where evenings are harder to
predict). No count of a window shows that, so a difference may be overrated.
"""

from __future__ import annotations

import math
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from scipy.special import stdtr

from app.core.counts.calendar import Window
from app.core.drift.silences import server
from app.core.performance.measures import auc, hanley_mcneil_variance
from app.core.verdict.situation import Predecessor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.reference.reference import Counts

#: A version is new for this many windows, its first one included.
NEW = 5
#: With fewer labels of either kind, the chance in an AUC is not known.
_FEWEST_OF_EITHER = 10


class Record(NamedTuple):
    """How one version did in one window: events, labels, their AUC, and how many labels count as one."""

    n: int
    n_positive: int
    n_negative: int
    area: float
    design_effect: float


class Succession:
    """The records of past windows with mature labels.

    Parameters
    ----------
    fewest
        Labels below which a record is not compared.
    """

    def __init__(self, fewest: int) -> None:
        self._fewest = fewest
        self._records: dict[Window, dict[str, Record]] = {}

    def remember(self, window: Window, version: str, counts: Counts, design_effect: float) -> None:
        """Keep, or replace, how a version did; ``design_effect``: how many of its labels count as one."""
        n_negative, n_positive = (int(n) for n in counts.outcomes.sum(axis=1))
        record = Record(counts.n, n_positive, n_negative, auc(counts.outcomes), design_effect)
        self._records.setdefault(window, {})[version] = record

    def predecessor(self, version: str, window: Window, past: Sequence[Window]) -> Predecessor | None:
        """Find the version before, and how sure it is that the two differ.

        Parameters
        ----------
        past
            The windows before that overlap neither this one nor each other, oldest first.

        Returns
        -------
        None where the version is not new, or where too little is known to compare.
        """
        records = [self._records.get(earlier, {}) for earlier in (*past, window)]
        servers = [server({version: record.n for version, record in of_window.items()}) for of_window in records]
        age = 1 + len(list(takewhile(version.__eq__, reversed(servers[:-1]))))
        if age > NEW or age == len(records):
            return None
        former = servers[-1 - age]
        ago = next(
            (
                ago
                for ago, (of_window, server) in enumerate(zip(reversed(records), reversed(servers), strict=True))
                if self._is_enough(of_window.get(former)) and (ago == 0 or server == former)
            ),
            None,
        )
        if ago is None or not self._is_enough(records[-1].get(version)):
            return None
        p_value = compare(records[-1][version], records[-1 - ago][former], self._steps(records, servers), max(ago, 1))
        return Predecessor(former, records[-1 - ago][former].area, p_value, ago)

    def _steps(self, records: list[dict[str, Record]], servers: list[str]) -> list[float]:
        return [
            later[server].area - earlier[server].area
            for (earlier, later), server in zip(pairwise(records), servers[1:], strict=True)
            if self._is_enough(earlier.get(server)) and self._is_enough(later.get(server))
        ]

    def _is_enough(self, record: Record | None) -> bool:
        if record is None:
            return False
        fewer, more = sorted((record.n_positive, record.n_negative))
        return fewer + more >= self._fewest and fewer >= _FEWEST_OF_EITHER

    def prune(self, keep: int) -> None:
        """Forget all but the newest windows."""
        for window in sorted(self._records)[:-keep]:
            del self._records[window]

    def to_state(self) -> list[Any]:
        return [
            [window.start_ms, window.end_ms, dict(sorted(held.items()))]
            for window, held in sorted(self._records.items())
        ]

    def from_state(self, state: list[Any]) -> None:
        self._records = {
            Window(start_ms, end_ms): {version: Record(*record) for version, record in held.items()}
            for start_ms, end_ms, held in state
        }


def compare(one: Record, other: Record, steps: Sequence[float], windows_apart: int) -> float:
    """Test whether two versions do equally well, each on its own events.

    Parameters
    ----------
    steps
        Changes of the AUC from one window to the next, of one version each.
    windows_apart
        From the one record to the other, at least 1; a change that goes on in one direction grows with it.

    Returns
    -------
    The two-sided p-value of so large a difference. When both are as good it is below alpha with a probability of at
    most about alpha: the variance of the difference is that of both AUCs (Hanley and McNeil's, at their common value,
    times the design effects) and, as well, the mean square of the steps, though these have chance in them, too; and
    its quantiles are Student's. NaN without steps: then the difference of windows is not known.

    Notes
    -----
    Steps that share a window are not independent. Of k of them, when windows vary by chance alone, the mean square has
    the variance of 2 k² / (3 k - 1) degrees of freedom (from the trace of the square of their covariance matrix).

    Examples
    --------
    An AUC of 0.70 after 0.80, of which chance explains little (10 000 labels) and steps of 0.02 no more:

    >>> before, now = (Record(10_000, 5_000, 5_000, area, 1.0) for area in (0.8, 0.7))
    >>> compare(now, before, [0.02, -0.02] * 5, 1) < 0.01
    True
    >>> compare(now, before, [0.1, -0.1] * 5, 1) > 0.3  # but it often changes as much
    True
    """
    if not steps:
        return math.nan
    labels = [record.n_positive + record.n_negative for record in (one, other)]
    common = (one.area * labels[0] + other.area * labels[1]) / sum(labels)
    variance = windows_apart**2 * math.fsum(step**2 for step in steps) / len(steps)
    for record in (one, other):
        variance += record.design_effect * hanley_mcneil_variance(common, record.n_positive, record.n_negative)
    if variance == 0:
        return 1.0  # both AUCs are 0 or 1
    degrees = 2 * len(steps) ** 2 / (3 * len(steps) - 1)
    return float(2 * stdtr(degrees, -abs(one.area - other.area) / math.sqrt(variance)))
