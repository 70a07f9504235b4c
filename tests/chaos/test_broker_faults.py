"""A broker that dies, and a network that fails: nothing lost, nothing doubled, no count wrong (P5, P6, P24)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos_kafka import BreakableKafka, breakable
from chaos_load import Load, new_random
from chaos_pipeline import Setup
from chaos_proxy import Proxy, Weather
from chaos_report import Figure, record
from chaos_run import ChaosRun

#: What a killed broker may cost: of 20 s, 5 are its own registration's time to expire.
BROKER_GAP_S = 20.0

#: Each with the seconds that it lasts.
WEATHERS: dict[str, tuple[Weather, float]] = {
    "latency": (Weather(latency_ms=300, jitter_ms=200), 8.0),
    "bandwidth": (Weather(bytes_per_s=5_000), 8.0),
    "slices": (Weather(slice_bytes=16), 6.0),
    "resets": (Weather(reset_share=0.02), 8.0),
    "hole up": (Weather(hole=frozenset({"up"})), 9.0),
    "hole down": (Weather(hole=frozenset({"down"})), 9.0),
    "hole both": (Weather(hole=frozenset({"up", "down"})), 12.0),
    "down": (Weather(refuses=True), 8.0),
}
SHARED = Setup("exactly_once", with_labels=True, shared=True)


async def crash_broker(run: ChaosRun, broker: BreakableKafka, times: int, seed: int, down_s: float = 3.0) -> float:
    """Kill the broker again and again, each time when all partitions are scored; longest time until they are again."""
    chance, longest = new_random(seed), 0.0
    for _ in range(times):
        await asyncio.sleep(chance.uniform(2, 6))
        broker.crash()
        await asyncio.sleep(down_s)
        await asyncio.to_thread(broker.revive)
        longest = max(longest, await run.every_partition_scores())
    return longest


async def break_network(run: ChaosRun, proxy: Proxy, names: list[str]) -> float:
    """One weather after the other; the longest time that it then took until all partitions were scored again."""
    longest = 0.0
    for name in names:
        weather, seconds = WEATHERS[name]
        async with proxy.during(weather):
            if weather.refuses:
                proxy.reset_all()
            await asyncio.sleep(seconds)
        longest = max(longest, await run.every_partition_scores())
    return longest


CRASHES = [
    pytest.param(Setup("exactly_once", workers=1), 1, id="exactly-once"),
    pytest.param(SHARED, 5, id="exactly-once+labels", marks=pytest.mark.chaos_full),
    pytest.param(Setup("at_least_once"), 5, id="at-least-once", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize(("setup", "times"), CRASHES)
async def test_a_killed_broker_costs_time_and_nothing_else(
    cache: Path, tmp_path: Path, seed: int, setup: Setup, times: int
) -> None:
    async with (
        breakable(tmp_path, cache, seed) as (broker, _),
        ChaosRun(broker.access, tmp_path, Load(seed, n=10**6), setup) as run,
    ):
        await run.produce()
        recovery_s = await crash_broker(run, broker, times, seed)
        outcome = await run.finish()
    figures = (
        Figure("longest gap after a killed broker (3 s down)", outcome.longest_gap_s, "s", BROKER_GAP_S),
        Figure("longest time from its return to scores of all partitions", recovery_s, "s"),
    )
    row = record(run.row("P5/P24", "SIGKILL of the broker", outcome, broker.deaths, figures=figures))
    assert row.passed, outcome.findings.describe()


@pytest.mark.chaos_full
async def test_a_broker_that_hangs_costs_time_and_nothing_else(cache: Path, tmp_path: Path, seed: int) -> None:
    """SIGSTOP for longer than sessions and requests last: the connections stay open, nobody answers."""
    setup = SHARED
    async with (
        breakable(tmp_path, cache, seed) as (broker, _),
        ChaosRun(broker.access, tmp_path, Load(seed, n=10**6), setup) as run,
    ):
        await run.produce()
        longest_s = 0.0
        for seconds in (5, 15, 45):
            broker.freeze()
            await asyncio.sleep(seconds)
            broker.thaw()
            longest_s = max(longest_s, await run.every_partition_scores())
        outcome = await run.finish()
    figures = (
        Figure("longest time from its waking up to scores of all partitions", longest_s, "s"),
        Figure("peak RSS of a worker", outcome.peak_rss_mb, "MB"),
    )
    row = record(run.row("P5/P20/P24", "SIGSTOP of the broker for 5, 15, 45 s", outcome, 3, figures=figures))
    assert row.passed, outcome.findings.describe()


@pytest.mark.chaos_full
async def test_a_full_disk_of_the_broker_loses_nothing(cache: Path, tmp_path: Path, seed: int) -> None:
    """Its files can grow no more: it refuses, and ends; with room again, everything goes on."""
    setup = Setup("exactly_once")
    async with (
        breakable(tmp_path, cache, seed) as (broker, _),
        ChaosRun(broker.access, tmp_path, Load(seed, n=10**6), setup) as run,
    ):
        await run.produce()
        broker.fill_disk()
        await run.wait_for(lambda: not broker.is_alive(), "the end of a broker without room")
        await asyncio.to_thread(broker.revive)
        recovery_s = await run.every_partition_scores()
        outcome = await run.finish()
    figures = (Figure("time from its return to scores of all partitions", recovery_s, "s"),)
    row = record(run.row("P14/P24", "disk of the broker full", outcome, 1, figures=figures))
    assert row.passed, outcome.findings.describe()


NETWORKS = [
    pytest.param(Setup("exactly_once", workers=1), ["hole down", "down"], id="exactly-once"),
    pytest.param(SHARED, list(WEATHERS), id="exactly-once+labels", marks=pytest.mark.chaos_full),
    pytest.param(Setup("at_least_once"), list(WEATHERS), id="at-least-once", marks=pytest.mark.chaos_full),
]


@pytest.mark.parametrize(("setup", "names"), NETWORKS)
async def test_a_bad_network_costs_time_and_nothing_else(
    cache: Path, tmp_path: Path, seed: int, setup: Setup, names: list[str]
) -> None:
    async with (
        breakable(tmp_path, cache, seed) as (broker, proxy),
        ChaosRun(broker.access, tmp_path, Load(seed, n=10**6), setup, broker.proxied) as run,
    ):
        await run.produce()
        order = list(names)
        new_random(seed).shuffle(order)
        recovery_s = await break_network(run, proxy, order)
        outcome = await run.finish()
        tally = proxy.tally
    note = f"{', '.join(order)}; {tally.connections} connections, {tally.resets} cut, {tally.refused} refused"
    figures = (Figure("longest time from fair weather to scores of all partitions", recovery_s, "s"),)
    row = record(run.row("P6/P24", "network through a proxy", outcome, len(order), note=note, figures=figures))
    assert row.passed, outcome.findings.describe()
