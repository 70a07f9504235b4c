"""The life of a process of a stack, from its settings to its exit code: what a worker and a monitor have in common."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, Protocol

import click
from threadpoolctl import threadpool_limits

from app.adapters.http.place import HttpPlace
from app.adapters.stack.log_limit import start_logging
from app.adapters.stack.run_file import find_kafka
from app.exits import EXIT_CONFIG, StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline, PipelineError
from schemas.struct_types import build_struct_types

#: How long a thread keeps Python's lock while another wants it. In a worker, a batch passes between Faust's consumer
#: thread and the flow several times; at Python's 5 ms a turn, each pass cost as much as scoring it. In a monitor, the
#: page answers while many ask ClickHouse.
THREAD_TURN_S = 0.0005

#: An exit code, and why in one sentence ("": as it was told to).
Ending = tuple[int, str]


class Runner(Protocol):
    """What a process runs."""

    @property
    def failure(self) -> str:
        """Why it ended by itself."""

    def stop(self) -> None:
        """End; `run` returns soon."""

    async def run(self) -> int:
        """Work until stopped or failed; the exit code."""


class Served(Protocol):
    """What a process serves by HTTP."""

    async def start(self, host: str, port: int, *, or_free: bool = False) -> str:
        """Listen; the address."""

    async def stop(self) -> None:
        """Listen no longer."""


def run_process(
    name: str, settings: Settings, work: Callable[[Pipeline, KafkaAccess], Coroutine[Any, Any, Ending]]
) -> NoReturn:
    """Do the work of a pipeline (a name or a path) until it ends, and end this process."""
    build_struct_types()
    start_logging(settings.log_level)
    try:
        pipeline = load(name)
        kafka = find_kafka(settings.kafka, settings.home)
    except (PipelineError, StackError) as error:
        raise click.ClickException(str(error)) from error
    with threadpool_limits(1):
        code, why = asyncio.run(work(pipeline, kafka))
    if why:
        click.echo(f"Error: {why}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of Faust and of a driver may outlive a failed connection; everything of ours is closed by now.
    os._exit(code)


async def live(
    runner: Runner, served: Served, place: HttpPlace, when_ready: Callable[[str], None] = lambda _: None
) -> Ending:
    """Serve and run until SIGTERM, Ctrl-C or a failure; a line of JSON and ``when_ready`` hear where it is served."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.stop)
    try:
        try:
            address = await served.start(place.host, place.port, or_free=place.or_free)
        except OSError as error:
            return EXIT_CONFIG, place.explain(error)
        click.echo(json.dumps({"ready": True, "http": address}))
        sys.stdout.flush()
        when_ready(address)
        sys.setswitchinterval(THREAD_TURN_S)
        return await runner.run(), runner.failure
    finally:
        await served.stop()
