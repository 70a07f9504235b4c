-- Score history keyed by source record: disjoint offset ranges per part make FINAL nearly free, so `scores` can be exact.
CREATE TABLE IF NOT EXISTS streamgauge.scores_raw
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
    features Map(String, Float64),
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    scored_at DateTime64(3, 'UTC'),
    feature_set LowCardinality(String) DEFAULT '',
    reasons Array(String) DEFAULT [],
    stale Bool DEFAULT false,
    shadow LowCardinality(String) DEFAULT '',
    INDEX by_customer customer_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_event event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_time event_time TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(scored_at)
ORDER BY (topic, partition, offset, shadow)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.scores AS
SELECT * EXCEPT (shadow) FROM streamgauge.scores_raw FINAL WHERE shadow = '';

CREATE OR REPLACE VIEW streamgauge.shadow_scores AS
SELECT * FROM streamgauge.scores_raw FINAL WHERE shadow != '';
