"""What the monitor shows of the tables: our own questions about a pipeline, kept while ClickHouse has much to do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from app.adapters.clickhouse.read_pool import ReadPool
from app.adapters.clickhouse.sql_gate import quote
from app.adapters.http.kept import Kept

Row = dict[str, Any]

_COUNTS = """
SELECT
    (SELECT count() FROM streamgauge.scores WHERE pipeline = {pipeline}) AS scored,
    (SELECT count() FROM streamgauge.dead_letters WHERE pipeline = {pipeline}) AS dead_letters,
    (
        SELECT uniqExact(window_start) FROM streamgauge.model_metadata
        WHERE pipeline = {pipeline} AND stage = 'scoring' AND metric = 'score' AND decile = 'n'
    ) AS windows_closed
"""
_MODELS = """
SELECT
    version, role, valid_from, trained_from, trained_to, updated_at, why,
    if(mapContains(metrics, 'auc'), metrics['auc'], NULL) AS auc
FROM streamgauge.model_versions WHERE pipeline = {pipeline} ORDER BY updated_at DESC, version DESC
"""
_PERFORMANCE = """
SELECT
    window_start, window_end, version, measure,
    estimated, estimated_low, estimated_high, realised, low, high, expected, n_labels
FROM streamgauge.performance
WHERE pipeline = {pipeline} AND segment = 'all'
AND window_start IN
(
    SELECT DISTINCT window_start FROM streamgauge.performance
    WHERE pipeline = {pipeline} AND segment = 'all' ORDER BY window_start DESC LIMIT 20
)
ORDER BY window_end DESC, version DESC, measure
"""
# In the newest window with labels. Of many segments a few are below their 95 % range by chance, so that these must be
# half as far below again.
_WORSE_SEGMENTS = """
SELECT window_start, window_end, version, segment, realised, low, high, expected, n_labels
FROM streamgauge.performance
WHERE pipeline = {pipeline} AND segment != 'all' AND measure = 'auc'
AND expected - realised >= 0.02 AND expected - realised > 1.5 * (high - realised)
AND window_end =
(
    SELECT max(window_end) FROM streamgauge.performance
    WHERE pipeline = {pipeline} AND segment = 'all' AND measure = 'auc' AND realised IS NOT NULL
)
ORDER BY expected - realised DESC, segment, version
"""
_LABELS = """
SELECT maxOrNullIf(window_end, labels > 0) AS newest
FROM streamgauge.input_checks WHERE pipeline = {pipeline}
HAVING count() > 0
"""
_VERDICTS = """
SELECT window_start, window_end, version, kind, headline, words, segments, advice, reason, with_labels
FROM streamgauge.verdicts WHERE pipeline = {pipeline} ORDER BY window_end DESC, version DESC
"""
# The tests that compare a window with its reference may be unable to judge it where those of its past can: then it
# counts as not judged.
_DRIFT = """
SELECT
    metric,
    window_start,
    groupUniqArray(signal) AS signals,
    maxOrNullIf(statistic, test = 'psi') AS psi,
    arrayStringConcat(arraySort(groupUniqArrayIf(test, signal = 'DRIFT')), ', ') AS tests,
    if(
        countIf(NOT is_of_past) > 0,
        countIf(threshold IS NOT NULL AND NOT is_of_past),
        countIf(threshold IS NOT NULL)
    ) > 0 AS is_judged,
    if(is_judged, '', argMinIf(note, (is_of_past, test), threshold IS NULL AND note != '')) AS note
FROM (SELECT *, test IN ('trend', 'interval') AS is_of_past FROM streamgauge.drift_reports)
WHERE pipeline = {pipeline} AND segment = 'all' AND NOT startsWith(test, 'classic_') AND metric != 'error'
AND window_start IN
(
    SELECT DISTINCT window_start FROM streamgauge.drift_reports
    WHERE pipeline = {pipeline} AND metric != 'error' ORDER BY window_start DESC LIMIT 12
)
GROUP BY metric, window_start
ORDER BY metric, window_start
"""
# Detectors keep to no window: their reports reach from the change to where it was noticed.
_DETECTIONS = """
SELECT window_start, window_end, version, test, signal, note
FROM streamgauge.drift_reports WHERE pipeline = {pipeline} AND metric = 'error'
ORDER BY window_end DESC, version DESC, test
"""
_OPEN_ALERTS = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now
WHERE pipeline = {pipeline} AND state IN ('raised', 'acknowledged')
ORDER BY indexOf(['critical', 'warning', 'info'], severity), since, alert_id
"""
# What the newest windows say to the versions and measures of alerts that are open, and what to do: of performance the
# newest one with labels, of verdicts the newest with labels and the newest without.
_NEWEST = """
WITH
    open AS
    (
        SELECT version, measure FROM streamgauge.alerts_now
        WHERE pipeline = {pipeline} AND state IN ('raised', 'acknowledged')
    ),
    said AS
    (
        SELECT version, window_start, window_end, headline, advice, reason, with_labels FROM streamgauge.verdicts
        WHERE pipeline = {pipeline} AND version IN (SELECT version FROM open)
    )
SELECT
    version, measure, window_start, window_end, realised, low, high, expected, headline, advice, reason,
    true AS with_labels
FROM
(
    SELECT version, measure, window_start, window_end, realised, low, high, expected FROM streamgauge.performance
    WHERE pipeline = {pipeline} AND segment = 'all' AND realised IS NOT NULL
    AND (version, measure) IN (SELECT version, measure FROM open)
    ORDER BY window_end DESC, window_start DESC LIMIT 1 BY version, measure
) AS come
LEFT JOIN (SELECT * EXCEPT (with_labels) FROM said) AS verdict USING (version, window_start, window_end)
UNION ALL
SELECT version, 'verdict', window_start, window_end, NULL, NULL, NULL, NULL, headline, advice, reason, with_labels
FROM said ORDER BY window_end DESC, window_start DESC LIMIT 1 BY version, with_labels
"""
# What an alert said first tells what it was; when it is over, it says only that.
_OTHER_ALERTS = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now
LEFT JOIN
(
    SELECT alert_id, argMin(message, revision) AS opening FROM streamgauge.alerts
    WHERE pipeline = {pipeline} AND state != 'cleared' GROUP BY alert_id
) AS first USING (alert_id)
WHERE pipeline = {pipeline} AND state NOT IN ('raised', 'acknowledged')
ORDER BY at DESC, window_start DESC, rule, alert_id
"""
_ALERTS_NOW = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now WHERE pipeline = {pipeline}
ORDER BY state NOT IN ('raised', 'acknowledged'), at DESC, window_start DESC, rule, alert_id
"""


@dataclass(frozen=True)
class Tables:
    """What the page shows of them."""

    counts: Row = field(default_factory=dict)
    models: list[Row] = field(default_factory=list)
    performance: list[Row] = field(default_factory=list)
    #: Segments that do worse than promised.
    worse_segments: list[Row] = field(default_factory=list)
    #: Of a pipeline with labels, one row: until when they have come.
    labels: list[Row] = field(default_factory=list)
    verdicts: list[Row] = field(default_factory=list)
    drift: list[Row] = field(default_factory=list)
    detections: list[Row] = field(default_factory=list)
    #: What the newest windows say to alerts that are open.
    newest: list[Row] = field(default_factory=list)
    open_alerts: list[Row] = field(default_factory=list)
    other_alerts: list[Row] = field(default_factory=list)


class MonitorTables:
    """Asks our own questions; those of users have another pool, so that ours wait for none of them."""

    def __init__(self, pipeline: str, reads: ReadPool) -> None:
        self._pipeline = quote(pipeline)
        self._reads = reads
        #: How much there is.
        self.counts = Kept(self._find_counts, pause_s=0.25)
        #: All of the page.
        self.all = Kept(self._find_all, pause_s=1.0)
        self._looking: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Look by itself, now and then."""
        self._looking = [asyncio.create_task(kept.keep_fresh()) for kept in (self.counts, self.all)]

    async def close(self) -> None:
        """Stop looking."""
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        await self.counts.close()
        await self.all.close()

    async def alerts(self, *, only_open: bool, limit: int) -> list[Row]:
        """How alerts stand."""
        return await self._ask(_OPEN_ALERTS if only_open else _ALERTS_NOW, limit)

    async def _find_counts(self) -> Row:
        (counts,) = await self._ask(_COUNTS, 1)
        return counts

    async def _find_all(self) -> Tables:
        (counts,), *others = await asyncio.gather(
            self._ask(_COUNTS, 1),
            self._ask(_MODELS, 20),
            self._ask(_PERFORMANCE, 1_000),
            self._ask(_WORSE_SEGMENTS, 10),
            self._ask(_LABELS, 1),
            self._ask(_VERDICTS, 12),
            self._ask(_DRIFT, 5_000),
            self._ask(_DETECTIONS, 10),
            self._ask(_NEWEST, 200),
            self._ask(_OPEN_ALERTS, 50),
            self._ask(_OTHER_ALERTS, 20),
        )
        return Tables(counts, *others)

    async def _ask(self, question: str, limit: int) -> list[Row]:
        async with self._reads.answer(question.replace("{pipeline}", self._pipeline), limit, as_objects=True) as answer:
            return answer.read()
