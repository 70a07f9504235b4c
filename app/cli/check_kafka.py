"""What ``streamgauge check`` looks at in Kafka: topics, keys of the newest records, the champion."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.model_announcer import read_timeline
from app.adapters.kafka.topic_sample import read_sample
from app.adapters.kafka.topics_admin import describe_topics
from app.adapters.stack.run_file import find_kafka
from app.cli.check_finding import ANSWER_S, Finding, find_out
from app.cli.model_context import ModelContext
from app.core.entities.key_sample import Sample, describe_keys, describe_strays
from app.exits import StackError
from app.kafka_access import KafkaAccess
from models.versions.registry import RegistryError, resolve
from schemas.pipeline.spec import Pipeline

#: How long reading a sample of the topics may take.
SAMPLE_S = 60.0


def check_kafka(context: ModelContext) -> Iterator[Finding]:
    """Whether Kafka answers, its topics are as they should be, and a champion can score what is on them."""
    pipeline, settings = context.pipeline, context.settings
    try:
        kafka = find_kafka(settings.kafka, context.home)
    except StackError as error:
        yield Finding("kafka", "skipped", str(error))
        return
    names = [topic.name for topic in pipeline.topics.all()]
    try:
        existing = asyncio.run(asyncio.wait_for(describe_topics(kafka, names), 3 * ANSWER_S))
    except (StackError, TimeoutError) as error:
        yield Finding("kafka", "problem", str(error) or f"Kafka at {kafka} does not answer: check that it runs.")
        return
    yield Finding("kafka", "ok", f"{kafka} answers")
    wanted = {topic.name: topic for topic in pipeline.topics.all()}
    missing = [name for name in names if name not in existing]
    wrong = [
        f"{name} has {topic.partitions} partitions, not {wanted[name].partitions}"
        for name, topic in existing.items()
        if topic.partitions != wanted[name].partitions
    ]
    if missing or wrong:
        fix = (
            f"run `streamgauge migrate --pipeline {pipeline.name}`"
            if missing and not wrong
            else ("set `partitions` in the pipeline file to what the topics have, or delete them and their data")
        )
        lacking = [f"missing: {', '.join(missing)}"] if missing else []
        yield Finding("topics", "problem", f"{'; '.join([*wrong, *lacking])}: {fix}.")
    else:
        yield Finding("topics", "ok", f"{len(names)} topics as they should be")
    topics = pipeline.topics
    events, labels = existing.get(topics.sent_events), existing.get(topics.sent_labels)
    if pipeline.labels is not None and events is not None and labels is not None:
        alike = events.partitions == labels.partitions
        yield Finding(
            "events and labels",
            "ok" if alike else "problem",
            f"{events.partitions} and {labels.partitions} partitions"
            + ("" if alike else ": a label would miss its event; give both topics as many."),
        )
        if alike and pipeline.keeps_by_entity:
            yield from _check_keys(pipeline, kafka)
    elif pipeline.labels is None and events is not None and pipeline.keeps_by_entity:
        yield from _check_keys(pipeline, kafka)
    if pipeline.topics.model_updates in existing:
        yield find_out("champion", lambda: _check_champion(context, kafka))


def _check_keys(pipeline: Pipeline, kafka: KafkaAccess) -> Iterator[Finding]:
    """Whether the newest records keep each entity, and the labels of its events, in its partition."""
    try:
        sample = asyncio.run(asyncio.wait_for(read_sample(kafka, pipeline), SAMPLE_S))
    except (StackError, TimeoutError) as error:
        yield Finding(
            "keys", "problem", str(error) or f"{pipeline.topics.sent_events} could not be read: check its brokers."
        )
        return
    if sample.events:
        yield _judge_events(pipeline, sample)
    if pipeline.events.repartition and (sample.labels or sample.nameless_labels):
        yield _judge_names(pipeline, sample)
    elif sample.labels:
        yield _judge_labels(pipeline, sample)


def _judge_events(pipeline: Pipeline, sample: Sample) -> Finding:
    strays = sample.strays()
    keys = describe_keys(sample.events, sample.partitions)
    seen = f"{len(sample.events)} of the newest events, {sample.n_entities} entities"
    if not strays:
        return Finding("keys", "ok", f"{seen}, each in one partition; {keys}")
    if pipeline.events.repartition:
        return Finding(
            "keys",
            "ok",
            f"{seen}, in several partitions: {len(strays)} ({describe_strays(strays)}), which repartition = true in"
            f" [events] puts right; {keys}",
        )
    return Finding(
        "keys",
        "problem",
        f"{seen}, in several partitions, where windows and labels miss each other: {len(strays)}"
        f" ({describe_strays(strays)}); {keys}. Key events by {pipeline.events.entity}, with one partitioner in all"
        " producers; or, before anything is scored, say repartition = true in [events].",
    )


def _judge_names(pipeline: Pipeline, sample: Sample) -> Finding:
    """Whether labels name the entities of their events: the entity decides which partition they are copied to."""
    entity = pipeline.events.entity
    misnamed, known, first = sample.misname_labels()
    seen = f"{len(sample.labels) + sample.nameless_labels} of the newest labels"
    fix = f"Have the value of a label hold {entity}, or its key be that of its event."
    if sample.nameless_labels:
        return Finding(
            "label keys",
            "problem",
            f"{seen}: {sample.nameless_labels} name no {entity}, without which repartition = true does not know where"
            f" their events are: they become dead letters (no_entity). {fix}",
        )
    if first is not None:
        return Finding(
            "label keys",
            "problem",
            f"{seen}, of {known} the events are known: {misnamed} name another {entity} than their event has (the first"
            f" is of {first.event_id}), and will not find it. {fix}",
        )
    return Finding("label keys", "ok", f"{seen}, of {known} the events are known, and they name its {entity}")


def _judge_labels(pipeline: Pipeline, sample: Sample) -> Finding:
    misplaced, placed, first = sample.place_labels()
    keys = describe_keys(sample.labels, sample.partitions)
    seen = f"{len(sample.labels)} of the newest labels, of {placed} it is known where their events are"
    if first is None:
        return Finding("label keys", "ok", f"{seen}, and they are there; {keys}")
    return Finding(
        "label keys",
        "problem",
        f"{seen}: {misplaced} lie in another partition and will not find them (the first, of {first.event_id}, in"
        f" partition {first.partition}); {keys}, of the events {describe_keys(sample.events, sample.partitions)}. Key"
        f" labels as their events, by {pipeline.events.entity}, with the same partitioner.",
    )


def _check_champion(context: ModelContext, kafka: KafkaAccess) -> str:
    pipeline = context.pipeline
    newest = run_with_kafka(kafka, read_timeline(kafka, pipeline.topics)).timeline.newest()
    if newest is None:
        raise RegistryError(
            f"No version of {pipeline.model.name} is champion, so nothing is scored: train one and promote it with"
            " `streamgauge model`."
        )
    if newest.feature_set != pipeline.feature_set:
        raise RegistryError(
            f"{newest.version} was trained for the features {newest.feature_set}, the pipeline file says"
            f" {pipeline.feature_set}: train a version for these features and promote it."
        )
    manifest, _ = resolve(newest.uri)  # its artifact too is there and whole
    return f"{newest.model} {newest.version} ({manifest.family}) has the pipeline's features"
