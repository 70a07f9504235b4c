"""What the subcommands of ``streamgauge model`` begin with: pipeline, registry, Kafka, and how they print."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from app.adapters.stack.run_file import find_kafka
from app.kafka_access import KafkaAccess
from app.settings import Settings
from models.versions.registry import Registry
from schemas.pipeline.spec import Pipeline, PipelineError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ModelContext:
    """The pipeline, the registry that its versions are in, and the settings."""

    pipeline: Pipeline
    registry: Registry
    settings: Settings
    home: Path

    @classmethod
    def read(cls, pipeline: str, home: Path | None) -> ModelContext:
        """Load the pipeline by name or path; a mistake in it ends the command with its sentence."""
        from schemas.pipeline.file import load  # noqa: PLC0415  # `--help` needs no validation of pipelines

        settings = Settings.read()
        root = (home or settings.home).expanduser().absolute()
        # --home moves the registry too, unless that was placed elsewhere.
        registry = settings.registry if settings.registry != settings.home / "registry" else root / "registry"
        try:
            loaded = load(pipeline)
        except PipelineError as error:
            raise click.ClickException(str(error)) from error
        return cls(loaded, Registry(registry), settings, root)

    @property
    def model(self) -> str:
        return self.pipeline.model.name

    def find_kafka(self) -> KafkaAccess:
        """Return the Kafka to use; StackError when none is given and no stack runs."""
        return find_kafka(self.settings.kafka, self.home)


def with_context(function: Command) -> Command:
    """Add the options that every subcommand has."""
    options = (
        click.option(
            "--pipeline", default="flights", show_default=True, help="Name of the pipeline, or path of its file."
        ),
        click.option(
            "--home",
            type=click.Path(path_type=Path),
            help="Home of the stack.  [default: STREAMGAUGE_HOME or .streamgauge]",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def emit(result: dict[str, Any], as_json: bool, *lines: str) -> None:
    """Print the result as one JSON object, or the lines for a person."""
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    for line in lines:
        click.echo(line)


def format_time(time_ms: int | None) -> str:
    """Format as UTC, to the second; "always" for None."""
    if time_ms is None:
        return "always"
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def who() -> str:
    """Return the name of the person at the keyboard; empty when the system knows none, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
