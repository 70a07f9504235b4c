"""What a monitor finds when it takes over, and where that lets it go on.

The tables, the plans of blocks and the checkpoint need not fit together: any of them may have been restored from a
backup, or emptied. What decides is what the tables hold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from faust.types import TP

from app.core.counts.windows import Stage
from app.core.findings import Findings
from app.monitor.block_writer import Start
from app.monitor.reign import Plan, Reign
from app.monitor.rows import read_alert
from app.ports import Checkpoint, Warehouse
from schemas.pipeline.spec import Pipeline
from schemas.refusal import RefusedRecordError
from schemas.tables import TABLES
from schemas.wire import Alert, Source, decode_packed

log = logging.getLogger("streamgauge.monitor")


#: Rows that were written, by their sources: by topic and partition.
Witnesses = dict[str, dict[int, tuple[Source, ...]]]


@dataclass(frozen=True)
class Bounds:
    """The first offset of a partition that is still there, and the one after its last committed record."""

    first: int
    end: int


class Saved(msgspec.Struct, array_like=True):
    """The state of a checkpoint: the core after it reported ``findings``, which may not have been shown yet.

    ``shown``: one row of each table that earlier findings brought, which must therefore be there. ``token``: of the
    inserts of the findings. ``witnesses``: sources of rows that were written, by topic and partition.
    """

    core: bytes
    findings: Findings
    shown: Findings = msgspec.field(default_factory=Findings)
    token: str = ""
    witnesses: Witnesses = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Legacy:
    """What a new term found.

    Parameters
    ----------
    plans
        The newest plan of each topic and partition: everything before it is in the table, and it may be.
    witnesses
        Rows that were written, by topic and partition.
    missing
        Topics and partitions whose table has lost what was in it.
    revisions
        The highest revision of what was reported, by version, start of the window, and what was told.
    lost_findings
        Tables that have lost what was reported.
    alerts
        Each state that an alert has been in.
    """

    checkpoint: Checkpoint | None = None
    plans: Mapping[tuple[str, int], Plan] = field(default_factory=dict)
    witnesses: Mapping[tuple[str, int], tuple[Source, ...]] = field(default_factory=dict)
    missing: frozenset[tuple[str, int]] = frozenset()
    revisions: Mapping[tuple[str, int, Stage], int] = field(default_factory=dict)
    lost_findings: frozenset[str] = frozenset()
    alerts: tuple[Alert, ...] = ()


def take_over(warehouse: Warehouse, pipeline: Pipeline, owner: str, now_ms: int) -> tuple[Reign, Legacy]:
    """Claim the next term, then read what is there."""
    reign = Reign.claim(warehouse, pipeline.name, owner, now_ms)
    return reign, inherit(warehouse, pipeline.name, tables_of(pipeline))


def tables_of(pipeline: Pipeline) -> dict[str, str]:
    """The tables that hold records, by the topic of the records."""
    return {pipeline.topics.scores: "scores", pipeline.topics.dead_letters: "dead_letters"}


def inherit(warehouse: Warehouse, pipeline: str, tables: Mapping[str, str]) -> Legacy:
    """Read what is there; ``tables``: by the topic whose records they hold."""
    plans = {(plan.topic, plan.partition): plan for plan in _plans(warehouse, pipeline)}
    checkpoint = warehouse.latest_checkpoint(pipeline)
    saved = _decode(checkpoint)
    witnesses: dict[tuple[str, int], tuple[Source, ...]] = {
        at: (plan.held,) for at, plan in plans.items() if plan.held is not None
    }
    witnesses |= {(topic, partition): rows for topic, of in saved.witnesses.items() for partition, rows in of.items()}
    missing = frozenset(
        at for at, rows in witnesses.items() if at[0] in tables and not _holds_any(warehouse, tables[at[0]], rows)
    )
    lost = _lost_findings(warehouse, saved.shown)
    alerts = tuple(_alerts(warehouse.read("alerts", {"pipeline": pipeline})))
    return Legacy(checkpoint, plans, witnesses, missing, _revisions(warehouse, pipeline), lost, alerts)


def _alerts(rows: Iterable[dict[str, Any]]) -> Iterable[Alert]:
    """What was told of alerts; what another program wrote is passed over."""
    for row in rows:
        try:
            yield read_alert(row)
        except ValueError as error:
            log.warning("A row of the table alerts is none of ours and is passed over: %s", error)


def _plans(warehouse: Warehouse, pipeline: str) -> Iterable[Plan]:
    for row in warehouse.read("monitor_blocks", {"pipeline": pipeline}):
        held = Source(row["held_topic"], row["held_partition"], row["held_offset"])
        plan = Plan(row["topic"], row["partition"], row["first_offset"], row["next_offset"], row["attempt"])
        yield replace(plan, held=held) if held.topic else plan


def _decode(checkpoint: Checkpoint | None) -> Saved:
    try:
        return decode_packed(checkpoint.state, Saved) if checkpoint else Saved(b"", Findings())
    except RefusedRecordError:
        return Saved(b"", Findings())  # said when the windows are restored


def _holds_any(warehouse: Warehouse, table: str, rows: Sequence[Source]) -> bool:
    return any(
        warehouse.read(table, {"topic": row.topic, "partition": row.partition, "offset": row.offset}) for row in rows
    )


def _revisions(warehouse: Warehouse, pipeline: str) -> dict[tuple[str, int, Stage], int]:
    """Each metric of a window is reported under one revision, and has a row that says n; the verdict is one row."""
    revisions: dict[tuple[str, int, Stage], int] = {}
    of_metric = {"pipeline": pipeline, "stage": "scoring", "decile": "n"}
    places: tuple[tuple[Stage, str, dict[str, Any]], ...] = (
        ("features", "model_metadata", of_metric | {"metric": "score"}),
        ("labels", "model_metadata", of_metric | {"metric": "outcome"}),
        ("verdict", "verdicts", {"pipeline": pipeline}),
        ("verdict", "performance", {"pipeline": pipeline, "segment": "all", "measure": "auc"}),
    )
    for told, table, where in places:
        for row in warehouse.read(table, where):
            key = row["version"], round(row["window_start"].timestamp() * 1000), told
            revisions[key] = max(revisions.get(key, 0), row["revision"])
    return revisions


def _lost_findings(warehouse: Warehouse, shown: Findings) -> frozenset[str]:
    """The tables that have lost what was shown."""
    rows: dict[str, list[Any]] = {
        "model_metadata": shown.metadata,
        "drift_reports": shown.reports,
        "performance": shown.performance,
    }
    return frozenset(table for table, last in rows.items() if last and not _has(warehouse, table, last[0]))


def _has(warehouse: Warehouse, table: str, row: Any) -> bool:
    """Whether a row of findings is there, by its key."""
    names = [name for name in TABLES[table].key if not name.startswith("window")]
    rows = warehouse.read(table, {name: getattr(row, name) for name in names})
    return any(round(stored["window_start"].timestamp() * 1000) == row.window_start_ms for stored in rows)


def are_new(legacy: Legacy, bounds: Mapping[TP, Bounds]) -> bool:
    """Whether the topics were made anew since the checkpoint: they are shorter than it says."""
    saved = legacy.checkpoint.offsets if legacy.checkpoint is not None else {}
    plans = legacy.plans
    is_new = any(
        max(saved.get(tp.topic, {}).get(tp.partition, 0), plans[tp].first if tp in plans else 0) > at.end
        for tp, at in bounds.items()
    )
    if is_new:
        log.warning("The topics are shorter than the checkpoint says: they are new, and are read from the beginning.")
    return is_new


def start_of(tp: TP, legacy: Legacy, at: Bounds, is_new: bool, term: int) -> Start:
    """Where the records of a partition go on."""
    plan = legacy.plans.get(tp)
    saved = legacy.checkpoint.offsets.get(tp.topic, {}).get(tp.partition, 0) if legacy.checkpoint is not None else 0
    if is_new:
        return Start()
    if tp in legacy.missing:
        log.warning("ClickHouse has lost rows of %s/%d: they are read again from the beginning of the topic.", *tp)
        return Start(attempt=term)
    witnesses = legacy.witnesses.get(tp, ())
    if plan is None:
        return Start(saved, witnesses=witnesses)
    if saved == plan.next_offset:
        return Start(saved, None, plan.attempt, witnesses)
    return Start(plan.first, plan.next_offset if plan.next_offset <= at.end else None, plan.attempt, witnesses)
