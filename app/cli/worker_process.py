"""The process of a worker, from its settings to its exit code."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from app.adapters.http.worker import WorkerHttp
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.sources.features import compile_features
from app.adapters.stack.log_limit import start_logging
from app.adapters.stack.run_file import find_kafka
from app.cli.http_options import HttpPlace
from app.exits import EXIT_CONFIG, StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from app.worker.model_shelf import ModelShelf
from app.worker.worker import Membership, Worker, wall_clock_ms
from models.versions.trial import Trial
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline, PipelineError
from schemas.struct_types import build_struct_types

#: How long a thread keeps Python's lock while another wants it. A batch passes between Faust's consumer thread and the
#: flow several times; at Python's 5 ms a turn, each pass cost as much as scoring it.
THREAD_TURN_S = 0.0005


def run(
    name: str, place: HttpPlace, membership: Membership, trial: Trial, *, skip_removed: bool, begin_ms: int
) -> None:
    """Work until SIGTERM or a failure, and end this process.

    Parameters
    ----------
    name
        The pipeline: a name or a path.
    place
        Where to serve health and metrics.
    trial
        Tries the models; closed when those that are there at the start are loaded.
    """
    settings = Settings.read()
    build_struct_types()
    start_logging(settings.log_level)
    try:
        pipeline = load(name)
        kafka = find_kafka(settings.kafka, settings.home)
    except (PipelineError, StackError) as error:
        raise click.ClickException(str(error)) from error
    with threadpool_limits(1):
        work = _work(
            pipeline,
            kafka,
            place,
            membership,
            trial,
            skip_removed=skip_removed,
            begin_ms=begin_ms,
            rows_folder=settings.home / "state" / pipeline.name if pipeline.state.store == "disk" else None,
        )
        code, why = asyncio.run(work)
    if why:
        click.echo(f"Error: {why}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Faust's consumer thread may outlive a failed connection; everything of ours is closed by now


async def _work(
    pipeline: Pipeline,
    kafka: KafkaAccess,
    place: HttpPlace,
    membership: Membership,
    trial: Trial,
    *,
    skip_removed: bool,
    begin_ms: int,
    rows_folder: Path | None,
) -> tuple[int, str]:
    try:
        await ensure_topics(kafka, pipeline.topics.all(), replication=None)
    except StackError as error:
        return error.exit_code, str(error)
    plan = compile_features(pipeline)
    shelf = ModelShelf(pipeline, kafka, f"worker@{socket.gethostname()}-{os.getpid()}", wall_clock_ms, trial)
    worker = Worker(
        pipeline,
        plan,
        kafka,
        shelf,
        membership=membership,
        skip_removed=skip_removed,
        begin_ms=begin_ms,
        rows_folder=rows_folder,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    http = WorkerHttp(worker.health, worker.samples, place.allowed_hosts)
    try:
        address = await http.start(place.host, place.port, or_free=place.or_free)
    except OSError as error:
        return EXIT_CONFIG, place.explain(error)
    click.echo(json.dumps({"ready": True, "http": address}))
    sys.stdout.flush()
    _relieve_collector()
    sys.setswitchinterval(THREAD_TURN_S)
    try:
        return await worker.run(), worker.failure
    finally:
        await http.stop()


def _relieve_collector() -> None:
    """Have Python's cycle collector look seldom, and never at what start-up made.

    A fetch makes tens of thousands of objects that live until their commit and are in no cycle; with the default
    thresholds, looking through them and through all imported libraries again and again took a third of the CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    gc.enable()
