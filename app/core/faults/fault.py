"""A pipeline fault as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
        In (0, 1]: how far from what training says, as a share of events or of a distance between shares.
    sources
        For displaced columns: the metric of training whose values each of ``metrics`` holds; "" where the values are
        those of none.
    """

    kind: FaultKind
    metrics: tuple[str, ...]
    sentence: str
    strength: float
    sources: tuple[str, ...] = ()
