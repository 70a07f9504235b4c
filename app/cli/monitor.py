"""``streamgauge monitor``: watch the scores of a pipeline until told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import click
from threadpoolctl import threadpool_limits

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.clickhouse.warehouse import ClickHouseWarehouse
from app.adapters.http.monitor import MonitorHttp
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.log_limit import start_logging
from app.adapters.stack.run_file import find_kafka
from app.cli.http_options import HttpPlace, http_options
from app.exits import EXIT_CONFIG, StackError
from app.kafka_access import KafkaAccess
from app.monitor.monitor import Monitor, sources
from app.ports import WarehouseError
from app.settings import Settings
from app.worker.worker import wall_clock_ms
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline, PipelineError
from schemas.struct_types import build_struct_types

#: A monitor that was killed lets go of the embedded engine only when its process is gone.
WAREHOUSE_DEADLINE_S = 30.0
#: How long a thread keeps Python's lock while the event loop wants it: the page answers while many ask ClickHouse.
THREAD_TURN_S = 0.0005


@click.command("monitor", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="The pipeline to watch."
)
@http_options("the page and the API")
def command(
    *, name: str, http_host: str, http_port: int, former_http_port: int, allowed_hosts: tuple[str, ...]
) -> None:
    """Bring scores into ClickHouse, close windows, test for drift, raise alerts; until SIGTERM or Ctrl-C.

    Several may run: one works, the others stand by. Exit codes: 0 stopped, 1 could not start, 2 wrong usage, 75 failed
    and worth starting again, 78 failed and a person must mend it first.
    """
    settings = Settings.read()
    build_struct_types()
    start_logging(settings.log_level)
    try:
        pipeline = load(name)
        kafka = find_kafka(settings.kafka, settings.home)
    except (PipelineError, StackError) as error:
        raise click.ClickException(str(error)) from error
    url = settings.clickhouse
    warehouse = ClickHouseWarehouse(url) if url else ClickHouseWarehouse(path=settings.home / "clickhouse")
    with threadpool_limits(1):
        place = HttpPlace.choose(http_host, http_port, former_http_port, allowed_hosts)
        code, why = asyncio.run(_watch(pipeline, kafka, warehouse, place))
    if why:
        click.echo(f"Error: {why}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of Faust and of the driver may outlive a failed connection; all of ours is closed by now


async def _watch(
    pipeline: Pipeline, kafka: KafkaAccess, engine: ClickHouseWarehouse, place: HttpPlace
) -> tuple[int, str]:
    warehouse = WarehouseThread(engine)
    try:
        await ensure_topics(kafka, pipeline.topics.all(), replication=None)
        await warehouse.open(WAREHOUSE_DEADLINE_S)
    except (WarehouseError, StackError) as error:
        return error.exit_code, str(error)
    monitor = Monitor(pipeline, kafka, warehouse, wall_clock_ms)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, monitor.stop)
    http = MonitorHttp(sources(monitor), warehouse, engine, place.allowed_hosts)
    try:
        try:
            address = await http.start(place.host, place.port, or_free=place.or_free)
        except OSError as error:
            return EXIT_CONFIG, place.explain(error)
        click.echo(json.dumps({"ready": True, "http": address}))
        sys.stdout.flush()
        sys.setswitchinterval(THREAD_TURN_S)
        return await monitor.run(), monitor.failure
    finally:
        await http.stop()
        await warehouse.close()
