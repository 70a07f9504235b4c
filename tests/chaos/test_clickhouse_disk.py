"""The embedded engine has no space: the monitor says so, waits, loses nothing, and goes on by itself (P14)."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from chaos_report import Figure, Row, record, seed_of
from monitor_bench import Bench, Client
from monitor_chaos import Monitors, open_ledger

#: No file may grow beyond this: less than a block of scores, more than the log.
LIMIT_BYTES = 48 << 10
DISK_BYTES = 48 << 20
LEFT_BYTES = 256 << 10


@contextmanager
def limited(monitors: Monitors, _: Path) -> Iterator[Callable[[bool], None]]:
    """A limit on the size of files, which needs no rights."""

    def fill(is_full: bool) -> None:
        soft = LIMIT_BYTES if is_full else resource.RLIM_INFINITY
        resource.prlimit(monitors.fleet.pid(0), resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    yield fill


@contextmanager
def small_disk(_: Monitors, home: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of its own, filled up."""
    path = home / "clickhouse"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root; the limit on file sizes is tested anyway")
    ballast = path / "ballast"

    def fill(is_full: bool) -> None:
        if is_full:
            found = os.statvfs(path)
            ballast.write_bytes(bytes(max(found.f_bavail * found.f_bsize - LEFT_BYTES, 0)))
        else:
            ballast.unlink()

    try:
        yield fill
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize(
    "disk", [limited, pytest.param(small_disk, marks=pytest.mark.chaos_full)], ids=lambda disk: disk.__name__
)
def test_a_full_disk_is_said_and_waited_for(kafka: str, tmp_path: Path, disk: Callable[..., object]) -> None:
    seed = seed_of("clickhouse-disk")

    async def scenario() -> None:
        bench = Bench(kafka, tmp_path, "", 12_000)
        await bench.prepare()
        monitors = Monitors(bench)
        with disk(monitors, tmp_path) as fill:  # type: ignore[attr-defined]
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

    asyncio.run(scenario())


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
