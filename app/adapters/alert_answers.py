"""What people say of alerts, on its way from the monitor's API into its core, and the answer on its way back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from app.core.alert_cases import AcknowledgeError
from app.core.alerting import AlertBook

LONGEST_NAME = 200
LONGEST_WORDS = 2_000

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

        `AcknowledgeError` when it cannot be; cancelled when `close` comes before.
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


class AlertDesk:
    """The handler of ``POST /api/v1/alerts/{alert_id}/acknowledge``.

    The content type is one that a foreign web page may not send without being let in by us.
    """

    def __init__(self, acknowledge: Acknowledge) -> None:
        self._acknowledge = acknowledge

    async def acknowledge(self, request: web.Request) -> web.Response:
        """Take ``{"by": …, "why": …}``."""
        if request.content_type != "application/json":
            return _refuse("Send it as JSON with the header Content-Type: application/json.", 415)
        try:
            body = await request.json()
        except ValueError:
            body = None
        by, why = (_read_text(body, key) for key in ("by", "why"))
        if not by or not why:
            return _refuse('Say who and why: {"by": "ann", "why": "looking at the feed"}.', 400)
        if len(by) > LONGEST_NAME or len(why) > LONGEST_WORDS:
            words = f"A name has at most {LONGEST_NAME} characters, and the words at most {LONGEST_WORDS}."
            return _refuse(words, 400)
        alert_id = request.match_info["alert_id"]
        try:
            await self._acknowledge(alert_id, by, why)
        except AcknowledgeError as error:
            return _refuse(str(error), 404 if error.is_unknown else 409)
        except NotAtWorkError as error:
            return _refuse(str(error), 503)
        return web.json_response({"alert_id": alert_id, "state": "acknowledged", "by": by, "why": why})


def _read_text(body: Any, key: str) -> str:
    found = body.get(key) if isinstance(body, dict) else None
    return found.strip() if isinstance(found, str) else ""


def _refuse(why: str, status: int) -> web.Response:
    return web.json_response({"error": why}, status=status)
