"""A pipeline for tests of the pure flow: cards with windows over events and labels, and scorers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from app.core.batches import Floats, RecordBatch
from app.core.features.plan import FeaturePlan
from app.core.scoring import ActiveModel
from models.reference.fit import fit_reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Limits, Pipeline

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
START_MS = 1_600_000_000_000 // HOUR_MS * HOUR_MS
BINS = 16

#: What a pipeline file of cards says of its events but for their fields. Tables come in any order.
CARD_EVENTS = """
[events]
entity = "card"
id = "id"
time = "at"
earliest = 2020-01-01T00:00:00Z
latest = 2030-01-01T00:00:00Z
max_ahead = "1d"
"""
#: For drift and performance, what a test needs that is about neither.
MONITORED = """
[drift]
window = "1d"
slice = "1h"
grace = "1h"
bins = 16
tests = [{ test = "psi", minimum_effect = 0.2 }]

[performance]
maturity = "1h"
"""

SPECIFICATION = (
    """
name = "cards"
partitions = 1

[model]
name = "fraud"
threshold = 0.5

[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"
tries = "int?"
shop = "string?"

[labels]
horizon = "3h"
max_wait = "5s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "count_1h"
type = "int"
window = { of = "events", key = ["card"], size = "1h", hop = "5m", aggregate = "count" }

[[features]]
name = "amount_2h"
type = "float"
window = { of = "events", key = ["card"], size = "2h", hop = "10m", aggregate = "sum", field = "amount" }

[[features]]
name = "fraud_2h"
type = "float"
window = { of = "labels", key = ["card"], size = "2h", hop = "5m", aggregate = "mean", field = "label" }

[[features]]
name = "shop_fraud_1h"
type = "float"
window = { of = "labels", key = ["card", "shop"], size = "1h", hop = "5m", aggregate = "count" }
"""
    + CARD_EVENTS
    + MONITORED
)


class RowScorer:
    """A weighted sum of what is there, squeezed into (0, 1): every feature matters. Infinity counts as missing."""

    def __init__(self, slope: float) -> None:
        self._slope = slope

    def score(self, matrix: Floats) -> Floats:
        filled = np.where(np.isfinite(matrix), np.clip(matrix, -1e6, 1e6), -0.25)
        return 1 / (1 + np.exp(-np.clip(filled.sum(axis=1) * self._slope, -30, 30)))


@dataclass(frozen=True)
class Setting:
    """A pipeline with its features, and versions to score with."""

    pipeline: Pipeline
    plan: FeaturePlan

    def version(self, number: int, valid_from_ms: int | None) -> ActiveModel:
        """Version ``number``.0.0; each scores and counts in its own way."""
        generator = np.random.default_rng(number)
        names = self.pipeline.feature_names
        matrix = generator.normal(size=(200, len(names))).round(1)
        labels = (generator.random(200) < 0.5).astype(np.float64)
        scorer = RowScorer(1 / (4 + number))
        reference = fit_reference(
            TrainingEvents(matrix, scorer.score(matrix), labels), [numeric(name) for name in names], BINS, 0.5
        )
        version = f"{number}.0.0"
        return ActiveModel(
            "fraud", version, "champion", self.pipeline.feature_set, 0.5, scorer, reference, valid_from_ms
        )


def build(folder: Path, limits: Limits | None = None) -> Setting:
    """The setting; without ``limits``, any number of rejections is taken."""
    path = folder / "cards.toml"
    path.write_text(SPECIFICATION)
    pipeline = replace(load(path), limits=limits or Limits(consecutive=10**9, share=1.0, of_last=10**9))
    return Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))


def event(number: int, at_ms: int, **changes: Any) -> bytes:
    """An event as JSON; ``...`` as a value leaves a field out."""
    fields = {"id": f"e{number}", "card": f"c{number % 3}", "at": at_ms, "amount": number / 8}
    fields |= {"shop": [None, "s0", "s1"][number % 3], **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def label(event_id: str, at_ms: int, value: float = 1) -> bytes:
    return json.dumps({"event_id": event_id, "label": value, "label_time_ms": at_ms}).encode()


def batch(
    topic: str,
    values: list[bytes | None],
    stamps_ms: list[int],
    *,
    first: int = 0,
    headers: list[tuple[tuple[str, bytes], ...]] | None = None,
    keys: list[bytes | None] | None = None,
) -> RecordBatch:
    """Records of partition 0 with offsets from ``first`` on."""
    offsets = np.arange(first, first + len(values), dtype=np.int64)
    stamps = np.array(stamps_ms, dtype=np.int64)
    return RecordBatch(topic, 0, offsets, stamps, keys or [b"key"] * len(values), values, headers)
