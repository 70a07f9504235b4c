"""Requests that block the thread that makes them, over connections that are kept alive (`http.client`)."""

from __future__ import annotations

import http.client
import socket
import time
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

from schemas.serving import PARTITIONS_HEADER
from streamgauge.course import Reply, Silence

#: A worker closes a connection that was idle for 15 s.
_IDLE_S = 10.0
#: Connections kept for each worker, which takes 128 of all its clients.
_MOST_IDLE = 32
#: For each address of a name.
_CONNECT_S = 1.0
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}


class _Idle(NamedTuple):
    since_s: float
    connection: http.client.HTTPConnection


class Connections:
    """Connections to workers. Any number of threads may ask at a time: each request has a connection to itself."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], deque[_Idle]] = {}

    def ask(self, url: str, body: bytes, limit_s: float) -> Reply | Silence:
        """The answer to a POST, or why there is none after ``limit_s`` seconds.

        The limit holds for each address that a name has while connecting, and for each piece of the answer's head; it
        does not hold for the look-up of a name.
        """
        deadline_s = time.monotonic() + limit_s
        parts = urlsplit(url)
        place = parts.scheme, parts.netloc
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        while True:
            kept = self._take(place)
            connection = kept or _make(parts.scheme, parts.hostname or "", parts.port)
            try:
                reply = _post(connection, path, body, deadline_s)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept is not None and isinstance(error, ConnectionError):
                    continue  # it was closed while it was idle
                return Silence(_describe(error))
            except BaseException:
                connection.close()
                raise
            if connection.sock is not None:
                self._give_back(place, connection)
            return reply

    def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, {}
        for kept in idle.values():
            for one in kept:
                one.connection.close()

    def _take(self, place: tuple[str, str]) -> http.client.HTTPConnection | None:
        kept = self._idle.get(place)
        oldest_s = time.monotonic() - _IDLE_S
        while kept:
            try:
                since_s, connection = kept.pop()
            except IndexError:  # another thread was quicker
                break
            if since_s > oldest_s:
                return connection
            connection.close()
        return None

    def _give_back(self, place: tuple[str, str], connection: http.client.HTTPConnection) -> None:
        kept = self._idle.setdefault(place, deque())
        now_s = time.monotonic()
        kept.append(_Idle(now_s, connection))
        if len(kept) > _MOST_IDLE or kept[0].since_s < now_s - _IDLE_S:
            try:
                kept.popleft().connection.close()
            except IndexError:  # other threads have taken them all
                return


def _make(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=_CONNECT_S)


def _post(connection: http.client.HTTPConnection, path: str, body: bytes, deadline_s: float) -> Reply:
    """Make one request and read all of its answer; the connection is closed if it cannot be used again."""
    if connection.sock is None:
        connection.timeout = min(_CONNECT_S, _left_s(deadline_s))
        connection.connect()
    sock: socket.socket = connection.sock
    sock.settimeout(_left_s(deadline_s))
    connection.request("POST", path, body, _HEADERS)
    sock.settimeout(_left_s(deadline_s))
    with connection.getresponse() as response:
        pieces = []
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            sock.settimeout(_left_s(deadline_s))
        if response.length:
            raise http.client.IncompleteRead(b"".join(pieces), response.length)
        header = response.headers.get
        return Reply(response.status, b"".join(pieces), header("Retry-After", ""), header(PARTITIONS_HEADER, ""))


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error)[:200] or type(error).__name__
