-- What the monitor concludes from closed windows: a late event writes the same key under a higher revision, and the view shows that one.
CREATE TABLE IF NOT EXISTS streamgauge.model_metadata_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    stage LowCardinality(String),
    segment LowCardinality(String),
    metric LowCardinality(String),
    decile LowCardinality(String),
    value Nullable(Float64),
    timestamp DateTime64(3, 'UTC'),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    revision UInt64 DEFAULT 1
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, model, version, stage, segment, metric, decile, window_start, window_end)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.drift_reports_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    segment LowCardinality(String),
    metric LowCardinality(String),
    test LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    statistic Nullable(Float64),
    p_value Nullable(Float64),
    threshold Nullable(Float64),
    effect Nullable(Float64),
    n_reference UInt64,
    n_detection UInt64,
    signal LowCardinality(String),
    revision UInt64,
    note String DEFAULT ''
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, model, version, segment, metric, test, window_start, window_end)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.performance_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    segment LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    measure LowCardinality(String),
    estimated Nullable(Float64),
    realised Nullable(Float64),
    low Nullable(Float64),
    high Nullable(Float64),
    n_labels UInt64,
    label_maturity Nullable(Float64),
    revision UInt64 DEFAULT 1
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, model, version, segment, measure, window_start, window_end)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.model_metadata AS
SELECT * FROM streamgauge.model_metadata_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.drift_reports AS
SELECT * FROM streamgauge.drift_reports_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.performance AS
SELECT * FROM streamgauge.performance_raw FINAL;
