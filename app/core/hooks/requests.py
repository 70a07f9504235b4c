"""What is sent for a delivery, and what an answer means."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

from app.core.hooks.signature import sign
from schemas.wire import Alert, HookDelivery, ModelStatus, Score, WindowVerdict

#: What was made of a try: "told" (2xx); "gone" (410: never again); the rest is tried again.
Outcome = Literal["told", "gone", "refused", "timeout", "certificate", "address", "connection"]

_GONE = 410
#: Answers whose ``Retry-After`` counts.
_BUSY = frozenset({429, 503})


class Body(msgspec.Struct):
    """The body of a webhook, as Standard Webhooks recommends it."""

    type: str
    timestamp: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try.

    ``status``: of HTTP; None: there was no answer. ``why``: in words, for a person; never what the receiver wrote.
    ``wait_ms``: for how long it asks to be left alone.
    """

    outcome: Outcome
    status: int | None = None
    why: str = ""
    wait_ms: int = 0


def body_of(record: HookDelivery) -> bytes:
    """The same bytes at each try."""
    moment = dt.datetime.fromtimestamp(record.time_ms / 1000, dt.UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(Body(record.type, moment.replace("+00:00", "Z"), record.data))


def webhook(record: HookDelivery, now_ms: int, keys: Sequence[bytes]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a signed webhook."""
    body, time_s = body_of(record), now_ms // 1000
    return {
        "webhook-id": record.id,
        "webhook-timestamp": str(time_s),
        "webhook-signature": sign(record.id, time_s, body, keys),
    }, body


def slack(record: HookDelivery) -> tuple[dict[str, str], bytes]:
    """Headers and body of a message as Slack's incoming webhooks take it."""
    return {"webhook-id": record.id}, msgspec.json.encode({"text": _escape(words_of(record))})


def words_of(record: HookDelivery) -> str:
    """What is told, in a sentence or two."""
    kind = record.type.partition(".")[0]
    try:
        return _WORDS[kind](record.data)
    except (KeyError, msgspec.MsgspecError):  # of another release, or of a stranger
        return f"{record.type} of {record.entity}"


def _alert(data: msgspec.Raw) -> str:
    alert = msgspec.json.decode(data, type=Alert)
    link = f" {alert.runbook}" if alert.runbook else ""
    return f"[{alert.severity}] {alert.pipeline}: alert {alert.rule} {alert.state}. {alert.message}{link}"


def _verdict(data: msgspec.Raw) -> str:
    verdict = msgspec.json.decode(data, type=WindowVerdict)
    return f"{verdict.pipeline}, version {verdict.version}: {verdict.headline} {verdict.advice}".rstrip()


def _model(data: msgspec.Raw) -> str:
    status = msgspec.json.decode(data, type=ModelStatus)
    version = f" {status.version}" if status.version else ""
    return f"Model {status.model}{version}: {status.status} on {status.worker}. {status.why}".rstrip()


def _score(data: msgspec.Raw) -> str:
    score = msgspec.json.decode(data, type=Score)
    decision = "positive" if score.decision else "negative"
    return f"{score.entity}: score {score.score:.4g} ({decision}) of {score.model} {score.version}."


_WORDS = {"alert": _alert, "verdict": _verdict, "model": _model, "score": _score}


def read_status(status: int, retry_after: str | None, now_ms: int) -> Answer:
    """What a status means; a redirect is not followed."""
    if 200 <= status < 300:
        return Answer("told", status)
    if status == _GONE:
        return Answer("gone", status, "The receiver answered 410: this address is gone.")
    wait_ms = _read_wait_ms(retry_after, now_ms) if status in _BUSY and retry_after is not None else 0
    if 300 <= status < 400:
        return Answer("refused", status, f"The receiver answered {status}, a redirect, which is not followed.")
    return Answer("refused", status, f"The receiver answered {status}.", wait_ms)


def _read_wait_ms(text: str, now_ms: int) -> int:
    """Milliseconds of ``Retry-After``: seconds, or a date; 0 when it is neither."""
    if text.isascii() and text.isdecimal():
        return int(text[:9]) * 1000
    try:
        return max(0, round(parsedate_to_datetime(text).timestamp() * 1000) - now_ms)
    except (ValueError, TypeError, OverflowError):
        return 0


def _escape(text: str) -> str:
    """As Slack asks: otherwise a name could be a link, or call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
