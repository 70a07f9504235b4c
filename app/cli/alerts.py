"""``streamgauge alerts``: what is open, and who has taken it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.adapters.http.client import MonitorClient, MonitorError
from app.adapters.stack.run_file import read_run
from app.cli.model_context import emit, who
from app.settings import Settings
from schemas.pipeline.file import load
from schemas.pipeline.spec import PipelineError

_PATIENCE_S = 30.0

_home = click.option(
    "--home", type=click.Path(path_type=Path), help="Home of the stack.  [default: STREAMGAUGE_HOME or .streamgauge]"
)
_monitor = click.option("--monitor", "address", help="Address of the monitor, http://host:port, instead of a home.")
_pipeline = click.option(
    "--pipeline", metavar="NAME|PATH", help="The pipeline that must be watched there.  [default: whichever is]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("alerts", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List the alerts of the monitor that runs, and acknowledge one.

    Exit codes: 0 done, 1 it could not be done, 2 wrong usage.
    """


@command.command("list")
@_pipeline
@_home
@_monitor
@_json
@click.option("--all", "is_all", is_flag=True, help="Also those that are cleared or were silenced.")
def list_alerts(*, pipeline: str | None, home: Path | None, address: str | None, as_json: bool, is_all: bool) -> None:
    """List the alerts that are open: how grave, since when, for whom, who has taken them on."""
    try:
        alerts = _find_monitor(home, address, pipeline).alerts("all" if is_all else "open")
    except MonitorError as error:
        raise click.ClickException(str(error)) from error
    lines = [line for alert in alerts for line in _describe(alert)]
    emit({"alerts": alerts}, as_json, *(lines or ["There are no alerts." if is_all else "No alert is open."]))


@command.command("ack")
@click.argument("alert_id")
@click.option("--by", default=who, help="Your name.  [default: who you are on this machine]")
@click.option("--why", required=True, help="What you do about it, for those who look next.")
@_pipeline
@_home
@_monitor
@_json
def acknowledge(
    alert_id: str,
    *,
    by: str,
    why: str,
    pipeline: str | None,
    home: Path | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Take an open alert on, under your name: it is not raised again while it lasts.

    \b
    Example:
      streamgauge alerts ack 1a164d6127774e1fba19 --by ann --why "the feed of JFK is late; asked upstream"
    """  # noqa: D301  # click takes the character, so that examples keep their lines
    if not by.strip() or not why.strip():
        raise click.UsageError("--by and --why must say something.")
    try:
        answer = _find_monitor(home, address, pipeline).acknowledge(alert_id, by, why)
    except MonitorError as error:
        raise click.ClickException(str(error)) from error
    emit(answer, as_json, f"{alert_id} is acknowledged by {answer['by']}: {answer['why']}")


def _find_monitor(home: Path | None, address: str | None, pipeline: str | None) -> MonitorClient:
    """The monitor that runs; with a pipeline, only if it watches that."""
    monitor = _reach(home, address)
    if pipeline is None:
        return monitor
    try:
        wanted = load(pipeline).name
    except PipelineError as error:
        raise click.ClickException(str(error)) from error
    if (watched := monitor.pipeline()) != wanted:
        raise click.ClickException(
            f"The monitor there watches {watched}, not {wanted}: name the home of the stack of {wanted} by --home, or"
            " its monitor by --monitor."
        )
    return monitor


def _reach(home: Path | None, address: str | None) -> MonitorClient:
    if address is not None:
        if not address.startswith(("http://", "https://")):
            raise click.UsageError(f"--monitor {address} is no address; write for example http://127.0.0.1:8080.")
        return MonitorClient(lambda: address, _PATIENCE_S)
    root = (home or Settings.read().home).expanduser().absolute()
    if read_run(root) is None:
        raise click.ClickException(
            f"No stack runs in {root}: start `streamgauge up`, name another by --home, or its monitor by --monitor."
        )

    def find_address() -> str | None:
        run = read_run(root)
        return run.monitor_http if run is not None else None

    return MonitorClient(find_address, _PATIENCE_S)


def _describe(alert: dict[str, Any]) -> list[str]:
    rules = ", ".join([alert["rule"], *alert["others"]])
    lines = [f"{alert['alert_id']}  {alert['severity']} {alert['state']}  {rules}", f"  {alert['message']}"]
    if alert["who"]:
        lines.append(f"  taken on by {alert['who']}: {alert['why']}")
    elif alert["why"]:
        lines.append(f"  silent: {alert['why']}")
    facts = {"since": alert["since"], "for": alert["owner"], "asks for": alert["action"], "runbook": alert["runbook"]}
    lines.append("  " + ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact))
    return lines
