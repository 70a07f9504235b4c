"""Starts a sender of hooks: puts its parts together, and runs it to its exit code."""

from __future__ import annotations

from typing import NoReturn

from app.adapters.http.hooks import HooksHttp
from app.adapters.http.place import HttpPlace
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.webhooks.client import WebhookClient
from app.exits import HookSetupError, StackError
from app.hooks.context import Pace
from app.hooks.sender import HookSender
from app.hooks.starts import Beginning
from app.hooks.targets import Outward, count_partitions, read_targets
from app.kafka_access import KafkaAccess
from app.process import Ending, live, run_process
from app.settings import Settings
from schemas.pipeline.spec import Pipeline


def run(
    name: str,
    place: HttpPlace,
    beginning: Beginning,
    instance: str | None = None,
    *,
    pace: Pace = Pace(),  # noqa: B008  # frozen
) -> NoReturn:
    """Tell what a pipeline (a name or a path) publishes until SIGTERM or a failure, and end this process.

    ``place``: where to serve health and metrics. ``instance``: as in `HookSender`.
    """

    async def start(pipeline: Pipeline, kafka: KafkaAccess) -> Ending:
        return await send(pipeline, kafka, place, beginning, instance, pace=pace)

    run_process(name, Settings.read(), start)


async def send(
    pipeline: Pipeline,
    kafka: KafkaAccess,
    place: HttpPlace,
    beginning: Beginning,
    instance: str | None,
    *,
    pace: Pace,
) -> Ending:
    """Put a sender together and run it; see `run`."""
    try:
        if not pipeline.hooks:
            raise HookSetupError(f"{pipeline.path} has no hooks; add a table [[hooks]].")
        outward = Outward(read_targets(pipeline), await count_partitions(pipeline, kafka))
        await ensure_topics(kafka, pipeline.topics.all(), replication=None)
        async with WebhookClient(pipeline.destinations, pace.patience) as client:
            sender = HookSender(pipeline, kafka, client, outward, beginning=beginning, pace=pace, instance=instance)
            http = HooksHttp(sender.health, sender.samples, place.allowed_hosts)
            return await live(sender, http, place)
    except StackError as error:
        return error.exit_code, str(error)
