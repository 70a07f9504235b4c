"""Workers that die while they catch up, with windows over all cards: what was added and not yet read is read again.

A worker adds to shared windows far ahead of what it scores. When all die in between, no one must take for read what was
only added (P1, P2, P3, P24).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess

Fault = Callable[[ChaosRun, random.Random, int], Awaitable[None]]

#: Share of a backlog behind which next to nothing is left to score: a fiftieth is poison.
_NEARLY = 0.95


async def strike(run: ChaosRun, chance: random.Random, fault: Fault, times: int) -> int:
    """Have a fault fall so many times, each after some more scores; fewer times if all has been scored before.

    Returns
    -------
    How many times it fell.
    """
    most, nearly = run.backlog // times // 2, int(run.backlog * _NEARLY)
    for number in range(times):
        await run.scores_come(min(chance.randrange(1, most), nearly - run.reader.count))
        if run.reader.count >= nearly:
            return number
        await fault(run, chance, number)
    return times


async def kill_all(run: ChaosRun, chance: random.Random, number: int) -> None:
    """All workers at once."""
    for slot in run.fleet.running():
        run.fleet.kill(slot)


async def kill_one(run: ChaosRun, chance: random.Random, number: int) -> None:
    """One of them."""
    await run.wait_for(lambda: bool(run.fleet.running()), "a running worker")
    run.fleet.kill(chance.choice(run.fleet.running()))


async def freeze_one(run: ChaosRun, chance: random.Random, number: int) -> None:
    """One sleeps past its session, and wakes up beside those that have its partitions."""
    await run.wait_for(lambda: len(run.fleet.running()) > 1, "two running workers")
    slot = chance.choice(run.fleet.running())
    run.fleet.freeze(slot)
    await asyncio.sleep(chance.choice((1.0, 3.0, 9.0)))
    run.fleet.thaw(slot)


async def race(run: ChaosRun, chance: random.Random, number: int) -> None:
    """A promotion or a roll back while workers die, all of them or one."""
    if number % 3 == 2:
        await run.announce(chance.choice(run.versions))
    else:
        await run.promote(f"1.{number + 1}.0", seed=number + 2)
    for slot in run.fleet.running()[: 1 if number % 2 else None]:
        run.fleet.kill(slot)


@dataclass(frozen=True)
class CatchUp:
    """So many events wait for the workers, on which so many faults fall before they are scored."""

    setup: Setup
    fault: Fault
    backlog: int
    faults: int


LABELS = Setup("exactly_once", with_labels=True, shared=True)
RUNS = {
    "all die, labels": CatchUp(LABELS, kill_all, 60_000, 2),
    "all die again and again, labels": CatchUp(LABELS, kill_all, 90_000, 12),
    "all of three die": CatchUp(Setup("exactly_once", shared=True, workers=3), kill_all, 120_000, 8),
    "all die, at least once": CatchUp(replace(LABELS, delivery="at_least_once"), kill_all, 90_000, 8),
    "all die, state on disk": CatchUp(replace(LABELS, on_disk=True), kill_all, 60_000, 6),
    "some die, dynamic members": CatchUp(replace(LABELS, workers=3, static=False), kill_one, 120_000, 12),
    "zombies": CatchUp(replace(LABELS, monitored=True), freeze_one, 240_000, 8),
    "versions race": CatchUp(LABELS, race, 90_000, 12),
}
FIRST, *OTHERS = RUNS
PARAMETERS = [
    pytest.param(FIRST),
    *(pytest.param(name, marks=pytest.mark.chaos_full) for name in OTHERS),
]


@pytest.mark.parametrize("name", PARAMETERS)
async def test_faults_during_catch_up_change_no_window(
    kafka: KafkaAccess, tmp_path: Path, seed: int, name: str
) -> None:
    case = RUNS[name]
    load = Load(seed, n=case.backlog)
    async with ChaosRun(kafka, tmp_path, load, case.setup, backlog=case.backlog) as run:
        faults = await strike(run, new_random(seed), case.fault, case.faults)
        left = case.backlog - run.reader.count
        outcome = await run.finish()
    what = f"{case.fault.__name__} with a backlog, shared windows"
    figures = (Figure(f"events that came after the last of {faults} faults", max(0, left), "events"),)
    row = record(run.row("P1/P2/P3/P24", what, outcome, faults, figures=figures))
    assert row.passed, outcome.findings.describe()
    assert 2 * faults >= case.faults, "it was too fast for its faults: give it a longer backlog"


@pytest.mark.chaos_full
async def test_labels_that_are_read_far_behind_the_events_come_before_them_all_the_same(
    kafka: KafkaAccess, tmp_path: Path, seed: int
) -> None:
    """Labels of ten times the size; what waits in vain would not wait long, but being behind is not in vain."""
    setup = Setup("exactly_once", with_labels=True, shared=True, impatient=True)
    load = Load(seed, n=60_000, label_pad=2_000)
    async with ChaosRun(kafka, tmp_path, load, setup, backlog=load.n) as run:
        faults = await strike(run, new_random(seed), kill_all, 3)
        outcome = await run.finish()
    row = record(run.row("P1/P3", "labels far behind the events", outcome, faults))
    assert row.passed, outcome.findings.describe()
    assert faults == 3, "it was too fast for its faults: give it a longer backlog"
