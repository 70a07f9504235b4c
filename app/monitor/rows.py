"""What the monitor reads and finds, as columns of the warehouse's tables and records of the topics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from app.adapters.kafka.refusals import Refused
from app.core.batches import RecordBatch
from app.core.findings import Findings
from app.core.records.outputs import OutputReader
from app.core.records.rules import check_readable
from app.ports import ColumnValues, FloatMaps
from models.versions.manifest import Manifest
from models.versions.standing import Standing
from schemas.ranges import EARLIEST_TABLE_MS, LATEST_TABLE_MS
from schemas.refusal import RefusedRecordError
from schemas.topics import Topics
from schemas.wire import (
    Alert,
    DeadLetter,
    ModelStatus,
    ModelUpdate,
    Score,
    Source,
    VerdictExample,
    WindowVerdict,
    encode_json,
)

Columns = dict[str, ColumnValues]

_WITNESSES = 8
#: Columns of ``alerts`` that have another name on the topic.
_ALERT_COLUMNS = {"at": "at_ms", "since": "since_ms", "threshold": "limit", "alert_group": "group", "who": "by"}


@dataclass(frozen=True)
class Block:
    """Rows of one table, from a range of offsets of one partition.

    ``refused``: records that are none of ours. ``token`` is the same for the same records, and for no others.
    ``witnesses``: sources of the last rows, of different keys, the very last one first.
    """

    columns: Columns
    rows: int
    refused: Refused
    token: str
    witnesses: tuple[Source, ...] = ()


def score_block(pipeline: str, reader: OutputReader, batches: Sequence[RecordBatch]) -> Block:
    """Rows of ``scores`` from records of the scores topic."""
    scores: list[Score] = []
    refused = Refused()
    for batch in batches:
        for position, value in enumerate(batch.values):
            try:
                check_readable(batch, position)
                scores.append(reader.score(batch.partition, value))
            except RefusedRecordError as error:
                refused.add(*_place(batch, position), error)
    columns: Columns = {
        "pipeline": [pipeline] * len(scores),
        "customer_id": [score.entity for score in scores],
        "event_id": [score.event_id for score in scores],
        "event_time": [score.event_time_ms for score in scores],
        "score": [score.score for score in scores],
        "decision": [score.decision for score in scores],
        "model": [score.model for score in scores],
        "version": [score.version for score in scores],
        "role": [score.role for score in scores],
        "features": _feature_maps(scores),
        "topic": [score.source.topic for score in scores],
        "partition": [score.source.partition for score in scores],
        "offset": [score.source.offset for score in scores],
        "scored_at": [score.scored_at_ms for score in scores],
        "feature_set": [score.feature_set for score in scores],
        "reasons": [score.reasons for score in scores],
        "stale": [score.stale for score in scores],
        "shadow": [score.version if score.role == "shadow" else "" for score in scores],
    }
    witnesses = _witnesses((score.entity, score.source) for score in reversed(scores))
    return Block(columns, len(scores), refused, _token(batches), witnesses)


def dead_letter_block(pipeline: str, reader: OutputReader, batches: Sequence[RecordBatch]) -> Block:
    """Rows of ``dead_letters`` from records of the dead-letter topic."""
    letters: list[DeadLetter] = []
    refused = Refused()
    for batch in batches:
        headers = batch.headers or [()] * len(batch)
        for position, (key, value, words) in enumerate(zip(batch.keys, batch.values, headers, strict=True)):
            try:
                check_readable(batch, position)
                letters.append(reader.letter(batch.partition, key, value, words))
            except RefusedRecordError as error:
                refused.add(*_place(batch, position), error)
    columns: Columns = {
        "pipeline": [pipeline] * len(letters),
        "topic": [letter.source.topic for letter in letters],
        "partition": [letter.source.partition for letter in letters],
        "offset": [letter.source.offset for letter in letters],
        "stage": [letter.stage for letter in letters],
        "reason": [letter.reason for letter in letters],
        "detail": [letter.detail for letter in letters],
        "key": [letter.key for letter in letters],
        "value": [letter.value for letter in letters],
        # As far as a table can hold it: the time stamp is whatever the producer's clock said.
        "record_time": [min(max(letter.record_time_ms, EARLIEST_TABLE_MS), LATEST_TABLE_MS) for letter in letters],
        "rejected_at": [letter.rejected_at_ms for letter in letters],
        "version": [letter.version for letter in letters],
    }
    witnesses = _witnesses((letter.key, letter.source) for letter in reversed(letters))
    return Block(columns, len(letters), refused, _token(batches), witnesses)


def findings_columns(findings: Findings) -> dict[str, Columns]:
    """Rows of findings by table, in the order in which they are inserted; tables without rows are left out.

    They have keys: inserting them again is harmless. Who waits for a window's performance finds the rest there.
    """
    tables: dict[str, Columns] = {}
    if findings.metadata:
        tables["model_metadata"] = {
            **_fields(findings.metadata, "pipeline model version stage segment metric decile value revision"),
            **_windows(findings.metadata),
            "timestamp": [row.timestamp_ms for row in findings.metadata],
        }
    if findings.reports:
        names = "pipeline model version segment metric test statistic p_value threshold effect n_reference n_detection"
        tables["drift_reports"] = {
            **_fields(findings.reports, names + " signal revision note"),
            **_windows(findings.reports),
        }
    if findings.inputs:
        names = "pipeline events labels too_late unknown other_partition strays examples revision"
        tables["input_checks"] = {**_fields(findings.inputs, names), **_windows(findings.inputs)}
    if findings.delays:
        names = "pipeline label n half_s share_90_s share_99_s slowest_s revision"
        tables["label_delays"] = {**_fields(findings.delays, names), **_windows(findings.delays)}
    if findings.verdicts:
        tables["verdicts"] = _verdict_columns(findings.verdicts)
    if findings.alerts:
        names = "alert_id pipeline rule severity state model version measure value message action revision others owner"
        tables["alerts"] = {
            **_fields(findings.alerts, names + " runbook why"),
            **_windows(findings.alerts),
            **{column: [getattr(alert, name) for alert in findings.alerts] for column, name in _ALERT_COLUMNS.items()},
        }
    if findings.performance:
        names = "pipeline model version segment measure estimated realised low high n_labels label_maturity revision"
        names += " estimated_low estimated_high expected p_value"
        tables["performance"] = {**_fields(findings.performance, names), **_windows(findings.performance)}
    return tables


def _verdict_columns(verdicts: list[WindowVerdict]) -> Columns:
    names = "pipeline model version kind headline advice reason n_reference n_detection with_labels revision"
    return {
        **_fields(verdicts, names),
        **_windows(verdicts),
        "metrics": [[because.metric for because in one.explained_by] for one in verdicts],
        "shares": [
            [math.nan if because.share is None else because.share for because in one.explained_by] for one in verdicts
        ],
        "words": [[because.words for because in one.explained_by] for one in verdicts],
        "segments": [[misfit.segment for misfit in one.segments] for one in verdicts],
        "example": [_say_example(one.example) for one in verdicts],
    }


def _say_example(example: VerdictExample | None) -> str:
    return f"{example.what}: {example.before} in training, now {example.after}" if example is not None else ""


def findings_records(topics: Topics, findings: Findings) -> list[tuple[str, bytes, bytes]]:
    """Topic, key and value of what others are told."""
    return [
        *(
            (topics.drift, f"{report.model}|{report.metric}".encode(), encode_json(report))
            for report in findings.reports
        ),
        *((topics.verdicts, verdict.model.encode(), encode_json(verdict)) for verdict in findings.verdicts),
        *((topics.alerts, alert.model.encode(), encode_json(alert)) for alert in findings.alerts),
    ]


def read_alert(row: Mapping[str, Any]) -> Alert:
    """The alert of a row of ``alerts``; ValueError when it is none."""
    values = {_ALERT_COLUMNS.get(column, column): value for column, value in row.items()}
    values |= {f"{name}_ms": values.pop(name) for name in ("window_start", "window_end")}
    plain = {name: to_ms(value) if isinstance(value, datetime) else value for name, value in values.items()}
    return msgspec.convert(plain, Alert)


def to_ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def version_columns(pipeline: str, standings: Iterable[tuple[Standing, Manifest | None]]) -> Columns:
    """Rows of ``model_versions``; the manifest is None where the registry did not have it."""
    versions = list(standings)
    rows = [(standing.update, manifest) for standing, manifest in versions]
    return {
        "pipeline": [pipeline] * len(rows),
        "model": [update.model for update, _ in rows],
        "version": [update.version for update, _ in rows],
        "role": [standing.role for standing, _ in versions],
        "uri": [update.uri for update, _ in rows],
        "sha256": [update.sha256 for update, _ in rows],
        "feature_set": [update.feature_set for update, _ in rows],
        "valid_from": [update.valid_from_ms for update, _ in rows],
        "trained_from": [manifest.training.from_ms if manifest else None for _, manifest in rows],
        "trained_to": [manifest.training.to_ms if manifest else None for _, manifest in rows],
        "metrics": [training_metrics(manifest) if manifest else {} for _, manifest in rows],
        "manifest": [manifest.to_bytes() if manifest else b"" for _, manifest in rows],
        "who": [standing.by for standing, _ in versions],
        "why": [standing.why for standing, _ in versions],
        "updated_at": [standing.at_ms for standing, _ in versions],
    }


def training_metrics(manifest: Manifest) -> dict[str, float]:
    """The metrics of a training run that are numbers."""
    metrics = manifest.metrics
    known = {"auc": metrics.auc, "log_loss": metrics.log_loss, "accuracy": metrics.accuracy, "n": float(metrics.n)}
    return {name: value for name, value in known.items() if value is not None and math.isfinite(value)}


def update_columns(pipeline: str, updates: Sequence[tuple[str, ModelUpdate]]) -> Columns:
    """Rows of ``model_events`` from updates, each with the identity of its record."""
    return {
        "event_id": [event_id for event_id, _ in updates],
        "pipeline": [pipeline] * len(updates),
        "at": [update.announced_at_ms for _, update in updates],
        "model": [update.model for _, update in updates],
        "version": [update.version for _, update in updates],
        "event": [_event_of(update) for _, update in updates],
        "who": [update.by for _, update in updates],
        "why": [update.why for _, update in updates],
    }


def status_columns(pipeline: str, statuses: Sequence[tuple[str, ModelStatus]]) -> Columns:
    """Rows of ``model_events`` from what workers said, each with the identity of its record."""
    return {
        "event_id": [event_id for event_id, _ in statuses],
        "pipeline": [pipeline] * len(statuses),
        "at": [status.at_ms for _, status in statuses],
        "model": [status.model for _, status in statuses],
        "version": [status.version or "" for _, status in statuses],
        "event": [status.status for _, status in statuses],
        "why": [status.why for _, status in statuses],
        "worker": [status.worker for _, status in statuses],
        "partition": [status.partition for _, status in statuses],
        "offset": [status.offset for _, status in statuses],
        "seconds": [status.seconds for _, status in statuses],
    }


def _fields(rows: Sequence[Any], names: str) -> Columns:
    return {name: [getattr(row, name) for row in rows] for name in names.split()}


def _windows(rows: Sequence[Any]) -> Columns:
    starts, ends = [row.window_start_ms for row in rows], [row.window_end_ms for row in rows]
    return {"window_start": starts, "window_end": ends}


def _event_of(update: ModelUpdate) -> str:
    if update.role in {"retired", "unusable"}:
        return update.role
    return "promoted" if update.role == "champion" else "announced"


def _place(batch: RecordBatch, position: int) -> tuple[int, int]:
    return batch.partition, int(batch.offsets[position])


def _feature_maps(scores: Sequence[Score]) -> ColumnValues:
    """One matrix when all rows have the same features, which is the rule."""
    names = tuple(scores[0].features) if scores else ()
    if names and all(tuple(score.features) == names for score in scores):
        return FloatMaps(names, np.array([list(score.features.values()) for score in scores], dtype=np.float64))
    return [score.features for score in scores]


def _witnesses(rows: Iterable[tuple[str | bytes | None, Source]]) -> tuple[Source, ...]:
    """Rows by which a table shows that it still has a block: not all of one key, whose rows somebody may erase."""
    witnesses: dict[str | bytes | None, Source] = {}
    for key, source in rows:
        witnesses.setdefault(key, source)
        if len(witnesses) == _WITNESSES:
            break
    return tuple(witnesses.values())


def _token(batches: Sequence[RecordBatch]) -> str:
    """Where the records are and what they hold: offsets alone would be taken again by a topic made anew."""
    digest = hashlib.blake2b(digest_size=8)
    for batch in batches:
        for value in batch.values:
            digest.update(value or b"")
            digest.update(b"\0")
    first, last = batches[0], batches[-1]
    return f"{first.topic}/{first.partition}/{first.offsets[0]}-{last.offsets[-1]}/{digest.hexdigest()}"
