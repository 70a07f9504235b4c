"""What the data commands (produce, record, replay, score, check) share: how errors end them and how progress shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from app.adapters.event_tables import TableError
from app.adapters.recordings import RecordingError
from app.adapters.source import SourceError
from app.adapters.stack_error import StackError
from app.drive import NoModelError
from app.pipeline import TooManyDeadLettersError
from models.manifest import ManifestError
from models.registry import RegistryError
from models.verify import RefusedModelError
from schemas.pipeline import PipelineError

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


class Counter:
    """A progress bar on standard error, on a terminal only: records, records a second, and a few words."""

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
        self._task = self._bar.add_task(what, total=total, rate="", words="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, records: int, words: str = "") -> None:
        """Count records; ``words`` says where they are, e.g. the day."""
        task = self._bar.tasks[0]
        speed = task.speed
        self._bar.update(self._task, advance=records, rate=f"{speed:,.0f}/s" if speed else "", words=words)


def describe_rate(records: int, seconds: float) -> str:
    """Say how long it took, and how fast that is."""
    return f"in {seconds:.1f} s ({records / seconds:,.0f}/s)" if seconds > 0 else "at once"
