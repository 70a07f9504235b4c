"""``streamgauge bench``: measure this machine."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from app.adapters.embedded_kafka import EmbeddedKafka
from app.adapters.stack_error import StackError
from app.bench import Figure, bench_stream
from app.cli.narration import Narrator
from app.settings import Settings
from schemas.pipeline_file import load


@click.group()
def command() -> None:
    """Measure this machine, as ratios side by side in one run."""


@command.command()
@click.option("--events", default=400_000, show_default=True, help="Events for the worker.")
@click.option(
    "--plain-events", default=20_000, show_default=True, help="Events for the plain Faust agent; 0: leave it."
)
@click.option("--at-least-once", is_flag=True, help="Without transactions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stream(events: int, plain_events: int, at_least_once: bool, as_json: bool) -> None:
    """Events per second of one worker: 150-byte JSON, 10 features, logistic regression, 4 partitions."""
    narrator = Narrator()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        home = Path(folder)
        pipeline = load("bench")
        if at_least_once:
            variant = home / "bench.toml"
            variant.write_text(pipeline.path.read_text().replace('"exactly_once"', '"at_least_once"'))
            pipeline = load(variant)
        settings = replace(Settings.read({}), home=home, registry=home / "registry", cache=Settings.read().cache)
        try:
            with EmbeddedKafka(home=home, cache=settings.cache, say=narrator.say, progress=narrator.progress) as kafka:
                settings = replace(settings, kafka=kafka.bootstrap)
                ours, plain = asyncio.run(bench_stream(pipeline, settings, events, plain_events, narrator.say))
        except (StackError, RuntimeError) as error:
            raise click.ClickException(str(error)) from error
    show(ours, plain, as_json)


def show(ours: Figure, plain: Figure | None, as_json: bool) -> None:
    """Print the figures, and the ratio of the two."""
    figures = [ours] + ([plain] if plain else [])
    ratio = ours.events_per_second / plain.events_per_second if plain else None
    if as_json:
        rows = [
            {
                "name": figure.name,
                "events": figure.events,
                "events_per_second": figure.events_per_second,
                "cpu_us_per_event": figure.cpu_us_per_event,
            }
            for figure in figures
        ]
        click.echo(json.dumps({"figures": rows, "ratio": ratio}))
        return
    table = Table("", "events", "events/s", "CPU µs/event")
    for figure in figures:
        table.add_row(
            figure.name, f"{figure.events}", f"{figure.events_per_second:,.0f}", f"{figure.cpu_us_per_event:.1f}"
        )
    Console().print(table)
    if ratio is not None:
        click.echo(f"streamgauge is {ratio:.1f} times as fast as plain Faust in this run.")
