"""Workers that are killed at random points: nothing lost, nothing doubled, no count wrong (P1, P2, P3, P24)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_report import record, seed_of
from chaos_run import ChaosRun, Setup


async def kill_at_random(run: ChaosRun, kills: int, seed: int, every_s: tuple[float, float]) -> None:
    """Kill workers at random points."""
    chance = new_random(seed)
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(*every_s))
        await run.wait_for(lambda: bool(run.fleet.running()), "a running worker")
        run.fleet.kill(chance.choice(run.fleet.running()))


@pytest.mark.parametrize(
    ("delivery", "with_labels"),
    [("exactly_once", False), ("exactly_once", True), ("at_least_once", False)],
    ids=["exactly-once", "exactly-once+labels", "at-least-once"],
)
def test_kills_lose_double_and_miscount_nothing(
    kafka: str, tmp_path: Path, delivery: str, with_labels: bool, request: pytest.FixtureRequest
) -> None:
    seed = seed_of(request.node.name)

    async def scenario() -> None:
        load = Load(seed, n=200_000, rate=400)
        async with ChaosRun(kafka, tmp_path, load, Setup(delivery, with_labels)) as run:
            await run.produce()
            await kill_at_random(run, 3, seed, (2.0, 8.0))
            await run.every_partition_scores()
            outcome = await run.finish()
        row = record(run.row("P1/P2/P3/P24", "SIGKILL of workers", outcome, outcome.kills))
        assert row.passed, outcome.findings.describe()

    asyncio.run(scenario())
