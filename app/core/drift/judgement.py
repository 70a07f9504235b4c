"""What is to be judged of a window, and what is said of it, test by test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.core.batches import Ints
    from app.core.drift.over_time import Past

Signal = Literal["NONE", "WARNING", "DRIFT"]

#: Fewer independent events than this, on either side, are not tested.
FEWEST_INDEPENDENT = 30


@dataclass(frozen=True, eq=False)
class View:
    """What is to be judged of one window of a version.

    Parameters
    ----------
    segments
        Names of the S segments.
    rows
        The metrics that are judged.
    reference, detection
        Counts, S x metrics x cells (all metrics).
    past
        Of each segment: what is known of these metrics over time.
    alpha
        What of the budget may be spent.
    absence
        Why a segment has nothing to be compared with, should it have nothing.
    silent
        Why some of these metrics are not compared; they have no part in the budget.
    """

    segments: Sequence[str]
    rows: Sequence[int]
    reference: Ints
    detection: Ints
    past: Sequence[Past]
    alpha: float
    absence: str = ""
    silent: Mapping[int, str] = field(default_factory=dict)


class DriftResult(NamedTuple):
    """What one test says; None where it says nothing, and ``note`` why."""

    statistic: float | None
    p_value: float | None
    threshold: float | None
    effect: float | None
    signal: Signal
    note: str = ""


class Judgement(NamedTuple):
    """A verdict, what it is about, and how many events it rests on."""

    segment: str
    metric: str
    test: str
    n_reference: int
    n_detection: int
    verdict: DriftResult
