"""Why metrics of a version are not compared in a window: others scored the rest of it, or windows are still filling.

A swap reaches each partition at an event time of its own, so that in its windows each version has seen some entities
and not others: categories seem to be gone, and features to have moved. A version is therefore compared in windows that
are its own, but for a few late events of another: so few that they move no share by more than half of its chance error.

The score is made of all features, so while one of them is filling it is not compared either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.core.drift.filling import Filling
    from models.reference.reference import MetricCells


@dataclass(frozen=True)
class Silence:
    """What keeps the metrics of a version from being compared in one window.

    Parameters
    ----------
    version
        Its name.
    is_shared
        Whether other versions scored a part of the window that matters.
    filling
        The version's features that are not yet what they were in training.
    """

    version: str = ""
    is_shared: bool = False
    filling: Sequence[Filling] = ()

    def __bool__(self) -> bool:
        return self.is_shared or bool(self.filling)

    @property
    def last(self) -> Filling:
        """Of the features that are filling, the one that takes longest."""
        return max(self.filling, key=lambda each: each.until_ms)

    def notes(self, metrics: Sequence[MetricCells], rows: Sequence[int]) -> dict[int, str]:
        """Say why each of these metrics is not compared, if it is not."""
        if self.is_shared:
            why = f"version {self.version} scored only part of this window: compared in windows of its own"
            return dict.fromkeys(rows, why)
        words = {window.metric: window.words for window in self.filling}
        if words:
            words |= {
                metric.name: f"made of features: {self.last.words}" for metric in metrics if metric.kind == "score"
            }
        return {row: words[metrics[row].name] for row in rows if metrics[row].name in words}


NOTHING_SILENT = Silence()


def is_shared(version: str, numbers: Mapping[str, int]) -> bool:
    """Whether so much of a window was scored by others that a version is not compared in it.

    Parameters
    ----------
    numbers
        Events of the window by version.

    Examples
    --------
    >>> is_shared("1", {"1": 10_000, "2": 25}), is_shared("1", {"1": 10_000, "2": 26}), is_shared("2", {"1": 9, "2": 3})
    (False, True, True)
    """
    others = sum(numbers.values()) - numbers.get(version, 0)
    return others > math.sqrt(numbers.get(version, 0)) / 4


def server(numbers: Mapping[str, int]) -> str:
    """The version that scored most of a window's events, the first by name among equals; "" where there is none."""
    return min(numbers, key=lambda version: (-numbers[version], version), default="")
