"""``streamgauge bench``: measure this machine."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from app.adapters.embedded_kafka import EmbeddedKafka
from app.adapters.stack_error import StackError
from app.bench.run import BenchRun
from app.bench.sections import SECTIONS, measure
from app.cli.narration import Narrator
from app.settings import Settings


@click.group()
def command() -> None:
    """Measure this machine, as ratios side by side in one run. A goal that is missed fails nothing."""


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:  # noqa: ARG001
    names = tuple(value.split(",")) if value else tuple(one.name for one in SECTIONS if one.by_default)
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no section {name}; there are {', '.join(known)}")
    return names


@command.command(epilog="Sections: " + "; ".join(f"{one.name}: {one.help}" for one in SECTIONS) + ".")
@click.option("--only", "names", callback=_split, default="", metavar="NAME,…", help="Sections to run; none: all.")
@click.option("--events", default=400_000, show_default=True, help="Events of one run; the long runs have five times.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of the comparisons; their medians count.")
@click.option("--seconds", default=20.0, show_default=True, help="Length of each latency measurement.")
@click.option(
    "--report", default="bench-report", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
def run(names: tuple[str, ...], events: int, rounds: int, seconds: float, report: Path) -> None:
    """Measure, write results.json and table.md, and print the table.

    Figures of an earlier run stay in results.json unless they are measured again; the table is that of this run.
    """
    # A topic just made has no leader for a moment; aiokafka says so at each try, and tries again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    narrator = Narrator()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        home = Path(folder)
        settings = replace(Settings.read({}), home=home, registry=home / "registry", cache=Settings.read().cache)
        try:
            with EmbeddedKafka(home=home, cache=settings.cache, say=narrator.say, progress=narrator.progress) as kafka:
                bench = BenchRun(replace(settings, kafka=kafka.bootstrap), narrator.say, events, rounds, seconds)
                asked = f"streamgauge bench run --events {events} --rounds {rounds} --seconds {seconds:g}"
                asyncio.run(measure(bench, names, asked))
        except StackError as error:
            raise click.ClickException(str(error)) from error
    click.echo(bench.figures.write(report))
