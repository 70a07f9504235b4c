"""Ways to spend the budget over time, on windows whose p-values are exact: what each costs and what it gains.

Eleven independent metrics with normal means, each window of 1 000 events compared with the one reference, so that its
error is in all windows alike. What the window's smallest p-values are worth is Simes' p, as in the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from app.evaluation.run import EvaluationRun, generator

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

METRICS, WINDOW = 11, 1_000
#: Events of the reference.
TRAININGS = (1_000, 2_000, 10_000)
#: One false alarm in so many windows is declared.
DECLARED = 100
LENGTH = 400
#: When one metric begins to differ by so many standard deviations.
ONSET, SHIFTS = 100, (0.05, 0.1, 0.2)
_TABLE = "Procedures over time: windows of 1 000 events against one reference, 11 metrics"


def draw(chance: np.random.Generator, runs: int, training: int, shift: float) -> Floats:
    """Simes' p-value of each window: runs x windows; one metric moves at `ONSET`."""
    reference = chance.standard_normal((runs, 1, METRICS)) / math.sqrt(training)
    means = chance.standard_normal((runs, LENGTH, METRICS)) / math.sqrt(WINDOW)
    means[:, ONSET:, 0] += shift
    p_values = 2 * ndtr(-np.abs(means - reference) / math.sqrt(1 / training + 1 / WINDOW))
    ranked: Floats = np.sort(p_values, axis=2) * METRICS / np.arange(1, METRICS + 1)
    smallest: Floats = np.minimum(ranked.min(axis=2), 1.0)
    return smallest


def same_alpha(p_values: Floats) -> Bools:
    """Each window has the same alpha: a control chart of p-values."""
    return p_values <= 1 / DECLARED


def lord(p_values: Floats) -> Bools:
    """Online FDR at 5 %: LORD++ (Ramdas, Yang, Wainwright, Jordan, NIPS 2017), the first wealth half of that."""
    runs, length = p_values.shape
    steps = np.arange(1, length + 1)
    gamma = np.log(np.maximum(steps, 2)) / (steps * np.exp(np.sqrt(np.log(steps))))
    gamma /= gamma.sum()
    rejected = np.zeros((runs, length), dtype=bool)
    for run in range(runs):
        rejections: list[int] = []
        for at in range(length):
            level = 0.025 * gamma[at]
            level += sum(
                (0.025 if number == 0 else 0.05) * gamma[at - before - 1] for number, before in enumerate(rejections)
            )
            if p_values[run, at] <= level:
                rejected[run, at] = True
                rejections.append(at)
    return rejected


def cusum(p_values: Floats) -> Bools:
    """Normal scores, summed beyond half a deviation; the threshold gives independent windows the declared distance."""
    steps = -ndtri(np.clip(p_values, 1e-15, 1 - 1e-15)) - 0.5
    threshold = _threshold()
    alarms = np.zeros(steps.shape, dtype=bool)
    sums = np.zeros(len(steps))
    for at in range(steps.shape[1]):
        sums = np.maximum(sums + steps[:, at], 0.0)
        alarms[:, at] = sums >= threshold
        sums[alarms[:, at]] = 0.0
    return alarms


def shiryaev_roberts(p_values: Floats) -> Bools:
    """An e-detector (Shin, Ramdas, Rinaldo, 2023): sums of products of e-values, alarm at the declared distance."""
    evidence = 0.5 / np.sqrt(np.maximum(p_values, 1e-300))
    alarms = np.zeros(p_values.shape, dtype=bool)
    sums = np.zeros(len(p_values))
    for at in range(p_values.shape[1]):
        sums = (sums + 1) * evidence[:, at]
        alarms[:, at] = sums >= DECLARED
        sums[alarms[:, at]] = 0.0
    return alarms


PROCEDURES: dict[str, tuple[str, Callable[[Floats], Bools]]] = {
    "same": ("the same alpha for each window (ours)", same_alpha),
    "lord": ("online FDR, LORD++ at 5 %", lord),
    "cusum": ("CUSUM of normal scores", cusum),
    "e-detector": ("e-detector, Shiryaev-Roberts", shiryaev_roberts),
}


def _threshold() -> float:
    """Siegmund's: (exp(b) - 1 - b) * 2 = ARL for steps of mean -1/2 and deviation 1, with b = h + 1.166."""
    low, high = 0.0, 20.0
    for _ in range(60):
        b = (low + high) / 2
        low, high = (b, high) if 2 * (math.exp(b) - 1 - b) < DECLARED else (low, b)
    return low - 1.166


def measure_procedures(run: EvaluationRun) -> None:
    """False alarms per declared one without a change, and windows until a change of one metric is noticed."""
    runs = max(20, 2 * run.sizes.runs)
    run.say(f"procedures: {runs} runs of {LENGTH} windows")
    for training in TRAININGS:
        quiet = draw(generator(run.seed, training), runs, training, 0.0)
        moved = [draw(generator(run.seed, training, at), runs, training, shift) for at, shift in enumerate(SHIFTS)]
        for name, (title, procedure) in PROCEDURES.items():
            key, row = f"procedures.{training}.{name}", f"{title}; reference of {training:,} events"
            achieved = float(procedure(quiet).mean()) * DECLARED
            run.figures.add_cell(f"{key}.achieved", achieved, "", (_TABLE, row, "false alarms per declared"))
            for shift, p_values in zip(SHIFTS, moved, strict=True):
                after = procedure(p_values)[:, ONSET:]
                delay = np.where(after.any(axis=1), after.argmax(axis=1) + 1, LENGTH - ONSET)
                place = (_TABLE, row, f"windows until {shift} sd is noticed")
                run.figures.add_cell(f"{key}.{shift}", float(delay.mean()), "windows", place)
