-- Alerts say whom they are for, what to do, since when and with which others; an alert may come into a state again, so its steps are counted.
ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS revision UInt64 DEFAULT 0;

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS since Nullable(DateTime64(3, 'UTC')) DEFAULT NULL;

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS alert_group LowCardinality(String) DEFAULT '';

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS others Array(String) DEFAULT [];

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS owner LowCardinality(String) DEFAULT '';

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS runbook String DEFAULT '';

ALTER TABLE streamgauge.alerts_raw ADD COLUMN IF NOT EXISTS why String DEFAULT '';

CREATE OR REPLACE VIEW streamgauge.alerts AS
SELECT * FROM streamgauge.alerts_raw FINAL;

CREATE OR REPLACE VIEW streamgauge.alerts_now AS
SELECT * FROM streamgauge.alerts
ORDER BY revision DESC, at DESC
LIMIT 1 BY pipeline, alert_id;
