"""When a fault began or ended, if that was within a window: the window as a whole then looks like a drift.

What has signalled in the whole window is looked at in its last parts: in all but the first, in all but the first two,
and so on to the last one. The longest of these stretches that shows a certain fault as clearly as any other tells when
it began. If the fault is clearer still without the last parts of that stretch, it ended there. Where no last part of
the window shows a fault, its first parts are looked at in the same way. What comes every day is no fault: the same
stretch of the window before must not show it as clearly, and features that are made of the time of day alone are not
looked at.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.core.faults.fault import Fault, FaultKind
    from models.reference.reference import Counts

#: Faults that no ordinary course of a day looks like.
_CERTAIN: frozenset[FaultKind] = frozenset(
    {
        "columns_displaced",
        "columns_swapped",
        "unit_changed",
        "constant",
        "missing_values",
        "infinite_values",
        "vocabulary_changed",
    }
)
#: Strengths that differ by less are alike; and by how much a part has to be clearer than the whole.
_AS_CLEAR = 0.02
_CLEARER = 0.07
#: If shares below every point differ by less than this between the first part and the last, nothing has begun between.
_TURNED = 0.25
#: A stretch of fewer events is not looked at.
_FEWEST_IN_A_PART = 200


class Part(NamedTuple):
    """When a part of a window begins, and its counts."""

    start_ms: int
    counts: Counts


class Course(NamedTuple):
    """The parts of a window, and those of the window ``step_ms`` before."""

    parts: Sequence[Part]
    before: Sequence[Part]
    step_ms: int


def find_since(
    course: Course, rows: Sequence[int], whole: Sequence[Fault], find: Callable[[Counts], Sequence[Fault]]
) -> tuple[Fault, ...]:
    """Find certain faults that began or ended within the window, and when.

    Parameters
    ----------
    rows
        Of the metrics that have signalled and are made of fields.
    whole
        What is wrong with the whole window.
    find
        What is wrong with counts, of these metrics.

    Returns
    -------
    All faults: those of the whole window, except where a fault of a part says more. The strength of such a fault is a
    share of the whole window, too.
    """
    known = any(fault.kind in _CERTAIN for fault in whole)
    is_asked = len(rows) and (_has_turned(course, rows) or (known and _varies(course, rows)))
    first, stop = _span(course, whole, find) if is_asked else (0, len(course.parts))
    if stop - first == len(course.parts):
        return tuple(whole)
    counts = _sum(course.parts[first:stop])
    start_ms = course.parts[first].start_ms if first else None
    end_ms = course.parts[stop].start_ms if stop < len(course.parts) else None
    earlier = [
        part
        for part in course.before
        if (start_ms is None or part.start_ms + course.step_ms >= start_ms)
        and (end_ms is None or part.start_ms + course.step_ms < end_ms)
    ]
    usual = find(_sum(earlier)) if earlier else []
    certain = [fault for fault in find(counts) if fault.kind in _CERTAIN and not _is_among(fault, usual)]
    clearer = [fault for fault in certain if not any(_says_as_much(other, fault) for other in whole)]
    rest = [fault for fault in whole if not any(_is_of(fault, other) for other in clearer)]
    share = counts.n / max(sum(part.counts.n for part in course.parts), 1)
    when = _when(start_ms, end_ms)
    said = []
    for fault in clearer:
        # The whole window also knows of what is before and after, in parts of parts.
        in_all = max(
            (other.strength for other in whole if other.kind == fault.kind and _is_of(other, fault)), default=0.0
        )
        strength = max(fault.strength * share, in_all)
        said.append(replace(fault, sentence=f"{when}: {fault.sentence}", strength=strength))
    return tuple(sorted([*rest, *said], key=lambda fault: -fault.strength))


def _has_turned(course: Course, rows: Sequence[int]) -> bool:
    """Whether the end of a window is quite unlike its beginning; mostly it is not, and looking for faults is costly."""
    beginning, end = _of_enough(course.parts), _of_enough(course.parts[::-1])
    return beginning is not None and end is not None and _apart([beginning, end], rows) >= _TURNED


def _varies(course: Course, rows: Sequence[int]) -> bool:
    """Whether any two parts are quite unlike."""
    parts = [part.counts for part in course.parts if part.counts.n >= _FEWEST_IN_A_PART]
    return len(parts) > 1 and _apart(parts, rows) >= _TURNED


def _apart(parts: Sequence[Counts], rows: Sequence[int]) -> float:
    """How far apart the shares below some point are in two of the parts."""
    shares = [part.counts[list(rows)] / np.maximum(part.counts[list(rows)].sum(axis=1), 1)[:, None] for part in parts]
    return float(np.ptp(np.cumsum(shares, axis=2), axis=0).max())


def _of_enough(parts: Sequence[Part]) -> Counts | None:
    """The first parts that together are enough to look at; None where all but the last are not."""
    for stop in range(1, len(parts)):
        counts = _sum(parts[:stop])
        if counts.n >= _FEWEST_IN_A_PART:
            return counts
    return None


def _span(course: Course, whole: Sequence[Fault], find: Callable[[Counts], Sequence[Fault]]) -> tuple[int, int]:
    """The longest stretch of parts in which certain faults are as clear as in any; all parts where there is none."""
    size = len(course.parts)
    n = sum(part.counts.n for part in course.parts)
    known = {(0, size): (_clearest(whole), n)}

    def longest(stretches: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """The longest of these that is as clear as any; they come from the longest to the shortest."""
        clear: dict[tuple[int, int], tuple[float, int]] = {}
        for first, stop in stretches:
            if (first, stop) not in known:
                counts = _sum(course.parts[first:stop])
                if counts.n < _FEWEST_IN_A_PART:
                    break
                known[first, stop] = _clearest(find(counts)), counts.n
            if known[first, stop][0]:
                clear[first, stop] = known[first, stop]
        if not clear:
            return None
        most, n_most = max(clear.values())
        chance = 2 * math.sqrt(most * max(1 - most, 0.0) / n_most)  # the shorter, the more by chance
        return next(span for span, (strength, _) in clear.items() if strength >= most - max(_AS_CLEAR, chance))

    begun = longest([(first, size) for first in range(size)])
    if begun is None:
        return longest([(0, stop) for stop in range(size, 0, -1)]) or (0, size)
    return longest([(begun[0], stop) for stop in range(size, begun[0], -1)]) or begun


def _clearest(faults: Sequence[Fault]) -> float:
    return max((fault.strength for fault in faults if fault.kind in _CERTAIN), default=0.0)


def _says_as_much(whole: Fault, later: Fault) -> bool:
    """Whether the fault was there all the time, or nearly: a part of the window shows it hardly more clearly."""
    return whole.kind == later.kind and _is_of(whole, later) and whole.strength >= later.strength - _CLEARER


def _is_of(fault: Fault, other: Fault) -> bool:
    """Whether two faults may be one. A fault of a kind in `_CERTAIN` is none of another kind."""
    is_one = not set(fault.metrics).isdisjoint(other.metrics) or not set(fault.fields).isdisjoint(other.fields)
    return is_one and (fault.kind == other.kind or fault.kind not in _CERTAIN) and not fault.kind.startswith("traffic")


def _sum(parts: Sequence[Part]) -> Counts:
    return reduce(add, (part.counts for part in parts))


def _is_among(fault: Fault, others: Sequence[Fault]) -> bool:
    """Whether the others show it as clearly."""
    return any(
        fault.kind == other.kind
        and not set(fault.metrics).isdisjoint(other.metrics)
        and other.strength >= fault.strength - _CLEARER
        for other in others
    )


def _when(start_ms: int | None, end_ms: int | None) -> str:
    """The times that are known, of a beginning, an end, or both.

    >>> _when(0, None), _when(None, 3_600_000)
    ('Since about 1970-01-01 00:00 UTC', 'Until about 1970-01-01 01:00 UTC')
    >>> _when(0, 3_600_000)
    'From about 1970-01-01 00:00 to 1970-01-01 01:00 UTC'
    """
    start, end = (
        "" if time_ms is None else str(np.datetime64(time_ms, "ms").astype("M8[m]")).replace("T", " ")
        for time_ms in (start_ms, end_ms)
    )
    if start and end:
        return f"From about {start} to {end} UTC"
    return f"Since about {start} UTC" if start else f"Until about {end} UTC"
