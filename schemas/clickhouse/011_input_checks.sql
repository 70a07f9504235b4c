-- Labels that found no event and entities in several partitions: features are wrong of them, and no score shows it.
CREATE TABLE IF NOT EXISTS streamgauge.input_checks_raw
(
    pipeline LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    events UInt64,
    labels UInt64,
    too_late UInt64,
    unknown UInt64,
    other_partition UInt64,
    strays UInt64,
    examples Array(String),
    revision UInt64
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, window_start, window_end)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.input_checks AS
SELECT * FROM streamgauge.input_checks_raw FINAL;
