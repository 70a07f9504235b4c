"""Where worker and monitor serve HTTP, and for whom: the options that both have."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from app.adapters.stack.supervised_child import FORMER_PORT

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class HttpPlace:
    """Where to listen.

    ``allowed_hosts``: names by which requests may call the server besides those it knows. ``or_free``: when somebody
    else has the port, a free one will do.
    """

    host: str
    port: int
    allowed_hosts: tuple[str, ...] = ()
    or_free: bool = False

    @classmethod
    def choose(cls, host: str, port: int, former_port: int, allowed_hosts: tuple[str, ...]) -> HttpPlace:
        """The place that the options say: of one that is started again, its former port as long as that is free."""
        return cls(host, former_port or port, allowed_hosts, or_free=former_port > 0)

    def explain(self, error: OSError) -> str:
        """What to do when it cannot be listened there."""
        # asyncio has a longer story; an address that cannot be looked up has a number below zero.
        why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
        return f"HTTP cannot listen on {self.host}:{self.port} ({why}): choose another --http-port or --http-host."


def http_options(what: str) -> Callable[[F], F]:
    """Add the options; ``what`` listens there."""

    def add(command: F) -> F:
        for option in (
            click.option(
                "--allow-host",
                "allowed_hosts",
                multiple=True,
                metavar="NAME",
                help="A name by which requests may call it, such as that of a service or a proxy; may be given again."
                " Addresses and localhost always may.",
            ),
            click.option(
                "--http-port", type=click.IntRange(0, 65535), default=0, help="Their port; 0 (default): a free one."
            ),
            # For who starts it again (`streamgauge up`): nobody who typed an address is to find it gone.
            click.option(FORMER_PORT, type=click.IntRange(0, 65535), default=0, hidden=True),
            click.option("--http-host", default="127.0.0.1", show_default=True, help=f"Where {what} listen."),
        ):
            command = option(command)
        return command

    return add
