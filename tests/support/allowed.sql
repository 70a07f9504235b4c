SELECT 1
SELECT 1;
SELECT score, features['a'], toDate(event_time) AS d FROM scores_raw PREWHERE score > 1 WHERE version IN ('1', '2') LIMIT 5 OFFSET 2
SELECT version, count() FROM scores_raw FINAL GROUP BY version HAVING count() > 1 ORDER BY version DESC NULLS LAST
WITH x AS (SELECT score AS a FROM scores), y AS (SELECT 1 AS b) SELECT * FROM x JOIN y ON x.a = y.b LEFT JOIN streamgauge.alerts AS s ON s.version = toString(x.a)
WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT sum(n) FROM t
WITH 1 AS one, (SELECT max(score) FROM scores) AS most SELECT one, most
SELECT count(), quantile(0.5)(score), sumIf(score, score > 1), avg(score) OVER (PARTITION BY version ORDER BY event_time ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM scores GROUP BY score, version, event_time
SELECT rank() OVER w FROM scores WINDOW w AS (PARTITION BY version ORDER BY event_time)
SELECT arrayMap(x -> x + 1, [1]), arrayFilter((x, y) -> x > y, [1], [0]), z FROM scores ARRAY JOIN mapKeys(features) AS z
SELECT * EXCEPT (score), * REPLACE (score + 1 AS score), COLUMNS('^s') APPLY(toString) FROM scores
SELECT s.*, COLUMNS(score, version), s.COLUMNS('^s') FROM scores s
SELECT CASE WHEN score = 1 THEN 'x' ELSE 'y' END, score::String, CAST(score AS Float32), event_time + INTERVAL 1 DAY, event_time BETWEEN '2020-01-01 00:00:00' AND now(), score > 1 ? 1 : 2 FROM scores
(SELECT 1) UNION ALL (SELECT 2) UNION DISTINCT SELECT 3
SELECT 1 INTERSECT SELECT 1 EXCEPT SELECT 2
SELECT score FROM scores WHERE score IN (SELECT score FROM streamgauge.scores) AND EXISTS (SELECT 1 FROM scores) AND score NOT IN (1, 2)
SELECT 1 WHERE 1 IN (1) AND (1, 'a') IN ((1, 'a'), (2, 'b')) AND 1 NOT IN (SELECT 2)
SELECT version, role, count() FROM scores GROUP BY GROUPING SETS ((version), (role))
SELECT version, count() FROM scores GROUP BY version WITH ROLLUP
SELECT version, role, count() FROM scores GROUP BY CUBE(version, role)
SELECT version, count() FROM scores GROUP BY version WITH TOTALS
SELECT score FROM scores LIMIT 1 BY version LIMIT 10
SELECT DISTINCT version FROM scores
SELECT version FROM scores ORDER BY version LIMIT 3 WITH TIES
SELECT * FROM numbers(10) AS n CROSS JOIN (SELECT 1) AS q ASOF JOIN scores AS s ON n.number = toUInt64(s.offset) AND n.number >= toUInt64(s.partition)
SELECT name FROM system.tables WHERE database = 'streamgauge'
SELECT table_name FROM information_schema.columns WHERE table_schema = 'streamgauge'
SELECT toStartOfHour(event_time) AS h, sum(score) AS s FROM scores GROUP BY h ORDER BY h WITH FILL STEP 3600 INTERPOLATE (s AS s + 1)
SELECT score FROM scores QUALIFY row_number() OVER (ORDER BY score) = 1
SELECT groupArray((score, version)), argMax(version, event_time), uniqExact(score), topK(3)(version), quantiles(0.1, 0.9)(score) FROM scores
SELECT formatDateTime(event_time, '%Y'), TRIM(BOTH ' ' FROM version), SUBSTRING(version FROM 1 FOR 2), POSITION('a' IN version), EXTRACT(YEAR FROM event_time) FROM scores
SELECT format('{} {}', 'a', 'b'), values, format FROM (SELECT 1 AS values, 2 AS format)
SELECT score AS "a/b", "a/b" + 1 FROM scores ORDER BY "a/b"
SELECT '/etc/passwd' AS path, path(version), 'file', 'SETTINGS x = 1 INTO OUTFILE' FROM scores
SELECT airtime, dictionary_id, settings FROM (SELECT 1 AS airtime, 2 AS dictionary_id, 3 AS settings) WHERE settings = 3
SELECT JSONExtractFloat('{"a":1}', 'a'), '{"a":1}'::JSON.a, tuple(1, 'a').1, [1, 2][1], NULL, true, -1, 1e3, 0xff
SELECT version LIKE 'a%' AND version ILIKE '%B' AND NOT isNull(score) AND score IS NOT NULL OR version != '' FROM scores
SELECT scores.score, streamgauge.scores.version FROM streamgauge.scores
SELECT sum(score) FILTER (WHERE score > 1), any(score) IGNORE NULLS FROM scores
SELECT * FROM view(SELECT score FROM scores)
SELECT * FROM values('x Int8', 1, 2)
FROM scores SELECT score
SHOW TABLES
SHOW TABLES FROM streamgauge LIKE 's%'
SHOW DATABASES
SHOW FUNCTIONS LIKE 'toStartOf%'
SHOW CREATE TABLE scores
SHOW CREATE TABLE streamgauge.alerts
DESCRIBE scores
DESC TABLE streamgauge.scores
DESCRIBE TABLE (SELECT score FROM scores)
EXPLAIN SELECT score FROM scores
EXPLAIN indexes = 1 SELECT score FROM scores
EXPLAIN PIPELINE SELECT score FROM scores
EXPLAIN SYNTAX SELECT score FROM scores
EXPLAIN QUERY TREE SELECT score FROM scores
EXPLAIN AST SELECT score FROM scores
EXISTS scores
EXISTS TABLE streamgauge.scores
-- why\nSELECT /* how */ 1
