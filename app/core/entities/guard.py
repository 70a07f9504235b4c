"""Which events of a partition are of an entity that belongs to another one, as far as that is known by now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.core.entities.directory import NOWHERE, EntityDirectory
from app.core.tiles.hash_runs import hash64

#: Entities that need no look-up, per partition: bounds memory.
_MOST_KNOWN = 1 << 18


class EntityGuard:
    """Looks entities of one partition up in the directory."""

    def __init__(self, directory: EntityDirectory, partition: int) -> None:
        self._directory = directory
        self._partition = partition
        self._changes = directory.changes
        self._fine: set[str] = set()
        self._homes: dict[str, int] = {}

    def find_misplaced(self, entities: Sequence[str]) -> list[tuple[int, int]]:
        """The positions of those that belong elsewhere, and where."""
        if self._directory.changes != self._changes or len(self._fine) + len(self._homes) > _MOST_KNOWN:
            self._changes = self._directory.changes
            self._fine.clear()
            self._homes.clear()
        if self._fine.issuperset(entities):
            return []
        unknown = list(set(entities) - self._fine - self._homes.keys())
        homes = self._directory.home_of(np.array([hash64(entity.encode()) for entity in unknown], dtype=np.int64))
        for entity, home in zip(unknown, homes.tolist(), strict=True):
            if home in {NOWHERE, self._partition}:
                self._fine.add(entity)
            else:
                self._homes[entity] = home
        return [(row, self._homes[entity]) for row, entity in enumerate(entities) if entity in self._homes]
