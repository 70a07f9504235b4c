"""The course of one request: whom to ask, when to ask again, when to give up. It decides; it neither asks nor waits.

A course is a generator. It yields an `Attempt` and is sent what came of it: a `Reply`, a `Silence`, or None when the
deadline had passed before it was asked.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import msgspec

from schemas.serving import (
    ANSWER_S,
    MOST_BODY_BYTES,
    PROBLEMS,
    Problem,
    RankAnswer,
    ScoreAnswer,
    ScoreResults,
    problem,
)
from streamgauge.events import Encoded, join
from streamgauge.routes import Routes

T = TypeVar("T")

#: The code of events for which no worker answered in time; it is the client's own.
NO_ANSWER = "no-answer"
#: How long one worker is waited for. It gives up after ``ANSWER_S`` itself, and says so.
ATTEMPT_S = ANSWER_S + 0.5
#: Longest pause after the first failure, and after any number of them; each is up to twice as long as the one before.
_FIRST_PAUSE_S = 0.05
_MOST_PAUSE_S = 2.0
#: What is said by whoever stands before the workers, when none of them answers.
_NOT_REACHED = frozenset({502, 503, 504})

_decode_answer = msgspec.json.Decoder(ScoreAnswer).decode
_decode_ranking = msgspec.json.Decoder(RankAnswer).decode
_decode_results = msgspec.json.Decoder(ScoreResults).decode
_decode_problem = msgspec.json.Decoder(Problem).decode


class Reply(NamedTuple):
    """What came back. Headers that are not there are ""."""

    status: int
    body: bytes
    retry_after: str = ""
    partitions: str = ""


class Silence(NamedTuple):
    """Nothing came back that can be used, and why. ``retry_after_s``: not to be asked before."""

    why: str
    retry_after_s: float = 0.0


class Attempt(NamedTuple):
    """A request to make, after a pause. ``deadline_s``: by `time.monotonic`."""

    pause_s: float
    address: str
    path: str
    body: bytes
    deadline_s: float

    @property
    def url(self) -> str:
        return self.address + self.path

    def limit_s(self) -> float:
        """How long it may take if it begins now; not above 0 when it is too late."""
        return min(ATTEMPT_S, self.deadline_s - time.monotonic())


#: Its value: an answer to each event.
Course: TypeAlias = Generator[Attempt, Reply | Silence | None, list[T | Problem]]
#: The answers in the body of a reply, of which so many are expected; ValueError when they are not there.
ReadAnswers: TypeAlias = Callable[[bytes, int], list[T | Problem]]


class _Found(NamedTuple, Generic[T]):
    """What a worker says of one event. ``again_s``: after how many seconds to ask again; None: not as it is."""

    answer: T | Problem
    again_s: float | None


@dataclass
class _Patience:
    """Who was asked in vain since the last wait, and how long the next wait is."""

    tried: set[str] = field(default_factory=set)
    waits: int = 0
    least_s: float = 0.0

    def wait_s(self) -> float:
        """Exponential back-off with full jitter, after the time before which one must not ask again."""
        most_s = min(_FIRST_PAUSE_S * 2.0 ** min(self.waits, 10), _MOST_PAUSE_S)
        # All who were told the same second must not come back in the same millisecond.
        wait_s = self.least_s + random.random() * most_s  # noqa: S311  # nobody gains by guessing it
        self.waits, self.least_s = self.waits + 1, 0.0
        self.tried.clear()
        return wait_s


def ask(
    events: Sequence[Encoded], path: str, routes: Routes, deadline_s: float, read_answers: ReadAnswers[T]
) -> Course[T]:
    """The course of one request for events, of which the first says whom to ask.

    Asked again is only what has no answer yet, and only because of a 503 or a silence. When one must not ask again
    before the deadline, it ends at once.
    """
    if len(events) == 1 and len(events[0].body) > MOST_BODY_BYTES:
        detail = f"A request may have {MOST_BODY_BYTES} bytes: send shorter texts, or fewer candidates."
        return [problem("too-large", detail)]
    answers: list[T | Problem] = [_no_answer("the deadline had passed before one was asked")] * len(events)
    pending = list(range(len(events)))
    patience, pause_s = _Patience(), 0.0
    failures: dict[str, str] = {}
    while time.monotonic() + pause_s < deadline_s:
        entity = events[pending[0]].entity
        url = routes.choose(entity, patience.tried)
        came = yield Attempt(pause_s, url, path, join([events[place] for place in pending]), deadline_s)
        if came is None:
            break
        found = _read(came, len(pending), read_answers) if isinstance(came, Reply) else came
        if isinstance(found, Silence):
            routes.note_silence(url, found.retry_after_s)
            patience.tried.add(url)
            patience.least_s = max(patience.least_s, found.retry_after_s)
            failures[url] = found.why
            for place in pending:
                answers[place] = _no_answer("; ".join(f"{who}: {why}" for who, why in failures.items()))
            pause_s = 0.0 if routes.choose(entity, patience.tried) else patience.wait_s()
            continue
        routes.note_answer(url)
        routes.learn(came.partitions if isinstance(came, Reply) else "")
        for place, (answer, _) in zip(pending, found, strict=True):
            answers[place] = answer
        again_s = {place: of.again_s for place, of in zip(pending, found, strict=True) if of.again_s is not None}
        if not again_s:
            break
        pending, patience.least_s = list(again_s), max(again_s.values())
        pause_s = patience.wait_s()
    return answers


def read_scores(body: bytes, expected: int) -> list[ScoreAnswer | Problem]:
    """The scores of events; see `ReadAnswers`."""
    if expected == 1:
        return [_decode_answer(body)]
    answers = [result.answer or result.problem for result in _decode_results(body).results]
    return [answer for answer in answers if answer is not None]


def read_ranking(body: bytes, _: int) -> list[RankAnswer | Problem]:
    """The one ranking that was asked for; see `ReadAnswers`."""
    return [_decode_ranking(body)]


def _read(reply: Reply, expected: int, read_answers: ReadAnswers[T]) -> list[_Found[T]] | Silence:
    """What a reply says of each event."""
    if reply.status == 200:
        try:
            answers = read_answers(reply.body, expected)
        except ValueError:
            answers = []
        if len(answers) != expected:
            return Silence("what it sends is no answer of a scoring hook")
        return [_Found(answer, _again_s(answer)) for answer in answers]
    after_s = _read_seconds(reply.retry_after)
    try:
        found = _decode_problem(reply.body)
    except ValueError:  # not of the hook
        if reply.status in _NOT_REACHED:
            return Silence(f"status {reply.status}", after_s or 0.0)
        found = _name_refusal(reply)
    return [_Found(found, _again_s(found, after_s))] * expected


def _again_s(answer: object, header_s: float | None = None) -> float | None:
    """After how many seconds to ask again; None: not as it is."""
    if not isinstance(answer, Problem) or answer.status != 503:
        return None
    if header_s is not None:
        return header_s
    kind = PROBLEMS.get(answer.code)
    return float(kind.retry_after_s or 0) if kind is not None else 0.0


def _read_seconds(header: str) -> float | None:
    """``Retry-After`` in seconds; a date is not understood."""
    return float(header) if header.isascii() and header.isdigit() and len(header) < 7 else None


class _Detail(msgspec.Struct):
    detail: str


def _name_refusal(reply: Reply) -> Problem:
    """A refusal that is not of the hook itself: of the server around it, or of a proxy before it."""
    try:
        detail = msgspec.json.decode(reply.body, type=_Detail).detail
    except ValueError:
        detail = f"The server answers with status {reply.status}: check that the address is that of a worker."
    return Problem("about:blank", "The request was refused", reply.status, f"http-{reply.status}", detail)


def _no_answer(why: str) -> Problem:
    detail = f"No worker answered in time ({why}): check that workers run at these addresses, or allow more time."
    return Problem(f"urn:streamgauge:problem:{NO_ANSWER}", "No worker answered in time", 504, NO_ANSWER, detail)
