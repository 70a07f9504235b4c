-- One verdict per window and version; performance says what was expected before labels, and of those that came.
CREATE TABLE IF NOT EXISTS streamgauge.verdicts_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    kind LowCardinality(String),
    headline String,
    metrics Array(String),
    shares Array(Float64),
    words Array(String),
    segments Array(String),
    example String,
    advice LowCardinality(String),
    reason String,
    n_reference UInt64,
    n_detection UInt64,
    with_labels Bool,
    revision UInt64 DEFAULT 1
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, model, version, window_start, window_end)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.verdicts AS
SELECT * FROM streamgauge.verdicts_raw FINAL;

ALTER TABLE streamgauge.performance_raw ADD COLUMN IF NOT EXISTS estimated_low Nullable(Float64) DEFAULT NULL;

ALTER TABLE streamgauge.performance_raw ADD COLUMN IF NOT EXISTS estimated_high Nullable(Float64) DEFAULT NULL;

ALTER TABLE streamgauge.performance_raw ADD COLUMN IF NOT EXISTS expected Nullable(Float64) DEFAULT NULL;

ALTER TABLE streamgauge.performance_raw ADD COLUMN IF NOT EXISTS p_value Nullable(Float64) DEFAULT NULL;

CREATE OR REPLACE VIEW streamgauge.performance AS
SELECT * FROM streamgauge.performance_raw FINAL;
