"""River's generators with a change of concept at a known place, as streams of errors of a model that goes on learning.

Of each stream the model learns alone first, then come events to calibrate a detector on, then events without a change,
and at `CHANGE` the other concept: at once (abrupt), by a chance that grows over `WIDTH` events (gradual), at once and
back again at `BACK` (recurring), or a little with each event (incremental).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from river import tree
from river.datasets import synth

from app.evaluation.error_contestants import ERROR_CONTESTANTS
from app.evaluation.measures import Detection, Episode, judge_episodes, mean_time_ratio
from app.evaluation.plots import draw_concepts
from app.evaluation.run import EvaluationRun, generator

Floats = NDArray[np.float64]
Kind = Literal["abrupt", "gradual", "recurring", "incremental"]
KINDS: tuple[Kind, ...] = ("abrupt", "gradual", "recurring", "incremental")

#: Positions: the model learns, detectors are calibrated, nothing changes, the concept changes (and comes back), end.
CALIBRATE, WATCH, CHANGE, BACK, END = 1_000, 3_000, 8_000, 10_500, 13_000
WIDTH = 1_000
MAX_DELAY = 1_500
#: What a detector with a budget is told: one false alarm in so many events.
PER_EVENTS = 100_000


@dataclass(frozen=True)
class Generator:
    """A generator of river's: its concept before and after, from a seed.

    ``drifting``: the concept before, which from its first event on changes a little with each; None: it cannot.
    """

    name: str
    before: Callable[[int], Any]
    after: Callable[[int], Any]
    drifting: Callable[[int], Any] | None = None
    is_nominal: bool = False


GENERATORS = (
    Generator("SEA", lambda seed: synth.SEA(0, 0.1, seed), lambda seed: synth.SEA(3, 0.1, seed)),
    Generator(
        "Agrawal",
        lambda seed: synth.Agrawal(0, seed, perturbation=0.05),
        lambda seed: synth.Agrawal(4, seed, perturbation=0.05),
    ),
    Generator("Sine", lambda seed: synth.Sine(0, seed), lambda seed: synth.Sine(1, seed)),
    Generator("STAGGER", lambda seed: synth.STAGGER(0, seed), lambda seed: synth.STAGGER(1, seed), is_nominal=True),
    Generator("Mixed", lambda seed: synth.Mixed(0, seed), lambda seed: synth.Mixed(1, seed)),
    Generator(
        "LED",
        lambda seed: synth.LED(seed, 0.1, irrelevant_features=True),
        lambda seed: synth.LEDDrift(seed, 0.1, irrelevant_features=True, n_drift_features=7),
        is_nominal=True,
    ),
    Generator(
        "Hyperplane",
        lambda seed: synth.Hyperplane(seed, n_features=5),
        lambda seed: synth.Hyperplane(seed + 1, n_features=5),
        lambda seed: synth.Hyperplane(seed, n_features=5, n_drift_features=5, mag_change=0.002, sigma=0.0),
    ),
    Generator(
        "RandomRBF",
        lambda seed: synth.RandomRBF(seed, seed, n_features=5, n_centroids=20),
        lambda seed: synth.RandomRBF(seed + 1, seed, n_features=5, n_centroids=20),
        lambda seed: synth.RandomRBFDrift(
            seed, seed, n_features=5, n_centroids=20, change_speed=0.001, n_drift_centroids=20
        ),
    ),
)


def takes_part(of: Generator, kind: Kind) -> bool:
    """Whether a generator can change in this way."""
    return kind != "incremental" or of.drifting is not None


def draw_events(of: Generator, kind: Kind, seed: int) -> Iterator[tuple[dict[Any, Any], Any]]:
    """The events of a stream, features and label, `END` of them."""
    before, chance = iter(of.before(seed).take(END)), generator(seed, 0)
    other = of.drifting if kind == "incremental" and of.drifting is not None else of.after
    after = iter(other(seed).take(END))
    for position in range(END):
        yield next(after if _is_changed(kind, position, chance) else before)


def _is_changed(kind: Kind, position: int, chance: np.random.Generator) -> bool:
    if kind == "gradual" and CHANGE <= position < CHANGE + WIDTH:
        return bool(chance.random() < (position - CHANGE) / WIDTH)
    return position >= CHANGE and not (kind == "recurring" and position >= BACK)


def prequential_errors(events: Iterator[tuple[dict[Any, Any], Any]], nominal: bool = False) -> Floats:
    """Where a Hoeffding tree was wrong that predicts each event and then learns it."""
    first = next(events)
    model: Any = tree.HoeffdingTreeClassifier(nominal_attributes=list(first[0]) if nominal else None)
    errors = []
    for x, y in itertools.chain([first], events):
        errors.append(float(model.predict_one(x) != y))
        model.learn_one(x, y)
    return np.array(errors)


def episodes(kind: Kind, alarms: list[int]) -> list[Episode]:
    """The changes of a stream, each with its alarms; positions are those of the stream."""
    if kind == "recurring":
        early, late = (tuple(at for at in alarms if (at >= BACK) == is_late) for is_late in (False, True))
        return [Episode(early, CHANGE, CHANGE, WATCH, BACK), Episode(late, BACK, BACK, BACK, END)]
    end = {"abrupt": CHANGE, "gradual": CHANGE + WIDTH, "incremental": END}[kind]
    return [Episode(tuple(alarms), CHANGE, end, WATCH, END)]


def _watch(task: tuple[int, int, Kind, int]) -> dict[str, list[Episode]]:
    seed, at, kind, number = task
    of = GENERATORS[at]
    stream_seed = 1_000 * seed + number
    errors = prequential_errors(draw_events(of, kind, stream_seed), of.is_nominal)
    found = {}
    for contestant in ERROR_CONTESTANTS:
        if (at + number) % contestant.one_in == 0:
            detector = contestant.make(errors[CALIBRATE:WATCH], PER_EVENTS)
            alarms = [WATCH + position for position in detector.observe(errors[WATCH:])]
            found[contestant.name] = episodes(kind, alarms)
    return found


def measure_concepts(run: EvaluationRun) -> None:
    """F1, false alarms, delay, missed rate and their ratio per detector and kind of change."""
    detections: dict[str, dict[str, Detection]] = {}
    for kind in KINDS:
        run.say(f"concepts: {kind} changes of river's generators, {run.sizes.seeds} streams of each")
        tasks = [
            (run.seed, at, kind, number)
            for at, of in enumerate(GENERATORS)
            for number in range(run.sizes.seeds)
            if takes_part(of, kind)
        ]
        results = list(run.map(f"concepts, {kind}", _watch, tasks))
        for contestant in ERROR_CONTESTANTS:
            judged = [episode for result in results for episode in result.get(contestant.name, [])]
            if judged:
                detections.setdefault(contestant.title, {})[kind] = detection = judge_episodes(judged, MAX_DELAY)
                add_detection(run, f"concepts.{kind}.{contestant.name}", contestant.title, kind, detection)
    draw_concepts(run, detections)


def add_detection(run: EvaluationRun, name: str, row: str, column: str, detection: Detection) -> None:
    """The figures of one detector and kind of change, each in the table of its measure."""
    ratio = mean_time_ratio(detection.apart, detection.delay, detection.missed)
    of = "Concepts of river's generators" if name.startswith("concepts") else "KDD 2026 protocol on NOAA weather"
    for measure, value, unit, title in (
        ("f1", detection.f1, "", "F1"),
        ("false_alarms", detection.false_alarms, "/1000", "false alarms per 1 000 events"),
        ("missed", 100 * detection.missed, "%", "missed, %"),
        ("delay", detection.delay, "events", "events until a change is seen, mean of those seen"),
        ("mtr", ratio, "", "MTR = MTFA / MTD x (1 - MDR)"),
    ):
        if math.isfinite(value):
            run.figures.add_cell(f"{name}.{measure}", value, unit, (f"{of}: {title}", row, column))
