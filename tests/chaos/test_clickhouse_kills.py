"""Monitors and ClickHouse are killed in the middle of inserts, and each table is exact in the end (P13)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from chaos_load import new_random
from chaos_report import Figure, Row, record, seed_of
from clickhouse_front import ClickHouseFront, Faults
from monitor_bench import Bench, Client
from monitor_chaos import Monitors, open_ledger

from app.kafka_access import KafkaAccess

#: Longer than the session of a monitor (10 s): the other one has taken over when it wakes up.
SLEEP_S = 14.0
FAULTS = Faults(error=0.10, drop_before=0.04, drop_after=0.12, half_before=0.03, half_after=0.03, slow=0.5, slow_s=0.3)


@dataclass(frozen=True)
class Plan:
    """How often what is killed, and what runs meanwhile."""

    kills: int
    server_kills: int
    n_scores: int


SERVER = [
    pytest.param(Plan(kills=2, server_kills=1, n_scores=3_000), id="short"),
    pytest.param(Plan(kills=10, server_kills=2, n_scores=4_000), id="ten", marks=pytest.mark.chaos_full),
    pytest.param(Plan(kills=60, server_kills=15, n_scores=100_000), id="full", marks=pytest.mark.chaos_full),
]
EMBEDDED = [
    pytest.param(Plan(kills=2, server_kills=0, n_scores=4_000), id="two", marks=pytest.mark.chaos_full),
    pytest.param(Plan(kills=40, server_kills=0, n_scores=100_000), id="full", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize("plan", SERVER)
async def test_killed_monitors_and_a_failing_server_leave_exact_tables(
    kafka: KafkaAccess, tmp_path: Path, plan: Plan
) -> None:
    seed = seed_of("clickhouse-kills")
    with ClickHouseFront(tmp_path / "server") as front:
        bench = Bench(kafka, tmp_path, front.url, plan.n_scores, segmented=True)
        bench.add_late()
        await bench.prepare()
        stats = await kill(bench, front, plan, seed)
        found = await asyncio.to_thread(open_ledger, bench)
    failed = sum(count for name, count in stats.items() if name not in {"insert", "repeated"})
    row = record(
        Row(
            "P13",
            "kill -9 of monitor and server mid-insert; 503, 500, drops, half answers, stalls",
            seed=seed,
            load=f"{plan.n_scores} scores, sketches, dead letters",
            events=plan.n_scores + len(bench.letters),
            faults=plan.kills + plan.server_kills + failed,
            **found.counts(),
            figures=(
                Figure("kills of the monitor", plan.kills, "kills"),
                Figure("kills of the server", plan.server_kills, "kills"),
                Figure("inserts that failed", failed, "inserts"),
                Figure("answers lost after the insert", stats["drop_after"] + stats["half_after"], "inserts"),
                Figure("rows stored twice", found.stored_twice, "rows", 0),
            ),
        )
    )
    assert row.passed, found
    assert failed > 0
    assert found.stored_twice == 0


@pytest.mark.parametrize("plan", EMBEDDED)
async def test_an_embedded_engine_that_is_killed_opens_again_and_is_exact(
    kafka: KafkaAccess, tmp_path: Path, plan: Plan
) -> None:
    seed = seed_of("clickhouse-embedded-kills")
    bench = Bench(kafka, tmp_path, "", plan.n_scores, segmented=True)
    bench.add_late()
    await bench.prepare()
    await kill(bench, None, plan, seed)
    found = await asyncio.to_thread(open_ledger, bench)
    row = record(
        Row(
            "P13",
            "kill -9 of the monitor with the embedded engine in it",
            seed=seed,
            load=f"{plan.n_scores} scores, sketches, dead letters",
            events=plan.n_scores + len(bench.letters),
            faults=plan.kills,
            **found.counts(),
            figures=(Figure("rows stored twice", found.stored_twice, "rows", 0),),
        )
    )
    assert row.passed, found


async def kill(bench: Bench, front: ClickHouseFront | None, plan: Plan, seed: int) -> Counter[str]:
    """Publish a part, wait until it is being written, and kill; in the end, let all be written. What the server did."""
    chance = new_random(seed)
    server_kills = set(chance.sample(range(plan.kills), plan.server_kills))
    monitors, stats = Monitors(bench), Counter[str]()
    async with monitors.fleet as fleet:
        fleet.start(0)
        for number in range(plan.kills):
            if front is not None:
                front.query("SYSTEM STOP MERGES")  # rows stored twice stay countable
                front.harm(replace(FAULTS, seed=seed + number))
            await monitors.until_at_work(0)
            before = _inserts(front)
            await bench.produce(number / plan.kills, (number + 0.5) / plan.kills)
            if front is not None:
                await monitors.until(lambda before=before: _has_inserted(front, before))
            await asyncio.sleep(chance.uniform(0, 1.2))
            if front is not None and number in server_kills:
                stats += Counter(front.stats())
                front.kill()
                await asyncio.sleep(chance.uniform(0, 0.5))
                if chance.random() < 0.5:  # the monitor outlives the server as often as not
                    fleet.kill(0)
                await asyncio.to_thread(front.start)
            else:
                fleet.kill(0)
            # Who comes next finds more than was there for the block that was begun.
            await bench.produce((number + 0.5) / plan.kills, (number + 1) / plan.kills)
        if front is not None:
            front.harm()
        await monitors.until(lambda: _is_written(bench, monitors))
        ((code, _),) = await fleet.stop(0)
        assert code == 0, fleet.log(2_000)
    return stats + Counter(front.stats() if front is not None else {})


def _inserts(front: ClickHouseFront | None) -> int:
    return sum(front.stats().values()) if front is not None else 0


async def _has_inserted(front: ClickHouseFront, before: int) -> bool:
    return await asyncio.to_thread(_inserts, front) > before


async def _is_written(bench: Bench, monitors: Monitors) -> bool:
    """Whether a monitor says that it is through with everything."""
    address = monitors.address(0) if monitors.fleet.is_running(0) else ""
    if not address:
        return False
    try:
        lag = await asyncio.to_thread(Client(address).get, "/api/v1/lag")
        status = await asyncio.to_thread(Client(address).get, "/api/v1/status")
    except OSError:
        return False
    positions = lag["monitor"]
    is_through = len(positions) == 6 and not any(each["lag"] for each in positions)
    return is_through and status.get("scored") == len(bench.scores)


@pytest.mark.chaos_full
async def test_a_frozen_monitor_that_wakes_up_beside_another_changes_nothing(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    seed = seed_of("clickhouse-zombie")
    with ClickHouseFront(tmp_path / "server") as front:
        front.query("SYSTEM STOP MERGES")
        front.harm(Faults(seed=seed, slow=1.0, slow_s=0.4))
        bench = Bench(kafka, tmp_path, front.url, 4_000)
        bench.add_late()
        await bench.prepare()
        monitors = Monitors(bench, slots=2)
        async with monitors.fleet as fleet:
            fleet.start(0)
            await monitors.until_at_work(0)
            fleet.start(1)
            await bench.produce(0, 0.3)
            await monitors.until(lambda: _has_inserted(front, 20))
            fleet.freeze(0)
            await bench.produce(0.3, 0.6)
            await monitors.until_at_work(1)
            await asyncio.sleep(2)
            fleet.thaw(0)
            await bench.produce(0.6, 1)
            front.harm()

            async def is_exact() -> bool:
                return (await asyncio.to_thread(open_ledger, bench)).is_clean

            await monitors.until(is_exact)
            await asyncio.sleep(1)
            codes = [end.code for end in fleet.exits]
            await fleet.stop(0, 1)
        found = await asyncio.to_thread(open_ledger, bench)
    row = record(
        Row(
            "P13",
            "SIGSTOP of the monitor past its session, a second takes over, SIGCONT",
            seed=seed,
            load="4000 scores, each insert takes 0.4 s",
            events=len(bench.scores) + len(bench.letters),
            faults=1,
            **found.counts(),
            figures=(Figure("rows stored twice", found.stored_twice, "rows", 0),),
            note=f"exit codes of monitors meanwhile: {codes}",
        )
    )
    assert row.passed, found
