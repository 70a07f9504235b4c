"""``streamgauge up``: the whole stack of a pipeline, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from app.adapters.clickhouse.url import ClickHouseUrl
from app.cli.narration import Narrator
from app.cli.utc_time import StartType
from app.exits import StackError
from app.ports import WarehouseError
from app.settings import Settings
from app.supervisor import Stack, pipeline_children
from schemas.pipeline.spec import Pipeline, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@click.command()
@click.option(
    "--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="The pipeline to run."
)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of data and logs [default: STREAMGAUGE_HOME].",
)
@click.option(
    "--kafka-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the embedded Kafka; 0 (default): a free one.",
)
@click.option(
    "--http-port", type=click.IntRange(0, 65535), default=0, help="Port of the monitor; 0 (default): a free one."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many workers score.")
@click.option(
    "--from",
    "begin",
    metavar="TIME|earliest|latest",
    callback=lambda ctx, param, value: value and (StartType().convert(value, param, ctx), value)[1],
    help="Where workers begin that never read anything, as `streamgauge worker --from`.  [default: earliest]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="When all is ready, print one JSON object: where each part listens."
)
def command(
    *, name: str, home: Path | None, kafka_port: int, http_port: int, workers: int, begin: str, as_json: bool
) -> None:
    """Start Kafka, a monitor and workers, print where each listens, and stay until Ctrl-C.

    A second start in the same home goes on where the first one was. With STREAMGAUGE_KAFKA or STREAMGAUGE_CLICKHOUSE
    set, those servers are used instead of the embedded ones.
    """
    settings = Settings.read()
    if home is not None:
        settings = with_home(settings, home)
    pipeline = load_pipeline(name)
    narrator = Narrator()
    if settings.kafka:
        narrator.say(f"Using the Kafka at {settings.kafka} (STREAMGAUGE_KAFKA).")
        if kafka_port:
            raise click.UsageError(
                "--kafka-port is of the embedded Kafka, but STREAMGAUGE_KAFKA names a server: drop one."
            )
    if settings.clickhouse:
        try:
            url = ClickHouseUrl.parse(settings.clickhouse)
        except WarehouseError as error:
            raise click.UsageError(str(error)) from error
        narrator.say(f"Using the ClickHouse at {url} (STREAMGAUGE_CLICKHOUSE).")
    stack = Stack(
        settings,
        pipeline=pipeline.name,
        topics=pipeline.topics.all(),
        children=pipeline_children(str(pipeline.path), workers, http_port, begin, with_hooks=bool(pipeline.hooks)),
        kafka_port=kafka_port,
        http_port=http_port,
        say=narrator.say,
        progress=narrator.progress,
    )
    sys.exit(run_stack(stack, narrator, lambda: announce(stack, as_json)))


def with_home(settings: Settings, home: Path) -> Settings:
    """Return the settings with another home; the registry moves into it, unless it was placed elsewhere."""
    home = home.expanduser().absolute()
    own_registry = settings.registry != settings.home / "registry"
    return replace(settings, home=home, registry=settings.registry if own_registry else home / "registry")


def load_pipeline(name: str) -> Pipeline:
    """Load a pipeline by name or path; wrong usage (exit code 2) when it is not a valid one."""
    from schemas.pipeline.file import load  # noqa: PLC0415  # brings the parser; not needed for --help

    try:
        return load(name)
    except PipelineError as error:
        raise click.UsageError(str(error)) from error


def run_stack(stack: Stack, narrator: Narrator, announce: Callable[[], None]) -> int:
    """Start, announce, stay until a signal or the end of all children, and stop; the exit code."""
    code = 0
    with signals_as_interrupts():
        try:
            stack.start()
            stack.wait_ready()
            announce()
            stack.wait()
        except KeyboardInterrupt:
            narrator.say("Stopping (again: at once) …")
        except StackError as error:
            narrator.say(f"Error: {error}")
            code = 1
        finally:
            narrator.close_bar()
            with interrupts_to(stack.kill):
                stack.stop()
    return code


def announce(stack: Stack, as_json: bool) -> None:
    """Print where each part listens."""
    run = stack.describe()
    if as_json:
        click.echo(msgspec.json.encode(run).decode())
        return
    click.echo(
        f"Kafka       {run.kafka.bootstrap}" + (f"  (embedded, process {run.kafka.pid})" if run.kafka.embedded else "")
    )
    click.echo(f"ClickHouse  {run.clickhouse}" + ("  (in the monitor)" if run.clickhouse == "embedded" else ""))
    for name, child in run.children.items():
        click.echo(f"{name:<10}  {child.http or '-'}  (process {child.pid})")
    click.echo(f"Logs in {stack.settings.home / 'logs'}. Ctrl-C stops everything.")


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """SIGTERM and a closed terminal end the command as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts background jobs with it ignored.
    with _handlers(interrupt):
        yield


@contextmanager
def interrupts_to(act: Callable[[], None]) -> Iterator[None]:
    """While stopping, a signal calls ``act`` and does not interrupt."""
    with _handlers(lambda _number, _frame: act()):
        yield


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
