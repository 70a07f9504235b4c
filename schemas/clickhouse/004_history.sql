-- History and audit (alerts, model versions, model events, dead letters), and where the monitor keeps its place between runs.
CREATE TABLE IF NOT EXISTS streamgauge.alerts_raw
(
    alert_id String,
    pipeline LowCardinality(String),
    rule LowCardinality(String),
    severity LowCardinality(String),
    state LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    at DateTime64(3, 'UTC'),
    window_start Nullable(DateTime64(3, 'UTC')),
    window_end Nullable(DateTime64(3, 'UTC')),
    measure LowCardinality(String),
    value Nullable(Float64),
    threshold Nullable(Float64),
    message String,
    action LowCardinality(String) DEFAULT '',
    who String DEFAULT ''
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (alert_id, state)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.model_versions_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    version String,
    role LowCardinality(String),
    uri String,
    sha256 String,
    feature_set String,
    valid_from Nullable(DateTime64(3, 'UTC')),
    trained_from Nullable(DateTime64(3, 'UTC')),
    trained_to Nullable(DateTime64(3, 'UTC')),
    metrics Map(String, Float64) DEFAULT map(),
    manifest String DEFAULT '',
    who String DEFAULT '',
    why String DEFAULT '',
    updated_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (pipeline, model, version)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.model_events_raw
(
    event_id String,
    pipeline LowCardinality(String),
    at DateTime64(3, 'UTC'),
    model LowCardinality(String),
    version String,
    event LowCardinality(String),
    who String DEFAULT '',
    why String DEFAULT '',
    worker String DEFAULT '',
    partition Nullable(Int32),
    offset Nullable(Int64),
    seconds Nullable(Float64)
)
ENGINE = ReplacingMergeTree(at)
ORDER BY (pipeline, event_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.dead_letters_raw
(
    pipeline LowCardinality(String),
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    stage LowCardinality(String),
    reason LowCardinality(String),
    detail String,
    key Nullable(String),
    value Nullable(String),
    record_time DateTime64(3, 'UTC'),
    rejected_at DateTime64(3, 'UTC'),
    version LowCardinality(String) DEFAULT ''
)
ENGINE = ReplacingMergeTree(rejected_at)
ORDER BY (topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.monitor_checkpoints
(
    pipeline LowCardinality(String),
    revision UInt64,
    offsets String,
    state String,
    saved_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY pipeline
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.alerts AS
SELECT * FROM streamgauge.alerts_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.model_versions AS
SELECT * FROM streamgauge.model_versions_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.model_events AS
SELECT * FROM streamgauge.model_events_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.dead_letters AS
SELECT * FROM streamgauge.dead_letters_raw FINAL;
