"""Runs that wait for the other partitions: each event goes in its turn, once, and not before it may."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.batches import LabelBatch
from app.core.intake.merge import BEGINNING_MS, Merged
from app.core.shared.held import HeldRuns

SMALL = st.integers(0, 5)
#: A run: what each event needs, where labels are among them, whether it is stale, and a promise.
ADD = st.tuples(
    st.just("add"),
    st.lists(SMALL, max_size=4).map(sorted),
    st.lists(st.integers(0, 3), max_size=3).map(sorted),
    st.booleans(),
    st.integers(1, 5),
)
#: Most, how far the others have come, and how many have their answers.
TAKE = st.tuples(st.just("take"), st.integers(1, 4), SMALL, st.sampled_from([None, 0, 1, 3]))
LET_GO = st.tuples(st.just("let_go"), st.integers(0, 8))


@dataclass
class Run:
    name: int
    needed: list[int]
    before: list[int]
    is_stale: bool
    promised_ms: int
    first_label: int
    taken: int = 0
    labels_taken: int = 0


@dataclass
class World:
    held: HeldRuns[int] = field(default_factory=HeldRuns)
    runs: list[Run] = field(default_factory=list)
    received: int = 0
    let_go_to: int = 0
    names: int = 0
    labels: int = 0

    def add(self, needed: list[int], before: list[int], is_stale: bool, promised_ms: int) -> None:
        before = [place for place in before if place < len(needed)] if needed else before
        run = Run(self.names, needed, before, is_stale, promised_ms, self.labels)
        offsets = np.arange(self.labels, self.labels + len(before))
        labels = LabelBatch(offsets, offsets, ["x"] * len(before), np.ones(len(before)), [None] * len(before))
        times = self.received + np.arange(len(needed))
        merged = Merged(run.name, 0, len(needed), True, np.array(before, dtype=np.int64), labels, times, offsets)
        self.held.add(merged, np.array(needed, dtype=np.int64), is_stale=is_stale, promised_ms=promised_ms)
        self.runs.append(run)
        self.names, self.received, self.labels = self.names + 1, self.received + len(needed), self.labels + len(before)

    def let_go(self, received: int) -> None:
        self.held.let_go(received)
        self.let_go_to = max(self.let_go_to, received)

    def take(self, most: int, low_ms: int, answered: int | None) -> None:
        """By the words of the docstrings, event by event."""
        is_blocked, has_others = self.held.is_blocked(low_ms, answered), self.held.has_others(low_ms)
        found = self.held.take(most, low_ms, answered)
        assert is_blocked == (bool(self.runs) and found is None)
        if not self.runs:
            assert found is None
            assert has_others
            return
        run = self.runs[0]
        waiting = run.needed[run.taken :]
        assert has_others == (not waiting or waiting[0] <= low_ms)
        met = sum(needed <= low_ms for needed in waiting)
        met = met if answered is None else min(met, answered)
        given_up = 0
        if waiting and met == 0:
            first = self.received - sum(len(other.needed) - other.taken for other in self.runs)
            given_up = max(0, min(len(waiting), self.let_go_to - first))
            if given_up == 0:
                assert found is None
                return
        count = min(most, met or given_up)
        assert found is not None
        is_last = count == len(waiting)
        merged = found.merged
        assert (merged.payload, merged.start, merged.stop) == (run.name, run.taken, run.taken + count)
        assert merged.last == is_last
        assert found.is_stale == (run.is_stale or given_up > 0)
        assert found.promised_ms == (run.promised_ms if is_last else BEGINNING_MS)
        labels = [place for place in run.before[run.labels_taken :] if is_last or place < run.taken + count]
        assert (merged.before + run.taken).tolist() == labels
        first_label = run.first_label + run.labels_taken
        assert merged.labels.offsets.tolist() == list(range(first_label, first_label + len(labels)))
        assert merged.label_times_ms.tolist() == merged.labels.offsets.tolist()
        run.taken += count
        run.labels_taken += len(labels)
        if is_last:
            self.runs.pop(0)

    def check(self) -> None:
        assert bool(self.held) == bool(self.runs)
        assert self.held.received == self.received
        assert self.held.events == sum(len(run.needed) - run.taken for run in self.runs)
        waiting = [run.first_label + run.labels_taken for run in self.runs if len(run.before) > run.labels_taken]
        assert self.held.first_label_offset() == (waiting[0] if waiting else None)


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(ADD | TAKE | TAKE | LET_GO, max_size=14))
def test_events_go_in_their_order_as_soon_as_they_may_and_are_stale_when_they_could_not(
    found: list[tuple[str, ...]],
) -> None:
    world = World()
    for what, *arguments in found:
        getattr(world, what)(*arguments)
        world.check()


def test_an_event_without_all_of_its_answers_is_blocked_though_the_others_have_come() -> None:
    world = World()
    world.add([3, 3], [0], is_stale=False, promised_ms=1)
    assert [world.held.is_blocked(low_ms, answered) for low_ms, answered in ((3, None), (3, 1), (3, 0), (2, 1))] == [
        False,
        False,
        True,
        True,
    ]
    for answered in (0, 1, None):
        world.take(9, 3, answered)
        world.check()
    assert not world.held.is_blocked(0, 0)


def test_events_that_are_let_go_are_counted_from_the_first_of_all() -> None:
    world = World()
    world.add([0, 9, 9], [], is_stale=False, promised_ms=1)
    world.take(9, 5, None)
    world.let_go(2)
    world.take(9, 5, None)
    world.check()
    assert len(world.runs[0].needed) - world.runs[0].taken == 1
    world.take(9, 5, None)
    assert world.held.is_blocked(5)
