"""Asks a running monitor by its HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

#: More rows than any question of ours has; more than that is an error, never a cut answer.
MOST_ROWS = 200_000
_PAUSE_S = 0.2


class MonitorError(RuntimeError):
    """The monitor gave no answer, or said why it cannot; one sentence."""


class RefusedError(MonitorError):
    """The monitor has said why it will not; its sentence."""


class MonitorClient:
    """A monitor that may be started again while it is asked, then at another address.

    Parameters
    ----------
    find_address
        Where it is now, ``http://host:port``; None while it is nowhere.
    patience_s
        How long to go on asking one that does not answer.
    """

    def __init__(self, find_address: Callable[[], str | None], patience_s: float = 30.0) -> None:
        self._find_address = find_address
        self._patience_s = patience_s

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run SQL that reads; rows by column."""
        answer = self._ask("/api/v1/query", {"sql": sql, "limit": MOST_ROWS})
        if answer["truncated"]:
            raise MonitorError(f"The answer to {sql!r} has more than {MOST_ROWS} rows: ask for less at a time.")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    def alerts(self, now: str) -> list[dict[str, Any]]:
        """How alerts stand: "open" ones, or "all"."""
        found: list[dict[str, Any]] = self._ask(f"/api/v1/alerts?now={now}")["alerts"]
        return found

    def acknowledge(self, alert_id: str, by: str, why: str) -> dict[str, Any]:
        """Take an alert on; `RefusedError` when it is not there, or not open."""
        path = f"/api/v1/alerts/{urllib.parse.quote(alert_id, safe='')}/acknowledge"
        answer: dict[str, Any] = self._ask(path, {"by": by, "why": why})
        return answer

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        until = time.monotonic() + self._patience_s
        while True:
            try:
                return self._ask_once(path, body)
            except (OSError, ValueError) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise RefusedError(_read_reason(error)) from error
                if time.monotonic() > until:
                    why = _read_reason(error) if isinstance(error, urllib.error.HTTPError) else str(error)
                    raise MonitorError(f"The monitor gave no answer within {self._patience_s:g} s ({why}).") from error
            time.sleep(_PAUSE_S)

    def _ask_once(self, path: str, body: dict[str, Any] | None) -> Any:
        address = self._find_address()
        if address is None:
            raise OSError("it does not run")
        request = urllib.request.Request(  # noqa: S310  # the address is of our own child
            address.rstrip("/") + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=self._patience_s) as response:  # noqa: S310  # as above
            return json.load(response)


def _read_reason(error: urllib.error.HTTPError) -> str:
    """The sentence in an answer that is an error: {"error": …}."""
    with error:
        text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}: {text[:500]}"
