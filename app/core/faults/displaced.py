"""Columns in each other's place: a rotation by one, a swap, any permutation.

Column j of a window holds what column pi(j) held in training. The permutation pi of least cost is taken. Its cost is
the sum over all columns of how far the window of j is from the training of pi(j), plus a price for its description: a
rotation of all columns is shorter to describe than one of a part, and that is shorter than an arbitrary permutation,
which would fit any noise. "No column moved" costs nothing to describe. Any other permutation has to be better than that
by far: ordinary drift moves columns too, but hardly ever moves each of several to where another was.

Marginal distributions cannot show everything: columns that look alike (all standardised and of one shape) may change
places unnoticed. Where they are part of a larger displacement, the fault says that it cannot tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from app.core.faults.fault import Fault, FaultKind, listed
from app.core.faults.law import FEWEST_FOR_A_SHAPE, Law, distance, remade

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from app.core.batches import Floats
    from app.core.features.paths import Path

#: A column counts as moved when it is at least this far from its own past, ...
_MOVED = 0.2
#: ... and nearer to the other's by a factor of two. Only a quarter of the columns may be farther from their sources
#: than this, or than from their own past: these have drifted, too.
_FARTHEST = 0.35
#: All displaced columns together are nearer to their sources by this factor.
_TOGETHER = 0.6
#: Swaps and permutations need fewer coincidences than a rotation, so they are asked for clearer ones.
_MOVED_BY_SWAP = 0.3


class _Candidate(NamedTuple):
    """Where each column's values come from, and how many steps it takes to say so."""

    sources: tuple[int, ...]
    steps: float
    words: str


@dataclass(frozen=True)
class Displacement:
    """A fault, and the distances that it was found from: window column x training column."""

    fault: Fault | None
    distances: Floats


def find_displaced(
    names: Sequence[str],
    trained: Sequence[Law],
    window: Mapping[str, Law],
    signalled: AbstractSet[str],
    paths: Sequence[Path] = (),
) -> Displacement:
    """Look for columns in each other's place.

    Parameters
    ----------
    names
        Of the numeric features, in signature order.
    trained
        What training says of each.
    window
        What the window says of those that have values.
    signalled
        Names of metrics that have moved; at least two columns that tell must be among them.
    paths
        How each follows from its field: where these differ, it is the fields that have changed places.
    """
    size = len(names)
    here = [
        name in window and min(window[name].n, law.n) >= FEWEST_FOR_A_SHAPE
        for name, law in zip(names, trained, strict=True)
    ]
    if sum(here) < 2 or sum(name in signalled for name, there in zip(names, here, strict=True) if there) < 2:
        return Displacement(None, np.zeros((0, 0)))
    columns = np.flatnonzero(here)

    def apart(row: int, column: int) -> float:
        return distance(window[names[row]], as_if(paths, row, column, trained[column]))

    # Most windows end here: a matrix of distances is costly.
    if sum(names[row] in signalled and apart(row, row) >= _MOVED for row in columns.tolist()) < 2:
        return Displacement(None, np.zeros((0, 0)))
    distances = np.full((size, size), math.nan)
    for row in columns.tolist():
        for column in columns.tolist():
            distances[row, column] = apart(row, column)
    inner = distances[np.ix_(columns, columns)]
    alike = alike_within(min(window[names[column]].n for column in columns.tolist()))
    candidates = list(_candidates(inner, alike))
    costs = np.array([_cost(inner, candidate, alike) for candidate in candidates])
    best = int(np.argmin(costs))
    chosen = candidates[best]
    own, new = np.diag(inner), inner[np.arange(len(inner)), list(chosen.sources)]
    moved = np.array(chosen.sources) != np.arange(len(inner))
    tells = moved & (own >= _MOVED) & (new <= own / 2) & (own - new > alike)
    tells &= np.array([names[column] in signalled for column in columns.tolist()])
    if chosen.words in {"left", "right"}:
        bad = moved & ((new > _FARTHEST) | (new > own + alike))
        is_nearer = float(new[moved].sum()) <= _TOGETHER * float(own[moved].sum())
        is_clear = is_nearer and int(tells.sum()) >= 2 and 4 * int(bad.sum()) <= int(moved.sum())
    else:
        clear = tells & (own >= _MOVED_BY_SWAP) & (new <= np.maximum(alike, own / 4))
        is_clear = bool(moved.any()) and bool(clear[moved].all())
    if not is_clear:
        return Displacement(None, distances)
    unsure = _unsure(inner, chosen, candidates, alike)
    named = [names[column] for column in columns.tolist()]
    return Displacement(_fault(named, chosen, unsure, own, new, tells), distances)


def as_if(paths: Sequence[Path], row: int, column: int, law: Law) -> Law:
    """The law that column ``row`` would have if it were computed, in its own way, from the field of ``column``."""
    if not paths or paths[row] == paths[column]:
        return law
    return remade(law, paths[column], paths[row])


def alike_within(n: int) -> float:
    """Laws nearer than this cannot be told apart by ``n`` events that may drift a little.

    >>> alike_within(400)
    0.1
    """
    return 0.05 + 1.0 / math.sqrt(max(n, 1))


def _cost(distances: Floats, candidate: _Candidate, alike: float) -> float:
    fits = distances[np.arange(len(distances)), list(candidate.sources)]
    return float(fits.sum()) + alike * candidate.steps


def _candidates(distances: Floats, alike: float) -> Iterator[_Candidate]:
    size = len(distances)
    rest = list(range(size))
    yield _Candidate(tuple(rest), 0.0, "")
    for first in range(size):
        for end in range(first + 3, size + 1):  # of two it is a swap, below
            steps = (1.0 if size > 3 else 2.0) + (first > 0) + (end < size)
            run = rest[first:end]
            yield _Candidate((*rest[:first], *run[1:], run[0], *rest[end:]), steps, "left")
            yield _Candidate((*rest[:first], run[-1], *run[:-1], *rest[end:]), steps, "right")
    for first in range(size):
        for second in range(first + 1, size):
            swapped = rest.copy()
            swapped[first], swapped[second] = second, first
            yield _Candidate(tuple(swapped), 1.5, "swap")
    _, sources = linear_sum_assignment(distances + alike * (1.0 - np.eye(size)))
    n_moved = int(np.count_nonzero(sources != np.arange(size)))
    if n_moved > 2:
        yield _Candidate(tuple(sources.tolist()), 1.0 + n_moved, "permutation")


def _unsure(distances: Floats, chosen: _Candidate, candidates: list[_Candidate], alike: float) -> set[int]:
    """Columns that may be in their place (in a rotation), or that may just as well hold what another column holds."""
    size = len(distances)
    sources = np.array(chosen.sources)
    fits = distances[np.arange(size), sources]
    if chosen.words in {"left", "right"}:
        rivals = [
            candidate.sources
            for candidate in candidates
            if candidate.words == chosen.words and _cost(distances, candidate, 0.0) <= float(fits.sum()) + alike
        ]
        return {at for at in range(size) for rival in rivals if rival[at] == at != sources[at]}
    crossed = distances[:, sources]  # row: column of the window, column: what it would hold instead
    exchanged = crossed + crossed.T <= fits[:, None] + fits[None, :] + alike
    np.fill_diagonal(exchanged, val=False)
    return {at for at in range(size) if sources[at] != at and exchanged[at].any()}


def _fault(  # noqa: PLR0917  # what was found, in the order it was found
    names: list[str], chosen: _Candidate, unsure: set[int], own: Floats, new: Floats, tells: Floats
) -> Fault:
    moved = [at for at, source in enumerate(chosen.sources) if at != source]
    in_doubt = [names[at] for at in moved if at in unsure]
    clearest = max(moved, key=lambda at: float(own[at] - new[at]) if tells[at] else -1.0)
    example = f"`{names[clearest]}` holds what `{names[chosen.sources[clearest]]}` held in training"
    strength = float((own[moved] - new[moved])[tells[moved]].mean())
    doubt = ""
    if in_doubt and len(in_doubt) < len(moved):
        doubt = f". By itself, {listed(in_doubt)} would not show it: another column looks alike"
    elif in_doubt:
        doubt = ", but which belongs where cannot be told: they look alike"
    if chosen.words == "swap":
        first, second = (f"`{names[at]}`" for at in moved)
        sentence = f"{first} and {second} have changed places{doubt}"
    elif chosen.words == "permutation":
        sentence = f"{example}; {listed([names[at] for at in moved])} have changed places{doubt}"
    else:
        which = (
            "all columns" if len(moved) == len(names) else f"the columns `{names[moved[0]]}` to `{names[moved[-1]]}`"
        )
        other = names[moved[0] if chosen.words == "left" else moved[-1]]
        at_end = names[moved[-1] if chosen.words == "left" else moved[0]]
        wrap = f" (`{other}` has gone to `{at_end}`)"
        sentence = f"{example}: {which} are displaced by one to the {chosen.words}{wrap}{doubt}"
    kind: FaultKind = "columns_swapped" if chosen.words == "swap" else "columns_displaced"
    return Fault(
        kind,
        tuple(names[at] for at in moved),
        sentence + ".",
        min(1.0, strength),
        tuple(names[chosen.sources[at]] for at in moved),
    )
