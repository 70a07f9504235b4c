"""``streamgauge check``: a pipeline file, what it names, and the servers, one line per check."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

import click
import numpy as np

from app.adapters.http.client import MonitorError, ask_monitor
from app.adapters.kafka.answers import run_with_kafka
from app.adapters.kafka.model_announcer import read_timeline
from app.adapters.kafka.topic_sample import read_sample
from app.adapters.kafka.topics_admin import describe_topics
from app.adapters.sources.lookup_files import load_lookups
from app.adapters.sources.python_features import load_functions
from app.adapters.sources.source import SourceError, cut_batches, read_source
from app.adapters.stack.run_file import find_kafka, read_run
from app.cli.model_context import ModelContext, emit, with_context
from app.core.entities.key_sample import Sample, describe_keys, describe_strays
from app.core.features.plan import FeaturePlan
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.ports import WarehouseError
from app.replay.offline import run
from app.secret import Secret
from models.versions.manifest import ManifestError
from models.versions.registry import RegistryError, resolve
from schemas.pipeline.file import SHIPPED
from schemas.pipeline.spec import Pipeline, PipelineError

#: Events of the source that the features are tried on.
SAMPLE_EVENTS = 2_000
#: How long a server has to answer.
ANSWER_S = 5.0
#: How long reading a sample of the topics may take.
SAMPLE_S = 60.0

#: Errors whose sentence says what to do.
EXPECTED = (
    PipelineError,
    SourceError,
    StackError,
    WarehouseError,
    MonitorError,
    RegistryError,
    ManifestError,
    OSError,
)

State = Literal["ok", "problem", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was found, and for a problem what to do about it."""

    check: str
    state: State
    detail: str


def _find(check: str, look: Callable[[], str]) -> Finding:
    """Run one check; it returns what it found or raises an expected error that says what to do."""
    try:
        return Finding(check, "ok", look())
    except EXPECTED as error:
        return Finding(check, "problem", " ".join(str(error).split()))


@click.command("check", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run-python",
    is_flag=True,
    help="Run the Python that the file names, and try the features on events of its source. A shipped file's is run "
    "without asking; of another one, read it first.",
)
@with_context
def command(*, run_python: bool, pipeline: str, home: str | None, as_json: bool) -> None:
    """Check a pipeline file, its data and features, and the servers and topics it works with.

    The Python that a file names is read; it is run only with --run-python.

    Exit codes: 0 all well, 1 a problem was found, 2 wrong usage. A server that is neither given nor running is skipped.
    """
    findings = list(_check(pipeline, home, run_python=run_python))
    problems = sum(finding.state == "problem" for finding in findings)
    words = {"ok": "ok      ", "problem": "PROBLEM ", "skipped": "skipped "}
    emit(
        {"pipeline": pipeline, "problems": problems, "checks": [asdict(finding) for finding in findings]},
        as_json,
        *(f"{words[finding.state]} {finding.check}: {finding.detail}" for finding in findings),
    )
    if problems:
        raise SystemExit(1)


def _check(name: str, home: str | None, *, run_python: bool) -> Iterator[Finding]:
    try:
        context = ModelContext.read(name, home)  # type: ignore[arg-type]  # click gives a Path
    except click.ClickException as error:
        yield Finding("pipeline file", "problem", error.message)
        return
    pipeline = context.pipeline
    yield Finding(
        "pipeline file",
        "ok",
        f"{pipeline.path} is valid: {len(pipeline.features)} features, feature set {pipeline.feature_set}",
    )
    yield _find("lookups", lambda: _describe_lookups(pipeline))
    if run_python or pipeline.path.parent == SHIPPED:
        yield _find("features", lambda: _try_features(pipeline))
    else:
        yield _find("features", lambda: _compile_features(pipeline))
    yield from _check_kafka(context)
    yield _check_clickhouse(context)
    if pipeline.labels is not None:
        yield _check_delays(context)


def _describe_lookups(pipeline: Pipeline) -> str:
    load_lookups(pipeline)
    return ", ".join(lookup.name for lookup in pipeline.lookups) + " can be read" if pipeline.lookups else "none"


def _compile_features(pipeline: Pipeline) -> str:
    """Compile the features, and run nothing that the file names: it may be somebody else's."""
    named = dict.fromkeys(feature.python for feature in pipeline.features if feature.python is not None)
    plan = FeaturePlan.compile(pipeline, load_lookups(pipeline), dict.fromkeys(named, _stand_in))
    said = f"{len(plan.names)} features compile"
    python = [*named, *([pipeline.source] if pipeline.source is not None else [])]
    if not python:
        return f"{said}; without a source they are not tried on events"
    return f"{said}; {', '.join(dict.fromkeys(python))} is there and was not run: read it, then say --run-python"


def _stand_in(*_: Any) -> NoReturn:
    raise AssertionError("nothing is computed here")


def _try_features(pipeline: Pipeline) -> str:
    plan = FeaturePlan.compile(pipeline, load_lookups(pipeline), load_functions(pipeline))
    if pipeline.source is None:
        return f"{len(plan.names)} features compile; without a source they are not tried on events"
    chunks = list(read_source(pipeline, None, None, SAMPLE_EVENTS))
    steps = list(run(pipeline, plan, cut_batches(chunks, pipeline), None))
    matrix = np.concatenate([np.zeros((0, len(plan.names))), *(step.matrix for step in steps)])
    letters = [letter for step in steps for letter in step.dead_letters]
    if letters:
        first = letters[0]
        raise PipelineError(
            f"{len(letters)} of the first {len(matrix) + len(letters)} records of the source are rejected, the first as"
            f" {first.reason} ({first.detail}); correct the source, [events.fields] or the feature."
        )
    if not len(matrix):
        raise SourceError(f"The source {pipeline.source} yields no events; correct it.")
    unseen = np.array([plan.category_sizes.get(name, np.inf) for name in plan.names]) - 1
    empty = [name for name, each in zip(plan.names, np.isnan(matrix).all(axis=0), strict=True) if each]
    strange = [name for name, each in zip(plan.names, (matrix == unseen).all(axis=0), strict=True) if each]
    said = f"{len(plan.names)} features of {len(matrix)} events of the source"
    said += f"; always missing: {', '.join(empty)}" if empty else "; none is always missing"
    return f"{said}; never one of its values: {', '.join(strange)}" if strange else said


def _check_kafka(context: ModelContext) -> Iterator[Finding]:
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
        f"{name} has {found.partitions} partitions, not {wanted[name].partitions}"
        for name, found in existing.items()
        if found.partitions != wanted[name].partitions
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
        yield _find("champion", lambda: _check_champion(context, kafka))


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
    said = f"{len(sample.events)} of the newest events, {sample.n_entities} entities"
    if not strays:
        return Finding("keys", "ok", f"{said}, each in one partition; {keys}")
    if pipeline.events.repartition:
        return Finding(
            "keys",
            "ok",
            f"{said}, in several partitions: {len(strays)} ({describe_strays(strays)}), which repartition = true in"
            f" [events] puts right; {keys}",
        )
    return Finding(
        "keys",
        "problem",
        f"{said}, in several partitions, where windows and labels miss each other: {len(strays)}"
        f" ({describe_strays(strays)}); {keys}. Key events by {pipeline.events.entity}, with one partitioner in all"
        " producers; or, before anything is scored, say repartition = true in [events].",
    )


def _judge_names(pipeline: Pipeline, sample: Sample) -> Finding:
    """Whether labels name the entities of their events: that decides where they are copied to."""
    entity = pipeline.events.entity
    misnamed, known, first = sample.misname_labels()
    said = f"{len(sample.labels) + sample.nameless_labels} of the newest labels"
    fix = f"Have the value of a label hold {entity}, or its key be that of its event."
    if sample.nameless_labels:
        return Finding(
            "label keys",
            "problem",
            f"{said}: {sample.nameless_labels} name no {entity}, without which repartition = true does not know where"
            f" their events are: they become dead letters (no_entity). {fix}",
        )
    if first is not None:
        return Finding(
            "label keys",
            "problem",
            f"{said}, of {known} the events are known: {misnamed} name another {entity} than their event has (the first"
            f" is of {first.event_id}), and will not find it. {fix}",
        )
    return Finding("label keys", "ok", f"{said}, of {known} the events are known, and they name its {entity}")


def _judge_labels(pipeline: Pipeline, sample: Sample) -> Finding:
    misplaced, placed, first = sample.place_labels()
    keys = describe_keys(sample.labels, sample.partitions)
    said = f"{len(sample.labels)} of the newest labels, of {placed} it is known where their events are"
    if first is None:
        return Finding("label keys", "ok", f"{said}, and they are there; {keys}")
    return Finding(
        "label keys",
        "problem",
        f"{said}: {misplaced} lie in another partition and will not find them (the first, of {first.event_id}, in"
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


def _check_clickhouse(context: ModelContext) -> Finding:
    url = context.settings.clickhouse
    if url:
        return _find("clickhouse", lambda: _ask_server(url))
    running = read_run(context.home)
    if running is None or running.monitor_http is None:
        return Finding("clickhouse", "skipped", "no server is given, and no monitor runs with the embedded engine")
    return _find("clickhouse", lambda: _ask_monitor(str(running.monitor_http)))


def _check_delays(context: ModelContext) -> Finding:
    """Whether labels come as soon as `performance.maturity` says: a running monitor knows how long they take."""
    running = read_run(context.home)
    if running is None or running.monitor_http is None:
        return Finding("label delays", "skipped", "no monitor runs here, which knows how long labels take")
    try:
        status = ask_monitor(running.monitor_http, "/api/v1/status", timeout_s=ANSWER_S)
    except MonitorError as error:
        return Finding("label delays", "problem", str(error))
    labels = status.get("labels")
    if status.get("pipeline") != context.pipeline.name or not labels or not labels["applied"]:
        return Finding("label delays", "skipped", "the monitor has not read labels of this pipeline")
    if labels["maturity_too_short"]:
        return Finding("label delays", "problem", " ".join(labels["maturity_too_short"]))
    return Finding("label delays", "ok", "; ".join(each["words"] for each in labels["delays"].values()))


def _ask_server(url: Secret) -> str:
    from app.adapters.clickhouse.warehouse import ClickHouseWarehouse  # noqa: PLC0415  # only for those who have a server

    warehouse = ClickHouseWarehouse(url)
    try:
        warehouse.wait_ready(ANSWER_S)
        return f"{warehouse.where} answers"
    finally:
        warehouse.close()


def _ask_monitor(address: str) -> str:
    ask_monitor(address, "/api/v1/query", json.dumps({"sql": "SELECT 1", "limit": 1}).encode(), timeout_s=ANSWER_S)
    return f"the embedded engine answers through the monitor at {address}"
