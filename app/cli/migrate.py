"""``streamgauge migrate``: the ClickHouse tables and the topics, created or brought up to date."""

from __future__ import annotations

from pathlib import Path

import click

from app.adapters.clickhouse.warehouse import ClickHouseWarehouse, lock_holder
from app.adapters.stack.run_file import find_kafka
from app.exits import StackError
from app.ports import WarehouseError
from app.secret import Secret
from app.settings import Settings
from schemas.pipeline.spec import PipelineError


@click.command("migrate", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pipeline", help="Name or path of a pipeline whose topics to create as well.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Home of the stack.  [default: STREAMGAUGE_HOME or .streamgauge]"
)
def command(pipeline: str | None, home: Path | None) -> None:
    """Create or update the ClickHouse tables and, with --pipeline, the topics. Running it again changes nothing."""
    settings = Settings.read()
    root = (home or settings.home).expanduser().absolute()
    try:
        _migrate_tables(settings.clickhouse, root)
        if pipeline is not None:
            _create_topics(pipeline, settings.kafka, root)
    except (WarehouseError, PipelineError, StackError) as error:
        raise click.ClickException(str(error)) from error


def _migrate_tables(url: Secret, home: Path) -> None:
    path = home / "clickhouse"
    if not url and (holder := lock_holder(path)) is not None:
        click.echo(f"ClickHouse: {path} is held by {holder}; a monitor migrates its tables when it starts.")
        return
    warehouse = ClickHouseWarehouse(url) if url else ClickHouseWarehouse(path=path)
    try:
        warehouse.wait_ready(10)
        applied = warehouse.migrate()
    finally:
        warehouse.close()
    change = f"applied {', '.join(applied)}" if applied else "up to date"
    click.echo(f"ClickHouse at {warehouse.where}: {change}.")


def _create_topics(name: str, servers: str, home: Path) -> None:
    from app.adapters.kafka.answers import run_with_kafka  # noqa: PLC0415  # aiokafka, only with --pipeline
    from app.adapters.kafka.topics_admin import ensure_topics  # noqa: PLC0415  # aiokafka, only with --pipeline
    from schemas.pipeline.file import load  # noqa: PLC0415  # only with --pipeline

    topics = load(name).topics.all()
    kafka = find_kafka(servers, home)
    created = run_with_kafka(kafka, ensure_topics(kafka, topics))
    change = f"created {', '.join(created)}" if created else "topics up to date"
    click.echo(f"Kafka at {kafka}: {change}.")
