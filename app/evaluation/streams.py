"""Streams that are drawn: ten features of mixed laws and a score, without change or with a known one.

Each feature is a function of a normal variable of its own, so that what follows its predecessor in time (`Null.rho`,
`Null.season`) does so for every law alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import expit, ndtr

Floats = NDArray[np.float64]

#: Shares of the six values of the category.
CATEGORY = np.array([0.35, 0.25, 0.2, 0.1, 0.07, 0.03])
VALUES = tuple("abcdef")
#: Mean of the Poisson counts, and the shares of 0, 1, 2, … up to any that occurs.
POISSON_MEAN = 3.0
_POISSON = np.cumsum(np.exp(-POISSON_MEAN) * np.cumprod(np.concatenate(([1.0], POISSON_MEAN / np.arange(1, 30)))))

_LAWS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "normal": lambda z, _: z,
    "lognormal": lambda z, _: np.exp(z),
    "uniform": lambda _, u: u,
    "poisson": lambda _, u: np.searchsorted(_POISSON, u).astype(np.float64),
    "category": lambda _, u: np.minimum(np.searchsorted(np.cumsum(CATEGORY), u), len(CATEGORY) - 1).astype(np.float64),
    "binary": lambda _, u: (u > 0.8).astype(np.float64),
    "zero_inflated": lambda _, u: np.where(u < 0.7, 0.0, -np.log1p(-np.clip((u - 0.7) / 0.3, 0.0, 1 - 1e-12))),
    "heavy_tail": lambda _, u: (2 * u - 1) / np.sqrt(np.maximum(2 * u * (1 - u), 1e-12)),  # Student's t, 2 degrees
    "rounded": lambda z, _: np.round(z, 1),
    "sometimes": lambda z, u: np.where(u < 0.05, np.nan, z),
}
FEATURES = tuple(_LAWS)
#: Values that a category may have; the other features are numbers.
CATEGORIES = {"category": VALUES}


@dataclass(frozen=True)
class Null:
    """A stream in which nothing changes.

    Parameters
    ----------
    rho
        Correlation of each feature with the same of the event before, before its law is applied.
    season
        Share of the variance that is a cycle in event time (each feature has a phase of its own).
    windows_a_cycle
        How many windows one cycle fills; with more than one, a window holds a part of the cycle only.
    """

    name: str
    help: str
    rho: float = 0.0
    season: float = 0.0
    windows_a_cycle: int = 1

    def draw(self, generator: np.random.Generator, events: int, window: int) -> Floats:
        """Draw the feature matrix of so many events, events x features, from the beginning of a cycle."""
        latent = generator.standard_normal((events, len(FEATURES)))
        if self.rho:
            latent[1:] *= np.sqrt(1 - self.rho**2)
            latent = lfilter([1.0], [1.0, -self.rho], latent, axis=0)
        if self.season:
            phases = np.arange(len(FEATURES)) * 2 * np.pi / len(FEATURES)
            turn = 2 * np.pi * np.arange(events)[:, None] / (window * self.windows_a_cycle)
            latent = float(np.sqrt(1 - self.season)) * latent + float(np.sqrt(2 * self.season)) * np.sin(turn + phases)
        uniform = ndtr(latent)
        return np.column_stack([law(latent[:, at], uniform[:, at]) for at, law in enumerate(_LAWS.values())])


NULLS = (
    Null("iid", "independent events"),
    Null("ar30", "AR(1) 0.3", rho=0.3),
    Null("ar60", "AR(1) 0.6", rho=0.6),
    Null("ar90", "AR(1) 0.9", rho=0.9),
    Null("daily", "a daily cycle, windows of a day", season=0.3),
    Null("hourly", "a daily cycle, windows of 6 hours", season=0.3, windows_a_cycle=4),
)


def score(matrix: Floats) -> Floats:
    """The model: a logistic function of six of the features, and so a calibrated probability of `draw_labels`."""
    x = {name: np.nan_to_num(matrix[:, at]) for at, name in enumerate(FEATURES)}
    odds = 0.8 * x["normal"] + 0.6 * x["uniform"] + 0.1 * x["poisson"] + 0.5 * x["binary"] + 0.4 * x["sometimes"]
    return np.asarray(expit(odds + 0.3 * np.log(np.maximum(x["lognormal"], 1e-9)) - 2.0))


def draw_labels(generator: np.random.Generator, scores: Floats) -> Floats:
    """Labels for which the scores are the probabilities."""
    return (generator.random(len(scores)) < scores).astype(np.float64)


@dataclass(frozen=True)
class Change:
    """What is done to the features of all events from some moment on."""

    name: str
    help: str
    feature: str
    apply: Callable[[Floats, Floats], Floats]

    def of(self, matrix: Floats, generator: np.random.Generator) -> Floats:
        """The matrix with the change; the given one stays as it is."""
        changed = matrix.copy()
        at = FEATURES.index(self.feature)
        changed[:, at] = self.apply(matrix[:, at], generator.random(len(matrix)))
        return changed


CHANGES = (
    Change("shift-0.1", "shift of 0.1 sd", "normal", lambda x, _: x + 0.1),
    Change("shift-0.2", "shift of 0.2 sd", "normal", lambda x, _: x + 0.2),
    Change("shift-0.5", "shift of 0.5 sd", "normal", lambda x, _: x + 0.5),
    Change("spread-1.3", "sd × 1.3", "normal", lambda x, _: 1.3 * x),
    Change("unit", "unit: × 2.2", "lognormal", lambda x, _: 2.2 * x),
    Change("nulls", "5 % more missing", "uniform", lambda x, u: np.where(u < 0.05, np.nan, x)),
    Change("category", "3 % of a new value", "category", lambda x, u: np.where(u < 0.03, float(len(VALUES)), x)),
    Change("constant", "constant", "poisson", lambda x, _: np.full(len(x), POISSON_MEAN)),
)
