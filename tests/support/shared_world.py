"""Workers that share windows, without Kafka: what is committed, and what each of them knows.

`Topics` is all that outlives a worker. `Worker` does what `app.worker.worker`, `app.worker.shared_feed` and
`app.worker.repartition_feed` do with it, one step at a time, so that a test can put any step before any other.

Over 300 lines: what is committed, who reads it and what happens to both are one model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from shared_logs import NOW_MS, Logs, Place, Setting

from app.core.shared.answerer import Answerer
from app.core.shared.board import SharedBoard
from app.flow.step import FlowOutput, Step
from app.pipeline import PartitionPipeline

ALL = 10**6
_MOST_ROUNDS = 300

#: Offset, key and value.
Record = tuple[int, bytes, bytes | None]
#: Offset of the first record that is left, and the records.
Rest = tuple[int, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Row:
    """A scored event: its offset, its shared columns, and whether its score says that it did not wait."""

    offset: int
    values: tuple[float, ...]
    is_stale: bool


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a commit of one partition holds. ``next``: the events and labels to go on with."""

    shared: tuple[tuple[bytes, bytes | None], ...]
    state: tuple[tuple[bytes, bytes | None], ...]
    asked: tuple[tuple[int, bytes], ...]
    next: tuple[int | None, int | None]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Topics:
    """All that is committed, per partition. ``next``: the numbers of the next event and label to read."""

    shared: tuple[tuple[Record, ...], ...]
    state: tuple[tuple[tuple[bytes, bytes], ...], ...]
    next: tuple[tuple[int, int], ...]
    asked: tuple[Rest, ...]
    answers: tuple[Rest, ...]

    @classmethod
    def empty(cls, partitions: int) -> Topics:
        nothing: tuple[Rest, ...] = ((0, ()),) * partitions
        return cls(((),) * partitions, ((),) * partitions, ((0, 0),) * partitions, nothing, nothing)

    def commit(self, partition: int, transaction: Transaction) -> Topics:
        log, end = self.shared[partition], self.end(partition)
        log += tuple((end + at, key, value) for at, (key, value) in enumerate(transaction.shared))
        state = dict(self.state[partition])
        for key, value in transaction.state:
            state.pop(key, None)  # the last one counts, and has the last place
            if value is not None:
                state[key] = value
        asked = list(self.asked)
        for to, record in transaction.asked:
            asked[to] = asked[to][0], (*asked[to][1], record)
        events, labels = (
            old if at is None else (at + 1) // 2 for old, at in zip(self.next[partition], transaction.next, strict=True)
        )
        return replace(
            self,
            shared=_put(self.shared, partition, log),
            state=_put(self.state, partition, tuple(state.items())),
            next=_put(self.next, partition, (events, labels)),
            asked=tuple(asked),
        )

    def end(self, partition: int) -> int:
        """Offset after the last record of ``<p>.shared``."""
        log = self.shared[partition]
        return log[-1][0] + 1 if log else 0

    def after(self, partition: int, offset: int) -> tuple[Record, ...]:
        """The records of ``<p>.shared`` from an offset on."""
        return tuple(record for record in self.shared[partition] if record[0] >= offset)

    def answer(self, answers: Iterable[tuple[int, bytes]]) -> Topics:
        found = list(self.answers)
        for to, record in answers:
            found[to] = found[to][0], (*found[to][1], record)
        return replace(self, answers=tuple(found))

    def compact(self, partition: int, before: int) -> Topics:
        """Of the records of ``<p>.shared`` before an offset, those stay that no later one of them replaces.

        A tombstone stays: a broker keeps it for a day.
        """
        newest = {key: offset for offset, key, _ in self.shared[partition] if offset < before}
        log = tuple(record for record in self.shared[partition] if newest.get(record[1], record[0]) <= record[0])
        return replace(self, shared=_put(self.shared, partition, log))

    def delete(self, partition: int, asked: int | None, answers: int) -> Topics:
        """Delete the records of the two topics of questions and answers before these places."""
        return replace(
            self,
            asked=_put(self.asked, partition, _without(self.asked[partition], asked or 0)),
            answers=_put(self.answers, partition, _without(self.answers[partition], answers)),
        )

    def forget_state(self, partition: int) -> Topics:
        """Somebody deletes the changelog of a partition, as the manual says."""
        return replace(self, state=_put(self.state, partition, ()))


class Worker:
    """One process: a board, the flows of its partitions, and the questions that it answers for them.

    ``received``: how many records of events and labels each flow has. ``outbox``: drained and not committed.
    """

    def __init__(self, setting: Setting, partitions: int) -> None:
        self.setting = setting
        self.board = SharedBoard(setting.plan.shared, range(partitions))
        self.flows: dict[int, PartitionPipeline] = {}
        self.received: dict[int, list[int]] = {}
        self.rows: dict[int, list[Row]] = {}
        self.outbox: dict[int, deque[Transaction]] = {}
        self.followed: set[int] = set()
        self.answerers: dict[int, Answerer] = {}
        self.asked: dict[int, int] = {}
        self.answers: dict[int, int] = {}
        #: By partition, what tells its producer from those of owners before and after.
        self.epochs: dict[int, int] = {}
        self._divided = setting.plan.shared.repartitioned()

    # -- as the worker, when partitions are given and taken ------------------------------------------------------------

    def own(self, partitions: Collection[int]) -> None:
        """Let go of all partitions but these, and follow the others."""
        for partition in [partition for partition in self.flows if partition not in partitions]:
            for of in (
                self.flows,
                self.received,
                self.rows,
                self.outbox,
                self.answerers,
                self.asked,
                self.answers,
                self.epochs,
            ):
                of.pop(partition, None)  # type: ignore[attr-defined]  # dicts all
        others = set(self.board.added_ms) - set(partitions)
        for partition in sorted(others - self.followed):
            self.board.hear_anew(partition)
        self.followed = others

    def take_over(self, partition: int, topics: Topics, term: int) -> None:
        """Fence the former owner, read what it has committed, and go on from there."""
        self.epochs[partition] = term
        self.board.hear_anew(partition)
        for _, key, value in topics.shared[partition]:
            self.board.hear(partition, key, value)
        self.board.caught_up(partition)
        flow = PartitionPipeline(
            self.setting.pipeline,
            self.setting.plan,
            partition,
            outputs=FlowOutput.STATE,
            board=self.board,
            term_ms=term,
        )
        flow.restore(topics.state[partition])
        self.flows[partition] = flow
        self.received[partition] = list(topics.next[partition])
        self.rows[partition], self.outbox[partition] = [], deque()
        if flow.shared is not None and flow.shared.repartition is not None:
            self.answers[partition] = flow.shared.repartition.answers.position(0)
            self.begin_answering(partition, topics)

    # -- as the task of a partition ------------------------------------------------------------------------------------

    def receive(self, partition: int, kind: str, count: int, logs: Logs) -> None:
        which = 0 if kind == "events" else 1
        start = self.received[partition][which]
        batch = logs.batch(kind, partition, start, start + count)
        if not len(batch):
            return
        self.received[partition][which] += len(batch)
        if kind == "events":
            self.flows[partition].receive_events(batch)
        else:
            self.flows[partition].receive_labels(batch, NOW_MS)
        self.flows[partition].share()

    def let_go(self, partition: int) -> None:
        """All labels that there are have been received: events need wait for no more."""
        merge = self.flows[partition].merge
        merge.let_go(merge.events_received)
        self.flows[partition].share()

    def step(self, partition: int, most: int) -> list[Row]:
        rows: list[Row] = []
        while not rows and (step := self.flows[partition].step(None, most, NOW_MS)) is not None:
            rows = rows_of(step)  # none for labels alone
        self.rows[partition] += rows
        return rows

    def wants_drain(self, partition: int) -> bool:
        shared = self.flows[partition].shared
        return bool(self.rows[partition]) or (shared is not None and shared.has_news)

    def drain(self, partition: int) -> None:
        flow = self.flows[partition]
        state = tuple(flow.drain_state())
        position = flow.position()
        self.outbox[partition].append(
            Transaction(
                tuple(flow.drain_shared()),
                state,
                tuple(flow.drain_repartition()),
                (position.events, position.labels),
                tuple(self.rows[partition]),
            )
        )
        self.rows[partition] = []

    def commit(self, partition: int) -> Transaction:
        """The oldest that was drained has been committed."""
        transaction = self.outbox[partition].popleft()
        self.flows[partition].state_committed(0, NOW_MS)
        return transaction

    def others_ms(self, partition: int) -> int | None:
        """How far a silent partition may be taken to have come."""
        flow = self.flows[partition]
        return None if flow.shared is None or flow.takes_no_more else flow.shared.others_ms

    # -- as the feed of shared windows ---------------------------------------------------------------------------------

    def hear(self, partition: int, records: Iterable[Record], *, is_end: bool) -> None:
        """Take the next records of a partition that is followed; the first ones after `own` are those of its beginning.

        ``is_end``: those that were there at `own` have all been heard.
        """
        for _, key, value in records:
            self.board.hear(partition, key, value)
        if is_end and self.board.is_anew(partition):
            self.board.caught_up(partition)

    # -- as the feed of repartitioned windows --------------------------------------------------------------------------

    def begin_answering(self, partition: int, topics: Topics) -> None:
        """A new owner of a part of the keys hears what is left of the topic, and then begins to answer."""
        partitions = len(self.board.added_ms)
        self.answerers[partition] = Answerer(
            self._divided, self.setting.pipeline.feature_set, range(partitions), group=2
        )
        self.asked[partition] = topics.asked[partition][0]
        self.hear_questions(partition, topics, ALL)

    def hear_questions(self, partition: int, topics: Topics, count: int = ALL) -> None:
        if partition not in self.answerers:
            return
        first, records = topics.asked[partition]
        place = max(first, self.asked[partition])
        for record in records[place - first : place - first + count]:
            self.answerers[partition].hear(place, record)
            place += 1
        self.asked[partition] = place
        if self.answerers[partition].is_outdated:
            self.answerers[partition] = self.answerers[partition].begin_anew()
            self.asked[partition] = first
            self.hear_questions(partition, topics, place - first)

    def answer(self, partition: int) -> list[tuple[int, bytes]]:
        return self.answerers[partition].answer() if partition in self.answerers else []

    def hear_answers(self, partition: int, topics: Topics, count: int = ALL) -> None:
        shared = self.flows[partition].shared
        if shared is None or shared.repartition is None:
            return
        first, records = topics.answers[partition]
        place = max(first, self.answers[partition])
        for record in records[place - first : place - first + count]:
            shared.repartition.hear(place, record)
            place += 1
        self.answers[partition] = place

    def needless(self, partition: int) -> tuple[int | None, int]:
        """Up to where the owner of a partition deletes questions and answers."""
        shared, answerer = self.flows[partition].shared, self.answerers.get(partition)
        if shared is None or shared.repartition is None or answerer is None:
            return None, 0
        scored = answerer.next_offset(partition)
        return answerer.needed_place(), shared.repartition.answers.position(scored)


def rows_of(step: Step) -> list[Row]:
    """The shared columns of a step's events."""
    return [
        Row(offset, tuple(row), step.is_stale)
        for offset, row in zip(step.events.offsets.tolist(), step.matrix.tolist(), strict=True)
    ]


# -- many workers ------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """Workers that live side by side, for tests that tell them what to do.

    ``owners``: the worker of each partition. ``rows``: what was committed. ``heard``: up to which offset a worker has
    heard a partition, and where that ended when it began. ``terms``: states that began.
    """

    setting: Setting
    logs: Logs
    owners: list[int]
    topics: Topics = field(init=False)
    workers: dict[int, Worker] = field(default_factory=dict)
    rows: dict[Place, Row] = field(default_factory=dict)
    heard: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    terms: int = 0
    #: The newest epoch of each partition's producers: those of others commit nothing any more.
    fences: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = Topics.empty(self.partitions)
        for number in sorted(set(self.owners)):
            self.start(number)

    @property
    def partitions(self) -> int:
        return len(self.owners)

    def of(self, number: int) -> list[int]:
        return [partition for partition, owner in enumerate(self.owners) if owner == number]

    def owner(self, partition: int) -> Worker:
        return self.workers[self.owners[partition]]

    def flow(self, partition: int) -> PartitionPipeline:
        return self.owner(partition).flows[partition]

    # -- life and death ------------------------------------------------------------------------------------------------

    def start(self, number: int) -> None:
        """A process that knows nothing takes over its partitions."""
        self.workers[number] = Worker(self.setting, self.partitions)
        self.own(number)

    def crash(self, number: int, heir: int) -> None:
        """A worker dies. Another (which may not live yet, or be its own successor) has its partitions."""
        del self.workers[number]
        self.owners = [heir if owner == number else owner for owner in self.owners]
        self._begin(heir)

    def move(self, partition: int, heir: int) -> None:
        """A partition goes to another worker while both live; its owner has committed what it was asked to."""
        former = self.owners[partition]
        self.usurp(partition, heir)
        self.own(former)

    def die_if_fenced(self, partition: int) -> None:
        """The owner may have it again from one that it has not heard of: then its commit is refused, and it dies."""
        number = self.owners[partition]
        if self.workers[number].epochs[partition] != self.fences[partition]:
            self.crash(number, number)

    def usurp(self, partition: int, heir: int) -> None:
        """A partition goes to another worker, and its owner does not know yet: it goes on, and must not commit."""
        self.owners[partition] = heir
        self._begin(heir)

    def _begin(self, number: int) -> None:
        if number in self.workers:
            self.own(number)
        else:
            self.start(number)

    def own(self, number: int) -> None:
        """A worker learns which partitions it has."""
        worker = self.workers[number]
        former = worker.followed
        worker.own(self.of(number))
        self.heard = {
            at: place for at, place in self.heard.items() if at[0] != number or at[1] in former & worker.followed
        }
        for partition in self.of(number):
            if partition not in worker.flows:
                self.terms += 1
                self.fences[partition] = self.terms
                worker.take_over(partition, self.topics, self.terms)

    # -- what goes on --------------------------------------------------------------------------------------------------

    def receive(self, kind: str, partition: int, count: int) -> None:
        self.owner(partition).receive(partition, kind, count, self.logs)

    def read(self, partition: int, count: int) -> None:
        """Read events that need not wait for labels."""
        self.receive("events", partition, count)
        self.owner(partition).let_go(partition)

    def step(self, partition: int, most: int) -> list[Row]:
        return self.owner(partition).step(partition, most)

    def drain(self, partition: int) -> None:
        self.owner(partition).drain(partition)

    def commit(self, partition: int) -> None:
        """Commit all that has been drained, or what can be drained now."""
        self.die_if_fenced(partition)
        owner = self.owner(partition)
        if not owner.outbox[partition]:
            owner.drain(partition)
        while owner.outbox[partition]:
            transaction = owner.commit(partition)
            self.topics = self.topics.commit(partition, transaction)
            for row in transaction.rows:
                assert (partition, row.offset) not in self.rows
                self.rows[partition, row.offset] = row

    def hear(self, number: int, count: int = ALL) -> None:
        worker = self.workers[number]
        for partition in worker.followed:
            place, end = self.heard.get((number, partition), (0, self.topics.end(partition)))
            new = self.topics.after(partition, place)[:count]
            place = new[-1][0] + 1 if new else place
            worker.hear(partition, new, is_end=place >= end)
            self.heard[number, partition] = place, end

    def hear_questions(self, partition: int, count: int = ALL) -> None:
        self.owner(partition).hear_questions(partition, self.topics, count)

    def answer(self, partition: int, *, again: int = 0) -> None:
        """Send what can be answered; ``again``: some records of the topic are heard once more before."""
        owner = self.owner(partition)
        if again and partition in owner.answerers:
            first, records = self.topics.asked[partition]
            place = owner.asked[partition]
            for old in range(max(first, place - again), place):
                owner.answerers[partition].hear(old, records[old - first])
        self.topics = self.topics.answer(owner.answer(partition))

    def hear_answers(self, partition: int, count: int = ALL) -> None:
        self.owner(partition).hear_answers(partition, self.topics, count)

    def idle(self, partition: int) -> int | None:
        """A partition has long been read to its end; to where it was moved on."""
        owner = self.owner(partition)
        until_ms = owner.others_ms(partition)
        if until_ms is not None:
            owner.flows[partition].come_to(until_ms)
        return until_ms

    def delete(self, partition: int) -> None:
        self.topics = self.topics.delete(partition, *self.owner(partition).needless(partition))

    def finish(self) -> None:
        """Read all there is, then let every partition be silent, until nothing moves any more."""
        for partition in range(self.partitions):
            self.die_if_fenced(partition)
        for partition in range(self.partitions):
            for kind in ("labels", "events"):
                self.receive(kind, partition, ALL)
            self.owner(partition).let_go(partition)
        quiet, before, rounds = 0, None, 0
        while quiet < 2:  # in the first of them some have heard of the others, and not acted on it yet
            quiet = quiet + 1 if before == (len(self.rows), self.topics) else 0
            before, rounds = (len(self.rows), self.topics), rounds + 1
            assert rounds < _MOST_ROUNDS, "workers tell each other something for ever"
            for partition in range(self.partitions):
                self.hear_questions(partition)
                self.answer(partition)
            for partition in range(self.partitions):
                self.hear_answers(partition)
                while self.step(partition, 3):
                    pass
                self.idle(partition)
                if self.owner(partition).wants_drain(partition) or self.owner(partition).outbox[partition]:
                    self.commit(partition)
            for number in self.workers:
                self.hear(number)

    def values(self, *, stale: bool = True) -> dict[Place, list[float]]:
        """The shared columns of what was committed."""
        return {place: list(row.values) for place, row in self.rows.items() if stale or not row.is_stale}


def _put(of: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*of[:at], value, *of[at + 1 :])


def _without(rest: Rest, place: int) -> Rest:
    first, records = rest
    return max(first, place), records[max(0, place - first) :]
