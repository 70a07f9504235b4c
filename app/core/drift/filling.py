"""Features that are still filling: windows at the beginning of a stream, and all that is made of them.

A window of 30 days knows ten days on the tenth day. Its values are then unlike those of training, and nothing is wrong.
It is full once the stream is as old as the window: its size, the delay of one that partitions share, and for a window
over labels the time that labels take, too (``performance.maturity``: by then a person takes labels for complete;
``labels.horizon`` is the longest that any may take, and mostly far more).

An entity that comes later begins with empty windows on any day: training has had such, too, and nothing is said of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from schemas.pipeline.feature_reads import features_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.core.counts.calendar import Window
    from schemas.pipeline.spec import Feature, Pipeline

#: What concerns so small a part of a window moves none of its shares by more.
_NEGLIGIBLE = 1 / 200


class Filling(NamedTuple):
    """A feature that is not what it will be until then."""

    metric: str
    until_ms: int

    @property
    def until(self) -> str:
        """The time in words: a day where it is midnight."""
        time = str(np.datetime64(self.until_ms, "ms").astype("M8[m]")).replace("T", " ")
        return time.removesuffix(" 00:00")

    @property
    def words(self) -> str:
        """The beginning of a sentence.

        >>> Filling("fraud_30d", 1_772_496_000_000).words
        '`fraud_30d` is filling until 2026-03-03'
        """
        return f"`{self.metric}` is filling until {self.until}"


class FillTimes:
    """How long each feature takes to fill, from the start of the stream on.

    Parameters
    ----------
    pipeline
        Whose features these are.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._label_ms = pipeline.performance.maturity_ms if pipeline.labels is not None else 0
        self._features = {feature.name: feature for feature in pipeline.features}
        self._reads = features_read(pipeline)
        self._times: dict[str, int] = {}
        for name in self._features:
            self._fill(name)

    @property
    def longest_ms(self) -> int:
        """Until all features are full; 0: they are so at once."""
        return max(self._times.values(), default=0)

    def filling(self, metrics: Sequence[str], window: Window, stream_start_ms: int | None) -> list[Filling]:
        """List the features among some metrics that are filling in more than a 200th of a window's time."""
        if stream_start_ms is None:
            return []
        begins_ms = max(window.start_ms, stream_start_ms)
        full_ms = begins_ms + (window.end_ms - begins_ms) * _NEGLIGIBLE
        until = (Filling(name, stream_start_ms + self._times.get(name, 0)) for name in metrics)
        return [filling for filling in until if filling.until_ms > full_ms]

    def _fill(self, name: str) -> int:
        if name not in self._features:
            return 0
        if name not in self._times:
            of_others = (self._fill(other) for other in self._reads[name] if other != name)
            self._times[name] = self._own_ms(self._features[name]) + max(of_others, default=0)
        return self._times[name]

    def _own_ms(self, feature: Feature) -> int:
        window = feature.window
        if window is None:
            return 0
        return window.size_ms + (window.delay_ms or 0) + (self._label_ms if window.of == "labels" else 0)


def say_of_training(filling: Sequence[Filling], newest_ms: int) -> list[str]:
    """Say of the features that were filling at the beginning of a model's events what to do; nothing where none was.

    Parameters
    ----------
    newest_ms
        The time of the newest event that is learnt from.

    Examples
    --------
    >>> some = [Filling("paid_7d", 1_770_508_800_000), Filling("fraud_30d", 1_772_496_000_000)]
    >>> say_of_training(some, 1_775_000_000_000)[0][:88]
    'Windows are empty where the events begin: `fraud_30d` is filling until 2026-03-03, 1 oth'
    """
    if not filling:
        return []
    last, *others = sorted(filling, key=lambda each: -each.until_ms)
    more = f", {len(others)} other feature{'s' * (len(others) > 1)} no longer than that" if others else ""
    if last.until_ms <= newest_ms:
        advice = f"have --from be {last.until.replace(' ', 'T')}, or give events from earlier on"
    else:
        advice = (
            "none of the events that are learnt from is later: give events from earlier on, or have --to end later and"
            f" --from be {last.until.replace(' ', 'T')}"
        )
    sentence = (
        f"Windows are empty where the events begin: {last.words}{more}. What is learnt from such events does not hold"
        f" for later ones: {advice}."
    )
    return [sentence]
