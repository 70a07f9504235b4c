"""What can be evaluated, by name, in the order of a whole run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.evaluation.changes import measure_changes
from app.evaluation.concepts import measure_concepts
from app.evaluation.cost import measure_cost
from app.evaluation.employment import measure_census
from app.evaluation.flights import measure_flights
from app.evaluation.frontier_section import measure_frontier
from app.evaluation.goals import GOALS
from app.evaluation.kdd import measure_kdd
from app.evaluation.labels import measure_labels
from app.evaluation.null import measure_null
from app.evaluation.payments_section import measure_payments
from app.evaluation.prices import measure_prices
from app.evaluation.procedures import measure_procedures
from app.evaluation.run import EvaluationRun
from app.evaluation.weather import measure_weather
from app.exits import StackError


@dataclass(frozen=True)
class Section:
    """A part of the evaluation that can be run alone."""

    name: str
    help: str
    measure: Callable[[EvaluationRun], None]


SECTIONS = (
    Section("null", "false alarms where nothing changes", measure_null),
    Section("labels", "false alarms with labels, where nothing changes", measure_labels),
    Section("payments", "rare frauds, late labels: false alarms, and verdicts on changes", measure_payments),
    Section("procedures", "ways to spend the budget over time", measure_procedures),
    Section("changes", "changes of one of ten features", measure_changes),
    Section("concepts", "river's generators, detectors on errors", measure_concepts),
    Section("frontier", "detectors on errors: false alarms against delay", measure_frontier),
    Section("noaa", "weather with displaced columns", measure_weather),
    Section("census", "employment over three years", measure_census),
    Section("prices", "a regressor's error without labels", measure_prices),
    Section("flights", "a year of flights by month", measure_flights),
    Section("kdd", "the KDD 2026 protocol on the weather", measure_kdd),
    Section("cost", "CPU of the state and of closing a window", measure_cost),
)
#: What may be missing without ending the evaluation: data that cannot be had, an extra that is not installed.
MISHAPS = (StackError, FileNotFoundError, ModuleNotFoundError)


def evaluate(run: EvaluationRun, names: tuple[str, ...], command: str) -> None:
    """Run sections one after another and judge the goals; what cannot be had is said, and the next goes on.

    The report is written after each, so that a run that is stopped has what it measured.
    """
    for section in SECTIONS:
        if section.name in names:
            run.figures.command = f"{command} --only {section.name}"
            started = time.monotonic()
            try:
                section.measure(run)
            except MISHAPS as error:
                run.figures.skip(section.name, str(error))
            run.figures.judge(GOALS)
            run.figures.write(run.report)
            run.say(f"{section.name}: done in {time.monotonic() - started:.0f} s")
