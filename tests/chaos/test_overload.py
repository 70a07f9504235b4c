"""More work than the workers can do: everything comes later, and nothing comes out stale or wrong (P1, P3, P20)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_load import Load
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess

#: Of a backlog, by which it is measured what the workers can do.
MEASURED = 20_000
RATE, LOADED_S = 400, 20.0
#: In which workers have a turn: less than half of a session.
PERIOD_S = 2.0


async def measure(run: ChaosRun) -> float:
    """Events a second while the backlog is scored."""
    await run.scores_come(1_000)
    started, at_start = time.monotonic(), run.reader.count
    await run.scores_come(MEASURED * 9 // 10 - at_start)
    return (run.reader.count - at_start) / (time.monotonic() - started)


@contextlib.asynccontextmanager
async def slow_workers(run: ChaosRun, share: float) -> AsyncIterator[None]:
    """Workers that run for a share of the time."""

    async def take_turns() -> None:
        slots = range(run.setup.workers)
        while True:
            for slot in slots:
                run.fleet.freeze(slot)
            await asyncio.sleep(PERIOD_S * (1 - share))
            for slot in slots:
                run.fleet.thaw(slot)
            await asyncio.sleep(PERIOD_S * share)

    turns = asyncio.create_task(take_turns())
    try:
        yield
    finally:
        turns.cancel()
        for slot in range(run.setup.workers):
            run.fleet.thaw(slot)


@pytest.mark.chaos_full
@pytest.mark.parametrize("times", [1, 2, 4])
async def test_no_load_makes_a_score_stale(kafka: KafkaAccess, tmp_path: Path, seed: int, times: int) -> None:
    """A steady load, and workers that have as much time as they need for it, half of that, and a quarter."""
    setup = Setup("exactly_once", with_labels=True, shared=True, impatient=True)
    load = Load(seed, n=10**7, rate=RATE)
    async with ChaosRun(kafka, tmp_path, load, setup, backlog=MEASURED) as run:
        capacity = await measure(run)
        async with slow_workers(run, min(1.0, RATE / capacity / times)):
            run.producer.load = replace(run.producer.load, n=MEASURED + int(RATE * LOADED_S))
            await run.producer.run()
        behind = run.producer.sent - run.reader.count
        outcome = await run.finish()
    figures = (
        Figure("events a second that the workers can do, all the time", capacity, "events/s"),
        Figure("events behind at the end", behind, "events"),
    )
    row = record(run.row("P1/P3/P20", f"{times} × what the workers can do", outcome, 1, figures=figures))
    assert row.passed, outcome.findings.describe()
