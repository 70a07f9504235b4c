"""The protocol of the KDD 2026 benchmark on the one of its seven streams that a package holds: NOAA weather.

An episode: the days in a random order, and from a random place between the half and 80 % of them on one of four drifts,
at once or by a chance that grows over `MAX_DELAY` events. A Hoeffding tree predicts each event and then learns it;
detectors see where it was wrong, from a quarter of the stream on. Windows see features and scores of a frozen model of
the first quarter; they alarm where a row of alarmed windows begins.

References
----------
V. Cerqueira, H. Gomes, M. Heyden, B. Pfahringer, A. Bifet, arXiv 2606.07789, 2026; the code that says what the paper
does not: vcerqueira/experiments-drift_evaluation at 7c2af93, src/streams/inject_drift.py, src/prequential_workflow.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.evaluation.concepts import PER_EVENTS, add_detection, prequential_errors
from app.evaluation.datasets import Labelled, put_back, read_weather
from app.evaluation.error_contestants import ERROR_CONTESTANTS
from app.evaluation.measures import Episode, judge_episodes, onsets
from app.evaluation.plots import draw_protocol
from app.evaluation.run import EvaluationRun, generator
from app.evaluation.weather import watch_after
from app.evaluation.window_contestants import TITLES, WINDOW_CONTESTANTS, Subject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Of NOAA in the benchmark; the width of a gradual drift is the same.
MAX_DELAY = 1_500
REGION = 0.5, 0.8
WARM_UP = 0.25
#: Share of the events of one label that class-prior drift leaves out.
SKIPPED = 0.75
#: Events at the end of the warm-up that a calibrated detector may learn the usual error from.
CALIBRATION = 2_000
WINDOW = 250

MODES = ("abrupt", "gradual")


@dataclass(frozen=True, eq=False)
class Injected:
    """A stream with a drift: its events, and the position of each in the stream before some were left out."""

    data: Labelled
    position: Ints
    onset: int
    end: int


#: Matrix, labels, and which events are left out.
Drifted = tuple[Floats, Floats, NDArray[np.bool_]]
#: What becomes of the events, given a generator, the data and which of them drift.
Drift = Callable[[np.random.Generator, Labelled, NDArray[np.bool_]], Drifted]


def _class_prior(chance: np.random.Generator, data: Labelled, drifts: NDArray[np.bool_]) -> Drifted:
    label = float(chance.integers(2))
    left_out = drifts & (data.labels == label) & (chance.random(len(drifts)) < SKIPPED)
    return data.matrix, data.labels, left_out


def _label_swap(chance: np.random.Generator, data: Labelled, drifts: NDArray[np.bool_]) -> Drifted:
    """Events of one label get the other, so that only that is left."""
    label = float(chance.integers(2))
    swapped = np.where(drifts & (data.labels == label), 1 - label, data.labels)
    return data.matrix, swapped, np.zeros_like(drifts)


def _permutation(chance: np.random.Generator, data: Labelled, drifts: NDArray[np.bool_]) -> Drifted:
    order = chance.permutation(data.matrix.shape[1])
    return np.where(drifts[:, None], data.matrix[:, order], data.matrix), data.labels, np.zeros_like(drifts)


def _filtering(chance: np.random.Generator, data: Labelled, drifts: NDArray[np.bool_]) -> Drifted:
    """Events above the median of one feature are left out."""
    column = data.matrix[:, chance.integers(data.matrix.shape[1])]
    return data.matrix, data.labels, drifts & (column > np.median(column))


DRIFTS: dict[str, Drift] = {
    "class prior": _class_prior,
    "label swap": _label_swap,
    "feature permutation": _permutation,
    "feature filtering": _filtering,
}


def inject(data: Labelled, drift: str, mode: str, chance: np.random.Generator) -> Injected:
    """Shuffle the events and let a drift begin somewhere in `REGION`."""
    order = chance.permutation(len(data.labels))
    shuffled = Labelled(data.features, data.matrix[order], data.labels[order], data.categories)
    onset = int(len(order) * chance.uniform(*REGION))
    width = MAX_DELAY if mode == "gradual" else 0
    position = np.arange(len(order))
    progress = (position - onset) / width if width else (position >= onset) * 1.0
    matrix, labels, left_out = DRIFTS[drift](chance, shuffled, chance.random(len(order)) < progress)
    kept = np.flatnonzero(~left_out)
    # The benchmark measures the delay, and its limit, from the onset in gradual drift as well.
    return Injected(Labelled(data.features, matrix[kept], labels[kept], data.categories), kept, onset, onset)


@cache
def _weather(folder: Path) -> Labelled:
    return put_back(read_weather(folder))


def _watch(task: tuple[int, int, str, Path]) -> dict[str, Episode]:
    """One episode: the alarms of everybody, as positions in the stream."""
    seed, number, cell, folder = task
    drift, mode = cell.split(", ")
    data = _weather(folder)
    chance = generator(seed, number, list(DRIFTS).index(drift), MODES.index(mode))
    stream = inject(data, drift, mode, chance)
    first = int(len(data.labels) * WARM_UP)
    begin = int(np.searchsorted(stream.position, first))
    alarms = _of_errors(stream, begin, number) | _of_windows(stream, begin)
    return {
        name: Episode(tuple(stream.position[positions].tolist()), stream.onset, stream.end, first, len(data.labels))
        for name, positions in alarms.items()
    }


def _of_errors(stream: Injected, begin: int, number: int) -> dict[str, list[int]]:
    rows = zip(stream.data.matrix.tolist(), stream.data.labels.tolist(), strict=True)
    errors = prequential_errors((dict(enumerate(row)), label) for row, label in rows)
    positions = {}
    for contestant in ERROR_CONTESTANTS:
        if number % contestant.one_in == 0:
            detector = contestant.make(errors[begin - CALIBRATION : begin], PER_EVENTS)
            positions[contestant.title] = [begin + at for at in detector.observe(errors[begin:])]
    return positions


def _of_windows(stream: Injected, begin: int) -> dict[str, list[int]]:
    subject = Subject(stream.data.features, {}, WINDOW, PER_EVENTS, labels=True)
    watched = watch_after(subject, stream.data, begin)
    return {
        f"windows: {TITLES[name]}": [begin + (at + 1) * WINDOW - 1 for at in onsets(contestant(watched))]
        for name, contestant in WINDOW_CONTESTANTS.items()
    }


def measure_kdd(run: EvaluationRun) -> None:
    """F1, false alarms, missed rate and delay by kind of drift, abrupt and gradual, beside what was published."""
    read_weather(run.cache, run.say)
    means: dict[str, dict[str, float]] = {}
    for mode in MODES:
        for drift in DRIFTS:
            cell = f"{drift}, {mode}"
            run.say(f"kdd: {cell}, {run.sizes.episodes} episodes")
            tasks = [(run.seed, number, cell, run.cache) for number in range(run.sizes.episodes)]
            results = list(run.map(f"kdd, {cell}", _watch, tasks))
            for name in dict.fromkeys(name for result in results for name in result):
                detection = judge_episodes((result[name] for result in results if name in result), MAX_DELAY)
                means.setdefault(name, {})[cell] = detection.f1
                slug = f"kdd.{mode}.{drift.replace(' ', '-')}.{_slug(name)}"
                add_detection(run, slug, name, cell, detection)
    for name, published in PUBLISHED.items():
        means[f"published: {name}"] = dict(
            zip((f"{drift}, {mode}" for mode in MODES for drift in DRIFTS), published, strict=True)
        )
    for name, values in means.items():
        for mode in MODES:
            mean = float(np.mean([values[f"{drift}, {mode}"] for drift in DRIFTS]))
            place = ("KDD 2026 protocol on NOAA weather: mean F1 of the four drifts", name, mode)
            run.figures.add_cell(f"kdd.{mode}.{_slug(name)}.f1", mean, "", place)
    draw_protocol(run, means, MODES)


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


#: F1 on NOAA in the benchmark's files (assets/results/real, parameters tuned on the other streams): the four drifts in
#: the order of `DRIFTS`, abrupt, then gradual.
PUBLISHED = {
    "SEED": (0.779, 0.615, 0.559, 0.516, 0.417, 0.473, 0.415, 0.147),
    "STEPD": (0.777, 0.555, 0.562, 0.554, 0.516, 0.462, 0.436, 0.182),
    "ADWIN": (0.763, 0.465, 0.000, 0.562, 0.371, 0.176, 0.033, 0.069),
    "HDDM_A": (0.447, 0.590, 0.068, 0.360, 0.395, 0.192, 0.000, 0.070),
    "ABCDx (features alone)": (0.000, 0.000, 0.947, 0.034, 0.000, 0.000, 0.838, 0.000),
}
