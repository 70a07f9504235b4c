"""``streamgauge bench``: measure this machine."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.bench.run import BenchRun, Sizes
from app.bench.sections import SECTIONS, measure
from app.cli.narration import Narrator
from app.exits import StackError
from app.settings import Settings

DEFAULT = Sizes()


@click.group()
def command() -> None:
    """Measure this machine, as ratios side by side in one run. A goal that is missed fails nothing."""


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:  # noqa: ARG001
    names = tuple(value.split(",")) if value else tuple(section.name for section in SECTIONS if section.by_default)
    known = [section.name for section in SECTIONS]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no section {name}; there are {', '.join(known)}")
    return names


_REPORT = click.option(
    "--report", default="bench-report", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
_EVENTS = click.option(
    "--events",
    default=DEFAULT.events,
    show_default=True,
    type=click.IntRange(min=4),
    help="Events of one run; the long runs have three times as many.",
)


@command.command(epilog="Sections: " + "; ".join(f"{section.name}: {section.help}" for section in SECTIONS) + ".")
@click.option("--only", "names", callback=_split, default="", metavar="NAME,…", help="Sections to run; none: all.")
@_EVENTS
@click.option("--rounds", default=DEFAULT.rounds, show_default=True, help="Of the comparisons; their medians count.")
@click.option("--seconds", default=DEFAULT.seconds, show_default=True, help="Length of each latency measurement.")
@click.option("--minutes", default=DEFAULT.minutes, show_default=True, help="Length of the soak.")
@_REPORT
def run(*, names: tuple[str, ...], events: int, rounds: int, seconds: float, minutes: float, report: Path) -> None:
    """Measure, write results.json and table.md, and print the table.

    Figures of an earlier run stay in results.json unless they are measured again; the table is that of this run.
    All sections but the soak run by default.
    """
    asked = f"streamgauge bench run --events {events} --rounds {rounds} --seconds {seconds:g} --minutes {minutes:g}"
    _measure(names, Sizes(events, rounds, seconds, minutes), report, asked)


@command.command()
@click.option("--minutes", default=DEFAULT.minutes, show_default=True, help="How long; 10 are enough for the tail.")
@_REPORT
def soak(minutes: float, report: Path) -> None:
    """A steady 2 000 events/s: memory and open files over time, and whether the tail of the latencies grows."""
    _measure(("soak",), Sizes(minutes=minutes), report, f"streamgauge bench run --minutes {minutes:g}")


@command.command()
@_EVENTS
@_REPORT
def profile(events: int, report: Path) -> None:
    """Microseconds of CPU per event by stage: fetch, decode, features, score, encode, commit."""
    _measure(("profile",), Sizes(events), report, f"streamgauge bench run --events {events}")


def _measure(names: tuple[str, ...], sizes: Sizes, report: Path, asked: str) -> None:
    # A topic just made has no leader for a moment; aiokafka says so at each try, and tries again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    narrator = Narrator()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        home = Path(folder)
        settings = replace(Settings.read({}), home=home, registry=home / "registry", cache=Settings.read().cache)
        try:
            with EmbeddedKafka(home=home, cache=settings.cache, say=narrator.say, progress=narrator.progress) as kafka:
                bench = BenchRun(replace(settings, kafka=kafka.access.servers), narrator.say, sizes, report)
                asyncio.run(measure(bench, names, asked))
        except StackError as error:
            raise click.ClickException(str(error)) from error
    click.echo(bench.figures.render())
