"""What people say of alerts, on its way from the monitor's API into its core, and the answer on its way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web

from app.adapters.http.server import ProblemError, busy, read_json, respond
from app.core.alerts.book import AlertBook
from app.core.alerts.cases import AcknowledgeError

LONGEST_NAME = 200
LONGEST_WORDS = 2_000
#: Room for both, with every character escaped.
_MOST_BODY_BYTES = 1 << 15
_EXAMPLE = '{"by": "ann", "why": "looking at the feed"}'

Acknowledge = Callable[[str, str, str], Awaitable[None]]


class NotAtWorkError(RuntimeError):
    """Why a monitor cannot do now what it was asked; one sentence."""


class AlertAnswers:
    """Acknowledgements that wait to be taken, each with somebody who waits until it is saved and told."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[tuple[str, str, str], asyncio.Future[None]]] = deque()
        self._taken: list[asyncio.Future[None]] = []

    async def give(self, alert_id: str, by: str, why: str) -> None:
        """Wait until it is saved and told.

        `AcknowledgeError` when it cannot be; cancelled when `close` comes first.
        """
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(((alert_id, by, why), done))
        await done

    def take(self, book: AlertBook, now_ms: int) -> bool:
        """Let the book take what waits, and refuse what it refuses; whether it took anything."""
        while self._waiting:
            words, done = self._waiting.popleft()
            if done.done():
                continue  # nobody waits for it any more
            try:
                book.acknowledge(*words, now_ms)
            except AcknowledgeError as error:
                done.set_exception(error)
            else:
                self._taken.append(done)
        return bool(self._taken)

    def confirm(self) -> None:
        """Say that what was taken is saved and told."""
        for done in self._taken:
            if not done.done():
                done.set_result(None)
        self._taken.clear()

    def close(self) -> None:
        """Let go of all that have no answer yet; they may ask again."""
        for done in [*self._taken, *(done for _, done in self._waiting)]:
            done.cancel()


class Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /api/v1/alerts/{alert_id}/acknowledge``."""

    by: Annotated[str, msgspec.Meta(max_length=LONGEST_NAME)]
    why: Annotated[str, msgspec.Meta(max_length=LONGEST_WORDS)]


class AlertDesk:
    """The handler of ``POST /api/v1/alerts/{alert_id}/acknowledge``."""

    def __init__(self, acknowledge: Acknowledge) -> None:
        self._acknowledge = acknowledge

    async def acknowledge(self, request: web.Request) -> web.Response:
        """Take ``{"by": …, "why": …}``."""
        body = await read_json(request, Acknowledgement, _MOST_BODY_BYTES, _EXAMPLE)
        by, why = body.by.strip(), body.why.strip()
        if not by or not why:
            raise ProblemError(400, f"Say who and why: {_EXAMPLE}.")
        alert_id = request.match_info["alert_id"]
        try:
            await self._acknowledge(alert_id, by, why)
        except AcknowledgeError as error:
            raise ProblemError(404 if error.is_unknown else 409, str(error)) from error
        except NotAtWorkError as error:
            raise busy(str(error), 5) from error
        return respond({"alert_id": alert_id, "state": "acknowledged", "by": by, "why": why})
