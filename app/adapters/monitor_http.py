"""The monitor's HTTP side: health, metrics, the API, and a page for people.

It trusts whoever can reach it, so it listens on this machine alone unless told otherwise; `HttpServer` keeps out the
browsers that others have sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from aiohttp import web

from app.adapters.alert_answers import Acknowledge, AlertDesk
from app.adapters.http_server import HttpServer, ProblemError, busy, read_json, respond
from app.adapters.monitor_page import Page, render
from app.adapters.row_intake import RowIntake
from app.adapters.sql_gate import quote
from app.adapters.warehouse_thread import WarehouseThread
from app.adapters.worker_http import Health, Metric
from app.ports import QueryResult, WarehouseError

METRICS = (
    Metric("streamgauge_monitor_active", "gauge", "1 when this monitor is at work, 0 while it stands by."),
    Metric("streamgauge_monitor_rows_total", "counter", "Rows inserted since the start, by table."),
    Metric("streamgauge_monitor_refused_total", "counter", "Records that were none of ours, by topic and reason."),
    Metric("streamgauge_monitor_lag", "gauge", "Records that the monitor is behind, by topic and partition."),
    Metric("streamgauge_worker_lag", "gauge", "Records that the workers are behind on the events, by partition."),
    Metric("streamgauge_monitor_open_windows", "gauge", "Windows that hold counts and have not closed."),
    Metric("streamgauge_monitor_late_events_total", "counter", "Events that came after their window was forgotten."),
    Metric("streamgauge_monitor_watermark_seconds", "gauge", "Event time before which no on-time event is expected."),
    Metric(
        "streamgauge_monitor_labels_total",
        "counter",
        "Labels by outcome: joined, other_partition (their entity was seen elsewhere), too_late, unknown.",
    ),
    Metric("streamgauge_monitor_entities", "gauge", "Different entities whose partitions are remembered."),
    Metric(
        "streamgauge_monitor_entities_in_several_partitions",
        "gauge",
        "Entities that were seen in more than one partition: their windows are wrong.",
    ),
    Metric("streamgauge_monitor_warehouse_up", "gauge", "1 when the last call to ClickHouse went well."),
    Metric("streamgauge_monitor_warehouse_down_seconds", "gauge", "For how long writing to ClickHouse has failed now."),
    Metric("streamgauge_monitor_warehouse_failures_total", "counter", "Calls to ClickHouse that failed."),
    Metric("streamgauge_monitor_held_bytes", "gauge", "Records received that wait to be written; bounded by pausing."),
    Metric("streamgauge_monitor_lost_records_total", "counter", "Records that Kafka deleted before they were written."),
)

DEFAULT_LIMIT = 1_000
MOST_ROWS = 1_000_000
#: The engine's own limit (max_query_size), and room for how JSON writes it.
LONGEST_SQL = 1 << 18
_MOST_BODY_BYTES = 2 * LONGEST_SQL
_EXAMPLE = '{"sql": "SELECT …", "limit": 1000}'

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
SELECT version, role, valid_from, trained_from, trained_to, metrics['auc'] AS auc, updated_at, why
FROM streamgauge.model_versions WHERE pipeline = {pipeline} ORDER BY updated_at DESC, version DESC
"""
_PERFORMANCE = """
SELECT window_start, window_end, version, measure, estimated, realised, low, high, n_labels
FROM streamgauge.performance
WHERE pipeline = {pipeline} AND segment = 'all' AND measure IN ('auc', 'log_loss', 'accuracy')
ORDER BY window_end DESC, version DESC, measure
"""
_VERDICTS = """
SELECT window_start, window_end, version, kind, headline, words, segments, advice, reason, with_labels
FROM streamgauge.verdicts WHERE pipeline = {pipeline} ORDER BY window_end DESC, version DESC
"""
_DRIFT = """
SELECT
    metric,
    window_start,
    groupUniqArray(signal) AS signals,
    maxOrNullIf(statistic, test = 'psi') AS psi,
    arrayStringConcat(arraySort(groupUniqArrayIf(test, signal = 'DRIFT')), ', ') AS tests
FROM streamgauge.drift_reports
WHERE pipeline = {pipeline} AND segment = 'all' AND NOT startsWith(test, 'classic_') AND window_start IN
(
    SELECT DISTINCT window_start FROM streamgauge.drift_reports
    WHERE pipeline = {pipeline} ORDER BY window_start DESC LIMIT 12
)
GROUP BY metric, window_start
ORDER BY metric, window_start
"""
_OPEN_ALERTS = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now
WHERE pipeline = {pipeline} AND state IN ('raised', 'acknowledged')
ORDER BY indexOf(['critical', 'warning', 'info'], severity), since, alert_id
"""
_OTHER_ALERTS = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now
WHERE pipeline = {pipeline} AND state NOT IN ('raised', 'acknowledged')
ORDER BY at DESC, window_start DESC, rule, alert_id
"""
_ALERTS_NOW = """
SELECT * EXCEPT (pipeline) FROM streamgauge.alerts_now WHERE pipeline = {pipeline}
ORDER BY state NOT IN ('raised', 'acknowledged'), at DESC, window_start DESC, rule, alert_id
"""


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /api/v1/query``."""

    sql: Annotated[str, msgspec.Meta(max_length=LONGEST_SQL)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = DEFAULT_LIMIT


@dataclass(frozen=True)
class Sample:
    """One value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Sources:
    """What is served: functions of the monitor as it is now."""

    pipeline: str
    health: Callable[[], Health]
    samples: Callable[[], Iterable[Sample]]
    status: Callable[[], dict[str, Any]]
    lag: Callable[[], dict[str, Any]]
    acknowledge: Acknowledge


class MonitorHttp:
    """Serves one monitor; ``allowed_hosts`` as in `HttpServer`."""

    def __init__(self, sources: Sources, warehouse: WarehouseThread, allowed_hosts: Iterable[str] = ()) -> None:
        self._sources = sources
        self._warehouse = warehouse
        self._server = HttpServer(
            [
                web.get("/", self._page),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.post("/api/v1/query", self._query),
                web.post("/api/v1/rows/{table}", RowIntake(self._warehouse).take),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/lag", self._lag),
                web.get("/api/v1/models", self._models),
                web.get("/api/v1/drift", self._drift),
                web.get("/api/v1/performance", self._performance),
                web.get("/api/v1/verdicts", self._verdicts),
                web.get("/api/v1/alerts", self._alerts),
                web.post("/api/v1/alerts/{alert_id}/acknowledge", AlertDesk(self._sources.acknowledge).acknowledge),
            ],
            allowed_hosts,
        )

    async def start(self, host: str, port: int) -> str:
        """See `HttpServer.start`."""
        return await self._server.start(host, port)

    async def stop(self) -> None:
        await self._server.stop()

    # -- health and numbers --------------------------------------------------------------------------------------------

    async def _healthz(self, _: web.Request) -> web.Response:
        health = self._sources.health()
        return respond({"ok": health.live, "why": health.why}, 200 if health.live else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        health = self._sources.health()
        return respond({"ok": health.ready, "why": health.why}, 200 if health.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=expose(self._sources.samples()), content_type="text/plain")

    async def _lag(self, _: web.Request) -> web.Response:
        return respond(self._sources.lag())

    async def _status(self, _: web.Request) -> web.Response:
        status = self._sources.status()
        try:
            status |= await self._counts()
        except WarehouseError as error:
            status["error"] = str(error)
        return respond(status)

    async def _counts(self) -> dict[str, Any]:
        (counts,) = await self._ask(_COUNTS, 1)
        return counts

    # -- the API -------------------------------------------------------------------------------------------------------

    async def _query(self, request: web.Request) -> web.Response:
        query = await read_json(request, Query, _MOST_BODY_BYTES, _EXAMPLE)
        if not query.sql.strip():
            raise ProblemError(400, f"The body has no SQL: send {_EXAMPLE}.")
        with _errors_as_problems():
            result = await self._warehouse.ask(query.sql, query.limit)
        text = await asyncio.to_thread(lambda: json.dumps(result.to_json()))  # many rows take a while
        return web.json_response(text=text)

    async def _models(self, request: web.Request) -> web.Response:
        names = "model, version, role, valid_from, trained_from, trained_to, metrics, who, why, updated_at, uri, sha256"
        return await self._list(request, "models", names, "model_versions", "updated_at DESC, version DESC")

    async def _drift(self, request: web.Request) -> web.Response:
        order = "window_end DESC, version DESC, metric, test"
        return await self._list(request, "reports", "* EXCEPT (pipeline)", "drift_reports", order)

    async def _performance(self, request: web.Request) -> web.Response:
        order = "window_end DESC, version DESC, measure"
        return await self._list(request, "performance", "* EXCEPT (pipeline)", "performance", order)

    async def _verdicts(self, request: web.Request) -> web.Response:
        order = "window_end DESC, version DESC"
        return await self._list(request, "verdicts", "* EXCEPT (pipeline)", "verdicts", order)

    async def _alerts(self, request: web.Request) -> web.Response:
        """The history, newest first; with ``?now=open`` what wants somebody now, with ``?now=all`` how each stands."""
        now = request.query.get("now", "")
        if not now:
            return await self._list(request, "alerts", "* EXCEPT (pipeline)", "alerts", "at DESC, alert_id, state")
        if now not in {"open", "all"}:
            raise ProblemError(400, "now must be open or all.")
        with _errors_as_problems():
            return respond({"alerts": await self._ask(_OPEN_ALERTS if now == "open" else _ALERTS_NOW, DEFAULT_LIMIT)})

    async def _list(self, request: web.Request, name: str, columns: str, table: str, order: str) -> web.Response:
        """Newest rows of a table; ``?limit=N&version=V``."""
        limit = _read_limit(request.query.get("limit", str(DEFAULT_LIMIT)))
        condition = f"pipeline = {quote(self._sources.pipeline)}"
        if "version" in request.query:
            condition += f" AND version = {quote(request.query['version'])}"
        sql = f"SELECT {columns} FROM streamgauge.{table} WHERE {condition} ORDER BY {order}"  # noqa: S608  # quoted
        with _errors_as_problems():
            return respond({name: await self._rows(sql, limit)})

    async def _page(self, _: web.Request) -> web.Response:
        page = Page(self._sources.pipeline, self._sources.status(), self._sources.lag(), self._sources.health())
        try:
            page.counts = await self._counts()
            page.models = await self._ask(_MODELS, 20)
            page.performance = await self._ask(_PERFORMANCE, 120)
            page.verdicts = await self._ask(_VERDICTS, 12)
            page.drift = await self._ask(_DRIFT, 5_000)
            page.open_alerts = await self._ask(_OPEN_ALERTS, 50)
            page.other_alerts = await self._ask(_OTHER_ALERTS, 20)
        except WarehouseError as error:
            page.error = str(error)
        return web.Response(
            text=render(page),
            content_type="text/html",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def _ask(self, question: str, limit: int) -> list[dict[str, Any]]:
        """Answer one of our own questions about this pipeline."""
        return await self._rows(question.replace("{pipeline}", quote(self._sources.pipeline)), limit)

    async def _rows(self, sql: str, limit: int) -> list[dict[str, Any]]:
        result: QueryResult = await self._warehouse.ask(sql, limit)
        answer = result.to_json()
        return [dict(zip(answer["columns"], row, strict=True)) for row in answer["rows"]]


@contextmanager
def _errors_as_problems() -> Iterator[None]:
    try:
        yield
    except WarehouseError as error:
        raise (busy(str(error), 5) if error.retryable else ProblemError(400, str(error))) from error


def _read_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MOST_ROWS):
        raise ProblemError(400, f"limit must be a whole number from 1 to {MOST_ROWS}.")
    return int(text)


def expose(samples: Iterable[Sample]) -> str:
    """Samples in Prometheus' text format, in the order of `METRICS`."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    lines = []
    for metric in METRICS:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for sample in by_name.get(metric.name, []):
            labels = ",".join(
                f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sample.labels.items()
            )
            lines.append(
                f"{metric.name}{{{labels}}} {sample.value:.12g}" if labels else f"{metric.name} {sample.value:.12g}"
            )
    return "\n".join(lines) + "\n"
