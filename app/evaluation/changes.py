"""Changes of one of ten features: how many windows until they are seen, and how many are missed."""

from __future__ import annotations

import math

import numpy as np

from app.evaluation.measures import mean_time_ratio, rate
from app.evaluation.null import SUBJECT, TRAINING, WINDOW
from app.evaluation.plots import draw_changes
from app.evaluation.run import EvaluationRun, generator
from app.evaluation.streams import CHANGES, NULLS, draw_labels, score
from app.evaluation.window_contestants import TITLES, WINDOW_CONTESTANTS, Watched

#: Windows before the change, and from it on.
BEFORE, AFTER = 10, 8

_AT_ONCE = "Changes seen in their first window, %"
_MISSED = f"Changes not seen within {AFTER} windows of {WINDOW} events, %"
_DELAY = "Windows until a change is seen, mean of those seen"
_RATIO = "Mean time ratio: MTFA / MTD x (1 - MDR), in windows"

#: Per contestant: windows with an alarm before the change, and the first with one from it on, counted from 1.
_Seen = dict[str, tuple[int, int | None]]


def _watch(task: tuple[int, int, int]) -> _Seen:
    seed, at, number = task
    chance = generator(seed, len(NULLS) + at, number)
    matrix = NULLS[0].draw(chance, TRAINING + WINDOW * (BEFORE + AFTER), WINDOW)
    labels = draw_labels(chance, score(matrix))
    onset = TRAINING + WINDOW * BEFORE
    matrix[onset:] = CHANGES[at].of(matrix[onset:], chance)
    scores = score(matrix)
    reference = SUBJECT.fit(matrix[:TRAINING], scores[:TRAINING], labels[:TRAINING])
    run = Watched(SUBJECT, reference, SUBJECT.cut(reference, matrix[TRAINING:], scores[TRAINING:]))
    seen: _Seen = {}
    for name, alarms in WINDOW_CONTESTANTS.items():
        alarmed = alarms(run)
        after = np.flatnonzero(alarmed[BEFORE:])
        seen[name] = int(alarmed[:BEFORE].sum()), int(after[0]) + 1 if len(after) else None
    return seen


def measure_changes(run: EvaluationRun) -> None:
    """Delay and missed rate per change and contestant, and with the false alarms before them their ratio."""
    at_once: dict[str, dict[str, float]] = {}
    missed: dict[str, dict[str, float]] = {}
    delays: dict[str, dict[str, float]] = {}
    before: dict[str, list[int]] = {name: [] for name in WINDOW_CONTESTANTS}
    for at, change in enumerate(CHANGES):
        run.say(f"changes: {change.help} of a feature, {run.sizes.changes} runs")
        tasks = ((run.seed, at, number) for number in range(run.sizes.changes))
        results = list(run.map(f"changes, {change.help}", _watch, tasks))
        for name in WINDOW_CONTESTANTS:
            seen = [first for _, first in (result[name] for result in results) if first is not None]
            before[name] += [result[name][0] for result in results]
            missed.setdefault(name, {})[change.help] = 1 - len(seen) / len(results)
            delays.setdefault(name, {})[change.help] = float(np.mean(seen)) if seen else math.nan
            at_once.setdefault(name, {})[change.help] = seen.count(1) / len(results)
            cell = TITLES[name], change.help
            run.figures.add_cell(
                f"changes.{change.name}.{name}.at_once", 100 * at_once[name][change.help], "%", (_AT_ONCE, *cell)
            )
            run.figures.add_cell(
                f"changes.{change.name}.{name}.missed", 100 * missed[name][change.help], "%", (_MISSED, *cell)
            )
            if seen:
                run.figures.add_cell(
                    f"changes.{change.name}.{name}.delay", delays[name][change.help], "windows", (_DELAY, *cell)
                )
    for name, alarms in before.items():
        between = BEFORE * len(alarms) / max(sum(alarms), 1)
        mean_missed = float(np.mean(list(missed[name].values())))
        known = [value for value in delays[name].values() if not math.isnan(value)]
        delay = float(np.mean(known)) if known else math.nan
        ratio = mean_time_ratio(between, delay, mean_missed)
        figures = ("MTFA", between), ("MTD", delay), ("MDR", mean_missed), ("MTR", ratio)
        for title, value in figures:
            if not math.isnan(value):
                run.figures.add_cell(f"changes.{name}.{title.lower()}", value, "", (_RATIO, TITLES[name], title))
    draw_changes(run, at_once, {name: rate(alarms, BEFORE) for name, alarms in before.items()})
