"""``POST /v1/score`` over HTTP: bodies, headers, limits, statuses. What is answered is `app.serving`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol, TypeVar, get_args

import msgspec
from aiohttp import web

from app.adapters.http.openapi import describe
from app.adapters.http.server import ProblemError, read_body
from schemas.pipeline.spec import Pipeline
from schemas.serving import (
    ANSWER_S,
    FORWARDED_HEADER,
    IDEMPOTENCY_HEADER,
    MOST_BODY_BYTES,
    MOST_EVENTS,
    PARTITIONS_HEADER,
    PROBLEMS,
    Asked,
    Commit,
    Problem,
    ProblemFoundError,
    RankAnswer,
    RankRequest,
    ScoreAnswer,
    ScoreResult,
    ScoreResults,
    problem,
)

T = TypeVar("T")

#: Events that may be at work at a time; more are refused, none are queued without bound.
MOST_AT_WORK = 4 * MOST_EVENTS
_encode = msgspec.json.Encoder().encode
#: What a problem of reading the body is called.
_CODES = {400: "bad-request", 408: "bad-request", 413: "too-large", 415: "not-json"}
_RANKING = '{"event": {…}, "candidates": [{…}, …], "top": 5}'
_FLAGS = {"": False, "false": False, "true": True}


class Scoring(Protocol):
    """What is served."""

    @property
    def pipeline(self) -> Pipeline:
        """Whose events are scored."""

    def split(self, body: bytes) -> tuple[list[bytes], bool]:
        """The events of a body, and whether they come as a list."""

    def name(self, event: bytes, event_id: str) -> bytes:
        """An event with this id."""

    async def score(self, events: Sequence[bytes], asked: Asked) -> list[ScoreAnswer | Problem]:
        """The answers, in the order of the events."""

    async def rank(self, request: RankRequest, *, is_forwarded: bool) -> RankAnswer | Problem:
        """The best of some candidates."""

    def owners(self) -> dict[int, str]:
        """Partition -> address of its worker."""


class ScoringRoutes:
    """Serves `Scoring`."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._document = _encode(describe(scoring.pipeline, version("streamgauge")))
        self._at_work = 0
        self._told: dict[int, str] = {}
        self._partitions = "{}"

    def routes(self) -> list[web.RouteDef]:
        """``POST /v1/score``, ``POST /v1/rank``, and what OpenAPI says of them."""
        return [
            web.post("/v1/score", self._score),
            web.post("/v1/rank", self._rank),
            web.get("/openapi.json", self._openapi),
        ]

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _score(self, request: web.Request) -> web.Response:
        try:
            asked = _read_query(request)
            events, is_list = self._scoring.split(await _read(request))
            event_id = request.headers.get(IDEMPOTENCY_HEADER)
            if event_id is not None:
                events = [self._scoring.name(_only(events, is_list=is_list), event_id)]
            answers = await self._in_time(self._scoring.score(events, asked), len(events))
        except ProblemFoundError as error:
            return self._respond(error.problem)
        return self._respond_list(answers) if is_list else self._respond(answers[0])

    async def _rank(self, request: web.Request) -> web.Response:
        try:
            asked = _read_ranking(await _read(request), dict(request.query))
            is_forwarded = FORWARDED_HEADER in request.headers
            answer = await self._in_time(self._scoring.rank(asked, is_forwarded=is_forwarded), len(asked.candidates))
        except ProblemFoundError as error:
            return self._respond(error.problem)
        return self._respond(answer)

    async def _in_time(self, answering: Coroutine[Any, Any, T], count: int) -> T:
        """An answer about so many events, unless it takes too long or too many are at work."""
        if self._at_work + count > MOST_AT_WORK:
            answering.close()
            raise ProblemFoundError(problem("busy", f"{self._at_work} events are at work here: ask again in a second."))
        self._at_work += count
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answering
        except TimeoutError:
            detail = f"There was no answer within {ANSWER_S:g} s: ask again, with fewer events if this was a long list."
            raise ProblemFoundError(problem("busy", detail)) from None
        finally:
            self._at_work -= count

    def _respond(self, answer: ScoreAnswer | ScoreResults | RankAnswer | Problem) -> web.Response:
        headers = {PARTITIONS_HEADER: self._known_partitions()}
        if not isinstance(answer, Problem):
            return web.Response(body=_encode(answer), content_type="application/json", headers=headers)
        retry_after_s = PROBLEMS[answer.code].retry_after_s
        if retry_after_s is not None:
            headers["Retry-After"] = str(retry_after_s)
        return web.Response(
            body=_encode(answer), status=answer.status, content_type="application/problem+json", headers=headers
        )

    def _respond_list(self, answers: Sequence[ScoreAnswer | Problem]) -> web.Response:
        results = [
            ScoreResult(answer=answer) if isinstance(answer, ScoreAnswer) else ScoreResult(problem=answer)
            for answer in answers
        ]
        return self._respond(ScoreResults(results))

    def _known_partitions(self) -> str:
        owners = self._scoring.owners()
        if owners is not self._told:
            self._told, self._partitions = owners, _encode(owners).decode()
        return self._partitions


def _read_ranking(body: bytes, query: Mapping[str, str]) -> RankRequest:
    if query:
        raise ProblemFoundError(problem("bad-request", "Ranking has no parameters: all is in the body."))
    try:
        return msgspec.json.decode(body, type=RankRequest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        said = f"The body is not what is asked for ({error}): send {_RANKING}."
        raise ProblemFoundError(problem("bad-request", said)) from error


def _only(events: Sequence[bytes], *, is_list: bool) -> bytes:
    if is_list:
        detail = f"{IDEMPOTENCY_HEADER} is the id of one event, and this is a list: give each event its id."
        raise ProblemFoundError(problem("bad-request", detail))
    return events[0]


async def _read(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise ProblemFoundError(
            problem("not-json", "Send JSON in UTF-8, with the header Content-Type: application/json.")
        )
    try:
        return await read_body(request, MOST_BODY_BYTES + 2 * (FORWARDED_HEADER in request.headers))  # its brackets
    except ProblemError as error:
        raise ProblemFoundError(problem(_CODES[error.status], str(error))) from error


def _read_query(request: web.Request) -> Asked:
    is_forwarded = FORWARDED_HEADER in request.headers
    if not request.query_string:
        return Asked(is_forwarded=is_forwarded)
    query = dict(request.query)
    commit, features = query.pop("commit", "no"), query.pop("features", "")
    if query:
        name = next(iter(query))
        detail = f"There is no parameter {name[:50]!r}: commit (no, async, wait) and features (true, false) are known."
        raise ProblemFoundError(problem("bad-request", detail))
    if commit not in get_args(Commit):
        raise ProblemFoundError(problem("bad-request", f"commit is {commit[:50]!r}: write no, async or wait."))
    if features not in _FLAGS:
        raise ProblemFoundError(problem("bad-request", f"features is {features[:50]!r}: write true or false."))
    return Asked(commit, _FLAGS[features], is_forwarded)  # type: ignore[arg-type]  # it is one of the words
