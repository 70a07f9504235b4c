"""Where a change sits: the segments that hold clearly more of it than of the events.

A change that all segments share shows most surely in the largest one, and sits in none. So each segment's change is
held against that of all events: how many times as large it is, times the segment's share of the events, is the share of
the change that it holds. Of each way of dividing the events (what stands before the "=" of a segment's name) those that
have changed most are named, as many as it takes to hold all of the change, if they hold more of it than of the events
by a fifth. Where nothing is sure of all events, what is sure of segments is all that there is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from app.core.verdict.situation import Misfit, SegmentChange, Situation

#: A segment has changed more than all events when its change is this many times as large; less may be chance.
_MORE = 1.2
#: The share of the change that segments must hold beyond their share of the events.
_CLEARLY = 0.2


class Segment(NamedTuple):
    """A segment where it sits: its events, its largest effect, the metrics that moved there."""

    segment: str
    effect: float
    n: int
    metrics: tuple[str, ...]


class _Part(NamedTuple):
    """A segment, how many times as large its change is as that of all events, and its share of these."""

    segment: Segment
    times: float
    weight: float


def rank_segments(situation: Situation, *, by_labels: bool) -> tuple[Segment, ...]:
    """Rank the segments: first those in which labels speak against the scores, the surest first; then by moved events.

    The number of moved events is the largest effect times the segment's events.

    Parameters
    ----------
    by_labels
        Whether it is labels that say what has happened.
    """
    misfits = _of_labels(situation) if by_labels else []
    said = {part.segment.segment for part in misfits}
    by_name: dict[str, list[SegmentChange]] = {}
    for change in sorted(situation.segments, key=lambda change: -change.effect):
        by_name.setdefault(change.segment, []).append(change)
    moved = [
        _Part(
            Segment(name, changes[0].effect, changes[0].n, tuple(change.metric for change in changes)),
            changes[0].times,
            changes[0].n / max(situation.n, 1),
        )
        for name, changes in by_name.items()
    ]
    ranked = sorted(_concentrated(moved), key=lambda segment: (-segment.effect * segment.n, segment.segment))
    return (*_concentrated(misfits), *(segment for segment in ranked if segment.segment not in said))


def _of_labels(situation: Situation) -> list[_Part]:
    whole = situation.misfit if situation.tells_less or situation.is_off else None
    n = max(situation.misfit.n if situation.misfit is not None else 0, 1)
    return [
        _Part(
            Segment(misfit.segment, min(max(abs(misfit.gap), misfit.effect), 1.0), misfit.n, ("outcome",)),
            math.inf if whole is None else _times(misfit, whole, of_losses=situation.tells_less),
            misfit.n / n,
        )
        for misfit in situation.misfit_segments
    ]


def _times(there: Misfit, whole: Misfit, *, of_losses: bool) -> float:
    """How many times as large a segment's misfit is as that of all events: what is lost, or the gap of the rates.

    Of measures, that by which it is least beyond all events: where the model was off already, the same loss of order
    costs more.
    """
    if not of_losses:
        of_all = whole.gap if there.gap > 0 else -whole.gap
        return abs(there.gap) / of_all if of_all > 0 else math.inf
    lost = [(loss, whole.losses[name]) for name, loss in there.losses.items() if loss >= 1]
    return min((loss / of_all if of_all > 0 else math.inf for loss, of_all in lost), default=0.0)


def _concentrated(parts: list[_Part]) -> list[Segment]:
    """The segments that hold clearly more of the change than of the events, in their order."""
    divisions: dict[str, list[_Part]] = {}
    for part in sorted(parts, key=lambda part: -part.times):
        divisions.setdefault(part.segment.segment.partition("=")[0], []).append(part)
    named: set[str] = set()
    for division in divisions.values():
        share = weight = 0.0
        taken = []
        for part in division:
            if part.times < _MORE or (share >= 1 and math.isfinite(part.times)):
                break  # the others hold what chance gives them
            share += part.times * part.weight if math.isfinite(part.times) else 1.0
            weight += part.weight
            taken.append(part.segment.segment)
        if min(share, 1.0) >= weight + _CLEARLY:
            named.update(taken)
    return [part.segment for part in parts if part.segment.segment in named]
