"""What is misplaced is what the directory says, however often it was asked before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.entities import guard as entity_guard
from app.core.entities.directory import NOWHERE, EntityDirectory
from app.core.entities.guard import EntityGuard
from app.core.entities.log import EntityLog
from app.core.records.rules import RecordRules
from app.core.tiles.hash_runs import hash64
from schemas.topics import Topics

RULES = RecordRules(Topics("p", 4), "m", 0, 10**6, 0, 0)
CARDS = st.lists(st.sampled_from(["a", "b", "c", "d", "ä"]), max_size=5)


class Cluster:
    """Partitions that tell what they have seen; the guard is that of partition 1."""

    def __init__(self) -> None:
        self.directory = EntityDirectory(100, RULES)
        self.logs = [EntityLog(10**5, RULES) for _ in range(3)]
        self.time_ms = 0

    def see(self, partition: int, cards: list[str]) -> None:
        self.time_ms += 1
        self.logs[partition].see(cards, np.full(len(cards), self.time_ms, dtype=np.int64))
        for key, value in self.logs[partition].drain():
            self.directory.hear(partition, key, value)
        self.directory.settle()

    def misplaced(self, cards: list[str]) -> list[tuple[int, int]]:
        """As the directory says."""
        homes = self.directory.home_of(np.array([hash64(card.encode()) for card in cards], dtype=np.int64)).tolist()
        return [(row, home) for row, home in enumerate(homes) if home not in {NOWHERE, 1}]


@settings(max_examples=25)
@given(turns=st.lists(st.tuples(st.integers(0, 2), CARDS, CARDS), max_size=8))
def test_what_belongs_elsewhere_is_told_with_its_row_and_its_home(
    turns: list[tuple[int, list[str], list[str]]],
) -> None:
    """An entity that was fine is so as long as nothing has changed of those that stray."""
    cluster = Cluster()
    guard = EntityGuard(cluster.directory, 1)
    fine: set[str] = set()
    changes = 0
    for partition, seen, asked in turns:
        cluster.see(partition, seen)
        if cluster.directory.changes != changes:
            changes, fine = cluster.directory.changes, set()
        expected = cluster.misplaced(asked)
        assert guard.find_misplaced(asked) == [(row, home) for row, home in expected if asked[row] not in fine]
        assert EntityGuard(cluster.directory, 1).find_misplaced(asked) == expected
        fine |= set(asked) - {asked[row] for row, _ in expected}


def test_few_entities_are_looked_up_again_and_again_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    cluster.see(0, ["a"])
    guard = EntityGuard(cluster.directory, 1)
    asked: list[int] = []
    home_of = cluster.directory.home_of
    monkeypatch.setattr(cluster.directory, "home_of", lambda hashes: (asked.append(len(hashes)), home_of(hashes))[1])
    for _ in range(3):
        assert guard.find_misplaced(["b", "c", "b"]) == []
    assert guard.find_misplaced(["a", "b", "a"]) == [(0, 0), (2, 0)]
    assert asked == [2, 1]
    cluster.see(2, ["a"])  # it strays: everything is looked up once more
    for _ in range(3):
        assert guard.find_misplaced(["b", "c"]) == []
    assert asked == [2, 1, 2]


def test_what_is_known_without_a_look_up_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_guard, "_MOST_KNOWN", 5)
    cluster = Cluster()
    cluster.see(0, [f"a{number}" for number in range(0, 300, 2)])
    guard = EntityGuard(cluster.directory, 1)
    for number in range(300):
        assert guard.find_misplaced([f"a{number}"]) == ([] if number % 2 else [(0, 0)])
        assert len(guard._fine) + len(guard._homes) <= 6
