"""Creates a pipeline's topics, and refuses topics that exist with other settings.

A topic must be there before an app starts: Faust consumes nothing from a topic that comes later.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from app.adapters.kafka.clients import new_admin
from app.exits import StackError, TopicMismatchError
from app.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.topics import Topic

LEADER_DEADLINE_S = 30.0
#: How much the additional headers of a copy may add to the size of its batch.
_COPY_MARGIN_BYTES = 64 << 10
REQUEST_TIMEOUT_MS = 15_000


@dataclass(frozen=True)
class ExistingTopic:
    """What a server says about a topic."""

    name: str
    partitions: int
    has_leaders: bool
    cleanup_policy: str


async def ensure_topics(kafka: KafkaAccess, topics: Sequence[Topic], replication: int | None = 1) -> list[str]:
    """Create the topics that are missing, check the others, and wait until all have leaders.

    Parameters
    ----------
    kafka
        Where they are to be.
    topics
        Names must differ.
    replication
        Copies of each partition of a new topic; None: one on each broker, up to three.

    Returns
    -------
    The names of the topics created, in the order given, without those that another process created meanwhile.

    Raises
    ------
    StackError
        When no server answers, a topic cannot be created or has no leader in time, or an existing one has another
        number of partitions or cleanup.policy. An existing topic is never changed: keys would change partitions.
    """
    admin = new_admin(kafka, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        existing = await _describe(admin, [topic.name for topic in topics])
        _check(kafka, topics, existing)
        missing = [await _keep_alike(admin, topic, existing) for topic in topics if topic.name not in existing]
        if replication is None:
            replication = min(3, len((await admin.describe_cluster())["brokers"]))
        created = await _create(admin, missing, replication) if missing else []
        _check(kafka, topics, await _wait_for_leaders(admin, topics))
    except KafkaError as error:
        raise StackError(
            f"Kafka at {kafka} does not answer as it should ({error!r:.200}): "
            "check that it runs and STREAMGAUGE_KAFKA names it."
        ) from error
    finally:
        await admin.close()
    return created


async def describe_topics(kafka: KafkaAccess, names: Sequence[str]) -> dict[str, ExistingTopic]:
    """What a server says about the topics of ``names`` that exist; StackError when it does not answer."""
    admin = new_admin(kafka, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await admin.start()
        return await _describe(admin, names)
    except KafkaError as error:
        raise StackError(
            f"Kafka at {kafka} does not answer as it should ({error!r:.200}): check that it runs."
        ) from error
    finally:
        await admin.close()


async def _keep_alike(admin: Any, topic: Topic, existing: dict[str, ExistingTopic]) -> Topic:
    """How to create a topic of copies: it keeps its records as long as the topic of the originals does."""
    if topic.kept_as not in existing:  # then we create both, with the same settings
        return topic
    names = {"retention.ms": "", "retention.bytes": "", "max.message.bytes": ""}
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic.kept_as, names)]
    settings = {
        name: value
        for response in await admin.describe_configs(asked)
        for code, _message, _type, _name, entries in response.resources
        if not code  # the server may not let us read the settings
        for name, value, *_ in entries
        if value is not None
    }
    if "max.message.bytes" in settings:
        least = int(topic.config.get("max.message.bytes", 0))
        settings["max.message.bytes"] = str(max(least, int(settings["max.message.bytes"]) + _COPY_MARGIN_BYTES))
    return replace(topic, config={**topic.config, **settings})


async def _create(admin: Any, missing: Sequence[Topic], replication: int) -> list[str]:
    new = [NewTopic(topic.name, topic.partitions, replication, topic_configs=topic.config) for topic in missing]
    response = await admin.create_topics(new)
    created = []
    for name, code, *message in response.topic_errors:
        if not code:
            created.append(name)
        elif for_code(code) is not TopicAlreadyExistsError:  # then another process was faster
            reason = next((text for text in message if text), for_code(code).__name__)
            raise StackError(f"Kafka refused to create the topic {name}: {reason}")
    return [topic.name for topic in missing if topic.name in created]


async def _describe(admin: Any, names: Sequence[str]) -> dict[str, ExistingTopic]:
    """The topics of ``names`` that exist. Asks for all topics: naming one may make a server create it."""
    topics = {topic["topic"]: topic for topic in await admin.describe_topics() if topic["topic"] in set(names)}
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, {"cleanup.policy": ""}) for name in topics]
    policies = {
        name: entries[0][1]
        for response in await admin.describe_configs(resources)
        for code, _message, _type, name, entries in response.resources
        if not code and entries
    }
    return {
        name: ExistingTopic(
            name,
            partitions=len(topic["partitions"]),
            has_leaders=all(not p["error_code"] and p["leader"] >= 0 for p in topic["partitions"]),
            cleanup_policy=policies.get(name, ""),
        )
        for name, topic in topics.items()
    }


def _check(kafka: KafkaAccess, topics: Sequence[Topic], existing: dict[str, ExistingTopic]) -> None:
    for topic in topics:
        there = existing.get(topic.name)
        if there is None:
            continue
        if there.partitions != topic.partitions:
            raise TopicMismatchError(
                f"The topic {topic.name} at {kafka} has {there.partitions} partitions but the pipeline says "
                f"{topic.partitions}: set partitions = {there.partitions} in the pipeline file, "
                "or delete the pipeline's topics and their data."
            )
        wanted = topic.config.get("cleanup.policy", "delete")
        # An empty policy: the server does not let us read it.
        if there.cleanup_policy and set(there.cleanup_policy.split(",")) != set(wanted.split(",")):
            raise TopicMismatchError(
                f"The topic {topic.name} at {kafka} has cleanup.policy={there.cleanup_policy} but needs {wanted}: "
                f"alter the topic's setting, or delete the topic and its data."
            )


async def _wait_for_leaders(admin: Any, topics: Sequence[Topic]) -> dict[str, ExistingTopic]:
    until = time.monotonic() + LEADER_DEADLINE_S
    names = [topic.name for topic in topics]
    while True:
        existing = await _describe(admin, names)
        late = [name for name in names if name not in existing or not existing[name].has_leaders]
        if not late:
            return existing
        if time.monotonic() > until:
            raise StackError(
                f"The topic {late[0]} has no leader after {LEADER_DEADLINE_S:.0f} s: look at the log of the brokers."
            )
        await asyncio.sleep(0.1)
