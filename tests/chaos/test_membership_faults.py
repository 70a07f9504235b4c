"""Workers that come, go and sleep: partitions are handed over, nothing is lost, doubled or miscounted (P4, P7, P18)."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chaos_load import Load, new_random
from chaos_pipeline import Setup
from chaos_report import Figure, record
from chaos_run import ChaosRun

from app.kafka_access import KafkaAccess

#: Promises on a quiet machine.
HAND_OVER_S = 10.0
PAUSE_OF_OTHERS_S = 3.0
STOP_S = 10.0
#: Of a frozen worker: more than a session (6 s).
SLEEP_S = 10.0


def owned(run: ChaosRun) -> dict[int, set[int]]:
    """Partitions of each running worker, as its log says."""
    found = {}
    for slot in run.fleet.running():
        said = re.findall(r"Partitions \[([\d, ]*)\] are ours", run.fleet.log_of(slot))
        found[slot] = {int(number) for number in said[-1].split(",") if number.strip()} if said else set()
    return found


def are_shared(run: ChaosRun) -> bool:
    """Whether both workers have partitions, and neither says what the other one has by now."""
    mine, others = (owned(run).get(slot, set()) for slot in (0, 1))
    return bool(mine and others) and mine.isdisjoint(others)


async def until_shared(run: ChaosRun) -> None:
    await run.wait_for(lambda: are_shared(run), "partitions of both workers")


@asynccontextmanager
async def measured(run: ChaosRun, what: str, figures: list[Figure], *, is_back: bool) -> AsyncIterator[None]:
    """Measure what a change of the second worker costs, until both share the partitions again or the first has all."""
    others, since = owned(run)[0], time.monotonic()
    yield
    if is_back:
        await until_shared(run)
    for _ in range(2):  # a rebalance that starts later belongs to it as well
        await asyncio.sleep(1.5)
        await run.every_partition_scores()
    gaps = run.reader.gaps(since)
    figures.append(Figure(f"hand-over after a {what}", max(gaps.values()), "s", HAND_OVER_S))
    if what != "join":  # there, the first worker has all partitions, and must give some away
        pause_s = max((gaps[k] for k in others), default=0.0)
        figures.append(Figure(f"pause of other partitions after a {what}", pause_s, "s", PAUSE_OF_OTHERS_S))


MONITORED = Setup("exactly_once", with_labels=True, workers=1, monitored=True)
MEMBERS = [
    pytest.param(MONITORED, False, id="static-short"),
    pytest.param(MONITORED, True, id="static", marks=pytest.mark.chaos_full),
    pytest.param(Setup("exactly_once", workers=1, static=False), True, id="dynamic", marks=pytest.mark.chaos_full),
    pytest.param(Setup("at_least_once", workers=1), True, id="at-least-once", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize(("setup", "dies"), MEMBERS)
async def test_a_worker_that_joins_leaves_or_dies_hands_over_in_time(
    kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, dies: bool
) -> None:
    figures: list[Figure] = []
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=200), setup) as run:
        await run.produce()
        async with measured(run, "join", figures, is_back=True):
            run.fleet.start(1)
        async with measured(run, "kill", figures, is_back=True):
            run.fleet.kill(1)
        async with measured(run, "freeze", figures, is_back=True):
            run.fleet.freeze(1)
            await asyncio.sleep(SLEEP_S)
            run.fleet.thaw(1)
        async with measured(run, "leave", figures, is_back=False):
            [(code, stop_s)] = await run.fleet.stop(1)
        if dies:  # to the group, what a freeze is that never ends
            run.fleet.start(1)
            await until_shared(run)
            async with measured(run, "death", figures, is_back=False):
                run.fleet.kill(1, for_good=True)
        outcome = await run.finish()
    figures.append(Figure("SIGTERM until the process ended", stop_s, "s", STOP_S))
    faults = ["join", "kill", "freeze", "leave", *(["death"] if dies else [])]
    fault = f"{', '.join(faults)} of a worker"
    row = record(run.row("P4/P7/P18", fault, outcome, len(faults), figures=tuple(figures)))
    assert row.passed, outcome.findings.describe()
    assert code == 0
    assert outcome.longest_gap_s < 120  # the promise is judged in the report; this machine may be busy


STORMS = [
    pytest.param(Setup("exactly_once", with_labels=True, workers=1, shared=True), 9, id="exactly-once+labels"),
    pytest.param(Setup("exactly_once", with_labels=True, workers=1, static=False), 9, id="exactly-once+labels-dynamic"),
    pytest.param(Setup("at_least_once", workers=1), 9, id="at-least-once"),
]


@pytest.mark.chaos_full
@pytest.mark.parametrize(("setup", "changes"), STORMS)
async def test_scaling_up_and_down_again_and_again_loses_nothing(
    kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, changes: int
) -> None:
    """From one worker to three and back, a change every few seconds, whether the last one is over or not."""
    chance, codes, longest_stop_s = new_random(seed), [], 0.0
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=500), setup) as run:
        await run.produce()
        steps = [(run.fleet.start, 1), (run.fleet.start, 2), (run.fleet.stop, 2), (run.fleet.stop, 1)]
        for number in range(changes):
            change, slot = steps[number % len(steps)]
            ending = change(slot)
            if ending is not None:
                for code, seconds in await ending:
                    codes.append(code)
                    longest_stop_s = max(longest_stop_s, seconds)
            await asyncio.sleep(chance.uniform(2, 12))
        await run.every_partition_scores()
        outcome = await run.finish()
    figures = (Figure("longest SIGTERM until the process ended", longest_stop_s, "s", STOP_S),)
    row = record(run.row("P7/P24", "scale 1 to 3 to 1", outcome, changes, figures=figures))
    assert row.passed, outcome.findings.describe()
    # A worker that is told to stop while it is still starting ends by the signal itself.
    assert set(codes) <= {0, -signal.SIGTERM}


@pytest.mark.chaos_full
async def test_eight_workers_share_eight_partitions_and_give_them_back(
    kafka: KafkaAccess, tmp_path: Path, seed: int
) -> None:
    """From one worker to eight, each with a partition; two die, five leave, and the last one has them all."""
    setup = replace(MONITORED, partitions=8)
    others = range(1, 8)
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=200), setup, slots=8) as run:
        await run.produce()
        run.fleet.start(*others)
        await run.wait_for(
            lambda: sorted(map(sorted, owned(run).values())) == [[k] for k in range(8)], "a partition of each"
        )
        for slot in (1, 2):
            run.fleet.kill(slot, for_good=True)
        await run.every_partition_scores()
        ends = await run.fleet.stop(*others[2:])
        await run.wait_for(lambda: owned(run)[0] == set(range(8)), "all partitions of the first worker")
        await run.every_partition_scores()
        outcome = await run.finish()
    row = record(run.row("P4/P7/P24", "1 to 8 workers, 2 die, 5 leave", outcome, 14))
    assert row.passed, outcome.findings.describe()
    assert {code for code, _ in ends} == {0}


STOPS = [
    pytest.param(Setup("exactly_once", with_labels=True, shared=True), 20, id="exactly-once+labels"),
    pytest.param(Setup("at_least_once"), 10, id="at-least-once"),
]


@pytest.mark.chaos_full
@pytest.mark.parametrize(("setup", "times"), STOPS)
async def test_a_worker_told_to_stop_under_load_ends_cleanly(
    kafka: KafkaAccess, tmp_path: Path, seed: int, setup: Setup, times: int
) -> None:
    chance, ends = new_random(seed), []
    async with ChaosRun(kafka, tmp_path, Load(seed, n=10**6, rate=500), setup) as run:
        await run.produce()
        for _ in range(times):
            slot = chance.choice((0, 1))
            ends.extend(await run.fleet.stop(slot))
            run.fleet.start(slot)
            await run.every_partition_scores()
            await asyncio.sleep(chance.uniform(0, 2))
        outcome = await run.finish()
    slowest_s = max(seconds for _, seconds in ends)
    figures = (Figure("longest SIGTERM until the process ended", slowest_s, "s", STOP_S),)
    row = record(run.row("P18/P24", "SIGTERM under load", outcome, times, figures=figures))
    assert row.passed, outcome.findings.describe()
    assert {code for code, _ in ends} == {0}
    # A clean stop doubles nothing, even where doubling is allowed.
    assert outcome.findings.doubled == 0
