"""The embedded engine has no space: the monitor says so, waits, loses nothing, and goes on by itself (P14)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from chaos_report import Figure, Row, record, seed_of
from full_disk import Disk, limited, small_disk
from monitor_bench import Bench, Client
from monitor_chaos import Monitors, open_ledger

from app.kafka_access import KafkaAccess


@pytest.mark.parametrize(
    "disk", [limited, pytest.param(small_disk, marks=pytest.mark.chaos_full)], ids=lambda disk: disk.__name__
)
async def test_a_full_disk_is_said_and_waited_for(kafka: KafkaAccess, tmp_path: Path, disk: Disk) -> None:
    seed = seed_of("clickhouse-disk")
    bench = Bench(kafka, tmp_path, "", 12_000)
    await bench.prepare()
    monitors = Monitors(bench)
    with disk(lambda: [monitors.fleet.pid(0)], tmp_path / "clickhouse") as fill:
        async with monitors.fleet as fleet:
            fleet.start(0)
            await monitors.until_at_work(0)
            await bench.produce(0, 0.1)
            await monitors.until(lambda: scored(monitors, 1_200))
            fill(True)
            await bench.produce(0.1, 1)

            async def says_so() -> bool:
                status = await asyncio.to_thread(Client(monitors.address(0)).get, "/api/v1/status")
                return "free some space" in status["warehouse_error"]

            await monitors.until(says_so)
            failures = await asyncio.to_thread(metric, monitors, "streamgauge_monitor_warehouse_failures_total")
            sentences = fleet.count_in_logs("free some space")
            assert fleet.exits == []
            fill(False)
            await monitors.until(lambda: scored(monitors, 12_000))
            await monitors.until(lambda: has_no_lag(monitors))
            ((code, _),) = await fleet.stop(0)
            assert code == 0, fleet.log(2_000)
        found = await asyncio.to_thread(open_ledger, bench)
    row = record(
        Row(
            "P14",
            f"disk of the embedded engine full ({disk.__name__})",
            seed=seed,
            load="12000 scores",
            events=len(bench.scores) + len(bench.letters),
            faults=1,
            **found.counts(),
            figures=(
                Figure("sentences in the log", sentences, "lines", 2),
                Figure("rows stored twice", found.stored_twice, "rows", 0),
            ),
            note="waits and goes on by itself: the process does not end",
        )
    )
    assert row.passed, found
    assert failures >= 1
    assert 1 <= sentences <= 2


async def scored(monitors: Monitors, n: int) -> bool:
    with suppress(OSError):
        status = await asyncio.to_thread(Client(monitors.address(0)).get, "/api/v1/status")
        return int(status.get("scored", 0)) == n
    return False


async def has_no_lag(monitors: Monitors) -> bool:
    lag = await asyncio.to_thread(Client(monitors.address(0)).get, "/api/v1/lag")
    return len(lag["monitor"]) == 6 and not any(each["lag"] for each in lag["monitor"])


def metric(monitors: Monitors, name: str) -> float:
    (line,) = [line for line in Client(monitors.address(0)).get("/metrics").splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])
