"""Too many events or too few: a window's number of events against those of past windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from app.core.faults.fault import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FEWEST_WINDOWS = 5
#: No spread of the past is believed to be smaller: ten percent.
_LEAST_SPREAD = 0.1
_SPREADS = 5.0
#: And the number has to be this much beyond the usual, or this part of it.
_MORE = 1.7
_FEWER = 0.5
#: Where so many are usual, none at all is less probable than one in a million; where fewer are, it may be chance.
_NONE_BY_CHANCE = 14
_DOUBLE = (1.8, 2.25)
#: Median absolute deviation to standard deviation, of a normal law.
_DEVIATIONS = 1.4826


@dataclass(frozen=True)
class Traffic:
    """Numbers of events of a window and of past ones, whichever version scored them.

    Parameters
    ----------
    n
        Of this window.
    past
        Of the windows before this one, of all events.
    season
        Of past windows of the same season (the same hour of the week, say), where these are known; they are taken
        instead of ``past`` when there are enough.
    segments, segments_now
        Past windows' and this window's, by name of segment.
    """

    n: int
    past: Sequence[int] = ()
    season: Sequence[int] = ()
    segments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    segments_now: Mapping[str, int] = field(default_factory=dict)


def find_in_traffic(traffic: Traffic, events: str = "events") -> list[Fault]:
    """Find missing or doubled traffic, of all events or, where that is as usual, of a segment.

    The usual number is the median of the past; the spread, of the logarithm, that of the median absolute deviation. A
    fault is five spreads away and at least 1.7 times the usual or at most half of it. Fewer than five past windows say
    nothing. ``events``: what they are called, in the plural.
    """
    past = traffic.season if len(traffic.season) >= _FEWEST_WINDOWS else traffic.past
    found = _judge(traffic.n, past, "", 1.0, events)
    if found is not None:
        return [found]
    usual = _usual(past)
    overall = traffic.n / usual if usual else 1.0
    judged = [
        _judge(traffic.segments_now.get(name, 0), numbers, name, overall, events)
        for name, numbers in traffic.segments.items()
    ]
    return [fault for fault in judged if fault is not None]


def _usual(past: Sequence[int]) -> float:
    return float(np.median(np.asarray(past, np.float64))) if len(past) else 0.0


def _judge(n: int, past: Sequence[int], segment: str, overall: float, events: str) -> Fault | None:
    """``overall``: how many times the usual all events are; a segment is judged beside that."""
    if len(past) < _FEWEST_WINDOWS:
        return None
    usual = _usual(past)
    if n == 0 and usual < _NONE_BY_CHANCE:
        return None
    logs = np.log(np.asarray(past, np.float64) + 0.5)
    middle = float(np.median(logs))
    chance = 1 / max(usual, 1.0) + 1 / (n + 0.5) if n else 1 / max(usual, 1.0)
    spread = math.hypot(max(_DEVIATIONS * float(np.median(np.abs(logs - middle))), _LEAST_SPREAD), math.sqrt(chance))
    away = (math.log(n + 0.5) - middle - math.log(max(overall, 1e-9))) / spread
    times = n / usual / max(overall, 1e-9) if usual else math.inf
    where = f" of {segment}" if segment else ""
    metrics = (segment,) if segment else ()
    against = f"{n} {events}{where} where {usual:.0f} are usual"
    if away <= -_SPREADS and times <= _FEWER:
        start = f"No {events}{where} where {usual:.0f} are usual" if n == 0 else f"Only {against}"
        return Fault("traffic_missing", metrics, f"{start}: some do not arrive.", min(1.0, 1 - times))
    if away >= _SPREADS and times >= _MORE and usual >= 1:
        if _DOUBLE[0] <= times <= _DOUBLE[1]:
            return Fault("traffic_doubled", metrics, f"{against}, twice as many: each may come twice.", 0.5)
        return Fault("traffic_surged", metrics, f"{against}, {times:.2g} times as many.", 1 - 1 / times)
    return None
