"""Workers that are killed at random points: nothing lost, nothing doubled, no count wrong (P1, P2, P3, P24)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_pipeline import Setup
from chaos_report import record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess


async def kill_at_random(run: ChaosRun, kills: int, seed: int, every_s: tuple[float, float]) -> None:
    """Kill workers at random points."""
    chance = new_random(seed)
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(*every_s))
        await run.wait_for(lambda: bool(run.fleet.running()), "a running worker")
        run.fleet.kill(chance.choice(run.fleet.running()))


KILLS = [  # in the short selection: test_models_and_pressure.py and test_membership_faults.py
    pytest.param(Setup("at_least_once"), 3, id="at-least-once"),
    pytest.param(Setup("exactly_once", workers=3), 25, id="exactly-once-3"),
    pytest.param(
        Setup("exactly_once", with_labels=True, workers=3, monitored=True, shared=True), 15, id="exactly-once+labels-3"
    ),
    pytest.param(
        Setup("at_least_once", with_labels=True, workers=3, monitored=True, shared=True),
        15,
        id="at-least-once+labels-3",
    ),
]


@pytest.mark.chaos_full
@pytest.mark.parametrize(("setup", "kills"), KILLS)
async def test_kills_lose_double_and_miscount_nothing(
    kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, kills: int
) -> None:
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=500), setup) as run:
        await run.produce()
        await kill_at_random(run, kills, seed, (3.0, 8.0))
        await run.every_partition_scores()
        outcome = await run.finish()
    row = record(run.row("P1/P2/P3/P24", "SIGKILL of workers", outcome, outcome.kills))
    assert row.passed, outcome.findings.describe()
