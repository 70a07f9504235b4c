"""What the scoring hook takes and gives: one msgspec struct per body, and every problem that it may answer with.

The OpenAPI document is made of these (`app.adapters.http.openapi`), and so is the table of problems in docs/hook.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from schemas.wire import Source

#: What becomes of an event that is scored: nothing (a preview), it is also sent, or it is sent and its published score
#: is waited for.
Commit = Literal["no", "async", "wait"]

#: Largest body, and most events of one request.
MOST_BODY_BYTES = 1 << 20
MOST_EVENTS = 1_000
#: How long an answer may take, in seconds.
ANSWER_S = 2.0

#: Header of a request that one worker passes on to another: by whom it is not passed on again.
FORWARDED_HEADER = "Streamgauge-Forwarded"
#: Header of an answer: where each partition is served, as JSON.
PARTITIONS_HEADER = "Streamgauge-Partitions"
#: Header of a request that says the event's id, as the event's own id field does.
IDEMPOTENCY_HEADER = "Idempotency-Key"


class ScoreAnswer(msgspec.Struct, omit_defaults=True):
    """The score of one event, and what it was made of.

    Replayed up to ``offset`` and ``labels_offset`` of ``partition``, the event as the next one has the same score, bit
    for bit, unless the answer is ``stale``.
    """

    event_id: str
    entity: str
    event_time_ms: int
    score: float
    decision: bool
    model: str
    version: str
    feature_set: str
    partition: int
    #: The state that was read is that after the events before this offset of the partition.
    offset: int
    #: Labels before this offset were looked at; null where the pipeline has none, and for a published score.
    labels_offset: int | None
    #: The state lacks what it should hold: the partition is behind, or others are whose windows it shares.
    stale: bool
    #: Whether the event is in the topic.
    committed: bool
    #: When it was answered, milliseconds since 1970 (UTC).
    served_at_ms: int
    #: Where the event is in the topic, for a published score.
    source: Source | None = None
    #: With ``?features=true``, what was scored, by name; null is missing.
    features: dict[str, float | None] | None = None


class Problem(msgspec.Struct, omit_defaults=True):
    """Why there is no score, as RFC 9457 has it. A program decides by ``code``, a person reads ``detail``."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    #: Of an event that is refused: the reason that its dead letter would have.
    reason: str = ""
    event_id: str = ""
    partition: int | None = None
    #: Where the partition is served, as far as that is known.
    owner: str = ""


class ScoreResult(msgspec.Struct, omit_defaults=True):
    """What became of one event of a list: an answer, or a problem."""

    answer: ScoreAnswer | None = None
    problem: Problem | None = None


class ScoreResults(msgspec.Struct):
    """What became of a list of events, in its order."""

    results: list[ScoreResult]


class RankRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Candidates for one entity: each is scored as the event with the candidate's fields in place of its own.

    ``event`` has at least the entity. Its id may be left out: nothing is sent.
    """

    event: dict[str, Any]
    candidates: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MOST_EVENTS)]
    top: Annotated[int, msgspec.Meta(ge=1, le=MOST_EVENTS)] = 5


class Ranked(msgspec.Struct):
    """One candidate, by its place in the request (from 0), and its score."""

    candidate: int
    score: float
    decision: bool


class RankAnswer(msgspec.Struct):
    """The best candidates, the best one first; of equal scores the one that was named first. One state scored all.

    Fields as in `ScoreAnswer`. ``refused``: candidates that have no score, and why.
    """

    entity: str
    ranked: list[Ranked]
    refused: dict[int, Problem]
    model: str
    version: str
    feature_set: str
    partition: int
    offset: int
    labels_offset: int | None
    stale: bool
    served_at_ms: int


@dataclass(frozen=True, slots=True)
class Asked:
    """How scores are asked for. ``is_forwarded``: by another worker, so it is not passed on again."""

    commit: Commit = "no"
    with_features: bool = False
    is_forwarded: bool = False


class ProblemFoundError(Exception):
    """A whole request has a problem."""

    def __init__(self, found: Problem) -> None:
        super().__init__(found.detail)
        self.problem = found


class SendFailedError(Exception):
    """An event that was to be sent was not acknowledged; it may be in the topic all the same."""


@dataclass(frozen=True)
class ProblemKind:
    """One kind of problem. ``retry_after_s``: when to ask again, in seconds; None: not as it is."""

    status: int
    title: str
    fix: str
    retry_after_s: int | None = None


#: By code. Codes are the contract; titles and details may change.
PROBLEMS: dict[str, ProblemKind] = {
    "bad-request": ProblemKind(400, "The request cannot be read", "Send JSON as /openapi.json describes it."),
    "too-large": ProblemKind(413, "The body or the list is too long", "Send it in parts."),
    "not-json": ProblemKind(415, "The body is not declared as JSON", "Send Content-Type: application/json."),
    "not-the-owner": ProblemKind(421, "Another worker has the partition", "Ask the worker that `owner` names."),
    "refused": ProblemKind(422, "The event cannot be scored", "Mend the event: `detail` says where."),
    "duplicate-id": ProblemKind(422, "Two events of the list have the same id", "Give each event an id of its own."),
    "no-version": ProblemKind(422, "No version is to score events of this time", "Promote a version for that time."),
    "no-preview": ProblemKind(
        422,
        "Features of this pipeline are known to the stream alone",
        "Ask with commit=wait.",
    ),
    "other-body": ProblemKind(422, "The id was used for another event", "Give each event an id of its own."),
    "model-not-ready": ProblemKind(503, "No model is loaded yet", "Ask again; promote one if there is none.", 2),
    "partition-moving": ProblemKind(503, "The partition is changing hands", "Ask again.", 1),
    "no-owner": ProblemKind(503, "No worker has the partition", "Start a worker, or give each its --advertise.", 2),
    "kafka-away": ProblemKind(503, "The worker has lost touch with Kafka", "Ask again, or another worker.", 2),
    "not-yet": ProblemKind(503, "The score is not published yet", "Ask again with the same id: it counts once.", 1),
    "busy": ProblemKind(503, "Too many requests are at work", "Ask again, or start more workers.", 1),
}


def problem(
    code: str, detail: str, *, reason: str = "", event_id: str = "", partition: int | None = None, owner: str = ""
) -> Problem:
    """A problem of a kind, with its detail: one sentence or two, with the fix."""
    kind = PROBLEMS[code]
    type_ = f"urn:streamgauge:problem:{code}"
    return Problem(type_, kind.title, kind.status, code, detail, reason, event_id, partition, owner)
