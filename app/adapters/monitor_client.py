"""Asks a running monitor by its HTTP API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

#: More rows than any question of ours has; more than that is an error, never a cut answer.
MOST_ROWS = 200_000


class MonitorError(RuntimeError):
    """The monitor gave no answer, or said why it cannot; one sentence."""


class MonitorClient:
    """A monitor at an address, ``http://host:port``."""

    def __init__(self, address: str, answer_s: float = 60.0) -> None:
        self.address = address.rstrip("/")
        self._answer_s = answer_s

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run SQL that reads; rows by column."""
        answer = self._ask("/api/v1/query", {"sql": sql, "limit": MOST_ROWS})
        if answer["truncated"]:
            raise MonitorError(f"The answer to {sql!r} has more than {MOST_ROWS} rows: ask for less at a time.")
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310  # the address is of our own child
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._answer_s) as response:  # noqa: S310  # as above
                return json.load(response)
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")[:500]
            raise MonitorError(f"The monitor at {self.address} refused a question: {detail}") from error
        except (OSError, ValueError) as error:
            raise MonitorError(f"The monitor at {self.address} does not answer ({error}).") from error
