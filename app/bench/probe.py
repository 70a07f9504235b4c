"""Asks our workers how they are, over the HTTP of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import aiohttp

from app.bench.lane import DEADLINE_S, BenchError, Child

PARTITIONS_METRIC = "streamgauge_partitions"


async def find_address(child: Child) -> str:
    """Where a worker listens, as it prints it when it starts."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        for line in child.log.read_text(errors="replace").splitlines():
            if line.startswith('{"ready"'):
                return str(json.loads(line)["http"])
        child.check()
        await asyncio.sleep(0.05)
    raise BenchError(f"it did not start within {DEADLINE_S:.0f} s: {child.last_words()}")


async def read_metric(address: str, name: str) -> float:
    """One number of ``/metrics``."""
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return 0.0


async def wait_until_all_work(children: Sequence[Child]) -> float:
    """When each worker owned a partition, in milliseconds: from then on the work is shared for good."""
    addresses = [await find_address(child) for child in children]
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        owned = [await read_metric(address, PARTITIONS_METRIC) for address in addresses]
        if all(owned):
            return time.time() * 1000
        for child in children:
            child.check()
        await asyncio.sleep(0.05)
    raise BenchError(f"not every worker got partitions within {DEADLINE_S:.0f} s")
