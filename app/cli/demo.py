"""``streamgauge demo``: the whole job on a year of real flights, then a summary and a report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from app.cli.narration import Narrator
from app.cli.up import interrupts_to, load_pipeline, signals_as_interrupts
from app.exits import StackError
from app.secret import Secret
from app.settings import Settings
from app.supervisor import Stack, pipeline_children
from app.visible import behind_guard, visible

if TYPE_CHECKING:
    from app.demo import DemoOptions, Progress

LINE_EVERY_S = 5.0
#: The exit code that a shell gives a command that Ctrl-C has ended.
EXIT_STOPPED = 130


@click.command("demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--limit", type=click.IntRange(min=1), help="Events at most, from March on.  [default: all, to December]")
@click.option("--keep", is_flag=True, help="Leave everything up at the end, until Ctrl-C.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="New or empty folder for the stack's files; it stays.  [default: one of its own, removed at the end]",
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-report"),
    show_default=True,
    help="Folder for index.html and summary.json.",
)
@click.option(
    "--retrain-at",
    type=click.IntRange(min=1),
    metavar="N",
    help="Retrain after N events, whatever the monitor says: for short demos, which see no alert.",
)
@click.option(
    "--family", type=click.Choice(["hgb", "logistic"]), default="hgb", show_default=True, help="Kind of model."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def command(
    *,
    limit: int | None,
    keep: bool,
    home: Path | None,
    report: Path,
    retrain_at: int | None,
    family: str,
    as_json: bool,
) -> None:
    """Run the whole job on the flights that left New York in 2013, and check that nothing was lost.

    Trains a model on January and February, streams March to December through Kafka as fast as it will go, watches for
    drift, retrains and swaps the model in mid-stream, and writes a report. It always starts a Kafka and a ClickHouse of
    its own. Exit code 1 when an event was lost, scored twice or cannot be accounted for.
    """
    from app.demo import DemoOptions  # noqa: PLC0415  # `--help` needs none of it
    from app.report import MissingPlotsError, require_plots  # noqa: PLC0415

    try:
        require_plots()
    except MissingPlotsError as error:
        raise click.ClickException(str(error)) from error
    options = DemoOptions(
        report=report.absolute(),
        limit=limit,
        retrain_at=retrain_at,
        family=family,
        command=" ".join(["streamgauge", *sys.argv[1:]]),
    )
    with _home(home, keep=keep) as folder:
        code = _run(options, folder, keep=keep, as_json=as_json)
    if code == EXIT_STOPPED:
        left = f"its files are kept in {folder}" if folder.exists() else "its files are removed"
        click.echo(visible(f"The demo was stopped before its end: there is no report of it, and {left}."), err=True)
    sys.exit(code)


@contextmanager
def _home(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """Give a folder to run in: the one given, or one of its own, removed at the end unless it ended badly."""
    if given is not None:
        folder = given.expanduser().absolute()
        if folder.exists() and any(folder.iterdir()):
            raise click.UsageError(
                f"{folder} is not empty: the demo counts every record there is, so name a new folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    root = Path(".streamgauge").absolute()
    number = 1
    while True:
        folder = root / f"demo-{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
        except OSError as error:
            raise click.ClickException(f"Cannot make {folder} ({error.strerror}): name a folder by --home.") from error
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not keep and not (folder / "failed").exists():
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: DemoOptions, home: Path, *, keep: bool, as_json: bool) -> int:
    """Run the demo in a home; the exit code."""
    from app.demo import Demo, DemoError  # noqa: PLC0415  # as above

    # Servers that others use hold events that the ledger does not know.
    settings = replace(Settings.read(), kafka="", clickhouse=Secret(""), home=home, registry=home / "registry")
    pipeline = load_pipeline("flights")
    narrator = Narrator()
    stack = Stack(
        settings,
        pipeline=pipeline.name,
        topics=pipeline.topics.all(),
        children=pipeline_children(str(pipeline.path), workers=1),
        say=narrator.say,
        progress=narrator.progress,
    )
    meter = Meter(Console(file=behind_guard(sys.stderr), highlight=False))
    code = EXIT_STOPPED
    with signals_as_interrupts():
        try:
            summary = Demo(pipeline, stack, options, say=meter.say, show=meter.show).run()
            code = 0 if summary["balanced"] else 1
            meter.close()
            _print_summary(summary, options.report, as_json=as_json)
            if keep:
                _print_addresses(stack, home)
                stack.wait()
        except KeyboardInterrupt:
            meter.say("Stopping (again: at once) …")
            if keep and code != EXIT_STOPPED:  # the demo had ended
                meter.say(f"Its files are kept in {home}, its report in {options.report}.")
        except (DemoError, StackError) as error:
            meter.say(f"Error: {error}")
            (home / "failed").touch()
            code = 1
        finally:
            meter.close()
            narrator.close_bar()
            with interrupts_to(stack.kill):
                stack.stop()
    return code


class Meter:
    """Shows how far the stream is: a bar on a terminal, a line every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Bar | None = None
        self._line_at = 0.0

    def say(self, sentence: str) -> None:
        if self._console.is_terminal:
            self._console.print(visible(sentence), markup=False)
        else:
            click.echo(sentence, err=True)

    def show(self, progress: Progress) -> None:
        """Take the newest numbers."""
        if not progress.at_ms:
            return
        month = datetime.fromtimestamp(progress.at_ms / 1000, UTC).strftime("%B")
        training = f"   training on {progress.training}" if progress.training else ""
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = Bar(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.fields[numbers]}"),
                    TimeElapsedColumn(),
                    console=self._console,
                )
                self._bar.add_task(month, total=1.0, numbers="")
                self._bar.start()
            numbers = (
                f"{progress.events:,} events   {progress.events_per_second:,.0f}/s   lag {progress.lag:,}{training}"
            )
            self._bar.update(self._bar.task_ids[0], completed=progress.share, description=month, numbers=numbers)
        elif time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            click.echo(
                f"  {month:<9} {progress.events:>9,} events  {progress.events_per_second:>7,.0f}/s  "
                f"lag {progress.lag:>6,}{training}",
                err=True,
            )

    def close(self) -> None:
        """End the bar where it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _print_summary(summary: Mapping[str, Any], report: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    free = summary["events_per_second_unthrottled"]
    rows = {
        "events": f"{summary['events']:,}",
        "scored": f"{summary['scored']:,}",
        "dead letters": f"{summary['dead_letters']:,}",
        "lost": f"{summary['lost']:,}",
        "doubled": f"{summary['doubled']:,}",
        "swaps": f"{summary['swaps']} ({' → '.join(summary['versions'])})",
        "seconds": f"{summary['seconds']:.1f}",
        "events/s": f"{summary['events_per_second']:,.0f}" + (f" ({free:,.0f} while not held)" if free else ""),
        "drift reports": f"{summary['drift_reports']:,} ({summary['drift_signals']:,} signals)",
        "alerts": f"{summary['alerts']}",
        "AUC by version": ", ".join(f"{name} {auc:.3f}" for name, auc in summary["auc_by_version"].items()) or "-",
        "peak memory": f"{summary['peak_rss_mb']:,.0f} MB",
        "ClickHouse rows": f"{summary['clickhouse_rows']:,}",
        "phases": ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary["phase_seconds"].items()),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    screen = behind_guard(sys.stdout)
    Console(file=screen, highlight=False, width=None if screen.isatty() else 120).print(table)
    for fault in summary["ledger"]["faults"]:
        click.echo(f"Fault: {fault}")
    if summary["balanced"]:
        click.echo("Every event has one outcome, on the topics and in ClickHouse.")
    else:
        click.echo("The ledger does not balance.")
    click.echo(f"Report: {report / 'index.html'}")


def _print_addresses(stack: Stack, home: Path) -> None:
    for name, address in stack.addresses().items():
        click.echo(f"{name:<10}  {address}")
    sql = "SELECT metric, decile, value FROM model_metadata LIMIT 20"
    click.echo(f'streamgauge query --home {home} "{sql}"')
    click.echo("Everything stays up until Ctrl-C.")
