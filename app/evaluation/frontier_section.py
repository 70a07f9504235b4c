"""The frontier of detectors on errors, as figures: delays at about the same time between false alarms."""

from __future__ import annotations

import math

from app.evaluation.frontier import CONTESTANTS, Contestant, Row, Size, always_fire, measure
from app.evaluation.run import EvaluationRun

_TABLE = "Errors of rate .2 that change after 10 000 events, p0 from 2 000"
#: Whose delays are held against whose: the CUSUM at the declared events between false alarms, river's with its setting.
_AGAINST = (("adwin", "delta = 0.002", 1_200_000.0), ("hddm_a", "drift_confidence = 0.001", 80_000.0))


def _measure(task: tuple[int, int, int]) -> Row:
    seed, number, effort = task
    contestants = [*(Contestant.of(*description) for description in CONTESTANTS), always_fire()]
    size = Size(null_events=effort * 100_000, runs=max(effort, 20))
    return measure(contestants[number], size, seed)


def measure_frontier(run: EvaluationRun) -> None:
    """Events between two false alarms, and events until a change to .3 and to .25 is noticed."""
    run.say("frontier: streams of errors")
    tasks = [(run.seed, number, run.sizes.runs) for number in range(len(CONTESTANTS) + 1)]
    rows = list(run.map("frontier", _measure, tasks))
    for row in rows:
        _add(run, row)
    for name, settings, promised in _AGAINST:
        ours = next(row for row in rows if row.detector == "cusum" and row.promised == promised)
        theirs = next(row for row in rows if (row.detector, row.settings) == (name, settings))
        ratios = [mine / other for mine, other in zip(ours.delay, theirs.delay, strict=True)]
        title = f"Errors: delay of the CUSUM at {promised:,.0f} events against {name}'s ({settings}), the worse of two"
        run.figures.add(f"frontier.cusum-over-{name}", max(ratios), "", title)


def _add(run: EvaluationRun, row: Row) -> None:
    declared = "" if math.isnan(row.promised) or row.detector != "cusum" else f" {row.promised:,.0f} declared"
    title = f"{row.detector}{declared} {row.settings}".strip()
    key = f"frontier.{row.detector}.{row.settings or row.promised:}".replace(" ", "")
    seen = row.between_alarms if row.false_alarms else row.null_events
    words = "events between false alarms (all that were seen, where there was none)"
    run.figures.add_cell(f"{key}.between", seen, "", (_TABLE, title, words))
    for changed, delay, missed, early in zip(row.changed, row.delay, row.missed, row.early, strict=True):
        for what, value in (("delay", delay), ("missed", missed), ("alarmed before", early)):
            if not math.isnan(value):
                run.figures.add_cell(f"{key}.{changed}.{what}", value, "", (_TABLE, title, f"to {changed}: {what}"))
