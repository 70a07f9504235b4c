"""Features of flights that are not expressions."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

FAR_DAYS = 7

_NEW_YORK = ZoneInfo("America/New_York")
_HOUR_MS = 3_600_000
_MONDAY, _THURSDAY = 0, 3


def days_to_holiday(event_time_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Days from the New York date of each event to the nearest US federal holiday.

    Returns
    -------
    Positive before the holiday, negative after it, 0 on the day; ±7 from a week on. Of two equally near, the one to
    come.
    """
    hours, hour = np.unique(event_time_ms // _HOUR_MS, return_inverse=True)
    dates = [dt.datetime.fromtimestamp(h * 3600, tz=_NEW_YORK).date() for h in hours.tolist()]
    if not dates:
        return np.zeros(0)
    years = range(min(dates).year - 1, max(dates).year + 2)
    holidays = np.array([day.toordinal() for year in years for day in us_holidays(year)])
    ordinals = np.array([date.toordinal() for date in dates])
    following = np.searchsorted(holidays, ordinals)
    to_next = holidays[following] - ordinals
    since_last = ordinals - holidays[following - 1]
    days = np.where(to_next <= since_last, np.minimum(to_next, FAR_DAYS), -np.minimum(since_last, FAR_DAYS))
    found: NDArray[np.float64] = days[hour].astype(np.float64)
    return found


def us_holidays(year: int) -> list[dt.date]:
    """The federal holidays of a year on their own dates, in order."""
    return [
        dt.date(year, 1, 1),
        _nth(year, 1, _MONDAY, 3),  # Martin Luther King
        _nth(year, 2, _MONDAY, 3),  # Washington
        _nth(year, 6, _MONDAY, 1) - dt.timedelta(days=7),  # Memorial Day: the last Monday of May
        dt.date(year, 7, 4),
        _nth(year, 9, _MONDAY, 1),  # Labor Day
        _nth(year, 10, _MONDAY, 2),  # Columbus
        dt.date(year, 11, 11),
        _nth(year, 11, _THURSDAY, 4),  # Thanksgiving
        dt.date(year, 12, 25),
    ]


def _nth(year: int, month: int, weekday: int, n: int) -> dt.date:
    first = dt.date(year, month, 1)
    return first + dt.timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))
