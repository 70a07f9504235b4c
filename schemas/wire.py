"""The records on the topics: one msgspec struct per kind, JSON on the topics others read.

``decode_*`` raise ``msgspec.DecodeError`` or ``msgspec.ValidationError`` on bad bytes. Field names are the contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec

from schemas.pipeline import Severity
from schemas.topics import MAX_DEAD_LETTER_BYTES

T = TypeVar("T", bound=msgspec.Struct)

#: Key and value of a dead letter that is not cut: room is left for headers and for what Kafka adds.
_MOST_WHOLE_BYTES = MAX_DEAD_LETTER_BYTES - (64 << 10)
#: What is kept of a key and of a value that are cut.
_BEGINNING_BYTES = 64 << 10
#: In front of the names of the original record's headers.
_ORIGINAL = "streamgauge-original-"

AlertState = Literal["raised", "acknowledged", "cleared", "silenced"]
ModelRole = Literal["champion", "challenger", "shadow", "canary", "retired", "unusable"]


class Source(msgspec.Struct, frozen=True):
    """Where an event was read: the identity of everything derived from it."""

    topic: str
    partition: int
    offset: int


class Score(msgspec.Struct):
    """``<p>.scores``: the score of one event.

    ``features`` holds the row of the feature matrix: null is missing, a category is its code, ``len(values)`` for
    a value that is not in its vocabulary.
    """

    event_id: str
    entity: str
    event_time_ms: int
    score: float
    decision: bool
    model: str
    version: str
    role: str
    feature_set: str
    source: Source
    scored_at_ms: int
    features: dict[str, float | None] = {}
    reasons: list[str] = []
    #: True when the labels this event should have seen could not be read for ``labels.max_wait``, or when a partition
    #: whose part of a shared window it should have seen was waited for in vain for ``shared.max_wait``.
    stale: bool = False


class Label(msgspec.Struct):
    """``<p>.labels``: the outcome of one event, at the time it was known."""

    event_id: str
    label: float
    label_time_ms: int


class DeadLetter(msgspec.Struct):
    """``<p>.dead-letters``: a record that could not be scored, and why.

    On the topic, key and value are the original bytes (replayable as they are); the rest travels as headers
    (``to_headers`` / ``from_record``), the original headers too. ``cut_bytes`` is not 0 when only the beginning of key
    and value is there: how long the record was. Such a record must be read again at its source.
    """

    source: Source
    stage: Literal["decode", "validate", "features", "score", "label"]
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    record_time_ms: int
    rejected_at_ms: int
    version: str = ""
    cut_bytes: int = 0
    #: Headers of the original record.
    headers: tuple[tuple[str, bytes], ...] = ()

    def fit(self) -> DeadLetter:
        """The dead letter as it fits on its topic: with its bytes, or with how they begin and what their digest is."""
        size = len(self.key or b"") + len(self.value or b"")
        size += sum(len(name) + len(data or b"") for name, data in self.headers)
        if size <= _MOST_WHOLE_BYTES:
            return self
        key, value = (data[:_BEGINNING_BYTES] if data is not None else None for data in (self.key, self.value))
        digest = hashlib.sha256(self.value or b"").hexdigest()
        detail = (
            f"{self.detail[:300]} The record is cut: it had {size} bytes, the value's SHA-256 is {digest};"
            " read it at its source."
        )
        return msgspec.structs.replace(self, key=key, value=value, headers=(), detail=detail, cut_bytes=size)

    def to_headers(self) -> list[tuple[str, bytes]]:
        words = {
            "topic": self.source.topic,
            "partition": str(self.source.partition),
            "offset": str(self.source.offset),
            "stage": self.stage,
            "reason": self.reason,
            "detail": self.detail[:500],
            "record-time-ms": str(self.record_time_ms),
            "rejected-at-ms": str(self.rejected_at_ms),
            "version": self.version,
        }
        if self.cut_bytes:
            words["cut-bytes"] = str(self.cut_bytes)
        # What a feature in Python says of its failure may hold half a surrogate pair.
        ours = [(f"streamgauge-{name}", value.encode(errors="backslashreplace")) for name, value in words.items()]
        return ours + [(_ORIGINAL + name, data) for name, data in self.headers]

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> DeadLetter:
        """Read back what ``to_headers`` wrote; KeyError when a header is missing."""
        pairs = list(headers)
        ours = [(name, data) for name, data in pairs if not name.startswith(_ORIGINAL)]
        words = {name.removeprefix("streamgauge-"): data.decode() for name, data in ours}
        return cls(
            source=Source(words["topic"], int(words["partition"]), int(words["offset"])),
            stage=words["stage"],  # type: ignore[arg-type]  # written by to_headers from the same Literal
            reason=words["reason"],
            detail=words["detail"],
            key=key,
            value=value,
            record_time_ms=int(words["record-time-ms"]),
            rejected_at_ms=int(words["rejected-at-ms"]),
            version=words["version"],
            cut_bytes=int(words.get("cut-bytes", 0)),
            headers=tuple((name.removeprefix(_ORIGINAL), data) for name, data in pairs if name.startswith(_ORIGINAL)),
        )


class ModelUpdate(msgspec.Struct):
    """``<p>.model-updates``: one version's place on the timeline. Key: ``model|version``.

    The champion at event time t is the champion record of the highest offset whose ``valid_from_ms`` is None or <= t.
    """

    model: str
    version: str
    role: ModelRole
    uri: str
    sha256: str
    feature_set: str
    announced_at_ms: int
    valid_from_ms: int | None = None
    share: float | None = None
    by: str = ""
    why: str = ""


class ModelStatus(msgspec.Struct):
    """``<p>.model-status``: what one worker did with an update. Key: worker.

    ``status``: loaded (verified and warm), refused (with why), serving (first batch scored; ``partition`` and
    ``offset`` say where), failed.
    """

    worker: str
    model: str
    version: str
    status: Literal["loaded", "refused", "serving"]
    at_ms: int
    why: str = ""
    partition: int | None = None
    offset: int | None = None
    seconds: float | None = None


class SketchDelta(msgspec.Struct, array_like=True):
    """``<p>.sketches``: what one transaction added to the integer counts of one version and event-time slice.

    ``counts`` is a flattened int64 matrix (metrics x cells) sent sparse: ``cells`` holds uint32 flat positions of
    the non-zero counts and ``counts`` their int64 values, both little-endian bytes. ``sums`` are int64 fixed-point sums
    per metric (units of its ``models.reference.MetricCells.scale``), ``minima``/``maxima`` float64 per metric (NaN: no
    value).
    ``outcomes`` (version's events whose label arrived) is the same sparse coding of label (0, 1) x cell of the score;
    ``log_loss_sum`` (units of ``FIXED_POINT``) and ``n_correct`` decisions are over the same events.
    All additive: merging deltas in any order gives the same windows.
    """

    model: str
    version: str
    segment: str
    slice_start_ms: int
    n: int
    cells: bytes
    counts: bytes
    sums: bytes
    minima: bytes
    maxima: bytes
    outcome_cells: bytes
    outcome_counts: bytes
    log_loss_sum: int
    n_correct: int = 0


class ErrorRun(msgspec.Struct, array_like=True):
    """Decisions of one version whose labels one transaction applied, in the order in which it did.

    ``times_ms``: effective times of the labels, ascending, int64 little-endian bytes; no later run of the partition
    begins before the ``label_watermark_ms`` that its records have said. ``wrong``: a byte each, 1 or 0.
    """

    version: str
    times_ms: bytes
    wrong: bytes


class SketchRecord(msgspec.Struct, array_like=True):
    """One record of ``<p>.sketches``: the deltas of one transaction and how far this partition has come."""

    partition: int
    #: Event time before which no on-time event of this partition is expected.
    watermark_ms: int
    #: Event time up to which labels of this partition have been applied, or can count no more (``labels.horizon``).
    label_watermark_ms: int
    deltas: list[SketchDelta]
    errors: list[ErrorRun] = []


class SharedTile(msgspec.Struct, array_like=True):
    """``<p>.shared``: all that one partition has added to one tile of a window shared between partitions.

    ``keys``: the window keys, MessagePack each. ``counts`` and ``sums`` (fixed point, as in the state): int64,
    little-endian, one per key. A later record of the same key replaces it.
    """

    keys: list[bytes]
    counts: bytes
    sums: bytes


class SharedTimes(msgspec.Struct, array_like=True):
    """``<p>.shared``: how far one partition has come.

    ``added_ms``: every tile that ends at or before has all that the partition will add to it. ``scored_ms``: no event
    before it will be scored any more.
    """

    added_ms: int
    scored_ms: int


class StoreParts(msgspec.Struct, array_like=True):
    """Rows that one transaction adds to one store of repartitioned windows, to be added up.

    ``store``: its name. ``keys``: a window key per row, MessagePack each. ``tiles``, ``counts`` and ``sums`` (fixed
    point): int64, little-endian.
    """

    store: bytes
    keys: list[bytes]
    tiles: bytes
    counts: bytes
    sums: bytes


class KeyQuestions(msgspec.Struct, array_like=True):
    """Events that want the repartitioned windows over the key fields of number ``key``: offsets and effective times."""

    key: int
    keys: list[bytes]
    offsets: bytes
    times_ms: bytes


class RepartitionRecord(msgspec.Struct, array_like=True):
    """``<p>.repartition``: what a transaction of one input partition has for one partition of the keys.

    ``sequence`` counts up within a ``term``: the state of the source since it began empty. The times are those of
    `SharedTimes`; no event before ``next_offset`` will be scored any more.
    """

    feature_set: str
    source: int
    term: int
    sequence: int
    added_ms: int
    scored_ms: int
    next_offset: int
    parts: list[StoreParts]
    questions: list[KeyQuestions]


class KeyAnswers(msgspec.Struct, array_like=True):
    """Per window over the key fields of number ``key`` the counts and the sums, for events of these offsets: int64."""

    key: int
    offsets: bytes
    amounts: bytes


class AnswersRecord(msgspec.Struct, array_like=True):
    """``<p>.answers``: answers to questions of one input partition."""

    feature_set: str
    term: int
    answers: list[KeyAnswers]


class DriftReport(msgspec.Struct):
    """``<p>.drift`` and ClickHouse ``drift_reports``: one test of one metric over one closed window."""

    pipeline: str
    model: str
    version: str
    segment: str
    metric: str
    test: str
    window_start_ms: int
    window_end_ms: int
    statistic: float | None
    p_value: float | None
    threshold: float | None
    effect: float | None
    n_reference: int
    n_detection: int
    signal: Literal["NONE", "WARNING", "DRIFT"]
    revision: int = 1
    #: Free words for a person: "d4 is above the interval of its past", "too little history (2 of 10 windows)".
    note: str = ""


class Explained(msgspec.Struct):
    """A metric, the share of the score's change that it explains (None: the scores have not moved), in words."""

    metric: str
    share: float | None
    words: str


class VerdictSegment(msgspec.Struct):
    """A segment in which it sits: how far its metrics moved at most, in [0, 1], and its events."""

    segment: str
    effect: float
    n: int
    metrics: list[str]


class VerdictExample(msgspec.Struct):
    """One thing in training and in the window, in words."""

    what: str
    before: str
    after: str


class WindowVerdict(msgspec.Struct):
    """``<p>.verdicts`` and ClickHouse ``verdicts``: what has happened in one closed window of one version.

    ``with_labels``: whether its labels were mature. A later one of the same window has a higher revision.
    """

    pipeline: str
    model: str
    version: str
    window_start_ms: int
    window_end_ms: int
    kind: str
    headline: str
    explained_by: list[Explained]
    segments: list[VerdictSegment]
    example: VerdictExample | None
    advice: str
    reason: str
    n_reference: int
    n_detection: int
    with_labels: bool
    revision: int = 1


class Alert(msgspec.Struct):
    """``<p>.alerts`` and ClickHouse ``alerts``: an alert has come into a state.

    ``revision`` counts what was said of the alert: the highest is how it stands. The window is the one that brought it
    into this state; ``since_ms``: start of the first window beyond the limit. ``silenced``: noted, nobody is asked to
    act. ``others``: rules of its group that were raised for the same window. ``by`` and ``why``: who acknowledged it,
    in which words; of a silenced one, why it is silent.

    Raised with ``action`` "retrain" it asks for a new version, once per ``alert_id``: to replace ``version``, with data
    up to ``window_end_ms``, of which those from ``since_ms`` on are different. Cleared, it no longer asks.
    """

    alert_id: str
    pipeline: str
    rule: str
    severity: Severity
    state: AlertState
    model: str
    version: str
    at_ms: int
    window_start_ms: int | None
    window_end_ms: int | None
    measure: str
    value: float | None
    limit: float | None
    message: str
    action: str = ""
    revision: int = 0
    since_ms: int | None = None
    group: str = ""
    others: list[str] = []
    owner: str = ""
    runbook: str = ""
    by: str = ""
    why: str = ""


def encode_json(record: msgspec.Struct) -> bytes:
    """The JSON bytes of a record (``bytes`` fields as base64, NaN as null)."""
    return msgspec.json.encode(record)


def decode_json(data: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(data, type=kind)


def encode_packed(record: object) -> bytes:
    """MessagePack bytes, for the internal topics; equal values of plain types give equal bytes."""
    return msgspec.msgpack.encode(record)


def decode_packed(data: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(data, type=kind)


def to_builtins(record: msgspec.Struct) -> dict[str, Any]:
    """The record as plain dicts and lists, for ``--json`` output."""
    return msgspec.to_builtins(record)  # type: ignore[no-any-return]
