"""The options that worker and monitor have in common: where they serve HTTP, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from app.adapters.stack.supervised_child import FORMER_PORT

F = TypeVar("F", bound=Callable[..., Any])


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
            # For `streamgauge up`, which starts it again: an address that somebody has typed must go on working.
            click.option(FORMER_PORT, type=click.IntRange(0, 65535), default=0, hidden=True),
            click.option("--http-host", default="127.0.0.1", show_default=True, help=f"Where {what} listen."),
        ):
            command = option(command)
        return command

    return add
