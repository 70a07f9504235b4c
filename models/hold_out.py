"""The newest rows of a training, which judge the version."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HoldOut:
    """Scores by a model that has not seen these rows, and their labels.

    ``rate``: the share of positives among the rows that this model was fitted on.
    """

    scores: Floats
    labels: Floats
    rate: float

    @cached_property
    def log_loss(self) -> float:
        return log_loss(self.scores, self.labels)

    @cached_property
    def constant_log_loss(self) -> float:
        """The log loss of giving each row the rate, as a model that knows nothing would."""
        return log_loss(np.full(len(self.labels), self.rate), self.labels)


def log_loss(scores: Floats, labels: Floats) -> float:
    """Compute the mean log loss of scores against labels (0 or 1); no label counts as less likely than 1e-15.

    Examples
    --------
    >>> round(log_loss(np.array([0.5, 0.5]), np.array([0.0, 1.0])), 4)
    0.6931
    """
    likelihood = np.clip(np.where(labels == 1, scores, 1.0 - scores), 1e-15, 1.0)
    return float(-np.log(likelihood).mean())
