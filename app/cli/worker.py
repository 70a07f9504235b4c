"""``streamgauge worker``: score the events of a pipeline until told to stop."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from app.adapters.log_limit import start_logging
from app.adapters.model_feed import ModelShelf
from app.adapters.run_file import find_kafka
from app.adapters.stack_error import StackError
from app.adapters.topics_admin import ensure_topics
from app.adapters.worker_http import WorkerHttp
from app.bootstrap import compile_features, process_name
from app.settings import Settings
from app.worker import Membership, Worker, wall_clock_ms
from schemas.pipeline import Pipeline, PipelineError
from schemas.pipeline_file import load

#: How long a thread keeps Python's lock while another wants it. A batch passes between Faust's consumer thread and the
#: flow several times; at Python's 5 ms a turn, each pass cost as much as scoring it.
THREAD_TURN_S = 0.0005


@click.command()
@click.option(
    "--pipeline", "name", default="flights", show_default=True, metavar="NAME|PATH", help="The pipeline to score."
)
@click.option(
    "--http-host", default="127.0.0.1", show_default=True, help="Where /healthz, /readyz and /metrics listen."
)
@click.option("--http-port", type=click.IntRange(0, 65535), default=0, help="Their port; 0 (default): a free one.")
@click.option(
    "--instance",
    metavar="NAME",
    help="A name that this worker keeps when it is started again, unlike any other's: started again within the session "
    "timeout, it has its partitions back and no other worker pauses.",
)
@click.option(
    "--session-timeout",
    "session_s",
    type=click.FloatRange(6, 300),
    default=6,
    show_default=True,
    help="Seconds after which a silent worker's partitions are given to others.",
)
@click.option(
    "--skip-removed",
    is_flag=True,
    help="Go on although retention has removed events before they were scored; without it the worker refuses.",
)
def command(
    *, name: str, http_host: str, http_port: int, instance: str | None, session_s: float, skip_removed: bool
) -> None:
    """Score the events of a pipeline until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped, 2 wrong usage, 75 failed and worth starting again, 78 failed and a person must mend it first.
    """
    settings = Settings.read()
    start_logging(settings.log_level)
    try:
        pipeline = load(name)
        bootstrap = find_kafka(settings.kafka, settings.home)
    except (PipelineError, StackError) as error:
        raise click.ClickException(str(error)) from error
    with threadpool_limits(1):
        membership = Membership(instance, session_s)
        work = _work(
            pipeline,
            bootstrap,
            (http_host, http_port),
            membership,
            skip_removed=skip_removed,
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
    bootstrap: str,
    http_at: tuple[str, int],
    membership: Membership,
    *,
    skip_removed: bool,
    rows_folder: Path | None,
) -> tuple[int, str]:
    try:
        await ensure_topics(bootstrap, pipeline.topics.all(), replication=None)
    except StackError as error:
        return error.exit_code, str(error)
    plan = compile_features(pipeline)
    shelf = ModelShelf(pipeline, bootstrap, process_name("worker"), wall_clock_ms)
    worker = Worker(
        pipeline, plan, bootstrap, shelf, membership=membership, skip_removed=skip_removed, rows_folder=rows_folder
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    http = WorkerHttp(worker.health, worker.metrics)
    address = await http.start(*http_at)
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
