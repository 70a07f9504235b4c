"""A year of flights from New York by the shipped pipeline: which months differ from the first two, and which way."""

from __future__ import annotations

import numpy as np

from app.core.counts.calendar import Calendar
from app.evaluation.product import VERSION, alarms, watch
from app.evaluation.run import EvaluationRun
from app.replay.training_set import build_training_set
from models.reference.counting import count
from models.reference.reference import OUTCOME
from models.training import train
from models.training_rows import TrainingRange
from schemas.pipeline.file import load

#: 2013, in UTC; training ends with February.
FROM_MS, TRAINED_TO_MS, TO_MS = 1_356_998_400_000, 1_362_096_000_000, 1_388_534_400_000
#: Months whose share of late arrivals is known to differ, and which way.
EXPECTED = {6: 1, 7: 1, 9: -1, 12: 1}

_TABLE = "Flights of 2013: arrivals more than 15 minutes late, by month, and what is said of them"


def measure_flights(run: EvaluationRun) -> None:
    """Months whose outcome alarms, with the direction in which it moved."""
    pipeline = load("flights")
    run.say("flights: computing the features of a year")
    data = build_training_set(pipeline, None, FROM_MS, TO_MS, maturity_ms=0)
    trained_on = data.event_time_ms < TRAINED_TO_MS
    run.say(f"flights: training on {int(trained_on.sum())} flights of January and February")
    trained = train(
        TrainingRange(data.take(trained_on), FROM_MS, TRAINED_TO_MS),
        pipeline,
        "hgb",
        version=VERSION,
        created_at_ms=0,
    )
    reference = trained.manifest.read_reference()
    scores = trained.scorer.score(data.matrix)
    calendar = Calendar.parse(pipeline.drift.window, pipeline.drift.slice_ms)
    starts = np.array([calendar.window_at(int(time)).start_ms for time in data.event_time_ms])
    windows = []
    for start in np.unique(starts[~trained_on]).tolist():
        rows = starts == start
        counts = count(reference, data.matrix[rows], scores[rows], data.labels[rows])
        windows.append((calendar.window_at(start), counts))
    findings = watch(pipeline, reference, windows)
    usual = float(data.labels[trained_on].mean())
    n_right = 0
    for number, (window, counts) in enumerate(windows, start=3):
        late = reference.mean(counts, len(reference.metrics) - 1)
        reports = [report for report in findings.reports if report.window_start_ms == window.start_ms]
        of_outcome = any(report.metric == OUTCOME and alarms(report) for report in reports)
        side = (1 if late > usual else -1) if of_outcome else 0
        n_right += number in EXPECTED and side == EXPECTED[number]
        metrics = {report.metric for report in reports if alarms(report)}
        month = f"2013-{number:02}"
        run.figures.add_cell(f"flights.{month}.late", 100 * late, "%", (_TABLE, month, "late, %"))
        run.figures.add_cell(f"flights.{month}.outcome", side, "", (_TABLE, month, "outcome alarms: up 1, down -1"))
        run.figures.add_cell(f"flights.{month}.metrics", len(metrics), "", (_TABLE, month, "metrics alarmed"))
    run.figures.add("flights.trained.late", 100 * usual, "%", "Flights: late in January and February")
    faults = {verdict.window_start_ms for verdict in findings.verdicts if verdict.kind == "pipeline_fault"}
    run.figures.add("flights.faults", len(faults), "", "Flights: months that are called a fault, of ten without one")
    worse = sum(alert.state == "raised" and alert.rule == "worse-than-promised" for alert in findings.alerts)
    run.figures.add("flights.worse", worse, "", "Flights: alerts that the model is worse than promised")
    run.figures.add("flights.found", n_right, "", "Flights: June, July, December up and September down, found of 4")
