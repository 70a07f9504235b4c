-- Which monitor writes and which block each partition is at: whoever takes over fences the former and repeats that block under its token.
CREATE TABLE IF NOT EXISTS streamgauge.monitor_terms
(
    pipeline LowCardinality(String),
    term UInt64,
    owner String,
    claimed_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(claimed_at)
ORDER BY (pipeline, term, owner)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS streamgauge.monitor_blocks
(
    pipeline LowCardinality(String),
    topic LowCardinality(String),
    partition Int32,
    first_offset Int64,
    next_offset Int64,
    attempt UInt64,
    held_topic LowCardinality(String),
    held_partition Int32,
    held_offset Int64,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (pipeline, topic, partition)
SETTINGS non_replicated_deduplication_window = 10000;
