"""Asks the hook of another worker, once: what a worker passes on is never passed on again."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import msgspec

from schemas.serving import (
    ANSWER_S,
    FORWARDED_HEADER,
    Asked,
    Problem,
    ScoreAnswer,
    ScoreResults,
    problem,
)

_HEADERS = {"Content-Type": "application/json", FORWARDED_HEADER: "1"}
_decode = msgspec.json.Decoder(ScoreResults).decode


class Forwarding:
    """Asks other workers."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self, url: str, partition: int, events: Sequence[bytes], asked: Asked
    ) -> list[ScoreAnswer | Problem]:
        """The answers of the worker at ``url``, which is said to have the partition, in the order of the events."""
        if self._session is None:  # it belongs to the running event loop
            timeout = aiohttp.ClientTimeout(total=ANSWER_S * 0.9)
            self._session = aiohttp.ClientSession(timeout=timeout, headers=_HEADERS, trust_env=False)
        query = {"commit": asked.commit, "features": "true" if asked.with_features else "false"}
        body = b"[" + b",".join(events) + b"]"
        try:
            async with self._session.post(
                f"{url}/v1/score", params=query, data=body, allow_redirects=False
            ) as response:
                results = _decode(await response.read()).results if response.status == 200 else []
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError):
            results = []
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

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _moving(url: str, partition: int) -> Problem:
    detail = f"The worker at {url}, which had partition {partition}, does not answer for it: ask again in a second."
    return problem("partition-moving", detail, partition=partition)
