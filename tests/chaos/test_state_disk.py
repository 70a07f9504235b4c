"""The disk with the state is full: workers say so and end; with space again, it is as if nothing had been (P14)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from chaos_load import Load
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun
from full_disk import Disk, limited, small_disk

from app.exits import EXIT_CONFIG
from app.kafka_access import KafkaAccess

#: For so long the disk is full, and on a slow machine until a worker has come to write what no longer fits.
FULL_S, LONGEST_S = 20.0, 180.0


@pytest.mark.chaos_full
@pytest.mark.parametrize("disk", [limited, small_disk], ids=lambda disk: disk.__name__)
async def test_a_full_disk_of_the_state_is_said_and_costs_time_alone(
    kafka: KafkaAccess, tmp_path: Path, seed: int, disk: Disk
) -> None:
    setup = Setup("exactly_once", with_labels=True, on_disk=True, shared=True)
    run = ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=1_000, pad=200), setup)
    with disk(lambda: map(run.fleet.pid, run.fleet.running()), run.settings.home / "state") as fill:
        async with run:
            await run.produce()
            began = time.monotonic()
            while (full_s := time.monotonic() - began) < FULL_S or (full_s < LONGEST_S and not n_failed(run)):
                fill(True)  # for those that start meanwhile, too
                await asyncio.sleep(0.1)
            fill(False)
            await run.every_partition_scores()
            outcome = await run.finish()
    failed = n_failed(run)
    said = run.fleet.count_in_logs("the state cannot be kept on disk")
    row = record(
        run.row("P14/P24", f"disk of the state full ({disk.__name__})", outcome, failed,
                figures=(Figure("sentences in the log of each that ended", said / max(failed, 1), "lines", 2),))
    )  # fmt: skip
    assert row.passed, outcome.findings.describe()
    assert failed, "no worker has noticed"
    assert said >= failed


def n_failed(run: ChaosRun) -> int:
    """How many workers have ended because of what a person must mend."""
    return sum(end.code == EXIT_CONFIG for end in run.fleet.exits)
