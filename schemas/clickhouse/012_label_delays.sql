-- How long labels took: whoever trains or judges on labels that have not come yet is misled, and no score shows it.
CREATE TABLE IF NOT EXISTS streamgauge.label_delays_raw
(
    pipeline LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    label Int32,
    n UInt64,
    half_s Nullable(Float64),
    share_90_s Nullable(Float64),
    share_99_s Nullable(Float64),
    slowest_s Nullable(Float64),
    revision UInt64
)
ENGINE = ReplacingMergeTree(revision)
ORDER BY (pipeline, window_start, window_end, label)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE OR REPLACE VIEW streamgauge.label_delays AS
SELECT * FROM streamgauge.label_delays_raw FINAL;
