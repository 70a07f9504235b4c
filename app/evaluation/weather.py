"""NOAA weather: eight measurements a day, and from row 12 000 on each in its neighbour's column.

A model is trained on the first 8 000 days; windows of 500 days follow. There is real change before the fault too
(decades of weather), so an alarm before it is not certainly a false one; it is counted as one.
"""

from __future__ import annotations

import numpy as np

from app.evaluation.datasets import WEATHER_DISPLACED_FROM, Labelled, read_weather
from app.evaluation.plots import draw_weather
from app.evaluation.product import VERSION, Bools
from app.evaluation.run import EvaluationRun
from app.evaluation.window_contestants import TITLES, WINDOW_CONTESTANTS, Subject, Watched
from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from schemas.wire import WindowVerdict

TRAINING = 8_000
WINDOW = 500
#: One false alarm in so many events: one in 200 windows.
PER_EVENTS = 100_000
SECOND_MS = 1_000

_TABLE = "NOAA weather: windows of 500 days, columns displaced from row 12 000 on"


def train_on(subject: Subject, data: Labelled, rows: int, family: str = "logistic") -> TrainedModel:
    """The product's own training on the first rows of a data set, one event a second."""
    events = LabelledRows(data.matrix[:rows], data.labels[:rows], np.arange(rows, dtype=np.int64) * SECOND_MS)
    return train(
        TrainingRange(events, 0, rows * SECOND_MS),
        subject.pipeline,
        family,
        version=VERSION,
        created_at_ms=0,
    )


def watch_after(subject: Subject, data: Labelled, rows: int, family: str = "logistic") -> Watched:
    """Train on the first rows, score the others and cut them into windows."""
    trained = train_on(subject, data, rows, family)
    reference = trained.manifest.read_reference()
    scores = trained.scorer.score(data.matrix[rows:])
    return Watched(subject, reference, subject.cut(reference, data.matrix[rows:], scores, data.labels[rows:]))


def measure_weather(run: EvaluationRun) -> None:
    """Windows alarmed before the fault, and windows until it is seen."""
    run.say("noaa: weather, a fault from row 12 000 on")
    data = read_weather(run.cache, run.say)
    subject = Subject(data.features, data.categories, WINDOW, PER_EVENTS, labels=True)
    watched = watch_after(subject, data, TRAINING, "hgb")
    onset = (WEATHER_DISPLACED_FROM - TRAINING) // WINDOW
    alarms: dict[str, Bools] = {}
    for name, contestant in WINDOW_CONTESTANTS.items():
        alarms[name] = contestant(watched)
        before = int(alarms[name][:onset].sum())
        run.figures.add_cell(f"noaa.{name}.before", before, "", (_TABLE, TITLES[name], f"alarmed of {onset} before"))
        after = np.flatnonzero(alarms[name][onset:])
        if len(after):
            place = (_TABLE, TITLES[name], "windows until it is seen")
            run.figures.add_cell(f"noaa.{name}.delay", int(after[0]) + 1, "windows", place)
        share = 100 * float(alarms[name][onset:].mean())
        run.figures.add_cell(f"noaa.{name}.after", share, "%", (_TABLE, TITLES[name], "alarmed after, %"))
    draw_weather(run, alarms, onset)
    _judge_verdicts(run, data, watched, onset)


def _judge_verdicts(run: EvaluationRun, data: Labelled, watched: Watched, onset: int) -> None:
    """Whether windows are called faulty before, and whether the fault is called by its name after, of whole windows."""
    last: dict[int, WindowVerdict] = {}
    for verdict in watched.findings.verdicts:
        known = last.get(verdict.window_start_ms)
        if known is None or verdict.revision > known.revision:
            last[verdict.window_start_ms] = verdict
    verdicts = [last[start] for start in sorted(last) if last[start].n_detection == WINDOW]
    faulty = [verdict.kind == "pipeline_fault" for verdict in verdicts]
    named = [
        fault
        and {because.metric for because in verdict.explained_by} == set(data.features)
        and "displaced" in verdict.headline
        for fault, verdict in zip(faulty, verdicts, strict=True)
    ]
    after = len(verdicts) - onset
    run.figures.add(
        "noaa.verdict.before", sum(faulty[:onset]), "", f"NOAA weather: of {onset} windows before, called faulty"
    )
    title = "NOAA weather: windows after, called a pipeline fault with all columns displaced"
    run.figures.add("noaa.verdict.named", 100 * sum(named[onset:]) / max(after, 1), "%", title)
