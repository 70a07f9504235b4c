"""False alarms with labels where nothing changes: which of its parts spends how much of the declared budget.

The budget of a model with labels is divided (`app.core.drift.budget`): some for the windows of features and score, some
for those of the outcome and for what their labels say to the verdict, some for the detectors of wrong decisions. The
monitor is fed as a stream feeds it: per window of event time one record with the events of the window, and with the
labels that have come by its end, one by one in the order in which they came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.signal import lfilter
from scipy.special import expit, logit

from app.core.counts.sketches import ALL, pack
from app.core.drift.budget import OF_ERRORS, OF_LABELS, OF_OUTCOMES, OF_WINDOWS
from app.core.errors.watch import ERROR
from app.core.findings import Findings
from app.evaluation.measures import Rate, rate
from app.evaluation.null import PER_EVENTS, PROMISED, SUBJECT, TRAINING, WINDOW, WINDOWS
from app.evaluation.plots import draw_achieved
from app.evaluation.product import BESIDE, VERSION, alarms, follow, make_pipeline
from app.evaluation.run import EvaluationRun, generator
from app.evaluation.streams import CATEGORIES, FEATURES, NULLS, Floats, Null, score
from models.reference.counting import count as count_cells
from models.reference.counting import count_outcomes, judge_labels
from models.reference.reference import OUTCOME, Reference
from schemas.pipeline.drift import DRIFT_TESTS
from schemas.pipeline.spec import Pipeline
from schemas.wire import ErrorRun, SketchRecord

#: Runs of each reference, of `WINDOWS` windows each.
RUNS = 10
#: A label that has not come this many windows after its event's never comes.
_LAST = 4
_SIZE_MS = 1_000 * WINDOW

#: Where an alarm comes from: its title, and what share of the budget it may spend.
SOURCES = {
    "windows": ("windows of features and score", OF_WINDOWS),
    "outcome": ("windows of the outcome", OF_OUTCOMES),
    "verdicts": ("verdicts of label prior or concept drift", OF_LABELS),
    "labels": ("either of these two", OF_OUTCOMES + OF_LABELS),
    "errors": ("CUSUM of wrong decisions", OF_ERRORS),
    "all": ("all together", 1.0),
}
_OF_LABELS = frozenset({"label_prior_drift", "concept_drift"})
_TABLE = "False alarms with labels per declared one of the part, without any change"


def _as_scored(scores: Floats, _unseen: Floats) -> Floats:
    return scores


def _more_positives(scores: Floats, unseen: Floats) -> Floats:
    return np.asarray(expit(logit(scores) + unseen))


def _otherwise(scores: Floats, unseen: Floats) -> Floats:
    swapped = np.asarray(expit(3 * unseen - 2))
    return (1 - swapped) * scores + swapped * (1 - scores)


@dataclass(frozen=True)
class Labels:
    """A stream in which nothing changes, with labels.

    Parameters
    ----------
    events
        How features, and with them scores, follow each other.
    more
        What is added to the log odds of all scores: with 1.2 half of the decisions are positive.
    chances
        The probability of a positive label, given the score and what the score does not see: a normal AR(1) of
        `UNSEEN_RHO`.
    delay
        Mean time from event to label, exponential, in windows; labels are taken for mature after one such time.
    """

    name: str
    help: str
    events: Null
    more: float = 0.0
    chances: Callable[[Floats, Floats], Floats] = _as_scored
    delay: int = 0

    def draw(self, chance: np.random.Generator, events: int) -> tuple[Floats, Floats, Floats]:
        """Draw feature matrix, scores and labels."""
        matrix = self.events.draw(chance, events, WINDOW)
        scores = expit(logit(score(matrix)) + self.more)
        unseen = lfilter([np.sqrt(1 - UNSEEN_RHO**2)], [1.0, -UNSEEN_RHO], chance.standard_normal(events))
        return matrix, scores, (chance.random(events) < self.chances(scores, unseen)).astype(np.float64)

    @property
    def pipeline(self) -> Pipeline:
        """How it is monitored."""
        return _pipeline(self.delay)


#: Correlation of what scores do not see with the same of the event before.
UNSEEN_RHO = 0.95
STREAMS = (
    Labels("iid", "independent events", NULLS[0]),
    Labels("ar60", "AR(1) 0.6", next(null for null in NULLS if null.name == "ar60")),
    Labels("late", "labels that come late", NULLS[0], delay=1),
    Labels("positives", "positives in bursts", NULLS[0], chances=_more_positives),
    Labels("errors", "errors of either kind in bursts", NULLS[0], more=1.2, chances=_otherwise),
)


@cache
def _pipeline(delay: int) -> Pipeline:
    tests = [test for test in DRIFT_TESTS if not test.startswith(BESIDE)]
    return make_pipeline(
        FEATURES, CATEGORIES, WINDOW, per_events=PER_EVENTS, labels=True, maturity_s=delay * WINDOW, tests=tests
    )


def records(stream: Labels, reference: Reference, chance: np.random.Generator, windows: int) -> Iterator[SketchRecord]:
    """What one partition sends to the sketches topic, a record per window of event time."""
    matrix, scores, labels = stream.draw(chance, WINDOW * windows)
    times_ms = 1_000 * np.arange(len(scores))
    came_ms = times_ms + np.rint(chance.exponential(stream.delay * _SIZE_MS, len(scores))).astype(np.int64)
    right = judge_labels(reference, scores, labels).is_correct
    name = stream.pipeline.model.name
    for number in range(windows + _LAST * (stream.delay > 0)):
        start_ms, end_ms = number * _SIZE_MS, (number + 1) * _SIZE_MS
        deltas = []
        if number < windows:
            rows = slice(number * WINDOW, (number + 1) * WINDOW)
            deltas.append(pack(name, VERSION, ALL, start_ms, count_cells(reference, matrix[rows], scores[rows])))
        (come,) = np.nonzero((came_ms >= start_ms) & (came_ms < end_ms) & (times_ms >= start_ms - _LAST * _SIZE_MS))
        come = come[np.argsort(came_ms[come], kind="stable")]
        for of in np.unique(come // WINDOW).tolist():
            these = come[come // WINDOW == of]
            deltas.append(
                pack(name, VERSION, ALL, of * _SIZE_MS, count_outcomes(reference, scores[these], labels[these]))
            )
        counts_ms = np.maximum(came_ms[come], times_ms[come] + stream.pipeline.performance.maturity_ms)
        errors = ErrorRun(VERSION, counts_ms.astype("<i8").tobytes(), (~right[come]).astype(np.uint8).tobytes())
        yield SketchRecord(0, end_ms, end_ms, deltas, [errors])


def count_alarms(findings: Findings) -> Counter[str]:
    """Windows with an alarm, by source; a detector's counts for the window in which it was noticed."""
    starts: dict[str, set[int]] = {source: set() for source in SOURCES}
    for report in findings.reports:
        if not alarms(report):
            continue
        if report.metric == ERROR:
            starts["errors"].add(report.window_end_ms // _SIZE_MS * _SIZE_MS)
        else:
            starts["outcome" if report.metric == OUTCOME else "windows"].add(report.window_start_ms)
    starts["verdicts"] = {verdict.window_start_ms for verdict in findings.verdicts if verdict.kind in _OF_LABELS}
    starts["labels"] = starts["outcome"] | starts["verdicts"]
    starts["all"] = starts["windows"] | starts["labels"] | starts["errors"]
    return Counter({source: len(windows) for source, windows in starts.items()})


def _alarms(task: tuple[int, int, int]) -> Counter[str]:
    """Alarmed windows of the runs after one reference."""
    seed, at, number = task
    stream = STREAMS[at]
    chance = generator(seed, len(NULLS) + at, number)
    reference = SUBJECT.fit(*stream.draw(chance, TRAINING))
    alarms: Counter[str] = Counter()
    for _ in range(RUNS):
        alarms += count_alarms(
            follow(stream.pipeline, reference, records(stream, reference, chance, WINDOWS), keep=WINDOWS)
        )
    return alarms


def measure_labels(run: EvaluationRun) -> None:
    """Windows with an alarm against those that the budget allows each source, per stream."""
    rates: dict[str, dict[str, Rate]] = {}
    for at, stream in enumerate(STREAMS):
        references = -(-(run.sizes.runs if stream.name in PROMISED else run.sizes.changes) // RUNS)
        run.say(f"labels: {stream.help}, {references * RUNS} runs of {WINDOWS} windows of {WINDOW} events")
        tasks = ((run.seed, at, number) for number in range(references))
        results = list(run.map(f"labels, {stream.help}", _alarms, tasks))
        rates[stream.help] = {
            f"{title} ({share:g})": rate([result[source] for result in results], RUNS * WINDOWS)
            / (share * SUBJECT.budget)
            for source, (title, share) in SOURCES.items()
        }
        for source, (row, achieved) in zip(SOURCES, rates[stream.help].items(), strict=True):
            figure = f"labels.{stream.name}.{source}.achieved"
            run.figures.add_cell(figure, achieved.value, "×", (_TABLE, row, stream.help))
            run.figures.spreads[figure] = achieved.low, achieved.high
    off = 100 * abs((run.figures.value("labels.iid.all.achieved") or 0.0) - 1)
    run.figures.add("labels.iid.off", off, "%", "With labels, independent events: false alarms are off the budget by")
    draw_achieved(run, "drift-labels", rates)
