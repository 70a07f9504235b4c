"""A worker that sleeps past its session and wakes up believes that it still owns its partitions (P4, P24)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess

#: Longer than a worker's session (6 s), so that its partitions have moved on when it wakes up.
SLEEP_S = 14.0

RUNS = [  # one of the short selection: test_membership_faults.py
    pytest.param(Setup("exactly_once", with_labels=True, shared=True), 10, id="exactly-once+labels"),
    pytest.param(Setup("at_least_once", with_labels=False), 5, id="at-least-once"),
]


@pytest.mark.chaos_full
@pytest.mark.parametrize(("setup", "times"), RUNS)
async def test_a_zombie_writes_nothing(kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, times: int) -> None:
    chance = new_random(seed)
    woken = 0
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=300), setup) as run:
        await run.produce()
        for _ in range(times):
            await run.wait_for(lambda: len(run.fleet.running()) == 2, "two running workers")
            await run.every_partition_scores()
            await asyncio.sleep(chance.uniform(0, 2))
            slot = chance.choice(run.fleet.running())
            run.fleet.freeze(slot)
            await asyncio.sleep(SLEEP_S)
            await run.every_partition_scores()  # the other one has taken over
            run.fleet.thaw(slot)
            woken += 1
            await run.scores_come(500)
        outcome = await run.finish()
    ended = outcome.exit_codes.count(75)
    row = record(
        run.row("P4/P24", f"SIGSTOP for {SLEEP_S:.0f} s, then SIGCONT", outcome, woken,
                figures=(Figure("zombies that ended themselves", ended, "workers"),))
    )  # fmt: skip
    assert row.passed, outcome.findings.describe()
