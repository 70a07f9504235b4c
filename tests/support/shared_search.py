"""Every order in which workers can read, tell, score, commit, die and forget: searched to the end, for small logs.

A state of the search is what is committed and what each worker knows; equal states are visited once. What a worker
does depends on nothing but what it knows and what it is given, so each of its steps is computed once, however many
states of the others it is met with. Shortest ways first: a broken law is told by the fewest steps that break it.
"""

from __future__ import annotations

import io
import pickle
import types
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple
from weakref import WeakSet

import msgspec
import numpy as np
from shared_logs import Logs, Place, Setting, naive
from shared_world import Row, Topics, Worker

from app.core.counts.buffer import SketchBuffer
from app.core.features.plan import FeaturePlan
from app.core.features.windows import FeatureState
from app.core.intake.rejection_limit import RejectionLimit
from app.core.shared.plan import SharedPlan
from schemas.pipeline.spec import Pipeline

# -- workers as values -----------------------------------------------------------------------------------------------

#: What no worker changes.
_FIXED = (types.BuiltinFunctionType, types.FunctionType, types.MethodType, FeaturePlan, Pipeline, SharedPlan, Setting)
_fixed: dict[int, Any] = {}


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, _FIXED) or (isinstance(obj, type) and issubclass(obj, msgspec.Struct)):
            _fixed[id(obj)] = obj
            return id(obj)
        return None

    def reducer_override(self, obj: Any) -> Any:
        return (WeakSet, (list(obj),)) if isinstance(obj, WeakSet) else NotImplemented


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return _fixed[pid]


def _dump(worker: Worker) -> bytes:
    into = io.BytesIO()
    _Pickler(into, pickle.HIGHEST_PROTOCOL).dump(worker)
    return into.getvalue()


def _load(dumped: bytes) -> Worker:
    worker: Worker = _Unpickler(io.BytesIO(dumped)).load()
    return worker


_PLAIN = {type(None), bool, int, float, str, bytes}
#: Kinds whose values say nothing of how a worker of shared windows will behave; the cursors in a set are met elsewhere.
_SKIPPED = (*_FIXED, type, WeakSet, RejectionLimit, SketchBuffer, FeatureState)
_names: dict[type, tuple[str, ...] | None] = {}


def _names_of(kind: type) -> tuple[str, ...] | None:
    if issubclass(kind, _SKIPPED):
        return None
    slots = [name for of in kind.__mro__ for name in getattr(of, "__slots__", ()) if name != "__weakref__"]
    return (*slots, *getattr(kind, "__struct_fields__", ()))


def _canonical(thing: Any, seen: dict[int, int]) -> Any:  # noqa: PLR0911  # a case for each kind of value
    """The same for what behaves alike, whatever its identity and the order of its keys."""
    kind = type(thing)
    if kind in _PLAIN:
        return thing
    if kind is np.ndarray:
        return thing.shape, thing.tobytes() if thing.dtype != object else tuple(thing.tolist())
    if id(thing) in seen:
        return seen[id(thing)]
    seen[id(thing)] = len(seen)
    if issubclass(kind, dict):
        return tuple(
            [(_canonical(key, seen), _canonical(value, seen)) for key, value in sorted(thing.items(), key=_by_key)]
        )
    if kind in (list, tuple, deque):
        return tuple([_canonical(one, seen) for one in thing])
    if kind is set:
        return tuple(sorted(thing))
    if kind not in _names:
        _names[kind] = _names_of(kind)
    names = _names[kind]
    if names is None:
        return None
    own = tuple([_canonical(value, seen) for value in vars(thing).values()]) if hasattr(thing, "__dict__") else ()
    return kind, own, tuple([_canonical(getattr(thing, name), seen) for name in names])


def _by_key(item: tuple[Any, Any]) -> str:
    return repr(item[0])


# -- the search --------------------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """Numbers of what the workers know (None: it does not live) and of what is committed.

    ``heard``: per worker and partition, up to which offset. ``written``: events of each partition that there are by
    now. ``crashes``, ``changes``: so far.
    """

    workers: tuple[int | None, ...]
    topics: int
    owners: tuple[int, ...]
    heard: tuple[tuple[int, ...], ...]
    written: tuple[int, ...]
    crashes: int
    changes: int


class BrokenLawError(AssertionError):
    """A score is wrong or never comes; with the shortest way there."""


@dataclass
class Search:
    """All that can happen to workers over logs of events.

    Parameters
    ----------
    owners
        The worker of each partition at first.
    written
        Events of each partition that are there from the beginning; the others may come when the partition has been
        taken to be silent. None: all.
    crashes, changes
        How often a worker dies, and a partition changes hands while both live, at the most.
    mortals
        The workers that may die; None: all.
    with_heirs
        Whether one that lives may have the partitions of one that has died.
    is_slow
        Whether anything may happen between a drain and its commit, and between an answer and that it is heard.
    most_states
        Where it ends without having seen all.
    """

    setting: Setting
    logs: Logs
    owners: tuple[int, ...]
    workers: int = 2
    written: tuple[int, ...] | None = None
    crashes: int = 1
    changes: int = 0
    mortals: tuple[int, ...] | None = None
    with_heirs: bool = False
    is_slow: bool = False
    most_states: int = 10**9
    #: States visited, steps between them, and steps of a worker computed.
    states: int = 0
    steps: int = 0
    computed: int = 0
    _workers: list[bytes] = field(default_factory=list)
    _worker_numbers: dict[Any, int] = field(default_factory=dict)
    _topics: list[Topics] = field(default_factory=list)
    _topics_numbers: dict[Topics, int] = field(default_factory=dict)
    _known: dict[Any, tuple[int, Any]] = field(default_factory=dict)
    _came: dict[_State, tuple[_State, str] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._partitions = range(len(self.owners))
        self._ends = tuple(map(len, self.logs.events))
        written = self.written or self._ends
        self._late = late = [(p, n * 2) for p in self._partitions for n in range(written[p], self._ends[p])]
        #: Per event, what its windows may be: with and without those that came too late.
        self._expected: dict[Place, set[bytes]] = {}
        for count in range(len(late) + 1):
            for without in combinations(late, count):
                for place, row in naive(self.logs, self.setting.windows, without).items():
                    self._expected.setdefault(place, set()).add(np.array(row).tobytes())

    def run(self) -> bool:
        """Visit all states; whether there was an end to them.

        Raises
        ------
        BrokenLawError
            When a score is wrong, or there is a state from which not all events will be scored.
        """
        empty, nothing = Topics.empty(len(self.owners)), (0,) * len(self.owners)
        workers = tuple(self._start(number, self.owners, empty, 1) for number in range(self.workers))
        heard = (nothing,) * self.workers
        first = self._tidy(_State(workers, 0, self.owners, heard, self.written or self._ends, 0, 0), empty)
        self._came[first] = None
        leads: dict[_State, list[_State]] = {}
        queue = deque([first])
        while queue and len(self._came) < self.most_states:
            state = queue.popleft()
            for words, after in self._moves(state):
                self.steps += 1
                leads.setdefault(after, []).append(state)
                if after not in self._came:
                    self._came[after] = state, words
                    queue.append(after)
        self.states = len(self._came)
        if not queue:
            self._check_ends(leads)
        return not queue

    def _check_ends(self, leads: dict[_State, list[_State]]) -> None:
        """From every state there is a way to where everything is scored."""
        ends = [s for s in self._came if tuple(events for events, _ in self._topics[s.topics].next) == self._ends]
        reached, queue = set(ends), deque(ends)
        while queue:
            for before in leads.get(queue.popleft(), ()):
                if before not in reached:
                    reached.add(before)
                    queue.append(before)
        stuck = next((state for state in self._came if state not in reached), None)
        if stuck is not None:
            raise BrokenLawError("\n".join(["Events wait for ever after:", *self._way(stuck)]))

    def _way(self, state: _State) -> list[str]:
        words = []
        while (before := self._came[state]) is not None:
            state, word = before
            words.append(word)
        return words[::-1]

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _local(self, key: Any, number: int | None, act: Callable[[Worker], Any]) -> tuple[int, Any]:
        """What a worker becomes, and what it gives; computed once."""
        found = self._known.get(key)
        if found is None:
            worker = Worker(self.setting, len(self.owners)) if number is None else _load(self._workers[number])
            given = act(worker)
            after = self._worker_numbers.setdefault(_canonical(worker, {}), len(self._workers))
            if after == len(self._workers):
                self._workers.append(_dump(worker))
            found = self._known[key] = after, given
            self.computed += 1
        return found

    def _tidy(self, state: _State, topics: Topics) -> _State:
        """The state with these topics; what all have heard is compacted, and offsets are counted anew."""
        heard = [list(places) for places in state.heard]
        for partition in self._partitions:
            followers = [
                heard[n] for n, owner in enumerate(state.workers) if owner is not None and state.owners[partition] != n
            ]
            log = topics.compact(partition, min((places[partition] for places in followers), default=0)).shared[
                partition
            ]
            for places in followers:
                places[partition] = sum(record[0] < places[partition] for record in log)
            log = tuple((number, key, value) for number, (_, key, value) in enumerate(log))
            topics = replace(topics, shared=_put(topics.shared, partition, log))
        number = self._topics_numbers.setdefault(topics, len(self._topics))
        if number == len(self._topics):
            self._topics.append(topics)
        return state._replace(topics=number, heard=tuple(map(tuple, heard)))

    # -- what can happen -----------------------------------------------------------------------------------------------

    def _moves(self, state: _State) -> Iterator[tuple[str, _State]]:
        topics = self._topics[state.topics]
        for number, worker in enumerate(state.workers):
            if worker is None:
                continue
            for partition in self._partitions:
                if state.owners[partition] == number:
                    yield from self._moves_of(state, number, partition, topics)
                    yield from self._changes_of(state, number, partition, topics)
                else:
                    yield from self._hear(state, number, partition, topics)
            if state.crashes < self.crashes and (self.mortals is None or number in self.mortals):
                yield from self._deaths(state, number, topics)
        for partition in self._partitions:
            if state.written[partition] < self._ends[partition]:
                yield (
                    f"an event of {partition} comes late",
                    state._replace(written=_put(state.written, partition, state.written[partition] + 1)),
                )

    def _moves_of(self, state: _State, number: int, partition: int, topics: Topics) -> Iterator[tuple[str, _State]]:
        """What the owner of a partition does."""
        worker, written = state.workers[number], state.written[partition]

        def local(key: Any, act: Callable[[Worker], Any]) -> tuple[_State, Any]:
            after, given = self._local((worker, partition, key), worker, act)
            return state if after == worker else state._replace(workers=_put(state.workers, number, after)), given

        after, _ = local(("reads", written), lambda w: self._read(w, partition, written))
        yield from _changed(f"{partition} reads", state, after)
        after, _ = local(("is silent", written), lambda w: self._idle(w, partition, written))
        yield from _changed(f"{partition} is silent", state, after)
        after, rows = local("scores", lambda w: self._score(w, partition))
        self._check(state, partition, rows)
        yield from _changed(f"{partition} scores", state, after)
        if self.is_slow:
            after, _ = local("drains", lambda w: self._drain(w, partition))
            yield from _changed(f"{partition} drains", state, after)
        after, transaction = local("commits", lambda w: self._commit(w, partition))
        if transaction is not None:
            yield f"{partition} commits", self._tidy(after, topics.commit(partition, transaction))
        if not self.setting.plan.shared.repartitioned():
            return
        after, answers = local(("answers", topics.asked[partition]), lambda w: self._answer(w, partition, topics))
        answered = topics.answer(answers)
        if not self.is_slow:
            for asker in self._partitions:
                after = self._hear_answers(after, asker, answered)
        yield from _changed(f"{partition} answers", state, self._tidy(after, answered))
        if self.is_slow:
            after = self._hear_answers(state, partition, topics)
            yield from _changed(f"{partition} hears answers", state, after)
        _, needless = local("deletes", lambda w: w.needless(partition))
        yield from _changed(f"{partition} deletes", state, self._tidy(state, topics.delete(partition, *needless)))

    def _hear_answers(self, state: _State, partition: int, topics: Topics) -> _State:
        number = state.owners[partition]
        key = state.workers[number], partition, "hears", topics.answers[partition]
        after, _ = self._local(key, state.workers[number], lambda w: w.hear_answers(partition, topics))
        return state._replace(workers=_put(state.workers, number, after))

    def _hear(self, state: _State, number: int, partition: int, topics: Topics) -> Iterator[tuple[str, _State]]:
        worker = state.workers[number]
        new = topics.after(partition, state.heard[number][partition])
        key = worker, partition, "told", tuple((key, value) for _, key, value in new)
        after, _ = self._local(key, worker, lambda w: w.hear(partition, new, is_end=True))
        if after != worker:
            heard = _put(state.heard, number, _put(state.heard[number], partition, topics.end(partition)))
            after_all = state._replace(workers=_put(state.workers, number, after), heard=heard)
            yield f"worker {number} hears {partition}", self._tidy(after_all, topics)

    def _deaths(self, state: _State, number: int, topics: Topics) -> Iterator[tuple[str, _State]]:
        """A worker starts again; or another has its partitions."""
        heard = _put(state.heard, number, (0,) * len(self.owners))
        died = state._replace(crashes=state.crashes + 1, heard=heard)
        again = self._start(number, state.owners, topics, self._term(died))
        yield (
            f"worker {number} dies and starts again",
            self._tidy(died._replace(workers=_put(state.workers, number, again)), topics),
        )
        for heir, worker in enumerate(state.workers):
            if worker is not None and heir != number and self.with_heirs:
                owners = tuple(heir if owner == number else owner for owner in state.owners)
                gone = died._replace(workers=_put(state.workers, number, None), owners=owners)
                yield f"worker {number} dies, and {heir} takes over", self._tidy(self._own(gone, heir, topics), topics)

    def _changes_of(self, state: _State, number: int, partition: int, topics: Topics) -> Iterator[tuple[str, _State]]:
        """The partition is given to another worker; its owner has committed all it had to."""
        if state.changes == self.changes:
            return
        _, is_ready = self._local(
            (state.workers[number], partition, "parks"),
            state.workers[number],
            lambda w: not w.wants_drain(partition) and not w.outbox[partition],
        )
        for heir, worker in enumerate(state.workers):
            if is_ready and worker is not None and heir != number:
                given = state._replace(owners=_put(state.owners, partition, heir), changes=state.changes + 1)
                heard = _put(given.heard, number, _put(given.heard[number], partition, 0))
                given = self._own(given._replace(heard=heard), number, topics)
                yield f"{partition} is given to worker {heir}", self._tidy(self._own(given, heir, topics), topics)

    def _start(self, number: int, owners: tuple[int, ...], topics: Topics, term: int) -> int:
        mine = [partition for partition in self._partitions if owners[partition] == number]
        return self._local(
            ("starts", _read(topics, mine), term), None, lambda w: self._take_over(w, mine, topics, term)
        )[0]

    def _own(self, state: _State, number: int, topics: Topics) -> _State:
        """A worker that lives has other partitions than before."""
        mine = [partition for partition in self._partitions if state.owners[partition] == number]
        worker, term = state.workers[number], self._term(state)
        key = worker, "owns", _read(topics, mine), term
        after, _ = self._local(key, worker, lambda w: self._take_over(w, mine, topics, term))
        return state._replace(workers=_put(state.workers, number, after))

    @staticmethod
    def _take_over(worker: Worker, mine: Collection[int], topics: Topics, term: int) -> None:
        worker.own(mine)
        for partition in mine:
            if partition not in worker.flows:
                worker.take_over(partition, topics, term)

    @staticmethod
    def _term(state: _State) -> int:
        return 1 + state.crashes + state.changes

    # -- what a worker does --------------------------------------------------------------------------------------------

    def _read(self, worker: Worker, partition: int, written: int) -> None:
        if worker.received[partition][0] < written:
            worker.receive(partition, "events", 1, self.logs)

    def _idle(self, worker: Worker, partition: int, written: int) -> None:
        until_ms = worker.others_ms(partition)
        if worker.received[partition][0] == written and until_ms is not None:
            worker.flows[partition].come_to(until_ms)

    @staticmethod
    def _score(worker: Worker, partition: int) -> list[Row]:
        rows = []
        while more := worker.step(partition, 10):
            rows += more
        return rows

    @staticmethod
    def _drain(worker: Worker, partition: int) -> None:
        if not worker.outbox[partition] and worker.wants_drain(partition):
            worker.drain(partition)

    def _commit(self, worker: Worker, partition: int) -> Any:
        if not self.is_slow:
            self._drain(worker, partition)
        return worker.commit(partition) if worker.outbox[partition] else None

    @staticmethod
    def _answer(worker: Worker, partition: int, topics: Topics) -> list[tuple[int, bytes]]:
        worker.hear_questions(partition, topics)
        return worker.answer(partition)

    def _check(self, state: _State, partition: int, rows: list[Row]) -> None:
        for row in rows:
            expected = self._expected[partition, row.offset]
            if row.is_stale and (partition, row.offset) not in self._late:
                last = f"{partition} scores offset {row.offset} as stale, and nothing is late"
                raise BrokenLawError("\n".join(["An event has not waited after:", *self._way(state), last]))
            if np.array(row.values).tobytes() not in expected and not row.is_stale:
                says = [list(np.frombuffer(one)) for one in expected]
                last = f"{partition} scores offset {row.offset} with {row.values} instead of any of {says}"
                raise BrokenLawError("\n".join(["A window is wrong after:", *self._way(state), last]))


def _changed(words: str, before: _State, after: _State) -> Iterator[tuple[str, _State]]:
    if after != before:
        yield words, after


def _read(topics: Topics, partitions: Collection[int]) -> tuple[Any, ...]:
    """What a new owner of partitions reads."""
    return tuple(
        (at, topics.shared[at], topics.state[at], topics.next[at], topics.asked[at], topics.answers[at])
        for at in partitions
    )


def _put(of: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*of[:at], value, *of[at + 1 :])
