"""Since when: a fault that begins in the middle of a window, which as a whole is a mixture and looks like a drift.

What has signalled in the whole window is looked at in its last parts: in all but the first, in all but the first two,
and so on to the last one. The longest of these stretches that shows a certain fault as clearly as any says since when.
What comes every day is none: the same stretch of the window before must not show the fault as well, and what is made of
the time of day alone is not looked at.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.core.faults.fault import Fault, FaultKind
    from models.reference import Counts

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
_CLEARER = 0.1
#: Shares below some point differ by so much between the first part and the last one, or nothing has begun in between.
_TURNED = 0.25
#: A stretch of fewer events is not looked at.
_FEWEST = 200


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
    """Find certain faults that began within the window, and since when.

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
    All faults: those of the whole window, but where one that began within it says more. The strength of these is a
    share of the whole window, too.
    """
    first = _begin(course, find) if _has_turned(course, rows) else None
    if first is None:
        return tuple(whole)
    stretch = course.parts[first:]
    counts = _sum(stretch)
    start_ms = stretch[0].start_ms
    earlier = [part for part in course.before if part.start_ms + course.step_ms >= start_ms]
    usual = find(_sum(earlier)) if earlier else []
    found = [fault for fault in find(counts) if fault.kind in _CERTAIN and not _is_among(fault, usual)]
    clearer = [fault for fault in found if not any(_says_as_much(other, fault) for other in whole)]
    rest = [fault for fault in whole if not any(_is_of(fault, other) for other in clearer)]
    share = counts.n / max(sum(part.counts.n for part in course.parts), 1)
    return tuple(
        sorted([*rest, *(_said(fault, start_ms, share) for fault in clearer)], key=lambda fault: -fault.strength)
    )


def _has_turned(course: Course, rows: Sequence[int]) -> bool:
    """Whether the end of a window is quite unlike its beginning; most are not, and to look for faults is dear."""
    beginning, end = _of_enough(course.parts), _of_enough(course.parts[::-1])
    if beginning is None or end is None or not len(rows):
        return False
    shares = [
        counts.counts[list(rows)] / np.maximum(counts.counts[list(rows)].sum(axis=1), 1)[:, None]
        for counts in (beginning, end)
    ]
    return bool(np.abs(np.cumsum(shares[1] - shares[0], axis=1)).max() >= _TURNED)


def _of_enough(parts: Sequence[Part]) -> Counts | None:
    """The first parts that are enough to look at; None where all but one are not."""
    for stop in range(1, len(parts)):
        counts = _sum(parts[:stop])
        if counts.n >= _FEWEST:
            return counts
    return None


def _begin(course: Course, find: Callable[[Counts], Sequence[Fault]]) -> int | None:
    """The part that the longest stretch begins with in which certain faults are as clear as in any."""
    clearest: dict[int, float] = {}
    for first in range(1, len(course.parts)):
        counts = _sum(course.parts[first:])
        if counts.n < _FEWEST:
            break
        strengths = [fault.strength for fault in find(counts) if fault.kind in _CERTAIN]
        if strengths:
            clearest[first] = max(strengths)
    most = max(clearest.values(), default=0.0)
    return next((first for first, strength in clearest.items() if strength >= most - _AS_CLEAR), None)


def _says_as_much(whole: Fault, later: Fault) -> bool:
    """Whether the fault was there all the time, or nearly: a part of the window shows it hardly more clearly."""
    return whole.kind == later.kind and _is_of(whole, later) and whole.strength >= later.strength - _CLEARER


def _is_of(fault: Fault, other: Fault) -> bool:
    """Whether two faults may be one; what is certain of a kind is no other kind."""
    is_one = not set(fault.metrics).isdisjoint(other.metrics) or not set(fault.fields).isdisjoint(other.fields)
    return is_one and (fault.kind == other.kind or fault.kind not in _CERTAIN) and not fault.kind.startswith("traffic")


def _sum(parts: Sequence[Part]) -> Counts:
    return reduce(add, (part.counts for part in parts))


def _is_among(fault: Fault, others: Sequence[Fault]) -> bool:
    return any(fault.kind == other.kind and not set(fault.metrics).isdisjoint(other.metrics) for other in others)


def _said(fault: Fault, start_ms: int, share: float) -> Fault:
    time = str(np.datetime64(start_ms, "ms").astype("M8[m]")).replace("T", " ")
    return replace(fault, sentence=f"Since about {time} UTC: {fault.sentence}", strength=fault.strength * share)
