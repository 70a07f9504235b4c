"""Monitors that are killed and frozen, and the ledger of what ClickHouse holds in the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from chaos_fleet import Fleet
from monitor_bench import Bench
from worker_bench import Bench as WorkerBench

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse


@dataclass(frozen=True)
class Ledger:
    """What the tables hold against what was published.

    ``stored_twice``: rows that the storage holds more than once, which reading a table by its name does not show.
    """

    lost: int
    doubled: int
    conflicting: int
    wrong_tables: tuple[str, ...]
    stored_twice: int

    @property
    def is_clean(self) -> bool:
        return not any(self.counts().values())

    def counts(self) -> dict[str, int]:
        """The fields of a `chaos_report.Row`."""
        return {
            "lost": self.lost,
            "doubled": self.doubled,
            "conflicting": self.conflicting,
            "wrong_counts": len(self.wrong_tables),
        }


def open_ledger(bench: Bench) -> Ledger:
    """Read everything, row by row."""
    settings = bench.settings
    url = settings.clickhouse
    warehouse = ClickHouseWarehouse(url) if url else ClickHouseWarehouse(path=settings.home / "clickhouse")
    try:
        warehouse.wait_ready(30)
        scores = [(_at(row), row["score"], row["customer_id"]) for row in warehouse.read("scores")]
        letters = [(_at(row), row["value"], row["reason"]) for row in warehouse.read("dead_letters")]
        wanted = Counter((_source(each), each.score, each.entity) for each in bench.scores)
        wanted += Counter((_source(each), each.value, each.reason) for each in bench.letters)
        found = Counter(scores + letters)
        places = Counter(place for place, *_ in found.elements())
        lost = len({place for place, *_ in wanted} - places.keys())
        stored = [
            warehouse.query(f"SELECT count() - uniqExact(topic, partition, offset{more}) FROM {table}_raw").rows[0][0]
            for table, more in (("scores", ", shadow"), ("dead_letters", ""))
        ]
        return Ledger(
            lost=lost,
            doubled=sum(count - 1 for count in places.values()),
            conflicting=len(found.keys() - wanted.keys()),
            wrong_tables=tuple(bench.wrong_tables(warehouse, amended=True)),
            stored_twice=sum(stored),
        )
    finally:
        warehouse.close()


def _at(row: dict[str, Any]) -> tuple[int, int]:
    return row["partition"], row["offset"]


def _source(record: Any) -> tuple[int, int]:
    return record.source.partition, record.source.offset


class Monitors:
    """Slots of monitors that are started again whenever they end."""

    def __init__(self, bench: Bench | WorkerBench, slots: int = 1) -> None:
        command = [sys.executable, "-P", "-m", "app", "monitor", "--pipeline", str(bench.pipeline.path)]
        environment = {**os.environ, **bench.settings.to_environment()}
        folder = bench.folder / "monitors"
        folder.mkdir()
        self.bench = bench
        self.fleet = Fleet(folder, slots, lambda _: (command, environment))

    def address(self, slot: int) -> str:
        """Where the monitor of a slot listens; empty until it does."""
        for line in self.fleet.log_of(slot).splitlines():
            if line.startswith('{"ready"'):
                return str(json.loads(line)["http"])
        return ""

    async def until_at_work(self, slot: int) -> None:
        """Wait until a monitor has taken over and reads."""

        async def is_at_work() -> bool:
            return self.fleet.is_running(slot) and "Monitoring " in self.fleet.log_of(slot)

        await self.until(is_at_work)

    async def until(self, condition: Any, deadline_s: float = 180) -> None:
        limit = asyncio.get_running_loop().time() + deadline_s
        while not await condition():
            if asyncio.get_running_loop().time() > limit:
                raise AssertionError(f"not within {deadline_s:.0f} s\n{self.fleet.log(2_000)}")
            await asyncio.sleep(0.05)
