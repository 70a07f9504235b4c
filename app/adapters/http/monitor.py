"""The monitor's HTTP side: health, metrics, the API, and a page for people.

It trusts whoever can reach it, so it listens on this machine alone unless told otherwise; `HttpServer` keeps out the
browsers that others have sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from aiohttp import web

from app.adapters.clickhouse.read_pool import BusyError, ReadPool
from app.adapters.clickhouse.sql_gate import quote
from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.alert_answers import Acknowledge, AlertDesk
from app.adapters.http.page import Page, render
from app.adapters.http.row_intake import RowIntake
from app.adapters.http.server import HttpServer, ProblemError, busy, read_json, respond, send
from app.adapters.http.tables import MonitorTables, Tables
from app.adapters.http.worker import Health, Metric, Sample, Vitals
from app.ports import Warehouse, WarehouseError

METRICS = (
    Metric("streamgauge_monitor_active", "gauge", "1 when this monitor is at work, 0 while it stands by."),
    Metric("streamgauge_monitor_rows_total", "counter", "Rows inserted since the start, by table."),
    Metric("streamgauge_monitor_refused_total", "counter", "Records that were none of ours, by topic and reason."),
    Metric("streamgauge_monitor_lag", "gauge", "Records that the monitor is behind, by topic and partition."),
    Metric("streamgauge_monitor_workers", "gauge", "Workers that read the events now; nothing is scored without one."),
    Metric("streamgauge_worker_lag", "gauge", "Records that the workers are behind on the events, by partition."),
    Metric(
        "streamgauge_monitor_router_lag",
        "gauge",
        "Events and labels still to be copied to the partitions of their entities, by topic and partition.",
    ),
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
_CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Questions that wait for their turn; one more is refused.
_MOST_WAITING = 20
_EXAMPLE = '{"sql": "SELECT …", "limit": 1000}'


class Query(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /api/v1/query``."""

    sql: Annotated[str, msgspec.Meta(max_length=LONGEST_SQL)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROWS)] = DEFAULT_LIMIT


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

    def __init__(
        self, sources: Sources, warehouse: WarehouseThread, reader: Warehouse, allowed_hosts: Iterable[str] = ()
    ) -> None:
        self._sources = sources
        self._queries = ReadPool(reader, running=reader.most_reads, waiting=_MOST_WAITING, name="query")
        # Our own questions are short, and few: what is shown to many is found once.
        self._own = ReadPool(reader, running=2, waiting=_MOST_WAITING, name="own")
        self._tables = MonitorTables(sources.pipeline, self._own)
        self._server = HttpServer(
            [
                web.get("/", self._page),
                *Vitals(METRICS, sources.health, sources.samples).routes(),
                web.post("/api/v1/query", self._query),
                web.post("/api/v1/rows/{table}", RowIntake(warehouse).take),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/lag", self._lag),
                web.get("/api/v1/models", self._models),
                web.get("/api/v1/drift", self._drift),
                web.get("/api/v1/performance", self._performance),
                web.get("/api/v1/verdicts", self._verdicts),
                web.get("/api/v1/alerts", self._alerts),
                web.post("/api/v1/alerts/{alert_id}/acknowledge", AlertDesk(sources.acknowledge).acknowledge),
            ],
            allowed_hosts,
        )

    async def start(self, host: str, port: int, *, or_free: bool = False) -> str:
        """See `HttpServer.start`."""
        address = await self._server.start(host, port, or_free=or_free)
        self._tables.open()
        return address

    async def stop(self) -> None:
        await self._server.stop()
        await self._tables.close()
        await self._queries.close()
        await self._own.close()

    # -- health and numbers --------------------------------------------------------------------------------------------

    async def _lag(self, _: web.Request) -> web.Response:
        return respond(self._sources.lag())

    async def _status(self, _: web.Request) -> web.Response:
        counts = await self._tables.counts.get()
        status = {**self._sources.status(), **(counts.value or {}), "counted_at": counts.found_at}
        if counts.error:
            status["error"] = counts.error
        return respond(status)

    # -- the API -------------------------------------------------------------------------------------------------------

    async def _query(self, request: web.Request) -> web.StreamResponse:
        query = await read_json(request, Query, _MOST_BODY_BYTES, _EXAMPLE)
        if not query.sql.strip():
            raise ProblemError(400, f"The body has no SQL: send {_EXAMPLE}.")
        with _errors_as_problems():
            async with self._queries.answer(query.sql, query.limit) as answer:
                names, types = (msgspec.json.encode(words) for words in (answer.columns, answer.types))
                head = b'{"columns":' + names + b',"types":' + types + b',"rows":['
                tail = b'],"truncated":true}' if answer.truncated else b'],"truncated":false}'
                return await send(request, _around(head, answer.pieces, tail))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        names = "model, version, role, valid_from, trained_from, trained_to, metrics, who, why, updated_at, uri, sha256"
        return await self._list(request, "models", names, "model_versions", "updated_at DESC, version DESC")

    async def _drift(self, request: web.Request) -> web.StreamResponse:
        order = "window_end DESC, version DESC, metric, test"
        return await self._list(request, "reports", "* EXCEPT (pipeline)", "drift_reports", order)

    async def _performance(self, request: web.Request) -> web.StreamResponse:
        order = "window_end DESC, version DESC, measure"
        return await self._list(request, "performance", "* EXCEPT (pipeline)", "performance", order)

    async def _verdicts(self, request: web.Request) -> web.StreamResponse:
        order = "window_end DESC, version DESC"
        return await self._list(request, "verdicts", "* EXCEPT (pipeline)", "verdicts", order)

    async def _alerts(self, request: web.Request) -> web.StreamResponse:
        """The history, newest first; with ``?now=open`` what needs somebody now, with ``?now=all`` how each stands."""
        now = request.query.get("now", "")
        if not now:
            return await self._list(request, "alerts", "* EXCEPT (pipeline)", "alerts", "at DESC, alert_id, state")
        if now not in {"open", "all"}:
            raise ProblemError(400, "now must be open or all.")
        with _errors_as_problems():
            return respond({"alerts": await self._tables.alerts(only_open=now == "open", limit=DEFAULT_LIMIT)})

    async def _list(self, request: web.Request, name: str, columns: str, table: str, order: str) -> web.StreamResponse:
        """Newest rows of a table; ``?limit=N&version=V``."""
        limit = _read_limit(request.query.get("limit", str(DEFAULT_LIMIT)))
        condition = f"pipeline = {quote(self._sources.pipeline)}"
        if "version" in request.query:
            condition += f" AND version = {quote(request.query['version'])}"
        sql = f"SELECT {columns} FROM streamgauge.{table} WHERE {condition} ORDER BY {order}"  # noqa: S608  # quoted
        with _errors_as_problems():
            async with self._own.answer(sql, limit, as_objects=True) as answer:
                return await send(request, _around(f'{{"{name}":['.encode(), answer.pieces, b"]}"))

    async def _page(self, _: web.Request) -> web.Response:
        tables = await self._tables.all.get()
        page = Page(
            self._sources.pipeline,
            self._sources.status(),
            self._sources.lag(),
            self._sources.health(),
            tables.value or Tables(),
            tables.found_at,
            tables.error,
        )
        return web.Response(
            text=render(page), content_type="text/html", headers={"Content-Security-Policy": _CONTENT_POLICY}
        )


def _around(head: bytes, pieces: Sequence[bytes], tail: bytes) -> list[bytes]:
    """Put pieces, with commas between them, between a head and a tail."""
    between = [part for piece in pieces for part in (b",", piece)][1:]
    return [head, *between, tail]


@contextmanager
def _errors_as_problems() -> Iterator[None]:
    try:
        yield
    except BusyError as error:
        raise busy(str(error), error.retry_after_s) from error
    except WarehouseError as error:
        raise (busy(str(error), 5) if error.retryable else ProblemError(400, str(error))) from error


def _read_limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MOST_ROWS):
        raise ProblemError(400, f"limit must be a whole number from 1 to {MOST_ROWS}.")
    return int(text)
