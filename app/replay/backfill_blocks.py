"""Writes scores of past events to ClickHouse, in blocks of fixed offset ranges; run again, it adds what is missing.

A block that the table holds already, to the bit, is not sent again. Memory holds one block a partition.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from app.adapters.clickhouse.sql_gate import quote
from app.adapters.http.row_writers import RowWriter
from app.adapters.recordings.part import RecordingPart
from app.core.batches import Floats, Ints
from app.flow.step import Step
from app.ports import ColumnValues, FloatMaps
from schemas.pipeline.spec import Pipeline
from schemas.tables import BACKFILLED_SCORES

BLOCK_OFFSETS = 20_000
ROLE = "backfill"
#: 2**64 divided by the golden ratio: spreads offsets over all bits.
_SPREAD = 11400714819323198485

Block = tuple[int, int]


@dataclass(frozen=True)
class Held:
    """What the table holds of a block: rows, and a fingerprint of their offsets and scores."""

    rows: int
    fingerprint: int


def fingerprint(offsets: Ints, scores: Floats) -> int:
    """A number that depends on the offsets and their scores, and not on their order; SQL computes the same one.

    Examples
    --------
    >>> one, two = np.array([1, 2]), np.array([0.5, 0.25])
    >>> fingerprint(one, two) == fingerprint(one[::-1], two[::-1]) != fingerprint(one, two[::-1])
    True
    """
    spread = np.uint64(_SPREAD)
    mixed = offsets.astype(np.uint64) * spread ^ scores.astype("<f8").view(np.uint64)
    return int(np.bitwise_xor.reduce(mixed * spread, initial=0))


def read_held(
    writer: RowWriter, pipeline: Pipeline, version: str, part: RecordingPart, *, with_features: bool
) -> dict[Block, Held]:
    """What the table holds of a part, by partition and block; with features, only rows that have them."""
    stretches = [
        f"(partition = {partition} AND offset >= {stretch.first} AND offset < {stretch.stop})"
        for partition, stretch in part.stretches.items()
        if stretch.events
    ]
    sql = (
        f"SELECT partition, intDiv(offset, {BLOCK_OFFSETS}) AS block, count() AS n,"  # noqa: S608  # numbers and quoted names
        f" groupBitXor(bitXor(toUInt64(offset) * toUInt64({_SPREAD}), reinterpretAsUInt64(score))"
        f" * toUInt64({_SPREAD})) AS print"
        f" FROM streamgauge.{BACKFILLED_SCORES.name} WHERE model = {quote(pipeline.model.name)}"
        f" AND version = {quote(version)} AND topic = {quote(pipeline.topics.events)}"
        f" AND ({' OR '.join(stretches) or '0'}){' AND notEmpty(features)' if with_features else ''}"
        " GROUP BY partition, block"
    )
    return {(row["partition"], row["block"]): Held(row["n"], row["print"]) for row in writer.query(sql)}


def first_missing(part: RecordingPart, held: dict[Block, Held]) -> dict[int, int]:
    """Per partition, the offset from which on rows are missing, or the part's end."""
    starts: dict[int, int] = {}
    for partition, stretch in part.stretches.items():
        starts[partition] = stretch.stop
        counted: dict[int, tuple[int, int]] = {}
        for offsets in part.offsets(partition):
            blocks, firsts, counts = np.unique(offsets // BLOCK_OFFSETS, return_index=True, return_counts=True)
            for block, first, count in zip(blocks.tolist(), offsets[firsts].tolist(), counts.tolist(), strict=True):
                before = counted.get(block, (first, 0))
                counted[block] = before[0], before[1] + count
        for block, (first, count) in sorted(counted.items()):
            there = held.get((partition, block))
            if there is None or there.rows != count:
                starts[partition] = first
                break
    return starts


class BackfillWriter:
    """Writes the scores of steps.

    Attributes
    ----------
    written, kept
        Rows that were sent, and rows that the table held already.
    """

    def __init__(self, writer: RowWriter, pipeline: Pipeline, held: dict[Block, Held], *, with_features: bool) -> None:
        self.written = 0
        self.kept = 0
        self._writer = writer
        self._pipeline = pipeline
        self._held = held
        self._with_features = with_features
        self._waiting: dict[int, tuple[int, list[Step]]] = {}

    def add(self, step: Step) -> None:
        """Take a step, and write blocks that are complete."""
        blocks = step.events.offsets // BLOCK_OFFSETS
        for block in np.unique(blocks).tolist():
            current, pieces = self._waiting.get(step.partition, (block, []))
            if current != block:
                self._write(step.partition, current, pieces)
                pieces = []
            pieces.append(_rows(step, np.flatnonzero(blocks == block)))
            self._waiting[step.partition] = block, pieces

    def finish(self) -> None:
        """Write what is left."""
        for partition, (block, pieces) in self._waiting.items():
            self._write(partition, block, pieces)
        self._waiting.clear()

    def _write(self, partition: int, block: int, pieces: list[Step]) -> None:
        offsets = np.concatenate([piece.events.offsets for piece in pieces])
        scores = np.concatenate([piece.scores for piece in pieces])
        held = Held(len(offsets), fingerprint(offsets, scores))
        if self._held.get((partition, block)) == held:
            self.kept += len(offsets)
            return
        columns: dict[str, list[object]] = defaultdict(list)
        for piece in pieces:
            ((_, _, model),) = piece.runs
            n, events = len(piece.events), piece.events
            columns["customer_id"] += events.entity
            columns["event_id"] += events.event_id
            columns["event_time"] += events.event_time_ms.tolist()
            columns["decision"] += (piece.scores >= model.threshold).tolist()
            columns["model"] += [model.model] * n
            columns["version"] += [model.version] * n
            columns["feature_set"] += [model.feature_set] * n
        n = len(offsets)
        rows: dict[str, ColumnValues] = {
            **columns,
            "pipeline": [self._pipeline.name] * n,
            "role": [ROLE] * n,
            "topic": [self._pipeline.topics.events] * n,
            "partition": [partition] * n,
            "offset": offsets,
            "score": scores,
        }
        if self._with_features:
            rows["features"] = FloatMaps(
                self._pipeline.feature_names, np.concatenate([piece.matrix for piece in pieces])
            )
        self._writer.insert(BACKFILLED_SCORES.name, rows)
        self.written += n


def _rows(step: Step, rows: Ints) -> Step:
    if len(rows) == len(step.events):
        return step
    ((_, _, model),) = step.runs
    return Step(
        step.partition,
        step.events.take(rows),
        step.matrix[rows],
        step.scores[rows],
        [(0, len(rows), model)],
        step.labels,
        step.applied,
    )
