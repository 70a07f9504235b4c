-- Rows that damaged or forged records had brought in, of times that no table can hold: reading one of them failed.

ALTER TABLE streamgauge.scores_raw DELETE
WHERE toUnixTimestamp64Milli(event_time) NOT BETWEEN -2208988800000 AND 10413791999999
    OR toUnixTimestamp64Milli(scored_at) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.model_versions_raw DELETE
WHERE toUnixTimestamp64Milli(updated_at) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.model_events_raw DELETE
WHERE toUnixTimestamp64Milli(at) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.model_metadata_raw DELETE
WHERE toUnixTimestamp64Milli(window_start) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.drift_reports_raw DELETE
WHERE toUnixTimestamp64Milli(window_start) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.performance_raw DELETE
WHERE toUnixTimestamp64Milli(window_start) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.verdicts_raw DELETE
WHERE toUnixTimestamp64Milli(window_start) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.dead_letters_raw DELETE
WHERE toUnixTimestamp64Milli(rejected_at) NOT BETWEEN -2208988800000 AND 10413791999999;

ALTER TABLE streamgauge.dead_letters_raw
UPDATE record_time = fromUnixTimestamp64Milli(least(greatest(toUnixTimestamp64Milli(record_time), -2208988800000), 10413791999999), 'UTC')
WHERE toUnixTimestamp64Milli(record_time) NOT BETWEEN -2208988800000 AND 10413791999999;
