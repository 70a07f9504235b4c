"""The order in which features are computed: each after those that it is made of, whatever the order of the file."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise


class CircleError(ValueError):
    """Features that are made of each other: what the circle is, and the fix."""


@dataclass(frozen=True)
class FeatureOrder:
    """The features that are not windows, by name, each after those that it reads.

    ``stateless``: known from the event alone. ``derived``: made of windows, or of what is made of windows.
    """

    stateless: tuple[str, ...]
    derived: tuple[str, ...]


def order_features(reads: Mapping[str, Iterable[str]], windows: Collection[str]) -> FeatureOrder:
    """Order features; the order of the file is kept where it is one that works.

    Parameters
    ----------
    reads
        Each feature that is not a window, in the order of the file, and the features that it reads.
    windows
        The features that are windows.

    Raises
    ------
    CircleError
        When features are made of each other.

    Examples
    --------
    >>> order_features({"surprise": ["ratio"], "hour": [], "ratio": ["amount", "mean_7d"], "amount": []}, ["mean_7d"])
    FeatureOrder(stateless=('hour', 'amount'), derived=('ratio', 'surprise'))
    """
    names = list(reads)
    places = {name: place for place, name in enumerate(names)}
    sorter = TopologicalSorter({name: sorted(places.keys() & reads[name], key=places.__getitem__) for name in names})
    try:
        sorter.prepare()
    except CycleError as error:
        raise CircleError(_describe(error.args[1][::-1])) from None
    waiting: list[int] = []
    made_of_windows = set(windows)
    stateless, derived = [], []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(waiting, places[name])
        name = names[heapq.heappop(waiting)]
        sorter.done(name)
        if made_of_windows.isdisjoint(reads[name]):
            stateless.append(name)
        else:
            made_of_windows.add(name)
            derived.append(name)
    return FeatureOrder(tuple(stateless), tuple(derived))


def _describe(circle: list[str]) -> str:
    """A sentence on features that are each made of the next; the last is the first again."""
    if len(circle) == 2:
        return f'"{circle[0]}" is made of itself; make it of something else'
    (first, second), *others = pairwise(circle)
    links = [f'"{first}" is made of "{second}"', *(f'"{one}" of "{other}"' for one, other in others)]
    return f"{', '.join(links)}, which is a circle; make one of them of something else"
