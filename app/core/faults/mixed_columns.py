"""Two columns have changed places in a share of the events: one of several producers mixes them up.

Each of the two is then a mixture of its own training and the other's, in one and the same share. No drift gives two
columns the same share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from app.core.faults.displaced import as_if
from app.core.faults.fault import Fault, percent
from app.core.faults.law import FEWEST_FOR_A_SHAPE
from app.core.faults.mixture import LEAST_SHARE, SURE, Mixtures, bounds, inner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.core.faults.law import Law
    from app.core.features.paths import Path

#: The two columns differ by at least this in the share below some point. If they were more alike, a new group of
#: customers could explain both.
_APART = 0.5
_DRIFT = 0.02


def find_mixed_swap(
    columns: Sequence[tuple[str, Law, Path]],
    window: Mapping[str, Law],
    effects: Mapping[str, float],
    events: str = "events",
) -> Fault | None:
    """Name two columns that have changed places in a share of the events; None where no two have.

    Parameters
    ----------
    columns
        Those that have moved: the name, what training says, and how it follows from its field.
    window
        What the window says of those that have values.
    effects
        How many events count as one, per column.
    events
        What events are called, in the plural.

    Returns
    -------
    Of several pairs the one that is farthest apart, as strong as the share.
    """
    names, training, paths = zip(*columns, strict=True) if columns else ((), (), ())
    rows = [
        row
        for row, name in enumerate(names)
        if name in window
        and len(window[name].points) >= 4
        and min(window[name].n, training[row].n) >= FEWEST_FOR_A_SHAPE
    ]
    mixtures = {}
    for row in rows if len(rows) > 1 else []:
        points = inner(window[names[row]])
        others = [bounds(as_if(paths, row, other, training[other]), points) for other in rows]
        low, high = (np.array(sides) for sides in zip(*others, strict=True))
        n = window[names[row]].n / max(effects[names[row]], 1.0)
        if n * LEAST_SHARE >= FEWEST_FOR_A_SHAPE:
            drift = np.full((len(rows), 1), _DRIFT)
            mixtures[row] = Mixtures(window[names[row]], training[row], low, high, n, drift)
    swaps: list[tuple[float, float, int, int]] = []
    for at, row in enumerate(rows):
        for at_other, other in enumerate(rows[:at]):
            if row not in mixtures or other not in mixtures:
                continue
            sides = ((mixtures[row], at_other), (mixtures[other], at))
            shares, errors, apart = (
                [float(getattr(mixture, name)[place]) for mixture, place in sides]
                for name in ("shares", "errors", "apart")
            )
            is_one = abs(shares[0] - shares[1]) <= SURE * math.hypot(*errors) + _DRIFT
            if is_one and min(apart) >= _APART and all(bool(mixture.are_near[place]) for mixture, place in sides):
                share = float(np.average(shares, weights=1 / np.square(errors)))
                swaps.append((min(apart), share, other, row))
    if not swaps:
        return None
    _, share, *places = max(swaps)
    first, second = (names[place] for place in places)
    words = f"have changed places in {percent(round(share, 2))} of the {events}"
    return Fault("columns_swapped", (first, second), f"`{first}` and `{second}` {words}.", share, (second, first))
