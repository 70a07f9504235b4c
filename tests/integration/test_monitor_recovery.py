"""A monitor trusts what the tables hold, whatever its checkpoint says, and stops with advice where it cannot write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clickhouse_front import READER, ClickHouseFront, Faults
from monitor_bench import N_PERFORMANCE, START_MS, Bench, rows_of

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.exits import EXIT_CONFIG, EXIT_RETRY
from app.kafka_access import KafkaAccess
from app.monitor.context import Pace
from app.monitor.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

QUICK = Pace(flush=0.05, collect=0.05, checkpoint=0.2, housekeeping=0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path_factory.mktemp("front")) as front:
        yield front


@pytest.fixture
def front(server: ClickHouseFront) -> ClickHouseFront:
    server.harm()
    server.query("DROP DATABASE IF EXISTS streamgauge SYNC")
    return server


@asynccontextmanager
async def watching(bench: Bench, url: str, pace: Pace = QUICK) -> AsyncIterator[tuple[Monitor, asyncio.Task[int]]]:
    """A monitor at work in this process."""
    thread = WarehouseThread(ClickHouseWarehouse(url), first_wait_s=0.02, longest_wait_s=0.1)
    await thread.open(20)
    monitor = Monitor(bench.pipeline, bench.kafka, thread, lambda: START_MS, pace)
    running = asyncio.create_task(monitor.run())
    try:
        yield monitor, running
    finally:
        monitor.stop()
        await running
        await thread.close()


async def until_written(bench: Bench, front: ClickHouseFront, share: float = 1.0) -> None:
    async def is_written() -> bool:
        mature = "(SELECT count() FROM streamgauge.performance WHERE label_maturity IS NOT NULL)"
        sql = f"SELECT (SELECT count() FROM streamgauge.scores), {mature}"
        (counts,) = await asyncio.to_thread(front.query, sql)
        return int(counts[0]) >= share * len(bench.scores) and (share < 1 or int(counts[1]) == N_PERFORMANCE)

    await bench.until(is_written)


def check(bench: Bench, front: ClickHouseFront) -> None:
    warehouse = ClickHouseWarehouse(front.url)
    try:
        assert bench.wrong_tables(warehouse, amended=True) == []
        bench.check_scores(warehouse)
        bench.check_letters(warehouse)
    finally:
        warehouse.close()


def lose_scores(front: ClickHouseFront) -> None:
    front.query("TRUNCATE TABLE streamgauge.scores_raw")


def delete_scores(front: ClickHouseFront) -> None:
    """The engine still knows the tokens of the blocks whose rows are gone."""
    front.query("ALTER TABLE streamgauge.scores_raw DELETE WHERE offset > 300 SETTINGS mutations_sync = 1")


def lose_reports(front: ClickHouseFront) -> None:
    for table in ("drift_reports", "performance", "model_metadata"):
        front.query(f"TRUNCATE TABLE streamgauge.{table}_raw")


def lose_the_checkpoint(front: ClickHouseFront) -> None:
    front.query("TRUNCATE TABLE streamgauge.monitor_checkpoints")


def lose_the_plans(front: ClickHouseFront) -> None:
    front.query("TRUNCATE TABLE streamgauge.monitor_blocks")


def spoil_the_checkpoint(front: ClickHouseFront) -> None:
    front.query(
        "INSERT INTO streamgauge.monitor_checkpoints SELECT pipeline, revision + 1, offsets, 'of another release', "
        "saved_at FROM streamgauge.monitor_checkpoints FINAL"
    )


@pytest.mark.parametrize(
    "harm",
    [lose_scores, delete_scores, lose_reports, lose_the_checkpoint, lose_the_plans, spoil_the_checkpoint],
    ids=lambda harm: harm.__name__,
)
async def test_tables_become_exact_again_whatever_part_of_the_warehouse_was_lost(
    kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront, harm: Callable[[ClickHouseFront], None]
) -> None:
    bench = Bench(kafka, tmp_path, front.url)
    bench.add_late()
    await bench.prepare()
    await bench.produce(0, 0.6)
    async with watching(bench, front.url):
        await until_written(bench, front, 0.6)
    await asyncio.to_thread(harm, front)
    await bench.produce(0.6, 1)
    async with watching(bench, front.url):
        await until_written(bench, front)
        await bench.until(lambda: has_no_lag(bench, front))
    check(bench, front)


async def has_no_lag(bench: Bench, front: ClickHouseFront) -> bool:
    """Whether the late events have been reported as well."""
    warehouse = ClickHouseWarehouse(front.url)
    try:
        return await asyncio.to_thread(bench.wrong_tables, warehouse, amended=True) == []
    finally:
        warehouse.close()


async def test_a_checkpoint_from_before_the_reports_amends_them_above_their_revisions(
    kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront
) -> None:
    bench = Bench(kafka, tmp_path, front.url)
    bench.add_late()
    await bench.prepare()
    await bench.produce(0, 0.3)
    async with watching(bench, front.url):
        await until_written(bench, front, 0.3)
    front.query("CREATE TABLE streamgauge.kept AS streamgauge.monitor_checkpoints")
    front.query("INSERT INTO streamgauge.kept SELECT * FROM streamgauge.monitor_checkpoints FINAL")
    await bench.produce(0.3, 1)
    async with watching(bench, front.url):
        await until_written(bench, front)
        await bench.until(lambda: has_no_lag(bench, front))
    before = highest_revisions(front)
    front.query("TRUNCATE TABLE streamgauge.monitor_checkpoints")
    front.query("INSERT INTO streamgauge.monitor_checkpoints SELECT * FROM streamgauge.kept")
    async with watching(bench, front.url) as (monitor, _):

        async def is_read() -> bool:
            positions = monitor.lag.of_monitor.values()
            return len(positions) == 6 and not any(position.lag for position in positions)

        await bench.until(is_read)
    check(bench, front)
    after = highest_revisions(front)
    assert after.keys() == before.keys()
    assert all(after[window] >= before[window] for window in before)


def highest_revisions(front: ClickHouseFront) -> dict[str, int]:
    sql = "SELECT toString(window_start), max(revision) FROM streamgauge.drift_reports_raw GROUP BY window_start"
    return {window: int(revision) for window, revision in front.query(sql)}


@pytest.mark.parametrize(
    "case",
    [
        (
            "ALTER TABLE streamgauge.scores_raw DROP COLUMN reasons",
            "ALTER TABLE streamgauge.scores_raw ADD COLUMN reasons Array(String) DEFAULT [] AFTER feature_set",
            "Table scores_raw of ClickHouse at http://127.0.0.1:{port} is not as this release writes it",
        ),
        (
            "RENAME TABLE streamgauge.scores_raw TO streamgauge.elsewhere",
            "RENAME TABLE streamgauge.elsewhere TO streamgauge.scores_raw",
            "has no table scores_raw",
        ),
        ("refuse", "", "the user lacks a grant: gauge: Not enough privileges"),
    ],
    ids=["column", "table", "grant"],
)
async def test_what_nobody_but_a_person_can_mend_ends_the_monitor_with_advice_and_nothing_is_lost(
    kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront, case: tuple[str, str, str]
) -> None:
    spoil, mend, sentence = case
    bench = Bench(kafka, tmp_path, front.url)
    await bench.prepare()
    await bench.produce(0, 0.5)
    async with watching(bench, front.url) as (monitor, running):
        await until_written(bench, front, 0.5)
        if spoil == "refuse":
            words = "gauge: Not enough privileges. To execute this query, it's necessary to have INSERT ON scores"
            front.harm(Faults(error=1.0, errors=[(497, 403, words)]))
        else:
            front.query(spoil)
        await bench.produce(0.5, 1)
        assert await asyncio.wait_for(running, 60) == EXIT_CONFIG
        assert sentence.format(port=front.port) in monitor.failure
    front.harm()
    if mend:
        front.query(mend)
    async with watching(bench, front.url):
        await until_written(bench, front)
    check(bench, front)


async def test_a_user_who_may_only_read_is_told_so(kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront) -> None:
    bench = Bench(kafka, tmp_path, front.url)
    await bench.prepare()
    owner = ClickHouseWarehouse(front.url)
    owner.migrate()
    owner.close()
    async with watching(bench, front.url_of(READER)) as (monitor, running):
        assert await asyncio.wait_for(running, 60) == EXIT_CONFIG
        assert "lets this user only read" in monitor.failure


async def test_who_is_fenced_ends_worth_starting_again_and_changes_nothing_more(
    kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront
) -> None:
    """As after a long pause of the process: the other has claimed the next term meanwhile."""
    bench = Bench(kafka, tmp_path, front.url)
    await bench.prepare()
    await bench.produce(0, 0.5)
    async with watching(bench, front.url) as (monitor, running):
        await until_written(bench, front, 0.5)
        name = bench.pipeline.name
        front.query(f"INSERT INTO streamgauge.monitor_terms VALUES ('{name}', 1000, 'another', now64(3))")
        await bench.produce(0.5, 1)
        assert await asyncio.wait_for(running, 60) == EXIT_RETRY
        assert "has taken over (term 1000" in monitor.failure
    warehouse = ClickHouseWarehouse(front.url)
    scores = len(rows_of(warehouse, "scores"))
    warehouse.close()
    assert scores == 500
    async with watching(bench, front.url):
        await until_written(bench, front)
    check(bench, front)


async def test_a_block_that_is_in_but_in_no_checkpoint_is_stored_once(
    kafka: KafkaAccess, tmp_path: Path, front: ClickHouseFront
) -> None:
    """The one that wrote it died; its successor finds more records than there were, and cuts the block as it was."""
    bench = Bench(kafka, tmp_path, front.url)
    bench.sketches = [[], []]  # findings would be saved at once
    await bench.prepare()
    await bench.produce(0, 0.4)
    front.query("SYSTEM STOP MERGES")
    async with watching(bench, front.url, replace(QUICK, checkpoint=600)) as (monitor, running):
        await until_written(bench, front, 0.4)
        monitor.fail("as if it were killed", EXIT_RETRY)
        await running
    await bench.produce(0.4, 1)
    async with watching(bench, front.url):
        await until_written(bench, front, 0.999)
    stored = "SELECT count(), uniqExact(partition, offset) FROM streamgauge.scores_raw"
    ((rows, keys),) = front.query(stored)
    assert (int(rows), int(keys)) == (1_000, 1_000)
