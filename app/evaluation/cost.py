"""What monitoring costs: the state per event and feature, and the closing of a window, in this process."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from scipy.special import expit

from app.core.counts.buffer import SketchBuffer
from app.core.counts.calendar import Window
from app.core.counts.sketches import ALL, pack
from app.core.monitoring.core import MonitorCore
from app.evaluation.product import VERSION, make_pipeline
from app.evaluation.run import EvaluationRun, generator
from app.evaluation.streams import draw_labels
from models.reference.counting import count
from models.reference.fit import fit_reference
from models.reference.reference import Floats, Reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.wire import SketchRecord

FEATURES = tuple(f"f{number}" for number in range(10))
BINS = 1_024
BATCH = 100
#: Batches that make one transaction, after which the counts go to the topic.
BATCHES = 50
ROUNDS = 25
#: Windows that a monitor has seen when the closing of the next ones is timed.
HISTORY, TIMED = 60, 40
SHORT, LONG = 1_000, 100_000


def measure_cost(run: EvaluationRun) -> None:
    """CPU per event and feature of the whole state, and CPU of closing a window of ten features."""
    run.say("cost: the state of 10 features, score and label, 100 events at a time")
    chance = generator(run.seed)
    matrix = chance.standard_normal((LONG, len(FEATURES)))
    scores = np.asarray(expit(matrix[:, 0]))
    labels = draw_labels(chance, scores)
    reference = _reference(matrix[:20_000], scores[:20_000], labels[:20_000], BINS)
    counted = [_state_us(reference, matrix, scores, labels) for _ in range(ROUNDS)]
    title = f"State of {len(FEATURES)} features ({BINS} cells each), score and label: CPU per event and feature"
    run.figures.add("cost.state", counted, "µs", title)
    run.say("cost: closing windows of 10 features")
    closing = {}
    for events in (SHORT, LONG):
        closing[events] = _closing_ms(matrix, scores, labels, events)
        title = f"Closing a window of {events} events, 10 features and all tests, after {HISTORY} others: CPU"
        run.figures.add(f"cost.close.{events}", closing[events], "ms", title)
    growth = median(closing[LONG]) / median(closing[SHORT])
    run.figures.add("cost.close.growth", growth, "×", f"Closing: a window of {LONG} events against one of {SHORT}")


def _reference(matrix: Floats, scores: Floats, labels: Floats, bins: int) -> Reference:
    return fit_reference(TrainingEvents(matrix, scores, labels), [numeric(name) for name in FEATURES], bins)


def _state_us(reference: Reference, matrix: Floats, scores: Floats, labels: Floats) -> float:
    buffer = SketchBuffer("cost", 10**6)
    times = np.arange(BATCH, dtype=np.int64)
    started = time.process_time()
    for number in range(BATCHES):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        buffer.add_scored(VERSION, reference, times, matrix[rows], scores[rows])
        buffer.add_labelled(VERSION, reference, times, scores[rows], labels[rows])
    buffer.drain()
    return 1e6 * (time.process_time() - started) / (BATCH * BATCHES * len(FEATURES))


def _closing_ms(matrix: Floats, scores: Floats, labels: Floats, events: int) -> list[float]:
    pipeline = make_pipeline(FEATURES, {}, events, per_events=100 * events, labels=False)
    size_ms = pipeline.drift.slice_ms
    reference = _reference(matrix[:20_000], scores[:20_000], labels[:20_000], pipeline.drift.bins)
    monitor = MonitorCore(pipeline)
    monitor.register_version(VERSION, reference, {})
    times_ms = []
    for number in range(HISTORY + TIMED):
        window = Window(number * size_ms, (number + 1) * size_ms)
        rows = np.arange(number * 997, number * 997 + events) % len(scores)
        delta = pack(pipeline.model.name, VERSION, ALL, window.start_ms, count(reference, matrix[rows], scores[rows]))
        record = SketchRecord(0, window.end_ms, window.end_ms, [delta])
        monitor.observe(record)
        started = time.process_time()
        monitor.collect(now_ms=0)
        times_ms.append(1e3 * (time.process_time() - started))
    return times_ms[HISTORY:]
