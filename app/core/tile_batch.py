"""One batch of reads and updates of tiles: which updates each read comes after, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.core.batches import Ints
from app.core.range_sums import start_at_zero, sum_below


@dataclass(frozen=True, slots=True)
class Updates:
    """Updates in their order. ``before[j]`` = i: update j comes before read i (and after read i - 1); ascending.

    ``values`` (fixed point) is None in a store that only counts.
    """

    codes: Ints
    tiles: Ints
    before: Ints
    values: Ints | None = None


@dataclass(frozen=True, slots=True)
class Reads:
    """Reads of known keys: code, tile, updates before it, and the newest tile of any operation before it."""

    codes: Ints
    tiles: Ints
    seen: Ints
    clock: Ints


@dataclass(frozen=True, slots=True)
class Span:
    """Per read, the rank of its key and the range of accepted updates of that key before it."""

    group: Ints
    starts: Ints
    ends: Ints


@dataclass(frozen=True, slots=True)
class Accepted:
    """The updates that count, by key and then in order; ``rank`` numbers the keys of ``groups``."""

    sequence: Ints
    tiles: Ints
    values: Ints | None
    rank: Ints
    newest: Ints  # newest tile of the key, this update included
    groups: Ints
    starts: Ints


def locate(reads: Reads, accepted: Accepted) -> Span:
    if not len(accepted.groups):
        nothing = np.zeros(len(reads.codes), dtype=np.int64)
        return Span(nothing, nothing, nothing)
    group = np.minimum(np.searchsorted(accepted.groups, reads.codes), len(accepted.groups) - 1)
    width = int(max(accepted.sequence.max(initial=0), reads.seen.max())) + 1
    starts = accepted.starts[group]
    ends = np.searchsorted(accepted.rank * width + accepted.sequence, group * width + reads.seen)
    return Span(group, starts, np.where(accepted.groups[group] == reads.codes, np.maximum(ends, starts), starts))


def sum_batch(span: Span, accepted: Accepted, bounds: list[Ints]) -> list[tuple[Ints, Ints]]:
    """Per bound, count and sum of the updates of this batch before the read, of tiles up to the bound."""
    tiles, values = accepted.tiles, accepted.values
    if values is None:
        values = np.zeros(len(tiles), dtype=np.int64)
    low, high = int(tiles.min()), int(tiles.max())
    lifted = tiles - low + accepted.rank * (high - low + 2)
    if (lifted[1:] >= lifted[:-1]).all():  # the tiles of each key come in order: those up to a bound are a prefix
        lift = span.group * (high - low + 2)
        running = start_at_zero(values)
        found = []
        for bound in bounds:
            place = np.searchsorted(lifted, between(bound - low, -1, high - low) + lift, side="right")
            place = between(place, span.starts, span.ends)
            found.append((place - span.starts, running[place] - running[span.starts]))
        return found
    distinct, ranks = np.unique(tiles, return_inverse=True)
    weights = (np.ones(len(tiles), dtype=np.int64), values)
    found = []
    for bound in bounds:
        below = np.searchsorted(distinct, bound, side="right")
        count, total = sum_below(ranks, weights, span.starts, span.ends, below)
        found.append((count, total))
    return found


def between(values: Ints, low: int | Ints, high: int | Ints) -> Ints:
    """What ``np.clip`` gives, at a third of its cost for a short array."""
    limited: Ints = np.minimum(np.maximum(values, low), high)
    return limited
