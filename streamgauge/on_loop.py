"""Requests on an event loop, over connections that are kept alive (aiohttp)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import aiohttp
from yarl import URL

from schemas.serving import PARTITIONS_HEADER, Problem
from streamgauge.course import Course, Reply, Silence

T = TypeVar("T")

#: A worker closes a connection that was idle for 15 s.
_IDLE_S = 10.0
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


#: By address.
Turns = defaultdict[str, asyncio.Lock]


class LoopConnections:
    """Connections to workers, of one event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, url: str, body: bytes, limit_s: float) -> Reply | Silence:
        """The answer to a POST, or why there is none after ``limit_s`` seconds."""
        if self._session is None or self._session.closed:  # it belongs to the running event loop
            connector = aiohttp.TCPConnector(keepalive_timeout=_IDLE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=_HEADERS, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            )
        timeout = aiohttp.ClientTimeout(total=limit_s)
        try:
            async with self._session.post(
                URL(url, encoded=True), data=body, timeout=timeout, allow_redirects=False
            ) as response:
                header = response.headers.get
                return Reply(
                    response.status, await response.read(), header("Retry-After", ""), header(PARTITIONS_HEADER, "")
                )
        except TimeoutError:
            return Silence("no answer in time")
        except (aiohttp.ClientError, OSError) as error:
            return Silence(str(error)[:200] or type(error).__name__)

    async def follow(self, course: Course[T], turns: Turns | None = None) -> list[T | Problem]:
        """Follow a course to its end; each attempt waits for its worker's turn."""
        came: Reply | Silence | None = None
        turns = _make_turns() if turns is None else turns
        while True:
            try:
                attempt = course.send(came)
            except StopIteration as end:
                answers: list[T | Problem] = end.value
                return answers
            if attempt.pause_s > 0:
                await asyncio.sleep(attempt.pause_s)
            async with turns[attempt.address]:
                limit_s = attempt.limit_s()
                came = await self.ask(attempt.url, attempt.body, limit_s) if limit_s > 0 else None

    async def follow_all(self, courses: Sequence[Course[T]]) -> list[list[T | Problem]]:
        """Follow courses side by side; each worker is asked for one thing at a time."""
        turns = _make_turns()
        return await asyncio.gather(*(self.follow(course, turns) for course in courses))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _make_turns() -> Turns:
    return defaultdict(asyncio.Lock)
