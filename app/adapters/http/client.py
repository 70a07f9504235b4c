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
JSON_TYPE = "application/json"
_PAUSE_S = 0.2
#: Without the proxies that the environment may name: they lead out of this network, and a monitor is inside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MonitorError(RuntimeError):
    """The monitor gave no answer, or said why it cannot; one sentence."""


class RefusedError(MonitorError):
    """The monitor has said why it will not; its sentence."""


class BusyError(MonitorError):
    """The monitor cannot answer now; its sentence, and when to ask again."""

    def __init__(self, why: str, retry_after_s: float) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class AwayError(MonitorError):
    """Nothing answers there."""


def ask_monitor(
    address: str, path: str, body: bytes | None = None, content_type: str = JSON_TYPE, timeout_s: float = 60.0
) -> Any:
    """Ask once: what the JSON of the answer says, or one of the errors above."""
    request = urllib.request.Request(  # noqa: S310  # the caller has the address from a run file, or from its user
        address.rstrip("/") + path, body, {"Content-Type": content_type}
    )
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        why = _read_reason(error)
        if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
            raise RefusedError(why) from error
        after = error.headers.get("Retry-After", "")
        raise BusyError(why, float(after) if after.isdigit() else _PAUSE_S) from error
    except TimeoutError as error:
        raise MonitorError(f"The monitor at {address} gave no answer within {timeout_s:g} s.") from error
    except (OSError, ValueError) as error:
        raise AwayError(f"The monitor at {address} does not answer ({error}).") from error


class MonitorClient:
    """A monitor that may be started again while it is asked, then at another address.

    Parameters
    ----------
    find_address
        Where it is now, ``http://host:port``; None while it is nowhere.
    patience_s
        How long to go on asking one that does not answer, or is busy.
    """

    def __init__(self, find_address: Callable[[], str | None], patience_s: float = 30.0) -> None:
        self._find_address = find_address
        self._patience_s = patience_s

    def query(self, sql: str, limit: int = MOST_ROWS) -> list[dict[str, Any]]:
        """Run SQL that reads; rows by column."""
        answer = self.ask("/api/v1/query", json.dumps({"sql": sql, "limit": limit}).encode())
        if answer["truncated"]:
            raise MonitorError(f"The answer to {sql!r} has more than {limit} rows: ask for less at a time.")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    def pipeline(self) -> str:
        """The pipeline that it watches."""
        name: str = self.ask("/api/v1/status")["pipeline"]
        return name

    def alerts(self, now: str) -> list[dict[str, Any]]:
        """How alerts stand: "open" ones, or "all"."""
        alerts: list[dict[str, Any]] = self.ask(f"/api/v1/alerts?now={now}")["alerts"]
        return alerts

    def acknowledge(self, alert_id: str, by: str, why: str) -> dict[str, Any]:
        """Take an alert on; `RefusedError` when it is not there, or not open."""
        path = f"/api/v1/alerts/{urllib.parse.quote(alert_id, safe='')}/acknowledge"
        answer: dict[str, Any] = self.ask(path, json.dumps({"by": by, "why": why}).encode())
        return answer

    def ask(self, path: str, body: bytes | None = None, content_type: str = JSON_TYPE) -> Any:
        """Ask until it answers or refuses, or patience ends."""
        until = time.monotonic() + self._patience_s
        while True:
            address = self._find_address()
            try:
                if address is None:
                    raise AwayError("it does not run")
                return ask_monitor(address, path, body, content_type, self._patience_s)
            except RefusedError:
                raise
            except MonitorError as error:
                pause_s = error.retry_after_s if isinstance(error, BusyError) else _PAUSE_S
                if time.monotonic() + pause_s > until:
                    raise MonitorError(
                        f"The monitor gave no answer within {self._patience_s:g} s ({error})."
                    ) from error
            time.sleep(pause_s)


def _read_reason(error: urllib.error.HTTPError) -> str:
    """The sentence in an answer that is an error (RFC 9457)."""
    with error:
        text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The monitor answered {error.code} {error.reason}: {text[:500]}"
