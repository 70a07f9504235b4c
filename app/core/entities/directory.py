"""In which partitions each entity has been seen: what the logs of all partitions tell, put together.

The *home* of an entity is the partition that saw it first, by the effective times of the partitions; of equal times the
lower number. In any other partition it *strays*. What is found is a function of what was heard, in whatever order.

Whichever of two partitions tells of an entity later, what the other has told is here by then: it is noticed at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints
from app.core.records.entities import read_entities
from app.core.records.rules import RecordRules
from app.core.tiles.hash_runs import HashRuns
from schemas.ranges import MOST_PARTITIONS

_MOST_EXAMPLES = 10
#: Columns of a row. Its origin is a generation and a partition.
_TIME, _ORIGIN = 0, 1
NOWHERE = -1


@dataclass(frozen=True, order=True)
class Stray:
    """An entity that was seen in a second partition, at this time first; ``partitions`` ascend, each once."""

    time_ms: int
    name: str
    partitions: tuple[int, ...]

    def __str__(self) -> str:
        *others, last = map(str, self.partitions)
        return f"{self.name} is in partitions {', '.join(others)} and {last}"


class EntityDirectory:
    """Every entity of every partition, as far as they are remembered.

    Attributes
    ----------
    entities, straying
        How many different ones there are, and how many of them are in more than one partition.
    strays
        Slice of (effective) time -> how many of them were seen in a second partition then.
    changes
        Counts up whenever the home of an entity that strays may have changed.

    Parameters
    ----------
    slice_ms
        Length of a slice.
    rules
        What records must satisfy.
    """

    def __init__(self, slice_ms: int, rules: RecordRules) -> None:
        self._slice_ms = slice_ms
        self._rules = rules
        self._rows = HashRuns(2)
        self._heard: dict[tuple[int, tuple[int, int]], int] = {}
        self._new: list[tuple[Ints, Ints, list[str]]] = []
        self._dropped: set[int] = set()
        self._examples: dict[int, Stray] = {}
        self.entities = self.straying = self.changes = 0
        self.strays: Counter[int] = Counter()

    def hear(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Take a record of a partition's log; RefusedRecordError when it is not one. `settle` makes it count."""
        place, chunk = read_entities(key, value, self._rules)
        origin = place.generation * MOST_PARTITIONS + partition
        if chunk is None:
            if self._heard.pop((partition, place), None) is not None:
                self._dropped.add(origin)
            return
        # A record that is written again has more at its end.
        known = self._heard.get((partition, place), 0)
        names = chunk.names[known:]
        if names:
            self._heard[partition, place] = len(chunk.names)
            hashes, times = (
                np.frombuffer(packed, "<i8").astype(np.int64)[known:] for packed in (chunk.hashes, chunk.first_seen_ms)
            )
            self._new.append((hashes, np.stack((times, np.full(len(times), origin))), names))

    def settle(self) -> None:
        """Let what was heard count."""
        new, self._new = self._new, []
        if self._dropped:
            self._forget(new)
        if new:
            hashes = np.concatenate([each for each, _, _ in new])
            columns = np.concatenate([each for _, each, _ in new], axis=1)
            self._take(hashes, columns, [name for _, _, names in new for name in names])

    def home_of(self, hashes: Ints) -> Ints:
        """The home of each entity; NOWHERE for one that is not known."""
        group, columns = self._rows.find(hashes)
        partitions = columns[_ORIGIN] % MOST_PARTITIONS
        order = np.lexsort((partitions, columns[_TIME], group))
        homes = np.full(len(hashes), NOWHERE, dtype=np.int64)
        last_first = order[::-1]  # of one group the first is written last
        homes[group[last_first]] = partitions[last_first]
        return homes

    def is_elsewhere(self, hashes: Ints, partitions: Ints) -> NDArray[np.bool_]:
        """Which entities have been seen in another partition than the one given."""
        group, columns = self._rows.find(hashes)
        is_elsewhere = np.zeros(len(hashes), dtype=bool)
        is_elsewhere[group[columns[_ORIGIN] % MOST_PARTITIONS != partitions[group]]] = True
        return is_elsewhere

    def examples(self) -> list[Stray]:
        """Some entities that stray, those that did so first."""
        return sorted(self._examples.values())

    def _take(self, hashes: Ints, columns: Ints, names: list[str] | dict[int, str]) -> None:
        """Add rows; ``names``: of each row, or of some entities."""
        is_known = self._rows.has(hashes)
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        is_plain = ~is_known & (counts[inverse] == 1)
        self.entities += int(is_plain.sum())
        self._settle_others(np.flatnonzero(~is_plain), hashes, columns, names)
        self._rows.add(hashes, columns)

    def _settle_others(self, rows: Ints, hashes: Ints, columns: Ints, names: list[str] | dict[int, str]) -> None:
        """Take those of the rows to be added whose entities are known, or come several times."""
        wanted, inverse = np.unique(hashes[rows], return_inverse=True)
        before: list[dict[int, int]] = [{} for _ in wanted]
        group, places = self._rows.find(wanted)
        _note(before, group, places)
        after = [dict(columns_before) for columns_before in before]
        _note(after, inverse, columns[:, rows])
        name_of = names if isinstance(names, dict) else {int(hashes[row]): names[row] for row in rows.tolist()}
        for entity, was, now in zip(wanted.tolist(), before, after, strict=True):
            self.entities += not was
            if was == now or len(now) == 1:
                continue
            self.changes += 1
            self.straying += len(was) < 2
            self.strays.subtract(self._slice_of(was))
            self.strays.update(self._slice_of(now))
            if entity in name_of:
                self._examples[entity] = Stray(_second_of(now), name_of[entity], tuple(sorted(now)))
                if len(self._examples) > _MOST_EXAMPLES:
                    del self._examples[max(self._examples, key=lambda known: self._examples[known])]

    def _slice_of(self, seen: dict[int, int]) -> list[int]:
        """The slice in which an entity was seen in a second partition, if it was."""
        return [_second_of(seen) // self._slice_ms * self._slice_ms] if len(seen) > 1 else []

    def _forget(self, new: list[tuple[Ints, Ints, list[str]]]) -> None:
        """Drop the generations that were cleared, and find again what is left."""
        dropped, self._dropped = np.array(sorted(self._dropped), dtype=np.int64), set()
        new[:] = [chunk for chunk in new if int(chunk[1][_ORIGIN][0]) not in dropped]
        hashes, columns = self._rows.rows()
        keep = ~np.isin(columns[_ORIGIN], dropped)
        self._rows = HashRuns(2)
        self.entities = self.straying = 0
        self.changes += 1
        self.strays.clear()
        names, self._examples = {entity: each.name for entity, each in self._examples.items()}, {}
        if keep.any():
            self._take(hashes[keep], columns[:, keep], names)


def _note(seen: list[dict[int, int]], group: Ints, columns: Ints) -> None:
    """Note the first time in each partition, by entity."""
    partitions = columns[_ORIGIN] % MOST_PARTITIONS
    for entity, time_ms, partition in zip(group.tolist(), columns[_TIME].tolist(), partitions.tolist(), strict=True):
        here = seen[entity]
        here[partition] = min(time_ms, here.get(partition, time_ms))


def _second_of(seen: dict[int, int]) -> int:
    """When an entity was seen in a second partition, given its first time in each."""
    return sorted(seen.values())[1]
