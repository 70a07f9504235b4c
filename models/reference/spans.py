"""Where in the detection windows of a pipeline events lie, and over how many windows its features carry the past."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from models.reference.dependence import Span
from schemas.pipeline.feature_reads import features_read
from schemas.pipeline.toml_table import parse_duration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from schemas.pipeline.spec import Pipeline

#: Of the Gregorian calendar.
MEAN_MONTH_MS = 30.436875 * 86_400_000


def span_of(pipeline: Pipeline, event_time_ms: NDArray[np.int64]) -> Span:
    """The detection window of each event (times ascend), overlapping ones taken end to end, and its place in it."""
    size_ms = parse_duration(pipeline.drift.window)
    if size_ms is None:
        months = event_time_ms.astype("M8[ms]").astype("M8[M]")
        edges = months, months + np.timedelta64(1, "M")
        starts, ends = (edge.astype("M8[ms]").astype(np.int64) for edge in edges)
        return Span(months.astype(np.int64), (event_time_ms - starts) / (ends - starts))
    return Span(event_time_ms // size_ms, event_time_ms % size_ms / size_ms)


def memories_of(pipeline: Pipeline) -> list[float]:
    """How many detection windows the longest window that each feature is made of spans; 0: it is made of none."""
    windows = {feature.name: feature.window for feature in pipeline.features}
    reads = features_read(pipeline)
    length_ms = parse_duration(pipeline.drift.window) or MEAN_MONTH_MS

    @cache
    def longest_ms(name: str) -> int:
        window = windows[name]
        return max([window.size_ms if window is not None else 0, *(longest_ms(read) for read in reads[name])])

    return [longest_ms(name) / length_ms for name in windows]
