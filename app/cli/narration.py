"""How a starting stack talks to a person: one sentence a line, and the download's progress."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from app.visible import behind_guard, visible

if TYPE_CHECKING:
    from app.adapters.stack.kafka_jars import Download


class Narrator:
    """Writes to standard error: a bar on a terminal, plain lines elsewhere. Standard output is left to results."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=behind_guard(sys.stderr), highlight=False, soft_wrap=True)
        self._guard = threading.Lock()
        self._bar: Progress | None = None
        self._tenths_said = 0

    def say(self, sentence: str) -> None:
        """One line. Called from any thread."""
        with self._guard:
            if self._console.is_terminal:
                self._console.print(visible(sentence), markup=False)
            else:
                click.echo(visible(sentence), file=self._console.file)

    def progress(self, download: Download) -> None:
        """Show how far a download has come. Called from any thread."""
        with self._guard:
            if self._console.is_terminal:
                self._draw(download)
            else:
                self._write_lines(download)

    def _draw(self, download: Download) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.add_task("", total=download.total_bytes)
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0],
            completed=download.done_bytes,
            description=f"{download.done_files} of {download.total_files} files",
        )
        if download.done_files == download.total_files:
            self.close_bar()

    def _write_lines(self, download: Download) -> None:
        """Write a line at each tenth of the files."""
        tenths = 10 * download.done_files // download.total_files
        if download.finished and tenths > self._tenths_said:
            self._tenths_said = tenths
            line = f"  {download.done_files} of {download.total_files} files, {download.done_bytes / 1e6:.0f} MB"
            click.echo(line, file=self._console.file)

    def close_bar(self) -> None:
        """End the bar where it stands (the download is complete or has failed)."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._tenths_said = 0
