-- The database, and the ledger of these files: without it nothing can say which of them a server has already seen.
CREATE DATABASE IF NOT EXISTS streamgauge;

CREATE TABLE IF NOT EXISTS streamgauge.schema_migrations
(
    name String,
    checksum String,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY name;
