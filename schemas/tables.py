"""The ClickHouse tables as data: what the adapter checks inserts against, and what the docs and tests read.

``schemas/clickhouse/*.sql`` creates them; a test on the real engine proves that both say the same. Users read a table
by its ``name``, which answers exactly; rows go into its ``storage``, which may hold a row more than once until the
engine merges.

Over 350 lines: a list, one line for each column.
"""

from __future__ import annotations

from dataclasses import dataclass

DATABASE = "streamgauge"

TIME = "DateTime64(3, 'UTC')"
WORD = "LowCardinality(String)"
MAYBE = "Nullable(Float64)"
MAYBE_TIME = f"Nullable({TIME})"
FLOAT_MAP = "Map(String, Float64)"


@dataclass(frozen=True)
class Column:
    """One column; an ``optional`` one has a default and may be left out of an insert."""

    name: str
    type: str
    help: str
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Parameters
    ----------
    name
        What users select from.
    key
        Rows with equal key are one row: the one with the highest ``row_version``, or the last inserted among equals.
    row_version
        The column that decides between rows of equal key.
    storage
        What rows are inserted into; differs from ``name`` where ``name`` is a view that reads it exactly.
    """

    name: str
    help: str
    key: tuple[str, ...]
    row_version: str
    columns: tuple[Column, ...]
    storage: str

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if not column.optional)


@dataclass(frozen=True)
class View:
    """A view for users, built on the tables."""

    name: str
    help: str
    columns: tuple[Column, ...]


PIPELINE = Column("pipeline", WORD, "Name of the pipeline.")
MODEL = Column("model", WORD, "Name of the model.")
VERSION = Column("version", WORD, "Model version.")
SEGMENT = Column("segment", WORD, "Segment of the events; 'all' is all of them.")
WINDOW_START = Column("window_start", TIME, "Start of the event-time window, inclusive.")
WINDOW_END = Column("window_end", TIME, "End of the event-time window, exclusive.")
REVISION = Column("revision", "UInt64", "1 when the window closed; higher when late events amended it.", optional=True)
TOPIC = Column("topic", WORD, "Topic of the source record.")
PARTITION = Column("partition", "Int32", "Partition of the source record.")
OFFSET = Column("offset", "Int64", "Offset of the source record.")

SCORES = Table(
    name="scores",
    help="Every published score, with the features that were served. Scores of shadow versions are in shadow_scores.",
    key=("topic", "partition", "offset", "shadow"),
    row_version="scored_at",
    storage="scores_raw",
    columns=(
        PIPELINE,
        Column("customer_id", "String", "Entity key of the event."),
        Column("event_id", "String", "Identity of the event, as its producer gave it."),
        Column("event_time", TIME, "When the event happened."),
        Column("score", "Float64", "The model's number."),
        Column("decision", "Bool", "score >= threshold of the pipeline."),
        MODEL,
        VERSION,
        Column("role", WORD, "Role of the version when it scored: champion, canary, shadow, ..."),
        Column("features", FLOAT_MAP, "Feature values as served; nan is a missing value."),
        TOPIC,
        PARTITION,
        OFFSET,
        Column("scored_at", TIME, "When the worker scored it."),
        Column("feature_set", WORD, "Digest of the feature definitions.", optional=True),
        Column("reasons", "Array(String)", "Reason codes.", optional=True),
        Column("stale", "Bool", "True when labels it should have seen had not arrived in time.", optional=True),
        Column(
            "shadow",
            WORD,
            "Version of a score that was stored and decided nothing. Only shadow_scores has it.",
            optional=True,
        ),
    ),
)

MODEL_METADATA = Table(
    name="model_metadata",
    help="Deciles and other statistics of each feature, the score and the outcome, in training and in scoring.",
    key=("pipeline", "model", "version", "stage", "segment", "metric", "decile", "window_start", "window_end"),
    row_version="revision",
    storage="model_metadata_raw",
    columns=(
        PIPELINE,
        MODEL,
        VERSION,
        Column("stage", WORD, "'training' or 'scoring'."),
        SEGMENT,
        Column("metric", WORD, "A feature, 'score' or 'outcome'."),
        Column(
            "decile",
            WORD,
            "'d1' ... 'd10'; also 'n', 'null_rate', 'min', 'max', 'mean'; of a category 'share:<value>' and"
            " 'share:unseen', of the events with a value.",
        ),
        Column(
            "value",
            MAYBE,
            "Value of the statistic; null where there was nothing to compute it from. d1 to d9 are as exact as the"
            " cells of training are narrow; beyond all that training had they lie on a straight line to the extreme."
            " The others are exact.",
        ),
        Column("timestamp", TIME, "When it was computed."),
        WINDOW_START,
        WINDOW_END,
        REVISION,
    ),
)

DRIFT_REPORTS = Table(
    name="drift_reports",
    help="One row per version, segment, metric, test and closed window.",
    key=("pipeline", "model", "version", "segment", "metric", "test", "window_start", "window_end"),
    row_version="revision",
    storage="drift_reports_raw",
    columns=(
        PIPELINE,
        MODEL,
        VERSION,
        SEGMENT,
        Column("metric", WORD, "A feature, 'score' or 'outcome'."),
        Column("test", WORD, "psi, ks, interval, trend, ..."),
        WINDOW_START,
        WINDOW_END,
        Column("statistic", MAYBE, "Value of the test's statistic."),
        Column("p_value", MAYBE, "Its p-value, where the test has one."),
        Column("threshold", MAYBE, "The limit that it was held against."),
        Column("effect", MAYBE, "Size of the move, in the test's own unit."),
        Column("n_reference", "UInt64", "Values in the reference window."),
        Column("n_detection", "UInt64", "Values in the detection window."),
        Column("signal", WORD, "NONE, WARNING or DRIFT."),
        Column("revision", "UInt64", "1 when the window closed; higher when late events amended it."),
        Column("note", "String", "What a person should know about this report.", optional=True),
    ),
)

PERFORMANCE = Table(
    name="performance",
    help="Estimated and realised performance per closed window.",
    key=("pipeline", "model", "version", "segment", "measure", "window_start", "window_end"),
    row_version="revision",
    storage="performance_raw",
    columns=(
        PIPELINE,
        MODEL,
        VERSION,
        SEGMENT,
        WINDOW_START,
        WINDOW_END,
        Column("measure", WORD, "auc, log_loss, accuracy, ...; positives: the share of positive labels."),
        Column("estimated", MAYBE, "Estimate of all events of the window from their scores, before labels are known."),
        Column("realised", MAYBE, "Value on the labels that arrived."),
        Column("low", MAYBE, "Lower bound of the realised value's 95 % range; null where it is not determined."),
        Column("high", MAYBE, "Upper bound of the realised value's 95 % range."),
        Column("n_labels", "UInt64", "Labels that it rests on."),
        Column("label_maturity", MAYBE, "Share of the window's events whose label has arrived."),
        REVISION,
        Column("estimated_low", MAYBE, "Lower bound of the estimate's 95 % band.", optional=True),
        Column("estimated_high", MAYBE, "Upper bound of the estimate's 95 % band.", optional=True),
        Column("expected", MAYBE, "Value to be expected of the labelled events, by their scores.", optional=True),
        Column(
            "p_value",
            MAYBE,
            "Of so large a difference of realised and expected. By a normal law: too small where positives are few.",
            optional=True,
        ),
    ),
)

VERDICTS = Table(
    name="verdicts",
    help="What has happened in each closed window of each version: one verdict, in words.",
    key=("pipeline", "model", "version", "window_start", "window_end"),
    row_version="revision",
    storage="verdicts_raw",
    columns=(
        PIPELINE,
        MODEL,
        VERSION,
        WINDOW_START,
        WINDOW_END,
        Column(
            "kind",
            WORD,
            "none, feature_drift, score_drift, label_prior_drift, concept_drift, pipeline_fault, too_little_data or"
            " no_reference.",
        ),
        Column("headline", "String", "One sentence for a person."),
        Column("metrics", "Array(String)", "What explains it, the most important first."),
        Column("shares", "Array(Float64)", "Share of the score's change that each explains; nan: it has not moved."),
        Column("words", "Array(String)", "How each has moved."),
        Column("segments", "Array(String)", "Segments in which it sits, the most important first."),
        Column("example", "String", "One thing in training and in the window."),
        Column("advice", WORD, "watch, look_upstream, retrain or roll_back."),
        Column("reason", "String", "Why."),
        Column("n_reference", "UInt64", "Events of training."),
        Column("n_detection", "UInt64", "Events of the window."),
        Column("with_labels", "Bool", "Whether the window's labels were mature."),
        REVISION,
    ),
)

INPUT_CHECKS = Table(
    name="input_checks",
    help="What was wrong with the stream itself, by slice of time: labels without an event, entities that strayed.",
    key=("pipeline", "window_start", "window_end"),
    row_version="revision",
    storage="input_checks_raw",
    columns=(
        PIPELINE,
        Column(
            "window_start", TIME, "Start of the slice, inclusive; of labels: of the time at which they were applied."
        ),
        Column("window_end", TIME, "End of the slice, exclusive."),
        Column("events", "UInt64", "Events that were scored."),
        Column("labels", "UInt64", "Labels that were applied."),
        Column("too_late", "UInt64", "Labels whose event had been forgotten: it was older than labels.horizon."),
        Column("unknown", "UInt64", "Labels of an event that nobody waits for: an unknown id, or labelled before."),
        Column("other_partition", "UInt64", "Labels whose key is an entity that was seen in other partitions alone."),
        Column("strays", "UInt64", "Entities that were seen in a second partition then."),
        Column("examples", "Array(String)", "Some of those entities, and their partitions."),
        Column("revision", "UInt64", "Higher when the row was amended."),
    ),
)

LABEL_DELAYS = Table(
    name="label_delays",
    help="How long labels took, by stretch of event time and label: once its labels are mature, and when none counts.",
    key=("pipeline", "window_start", "window_end", "label"),
    row_version="revision",
    storage="label_delays_raw",
    columns=(
        PIPELINE,
        Column("window_start", TIME, "Start of the stretch of event time, inclusive."),
        Column("window_end", TIME, "End of the stretch, exclusive."),
        Column("label", "Int32", "0 or 1."),
        Column("n", "UInt64", "Labels of those events that have come."),
        Column("half_s", MAYBE, "Seconds after the event within which half of them came."),
        Column("share_90_s", MAYBE, "Seconds within which 90 % of them came."),
        Column("share_99_s", MAYBE, "Seconds within which 99 % of them came."),
        Column("slowest_s", MAYBE, "Seconds within which all of them came. All four are rounded up, by at most 3 %."),
        Column("revision", "UInt64", "Higher when the row was amended; labels 0 and 1 count together."),
    ),
)

ALERTS = Table(
    name="alerts",
    help="History of alerts: one row per alert and state.",
    key=("alert_id", "state"),
    row_version="at",
    storage="alerts_raw",
    columns=(
        Column("alert_id", "String", "Identity of the alert, the same in each of its states."),
        PIPELINE,
        Column("rule", WORD, "Name of the alert rule."),
        Column("severity", WORD, "info, warning or critical."),
        Column("state", WORD, "raised, acknowledged, cleared, or silenced: noted and not raised."),
        MODEL,
        VERSION,
        Column("at", TIME, "When the alert came into this state, or something new was said of it."),
        Column("window_start", MAYBE_TIME, "Start of the window that brought it into this state."),
        Column("window_end", MAYBE_TIME, "End of that window."),
        Column("measure", WORD, "What was measured; verdict or error where the rule is on these."),
        Column("value", MAYBE, "The value measured."),
        Column("threshold", MAYBE, "The limit it crossed (`limit` on the topic)."),
        Column("message", "String", "One sentence for a person; it also says what is new since the alert was raised."),
        Column("action", WORD, "What it asks for, e.g. retrain; of other states than raised nothing.", optional=True),
        Column("who", "String", "Who acknowledged it (`by` on the topic).", optional=True),
        Column("revision", "UInt64", "Counts what was said of the alert; the highest is how it stands.", optional=True),
        Column("since", MAYBE_TIME, "Start of the first window beyond the limit.", optional=True),
        Column("alert_group", WORD, "Group of its rule (`group` on the topic).", optional=True),
        Column("others", "Array(String)", "Rules of the group that were raised with it.", optional=True),
        Column("owner", WORD, "Whom it is for.", optional=True),
        Column("runbook", "String", "Link to what to do.", optional=True),
        Column(
            "why",
            "String",
            "What the person wrote who acknowledged it; of a silenced alert, why it is silent.",
            optional=True,
        ),
    ),
)

MODEL_VERSIONS = Table(
    name="model_versions",
    help="One row per model version: what it is and which role it has now.",
    key=("pipeline", "model", "version"),
    row_version="updated_at",
    storage="model_versions_raw",
    columns=(
        PIPELINE,
        MODEL,
        Column("version", "String", "Model version."),
        Column(
            "role",
            WORD,
            "champion, challenger, shadow, canary, retired, unusable, or refused by all workers.",
        ),
        Column("uri", "String", "Where the artifact is."),
        Column("sha256", "String", "Digest of the artifact."),
        Column("feature_set", "String", "Digest of the feature definitions it was trained on."),
        Column("valid_from", MAYBE_TIME, "Event time from which it scores; null is at once."),
        Column("trained_from", MAYBE_TIME, "Start of its training data."),
        Column("trained_to", MAYBE_TIME, "End of its training data."),
        Column("metrics", FLOAT_MAP, "Metrics of the training run.", optional=True),
        Column("manifest", "String", "The manifest, JSON.", optional=True),
        Column("who", "String", "Who gave it this role.", optional=True),
        Column("why", "String", "And why.", optional=True),
        Column("updated_at", TIME, "When it got this role."),
    ),
)

MODEL_EVENTS = Table(
    name="model_events",
    help="Audit: what happened to each version, on each worker, when and why.",
    key=("pipeline", "event_id"),
    row_version="at",
    storage="model_events_raw",
    columns=(
        Column("event_id", "String", "Deterministic identity of the event, e.g. topic/partition/offset of its record."),
        PIPELINE,
        Column("at", TIME, "When it happened."),
        MODEL,
        Column("version", "String", "Model version."),
        Column("event", WORD, "announced, loaded, refused, serving, promoted (a roll back, too: `why` says so), ..."),
        Column("who", "String", "Who asked for it.", optional=True),
        Column("why", "String", "And why; of a refusal, its reason.", optional=True),
        Column("worker", "String", "The worker that reports it.", optional=True),
        Column("partition", "Nullable(Int32)", "Of 'serving': partition of the first event scored.", optional=True),
        Column("offset", "Nullable(Int64)", "Of 'serving': offset of the first event scored.", optional=True),
        Column("seconds", MAYBE, "How long it took.", optional=True),
    ),
)

DEAD_LETTERS = Table(
    name="dead_letters",
    help="Records that could not be scored, with their original bytes.",
    key=("topic", "partition", "offset"),
    row_version="rejected_at",
    storage="dead_letters_raw",
    columns=(
        PIPELINE,
        TOPIC,
        PARTITION,
        OFFSET,
        Column("stage", WORD, "decode, validate, features, score or label."),
        Column("reason", WORD, "Reason code."),
        Column("detail", "String", "What exactly was wrong."),
        Column("key", "Nullable(String)", "Original key, bytes."),
        Column("value", "Nullable(String)", "Original value, bytes."),
        Column("record_time", TIME, "Time stamp of the Kafka record."),
        Column("rejected_at", TIME, "When the worker rejected it."),
        Column("version", WORD, "Model version at the time.", optional=True),
    ),
)

BACKFILLED_SCORES = Table(
    name="backfilled_scores",
    help="Scores that `backfill` computed over history, of any version; never among `scores` or `daily_scores`.",
    key=("model", "version", "topic", "partition", "offset"),
    row_version="revision",
    storage="backfilled_scores_raw",
    columns=(
        PIPELINE,
        Column("customer_id", "String", "Entity key of the event."),
        Column("event_id", "String", "Identity of the event, as its producer gave it."),
        Column("event_time", TIME, "When the event happened."),
        Column("score", "Float64", "The model's number."),
        Column("decision", "Bool", "score >= threshold of the pipeline."),
        MODEL,
        VERSION,
        Column("role", WORD, "Always 'backfill'."),
        Column("features", FLOAT_MAP, "Feature values, when asked for; nan is a missing value.", optional=True),
        TOPIC,
        PARTITION,
        OFFSET,
        Column("feature_set", WORD, "Digest of the feature definitions.", optional=True),
        Column("revision", "UInt64", "Always 1: the same event and version give the same row.", optional=True),
    ),
)

SCORE_DIFFS = Table(
    name="score_diffs",
    help="How the scores of two versions differ on the same events (`replay --diff --write`), a row per measure.",
    key=("pipeline", "model", "before", "after", "range_start", "range_end", "segment", "measure"),
    row_version="revision",
    storage="score_diffs_raw",
    columns=(
        PIPELINE,
        MODEL,
        Column("before", WORD, "A version, or 'recorded': the scores as they were served."),
        Column("after", WORD, "The version that they are compared with."),
        Column("range_start", TIME, "Start of the events compared, by event time, inclusive."),
        Column("range_end", TIME, "Their end, exclusive."),
        Column("segment", WORD, "'all', or a month as 2013-05."),
        Column("measure", WORD, "mean_difference, abs_p90, changed_share, psi, auc_after, ..."),
        Column("value", MAYBE, "Its value; null where there was nothing to compute it from."),
        Column("revision", "UInt64", "Always 1: the last one written counts.", optional=True),
    ),
)

MONITOR_CHECKPOINTS = Table(
    name="monitor_checkpoints",
    help="Where the monitor was and what it held, so that a restart goes on from there.",
    key=("pipeline",),
    row_version="revision",
    storage="monitor_checkpoints",
    columns=(
        PIPELINE,
        Column("revision", "UInt64", "Counts the checkpoints of the pipeline."),
        Column("offsets", "String", "JSON: next offset to read, by topic and partition."),
        Column("state", "String", "The monitor's windows, bytes."),
        Column("saved_at", TIME, "When it was saved."),
    ),
)

MONITOR_TERMS = Table(
    name="monitor_terms",
    help="Which monitor wrote when. A monitor that takes over claims the next term; one with an older term stops.",
    key=("pipeline", "term", "owner"),
    row_version="claimed_at",
    storage="monitor_terms",
    columns=(
        PIPELINE,
        Column("term", "UInt64", "Counts the monitors of the pipeline that took over."),
        Column("owner", "String", "Host, process and a random name of the monitor."),
        Column("claimed_at", TIME, "When it took over."),
    ),
)

MONITOR_BLOCKS = Table(
    name="monitor_blocks",
    help="The block that each partition is at. All records before it are in their table; those of the block may be.",
    key=("pipeline", "topic", "partition"),
    row_version="version",
    storage="monitor_blocks",
    columns=(
        PIPELINE,
        Column("topic", WORD, "Topic of the records: scores or dead letters."),
        Column("partition", "Int32", "Its partition."),
        Column("first_offset", "Int64", "First offset of the block."),
        Column("next_offset", "Int64", "Offset after its last record."),
        Column("attempt", "UInt64", "Higher once rows were written again because the table had lost them."),
        Column("held_topic", WORD, "Source of a row that was in before this block; '' of the first block."),
        Column("held_partition", "Int32", "Its partition."),
        Column("held_offset", "Int64", "Its offset."),
        Column("version", "UInt64", "Term of the monitor and a count; a newer plan has a higher one."),
    ),
)

SCHEMA_MIGRATIONS = Table(
    name="schema_migrations",
    help="Which files of schemas/clickhouse have been applied.",
    key=("name",),
    row_version="applied_at",
    storage="schema_migrations",
    columns=(
        Column("name", "String", "File name."),
        Column("checksum", "String", "SHA-256 of the file."),
        Column("applied_at", TIME, "When it was applied."),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        SCORES,
        MODEL_METADATA,
        DRIFT_REPORTS,
        PERFORMANCE,
        VERDICTS,
        INPUT_CHECKS,
        LABEL_DELAYS,
        ALERTS,
        MODEL_VERSIONS,
        MODEL_EVENTS,
        DEAD_LETTERS,
        BACKFILLED_SCORES,
        SCORE_DIFFS,
        MONITOR_CHECKPOINTS,
        MONITOR_TERMS,
        MONITOR_BLOCKS,
        SCHEMA_MIGRATIONS,
    )
}

_MODEL_KEY = Column("model_key", "String", "Pipeline, model and version, joined by |.")
_ENTITY_KEY = Column("entity_key", "String", "Pipeline and customer_id, joined by |.")
_DATE_KEY = Column("date_key", "UInt32", "The day (UTC) as a number, 20131231.")


def _columns_of(table: Table, names: str) -> tuple[Column, ...]:
    by_name = {column.name: column for column in table.columns}
    return tuple(by_name[name] for name in names.split())


VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("shadow_scores", "Scores that were stored and not published.", SCORES.columns),
        View(
            "daily_scores",
            "The latest score of each customer and day (UTC), by event time.",
            (
                *_columns_of(SCORES, "pipeline customer_id"),
                Column("day", "Date", "The day (UTC) of the event times."),
                *_columns_of(SCORES, "score decision"),
                Column("model", "String", MODEL.help),
                Column("version", "String", VERSION.help),
                *_columns_of(SCORES, "event_id event_time scored_at"),
                Column("n_scores", "UInt64", "Scores of the customer on that day."),
            ),
        ),
        View(
            "fact_scores",
            "Star schema: one row per published score; joins dim_model, dim_entity and dim_date by their keys.",
            (
                _MODEL_KEY,
                _ENTITY_KEY,
                _DATE_KEY,
                *_columns_of(SCORES, "event_id event_time score decision role topic partition offset scored_at"),
            ),
        ),
        View(
            "dim_model",
            "Star schema: model versions.",
            (
                _MODEL_KEY,
                *_columns_of(
                    MODEL_VERSIONS,
                    "pipeline model version role feature_set valid_from trained_from trained_to updated_at",
                ),
            ),
        ),
        View(
            "dim_entity",
            "Star schema: who was scored, first and last.",
            (
                _ENTITY_KEY,
                *_columns_of(SCORES, "pipeline customer_id"),
                Column("first_event_time", TIME, "Event time of the first event that was scored."),
                Column("last_event_time", TIME, "Event time of the last."),
            ),
        ),
        View(
            "dim_date",
            "Star schema: the days of 1970 to 2099; weekday 1 is Monday.",
            (
                _DATE_KEY,
                Column("date", "Date", "The day."),
                Column("year", "UInt16", "Its year."),
                Column("quarter", "UInt8", "Its quarter, 1 to 4."),
                Column("month", "UInt8", "Its month, 1 to 12."),
                Column("day", "UInt8", "Its day of the month."),
                Column("iso_week", "UInt8", "Its week by ISO 8601."),
                Column("weekday", "UInt8", "1 is Monday, 7 Sunday."),
                Column("is_weekend", "UInt8", "1 on Saturday and Sunday."),
            ),
        ),
        View("alerts_now", "How each alert stands: its newest row of `alerts`.", ALERTS.columns),
        View(
            "drift_now",
            "The reports of the newest closed window of each metric and test.",
            DRIFT_REPORTS.columns,
        ),
    )
}
