"""Draws HTTP requests, right, wrong and broken ones, from the structure of our API, and says what answered them."""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from app.adapters.http.row_pieces import CONTENT_TYPE

PATHS = [
    *("/", "/healthz", "/readyz", "/metrics", "/api/v1/query", "/api/v1/status", "/api/v1/lag", "/api/v1/models"),
    *("/api/v1/drift", "/api/v1/performance", "/api/v1/verdicts", "/api/v1/alerts", "/api/v1/rows/backfilled_scores"),
    *("/api/v1/rows/score_diffs", "/api/v1/rows/scores", "/api/v1/alerts/x/acknowledge"),
    *("/api/v1/alerts/%00/acknowledge", "/api/v1/alerts/..%2f..%2fx/acknowledge", "/../../etc/passwd", "//evil/x"),
    *("/v1/score", "/v1/score", "/v1/score", "/v1/score", "/v1/score/", "/openapi.json"),
    *("/%ff%fe", "/api/v1/alerts/" + "a" * 3000 + "/acknowledge", "*", "http://evil.example/", "/api/v1/rows/%0a"),
]
METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "", "G T", "G\xa3T"]
SQL = [
    *("SELECT 1", "SELECT", "(", "'", "SELECT * FROM scores LIMIT 2", "SELECT throwIf(1)", "SELECT 1/0", "SELECT nan"),
    *("SELECT unhex('ff00fe')", "SELECT toDateTime64('2299-01-01', 3)", "SELECT NULL", "SELECT '\x00'", "SHOW TABLES"),
    *("EXISTS scores", "EXISTS default.`/etc/passwd`", "EXPLAIN SELECT 1", "SELECT 1; SELECT 2", "SELECT {a:UInt8}"),
    *(
        "SELECT %s",
        "SELECT 1 FORMAT Null",
        "SELECT * FROM nosuch",
        "SELECT 1 SETTINGS readonly=0",
        "SELECT 1 UNION ALL",
    ),
    *("SELECT " + "(" * 2000 + "1" + ")" * 2000, "SELECT " + "1+" * 20000 + "1", "SELECT repeat('x', 1000000000)"),
    *("SELECT quantileState(1)", "SELECT '{\"a\":1}'::JSON", "SELECT 1 AS a, 2 AS a", "SELECT -- \n1", "SELECT 1 /*"),
    *("SELECT number FROM numbers(100000)", "SELECT toLowCardinality('x'), generateUUIDv4(), toIPv6('::1')"),
]
QUERIES = [
    *("?limit=1", "?limit=0", "?limit=-1", "?limit=1e3", "?limit=" + "9" * 5000, "?limit=%D9%A3", "?limit=1&limit=x"),
    *("?commit=no", "?commit=x", "?features=true", "?features=true&commit=no", "?features=1", "?commit=no&commit=wait"),
    *("?now=open", "?now=all", "?now=x", "?version=%27%20OR%201=1--", "?version=%00", "?version=%ff", "?version=\\"),
    *(
        "?version=%ED%A0%80",
        "?version=" + "a" * 3000,
        "?a[]=1",
        "?",
        "??",
        "?" + quote("\ud83c\udca1", errors="replace"),
    ),
]
TYPES = [
    *("application/json", "application/json; charset=utf-16", "application/json; charset=nosuch", "text/plain", ""),
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", CONTENT_TYPE, "a" * 500, "a/b;c=\xff"),
]
HEADERS = [
    *("Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Content-Encoding: gzip", "Content-Encoding: br"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Expect: 100-continue", "Expect: x", "X: \x01"),
    *(
        "Range: bytes=0-1",
        "Cookie: " + "a" * 5000,
        "Cookie: " + "a" * 20000,
        "Connection: upgrade",
        "Upgrade: websocket",
    ),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 99999999999999999999", "Host: localhost", "no colon"),
]
COLUMNS = [
    "pipeline",
    "customer_id",
    "event_time",
    "score",
    "decision",
    "partition",
    "offset",
    "features",
    "value",
    "x",
]


@dataclass
class Outcome:
    """What was answered, and what must not be."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    slowest_s: float = 0.0


class Fuzzer:
    """Sends drawn requests, each by a connection of its own."""

    def __init__(self, address: str, seed: int) -> None:
        self._at = urlsplit(address)
        self._chance = random.Random(seed)  # noqa: S311  # chance that can be repeated

    def run(self, n: int) -> Outcome:
        """No 5xx but 503, no traceback, and an answer to all that can be answered."""
        outcome = Outcome()
        for _ in range(n):
            raw = self.draw()
            before = time.monotonic()
            answer = self._send(raw)
            outcome.slowest_s = max(outcome.slowest_s, time.monotonic() - before)
            # "100 Continue" comes before the answer proper.
            final = answer.partition(b"\r\n\r\n")[2] if answer.startswith(b"HTTP/1.1 100") else answer
            code = final.split(b" ", 2)[1].decode("latin-1") if final.startswith(b"HTTP/") else "none"
            outcome.answers[code] += 1
            if (code.startswith("5") and code != "503") or b"Traceback" in final or b'File "' in final:
                outcome.wrong.append((code, raw[:600], final[-600:]))
        return outcome

    def draw(self) -> bytes:
        """One request, as it is sent."""
        one = self._chance
        method = one.choice(METHODS) if one.random() < 0.3 else one.choice(["GET", "POST"])
        path = one.choice(PATHS) + (one.choice(QUERIES) if one.random() < 0.4 else "")
        body = self._body(path) if method in {"POST", "PUT", "PATCH"} or one.random() < 0.05 else b""
        kind = CONTENT_TYPE if "/rows/" in path else "application/json"
        host = self._at.netloc if one.random() < 0.85 else one.choice(["evil.example", "", "a" * 300, "[::1", "\xff"])
        lines = [f"{method} {path} HTTP/{one.choice(['1.1'] * 12 + ['1.0', '0.9', '3', ''])}", f"Host: {host}"]
        lines.append(f"Content-Type: {kind if one.random() < 0.8 else one.choice(TYPES)}")
        if body or method == "POST":
            length = len(body) if one.random() < 0.95 else one.choice([0, 1, len(body) // 2])
            lines.append(f"Content-Length: {length}")
        lines += one.sample(HEADERS, one.choice([0, 0, 0, 1, 2]))
        raw = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1", "replace") + body
        return self._spoil(raw) if one.random() < 0.1 else raw

    def _body(self, path: str) -> bytes:
        one, kind = self._chance, self._chance.randrange(10)
        if kind == 0:
            return one.randbytes(one.randrange(300))
        if kind == 1:
            return one.choice([b"[", b'{"a":', b"\x91", b"\x81\xa1a"]) * one.choice([10, 3000, 100_000])
        if kind == 2:
            return b'{"sql":' + b"9" * one.choice([10, 5000]) + b"}"
        if "/rows/" in path:
            columns = {name: self._column() for name in one.sample(COLUMNS, one.randrange(len(COLUMNS)))}
            return msgspec.msgpack.encode(columns)
        if path.startswith("/v1/score"):
            return self._events()
        wanted: dict[str, Any] = {"sql": one.choice(SQL), "limit": one.choice([1, 10, 1000])}
        if "acknowledge" in path:
            wanted = {"by": "ann", "why": "x"}
        if one.random() < 0.4:
            wanted[one.choice([*wanted, "more"])] = self._junk()
        return json.dumps(wanted).encode()

    def _events(self) -> bytes:
        one = self._chance
        events = []
        for _ in range(one.choice([1, 1, 1, 2, 7, 999, 1000, 1001])):
            event: dict[str, Any] = {"id": f"e{one.randrange(10**6)}", "card": f"c{one.randrange(9)}"}
            event |= {"at": 1_600_000_000_000 + one.randrange(10**9), "amount": one.random() * 100, "shop": "s0"}
            if one.random() < 0.2:
                event[one.choice([*event, "tries", "more"])] = self._junk()
            events.append(event)
        body = json.dumps(events if len(events) > 1 or one.random() < 0.2 else events[0]).encode()
        return self._spoil(body) if one.random() < 0.2 else body

    def _column(self) -> Any:
        one = self._chance
        if one.random() < 0.2:
            return {"names": one.choice([["a"], [], "x"]), "rows": one.choice([1, -1, 2**40]), "values": b"\0" * 8}
        return [one.choice([None, 1, 1.5, "x", True, [], 2**63, -(2**40)]) for _ in range(one.randrange(3))]

    def _junk(self) -> Any:
        return self._chance.choice([None, True, 0, -1, 10**30, 1.5, "", "\x00", "\ud800", [], {}, [[[]]], "é" * 3000])

    def _spoil(self, raw: bytes) -> bytes:
        one, at = self._chance, self._chance.randrange(len(raw))
        return one.choice([raw[:at], raw[:at] + one.randbytes(3) + raw[at:], raw[:at] + raw[at + 1 :], raw + raw])

    def _send(self, raw: bytes) -> bytes:
        answer = b""
        with socket.create_connection((str(self._at.hostname), int(self._at.port or 0)), 5) as connection:
            connection.settimeout(20)
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR) if self._chance.random() < 0.05 else None
                # A request that is not whole has no answer until its deadline.
                connection.settimeout(0.5 if len(raw) < 40 else 20)
                while part := connection.recv(65536):
                    answer += part
            except OSError:  # closed while we sent, or not whole
                pass
        return answer
