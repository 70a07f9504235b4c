"""The specification of a pipeline: what one TOML file says, as typed values.

``schemas.pipeline.file.load`` reads and validates the file; everything else takes a `Pipeline`. Durations are integer
milliseconds, times are integer milliseconds since 1970 UTC.

Over 350 lines: one dataclass for each table of the file, in the file's order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from schemas.pipeline.digest import digest_of
from schemas.pipeline.python_file import find_python_file
from schemas.topics import Topics

FieldType = Literal["string", "float", "int", "bool"]
FeatureType = Literal["float", "int", "bool", "category"]
Aggregate = Literal[
    "count", "sum", "mean", "variance", "min", "max", "last", "time_since_last", "distinct", "rate", "share"
]
Delivery = Literal["exactly_once", "at_least_once"]
#: How batches on the output topics are packed.
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
StateStore = Literal["memory", "disk"]
#: What is done about an entity whose events come in several partitions.
WrongPartition = Literal["warn", "refuse", "ignore"]
Severity = Literal["info", "warning", "critical"]
#: What a verdict may say of a window of a version.
VerdictKind = Literal["none", "feature_drift", "score_drift", "label_prior_drift", "concept_drift", "pipeline_fault"]


_DAY_MS = 86_400_000
#: What all those values of a category are called that are not in its vocabulary.
UNSEEN = "unseen"
#: What the segment of events without a value is called.
MISSING = "missing"


class PipelineError(ValueError):
    """A mistake in a pipeline file, as one sentence that names file, key and the fix."""


@dataclass(frozen=True)
class EventField:
    """One field of the event JSON; nullable when the file says ``"float?"``: it may be null or absent."""

    name: str
    type: FieldType
    nullable: bool = False


@dataclass(frozen=True)
class Events:
    """What an event looks like and which event times are believed.

    ``earliest_ms``/``latest_ms`` bound event time absolutely; ``max_ahead_ms`` bounds it relative to the time stamp of
    the Kafka record, and to the worker's clock (ADR 0010). Outside of them an event is a dead letter (its time could
    otherwise move the watermark). ``plural``: what verdicts call the events. ``wrong_partition``: what is done about an
    entity that is seen in another partition than before. ``repartition``: events and labels are copied to topics in
    which each entity has one partition, and are scored from there (ADR 0033).
    """

    entity: str
    event_id: str
    time: str
    fields: tuple[EventField, ...]
    earliest_ms: int
    latest_ms: int
    max_ahead_ms: int
    plural: str = "events"
    wrong_partition: WrongPartition = "warn"
    repartition: bool = False


@dataclass(frozen=True)
class Labels:
    """How labels meet events.

    ``horizon_ms``: how long (event time) an event waits for its label before it is forgotten.
    ``max_wait_ms``: how long (processing time) an event waits for labels that should precede it while labels cannot be
    read; after that it is scored with what is there and its score says ``stale``.
    Times of labels are bounded as those of the events are (`Events`).
    """

    horizon_ms: int
    max_wait_ms: int


@dataclass(frozen=True)
class Lookup:
    """Batch data joined point in time: the newest row with equal keys that was known when the event happened.

    ``keys`` maps a column of the data to the event field it must equal. With ``time`` (a column), a row is known from
    its time + ``known_after_ms`` on, and for ``max_age_ms`` (None: for ever); without, rows are always known and keys
    are unique. ``columns`` are what features may name, as ``<lookup>.<column>``.
    """

    name: str
    path: str
    keys: dict[str, str]
    columns: tuple[str, ...]
    time: str | None = None
    known_after_ms: int = 0
    max_age_ms: int | None = None


@dataclass(frozen=True)
class WindowSpec:
    """A per-entity aggregate over the last ``size_ms`` of event time, on tiles of ``hop_ms``.

    ``of``: "events" (the events themselves, each seen from the next one on) or "labels" (labels that had arrived, at
    their label time, with the fields of the event they belong to). ``key``: event fields; they include the entity
    field. ``field``: what the aggregate is of ("label", or an event field: a numeric one, except for "distinct"); none
    for "count", "rate" and "time_since_last". A feature that is not made of windows may stand for a field. The window
    holds the size/hop newest tiles, the one under way included: between size - hop and size of event time.
    docs/pipeline-file.md defines the aggregates.

    ``delay_ms``: None for a key that holds the entity field. Any other key is *shared* between partitions: an event of
    effective time e then sees the size/hop newest tiles that end at or before e - delay, of all partitions.
    ``repartition``: its keys are divided among the workers; the values are the same.
    """

    of: Literal["events", "labels"]
    key: tuple[str, ...]
    size_ms: int
    hop_ms: int
    aggregate: Aggregate
    field: str | None = None
    delay_ms: int | None = None
    repartition: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The event fields, or features in place of them, that it is keyed by or made of."""
        return tuple(name for name in (*self.key, self.field) if name is not None and name != "label")


@dataclass(frozen=True)
class Shared:
    """How partitions wait for each other where windows are shared between them (processing time).

    ``idle_ms``: a partition that is behind by more than the delay and silent for this long is taken to have nothing
    before the others' time less the delay. ``max_wait_ms``: an event waits this long for a partition that has nothing
    left to read and does not move; then it is scored with what is there and its score says ``stale``.
    """

    idle_ms: int
    max_wait_ms: int


@dataclass(frozen=True)
class Feature:
    """One named, typed feature. Exactly one of ``expression``, ``window`` and ``python`` is given.

    ``python``: "file.py:function" (relative to the pipeline file) or "package.module:function", called with one array
    per name in ``arguments`` and returning one float64 (or for a category, str) array of the same length.
    ``values``: the vocabulary of a category, whose code is its position. Any other value has the code ``len(values)``,
    which drift counts as unseen and a model takes as missing; null is missing (NaN).
    """

    name: str
    type: FeatureType
    expression: str | None = None
    window: WindowSpec | None = None
    python: str | None = None
    arguments: tuple[str, ...] = ()
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """``target``: what the model predicts, in words. A score >= ``threshold`` is a positive decision.

    ``score_from_ms``: events of an earlier event time update windows and are left unscored (None: only those for
    which no version is valid).
    """

    name: str
    threshold: float = 0.5
    target: str = ""
    score_from_ms: int | None = None


TestName = Literal[
    "psi",
    "ks",
    "wasserstein",
    "jensen_shannon",
    "chi_square",
    "null_rate",
    "unseen",
    "range",
    "interval",
    "trend",
    "classic_ks",
    "classic_interval",
    "classic_trend",
]


@dataclass(frozen=True)
class DriftTest:
    """One test that runs on the metrics when a window closes, with its settings (``minimum_effect``, …)."""

    test: TestName
    settings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FalseAlarms:
    """The budget: at most ``number`` false alarms of a model in ``per_ms`` of event time, or else in ``per_events``."""

    number: float
    per_ms: int | None = None
    per_events: int | None = None


@dataclass(frozen=True)
class PastWindow:
    """What windows are compared with instead of the training data: one past window, or the one a season ago.

    ``start_ms``: of the window that holds this time. ``season_ms``: how long ago; of calendar months, ``months`` ago.
    """

    start_ms: int | None = None
    season_ms: int | None = None
    months: int | None = None


@dataclass(frozen=True)
class ErrorDetector:
    """A sequential detector of the stream of wrong decisions, with its settings (river's names for river's)."""

    detector: Literal["cusum", "adwin", "kswin", "page_hinkley", "ddm", "eddm", "hddm_a", "hddm_w"]
    settings: dict[str, float | int | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drift:
    """Event-time windows and what is tested on them.

    ``window``: "month" (calendar month, UTC) or a duration. Counts are kept per slice (1 day) and a window is a sum of
    slices. ``every_ms``: windows overlap, and one ends this often; None: each begins where the last one ends. A
    window closes when the watermark passes its end + ``grace_ms``. ``bins``: most bins per numeric metric.
    ``against``: what windows are compared with; None: the training data. ``detectors`` watch the wrong decisions as
    labels come. ``segments``: categories and bools; each cuts the events by its values, which are counted by
    themselves, too.
    """

    window: str
    slice_ms: int
    grace_ms: int
    bins: int
    tests: tuple[DriftTest, ...]
    false_alarms: FalseAlarms = FalseAlarms(1, per_ms=30 * 86_400_000)
    every_ms: int | None = None
    against: PastWindow | None = None
    detectors: tuple[ErrorDetector, ...] = ()
    segments: tuple[str, ...] = ()


#: The measures of performance that have ranges, for alerts.
PERFORMANCE_MEASURES = ("auc", "log_loss", "accuracy", "precision", "recall", "cost")
#: By default: the measures of performance whose loss makes a concept drift, the rate and the calibration.
MINIMUM_EFFECTS = {"auc": 0.02, "accuracy": 0.02, "log_loss": 0.05, "rate": 0.1, "calibration": 0.05}
#: The same for measures that are a reason for a verdict only where the file names them: for alerts.
LEAST_OF_DECISIONS = {"precision": 0.05, "recall": 0.05, "cost": 0.05}
#: Measures of performance whose effects are shares of what was expected.
RELATIVE_MEASURES = frozenset({"log_loss", "cost"})


@dataclass(frozen=True)
class Performance:
    """A window's performance is final when its labels are applied up to its end + ``maturity_ms``.

    ``minimum_effects``: the least that matters, by name: a loss of a measure of performance, in its own unit, or for
    log_loss and cost as a share of what the scores promise; "rate": a change of the rate of positives, as a share of
    that of training; "calibration": a gap between it and what the scores say, in deviations of one outcome.
    ``costs``: of a false positive and of a false negative; None: nobody says, and there is no measure "cost".
    """

    maturity_ms: int
    minimum_effects: Mapping[str, float] = field(default_factory=lambda: dict(MINIMUM_EFFECTS))
    costs: tuple[float, float] | None = None


@dataclass(frozen=True)
class Silence:
    """Event time in which alerts of a rule are noted and not raised, and why.

    [from, to); with ``every_ms`` again after each such time, before and after.
    """

    from_ms: int
    to_ms: int
    why: str
    every_ms: int | None = None


@dataclass(frozen=True)
class AlertRule:
    """Raise when closed windows are beyond a limit for long enough; clear when they are well within it again.

    ``on``: "performance" (measure: one of `PERFORMANCE_MEASURES`, or labels_missing: 1 or 0), "drift" (measure: share
    of metrics with signal DRIFT), "verdict" (the window's verdict is one of ``kinds``) or "error" (a sequential
    detector on the error stream fired). Of the stream, not of a version: "labels" (share of a slice's labels that found
    no event) and "entities" (entities that are in several partitions by the end of a slice).
    ``below``/``above`` are absolute; ``falls_by`` is relative to the version's training metrics; ``below_expected``:
    surely worse than the scores of the labelled events promise. ``clears_at``: the milder limit that a window must be
    within to count as back, in the unit of the limit (None: the limit itself). ``since_ms``: windows that start before
    do not count (None: all that are kept do).
    ``for_windows``: windows beyond in a row before it is raised. ``clears_after``: windows back in a row before it is
    cleared. ``cooldown_ms``: event time after a clear in which it is not raised again. ``action``: "" or "retrain".

    One field for each key of the file: that is why it has so many.
    """

    name: str
    on: Literal["performance", "drift", "verdict", "error", "labels", "entities"]
    measure: str
    severity: Severity = "warning"
    below: float | None = None
    above: float | None = None
    falls_by: float | None = None
    action: str = ""
    kinds: tuple[str, ...] = ()
    clears_at: float | None = None
    for_windows: int = 1
    clears_after: int = 2
    cooldown_ms: int = 0
    group: str = ""
    silences: tuple[Silence, ...] = ()
    owner: str = ""
    runbook: str = ""
    below_expected: bool = False
    minimum_effect: float = 0.0
    since_ms: int | None = None


#: What a hook tells of: the scores, or the records of one of the topics of alerts, verdicts and model status.
HookSubject = Literal["scores", "alerts", "verdicts", "models"]
#: How a hook tells it: by a signed webhook, in the words of Slack's incoming webhooks, or on a Kafka topic.
HookForm = Literal["webhook", "slack", "kafka"]


@dataclass(frozen=True)
class Hook:
    """Tells somebody outside of each record of a kind.

    ``where``: an expression that a score must fulfil ("": all do). ``url``: where a webhook goes, or ``url_from``: the
    environment variable that holds it. ``secrets``: environment variables of the keys that webhooks are signed with;
    two while a key is being replaced. ``topic``: of a hook to Kafka.
    """

    name: str
    on: HookSubject
    form: HookForm
    where: str = ""
    url: str = ""
    url_from: str = ""
    secrets: tuple[str, ...] = ()
    topic: str = ""


@dataclass(frozen=True)
class Destinations:
    """Where hooks may go.

    ``hosts``: names and addresses; "*.example.com" stands for all names below example.com. ``networks``: which
    addresses that are not public may be connected to. ``plain_http``: whether it may be without TLS. ``ca``: a file of
    certificate authorities that are trusted beside the system's.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    plain_http: bool = False
    ca: Path | None = None


@dataclass(frozen=True)
class State:
    """Where the state of windows is kept: in memory, or on disk with ``cached_keys`` of each kind of key in memory."""

    store: StateStore = "memory"
    cached_keys: int = 100_000


@dataclass(frozen=True)
class Limits:
    """When dead letters mean a wrong deploy: the worker stops before they are committed.

    ``consecutive`` rejected records in one partition, or more than ``share`` x ``of_last`` among the last ``of_last``;
    events and labels each by themselves. The count survives restarts.
    """

    consecutive: int
    share: float
    of_last: int


@dataclass(frozen=True)
class Pipeline:
    """Everything one pipeline file says. ``digest``: SHA-256 of the file's canonical form.

    One field for each part of the file: that is why it has so many.
    """

    name: str
    path: Path
    partitions: int
    delivery: Delivery
    commit_interval_ms: int
    publish_features: bool
    source: str | None
    events: Events
    labels: Labels | None
    shared: Shared
    lookups: tuple[Lookup, ...]
    features: tuple[Feature, ...]
    model: Model
    drift: Drift
    performance: Performance
    alerts: tuple[AlertRule, ...]
    limits: Limits
    digest: str
    state: State = State()
    compression: Compression = "zstd"
    hooks: tuple[Hook, ...] = ()
    destinations: Destinations = Destinations()

    @property
    def topics(self) -> Topics:
        return Topics(self.name, self.partitions, self.events.repartition, with_hooks=bool(self.hooks))

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def windows_over(self, of: str) -> list[str]:
        """The names of the features that are windows over ``events``, or over ``labels``."""
        return [feature.name for feature in self.features if feature.window is not None and feature.window.of == of]

    @property
    def horizon_ms(self) -> int:
        """How long an event waits for its label, in event time; 0 when there are none."""
        return self.labels.horizon_ms if self.labels is not None else 0

    @property
    def keeps_by_entity(self) -> bool:
        """Whether anything is kept by entity: windows of its own, events that wait for their labels.

        Without either, no partition is wrong.
        """
        return self.labels is not None or any(f.window and f.window.delay_ms is None for f in self.features)

    @property
    def watches_entities(self) -> bool:
        """Whether each partition tells which entities it has seen."""
        is_watched = self.events.wrong_partition != "ignore" and not self.events.repartition
        return self.keeps_by_entity and is_watched

    @property
    def remember_ms(self) -> int:
        """How long an entity's partition is remembered at least (event time): a week, or as long as its data are."""
        windows = [f.window for f in self.features if f.window is not None and f.window.delay_ms is None]
        kept_ms = [window.size_ms + window.hop_ms + self.events.max_ahead_ms + _DAY_MS for window in windows]
        return max(7 * _DAY_MS, self.horizon_ms, *kept_ms)

    @cached_property
    def feature_set(self) -> str:
        """First 12 hex digits of the SHA-256 of what defines the feature matrix.

        That is the events' keys, time and fields, the lookups, the features in their order, and the bytes of the source
        file of each Python feature. The data behind lookups are not part of it.
        """
        sources = {}
        for feature in self.features:
            if feature.python is not None:
                source = find_python_file(feature.python, self.path.parent)
                sources[feature.python] = hashlib.sha256(source.read_bytes()).hexdigest() if source else ""
        form = {
            "entity": self.events.entity,
            "event_id": self.events.event_id,
            "time": self.events.time,
            "fields": [asdict(one) for one in self.events.fields],
            "lookups": [asdict(lookup) for lookup in self.lookups],
            "features": [_feature_form(feature) for feature in self.features],
            "sources": sources,
        }
        return digest_of(form)[:12]


def _feature_form(feature: Feature) -> dict[str, Any]:
    form = asdict(feature)
    if feature.window is not None and not feature.window.repartition:
        del form["window"]["repartition"]  # features without it keep the digest that they had before there was any
    return form
