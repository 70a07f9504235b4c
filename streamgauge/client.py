"""Clients of the scoring hook: `Client` for threads, `AsyncClient` for an event loop.

Examples
--------
    with Client("http://10.0.3.7:8080", "http://10.0.3.8:8080", entity="card") as client:
        answer = client.score({"id": "e1", "card": "c7", "at": 1600000000000, "amount": 12.5})
        if answer.decision: ...

docs/hook-client.md says what is asked again, and when.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self, TypeVar, get_args

from schemas.serving import MOST_EVENTS, Commit, Problem, RankAnswer, ScoreAnswer
from streamgauge.blocking import Connections
from streamgauge.course import NO_ANSWER, Attempt, Course, Reply, Silence, ask, read_ranking, read_scores
from streamgauge.events import Encoded, Event, EventEncoder, cut
from streamgauge.routes import Routes

if TYPE_CHECKING:
    from streamgauge.on_loop import LoopConnections

__all__ = [
    "NO_ANSWER",
    "AsyncClient",
    "Client",
    "Commit",
    "Event",
    "Problem",
    "RankAnswer",
    "ScoreAnswer",
    "ScoringError",
]

T = TypeVar("T")

#: Time for a worker that does not answer, another one, and a pause that one of them asked for.
TIMEOUT_S = 5.0


class ScoringError(Exception):
    """An event has no score. ``problem`` says why; a program decides by ``code``, a person reads ``detail``."""

    def __init__(self, found: Problem) -> None:
        super().__init__(f"{found.code}: {found.detail}")
        self.problem = found
        self.code = found.code
        self.detail = found.detail
        #: Of an event that is refused: the reason that its dead letter would have.
        self.reason = found.reason

    def __reduce__(self) -> tuple[type[ScoringError], tuple[Problem]]:
        return type(self), (self.problem,)


class _Asker:
    """What both clients know: whom to ask, and how events are written."""

    def __init__(self, addresses: Sequence[str], entity: str | None, timeout_s: float) -> None:
        self._routes = Routes(addresses)
        self._encode = EventEncoder(entity)
        self._timeout_s = _check_timeout(timeout_s)

    def course(self, event: Event, commit: Commit, features: bool, timeout_s: float | None) -> Course[ScoreAnswer]:
        """The course of a request for one event."""
        path, deadline_s = _write_path(commit, features), self._deadline_s(timeout_s)
        return ask([self._encode(event)], path, self._routes, deadline_s, read_scores)

    def ranking(
        self, event: Event, candidates: Iterable[Event], top: int, timeout_s: float | None
    ) -> Course[RankAnswer]:
        """The course of a request for the best of candidates."""
        encoded, others = self._encode(event), [other.body for other in self._encode.all(candidates)]
        if not (1 <= len(others) <= MOST_EVENTS and 1 <= top <= MOST_EVENTS):
            raise ValueError(f"There are {len(others)} candidates, and top is {top}: give 1 to {MOST_EVENTS} of each.")
        body = b'{"event":%b,"candidates":[%b],"top":%d}' % (encoded.body, b",".join(others), top)
        deadline_s = self._deadline_s(timeout_s)
        return ask([Encoded(body, encoded.entity)], "/v1/rank", self._routes, deadline_s, read_ranking)

    def courses(
        self, events: Iterable[Event], commit: Commit, features: bool, timeout_s: float | None
    ) -> tuple[list[list[int]], list[Course[ScoreAnswer]]]:
        """The places of events in parts, and the course of each part."""
        path, deadline_s = _write_path(commit, features), self._deadline_s(timeout_s)
        encoded = self._encode.all(events)
        parts = list(cut(encoded, self._routes.owner_of))
        return parts, [
            ask([encoded[place] for place in part], path, self._routes, deadline_s, read_scores) for part in parts
        ]

    def _deadline_s(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self._timeout_s if timeout_s is None else _check_timeout(timeout_s))


class Client:
    """Asks workers for scores, and blocks meanwhile.

    Any number of threads may share one: each request has a connection to itself while it is under way, and connections
    are kept alive. Make another one after a fork.

    Parameters
    ----------
    addresses
        Of one worker or more, like ``http://10.0.3.7:8080``. Any of them answers for all partitions.
    entity
        Name of the field that says whose an event is (``[events] entity`` of the pipeline file). With it, the owner of
        the entity's partition is asked directly, at the address that workers tell of it. Leave it out where that
        address cannot be reached from here.
    timeout_s
        How long a call may take, with all that is asked again.
    """

    def __init__(self, *addresses: str, entity: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._asker = _Asker(addresses, entity, timeout_s)
        self._connections = Connections()

    def score(
        self, event: Event, *, commit: Commit = "no", features: bool = False, timeout_s: float | None = None
    ) -> ScoreAnswer:
        """The score of one event.

        Parameters
        ----------
        event
            A dict, a struct or a dataclass of its fields, or JSON as bytes.
        commit
            "no": as if the event came next, and nothing changes. "async": it is sent, too. "wait": its published score.
        features
            Whether the answer has what was scored.
        timeout_s
            Another time limit for this call.

        Raises
        ------
        ScoringError
            When there is no score within the time limit.
        ValueError
            When the event is no JSON object; nothing is sent then.
        """
        (answer,) = self._run([self._asker.course(event, commit, features, timeout_s)])[0]
        return _raise_problem(answer)

    def score_many(
        self, events: Iterable[Event], *, commit: Commit = "no", features: bool = False, timeout_s: float | None = None
    ) -> list[ScoreAnswer | Problem]:
        """The score of each event, or why it has none, in the order of the events.

        As many requests are made as the events need, one after another; a pause of one is used for the others. Give two
        events of one id to two calls: a worker refuses all of a request that has an id twice.

        Raises
        ------
        ValueError
            When an event is no JSON object; nothing is sent then.
        """
        parts, courses = self._asker.courses(events, commit, features, timeout_s)
        return _merge(parts, self._run(courses))

    def rank(
        self, event: Event, candidates: Iterable[Event], top: int = 5, *, timeout_s: float | None = None
    ) -> RankAnswer:
        """The best of up to 1 000 candidates for one entity.

        Parameters
        ----------
        event
            What all have in common, at least the entity; see `score`.
        candidates
            The fields that each has in place of the event's own.
        top
            How many to tell at most.

        Raises
        ------
        ScoringError, ValueError
            See `score`.
        """
        (answer,) = self._run([self._asker.ranking(event, candidates, top, timeout_s)])[0]
        return _raise_problem(answer)

    def close(self) -> None:
        """Close the idle connections. The client may be used again."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, courses: Sequence[Course[T]]) -> list[list[T | Problem]]:
        """Follow courses to their ends: whichever is due first has its turn."""
        found: list[list[T | Problem]] = [[] for _ in courses]
        due: list[tuple[float, int, Attempt]] = []

        def go_on(place: int, came: Reply | Silence | None) -> None:
            try:
                attempt = courses[place].send(came)
            except StopIteration as end:
                found[place] = end.value
            else:
                heapq.heappush(due, (time.monotonic() + attempt.pause_s, place, attempt))

        for place in range(len(courses)):
            go_on(place, None)
        while due:
            at_s, place, attempt = heapq.heappop(due)
            if (wait_s := at_s - time.monotonic()) > 0:
                time.sleep(wait_s)
            limit_s = attempt.limit_s()
            go_on(place, self._connections.ask(attempt.url, attempt.body, limit_s) if limit_s > 0 else None)
        return found


class AsyncClient:
    """Asks workers for scores on an event loop, to which it belongs from its first call on.

    Parameters are those of `Client`; so is what its methods take, give and raise.
    """

    def __init__(self, *addresses: str, entity: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        # It costs a fifth of a second, which callers of `Client` alone need not wait.
        from streamgauge.on_loop import LoopConnections  # noqa: PLC0415

        self._asker = _Asker(addresses, entity, timeout_s)
        self._connections: LoopConnections = LoopConnections()

    async def score(
        self, event: Event, *, commit: Commit = "no", features: bool = False, timeout_s: float | None = None
    ) -> ScoreAnswer:
        """See `Client.score`."""
        (answer,) = await self._connections.follow(self._asker.course(event, commit, features, timeout_s))
        return _raise_problem(answer)

    async def score_many(
        self, events: Iterable[Event], *, commit: Commit = "no", features: bool = False, timeout_s: float | None = None
    ) -> list[ScoreAnswer | Problem]:
        """See `Client.score_many`; workers are asked side by side, each for one part at a time."""
        parts, courses = self._asker.courses(events, commit, features, timeout_s)
        return _merge(parts, await self._connections.follow_all(courses))

    async def rank(
        self, event: Event, candidates: Iterable[Event], top: int = 5, *, timeout_s: float | None = None
    ) -> RankAnswer:
        """See `Client.rank`."""
        (answer,) = await self._connections.follow(self._asker.ranking(event, candidates, top, timeout_s))
        return _raise_problem(answer)

    async def close(self) -> None:
        """Close all connections. The client may be used again."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _merge(parts: Sequence[Sequence[int]], found: Sequence[Sequence[T | Problem]]) -> list[T | Problem]:
    """Answers to parts of a list, in the order of the list."""
    by_place = {
        place: answer
        for part, answers in zip(parts, found, strict=True)
        for place, answer in zip(part, answers, strict=True)
    }
    return [by_place[place] for place in range(len(by_place))]


def _raise_problem(answer: T | Problem) -> T:
    if isinstance(answer, Problem):
        raise ScoringError(answer)
    return answer


def _write_path(commit: Commit, features: bool) -> str:
    if commit not in get_args(Commit):
        raise ValueError(f"commit is {commit!r}: give no, async or wait.")
    return f"/v1/score?commit={commit}&features={'true' if features else 'false'}"


def _check_timeout(timeout_s: float) -> float:
    if not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s is {timeout_s}: give a number of seconds above 0.")
    return timeout_s
