"""How versions stand ends in the table, in whatever order it is heard and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from app.adapters.memory_warehouse import MemoryWarehouse
from app.adapters.model_history import ModelHistory
from app.adapters.refusals import Refusals
from app.adapters.warehouse_thread import WarehouseThread
from schemas.pipeline_file import load
from schemas.wire import ModelStatus, ModelUpdate

FIRST = ModelUpdate("m", "1.0.0", "champion", "file:///1", "a" * 64, "f", 10)
SECOND = ModelUpdate("m", "2.0.0", "champion", "file:///2", "b" * 64, "f", 20)
#: By a clock that is behind.
REFUSED = ModelStatus("w1", "m", "2.0.0", "refused", 11, why="digest")


async def hear(warehouse: MemoryWarehouse, records: list[ModelUpdate | ModelStatus]) -> None:
    """A monitor that writes after each record."""
    thread = WarehouseThread(warehouse)
    await thread.open(30)
    history = ModelHistory(load("flights"), "", thread, lambda _: None, Refusals())
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


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("order", list(orders()), ids=lambda order: " ".join(type(each).__name__ for each in order))
def test_the_row_of_a_version_says_how_it_stands_at_last(after: int, order: list[Any]) -> None:
    for again in orders():
        warehouse = MemoryWarehouse()
        asyncio.run(hear(warehouse, order[:after]))  # one that was killed
        asyncio.run(hear(warehouse, again))
        rows = {row["version"]: (row["role"], row["why"]) for row in warehouse.read("model_versions")}
        assert rows == {"1.0.0": ("champion", ""), "2.0.0": ("refused", "digest")}
