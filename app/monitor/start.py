"""Starts a monitor: puts its parts together, and runs it to its exit code."""

from __future__ import annotations

from typing import NoReturn

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.http.monitor import MonitorHttp
from app.adapters.http.place import HttpPlace
from app.adapters.kafka.topics_admin import ensure_topics
from app.clock import wall_clock_ms
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.monitor.monitor import Monitor
from app.monitor.status import sources
from app.ports import WarehouseError
from app.process import Ending, live, run_process
from app.settings import Settings
from schemas.pipeline.spec import Pipeline

#: A monitor that was killed lets go of the embedded engine only when its process is gone.
WAREHOUSE_DEADLINE_S = 30.0


def run(name: str, place: HttpPlace) -> NoReturn:
    """Watch a pipeline (a name or a path) until SIGTERM or a failure, and end this process.

    ``place``: where to serve the page and the API.
    """
    settings = Settings.read()

    async def start(pipeline: Pipeline, kafka: KafkaAccess) -> Ending:
        url = settings.clickhouse
        engine = ClickHouseWarehouse(url) if url else ClickHouseWarehouse(path=settings.home / "clickhouse")
        return await watch(pipeline, kafka, engine, place)

    run_process(name, settings, start)


async def watch(pipeline: Pipeline, kafka: KafkaAccess, engine: ClickHouseWarehouse, place: HttpPlace) -> Ending:
    """Put a monitor together and run it; see `run`."""
    warehouse = WarehouseThread(engine)
    try:
        await ensure_topics(kafka, pipeline.topics.all(), replication=None)
        await warehouse.open(WAREHOUSE_DEADLINE_S)
    except (WarehouseError, StackError) as error:
        return error.exit_code, str(error)
    monitor = Monitor(pipeline, kafka, warehouse, wall_clock_ms)
    http = MonitorHttp(sources(monitor), warehouse, engine, place.allowed_hosts)
    try:
        return await live(monitor, http, place)
    finally:
        await warehouse.close()
