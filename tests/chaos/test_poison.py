"""Records that nobody can score, and records near the limits of size: none stops the flow (P8)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos_checker import POISON_HEADER
from chaos_load import START_MS, Load, LoadProducer, Sent
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(Setup("exactly_once", workers=1), id="exactly-once"),
        pytest.param(Setup("at_least_once", workers=1), id="at-least-once", marks=pytest.mark.chaos_full),
    ],
)
async def test_poison_stops_nothing(kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup) -> None:
    """One bad record in twenty: all of them dead letters, no restart, and the good ones hardly later than before."""
    rate = 1_000
    load = Load(seed, n=10**6, rate=rate, late=0, repeated=0, poison=0)
    async with ChaosRun(kafka, tmp_path, load, setup) as run:
        run.pace = 0.1  # until the worker is there: what waits for it would be measured too
        run.reader.seen_at = {}
        await run.produce()
        run.pace = 1.0
        parts = []
        for poison in (0.0, 0.05):
            run.producer.load = replace(run.producer.load, poison=poison)
            await run.scores_come(2 * rate)
            first = run.producer.sent
            await run.scores_come(3 * rate)
            parts.append(range(first, first + 2 * rate))
        outcome = await run.finish()
        written_at = run.producer.written_at
        before, after = (run.reader.latencies_ms(numbers, written_at) for numbers in parts)
    p99_before, p99_after = (values[int(len(values) * 0.99)] for values in (before, after))
    restarts = len(outcome.exit_codes) - setup.workers
    figures = (
        Figure("restarts", restarts, "workers", goal=0),
        Figure("p99 of good events without poison", p99_before, "ms"),
        Figure("p99 of good events with 1 bad in 20, of that without", p99_after / p99_before, "x", goal=2.0),
    )
    note = f"{outcome.findings.dead_letters} dead letters; {outcome.findings.describe()}"
    row = record(run.row("P8", "poison 1:20", outcome, outcome.findings.dead_letters, figures=figures, note=note))
    assert row.passed, outcome.findings.describe()
    assert restarts == 0
    assert outcome.findings.dead_letters > 3 * rate * 0.03


def body(**more: Any) -> bytes:
    return json.dumps({"id": "big", "card": "c1", "at_ms": START_MS, "amount": 1.0, **more}).encode()


POISONED = ((POISON_HEADER, b""),)
#: Of what is big, the values and whether they are poison: text of more than 256 KiB is. A broker of ours takes batches
#: of up to 2 MiB.
LARGE: dict[str, list[tuple[bytes, bool]]] = {
    "field": [(body(note="x" * 250_000), False), *((body(note="x" * n), True) for n in (1_048_576, 2_096_000))],
    "unnamed field": [(body(blob="x" * size), False) for size in (900_000, 1_048_576, 2_000_000, 2_096_000)],
    "bad record": [(body(note="x" * size)[:-1], True) for size in (900_000, 1_048_576, 2_000_000, 2_096_000)],
    "nesting": [(b"[" * 2_000_000, True), (b'{"a":' * 400_000, True)],
    "number": [(body(amount=1)[:-1] + b"0" * 1_000_000 + b"}", True)],
    "id": [(body(id="i" * size), size > 262_144) for size in (1_000, 250_000, 400_000, 1_900_000)],
    "entity": [(body(card="c" * size), size > 262_144) for size in (1_000, 250_000, 400_000, 1_900_000)],
}


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(Setup("exactly_once", workers=1), id="exactly-once", marks=pytest.mark.chaos_full),
        pytest.param(Setup("at_least_once", workers=1), id="at-least-once", marks=pytest.mark.chaos_full),
    ],
)
async def test_large_records_stop_nothing(kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup) -> None:
    """Whatever a broker takes as an event has one outcome, a score or a dead letter, and what follows it is scored."""
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=200, poison=0.0), setup) as run:
        await run.produce()
        topic = run.pipeline.topics.events
        extra = LoadProducer(kafka, run.pipeline.topics, run.load)
        for values in LARGE.values():
            for value, is_poison in values:
                await extra.write([Sent(topic, 1, value, START_MS, POISONED if is_poison else ())])
            await run.every_partition_scores(deadline_s=60)
        outcome = await run.finish()
    restarts = len(outcome.exit_codes) - setup.workers
    count = sum(map(len, LARGE.values()))
    figures = (Figure("restarts", restarts, "workers", goal=0),)
    row = record(run.row("P8", f"oversized: {', '.join(LARGE)}", outcome, count, figures=figures))
    assert row.passed, outcome.findings.describe()
    assert restarts == 0
