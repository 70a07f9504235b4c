"""A small pipeline and a version trained on it, for the laws of models/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

SMALL_PIPELINE = """
name = "shop"
partitions = 1

[model]
name = "shop-returns"
target = "is sent back"

[events]
entity = "customer"
id = "order_id"
time = "ordered_ms"
earliest = 2020-01-01T00:00:00Z
latest = 2030-01-01T00:00:00Z
max_ahead = "1d"

[events.fields]
order_id = "string"
ordered_ms = "int"
customer = "string"
amount = "float"
items = "int"
colour = "string?"

[labels]
horizon = "48h"
max_wait = "5s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "colour"
type = "category"
expression = "colour"
values = ["red", "green", "blue"]

[[features]]
name = "items"
type = "int"
expression = "items"

[drift]
window = "month"
slice = "1d"
grace = "1h"
bins = 16
tests = [{ test = "psi", minimum_effect = 0.2 }]

[performance]
maturity = "24h"

[limits]
consecutive = 10
share = 0.5
of_last = 100
"""


def make_data(n: int, seed: int = 7) -> LabelledRows:
    """Labelled events: the chance of a positive grows with the amount, and is higher for colour 2."""
    rng = np.random.default_rng(seed)
    matrix = np.column_stack(
        [rng.normal(50.0, 20.0, n), rng.integers(0, 3, n).astype(np.float64), rng.integers(1, 9, n).astype(np.float64)]
    )
    logits = (matrix[:, 0] - 50.0) / 10.0 + 2.0 * (matrix[:, 1] == 2)
    labels = (rng.random(n) < 1.0 / (1.0 + np.exp(-logits))).astype(np.float64)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return LabelledRows(matrix, labels, np.arange(n, dtype=np.int64) * 1000)


@pytest.fixture(scope="session")
def small_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path: Path = tmp_path_factory.mktemp("pipeline") / "shop.toml"
    path.write_text(SMALL_PIPELINE, encoding="utf-8")
    return load(path)


@pytest.fixture(scope="session")
def small_data() -> LabelledRows:
    return make_data(400)


@pytest.fixture(scope="session")
def trained(small_pipeline: Pipeline, small_data: LabelledRows) -> TrainedModel:
    return train(
        TrainingRange(small_data, 0, 400_000, event_rows=410),
        small_pipeline,
        "logistic",
        version="1.0.0",
        created_at_ms=1_000_000,
    )
