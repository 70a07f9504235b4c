"""Too many events or too few: a window's number of events against those of past windows.

Weekends and nights have fewer events, and that is no fault. A window is compared with those of the same time of the
week where five of them are known. Until then it must be far from all past windows, from those few (or from those of the
same time of the day) and from what the hours of training promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from app.core.faults.fault import Fault
from models.reference.error_hours import HOUR_MS, HOURS, hours_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from app.core.batches import Floats, Ints
    from app.core.counts.calendar import Window

_FEWEST_WINDOWS = 5
#: No spread of the past is believed to be smaller: ten percent.
_LEAST_SPREAD = 0.1
_SPREADS = 5.0
#: And the number has to be at least this many times the usual, or at most this part of it.
_MORE = 1.7
_FEWER = 0.5
#: Where this many are usual, none at all is less probable than one in a million; where fewer are, it may be chance.
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
        Of those of the same season, where they are fewer than five.
    segments, segments_now
        Past windows' and this window's, by name of segment.
    promised
        How many events the hours of training promise for this window and for the past ones, in any unit; nought:
        nobody knows. Only asked where the number of events is far from the usual.
    """

    n: int
    past: Sequence[int] = ()
    season: Sequence[int] = ()
    segments: Mapping[str, Sequence[int]] = field(default_factory=dict)
    segments_now: Mapping[str, int] = field(default_factory=dict)
    promised: Callable[[], tuple[float, Sequence[float]]] = lambda: (0.0, ())


def of_same_season(window: Window, past: Sequence[Window]) -> list[Window]:
    """The past windows of the same time of the week; where there are none, those of the same time of the day.

    Examples
    --------
    >>> from app.core.counts.calendar import Window
    >>> def at(hour: int) -> Window:
    ...     return Window(hour * HOUR_MS, (hour + 6) * HOUR_MS)
    >>> of_same_season(at(48), [at(24), at(30)]) == [at(24)]
    True
    >>> of_same_season(at(168), [at(0), at(144)]) == [at(0)]
    True
    """
    for hours in (HOURS, 24):
        same = [earlier for earlier in past if (window.start_ms - earlier.start_ms) % (hours * HOUR_MS) == 0]
        if same:
            return same
    return []


def choose_past(window: Window, past: list[Window]) -> list[Window]:
    """The past windows that one is compared with: those of the same time of the week where there are enough."""
    same = [earlier for earlier in past if (window.start_ms - earlier.start_ms) % (HOURS * HOUR_MS) == 0]
    return same if len(same) >= _FEWEST_WINDOWS else past


def events_by_hour(events: Ints, training: Window) -> Floats:
    """Events of training per hour of the week, by how often that hour was in it."""
    times = np.arange(training.start_ms, training.end_ms, HOUR_MS)
    return events / np.maximum(np.bincount(hours_of(times), minlength=HOURS), 1)


def events_due(by_hour: Floats, window: Window) -> float:
    """How many events hours like these have in a window.

    Examples
    --------
    An hour and a half, from half an hour past midnight of a Thursday on.

    >>> from app.core.counts.calendar import Window
    >>> by_hour = np.zeros(HOURS)
    >>> by_hour[72], by_hour[73] = 10, 4
    >>> events_due(by_hour, Window(1_800_000, 7_200_000))
    9.0
    """
    first = window.start_ms // HOUR_MS
    starts = np.arange(first, -(-window.end_ms // HOUR_MS)) * HOUR_MS
    parts = (np.minimum(starts + HOUR_MS, window.end_ms) - np.maximum(starts, window.start_ms)) / HOUR_MS
    return float(by_hour[hours_of(starts)] @ parts)


def find_in_traffic(traffic: Traffic, events: str = "events") -> list[Fault]:
    """Find missing or doubled traffic, of all events or, where that is as usual, of a segment.

    The usual number is the median of the past; the spread, of the logarithm, that of the median absolute deviation. A
    fault is five spreads away and at least 1.7 times the usual or at most half of it. Fewer than five past windows say
    nothing. ``events``: what they are called, in the plural.
    """
    past = traffic.past
    fault = _judge(traffic.n, past, "", 1.0, events)
    if fault is not None and not _is_of_season(traffic, fault):
        return [fault]
    usual = _usual(past)
    overall = traffic.n / usual if usual else 1.0
    judged = [
        _judge(traffic.segments_now.get(name, 0), numbers, name, overall, events)
        for name, numbers in traffic.segments.items()
    ]
    return [fault for fault in judged if fault is not None]


def _is_of_season(traffic: Traffic, fault: Fault) -> bool:
    """Whether the time of the week explains a number that is far from that of past windows."""
    is_missing = fault.kind == "traffic_missing"
    if traffic.season:
        times = traffic.n / max(_usual(traffic.season), 1.0)
        if times > _FEWER if is_missing else times < _MORE:
            return True
    promised, of_past = traffic.promised()
    known = [promised * n / due for n, due in zip(traffic.past, of_past, strict=False) if due > 0]
    if promised <= 0 or len(known) < _FEWEST_WINDOWS:
        return False
    again = _judge(traffic.n, np.rint(known).astype(np.int64).tolist(), "", 1.0, "")
    return again is None or (again.kind == "traffic_missing") != is_missing


def _usual(past: Sequence[int]) -> float:
    return float(median(past)) if past else 0.0


def _judge(n: int, past: Sequence[int], segment: str, overall: float, events: str) -> Fault | None:
    """Judge a number of events, beside how many times the usual number all events are (``overall``)."""
    if len(past) < _FEWEST_WINDOWS:
        return None
    usual = _usual(past)
    if n == 0 and usual < _NONE_BY_CHANCE:
        return None
    logs = np.log(np.asarray(past, np.float64) + 0.5)
    middle = median(logs.tolist())
    chance = 1 / max(usual, 1.0) + 1 / (n + 0.5) if n else 1 / max(usual, 1.0)
    spread = math.hypot(max(_DEVIATIONS * median(np.abs(logs - middle).tolist()), _LEAST_SPREAD), math.sqrt(chance))
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
