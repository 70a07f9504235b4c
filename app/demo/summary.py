"""What a demo came to, as one mapping: ``summary.json``, the table on the terminal and the numbers of the report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from app.demo.course import Sent
from app.demo.memory import PeakMemory
from app.ledger import Balance, Ledger, Query
from app.report import Facts

#: Tables whose rows are counted.
_TABLES = (
    "scores",
    "dead_letters",
    "model_metadata",
    "drift_reports",
    "performance",
    "verdicts",
    "alerts",
    "model_versions",
)


def count_rows(query: Query, pipeline: str) -> dict[str, int]:
    """Count the rows that each table has for a pipeline."""
    return {
        table: int(query(f"SELECT count() AS n FROM {table} WHERE pipeline = '{pipeline}'")[0]["n"])  # noqa: S608  # names of ours
        for table in _TABLES
    }


def summarise(
    ledger: Ledger,
    facts: Facts,
    sent: Sent,
    tables: Mapping[str, int],
    phase_seconds: Mapping[str, float],
    *,
    seconds: float,
    memory: PeakMemory,
    command: str,
) -> dict[str, Any]:
    """Put the numbers together; seconds are rounded to 0.01, rates to 0.1.

    ``events_per_second`` counts from the first event sent to the last result stored; ``…_unthrottled`` are scored
    events over the time in which nothing was being trained. ``auc_by_version`` is the mean of the version's windows,
    each weighted with its outcomes.
    """
    busy_s = phase_seconds["stream"] + phase_seconds["drain"]
    topics = ledger.topics
    return {
        "events": topics.events,
        "scored": topics.scored,
        "dead_letters": topics.dead_letters,
        "lost": topics.lost.count + ledger.warehouse.lost.count,
        "doubled": topics.doubled.count + ledger.warehouse.doubled.count,
        "unknown": topics.unknown.count + ledger.warehouse.unknown.count,
        "balanced": ledger.is_balanced and topics.events == sent.events,
        "swaps": max(0, len(ledger.versions) - 1),
        "versions": ledger.versions,
        "seconds": round(seconds, 2),
        "events_per_second": round(topics.events / busy_s, 1),
        "events_per_second_unthrottled": _rate(sent.free_events, sent.free_seconds),
        "phase_seconds": {name: round(value, 2) for name, value in phase_seconds.items()},
        "retrains": [{**asdict(retrain), "seconds": round(retrain.seconds, 2)} for retrain in sent.retrains],
        "held_events_per_second": max((retrain.held_to for retrain in sent.retrains), default=None),
        "drift_reports": tables["drift_reports"],
        "drift_signals": sum(report.signal == "DRIFT" for report in facts.reports),
        "alerts": sum(step.state == "raised" for step in facts.alerts),
        "auc_by_version": _auc_by_version(facts),
        "auc_by_month": _auc_by_month(facts),
        "peak_rss_mb": round(memory.peak_bytes / 1e6, 1),
        "peak_rss_mb_by_process": {name: round(size / 1e6, 1) for name, size in sorted(memory.at_peak.items())},
        "clickhouse_rows": sum(tables.values()),
        "clickhouse_tables": dict(tables),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ledger": {
            "accounts": [_account(topics), _account(ledger.warehouse)],
            "runs": [asdict(run) for run in ledger.runs],
            "faults": ledger.faults
            + ([] if topics.events == sent.events else [f"{sent.events} events were sent, {topics.events} are there."]),
        },
        "command": command,
    }


def _account(balance: Balance) -> dict[str, Any]:
    return {
        "where": balance.where,
        "events": balance.events,
        "scored": balance.scored,
        "dead_letters": balance.dead_letters,
        "lost": balance.lost.count,
        "doubled": balance.doubled.count,
        "unknown": balance.unknown.count,
        "balanced": balance.is_balanced,
    }


def _auc_by_version(facts: Facts) -> dict[str, float]:
    auc: dict[str, float] = {}
    for version in facts.versions:
        rows = [row for row in facts.performance if row.version == version.version and not math.isnan(row.realised)]
        n = sum(row.n_labels for row in rows)
        if n:
            auc[version.version] = round(sum(row.realised * row.n_labels for row in rows) / n, 4)
    return auc


def _auc_by_month(facts: Facts) -> dict[str, dict[str, float]]:
    auc: dict[str, dict[str, float]] = {}
    for row in facts.performance:
        if not math.isnan(row.realised):
            month = datetime.fromtimestamp(row.start_ms / 1000, UTC).strftime("%Y-%m")
            auc.setdefault(month, {})[row.version] = round(row.realised, 4)
    return auc


def _rate(n: int, seconds: float) -> float | None:
    return round(n / seconds, 1) if seconds > 0 else None
