"""Starts a worker: puts its parts together, and runs it to its exit code."""

from __future__ import annotations

import gc
import os
import socket
from pathlib import Path
from typing import NoReturn

from app.adapters.http.forwarding import Forwarding
from app.adapters.http.place import HttpPlace
from app.adapters.http.worker import WorkerHttp
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.sources.features import compile_features
from app.clock import wall_clock_ms
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.process import Ending, live, run_process
from app.serving.hook import ScoringHook
from app.settings import Settings
from app.worker.input_offsets import Beginning
from app.worker.model_shelf import ModelShelf
from app.worker.worker import Membership, Worker
from models.versions.trial import Trial
from schemas.pipeline.spec import Pipeline


def run(name: str, place: HttpPlace, membership: Membership, trial: Trial, beginning: Beginning) -> NoReturn:
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

    async def start(pipeline: Pipeline, kafka: KafkaAccess) -> Ending:
        rows = settings.home / "state" / pipeline.name if pipeline.state.store == "disk" else None
        return await work(pipeline, kafka, place, membership, trial, beginning=beginning, rows_folder=rows)

    run_process(name, settings, start)


async def work(
    pipeline: Pipeline,
    kafka: KafkaAccess,
    place: HttpPlace,
    membership: Membership,
    trial: Trial,
    *,
    beginning: Beginning,
    rows_folder: Path | None,
) -> Ending:
    """Put a worker together and run it; see `run`."""
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
        beginning=beginning,
        rows_folder=rows_folder,
    )
    forward = Forwarding()
    can_preview = not plan.shared.repartitioned()
    scoring = ScoringHook(pipeline, worker.places, forward, wall_clock_ms, can_preview=can_preview)
    http = WorkerHttp(worker.health, worker.samples, scoring, place.allowed_hosts)

    def when_ready(address: str) -> None:
        worker.places.serve_at(place.url(address))
        _relieve_collector()

    try:
        return await live(worker, http, place, when_ready)
    finally:
        await forward.close()


def _relieve_collector() -> None:
    """Have Python's cycle collector look seldom, and never at what start-up made.

    A fetch makes tens of thousands of objects that live until their commit and are in no cycle. With the default
    thresholds, looking through them and through all imported libraries took a third of the CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    gc.enable()
