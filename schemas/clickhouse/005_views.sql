-- What analysts join and people on call look at: latest score per customer and day, a star schema, the newest drift reports.
CREATE OR REPLACE VIEW streamgauge.daily_scores AS
SELECT
    pipeline,
    customer_id,
    day,
    latest.1 AS score,
    latest.2 AS decision,
    latest.3 AS model,
    latest.4 AS version,
    latest.5 AS event_id,
    latest.6 AS event_time,
    latest.7 AS scored_at,
    n_scores
FROM
(
    SELECT
        pipeline,
        customer_id,
        toDate(event_time) AS day,
        argMax((score, decision, model, version, event_id, event_time, scored_at), (event_time, topic, partition, offset)) AS latest,
        count() AS n_scores
    FROM streamgauge.scores
    GROUP BY pipeline, customer_id, day
);

CREATE OR REPLACE VIEW streamgauge.fact_scores AS
SELECT
    concat(pipeline, '|', model, '|', version) AS model_key,
    concat(pipeline, '|', customer_id) AS entity_key,
    toYYYYMMDD(event_time) AS date_key,
    event_id,
    event_time,
    score,
    decision,
    role,
    topic,
    partition,
    offset,
    scored_at
FROM streamgauge.scores;

CREATE OR REPLACE VIEW streamgauge.dim_model AS
SELECT
    concat(pipeline, '|', model, '|', version) AS model_key,
    pipeline,
    model,
    version,
    role,
    feature_set,
    valid_from,
    trained_from,
    trained_to,
    updated_at
FROM streamgauge.model_versions;

CREATE OR REPLACE VIEW streamgauge.dim_entity AS
SELECT
    concat(pipeline, '|', customer_id) AS entity_key,
    pipeline,
    customer_id,
    min(event_time) AS first_event_time,
    max(event_time) AS last_event_time
FROM streamgauge.scores_raw
WHERE shadow = ''
GROUP BY pipeline, customer_id;

CREATE OR REPLACE VIEW streamgauge.dim_date AS
SELECT
    toYYYYMMDD(date) AS date_key,
    toDate('1970-01-01') + number AS date,
    toYear(date) AS year,
    toQuarter(date) AS quarter,
    toMonth(date) AS month,
    toDayOfMonth(date) AS day,
    toISOWeek(date) AS iso_week,
    toDayOfWeek(date) AS weekday,
    weekday > 5 AS is_weekend
FROM numbers(47482);

CREATE OR REPLACE VIEW streamgauge.drift_now AS
SELECT * EXCEPT (newest_end)
FROM
(
    SELECT
        *,
        max(window_end) OVER (PARTITION BY pipeline, model, segment, metric, test) AS newest_end
    FROM streamgauge.drift_reports
)
WHERE window_end = newest_end;
