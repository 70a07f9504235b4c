"""Where each hook goes and what it signs with, as the environment says now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from app.adapters.kafka.topics_admin import describe_topics
from app.core.hooks.signature import SecretError, read_secret
from app.exits import HookSetupError
from app.kafka_access import KafkaAccess
from app.secret import Secret
from app.settings import read_named
from schemas.pipeline.destinations import refuse_url
from schemas.pipeline.spec import Hook, Pipeline


@dataclass(frozen=True)
class Target:
    """Of one hook over HTTP. ``url`` may hold a secret, as Slack's do."""

    url: Secret
    keys: tuple[bytes, ...] = ()

    @property
    def digest(self) -> str:
        """By which it is known whether a hook goes where it went before."""
        return hashlib.sha256(self.url.reveal().encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Target({self.digest[:8]})"


@dataclass(frozen=True)
class Outward:
    """Where hooks go: targets of those over HTTP, by name; how many partitions the topics of those to Kafka have."""

    targets: Mapping[str, Target]
    partitions: Mapping[str, int]


def read_targets(pipeline: Pipeline, environment: Mapping[str, str] | None = None) -> dict[str, Target]:
    """The target of each hook over HTTP; HookSetupError when the environment lacks what the file names."""
    return {hook.name: _read_target(pipeline, hook, environment) for hook in pipeline.hooks if hook.form != "kafka"}


async def count_partitions(pipeline: Pipeline, kafka: KafkaAccess) -> dict[str, int]:
    """How many partitions the topics of hooks to Kafka have; HookSetupError when one does not exist."""
    names = {hook.topic: hook.name for hook in pipeline.hooks if hook.form == "kafka"}
    found = await describe_topics(kafka, list(names)) if names else {}
    for topic, name in names.items():
        if topic not in found:
            raise HookSetupError(
                f"{pipeline.path}: hooks.{name}.topic: there is no topic {topic} at {kafka}; create it, with as many"
                " partitions as its readers want."
            )
    return {topic: found[topic].partitions for topic in names}


def _read_target(pipeline: Pipeline, hook: Hook, environment: Mapping[str, str] | None) -> Target:
    place = f"{pipeline.path}: hooks.{hook.name}"
    named = read_named([*hook.secrets, *([hook.url_from] if hook.url_from else [])], environment)
    url = Secret(hook.url) if hook.url else named.get(hook.url_from)
    if url is None:
        raise HookSetupError(f"{place}: the environment variable {hook.url_from} is not set; set it to the URL.")
    if why := refuse_url(pipeline.destinations, url.reveal()):
        raise HookSetupError(f"{place}.{'url' if hook.url else 'url_from'}: {why}.")
    keys = []
    for name in hook.secrets:
        if name in named:
            try:
                keys.append(read_secret(named[name].reveal()))
            except SecretError as error:
                raise HookSetupError(f"{place}: the environment variable {name} {error}.") from None
    if hook.form == "webhook" and not keys:
        raise HookSetupError(
            f"{place}: none of the environment variables {', '.join(hook.secrets)} is set; set one to the secret by"
            " which the receiver verifies (whsec_ and base64)."
        )
    return Target(url, tuple(keys))
