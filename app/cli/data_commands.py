"""What the data commands (produce, record, replay, score, check) share: how errors end them and how progress shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.adapters.recordings.file import RecordingError
from app.adapters.sources.event_tables import TableError
from app.adapters.sources.source import SourceError
from app.cli.utc_time import UtcTime
from app.core.intake.rejection_limit import TooManyDeadLettersError
from app.core.replay.bounds import Bound, parse_offsets
from app.exits import StackError
from app.ports import WarehouseError
from app.replay.drive import NoModelError
from app.visible import visible
from models.versions.manifest import ManifestError
from models.versions.registry import RegistryError
from models.versions.verify import RefusedModelError
from schemas.pipeline.spec import PipelineError
from schemas.pipeline.toml_table import parse_duration

#: Seconds between two lines of progress, where standard error is no terminal.
LINE_EVERY_S = 5.0

_EXPECTED = (
    ManifestError,
    NoModelError,
    PipelineError,
    RecordingError,
    RegistryError,
    SourceError,
    StackError,
    TableError,
    TooManyDeadLettersError,
    WarehouseError,
)


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the command with the sentence of an expected error, and exit code 1."""
    try:
        yield
    except RefusedModelError as error:
        raise click.ClickException(f"The version may not score ({error.reason}): {error.detail}") from error
    except _EXPECTED as error:
        raise click.ClickException(str(error)) from error


class BoundType(UtcTime):
    """A time (UTC), or offsets of the events topic by partition (``0:1500,1:1480``; others are left out)."""

    name = "TIME|P:OFFSET,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, Bound):
            return value
        offsets = parse_offsets(value)
        if offsets is not None:
            return Bound(offsets=offsets)
        try:
            return Bound(time_ms=super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(
                f"{value!r} is neither a time nor offsets; write 2013-01-31, 2013-01-31T06:00:00Z or 0:1500,1:1480.",
                param,
                ctx,
            )


class DurationType(click.ParamType):
    """A duration in milliseconds, written as in a pipeline file: ``90s``, ``12h``, ``3d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        milliseconds = parse_duration(value)
        if milliseconds is None:
            self.fail(f"{value!r} is not a duration; write a whole number and ms, s, m, h or d, as 12h.", param, ctx)
        return milliseconds


def check_order(begin: Bound, end: Bound) -> None:
    """UsageError when the end is not after the beginning."""
    if begin.time_ms is not None and end.time_ms is not None and begin.time_ms >= end.time_ms:
        raise click.UsageError("--to must be after --from.")


class Counter:
    """How far a command is, on standard error: a bar on a terminal, elsewhere a line every few seconds.

    It shows records, records a second, and a few words. The lines come from a thread of their own: they also appear
    during a step that takes minutes.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.completed:,.0f}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._what = what
        self._task = self._bar.add_task(what, total=total, rate="", words="")
        self._ended = threading.Event()
        self._lines = None if console.is_terminal else threading.Thread(target=self._write_lines, daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._lines is not None:
            self._ended.set()
            self._lines.join()

    def add(self, records: int, words: str = "") -> None:
        """Count records; ``words`` says where they are, e.g. the day."""
        task = self._bar.tasks[0]
        speed = task.speed
        self._bar.update(self._task, advance=records, rate=f"{speed:,.0f}/s" if speed else "", words=words)

    def _write_lines(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(LINE_EVERY_S):
            task = self._bar.tasks[0]
            of = f" of {task.total:,.0f}" if task.total is not None else ""
            where = f", {task.fields['words']}" if task.fields["words"] else ""
            seconds = time.monotonic() - started
            click.echo(visible(f"  {self._what}: {task.completed:,.0f}{of}{where} ({seconds:.0f} s)"), err=True)


def count(n: int, what: str) -> str:
    """Say how many: 1 record, 2 records."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def describe_rate(records: int, seconds: float) -> str:
    """Say how long it took and how fast that was."""
    return f"in {seconds:.1f} s ({records / seconds:,.0f}/s)" if seconds > 0 else "at once"
