"""What reports say more than their numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from app.core.drift.judgement import FEWEST_INDEPENDENT

if TYPE_CHECKING:
    from app.core.batches import Ints
    from models.reference.reference import MetricCells

#: The tests whose reports say more than their numbers.
SAYING = frozenset({"null_rate", "unseen", "range"})


def say_power(design_effect: float, n: int, m: int, alpha: float) -> str:
    """Why so few events say nothing; where they are few because they resemble each other, what would be seen.

    A change of a share is sure from the distance on that Massart's inequality allows so many independent events, at
    what the window may spend on everything (``alpha``). ``n``, ``m``: events of the reference and of the window.
    """
    least = math.ceil(FEWEST_INDEPENDENT * design_effect)
    if design_effect <= 1:
        return f"too few events to judge: {least} are needed in both windows"
    apart = math.sqrt(math.log(2 / alpha) / 2 * (1 / n + 1 / m) * design_effect)
    seen = "no change of its shares" if apart >= 1 else f"only a change of its shares by {apart:.2g}"
    looks = f"{m / design_effect:.2g} independent looks a window"
    return f"hardly to be judged: {looks} ({least} events are needed in both windows); {seen} would be sure"


def say_counts(test: str, cells: MetricCells, reference: Ints, detection: Ints) -> str:
    """What a test in `SAYING` saw in the counts of a metric; "" for nothing."""
    if test == "null_rate":
        shares = (f"{int(counts[cells.size]) / max(int(counts.sum()), 1):.2%}" for counts in (detection, reference))
        return f"{' against '.join(shares)} missing"
    if test == "unseen":
        last = cells.size - 1
        shares = (
            f"{int(counts[last]) / max(int(counts[: cells.size].sum()), 1):.2%}" for counts in (detection, reference)
        )
        return f"{' against '.join(shares)} are none of its values"
    if test == "range" and len(cells.edges):
        below, above = int(detection[0]), int(detection[cells.size - 1])
        if below + above:
            return f"{below} below {cells.edges[0]:.4g}, {above} above {cells.edges[-1]:.4g} of training"
    return ""
