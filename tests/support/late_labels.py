"""Recordings of a stream of card payments whose labels come late, by laws of any kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from core_setting import CARD_EVENTS, DAY_MS, START_MS

from app.adapters.recordings.file import EVENTS, LABELS, RecordingWriter, describe
from app.adapters.sources.source import cut_batches, encode
from schemas.pipeline.spec import Pipeline
from schemas.source import SourceRecord

DAYS, PER_DAY = 70, 160

SPECIFICATION = f"""
name = "cards"
partitions = 2
[model]
name = "fraud"
{CARD_EVENTS}
[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float"
[labels]
horizon = "30d"
[[features]]
name = "amount"
type = "float"
expression = "amount"
[[features]]
name = "fraud_5d"
type = "float"
window = {{ of = "labels", key = ["card"], size = "5d", hop = "6h", aggregate = "count" }}
[drift]
window = "5d"
slice = "1h"
grace = "1h"
bins = 16
tests = [{{ test = "psi", minimum_effect = 0.2 }}]
[performance]
maturity = "21d"
"""

Floats = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, Floats], Floats]

#: Delay in days of each label; NaN: it never comes.
LAWS: dict[str, Draw] = {
    "at once": lambda _, y: np.full(len(y), 1e-5),
    "all at 20 days": lambda _, y: np.full(len(y), 20.0),
    "positives 1 to 20, negatives at 20": lambda rng, y: np.where(y == 1, rng.uniform(1, 20, len(y)), 20.0),
    "exponential": lambda rng, y: rng.exponential(5, len(y)),
    "positives early, negatives late": lambda rng, y: np.where(y == 1, rng.uniform(0, 2, len(y)), 18.0),
    "negatives early, positives late": lambda rng, y: np.where(y == 0, rng.uniform(0, 2, len(y)), 18.0),
}


def record(path: Path, pipeline: Pipeline, law: Draw, *, days: float = DAYS, seed: int = 1) -> Floats:
    """A recording of a stream that still goes on: events, and the labels that have come. Gives their true labels."""
    rng = np.random.default_rng(seed)
    n = round(days * PER_DAY)
    times = START_MS + np.sort(rng.integers(0, round(days * DAY_MS), n))
    amounts = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(2.9 - amounts))).astype(np.float64)
    took = law(rng, labels) * DAY_MS
    records = []
    for number, (at, amount, label, delay) in enumerate(
        zip(times.tolist(), amounts.tolist(), labels.tolist(), took.tolist(), strict=True)
    ):
        key = f"c{number % 17}"
        body = {"id": f"e{number}", "card": key, "at": at, "amount": amount}
        records.append(SourceRecord("event", key, at, body))
        if at + delay <= times[-1]:
            came = round(at + delay)
            told = {"event_id": f"e{number}", "label": label, "label_time_ms": came}
            records.append(SourceRecord("label", key, came, told))
    records.sort(key=lambda each: (each.time_ms, each.kind == "event"))
    with RecordingWriter(path, describe(pipeline, 0)) as writer:
        for batch in cut_batches([encode(records)], pipeline):
            writer.add(EVENTS if batch.topic == pipeline.topics.events else LABELS, batch)
    return labels
