"""What a monitor says of itself: its health, its status, its lag and its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from faust.types import TP

from app.adapters.http.monitor import Sources
from app.adapters.http.worker import Health, Sample, refusal_samples
from app.adapters.kafka.lag import Position
from app.core.input_checks import InputCounts
from app.core.labels.maturity_setting import say_too_short
from app.monitor.monitor import Monitor

#: Versions of which the status says what is wrong; it counts them all.
_MOST_SHOWN = 20


def sources(monitor: Monitor) -> Sources:
    """What `MonitorHttp` serves of a monitor."""
    return Sources(
        pipeline=monitor.pipeline.name,
        health=lambda: _health(monitor),
        samples=lambda: _samples(monitor),
        status=lambda: _status(monitor),
        lag=lambda: _lag(monitor),
        acknowledge=monitor.acknowledge,
    )


def _health(monitor: Monitor) -> Health:
    """Live until it fails: starting it again does not mend a warehouse. Ready when it is at work, and all is well."""
    why = monitor.failure or monitor.warehouse.error
    if not why and monitor.term is None:
        why = "another monitor is at work" if monitor.is_standby else "no partitions yet"
    return Health(live=not monitor.failure, ready=not why, why=why)


def _status(monitor: Monitor) -> dict[str, Any]:
    term = monitor.term
    windows = term.core.windows if term is not None else None
    standby = "standing by" if monitor.is_standby else "starting"
    champion = monitor.history.standings.champion()
    refused, unread = monitor.history.standings.refused(), monitor.history.unreadable
    return {
        "pipeline": monitor.pipeline.name,
        "state": "at work" if term is not None else standby,
        "workers": monitor.lag.workers,
        "champion": champion.version if champion is not None else None,
        "refused_versions": _newest(refused),
        "refused_versions_total": len(refused),
        "versions": sorted(monitor.versions),
        "versions_without_manifest": _newest(unread),
        "versions_without_manifest_total": len(unread),
        "watermark": _iso(windows.watermark_ms) if windows is not None else None,
        "label_watermark": _iso(windows.label_watermark_ms) if windows is not None else None,
        "windows_open": windows.n_open if windows is not None else None,
        "late_events": windows.n_too_late if windows is not None else None,
        "unscored_events": windows.n_unscored if windows is not None else None,
        "labels": _labels(monitor),
        "entities": _entities(monitor),
        "router": _router(monitor),
        "rows": monitor.context.rows,
        "warehouse_error": monitor.warehouse.error,
        "refused_records": monitor.context.refusals.by_topic(),
    }


def _newest(versions: dict[str, str]) -> dict[str, str]:
    """The last of them: anybody may announce thousands."""
    return dict(reversed([*islice(reversed(versions.items()), _MOST_SHOWN)]))


def _labels(monitor: Monitor) -> dict[str, Any] | None:
    """Labels since the beginning of the topic, and those that found no event; None: there are no labels."""
    if monitor.term is None or monitor.pipeline.labels is None:
        return None
    core = monitor.term.core
    counts = core.inputs.totals
    law = core.delays.recent_law(core.windows.label_watermark_ms or 0)
    return {
        "delays": {str(label): law.summary(label) for label in (0, 1)},
        "maturity_too_short": say_too_short(
            law, monitor.pipeline.performance.maturity_ms, monitor.pipeline.labels.horizon_ms
        ),
        "applied": counts.labels,
        "without_event": counts.without_event,
        "share": counts.without_event / counts.labels if counts.labels else None,
        "other_partition": counts.other_partition,
        "too_late": counts.too_late,
        "unknown": counts.unknown,
    }


def _entities(monitor: Monitor) -> dict[str, Any] | None:
    """The entities that are remembered, and those of them in several partitions; None: nobody must know."""
    if monitor.context.entities is None or not monitor.context.entities.is_read.is_set():
        return None
    directory = monitor.context.entities.directory
    examples = list(map(str, directory.examples()))
    return {"seen": directory.entities, "in_several_partitions": directory.straying, "examples": examples}


def _router(monitor: Monitor) -> dict[str, Any] | None:
    """How far what is sent is copied to the partitions of its entities; None: it is scored where it is."""
    if not monitor.pipeline.events.repartition:
        return None
    positions = monitor.lag.of_router
    topics = sorted({topic for topic, _ in positions})
    return {topic: {"lag": sum(at.lag for (name, _), at in positions.items() if name == topic)} for topic in topics}


def _lag(monitor: Monitor) -> dict[str, Any]:
    def listed(positions: dict[TP, Position]) -> list[dict[str, Any]]:
        return [
            {"topic": topic, "partition": partition, "next": at.next_offset, "end": at.end, "lag": at.lag}
            for (topic, partition), at in sorted(positions.items())
        ]

    listed_router = {"router": listed(monitor.lag.of_router)} if monitor.pipeline.events.repartition else {}
    return {"worker": listed(monitor.lag.of_workers), "monitor": listed(monitor.lag.of_monitor), **listed_router}


def _samples(monitor: Monitor) -> Iterator[Sample]:
    term = monitor.term
    yield Sample("streamgauge_monitor_active", float(term is not None), {})
    yield Sample("streamgauge_monitor_warehouse_up", float(not monitor.warehouse.error), {})
    yield Sample("streamgauge_monitor_warehouse_down_seconds", monitor.warehouse.down_seconds, {})
    yield Sample("streamgauge_monitor_warehouse_failures_total", monitor.warehouse.failures, {})
    for table, rows in sorted(monitor.context.rows.items()):
        yield Sample("streamgauge_monitor_rows_total", rows, {"table": table})
    yield from _lag_samples(monitor)
    yield from refusal_samples("streamgauge_monitor_refused_total", monitor.context.refusals.by_topic())
    if monitor.context.entities is not None and monitor.context.entities.is_read.is_set():
        directory = monitor.context.entities.directory
        yield Sample("streamgauge_monitor_entities", directory.entities, {})
        yield Sample("streamgauge_monitor_entities_in_several_partitions", directory.straying, {})
    if term is not None:
        yield Sample("streamgauge_monitor_held_bytes", term.held_bytes, {})
        yield Sample("streamgauge_monitor_lost_records_total", term.n_lost, {})
        for outcome, count in _outcomes(term.core.inputs.totals).items():
            yield Sample("streamgauge_monitor_labels_total", count, {"outcome": outcome})
        windows = term.core.windows
        yield Sample("streamgauge_monitor_open_windows", windows.n_open, {})
        yield Sample("streamgauge_monitor_late_events_total", windows.n_too_late, {})
        if windows.watermark_ms is not None:
            yield Sample("streamgauge_monitor_watermark_seconds", windows.watermark_ms / 1000, {})


def _lag_samples(monitor: Monitor) -> Iterator[Sample]:
    for name, positions in (
        ("streamgauge_monitor_lag", monitor.lag.of_monitor),
        ("streamgauge_monitor_router_lag", monitor.lag.of_router),
    ):
        for (topic, partition), position in sorted(positions.items()):
            yield Sample(name, position.lag, {"topic": topic, "partition": str(partition)})
    if monitor.lag.workers is not None:
        yield Sample("streamgauge_monitor_workers", monitor.lag.workers, {})
    for (_, partition), position in sorted(monitor.lag.of_workers.items()):
        yield Sample("streamgauge_worker_lag", position.lag, {"partition": str(partition)})


def _outcomes(counts: InputCounts) -> dict[str, int]:
    return {
        "joined": counts.labels - counts.without_event,
        "other_partition": counts.other_partition,
        "too_late": counts.too_late,
        "unknown": counts.unknown,
    }


def _iso(time_ms: int | None) -> str | None:
    if time_ms is None:
        return None
    try:
        time_utc = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    except OverflowError:  # before the first event a watermark is before all times
        return None
    return time_utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")
