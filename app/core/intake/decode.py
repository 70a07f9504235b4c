"""Bytes to typed columns: the first step of the flow. A bad record becomes a `Rejection`, never an exception.

The rules, in the order in which they are applied (each is a ``reason`` of a dead letter):

``unreadable_batch``: stands for records whose batch cannot be unpacked (`RecordBatch.unreadable`).
``tombstone``, ``empty``: no value, or one of zero bytes.
``not_json``: not one JSON value, not UTF-8, NaN or Infinity, nested beyond reason.
``not_an_object``, ``missing_field``, ``wrong_type``: against the fields of the pipeline file. Null is allowed where the
file says ``?``; fields it does not name are ignored; a number too large for its type is a ``wrong_type``.
``empty_key``: an empty entity or event id.
``no_entity``: a label that names no entity, where the entity decides its partition (``[events] repartition``).
``too_large``: text fields of more than `MOST_TEXT_BYTES` together; scores and state carry them on.
``time_too_early``, ``time_too_late``, ``time_ahead``, ``clock_ahead``: see `app.core.records.event_time`.

Cost: a record is decoded at most twice, however many bad ones a batch has.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np

from app.core.batches import EventBatch, Ints, LabelBatch, RecordBatch, Rejection
from app.core.records.event_time import TimeBounds
from schemas.pipeline.spec import EventField, Events, Pipeline
from schemas.topics import WATERMARK_HEADER
from schemas.wire import Label

# msgspec gives a Python int of any size, which neither an int64 nor, at worst, a float64 column can hold.
INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: dict[str, Any] = {"string": str, "float": float, "int": INT64, "bool": bool}
#: What to write where a value has a wrong type.
_ADVICE = {
    "string": "Write a text, in quotes.",
    "float": "Write a number, without quotes.",
    "int": "Write a whole number, without quotes.",
    "bool": "Write true or false.",
}
_TIME_ADVICE = "Write milliseconds since 1970 (UTC), a whole number."
_LABEL_ADVICE = {"event_id": _ADVICE["string"], "label": "Write 0 or 1.", "label_time_ms": _TIME_ADVICE}
#: Digits of a watermark header that are read; more are not a time.
_MOST_DIGITS = 18
#: Text fields of one event, as JSON. A score holds entity and id, a state record the keys of its windows: with this
#: bound they stay below the 1 MiB that a Kafka topic takes by default.
MOST_TEXT_BYTES = 256 << 10
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


def _explain(error: Exception, value: bytes, advice: dict[str, str]) -> str:
    """What is wrong with a value, and for a field of a wrong type what to write in its place."""
    said = str(error)[:300]
    # Serializers of a schema registry write 0 and four bytes of an id before the value.
    if value[0] == 0:
        return f"{said} A schema registry's serializer may have written it: write plain JSON."
    _, wrong, path = said.rpartition(" - at `$.")
    name = path.removesuffix("`")
    return f"{said}. {advice[name]}" if wrong and name in advice and name != path else said


def _decode_all(
    decode: Callable[[bytes], Any],
    values: list[bytes | None],
    stage: str,
    unreadable: dict[int, tuple[str, int]],
    advice: dict[str, str],
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
        if position in unreadable:
            rejections.append(Rejection(position, stage, "unreadable_batch", unreadable[position][0]))
            continue
        if not value:
            reason = "tombstone" if value is None else "empty"
            rejections.append(Rejection(position, stage, reason, "The record has no value."))
            continue
        try:
            good.append(decode(value))
            positions.append(position)
        except _BAD_JSON as error:
            rejections.append(Rejection(position, stage, _reason_of(error), _explain(error, value, advice)))
    return good, positions, rejections


class EventDecoder:
    """Decodes the events topic of one pipeline."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._decode = msgspec.json.Decoder(_struct(events)).decode
        self._getters = {field.name: attrgetter(field.name) for field in events.fields}
        self._advice = {field.name: _ADVICE[field.type] for field in events.fields} | {events.time: _TIME_ADVICE}
        self._text_fields = [field.name for field in events.fields if field.type == "string"]
        self._bounds = TimeBounds(events.time, events.earliest_ms, events.latest_ms, events.max_ahead_ms)

    def decode(self, records: RecordBatch, clock_ms: int | None = None) -> tuple[EventBatch, list[Rejection]]:
        """Decode a batch.

        Parameters
        ----------
        clock_ms
            Time of the reader's clock; None in a replay.

        Returns
        -------
        The good events in offset order, and one rejection (with its position in ``records``) for each other record.
        """
        good, positions, rejections = _decode_all(
            self._decode, records.values, "decode", records.unreadable, self._advice
        )
        index = np.arange(len(records), dtype=np.int64) if positions is None else np.array(positions, dtype=np.int64)
        events = self._events
        texts = {name: list(map(self._getters[name], good)) for name in self._text_fields}
        batch = EventBatch(
            offsets=records.offsets[index],
            event_time_ms=np.fromiter(map(self._getters[events.time], good), np.int64, len(good)),
            entity=texts[events.entity],
            event_id=texts[events.event_id],
            columns={field.name: self._column(field, good, texts) for field in events.fields},
        )
        bad = self._check(batch, records, index, clock_ms)
        if not bad:
            return batch, rejections
        keep = np.ones(len(batch), dtype=bool)
        keep[list(bad)] = False
        return batch.take(np.flatnonzero(keep)), sorted([*rejections, *bad.values()], key=lambda r: r.position)

    def _column(self, field: EventField, good: list[Any], texts: dict[str, list[Any]]) -> np.ndarray[Any, Any]:
        if field.type == "string":
            column = np.empty(len(good), dtype=object)
            column[:] = texts[field.name]
            return column
        values = map(self._getters[field.name], good)
        if field.nullable:
            return np.array(list(values), dtype=np.float64)  # None becomes NaN
        return np.fromiter(values, np.float64, len(good))

    def _check(
        self, batch: EventBatch, records: RecordBatch, index: Ints, clock_ms: int | None
    ) -> dict[int, Rejection]:
        events = self._events
        bad: dict[int, Rejection] = {}

        def reject(row: int, reason: str, detail: str) -> None:
            bad.setdefault(row, Rejection(int(index[row]), "validate", reason, detail))

        if not all(batch.entity) or not all(batch.event_id):
            for row, (entity, event_id) in enumerate(zip(batch.entity, batch.event_id, strict=True)):
                if not (entity and event_id):
                    reject(row, "empty_key", f"{events.entity} and {events.event_id} must not be empty.")
        # Escaped or not, text is no longer than its record.
        if max(map(len, filter(None, records.values)), default=0) > MOST_TEXT_BYTES:
            for row, position in enumerate(index.tolist()):
                if len(records.values[position] or b"") > MOST_TEXT_BYTES:
                    size, name = self._measure_text(batch, row)
                    if size > MOST_TEXT_BYTES:
                        reject(
                            row, "too_large", f"{size} bytes of text, most of them in {name}; {MOST_TEXT_BYTES} may be."
                        )
        for row, reason, detail in self._bounds.refuse(batch.event_time_ms, records.timestamps_ms[index], clock_ms):
            reject(row, reason, detail)
        return bad

    def _measure_text(self, batch: EventBatch, row: int) -> tuple[int, str]:
        """Bytes of an event's text fields as JSON, and the largest field."""
        sizes = [(len(msgspec.json.encode(batch.columns[name][row])), name) for name in self._text_fields]
        return sum(size for size, _ in sizes), max(sizes)[1]


def _entity_of(said: object, key: bytes | None, event_id: str | None) -> bytes:
    """The entity of a label: what its value says, or else its record's key; b"" if neither names one.

    ``event_id``: a key that is only that does not name an entity. None: it may.
    """
    if isinstance(said, str) and said:
        return said.encode()
    try:
        return key if key and key.decode() != event_id else b""
    except UnicodeDecodeError:
        return b""  # no field of an event is such a thing


class LabelDecoder:
    """Decodes the labels topic of one pipeline: labels, and watermark records (by their header).

    Where records are repartitioned, a label's ``key`` is its entity, whether its value or its key says that.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        kind: type[Any] = Label
        self._entity = pipeline.events.entity if pipeline.events.repartition else None
        self._is_id = pipeline.events.entity == pipeline.events.event_id
        if self._entity is not None and self._entity not in Label.__struct_fields__:
            kind = msgspec.defstruct("EntityLabel", [(self._entity, Any, None)], bases=(Label,), kw_only=True)
        self._decode = msgspec.json.Decoder(kind).decode
        events, horizon_ms = pipeline.events, pipeline.horizon_ms
        latest_ms = events.latest_ms + horizon_ms
        self._bounds = TimeBounds("label_time_ms", events.earliest_ms, latest_ms, events.max_ahead_ms)
        # A promise may look ahead by the horizon: it ends a stream whose last labels are never to come.
        self._mark_bounds = TimeBounds(
            WATERMARK_HEADER, events.earliest_ms, latest_ms + events.max_ahead_ms, events.max_ahead_ms + horizon_ms
        )

    def decode(self, records: RecordBatch, clock_ms: int | None = None) -> tuple[LabelBatch, list[Rejection]]:
        """Decode a batch; a watermark record comes out as a label with an empty event id and a NaN label."""
        marks = self._watermarks(records)
        values = (
            [b"" if row in marks else value for row, value in enumerate(records.values)] if marks else records.values
        )
        good, positions, rejections = _decode_all(self._decode, values, "label", records.unreadable, _LABEL_ADVICE)
        rows = list(range(len(records))) if positions is None else positions
        labels: dict[int, tuple[int, str, float]] = {}
        keys = self._find_keys(records, rows, good)
        for row, label in zip(rows, good, strict=True):
            why = self._why_bad(label, keys[row])
            if why:
                rejections.append(Rejection(row, "label", *why))
            else:
                labels[row] = (label.label_time_ms, label.event_id, label.label)
        if marks:
            rejections = [rejection for rejection in rejections if rejection.position not in marks]
            labels.update((row, (time_ms, "", float("nan"))) for row, time_ms in marks.items())
        for bounds, kept in (
            (self._bounds, [row for row in labels if row not in marks]),
            (self._mark_bounds, sorted(marks)),
        ):
            times_ms = np.array([labels[row][0] for row in kept], dtype=np.int64)
            stamps_ms = records.timestamps_ms[np.array(kept, dtype=np.int64)]
            for place, reason, detail in bounds.refuse(times_ms, stamps_ms, clock_ms):
                del labels[kept[place]]
                rejections.append(Rejection(kept[place], "label", reason, detail))
        order = sorted(labels)
        batch = LabelBatch(
            offsets=records.offsets[np.array(order, dtype=np.int64)],
            label_time_ms=np.array([labels[row][0] for row in order], dtype=np.int64),
            event_id=[labels[row][1] for row in order],
            label=np.array([labels[row][2] for row in order], dtype=np.float64),
            key=[keys[row] for row in order],
        )
        return batch, sorted(rejections, key=lambda rejection: rejection.position)

    def _find_keys(self, records: RecordBatch, rows: list[int], labels: list[Any]) -> list[bytes | None]:
        if self._entity is None:
            return records.keys
        keys = list(records.keys)
        for row, label in zip(rows, labels, strict=True):
            keys[row] = _entity_of(getattr(label, self._entity), keys[row], None if self._is_id else label.event_id)
        return keys

    def _why_bad(self, label: Label, key: bytes | None) -> tuple[str, str] | None:
        if not label.event_id:
            return "empty_key", "event_id must not be empty."
        if label.label not in (0.0, 1.0):
            return "not_binary", f"label is {label.label}; it must be 0 or 1."
        if not -(2**63) <= label.label_time_ms < 2**63:
            return "wrong_type", "label_time_ms is beyond 64 bits."
        if self._entity is not None and not key:
            words = f"It names no {self._entity}, which says in which partition its event is"
            return "no_entity", f"{words}: have its value hold {self._entity}, or its record's key be that."
        return None

    @staticmethod
    def _watermarks(records: RecordBatch) -> dict[int, int]:
        watermarks: dict[int, int] = {}
        for row, headers in enumerate(records.headers or ()):
            for name, data in headers:
                # A header's value may be null, whatever the type says: anyone may write to the topic.
                if name == WATERMARK_HEADER and data and len(data) <= _MOST_DIGITS and data.isdigit():
                    watermarks[row] = int(data)
        return watermarks
