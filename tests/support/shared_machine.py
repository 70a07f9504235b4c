"""Everything that can happen to workers that share windows, drawn at random, against the definition.

What `shared_search` searches to the end for the smallest logs happens here to larger ones, and more of it: labels,
several windows, three partitions, records heard in parts, compaction, owners that do not know yet that they are none.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from shared_logs import Logs, Place, Setting, Window, bits, event, label, naive
from shared_world import ALL, Row, World

_SMALL = Window("events", ("shop",), 2, 1, 0, "sum", "amount")
_DELAYED = Window("events", ("shop",), 4, 2, 1, "mean", "amount")
_PAIRS = Window("events", ("shop", "town"), 6, 3, 2, "count")
_LABELS = Window("labels", ("shop",), 4, 1, 1, "sum", "label")
_DIVIDED = Window("events", ("shop",), 3, 1, 1, "sum", "amount", is_divided=True)
_DIVIDED_PAIRS = Window("events", ("shop", "town"), 4, 2, 0, "count", is_divided=True)
_DIVIDED_LABELS = Window("labels", ("shop",), 3, 1, 0, "mean", "label", is_divided=True)
#: Which windows a pipeline has; those of more hops, sizes and delays reach further back than those of fewer.
PLANS = (
    (_SMALL,),
    (_SMALL, _DELAYED, _PAIRS),
    (_SMALL, _LABELS),
    (_DIVIDED,),
    (_DIVIDED, _DIVIDED_PAIRS, _DIVIDED_LABELS),
    (_DELAYED, _DIVIDED, _LABELS, _DIVIDED_LABELS),
)
#: Events that may come late, at the most: each may be in a window or not.
_MOST_LATE = 2

STEPS = st.sampled_from([0, 0, 1, 1, 1, 2, 3, 9])
SHOPS = st.sampled_from(["a", "a", "a", "b", None])


@cache
def setting(number: int, partitions: int) -> Setting:
    windows = PLANS[number]
    with_labels = any(window.of == "labels" for window in windows)
    with tempfile.TemporaryDirectory() as folder:
        return Setting.of(Path(folder), windows, partitions, with_labels=with_labels)


class SharedMachine(RuleBasedStateMachine):
    #: What all runs of this process came to.
    tally: ClassVar[Counter[str]] = Counter()

    @initialize(
        plan=st.integers(0, len(PLANS) - 1),
        found=st.lists(st.lists(st.tuples(STEPS, SHOPS), max_size=9), min_size=2, max_size=3),
        labelled=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=12),
        owners=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    )
    def begin(
        self,
        plan: int,
        found: list[list[tuple[int, str | None]]],
        labelled: list[tuple[int, int]],
        owners: list[int],
    ) -> None:
        self.logs = logs = Logs.empty(len(found))
        number = 0
        for partition, rows in enumerate(found):
            minute = 0
            for step, shop in rows:
                minute += step
                logs.events[partition].append(event(f"e{number}", minute, shop, float(2**number)))  # it tells who is in
                number += 1
        self.setting = setting(plan, len(found))
        if self.setting.pipeline.labels is not None:
            self._label(found, labelled)
        self.late: set[Place] = set()
        self.world = World(self.setting, logs, owners[: len(found)])
        self._define()
        self.tally["runs"] += 1
        self.tally["events"] += number

    def _label(self, found: list[list[tuple[int, str | None]]], labelled: list[tuple[int, int]]) -> None:
        places = [(partition, number) for partition, rows in enumerate(found) for number in range(len(rows))]
        for at, minutes in sorted(labelled, key=lambda drawn: drawn[1]) if places else ():
            partition, number = places[at % len(places)]
            of = self.logs.events[partition][number]
            assert of is not None
            minute = (of["at"] - self.logs.of("events", partition)[0]["at"]) // 60_000  # type: ignore[index]  # none is rejected
            first = self.logs.of("events", partition)[0]
            assert first is not None
            start = (first["at"] // 60_000) % 60
            self.logs.labels[partition].append(label(of["id"], start + minute + minutes, 1))

    def _define(self) -> None:
        """Per event, what its windows may be: with and without those that came too late."""
        self.expected: dict[Place, set[bytes]] = {}
        for count in range(len(self.late) + 1):
            for without in combinations(sorted(self.late), count):
                for place, row in bits(naive(self.logs, self.setting.windows, without)).items():
                    self.expected.setdefault(place, set()).add(row)

    # -- who acts ------------------------------------------------------------------------------------------------------
    #
    # A number is drawn, and stands for one of those that can.

    def _held(self, number: int) -> tuple[int, int]:
        """A worker, and a partition of which it believes to be the owner."""
        pairs = [(name, partition) for name, worker in self.world.workers.items() for partition in worker.flows]
        return pairs[number % len(pairs)]

    NUMBERS = st.integers(0, 11)

    # -- in ------------------------------------------------------------------------------------------------------------

    @rule(who=NUMBERS, count=st.integers(1, 4))
    def read(self, who: int, count: int) -> None:
        name, partition = self._held(who)
        worker = self.world.workers[name]
        worker.receive(partition, "events", count, self.logs)

    @rule(who=NUMBERS, count=st.integers(1, 4))
    def read_labels(self, who: int, count: int) -> None:
        """Without labels left, events need wait for no more."""
        name, partition = self._held(who)
        worker = self.world.workers[name]
        worker.receive(partition, "labels", count, self.logs)
        if worker.received[partition][1] == len(self.logs.labels[partition]):
            worker.let_go(partition)

    @rule(who=NUMBERS)
    def read_all(self, who: int) -> None:
        self.read(who, ALL)
        self.read_labels(who, ALL)

    # -- through -------------------------------------------------------------------------------------------------------

    @rule(who=NUMBERS, most=st.sampled_from([1, 1, 3]))
    def score(self, who: int, most: int) -> None:
        name, partition = self._held(who)
        self._check(partition, self.world.workers[name].step(partition, most))

    @rule()
    def score_all(self) -> None:
        for worker in self.world.workers.values():
            for partition in worker.flows:
                while rows := worker.step(partition, 3):
                    self._check(partition, rows)

    def _check(self, partition: int, rows: list[Row]) -> None:
        for row in rows:
            place = partition, row.offset
            assert not row.is_stale or place in self.late, f"{place} did not wait"
            assert row.is_stale or np.array(row.values).tobytes() in self.expected[place], (place, row.values)
        self.tally["scores"] += len(rows)

    @rule(who=NUMBERS)
    def be_silent(self, who: int) -> None:
        """A partition whose topics have been read to their ends is taken to have nothing for now."""
        name, partition = self._held(who)
        worker = self.world.workers[name]
        if worker.received[partition] == [len(self.logs.events[partition]), len(self.logs.labels[partition])]:
            worker.let_go(partition)
            until_ms = worker.others_ms(partition)
            if until_ms is not None:
                worker.flows[partition].come_to(until_ms)

    @precondition(lambda self: self.setting.pipeline.labels is None and len(self.late) < _MOST_LATE)
    @rule(partition=NUMBERS, before=st.integers(0, 12))
    def write_late(self, partition: int, before: int) -> None:
        """An event comes when its partition may have been taken to have none."""
        log = self.logs.events[partition % self.world.partitions]
        minutes = [(value["at"] // 60_000) % 60 for events in self.logs.events for value in events if value is not None]
        number = sum(map(len, self.logs.events))
        minute = max(0, max(minutes, default=0) - before)
        log.append(event(f"e{number}", minute, "a", float(2**number)))
        self.late.add((partition % self.world.partitions, 2 * (len(log) - 1)))
        self._define()
        self.tally["late"] += 1

    # -- out -----------------------------------------------------------------------------------------------------------

    @rule(who=NUMBERS)
    def drain(self, who: int) -> None:
        name, partition = self._held(who)
        self.world.workers[name].drain(partition)

    @rule(who=NUMBERS)
    def commit(self, who: int) -> None:
        name, partition = self._held(who)
        if self.world.owners[partition] == name:
            self.world.commit(partition)
        else:  # it is fenced, and dies of it
            self.crash(who, name)

    @rule()
    def commit_all(self) -> None:
        for partition in range(self.world.partitions):
            self.world.commit(partition)

    # -- what others say -----------------------------------------------------------------------------------------------

    @rule(who=NUMBERS, count=st.sampled_from([1, 2, ALL, ALL]))
    def hear(self, who: int, count: int) -> None:
        self.world.hear(self._held(who)[0], count)

    @rule()
    def hear_all(self) -> None:
        for name in self.world.workers:
            self.world.hear(name)

    @rule(partition=NUMBERS, count=st.sampled_from([1, ALL]), again=st.integers(0, 2))
    def answer(self, partition: int, count: int, again: int) -> None:
        partition %= self.world.partitions
        self.world.hear_questions(partition, count)
        self.world.answer(partition, again=again)

    @rule(partition=NUMBERS, count=st.sampled_from([1, ALL]))
    def hear_answers(self, partition: int, count: int) -> None:
        self.world.hear_answers(partition % self.world.partitions, count)

    @rule()
    def answer_all(self) -> None:
        for partition in range(self.world.partitions):
            self.world.hear_questions(partition)
            self.world.answer(partition)
        for partition in range(self.world.partitions):
            self.world.hear_answers(partition)

    # -- what should make no difference --------------------------------------------------------------------------------

    @rule(who=NUMBERS, heir=st.integers(0, 2))
    def crash(self, who: int, heir: int) -> None:
        self.world.crash(self._held(who)[0], heir)
        self.tally["crashes"] += 1

    @rule()
    def crash_all(self) -> None:
        for name in list(self.world.workers):
            if name in self.world.workers:
                self.world.crash(name, name)
                self.tally["crashes"] += 1

    @rule(who=NUMBERS, heir=st.integers(0, 2))
    def take_away(self, who: int, heir: int) -> None:
        """A partition goes to another worker, and its owner knows."""
        name, partition = self._held(who)
        if self.world.owners[partition] == name != heir:
            self.world.move(partition, heir)
            self.tally["take-overs"] += 1

    @rule(who=NUMBERS, heir=st.integers(0, 2))
    def usurp(self, who: int, heir: int) -> None:
        """A partition goes to another worker, and its owner does not know yet."""
        name, partition = self._held(who)
        if self.world.owners[partition] == name != heir:
            self.world.usurp(partition, heir)
            self.tally["take-overs"] += 1

    @rule(who=NUMBERS)
    def tell_owner(self, who: int) -> None:
        """A worker learns which partitions it has."""
        self.world.own(self._held(who)[0])

    @rule(partition=NUMBERS, before=st.integers(0, 20))
    def compact(self, partition: int, before: int) -> None:
        self.world.topics = self.world.topics.compact(partition % self.world.partitions, before)

    @rule(partition=NUMBERS)
    def delete(self, partition: int) -> None:
        self.world.delete(partition % self.world.partitions)

    @rule(partition=NUMBERS)
    def begin_answering(self, partition: int) -> None:
        """Another owner of a part of the keys begins."""
        partition %= self.world.partitions
        if self.setting.plan.shared.repartitioned():
            self.world.owner(partition).begin_answering(partition, self.world.topics)

    # -- the end -------------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        for name in list(self.world.workers):
            self.world.own(name)
        self.world.finish()
        assert self.world.rows.keys() == self.expected.keys()
        for (partition, _), row in self.world.rows.items():
            self._check(partition, [row])
