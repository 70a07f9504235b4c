"""US census, employment in Massachusetts: a model of 2015 on the people of 2016, 2017 and 2018, windows of 5 000.

The data come with the model's scores. Nobody knows which windows "drifted"; what can be said is how often each
contestant alarms beside how often the realised accuracy or AUC left the range that it had in 2015, and how far the
performance that was estimated without labels is from the realised one.
"""

from __future__ import annotations

import numpy as np

from app.core.performance.measures import measure
from app.evaluation.census import census
from app.evaluation.datasets import Labelled, read_census
from app.evaluation.product import alarms
from app.evaluation.run import EvaluationRun
from app.evaluation.window_contestants import TITLES, WINDOW_CONTESTANTS, Subject, Watched
from models.reference.reference import Counts, Floats

WINDOW = 5_000
PER_EVENTS = 1_000_000
MEASURES = ("auc", "accuracy")
#: Standard deviations over the windows of 2015 within which a measure is as it was.
LIMIT = 3.0

_TABLE = f"US census: windows of {WINDOW} people of 2016 to 2018 with an alarm, %"
_ESTIMATED = "US census: performance estimated without labels, mean absolute error"


def measure_census(run: EvaluationRun) -> None:
    """Share of windows with an alarm, share of windows that got worse, and the error of estimated performance."""
    run.say("census: employment, windows of 5 000")
    trained, current = read_census(run.cache, run.say)
    subject = Subject(trained.features, trained.categories, WINDOW, PER_EVENTS, labels=True)
    reference = subject.fit(trained.matrix, _scores(trained), trained.labels)
    watched = Watched(subject, reference, subject.cut(reference, current.matrix, _scores(current), current.labels))
    before = subject.cut(reference, trained.matrix, _scores(trained), trained.labels)
    for name, contestant in WINDOW_CONTESTANTS.items():
        share = 100 * float(contestant(watched).mean())
        run.figures.add_cell(f"census.{name}.alarmed", share, "%", (_TABLE, TITLES[name], "alarmed, %"))
    realised = {name: np.array([_measured(counts)[name] for counts in watched.windows]) for name in MEASURES}
    for name, values in realised.items():
        usual = np.array([_measured(counts)[name] for counts in before])
        share = 100 * float((np.abs(values - usual.mean()) > LIMIT * usual.std(ddof=1)).mean())
        title = f"{name} beyond {LIMIT:g} sd of 2015"
        run.figures.add_cell(f"census.{name}.moved", share, "%", (_TABLE, title, "alarmed, %"))
    _judge_estimates(run, trained, current)
    alarming = {report.metric for report in watched.findings.reports if alarms(report)}
    run.figures.add("census.metrics", len(alarming), "", f"US census: metrics of {len(reference.metrics)} ever alarmed")


def _judge_estimates(run: EvaluationRun, trained: Labelled, current: Labelled) -> None:
    figures = census(_scores(trained), trained.labels, _scores(current), current.labels, window=WINDOW)
    for errors in figures.errors:
        for row, value in (
            ("streamgauge", errors.mean),
            ("as in 2015", errors.constant),
            ("as realised in the window before", errors.previous),
        ):
            figure = f"census.estimated.{errors.name}{'' if row == 'streamgauge' else '.' + row.replace(' ', '-')}"
            run.figures.add_cell(figure, value, "", (_ESTIMATED, row, errors.name))


def _scores(data: Labelled) -> Floats:
    assert data.scores is not None, "the census comes with scores"
    return data.scores


def _measured(counts: Counts) -> dict[str, float]:
    return {measured.name: measured.realised for measured in measure(counts)}
