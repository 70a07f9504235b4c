"""The job that every Python peer of `streamgauge bench` does: decode events, score them, encode the scores.

Configured by the environment: COEFFICIENTS (JSON: columns, weights, intercept, count, mean), MODEL (joblib), WINDOW (1:
count and mean of f0 per card in tumbling windows of 10 minutes enter the score).
"""

from __future__ import annotations

import json
import math
import os
from operator import attrgetter
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
from numpy.typing import NDArray

WINDOW_MS = 600_000

_SAID = json.loads(Path(os.environ["COEFFICIENTS"]).read_text())
NAMES: list[str] = [f"f{number}" for number in range(_SAID["columns"])]
WITH_WINDOW = os.environ["WINDOW"] == "1"
WEIGHTS = np.array(_SAID["weights"])
INTERCEPT: float = _SAID["intercept"]
COUNT_WEIGHT: float = _SAID["count"]
MEAN_WEIGHT: float = _SAID["mean"]

Event: Any = msgspec.defstruct(
    "Event", [("id", str), ("card", str), ("time_ms", int), *((name, float) for name in NAMES)], gc=False
)


class Score(msgspec.Struct, gc=False):
    """What is published."""

    event_id: str
    entity: str
    score: float


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode
numbers_of = attrgetter(*NAMES)

#: (card, window) -> [count, sum]: the state of the peers that keep theirs in a dict.
Windows = dict[tuple[str, int], list[float]]


def load_model() -> Any:
    """The fitted scikit-learn pipeline."""
    return joblib.load(os.environ["MODEL"])


def score_batch(events: list[Any], windows: Windows | None) -> list[float]:
    """Scores of events by one product of a matrix and the coefficients."""
    logit: NDArray[np.float64] = np.array([numbers_of(event) for event in events]) @ WEIGHTS + INTERCEPT
    if windows is not None:
        logit += np.array([observe(windows, event.card, event.time_ms, event.f0) for event in events])
    scores: list[float] = (1 / (1 + np.exp(-logit))).tolist()
    return scores


def score_one(event: dict[str, Any], added: float = 0.0) -> float:
    """The score of one event by hand: no numpy, which is slow on single rows."""
    logit = INTERCEPT + added
    for name, weight in zip(NAMES, WEIGHT_LIST, strict=True):
        logit += event[name] * weight
    return 1 / (1 + math.exp(-logit))


def observe(windows: Windows, card: str, time_ms: int, value: float) -> float:
    """Count an event into its window; what the window adds to the logit."""
    state = windows.setdefault((card, time_ms // WINDOW_MS), [0, 0.0])
    return advance(state, value)


def advance(state: list[float], value: float) -> float:
    """Add a value to [count, sum]; what that adds to the logit."""
    state[0] += 1
    state[1] += value
    return COUNT_WEIGHT * state[0] + MEAN_WEIGHT * state[1] / state[0]


WEIGHT_LIST: list[float] = WEIGHTS.tolist()
