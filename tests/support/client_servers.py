"""Servers that answer a client of the scoring hook as a test says, and both clients behind one face."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from schemas.serving import (
    PARTITIONS_HEADER,
    PROBLEMS,
    Problem,
    RankAnswer,
    ScoreAnswer,
    ScoreResult,
    ScoreResults,
    problem,
)
from streamgauge.client import AsyncClient, Client

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer_to(event: dict[str, Any], partition: int = 0) -> ScoreAnswer:
    """A score that tells whose it is."""
    score = int(event["id"][1:]) / 1024
    head = event["id"], event["card"], event["at"], score, score >= 0.5
    return ScoreAnswer(*head, "fraud", "1.0.0", "f", partition, 7, None, stale=False, committed=False, served_at_ms=1)


def event(number: int, card: str = "c0") -> dict[str, Any]:
    return {"id": f"e{number}", "card": card, "at": 1_600_000_000_000 + number, "amount": number / 8}


async def score(request: web.Request) -> web.Response:
    """Answer as the hook does, for all events."""
    asked = json.loads(await request.read())
    if isinstance(asked, dict):
        return respond(answer_to(asked))
    return respond(ScoreResults([ScoreResult(answer=answer_to(of)) for of in asked]))


def respond(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers or {}
    )


def refuse(code: str, retry_after: str | None = None, **fields: Any) -> Behaviour:
    """A problem of the whole request."""

    async def behave(_: web.Request) -> web.Response:
        kind = PROBLEMS[code]
        seconds = str(kind.retry_after_s) if retry_after is None else retry_after
        headers = {"Retry-After": seconds} if kind.retry_after_s is not None else {}
        return respond(problem(code, "Because the test says so.", **fields), kind.status, headers)

    return behave


def say(status: int, body: bytes = b"<html>", **headers: str) -> Behaviour:
    """Something that no hook says."""

    async def behave(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return behave


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def cut(request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@dataclass
class Server:
    """Behaves as it is told, one word a request, and then scores."""

    address: str = ""
    owners: dict[int, str] = field(default_factory=dict)
    to_come: deque[Behaviour] = field(default_factory=deque)
    #: Each body that came, and the query it came with.
    asked: list[tuple[str, Any]] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.query_string, json.loads(await request.read())))
        self.connections.add(request.transport)
        response = await (self.to_come.popleft() if self.to_come else score)(request)
        if self.owners:
            response.headers[PARTITIONS_HEADER] = json.dumps(self.owners)
        return response


@asynccontextmanager
async def serving(*behaviours: Behaviour) -> AsyncIterator[Server]:
    server = Server(to_come=deque(behaviours))
    app = web.Application(client_max_size=1 << 22)
    app.router.add_post("/v1/score", server.handle)
    app.router.add_post("/v1/rank", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.address = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


class Face:
    """Either client, asked on an event loop; the blocking one by a thread."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def score(self, event: Any, **options: Any) -> ScoreAnswer:
        return await self._call(self.client.score, event, **options)

    async def score_many(self, events: Any, **options: Any) -> list[ScoreAnswer | Problem]:
        return await self._call(self.client.score_many, events, **options)

    async def rank(self, event: Any, candidates: Any, top: int = 5, **options: Any) -> RankAnswer:
        return await self._call(self.client.rank, event, candidates, top, **options)

    async def close(self) -> None:
        await self._call(self.client.close)

    async def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if isinstance(self.client, AsyncClient):
            return await method(*args, **options)
        return await asyncio.to_thread(functools.partial(method, *args, **options))


@asynccontextmanager
async def asking(kind: type[Client | AsyncClient], *addresses: str, **options: Any) -> AsyncIterator[Face]:
    face = Face(kind(*addresses, **options))
    try:
        yield face
    finally:
        await face.close()
