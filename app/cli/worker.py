"""``streamgauge worker``: score the events of a pipeline until told to stop."""

from __future__ import annotations

import gc
import os
import signal
from urllib.parse import urlsplit

import click

from app.adapters.http.place import HttpPlace
from app.cli.http_options import http_options
from app.cli.utc_time import StartType
from models.versions.trial import Trial


def _check_url(_: click.Context, __: click.Parameter, url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query):
        raise click.BadParameter("give it as http://HOST:PORT")
    return url


@click.command()
@click.option(
    "--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="The pipeline to score."
)
@http_options("/v1/score, /healthz, /readyz and /metrics")
@click.option(
    "--advertise",
    metavar="URL",
    callback=_check_url,
    default="",
    help="Where the other workers reach this one's hook, such as http://10.0.0.7:8000; without it, where it listens.",
)
@click.option(
    "--instance",
    metavar="NAME",
    help="A name that this worker keeps when it is started again, unlike any other's: started again within the session "
    "timeout, it has its partitions back and no other worker pauses.",
)
@click.option(
    "--session-timeout",
    "session_s",
    type=click.FloatRange(6, 300),
    default=6,
    show_default=True,
    help="Seconds after which a silent worker's partitions are given to others.",
)
@click.option(
    "--skip-removed",
    is_flag=True,
    help="Go on although retention has removed events before they were scored; without it the worker refuses.",
)
@click.option(
    "--from",
    "begin_ms",
    type=StartType(),
    default="earliest",
    show_default=True,
    help="Where a group without offsets begins: the first record that Kafka stamped with TIME (UTC) or later, the "
    "oldest, or the next. A group that has offsets goes on from them.",
)
def command(
    *,
    name: str,
    http_host: str,
    http_port: int,
    former_http_port: int,
    allowed_hosts: tuple[str, ...],
    advertise: str,
    instance: str | None,
    session_s: float,
    skip_removed: bool,
    begin_ms: int,
) -> None:
    """Score the events of a pipeline until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped, 2 wrong usage, 75 failed and worth starting again, 78 failed and a person must mend it first.
    """
    # Until the worker has joined its stream, there is nothing to end in order.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    gc.disable()  # importing makes no garbage: looking for it took a tenth of the time until the first score
    with Trial() as trial:  # it imports scikit-learn, which takes seconds, while this process does its own imports
        from app.worker.input_offsets import Beginning  # noqa: PLC0415  # `--help` needs none of it
        from app.worker.start import run  # noqa: PLC0415
        from app.worker.worker import Membership  # noqa: PLC0415

        membership = Membership(instance, session_s)
        place = HttpPlace.choose(http_host, http_port, former_http_port, allowed_hosts, advertise)
        run(name, place, membership, trial, Beginning(begin_ms, skip_removed))
