"""``streamgauge query``: SQL answered by the monitor, by a ClickHouse server, or by the embedded engine at rest."""

from __future__ import annotations

import csv
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse, lock_holder
from app.adapters.http.client import AwayError, MonitorError, ask_monitor
from app.adapters.sources.csv_cells import plain_cell
from app.adapters.stack.run_file import read_run
from app.ports import WarehouseError
from app.secret import Secret
from app.settings import Settings
from app.visible import behind_guard, visible


@click.command("query", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sql")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: columns, types, rows, truncated.")
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV with a header line; a text that a spreadsheet would take for a formula begins with ' there.",
)
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Most rows to print.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Home of the stack.  [default: STREAMGAUGE_HOME or .streamgauge]"
)
def command(sql: str, as_json: bool, as_csv: bool, limit: int, home: Path | None) -> None:
    """Run SQL that reads on the ClickHouse tables (database streamgauge), e.g.

    \b
    streamgauge query "SELECT metric, decile, value FROM model_metadata LIMIT 20"
    """  # noqa: D301  # click takes the character, so that the example keeps its line
    if as_json and as_csv:
        msg = "Give --json or --csv, not both."
        raise click.UsageError(msg)
    if not sql.strip():
        msg = "The SQL is empty."
        raise click.UsageError(msg)
    settings = Settings.read()
    try:
        answer = ask(sql, limit, (home or settings.home).expanduser().absolute(), settings.clickhouse)
    except (WarehouseError, MonitorError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(answer, ensure_ascii=False))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([plain_cell(name) for name in answer["columns"]])
        writer.writerows([_to_cell(value) for value in row] for row in answer["rows"])
    else:
        _print_table(answer)
    if answer["truncated"] and not as_json:
        click.echo(f"There are more rows than {limit}: raise --limit.", err=True)


def ask(sql: str, limit: int, home: Path, url: Secret) -> dict[str, Any]:
    """Answer like ``POST /api/v1/query``: from the monitor, else the server at ``url``, else the embedded engine."""
    run = read_run(home)
    if run is not None and run.monitor_http is not None:
        body = json.dumps({"sql": sql, "limit": limit}).encode()
        with suppress(AwayError):
            answer: dict[str, Any] = ask_monitor(run.monitor_http, "/api/v1/query", body)
            return answer
    if url:
        warehouse = ClickHouseWarehouse(url)
    else:
        path = home / "clickhouse"
        if not (path / "store").is_dir():
            msg = f"There is no running stack and no data in {home}: start one with `streamgauge up`, or give --home."
            raise WarehouseError(msg)
        holder = lock_holder(path)
        if holder is not None:
            msg = f"No monitor of {home} answers, and its data is held by {holder}: wait until it is up, or stop it."
            raise WarehouseError(msg)
        warehouse = ClickHouseWarehouse(path=path)
    try:
        return warehouse.query_readonly(sql, limit).to_json()
    finally:
        warehouse.close()


def _to_cell(value: Any) -> str:
    """A number is a number; a text that a spreadsheet would compute is not."""
    return plain_cell(value) if isinstance(value, str) else _to_text(value, null="")


def _to_text(value: Any, null: str) -> str:
    if value is None:
        return null
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _print_table(answer: dict[str, Any]) -> None:
    table = RichTable(header_style="bold")
    for name, kind in zip(answer["columns"], answer["types"], strict=True):
        is_number = re.match(r"(Nullable\()?(U?Int|Float|Decimal)", kind) is not None
        table.add_column(Text(visible(name)), justify="right" if is_number else "left", overflow="fold")
    for row in answer["rows"]:
        table.add_row(*(Text(visible(_to_text(value, null="null"))) for value in row))
    # Into a pipe there is no width to fit into.
    screen = behind_guard(sys.stdout)
    Console(file=screen, width=None if screen.isatty() else 10_000).print(table)
    count = len(answer["rows"])
    click.echo(f"{count} row{'' if count == 1 else 's'}")
