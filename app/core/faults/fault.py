"""A pipeline fault as a value, and how its shares are said."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

FaultKind = Literal[
    "columns_displaced",
    "columns_swapped",
    "unit_changed",
    "constant",
    "missing_values",
    "missing_values_filled",
    "clipped",
    "stand_in_value",
    "out_of_range",
    "infinite_values",
    "vocabulary_changed",
    "category_vanished",
    "traffic_missing",
    "traffic_doubled",
    "traffic_surged",
    "labels_missing",
]


@dataclass(frozen=True)
class Fault:
    """What seems to be wrong upstream.

    Parameters
    ----------
    kind
        Of fault.
    metrics
        Those concerned, in signature order; of traffic: the segment, or none for all events.
    sentence
        For a person.
    strength
        In (0, 1]: how far from what training says, as a share of events or of a distance between shares. So it is
        about the share of events that are concerned, and less where some are so in training.
    sources
        For displaced columns: the metric of training whose values each of ``metrics`` holds; "" where the values are
        those of none.
    fields
        What ``metrics`` are made of, as whoever sends the events knows it: fields, and columns of lookups.
    """

    kind: FaultKind
    metrics: tuple[str, ...]
    sentence: str
    strength: float
    sources: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


def listed(names: Sequence[str]) -> str:
    """`a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def percent(share: float) -> str:
    """A share in words: 0 %, 0.03 %, 4.2 %, 31 %, 100 %; a share below 1 is never said to be 100 %.

    >>> [percent(share) for share in (0, 0.0003, 0.042, 0.3149, 0.9997, 1)]
    ['0 %', '0.03 %', '4.2 %', '31 %', '99.97 %', '100 %']
    """
    hundredths = 100 * share
    small = min(hundredths, 100 - hundredths)
    if small <= 0 or hundredths <= 0:
        return "0 %" if hundredths <= 0 else "100 %"
    digits = 0 if small >= 10 else 1 if small >= 1 else min(2 - math.ceil(math.log10(small) + 1e-9), 6)
    rounded = f"{hundredths:.{digits}f}"
    return f"{rounded.rstrip('0').rstrip('.') if '.' in rounded else rounded} %"
