"""What is scored: events drawn from a seed, the pipeline and model that score them, and what numpy says of each.

An event is a function of its number, so that an output can be checked by the id that it carries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.scoring.folding import fold
from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from schemas.pipeline.file import load
from schemas.pipeline.spec import Delivery, Pipeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTITIONS = 4
CARDS = 5_000
START_MS = 1_700_000_000_000
#: Event time between two events: 400 000 of them span half an hour, so that windows of 10 minutes come and go.
SPACING_MS = 5
MINUTE_MS = 60_000
#: Different rows of numbers; event n has row n % ROWS.
ROWS = 20_000
#: A tile's sum is kept in units of 2**-20 (docs/adr/0003); numpy rounds alike.
_UNIT = 2.0**-20
#: Weights of count and mean in what the stateful peers score.
COUNT_WEIGHT, MEAN_WEIGHT = 0.01, 0.5
PEER_WINDOW_MS = 10 * MINUTE_MS


@dataclass(frozen=True)
class Workload:
    """One kind of work: a shipped pipeline, a model family, and the events.

    ``peer_windows``: stateful as the peers do it, count and mean of f0 in a tumbling window, the event included.
    """

    name: str
    shipped: str
    family: str
    columns: int
    help: str
    cards: int = CARDS
    peer_windows: bool = False

    @cached_property
    def matrix(self) -> Floats:
        """The numbers of the events, ROWS x columns, two decimals."""
        return np.random.default_rng(7).normal(size=(ROWS, self.columns)).round(2)

    @cached_property
    def bodies(self) -> list[str]:
        """The numbers as they stand in the JSON of an event."""
        return [",".join(f'"f{at}":{value}' for at, value in enumerate(row)) for row in self.matrix.tolist()]

    def cards_of(self, numbers: Ints) -> Ints:
        """Card of each event; a card's number says its partition, as that of the event does."""
        return numbers * 7919 % self.cards // PARTITIONS * PARTITIONS + numbers % PARTITIONS

    def event(self, number: int) -> tuple[bytes, bytes, int]:
        """Key, value and time of an event."""
        card = f"c{number * 7919 % self.cards // PARTITIONS * PARTITIONS + number % PARTITIONS:07d}"
        time_ms = START_MS + number * SPACING_MS
        value = f'{{"id":"e{number:08d}","card":"{card}","time_ms":{time_ms},{self.bodies[number % ROWS]}}}'
        return card.encode(), value.encode(), time_ms

    def features(self, count: int) -> Floats:
        """The feature matrix of the first ``count`` events, by numpy."""
        rows = np.arange(count, dtype=np.int64)
        matrix = self.matrix[rows % ROWS]
        if self.shipped != "bench-windows":
            return matrix
        in_10m, sum_10m = self._window(count, 10)
        _, sum_30m = self._window(count, 30)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.column_stack([matrix, in_10m, sum_10m / in_10m, sum_30m])

    def _window(self, count: int, tiles: int) -> tuple[Ints, Floats]:
        """Count and sum of f0 of each card's earlier events in the newest ``tiles`` minutes, its own included."""
        numbers = np.arange(count, dtype=np.int64)
        cards, tile = self.cards_of(numbers), (START_MS + numbers * SPACING_MS) // MINUTE_MS
        order = np.lexsort((numbers, cards))
        key = cards[order] << 32 | (tile[order] - START_MS // MINUTE_MS + 64)
        starts = np.searchsorted(key, key - tiles + 1)
        units = np.rint(self.matrix[numbers % ROWS, 0] / _UNIT).astype(np.int64)[order]
        before = np.concatenate(([0], np.cumsum(units)))
        places = np.arange(count)
        counts, sums = np.empty(count, dtype=np.int64), np.empty(count)
        counts[order] = places - starts
        sums[order] = (before[places] - before[starts]) * _UNIT
        return counts, sums

    @cached_property
    def pipeline(self) -> Pipeline:
        """The shipped pipeline file."""
        return load(self.shipped)

    @cached_property
    def trained(self) -> TrainedModel:
        """Version 1.0.0 of its model, always the same."""
        # Windows are full only after a while; what a model learns of must look like what it will score.
        matrix = self.features(40 * ROWS if self.shipped == "bench-windows" else ROWS)[-ROWS:]
        generator = np.random.default_rng(8)
        odds = matrix[:, : self.columns] @ np.linspace(-1, 1, self.columns)
        labels = (generator.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.float64)
        rows = LabelledRows(matrix, labels, np.arange(ROWS, dtype=np.int64) + START_MS)
        return train(
            TrainingRange(rows, START_MS, START_MS + ROWS),
            self.pipeline,
            self.family,
            version="1.0.0",
            created_at_ms=START_MS,
        )

    @cached_property
    def linear(self) -> tuple[Floats, float]:
        """Weights and intercept of a logistic regression on the raw numbers."""
        folded = fold(self.trained.estimator)
        return folded.weights, folded.intercept - float(folded.centres @ folded.weights)

    def expected(self, count: int) -> Floats:
        """The score of each of the first ``count`` events, by scikit-learn and numpy."""
        numbers = np.arange(count, dtype=np.int64)
        if self.peer_windows:
            weights, intercept = self.linear
            logit = (self.matrix @ weights + intercept)[numbers % ROWS]
            return np.asarray(1 / (1 + np.exp(-logit - self._peer_window(count))))
        if self.shipped == "bench-windows":
            return np.asarray(self.trained.estimator.predict_proba(self.features(count))[:, 1])
        return np.asarray(self.trained.estimator.predict_proba(self.matrix)[:, 1][numbers % ROWS])

    def _peer_window(self, count: int) -> Floats:
        numbers = np.arange(count, dtype=np.int64)
        cards, window = self.cards_of(numbers), (START_MS + numbers * SPACING_MS) // PEER_WINDOW_MS
        order = np.lexsort((numbers, window, cards))
        key = cards[order] << 32 | (window[order] - START_MS // PEER_WINDOW_MS)
        values = self.matrix[numbers % ROWS, 0][order]
        starts = np.searchsorted(key, key)
        sums = np.concatenate(([0.0], np.cumsum(values)))
        places = np.arange(count)
        counts = places - starts + 1
        added = np.empty(count)
        added[order] = COUNT_WEIGHT * counts + MEAN_WEIGHT * (sums[places + 1] - sums[starts]) / counts
        return added

    def write_pipeline(self, folder: Path, name: str, delivery: Delivery) -> Pipeline:
        """A pipeline file like the shipped one, under another name."""
        text = self.pipeline.path.read_text(encoding="utf-8")
        text = text.replace(f'name = "{self.shipped}"', f'name = "{name}"', 1)
        path = folder / f"{name}.toml"
        path.write_text(text.replace('delivery = "exactly_once"', f'delivery = "{delivery}"', 1), encoding="utf-8")
        return load(path)

    def write_for_peers(self, folder: Path) -> dict[str, str]:
        """The model as a peer reads it: a bare LogisticRegression, and its coefficients.

        Ours has an imputer and a scaler in front, which take scikit-learn a millisecond a call; that a row at a time is
        slow shall not be blamed on them.
        """
        model, coefficients = folder / "model.joblib", folder / "coefficients.json"
        weights, intercept = self.linear
        bare = LogisticRegression()
        bare.classes_, bare.coef_, bare.intercept_ = np.array([0.0, 1.0]), weights[None, :], np.array([intercept])
        joblib.dump(bare, model)
        said: dict[str, Any] = {"columns": self.columns, "count": COUNT_WEIGHT, "mean": MEAN_WEIGHT}
        coefficients.write_text(json.dumps(said | {"weights": weights.tolist(), "intercept": intercept}))
        return {"MODEL": str(model), "COEFFICIENTS": str(coefficients), "WINDOW": "1" if self.peer_windows else "0"}


STATELESS = Workload("stateless", "bench", "logistic", 10, "10 features, logistic regression")
TREES = Workload("trees", "bench", "hgb", 10, "10 features, HistGradientBoosting with 100 trees")
WIDE = Workload("wide", "bench-wide", "logistic", 50, "50 features, logistic regression")
WINDOWS = Workload(
    "windows", "bench-windows", "logistic", 10, "10 features and 3 windows over 5 000 cards, logistic regression"
)
PEER_WINDOWS = Workload(
    "peer-windows", "bench", "logistic", 10, "as stateless, with count and mean per card over 10 minutes",
    peer_windows=True,
)  # fmt: skip
WINDOWS_TREES = Workload(
    "windows-trees", "bench-windows", "hgb", 10, "10 features and 3 windows over 5 000 cards, 100 trees"
)
#: What the scoring hook is asked about.
HOOKED = (WINDOWS, WINDOWS_TREES)
ENTITIES = Workload("entities", "bench-windows", "logistic", 10, "as windows, each event of a new card", cards=1 << 40)
