-- What replays add to history: scores of a version for events that another had scored (a table of their own: overlapping offset ranges would make FINAL on `scores` dear), and how two versions differ.
CREATE TABLE IF NOT EXISTS streamgauge.backfilled_scores_raw
(
    pipeline LowCardinality(String),
    customer_id String,
    event_id String,
    event_time DateTime64(3, 'UTC'),
    score Float64,
    decision Bool,
    model LowCardinality(String),
    version LowCardinality(String),
    role LowCardinality(String),
    features Map(String, Float64) DEFAULT map(),
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    feature_set LowCardinality(String) DEFAULT '',
    revision UInt64 DEFAULT 1,
    INDEX by_customer customer_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_event event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_time event_time TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (model, version, topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.score_diffs_raw
(
    pipeline LowCardinality(String),
    model LowCardinality(String),
    before LowCardinality(String),
    after LowCardinality(String),
    range_start DateTime64(3, 'UTC'),
    range_end DateTime64(3, 'UTC'),
    segment LowCardinality(String),
    measure LowCardinality(String),
    value Nullable(Float64),
    revision UInt64 DEFAULT 1
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, model, before, after, range_start, range_end, segment, measure)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.backfilled_scores AS
SELECT * FROM streamgauge.backfilled_scores_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.score_diffs AS
SELECT * FROM streamgauge.score_diffs_raw FINAL;
