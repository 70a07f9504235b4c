"""The pipeline of workers under test, with faults and without: windows over events and labels, versions that score."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from app.adapters.kafka.model_announcer import announce
from app.kafka_access import KafkaAccess
from models.training import TrainedModel, train
from models.training_rows import LabelledRows, TrainingRange
from models.versions.registry import Registry
from schemas.pipeline.spec import Pipeline
from schemas.wire import ModelUpdate

START_MS = 1_700_000_000_000

TOML = """
name = "{name}"
partitions = {partitions}
delivery = "{delivery}"
commit_interval_ms = {commit_interval_ms}

[model]
name = "m"

[events]
entity = "card"
id = "id"
time = "at_ms"

[events.fields]
id = "string"
card = "string"
at_ms = "int"
amount = "float"
note = "string?"
kind = "string?"
shop = "string?"

{labels}

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "log_amount"
type = "float"
expression = "log1p(abs(amount))"

[[features]]
name = "count_1m"
type = "int"
window = {{ of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "count" }}

[[features]]
name = "sum_1m"
type = "float"
window = {{ of = "events", key = ["card"], size = "1m", hop = "1s", aggregate = "sum", field = "amount" }}

[[features]]
name = "kind"
type = "category"
expression = "kind"
values = ["a", "b", "c"]

{features}

{shared}

{drift}

{state}
"""
DRIFT = """
[drift]
window = "30s"
every = "15s"
slice = "5s"
grace = "5s"
bins = 16
segments = ["kind"]
tests = [{ test = "psi" }, { test = "null_rate" }, { test = "interval" }, { test = "trend" }]
"""
DETECTORS = """
[[drift.detectors]]
detector = "cusum"
learn = 200

[[drift.detectors]]
detector = "adwin"

[performance]
"""
MATURITY = 'maturity = "5s"\n'
LABEL_FEATURE = """
[[features]]
name = "bad_5m"
type = "float"
window = { of = "labels", key = ["card"], size = "5m", hop = "5s", aggregate = "mean", field = "label" }
"""
#: Over all cards: of other sizes, hops and delays, some with their keys divided among the workers.
SHARED = """
[[features]]
name = "shop_1m"
type = "int"
window = {{ of = "events", key = ["shop"], size = "1m", hop = "2s", aggregate = "count", delay = "5s" }}

[[features]]
name = "shop_sum_5m"
type = "float"
[features.window]
of = "events"
key = ["shop"]
size = "5m"
hop = "30s"
aggregate = "sum"
field = "amount"
delay = "45s"

[[features]]
name = "kind_rate_20s"
type = "float"
window = {{ of = "events", key = ["kind"], size = "20s", hop = "5s", aggregate = "rate", delay = "3s" }}

[[features]]
name = "shop_mean_2m"
type = "float"
[features.window]
of = "events"
key = ["shop", "kind"]
size = "2m"
hop = "10s"
aggregate = "mean"
field = "amount"
delay = "10s"
repartition = true
{labels}
[shared]
idle = "2s"
"""
SHARED_LABELS = """
[[features]]
name = "shop_bad_3m"
type = "float"
[features.window]
of = "labels"
key = ["shop"]
size = "3m"
hop = "15s"
aggregate = "mean"
field = "label"
delay = "3s"

[[features]]
name = "kind_bad_30s"
type = "int"
[features.window]
of = "labels"
key = ["kind"]
size = "30s"
hop = "1s"
aggregate = "count"
delay = "20s"
repartition = true
"""


@dataclass(frozen=True)
class Setup:
    """What a pipeline under test and its workers are like.

    ``static``: workers are static members of their group. ``features``: TOML of more features.
    ``on_disk``: the state is, but for a few keys of the hundreds that there are.
    ``monitored``: with segments, and windows that overlap and close under way; with labels also detectors.
    ``shared``: with windows over all cards. ``impatient``: when labels cannot be read, events soon go.
    """

    delivery: str = "exactly_once"
    with_labels: bool = False
    partitions: int = 4
    commit_interval_ms: int = 50
    workers: int = 2
    static: bool = True
    features: str = ""
    shared: bool = False
    impatient: bool = False
    on_disk: bool = False
    monitored: bool = False


def render_toml(name: str, setup: Setup) -> str:
    """The pipeline file of a run."""
    return TOML.format(
        name=name,
        partitions=setup.partitions,
        delivery=setup.delivery,
        commit_interval_ms=setup.commit_interval_ms,
        labels=f'[labels]\nhorizon = "1h"\nmax_wait = "{"200ms" if setup.impatient else "5s"}"\n'
        if setup.with_labels
        else "",
        features=(LABEL_FEATURE if setup.with_labels else "") + setup.features,
        shared=SHARED.format(labels=SHARED_LABELS if setup.with_labels else "") if setup.shared else "",
        drift=(DRIFT + (DETECTORS + MATURITY) * setup.with_labels) * setup.monitored,
        state='[state]\nstore = "disk"\ncached_keys = 20\n' if setup.on_disk else "",
    )


def train_version(pipeline: Pipeline, version: str, seed: int) -> TrainedModel:
    """A version that takes nearly every event with a positive amount (or else first feature) for bad."""
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(600, len(pipeline.features)))
    known = {"amount": generator.uniform(-700, 7_000, 600), "kind": generator.integers(0, 4, 600)}
    names = list(pipeline.feature_names)
    for name in known.keys() & names:
        matrix[:, names.index(name)] = known[name]
    deciding = matrix[:, names.index("amount") if "amount" in names else 0]
    labels = ((deciding > 0) ^ (generator.random(600) < 0.1)).astype(np.float64)
    times = np.arange(600, dtype=np.int64) + START_MS
    return train(
        TrainingRange(LabelledRows(matrix, labels, times), START_MS, START_MS + 600),
        pipeline,
        "logistic",
        version=version,
        created_at_ms=START_MS,
    )


async def promote(
    kafka: KafkaAccess, pipeline: Pipeline, registry: Registry, version: str, seed: int, **lies: str
) -> None:
    """Train, register and announce a version; ``lies``: what the announcement says instead of the truth."""
    trained = train_version(pipeline, version, seed)
    registry.register(trained.manifest, trained.artifact)
    await announce_entry(kafka, pipeline, registry, version, **lies)


async def announce_entry(kafka: KafkaAccess, pipeline: Pipeline, registry: Registry, version: str, **lies: str) -> None:
    """Announce a registered version, for the first time or again."""
    entry = registry.entry("m", version)
    update = ModelUpdate(
        model="m",
        version=version,
        role="champion",
        uri=entry.uri,
        sha256=entry.manifest.artifact.sha256,
        feature_set=pipeline.feature_set,
        announced_at_ms=START_MS,
    )
    await announce(kafka, pipeline.topics, msgspec.structs.replace(update, **lies))
