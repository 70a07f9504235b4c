"""Where a worker or a monitor serves HTTP, and for whom."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

#: Of all interfaces.
_ANYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  # named, not bound to


@dataclass(frozen=True)
class HttpPlace:
    """Where to listen.

    ``allowed_hosts``: names by which requests may call the server besides those it knows. ``or_free``: when somebody
    else has the port, a free one will do. ``advertised``: the URL at which others reach it; "": where it listens.
    """

    host: str
    port: int
    allowed_hosts: tuple[str, ...] = ()
    or_free: bool = False
    advertised: str = ""

    @classmethod
    def choose(
        cls, host: str, port: int, former_port: int, allowed_hosts: tuple[str, ...], advertised: str = ""
    ) -> HttpPlace:
        """The place that the options name; for one that is started again, its former port as long as that is free."""
        names = [*allowed_hosts, *([socket.gethostname()] if host in _ANYWHERE else ())]
        name = urlsplit(advertised).hostname
        if name:
            names.append(name)
        return cls(host, former_port or port, tuple(names), or_free=former_port > 0, advertised=advertised.rstrip("/"))

    def url(self, address: str) -> str:
        """Where others reach it, given where it listens: an address of all interfaces is that of whoever calls."""
        if self.advertised:
            return self.advertised
        parts = urlsplit(address)
        return f"{parts.scheme}://{socket.gethostname()}:{parts.port}" if parts.hostname in _ANYWHERE else address

    def explain(self, error: OSError) -> str:
        """What to do when listening there fails."""
        # asyncio has a longer story; an address that cannot be looked up has a number below zero.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        return f"HTTP cannot listen on {self.host}:{self.port} ({why}): choose another --http-port or --http-host."
