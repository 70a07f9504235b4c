"""``streamgauge monitor``: watch the scores of a pipeline until told to stop."""

from __future__ import annotations

import click

from app.adapters.http.place import HttpPlace
from app.cli.http_options import http_options


@click.command("monitor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="The pipeline to watch."
)
@http_options("the page and the API")
def command(
    *, name: str, http_host: str, http_port: int, former_http_port: int, allowed_hosts: tuple[str, ...]
) -> None:
    """Bring scores into ClickHouse, close windows, test for drift, raise alerts; until SIGTERM or Ctrl-C.

    Several may run: one works, the others stand by. Exit codes: 0 stopped, 1 could not start, 2 wrong usage, 75 failed
    and worth starting again, 78 failed and a person must mend it first.
    """
    from app.monitor.start import run  # noqa: PLC0415  # `--help` needs none of it

    run(name, HttpPlace.choose(http_host, http_port, former_http_port, allowed_hosts))
