"""Where a worker or a monitor serves HTTP, and for whom."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit


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
        name = urlsplit(advertised).hostname
        names = (*allowed_hosts, name) if name else allowed_hosts
        return cls(host, former_port or port, names, or_free=former_port > 0, advertised=advertised.rstrip("/"))

    def explain(self, error: OSError) -> str:
        """What to do when listening there fails."""
        # asyncio has a longer story; an address that cannot be looked up has a number below zero.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        return f"HTTP cannot listen on {self.host}:{self.port} ({why}): choose another --http-port or --http-host."
