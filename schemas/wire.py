"""The records on the topics: one msgspec struct per kind, JSON on the topics others read.

Field names are the contract, and so are their ranges (`schemas.ranges`): ``decode_*`` give a record whose every field
is in range, or raise `RefusedRecordError`, whatever the bytes. Whether fields fit each other and the pipeline is for
`app.core.records` to say.

Over 350 lines: a list, one struct for each kind of record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from schemas.pipeline.spec import Severity
from schemas.ranges import (
    ComeToMs,
    Count,
    Int64,
    ModelName,
    Name,
    Offset,
    Partition,
    Sha256,
    Share,
    Text,
    TimeMs,
    Total,
    Uri,
    Version,
    VersionName,
    Words,
)
from schemas.refusal import UNREADABLE, RefusedRecordError, need_value, refuse_unreadable
from schemas.topics import MAX_DEAD_LETTER_BYTES

T = TypeVar("T", bound=msgspec.Struct)

#: Key and value of a dead letter that is not cut: room is left for headers and for what Kafka adds.
_MOST_WHOLE_BYTES = MAX_DEAD_LETTER_BYTES - (64 << 10)
#: What is kept of a key and of a value that are cut.
_BEGINNING_BYTES = 64 << 10
#: In front of the names of a dead letter's headers, and of those of the original record.
_OURS = "streamgauge-"
_ORIGINAL = "streamgauge-original-"
#: Digits of a number in a header; more are no number of ours.
_MOST_DIGITS = 19

AlertState = Literal["raised", "acknowledged", "cleared", "silenced"]
ModelRole = Literal["champion", "challenger", "shadow", "canary", "retired", "unusable"]


class Source(msgspec.Struct, frozen=True):
    """Where an event was read: the identity of everything derived from it."""

    topic: Name
    partition: Partition
    offset: Offset


class Score(msgspec.Struct):
    """``<p>.scores``: the score of one event.

    ``features`` holds the row of the feature matrix: null is missing, a category is its code, ``len(values)`` for
    a value that is not in its vocabulary.
    """

    event_id: Text
    entity: Text
    event_time_ms: TimeMs
    score: float
    decision: bool
    model: Name
    version: Name
    role: Name
    feature_set: str
    source: Source
    scored_at_ms: TimeMs
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
    reason: Name
    detail: Words
    key: bytes | None
    value: bytes | None
    #: Whatever its producer wrote: a producer's clock may be anywhere.
    record_time_ms: Int64
    rejected_at_ms: TimeMs
    version: str = ""
    cut_bytes: Count = 0
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
        ours = [(_OURS + name, value.encode(errors="backslashreplace")) for name, value in words.items()]
        return ours + [(_ORIGINAL + name, data) for name, data in self.headers]

    @classmethod
    def from_record(cls, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> DeadLetter:
        """Read back what ``to_headers`` wrote; RefusedRecordError when the headers are different ones."""
        pairs = list(headers)
        # A header's value may be null, whatever the type says: anyone may write to the topic.
        ours = {name: data or b"" for name, data in pairs if name.startswith(_OURS) and not name.startswith(_ORIGINAL)}
        try:
            words = {name.removeprefix(_OURS): data.decode() for name, data in ours.items()}
            letter = msgspec.convert(
                {
                    "source": {
                        "topic": words["topic"],
                        "partition": _number(words["partition"]),
                        "offset": _number(words["offset"]),
                    },
                    "stage": words["stage"],
                    "reason": words["reason"],
                    "detail": words["detail"],
                    "key": key,
                    "value": value,
                    "record_time_ms": _number(words["record-time-ms"]),
                    "rejected_at_ms": _number(words["rejected-at-ms"]),
                    "version": words["version"],
                    "cut_bytes": _number(words.get("cut-bytes", "0")),
                },
                cls,
            )
        except (KeyError, ValueError) as error:  # msgspec's are ValueErrors
            raise RefusedRecordError(
                "bad_header", f"Its headers are not those of a dead letter: {error!s:.200}."
            ) from None
        originals = tuple((name.removeprefix(_ORIGINAL), data) for name, data in pairs if name.startswith(_ORIGINAL))
        return msgspec.structs.replace(letter, headers=originals)


class SentBack(msgspec.Struct):
    """``<p>.replayed``: a dead letter whose record was sent back. Key: its partition/offset."""

    partition: Partition
    offset: Offset
    at_ms: TimeMs


class ModelUpdate(msgspec.Struct):
    """``<p>.model-updates``: one step of the timeline (`models.versions.timeline`). No two have the same key.

    ``valid_from_ms``: a champion scores the events from this event time on (None: all). ``is_rollback``: this version
    is champion again as it was, and what was promoted since no longer counts.
    """

    model: ModelName
    version: Version
    role: ModelRole
    uri: Uri
    sha256: Sha256
    feature_set: Name
    announced_at_ms: TimeMs
    valid_from_ms: TimeMs | None = None
    share: Share | None = None
    by: Words = ""
    why: Words = ""
    is_rollback: bool = False


class ModelStatus(msgspec.Struct):
    """``<p>.model-status``: what one worker did with an update. Key: worker.

    ``status``: loaded (verified and warm), refused (with why), serving (first batch scored; ``partition`` and
    ``offset`` say where). ``uri`` and ``sha256``: of the update that was refused or loaded. began (of no version): a
    worker that was told where to begin reads a partition from here on, events from ``offset`` and labels from
    ``label_offset``.
    """

    worker: Name
    model: ModelName
    version: Version | None
    status: Literal["loaded", "refused", "serving", "began"]
    at_ms: TimeMs
    why: Words = ""
    partition: Partition | None = None
    offset: Offset | None = None
    seconds: float | None = None
    uri: str = ""
    sha256: str = ""
    label_offset: Offset | None = None


class SketchDelta(msgspec.Struct, array_like=True):
    """``<p>.sketches``: what one transaction added to the integer counts of one version and event-time slice.

    ``counts`` is a flattened int64 matrix (metrics x cells) sent sparse: ``cells`` holds uint32 flat positions of
    the non-zero counts and ``counts`` their int64 values, both little-endian bytes. ``sums`` are int64 fixed-point sums
    per metric (units of its ``models.reference.reference.MetricCells.scale``), ``minima``/``maxima`` float64 per metric
    (NaN: no value). ``outcomes`` (the version's events whose label came) is the same sparse coding of label (0, 1) x
    cell of the score; ``log_loss_sum`` (units of `models.reference.units.COUNT_UNITS`) and ``n_correct`` decisions are
    over the same events. All additive: merging deltas in any order gives the same windows.
    """

    model: str
    version: VersionName
    segment: Name
    slice_start_ms: TimeMs
    n: Count
    cells: bytes
    counts: bytes
    sums: bytes
    minima: bytes
    maxima: bytes
    outcome_cells: bytes
    outcome_counts: bytes
    log_loss_sum: Total
    n_correct: Count = 0


class ErrorRun(msgspec.Struct, array_like=True):
    """Decisions of one version whose labels one transaction applied, in the order in which it did.

    ``times_ms``: from when each counts, int64 little-endian bytes: the effective time of its label, or the time of its
    event and ``performance.maturity``, whichever is later. None is before the ``label_watermark_ms`` that earlier
    records of the partition have said. ``decisions``: a byte each, 1 if it was wrong, and 2 more if the label is 1 (not
    in records of former releases). ``hours``: a byte each, the hour of the week of its event
    (`models.reference.error_hours.hours_of`); empty in records of former releases.
    """

    version: VersionName
    times_ms: bytes
    decisions: bytes
    hours: bytes = b""


class LabelCounts(msgspec.Struct, array_like=True):
    """Labels that one transaction applied in one slice of (effective) time: how many, and those without an event.

    ``too_late``: the event had been forgotten. ``unknown``: its entity is here, and no such event waits.
    ``strangers``: the hash of each other one's key, which is not an entity of this partition; int64, little-endian.
    """

    slice_start_ms: TimeMs
    n: Count
    too_late: Count
    unknown: Count
    strangers: bytes


class DelayCounts(msgspec.Struct, array_like=True):
    """How long one label (0 or 1) took, of the events of one slice, as one transaction joined them.

    The delay is the label's effective time less the time of its event. ``cells`` holds ascending numbers (uint32) of
    the cells of `app.core.counts.delay_law`, and ``counts`` their labels (int64), both little-endian; ``newest_ms``:
    effective time of the newest label. Counts add up, and the newest time of all stands.
    """

    slice_start_ms: TimeMs
    label: Annotated[int, msgspec.Meta(ge=0, le=1)]
    cells: bytes
    counts: bytes
    newest_ms: TimeMs


class SketchRecord(msgspec.Struct, array_like=True):
    """One record of ``<p>.sketches``: the deltas of one transaction and how far this partition has come.

    ``unscored``: events that were left unscored, being older than what any version was to score.
    ``unscored_since_ms``: event time before which a twentieth of them happened; None: not told.
    """

    partition: Partition
    #: Event time before which no on-time event of this partition is expected.
    watermark_ms: ComeToMs
    #: Event time up to which labels of this partition have been applied, or can no longer count (``labels.horizon``).
    label_watermark_ms: ComeToMs
    deltas: list[SketchDelta]
    errors: list[ErrorRun] = []
    unscored: Count = 0
    labels: list[LabelCounts] = []
    delays: list[DelayCounts] = []
    unscored_since_ms: TimeMs | None = None


class EntityChunk(msgspec.Struct, array_like=True):
    """``<p>.entities``: entities that one partition has seen, and when each was seen first in its generation.

    ``hashes``: `app.core.tiles.hash_runs.hash64` of the whole name. ``hashes`` and ``first_seen_ms``: int64,
    little-endian. ``names``: how they begin. The key is `app.core.entities.log`'s; a later record of the same key
    replaces it.
    """

    hashes: bytes
    first_seen_ms: bytes
    names: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=64)]], msgspec.Meta(max_length=64)]


class SharedTile(msgspec.Struct, array_like=True):
    """``<p>.shared``: all that one partition has added to one tile of a window shared between partitions.

    ``keys``: the window keys, MessagePack each. ``counts`` and ``sums`` (fixed point, as in the state): int64,
    little-endian, one per key. A later record of the same key replaces it.
    """

    keys: list[bytes]
    counts: bytes
    sums: bytes


class SharedTimes(msgspec.Struct, array_like=True):
    """``<p>.shared``: how far one partition has come; the last record of each transaction.

    ``added_ms``: every tile that ends at or before it has all that the partition will add. ``scored_ms``: no event
    before it will be scored any more, except with ``stale`` in its score.
    """

    added_ms: ComeToMs
    scored_ms: ComeToMs


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

    key: Partition
    keys: list[bytes]
    offsets: bytes
    times_ms: bytes


class RepartitionRecord(msgspec.Struct, array_like=True):
    """``<p>.repartition``: what a transaction of one input partition has for one partition of the keys.

    ``sequence`` counts up within a ``term``: the state of the source since it began empty. The times are those of
    `SharedTimes`; no event before ``next_offset`` will be scored any more.
    """

    feature_set: Name
    source: Partition
    term: Offset
    sequence: Offset
    added_ms: ComeToMs
    scored_ms: ComeToMs
    next_offset: Offset
    parts: list[StoreParts]
    questions: list[KeyQuestions]


class KeyAnswers(msgspec.Struct, array_like=True):
    """Per window over the key fields of number ``key`` the counts and the sums, for events of these offsets: int64."""

    key: Partition
    offsets: bytes
    amounts: bytes


class AnswersRecord(msgspec.Struct, array_like=True):
    """``<p>.answers``: answers to questions of one input partition."""

    feature_set: Name
    term: Offset
    answers: list[KeyAnswers]


class DriftReport(msgspec.Struct):
    """``<p>.drift`` and ClickHouse ``drift_reports``: one test of one metric over one closed window.

    One field for each column of the table: that is why it has so many.
    """

    pipeline: Name
    model: Name
    version: Name
    segment: Name
    metric: Name
    test: Name
    window_start_ms: TimeMs
    window_end_ms: TimeMs
    statistic: float | None
    p_value: float | None
    threshold: float | None
    effect: float | None
    n_reference: Count
    n_detection: Count
    signal: Literal["NONE", "WARNING", "DRIFT"]
    revision: Count = 1
    #: Free words for a person: "d4 is above the interval of its past", "too little history (2 of 10 windows)".
    note: str = ""


class Explained(msgspec.Struct):
    """A metric, the share of the score's change that it explains (None: the scores have not moved), and in words."""

    metric: str
    share: float | None
    words: str


class VerdictSegment(msgspec.Struct):
    """A segment in which the change sits: how far its metrics moved at most, in [0, 1], and its events."""

    segment: str
    effect: float
    n: Count
    metrics: list[str]


class VerdictExample(msgspec.Struct):
    """One thing in training and in the window, in words."""

    what: str
    before: str
    after: str


class WindowVerdict(msgspec.Struct):
    """``<p>.verdicts`` and ClickHouse ``verdicts``: what has happened in one closed window of one version.

    ``with_labels``: whether its labels were mature. A later one of the same window has a higher revision.

    One field for each column of the table: that is why it has so many.
    """

    pipeline: Name
    model: Name
    version: Name
    window_start_ms: TimeMs
    window_end_ms: TimeMs
    kind: Name
    headline: str
    explained_by: list[Explained]
    segments: list[VerdictSegment]
    example: VerdictExample | None
    advice: str
    reason: str
    n_reference: Count
    n_detection: Count
    with_labels: bool
    revision: Count = 1


class Alert(msgspec.Struct):
    """``<p>.alerts`` and ClickHouse ``alerts``: an alert has come into a state.

    ``revision`` counts what was said of the alert: the highest is how it stands. It may come again in the state that it
    has, when a window is about something else; ``message`` says what is new. The window is the one that brought it
    into this state; ``since_ms``: start of the first window beyond the limit. ``silenced``: noted, nobody is asked to
    act. ``version``: "" when the alert is on the stream itself. ``others``: rules of its group that were raised for the
    same window. ``by`` and ``why``: who acknowledged it, and in which words; of a silenced one, why it is silent.

    Raised with ``action`` "retrain" it asks for a new version, once per ``alert_id``: to replace ``version``, with data
    up to ``window_end_ms``, of which those from ``since_ms`` on are different. Cleared, it no longer asks.

    One field for each column of the table: that is why it has so many.
    """

    alert_id: Name
    pipeline: Name
    rule: Name
    severity: Severity
    state: AlertState
    model: Name
    version: Words
    at_ms: TimeMs
    window_start_ms: TimeMs | None
    window_end_ms: TimeMs | None
    measure: str
    value: float | None
    limit: float | None
    message: str
    action: str = ""
    revision: Count = 0
    since_ms: TimeMs | None = None
    group: str = ""
    others: list[str] = []
    owner: str = ""
    runbook: str = ""
    by: str = ""
    why: str = ""


class HookDelivery(msgspec.Struct, omit_defaults=True):
    """``<p>.hooks-retry`` and ``<p>.hooks-dead``: what one hook has to tell of one record. Key: `id`.

    ``source``: the record. ``type``, ``time_ms`` and ``data`` are what is told; ``entity``: those of one entity are
    told in their order. ``parked_at_ms``: since when it is retried. Given up: when, and why.
    """

    hook: Name
    source: Source
    entity: Text
    type: Name
    time_ms: TimeMs
    data: msgspec.Raw
    parked_at_ms: TimeMs
    given_up_at_ms: TimeMs | None = None
    why: Words = ""

    @property
    def id(self) -> str:
        """The ``webhook-id``: the same at each try, whoever sends it. It has no full stop, as the standard wants it."""
        source = self.source
        return f"{source.topic.replace('.', '/')}/{source.partition}/{source.offset}/{self.hook}"


class HookState(msgspec.Struct):
    """``<p>.hooks-state``: a hook that is disabled, since when and why. Key: its name; a tombstone enables it.

    ``destination``: digest of where it went; a hook that goes somewhere else is another one.
    """

    hook: Name
    disabled_at_ms: TimeMs
    destination: Sha256
    why: Words = ""


def _number(text: str) -> int:
    if len(text) > _MOST_DIGITS + 1 or not text.removeprefix("-").isdecimal():
        raise ValueError(f"{text!r:.40} is no whole number")
    return int(text)


def encode_json(record: msgspec.Struct) -> bytes:
    """The JSON bytes of a record (``bytes`` fields as base64, NaN as null)."""
    return msgspec.json.encode(record)


def decode_json(data: bytes | None, kind: type[T]) -> T:
    """The record of JSON bytes; RefusedRecordError when they are not of this kind."""
    try:
        return msgspec.json.decode(need_value(data), type=kind)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None


def encode_packed(record: object) -> bytes:
    """MessagePack bytes, for the internal topics; equal values of plain types give equal bytes."""
    return msgspec.msgpack.encode(record)


def decode_packed(data: bytes | None, kind: type[T]) -> T:
    """The record of MessagePack bytes; RefusedRecordError when they are not of this kind."""
    try:
        return msgspec.msgpack.decode(need_value(data), type=kind)
    except UNREADABLE as error:
        raise refuse_unreadable(error) from None


def to_builtins(record: msgspec.Struct) -> dict[str, Any]:
    """The record as plain dicts and lists, for ``--json`` output."""
    return msgspec.to_builtins(record)  # type: ignore[no-any-return]
