"""How versions stand ends in the table, in whatever order it is heard and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from memory_warehouse import MemoryWarehouse
from msgspec.structs import replace

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.refusals import Refusals
from app.kafka_access import KafkaAccess
from app.monitor import model_history
from app.monitor.model_history import ModelHistory, _Waiting
from models.training import TrainedModel
from models.versions.registry import Registry
from schemas.pipeline.file import load
from schemas.wire import ModelStatus, ModelUpdate

FIRST = ModelUpdate("m", "1.0.0", "champion", "file:///1", "a" * 64, "f", 10)
SECOND = ModelUpdate("m", "2.0.0", "champion", "file:///2", "b" * 64, "f", 20)
#: By a clock that is behind.
REFUSED = ModelStatus("w1", "m", "2.0.0", "refused", 11, why="digest")


async def hear(warehouse: MemoryWarehouse, records: list[ModelUpdate | ModelStatus]) -> None:
    """A monitor that writes after each record."""
    thread = WarehouseThread(warehouse)
    await thread.open(30)
    history = ModelHistory(load("flights"), KafkaAccess(""), thread, lambda _: None, Refusals())
    for record in records:
        if isinstance(record, ModelUpdate):
            history.standings.observe_update(record)
        else:
            history.standings.observe_status(record)
        await history._write_standings()
    await thread.close()


def orders() -> Iterator[list[ModelUpdate | ModelStatus]]:
    for order in permutations([FIRST, SECOND, REFUSED]):
        if order.index(FIRST) < order.index(SECOND):
            yield list(order)


@pytest.mark.slow
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("order", list(orders()), ids=lambda order: " ".join(type(each).__name__ for each in order))
def test_the_row_of_a_version_says_how_it_stands_at_last(after: int, order: list[Any]) -> None:
    for again in orders():
        warehouse = MemoryWarehouse()
        asyncio.run(hear(warehouse, order[:after]))  # one that was killed
        asyncio.run(hear(warehouse, again))
        rows = {row["version"]: (row["role"], row["why"]) for row in warehouse.read("model_versions")}
        assert rows == {"1.0.0": ("champion", ""), "2.0.0": ("refused", "digest")}


def test_a_version_that_names_the_files_of_another_has_not_its_manifest(trained: TrainedModel, tmp_path: Path) -> None:
    entry = Registry(tmp_path).register(trained.manifest, trained.artifact)
    manifest = entry.manifest
    update = ModelUpdate(manifest.model, manifest.version, "champion", entry.uri, manifest.artifact.sha256, "f", 10)

    async def run() -> None:
        warehouse = MemoryWarehouse()
        thread = WarehouseThread(warehouse)
        await thread.open(30)
        history = ModelHistory(load("flights"), KafkaAccess(""), thread, lambda _: None, Refusals())
        for said in (update, replace(update, version="7.0.0")):
            history.standings.observe_update(said)
            history._waiting[said.version] = _Waiting(said)
            await history._write_standings()
            await history._look_up_waiting()
        rows = {row["version"]: bool(row["manifest"]) for row in warehouse.read("model_versions")}
        assert rows == {manifest.version: True, "7.0.0": False}
        assert list(history.unreadable) == ["7.0.0"]
        await thread.close()

    asyncio.run(run())


def test_the_newest_versions_are_looked_for_first_and_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(update: ModelUpdate) -> Any:
        looked.append(update.version)
        raise LookupError(update.version)

    monkeypatch.setattr(model_history, "_read", look)

    async def run() -> None:
        thread = WarehouseThread(MemoryWarehouse())
        history = ModelHistory(load("flights"), KafkaAccess(""), thread, lambda _: None, Refusals())
        for number in range(1_000):
            said = replace(FIRST, version=f"7.0.{number}")
            history._waiting[said.version] = _Waiting(said)
            history.standings.observe_update(said)
            if number != 3:  # and what no worker has refused before all others
                status = ModelStatus("w", said.model, said.version, "refused", 1, "no", sha256=said.sha256)
                history.standings.observe_status(status)
        await history._look_up_waiting()

    asyncio.run(run())
    assert looked[:2] == ["7.0.3", "7.0.999"]
    assert len(looked) < 100
