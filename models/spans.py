"""Where in the detection windows of a pipeline events lie, and how many windows its features carry the past."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from models.dependence import Span
from schemas.toml_table import parse_duration

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from schemas.pipeline import Feature, Pipeline

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)?")
_MONTH_MS = 30.436875 * 86_400_000


def span_of(pipeline: Pipeline, event_time_ms: NDArray[np.int64]) -> Span:
    """The detection window of each event (times ascend), overlapping ones taken end to end, and its place in that."""
    size_ms = parse_duration(pipeline.drift.window)
    if size_ms is None:
        months = event_time_ms.astype("M8[ms]").astype("M8[M]")
        starts, ends = (each.astype("M8[ms]").astype(np.int64) for each in (months, months + np.timedelta64(1, "M")))
        return Span(months.astype(np.int64), (event_time_ms - starts) / (ends - starts))
    return Span(event_time_ms // size_ms, event_time_ms % size_ms / size_ms)


def memories_of(pipeline: Pipeline) -> list[float]:
    """Of each feature: how many detection windows the longest window that it is made of spans; 0: of none."""
    features = {feature.name: feature for feature in pipeline.features}
    fields = {field.name for field in pipeline.events.fields}
    length_ms = parse_duration(pipeline.drift.window) or _MONTH_MS

    @cache
    def longest_ms(name: str) -> int:
        feature = features[name]
        own = feature.window.size_ms if feature.window is not None else 0
        return max([own, *(longest_ms(read) for read in _reads(feature) - fields if read in features)])

    return [longest_ms(name) / length_ms for name in features]


def _reads(feature: Feature) -> set[str]:
    """What a feature is made of: fields and features, and other words of an expression."""
    if feature.window is not None:
        return {feature.window.field} if feature.window.field is not None else set()
    return {*_NAME.findall(feature.expression or ""), *feature.arguments} - {feature.name}
