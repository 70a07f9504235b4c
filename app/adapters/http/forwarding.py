"""Asks the hook of another worker, once: what a worker passes on is never passed on again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import aiohttp
import msgspec

from schemas.serving import (
    ANSWER_S,
    FORWARDED_HEADER,
    Asked,
    Problem,
    RankAnswer,
    RankRequest,
    ScoreAnswer,
    ScoreResult,
    ScoreResults,
    problem,
)

_HEADERS = {"Content-Type": "application/json", FORWARDED_HEADER: "1"}
T = TypeVar("T")


class Forwarding:
    """Asks other workers."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self, url: str, partition: int, events: Sequence[bytes], asked: Asked
    ) -> list[ScoreAnswer | Problem]:
        """The answers of the worker at ``url``, which is said to have the partition, in the order of the events."""
        query = {"commit": asked.commit, "features": "true" if asked.with_features else "false"}
        said = await self._post(f"{url}/v1/score", b"[" + b",".join(events) + b"]", query)
        decoded = _decode(said, ScoreResults)
        results: list[ScoreResult] = decoded.results if decoded is not None else []
        if len(results) != len(events):
            return [_moving(url, partition)] * len(events)
        return [
            result.answer
            if result.answer is not None
            else _moving(url, partition)
            if result.problem is None or result.problem.code == "not-the-owner"
            else result.problem
            for result in results
        ]

    async def rank(self, url: str, partition: int, request: RankRequest) -> RankAnswer | Problem:
        """As for events, the answer to candidates."""
        said = await self._post(f"{url}/v1/rank", msgspec.json.encode(request), {})
        answer: RankAnswer | Problem | None = _decode(said, RankAnswer) or _decode(said, Problem)
        is_lost = answer is None or (isinstance(answer, Problem) and answer.code == "not-the-owner")
        return _moving(url, partition) if answer is None or is_lost else answer

    async def _post(self, url: str, body: bytes, query: dict[str, str]) -> bytes:
        """The answer to a question; b"" if there is none, or it is not one of ours."""
        if self._session is None:  # it belongs to the running event loop
            timeout = aiohttp.ClientTimeout(total=ANSWER_S * 0.9)
            self._session = aiohttp.ClientSession(timeout=timeout, headers=_HEADERS, trust_env=False)
        try:
            async with self._session.post(url, params=query, data=body, allow_redirects=False) as response:
                said = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return b""
        return said

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _decode(said: bytes, shape: type[T]) -> T | None:
    try:
        return msgspec.json.decode(said, type=shape)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _moving(url: str, partition: int) -> Problem:
    detail = f"The worker at {url}, which had partition {partition}, does not answer for it: ask again in a second."
    return problem("partition-moving", detail, partition=partition)
