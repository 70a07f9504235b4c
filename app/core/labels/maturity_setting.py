"""Whether `performance.maturity`, as the pipeline file has it, is as long as labels take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from app.core.counts.delay_law import say_ms

if TYPE_CHECKING:
    from app.core.counts.delay_law import DelayLaw

#: The share of either label that must have come by the maturity.
ENOUGH = 0.99
#: Standard errors that a share may fall short by chance.
_CHANCE = 2.0
#: A maturity so many times as long as needed is called too long.
_TOO_LONG = 4.0
_HOUR_MS = 3_600_000


def maturity_warnings(law: DelayLaw, maturity_ms: int, horizon_ms: int) -> list[str]:
    """Sentences on a maturity that is too short for the law, or longer than it need be."""
    too_short = say_too_short(law, maturity_ms, horizon_ms)
    needed_ms = _needed_ms(law)
    if too_short or not (maturity_ms > _TOO_LONG * needed_ms and maturity_ms - needed_ms > _HOUR_MS):
        return too_short
    sentence = (
        f"99 % of the labels come within {say_ms(needed_ms)}, and performance.maturity is {say_ms(maturity_ms)}: a"
        " shorter one would judge windows sooner, and let newer events be learnt from."
    )
    return [sentence]


def say_too_short(law: DelayLaw, maturity_ms: int, horizon_ms: int) -> list[str]:
    """A sentence for each label of which fewer than 99 % have come by the maturity, surely."""
    said = []
    for label in (1, 0):
        if not law.is_known(label):
            continue
        share = float(law.arrived(label, np.array([float(maturity_ms)]))[0])
        slack = _CHANCE * math.sqrt(ENOUGH * (1 - ENOUGH) / law.n[label])
        if share < ENOUGH - slack:
            most_ms = law.within_ms(label, ENOUGH)
            said.append(
                f"By performance.maturity ({say_ms(maturity_ms)}) {share:.1%} of the labels {label} have come; 99 %"
                f" have within {say_ms(most_ms)}"
                + (
                    ", the greatest age that was seen, so it may be more"
                    if law.is_still_coming(label, horizon_ms)
                    else ""
                )
                + f": set performance.maturity to at least that{_and_horizon(most_ms, horizon_ms)}."
            )
    return said


def _needed_ms(law: DelayLaw) -> float:
    return float(np.maximum(law.within_ms(0, ENOUGH), law.within_ms(1, ENOUGH)))


def _and_horizon(most_ms: float, horizon_ms: int) -> str:
    return " and labels.horizon to more" if most_ms > 0.95 * horizon_ms else ""
