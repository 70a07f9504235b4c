"""Parts of the local time of an event, for arrays: daylight saving included."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np

from app.core.batches import Floats, Ints

_DAY_S = 86_400
_FIRST_YEAR, _LAST_YEAR = 1970, 2101


@lru_cache(maxsize=64)
def _transitions(zone: str) -> tuple[Ints, Ints]:
    """When the offset of a zone from UTC changes (ms), and the offset (ms) before the first, and from each on."""
    info = ZoneInfo(zone)

    def offset_s(time_s: int) -> int:
        offset = dt.datetime.fromtimestamp(time_s, tz=info).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0

    start = int(dt.datetime(_FIRST_YEAR, 1, 1, tzinfo=dt.UTC).timestamp())
    stop = int(dt.datetime(_LAST_YEAR, 1, 1, tzinfo=dt.UTC).timestamp())
    times, offsets = [], [offset_s(start)]
    for day in range(start, stop, _DAY_S):
        low, high = day, day + _DAY_S
        if offset_s(high) == offsets[-1]:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset_s(middle) == offsets[-1] else (low, middle)
        times.append(high)
        offsets.append(offset_s(high))
    return np.array(times, dtype=np.int64) * 1000, np.array(offsets, dtype=np.int64) * 1000


def to_local_ms(time_ms: Ints, zone: str) -> Ints:
    """What a clock in ``zone`` shows at UTC times, as milliseconds since 1970 of that clock.

    Before 1970 and from 2101 on the offset is the nearest known one.

    Examples
    --------
    >>> import numpy as np
    >>> summer = np.array([1372680000000])  # 2013-07-01 12:00 UTC
    >>> ((to_local_ms(summer, "America/New_York") // 3_600_000) % 24).tolist()
    [8]
    """
    times, offsets = _transitions(zone)
    local: Ints = time_ms + offsets[np.searchsorted(times, time_ms, side="right")]
    return local


def to_part(local_ms: Ints, part: str) -> Floats:
    """``part`` (hour, minute, weekday with Monday = 0, day, month or year) of clock times."""
    if part == "hour":
        number = local_ms // 3_600_000 % 24
    elif part == "minute":
        number = local_ms // 60_000 % 60
    else:
        days = local_ms // (_DAY_S * 1000)
        if part == "weekday":
            number = (days + 3) % 7  # 1970-01-01 was a Thursday
        else:
            dates = days.astype("datetime64[D]")
            if part == "day":
                number = (dates - dates.astype("datetime64[M]")).astype(np.int64) + 1
            elif part == "month":
                number = dates.astype("datetime64[M]").astype(np.int64) % 12 + 1
            else:
                number = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    return number.astype(np.float64)
