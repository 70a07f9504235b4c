"""Bytes to typed columns: the first step of the flow. A bad record becomes a `Rejection`, never an exception.

The rules, in the order in which they are applied (each is a ``reason`` of a dead letter):

``tombstone``, ``empty``: no value, or one of zero bytes.
``not_json``: not one JSON value, not UTF-8, NaN or Infinity, nested beyond reason.
``not_an_object``, ``missing_field``, ``wrong_type``: against the fields of the pipeline file. Null is allowed where the
file says ``?``; fields it does not name are ignored; a number too large for its type is a ``wrong_type``.
``empty_key``: an empty entity or event id.
``time_too_early``, ``time_too_late``, ``time_ahead``: event time outside ``earliest``…``latest``, or further ahead of
the record's Kafka time stamp than ``max_ahead``; it could otherwise move the watermark.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np

from app.core.batches import EventBatch, Ints, LabelBatch, RecordBatch, Rejection
from schemas.pipeline import EventField, Events, Pipeline
from schemas.topics import WATERMARK_HEADER
from schemas.wire import Label

# msgspec gives a Python int of any size, which neither an int64 nor, at worst, a float64 column can hold.
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {"string": str, "float": float, "int": _INT64, "bool": bool}
#: Digits of a watermark header that are read; more are no time.
_MOST_DIGITS = 18
_BAD_JSON = (msgspec.DecodeError, RecursionError, UnicodeError)


def _struct(events: Events) -> type[msgspec.Struct]:
    required = [(f.name, _TYPES[f.type]) for f in events.fields if not f.nullable]
    nullable: list[tuple[str, Any, Any]] = [(f.name, _TYPES[f.type] | None, None) for f in events.fields if f.nullable]
    return msgspec.defstruct("Event", [*required, *nullable], gc=False)


def _reason_of(error: Exception) -> str:
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return "not_json"
    if "missing required field" in text:
        return "missing_field"
    if text.startswith("Expected `object`"):
        return "not_an_object"
    return "wrong_type"


def _decode_all(
    decode: Callable[[bytes], Any], values: list[bytes | None], stage: str
) -> tuple[list[Any], list[int] | None, list[Rejection]]:
    """Decode every value; positions is None when all were good, which is the fast path."""
    try:
        return [decode(value) for value in values], None, []  # type: ignore[arg-type]  # None raises TypeError
    except (*_BAD_JSON, TypeError):
        pass
    good: list[Any] = []
    positions: list[int] = []
    rejections: list[Rejection] = []
    for position, value in enumerate(values):
        if not value:
            reason = "tombstone" if value is None else "empty"
            rejections.append(Rejection(position, stage, reason, "The record has no value."))
            continue
        try:
            good.append(decode(value))
            positions.append(position)
        except _BAD_JSON as error:
            rejections.append(Rejection(position, stage, _reason_of(error), str(error)[:300]))
    return good, positions, rejections


class EventDecoder:
    """Decodes the events topic of one pipeline."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._decode = msgspec.json.Decoder(_struct(events)).decode
        self._getters = {field.name: attrgetter(field.name) for field in events.fields}

    def decode(self, records: RecordBatch) -> tuple[EventBatch, list[Rejection]]:
        """Decode a batch.

        Returns
        -------
        The good events in offset order, and one rejection (with its position in ``records``) for each other record.
        """
        good, positions, rejections = _decode_all(self._decode, records.values, "decode")
        index = np.arange(len(records), dtype=np.int64) if positions is None else np.array(positions, dtype=np.int64)
        batch = EventBatch(
            offsets=records.offsets[index],
            event_time_ms=np.array(list(map(self._getters[self._events.time], good)), dtype=np.int64),
            entity=[str(key) for key in map(self._getters[self._events.entity], good)],
            event_id=[str(key) for key in map(self._getters[self._events.event_id], good)],
            columns={field.name: self._column(field, good) for field in self._events.fields},
        )
        bad = self._check(batch, records.timestamps_ms[index], index)
        if not bad:
            return batch, rejections
        keep = np.ones(len(batch), dtype=bool)
        keep[list(bad)] = False
        return batch.take(np.flatnonzero(keep)), sorted([*rejections, *bad.values()], key=lambda r: r.position)

    def _column(self, field: EventField, good: list[Any]) -> np.ndarray[Any, Any]:
        values = list(map(self._getters[field.name], good))
        if field.type == "string":
            column = np.empty(len(values), dtype=object)
            column[:] = values
            return column
        return np.array(values, dtype=np.float64)  # None becomes NaN

    def _check(self, batch: EventBatch, record_time_ms: Ints, index: Ints) -> dict[int, Rejection]:
        events, time = self._events, batch.event_time_ms
        bad: dict[int, Rejection] = {}

        def reject(rows: Any, reason: str, detail: Callable[[int], str]) -> None:
            for row in np.flatnonzero(rows).tolist():
                bad.setdefault(row, Rejection(int(index[row]), "validate", reason, detail(row)))

        if not all(batch.entity) or not all(batch.event_id):
            empty = np.array([not (a and b) for a, b in zip(batch.entity, batch.event_id, strict=True)])
            reject(empty, "empty_key", lambda _: f"{events.entity} and {events.event_id} must not be empty.")
        reject(
            time < events.earliest_ms,
            "time_too_early",
            lambda row: f"{events.time} {time[row]} is before events.earliest ({events.earliest_ms}).",
        )
        reject(
            time > events.latest_ms,
            "time_too_late",
            lambda row: f"{events.time} {time[row]} is after events.latest ({events.latest_ms}).",
        )
        reject(
            time > record_time_ms + events.max_ahead_ms,
            "time_ahead",
            lambda row: (
                f"{events.time} {time[row]} is more than events.max_ahead after the record's time stamp"
                f" ({record_time_ms[row]})."
            ),
        )
        return bad


class LabelDecoder:
    """Decodes the labels topic of one pipeline: labels, and watermark records (by their header)."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._decode = msgspec.json.Decoder(Label).decode
        horizon_ms = pipeline.labels.horizon_ms if pipeline.labels else 0
        self._earliest_ms = pipeline.events.earliest_ms
        self._latest_ms = pipeline.events.latest_ms + horizon_ms
        self._max_ahead_ms = pipeline.events.max_ahead_ms

    def decode(self, records: RecordBatch) -> tuple[LabelBatch, list[Rejection]]:
        """Decode a batch; a watermark record comes out as a label with an empty event id and a NaN label."""
        watermarks = self._watermarks(records)
        values = [b"" if row in watermarks else value for row, value in enumerate(records.values)]
        good, positions, rejections = _decode_all(self._decode, values, "label")
        rows = list(range(len(records))) if positions is None else positions
        found: dict[int, tuple[int, str, float]] = {}
        for row, label in zip(rows, good, strict=True):
            why = self._why_bad(label, int(records.timestamps_ms[row]))
            if why:
                rejections.append(Rejection(row, "label", *why))
            else:
                found[row] = (label.label_time_ms, label.event_id, label.label)
        for row, time_ms in watermarks.items():
            if self._earliest_ms <= time_ms <= self._latest_ms + self._max_ahead_ms:
                found[row] = (time_ms, "", float("nan"))
                rejections = [rejection for rejection in rejections if rejection.position != row]
        order = sorted(found)
        batch = LabelBatch(
            offsets=records.offsets[np.array(order, dtype=np.int64)],
            label_time_ms=np.array([found[row][0] for row in order], dtype=np.int64),
            event_id=[found[row][1] for row in order],
            label=np.array([found[row][2] for row in order], dtype=np.float64),
        )
        return batch, sorted(rejections, key=lambda rejection: rejection.position)

    def _why_bad(self, label: Label, record_time_ms: int) -> tuple[str, str] | None:
        if not label.event_id:
            return "empty_key", "event_id must not be empty."
        if label.label not in (0.0, 1.0):
            return "not_binary", f"label is {label.label}; it must be 0 or 1."
        if not self._earliest_ms <= label.label_time_ms <= self._latest_ms:
            return "time_out_of_bounds", f"label_time_ms {label.label_time_ms} is outside of the pipeline's bounds."
        if label.label_time_ms > record_time_ms + self._max_ahead_ms:
            return "time_ahead", f"label_time_ms {label.label_time_ms} is more than max_ahead after the record's time."
        return None

    @staticmethod
    def _watermarks(records: RecordBatch) -> dict[int, int]:
        found: dict[int, int] = {}
        for row, headers in enumerate(records.headers or ()):
            for name, data in headers:
                # A header's value may be null, whatever the type says: anyone may write to the topic.
                if name == WATERMARK_HEADER and data and len(data) <= _MOST_DIGITS and data.isdigit():
                    found[row] = int(data)
        return found
