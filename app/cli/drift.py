"""``streamgauge drift``: how far the findings of the monitor can be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import click

from app.cli.narration import Narrator
from app.evaluation.run import EvaluationRun, Sizes
from app.evaluation.sections import SECTIONS
from app.evaluation.sections import evaluate as evaluate_sections
from app.settings import Settings

DEFAULT = Sizes()


@click.group()
def command() -> None:
    """Measure drift monitoring: false alarms, delays, cost."""


def _split(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:  # noqa: ARG001
    known = [section.name for section in SECTIONS]
    names = tuple(value.split(",")) if value else tuple(known)
    for name in names:
        if name not in known:
            raise click.BadParameter(f"no section {name}; there are {', '.join(known)}")
    return names


@command.command(epilog="Sections: " + "; ".join(f"{section.name}: {section.help}" for section in SECTIONS) + ".")
@click.option("--only", "names", callback=_split, default="", metavar="NAME,…", help="Sections to run; none: all.")
@click.option(
    "--runs",
    default=DEFAULT.runs,
    show_default=True,
    type=click.IntRange(min=1),
    help="Of the null streams; how much the other sections draw follows from it. 1000 take about an hour.",
)
@click.option("--seed", default=1, show_default=True, type=click.IntRange(min=0), help="Of everything that is drawn.")
@click.option(
    "--workers", default=0, show_default=True, type=click.IntRange(min=0), help="Processes; 0: one for each core."
)
@click.option(
    "--report", default="bench-report", show_default=True, type=click.Path(path_type=Path), help="Folder of the report."
)
def evaluate(*, names: tuple[str, ...], runs: int, seed: int, workers: int, report: Path) -> None:
    """Measure what is achieved beside what was promised; a goal that is missed fails nothing.

    Writes drift.json, drift.md and pictures, and prints the tables. Figures of an earlier run stay in drift.json unless
    they are measured again. The data sets are downloaded once.
    """
    run = EvaluationRun(
        say=Narrator().say,
        sizes=Sizes(runs),
        report=report,
        cache=Settings.read().cache,
        seed=seed,
        workers=workers or os.cpu_count() or 1,
    )
    evaluate_sections(run, names, f"streamgauge drift evaluate --runs {runs} --seed {seed}")
    click.echo(run.figures.render())
