"""Which records hooks tell, what they say, how it is signed, and what an answer means."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import RecordBatch
from app.core.hooks.delivery import Delivery
from app.core.hooks.requests import Answer, body_of, read_status, slack, webhook, words_of
from app.core.hooks.selection import Selection
from app.core.hooks.signature import read_secret, sign
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import Alert, HookDelivery, ModelStatus, Score, Source, WindowVerdict, encode_json

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,30}", fullmatch=True)
START_MS = 1_767_225_600_000
PIPELINE = """
name = "shop"

[events]
entity = "customer"
id = "order"
time = "at_ms"

[events.fields]
order = "string"
customer = "string"
at_ms = "int"
amount = "float?"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[destinations]
hosts = ["crm.example.com"]
"""
HOOK = """
[[hooks]]
name = "{name}"
on = "{on}"
url = "https://crm.example.com/{name}"
secrets = ["CRM_SECRET"]
{more}
"""
#: Secret, id, time, body and signature as the libraries of Standard Webhooks have them in their tests.
VECTOR = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "msg_p5jXN8AQM9LWM0D4loKWxJek",
    1_614_265_330,
    b'{"test": 2432232314}',
    "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
)


def build(folder: Path, *hooks: tuple[str, str, str]) -> Pipeline:
    path = folder / "shop.toml"
    path.write_text(PIPELINE + "".join(HOOK.format(name=name, on=on, more=more) for name, on, more in hooks))
    return load(path)


def score(offset: int = 0, value: float = 0.5, amount: float | None = 10.0, version: str = "1.0.0") -> Score:
    return Score(
        event_id=f"o{offset}",
        entity="ann",
        event_time_ms=START_MS,
        score=value,
        decision=value >= 0.5,
        model="shop",
        version=version,
        role="champion",
        feature_set="f",
        source=Source("shop.events", 0, offset),
        scored_at_ms=START_MS + 250,
        features={"amount": amount},
    )


ALERT = Alert(
    alert_id="a1",
    pipeline="shop",
    rule="auc-fell",
    severity="critical",
    state="raised",
    model="shop",
    version="1.0.0",
    at_ms=START_MS,
    window_start_ms=None,
    window_end_ms=None,
    measure="auc",
    value=0.5,
    limit=0.7,
    message="AUC <fell> to 0.5 & below.",
    runbook="https://wiki.example.com/auc",
)
VERDICT = WindowVerdict(
    pipeline="shop",
    model="shop",
    version="1.0.0",
    window_start_ms=START_MS,
    window_end_ms=START_MS + 1,
    kind="feature_drift",
    headline="Amounts have risen.",
    explained_by=[],
    segments=[],
    example=None,
    advice="Look at the prices.",
    reason="",
    n_reference=1,
    n_detection=1,
    with_labels=False,
)
STATUS = ModelStatus("w1", "shop", "1.1.0", "refused", START_MS, why="The digest differs.")


def batch(topic: str, *records: msgspec.Struct | bytes | None) -> RecordBatch:
    values = [encode_json(each) if isinstance(each, msgspec.Struct) else each for each in records]
    n = len(values)
    return RecordBatch(topic, 0, np.arange(n), np.full(n, START_MS + 7), [None] * n, values)


def select(pipeline: Pipeline, records: RecordBatch) -> tuple[list[Delivery], list[str]]:
    refused: list[str] = []
    chosen = Selection(pipeline).select(records, START_MS, lambda _, error: refused.append(error.reason))
    return list(chosen), refused


@pytest.mark.parametrize(
    ("where", "offsets"),
    [
        ("score >= 0.9", [2]),
        ("decision", [1, 2]),
        ("not decision", [0]),
        ("version == '2.0.0'", [2]),
        ("entity == 'bob'", []),
        ("amount > 100", [1]),
        ("coalesce(amount, 0) < 50", [0, 2]),
        ("hour(event_time, 'UTC') == 0", [0, 1, 2]),
    ],
)
def test_a_filter_reads_what_a_score_says_and_what_is_missing_passes_no_comparison(
    where: str, offsets: list[int], tmp_path: Path
) -> None:
    pipeline = build(tmp_path, ("crm", "scores", f'where = "{where}"'))
    records = batch("shop.scores", score(0, 0.1), score(1, 0.6, 500.0), score(2, 0.95, None, "2.0.0"))

    chosen, _ = select(pipeline, records)

    assert [delivery.record.source.offset for delivery in chosen] == offsets


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0, 1))
def test_a_batch_is_filtered_as_its_records_one_by_one(values: list[float], least: float) -> None:
    import tempfile  # noqa: PLC0415  # a fixture would be shared by all examples

    with tempfile.TemporaryDirectory() as folder:
        pipeline = build(Path(folder), ("crm", "scores", f'where = "score >= {least!r}"'))
    chosen, _ = select(pipeline, batch("shop.scores", *(score(at, value) for at, value in enumerate(values))))
    assert [each.record.source.offset for each in chosen] == [at for at, value in enumerate(values) if value >= least]


def test_hooks_of_one_topic_are_each_told_and_others_are_not(tmp_path: Path) -> None:
    pipeline = build(tmp_path, ("a", "scores", ""), ("b", "scores", 'where = "decision"'), ("c", "alerts", ""))

    chosen, _ = select(pipeline, batch("shop.scores", score(0, 0.1), score(1, 0.9)))

    assert [delivery.id for delivery in chosen] == ["shop/scores/0/0/a", "shop/scores/0/1/a", "shop/scores/0/1/b"]
    assert Selection(pipeline).topics == ["shop.alerts", "shop.scores"]


@pytest.mark.parametrize(
    ("on", "topic", "record", "kind", "entity", "time_ms"),
    [
        ("scores", "shop.scores", score(), "score.published", "ann", START_MS + 250),
        ("alerts", "shop.alerts", ALERT, "alert.raised", "a1", START_MS),
        ("verdicts", "shop.verdicts", VERDICT, "verdict.reached", "1.0.0", START_MS + 7),
        ("models", "shop.model-status", STATUS, "model.refused", "w1", START_MS),
    ],
)
def test_each_kind_of_record_is_told_as_it_is_with_its_type_and_time(  # noqa: PLR0917  # a row of the table
    on: str, topic: str, record: msgspec.Struct, kind: str, entity: str, time_ms: int, tmp_path: Path
) -> None:
    chosen, refused = select(build(tmp_path, ("crm", on, "")), batch(topic, record, None, b"{", b"[]"))

    (delivery,) = chosen
    body = msgspec.json.decode(body_of(delivery.record))
    assert refused == ["malformed", "wrong_type"]
    assert (delivery.record.type, delivery.record.entity, delivery.record.time_ms) == (kind, entity, time_ms)
    assert body.keys() == {"type", "timestamp", "data"}
    assert body["type"] == kind
    assert body["timestamp"].startswith("2026-01-01T00:00:00.")
    assert body["data"] == msgspec.json.decode(encode_json(record))


def test_a_score_of_another_partition_is_refused(tmp_path: Path) -> None:
    stranger = msgspec.structs.replace(score(), source=Source("shop.events", 3, 0))
    assert select(build(tmp_path, ("crm", "scores", "")), batch("shop.scores", stranger)) == ([], ["foreign"])


# -- requests ----------------------------------------------------------------------------------------------------------


def told(record: msgspec.Struct, kind: str = "score.published") -> HookDelivery:
    data = msgspec.Raw(encode_json(record))
    return HookDelivery("crm", Source("shop.scores", 2, 15), "ann", kind, START_MS, data, START_MS)


def test_a_signature_is_that_of_the_standard() -> None:
    secret, name, time_s, body, signature = VECTOR
    assert sign(name, time_s, body, [read_secret(secret)]) == signature


@given(st.binary(min_size=24, max_size=64), st.binary(min_size=24, max_size=64), st.integers(0, 2**33), st.binary())
def test_either_of_two_keys_verifies_and_no_other_body_or_time_does(
    one: bytes, other: bytes, time_s: int, body: bytes
) -> None:
    signatures = sign("shop/scores/0/1/crm", time_s, body, [one, other]).split(" ")

    def expected(key: bytes, at_s: int, content: bytes) -> str:
        signed = f"shop/scores/0/1/crm.{at_s}.".encode() + content
        return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()

    assert signatures == [expected(one, time_s, body), expected(other, time_s, body)]
    assert expected(one, time_s + 1, body) not in signatures
    assert expected(one, time_s, body + b" ") not in signatures


def test_each_try_has_the_id_and_the_body_of_the_first_and_a_time_of_its_own() -> None:
    record, key = told(score()), bytes(32)
    first, again = webhook(record, START_MS, [key]), webhook(record, START_MS + 86_400_000, [key])

    assert first[1] == again[1]
    assert first[0]["webhook-id"] == again[0]["webhook-id"] == "shop/scores/2/15/crm"
    assert int(again[0]["webhook-timestamp"]) - int(first[0]["webhook-timestamp"]) == 86_400
    assert first[0]["webhook-signature"] != again[0]["webhook-signature"]


@given(
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,30}", fullmatch=True),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True),
)
def test_no_id_has_a_full_stop(pipeline: str, hook: str) -> None:
    record = HookDelivery(hook, Source(f"{pipeline}.scores", 0, 1), "e", "score.published", 0, msgspec.Raw(b"{}"), 0)
    assert "." not in record.id


@pytest.mark.parametrize(
    ("record", "kind", "words"),
    [
        (score(value=0.93), "score.published", "ann: score 0.93 (positive) of shop 1.0.0."),
        (
            ALERT,
            "alert.raised",
            "[critical] shop: alert auc-fell raised. AUC &lt;fell&gt; to 0.5 &amp; below. https://wiki.example.com/auc",
        ),
        (VERDICT, "verdict.reached", "shop, version 1.0.0: Amounts have risen. Look at the prices."),
        (STATUS, "model.refused", "Model shop 1.1.0: refused on w1. The digest differs."),
        (score(), "alert.raised", "alert.raised of ann"),
        (score(), "weather.changed", "weather.changed of ann"),
    ],
)
def test_a_chat_is_told_in_words_in_which_nothing_is_a_command(record: msgspec.Struct, kind: str, words: str) -> None:
    headers, body = slack(told(record, kind))

    assert msgspec.json.decode(body) == {"text": words}
    assert headers.keys() == {"webhook-id"}
    assert words_of(told(record, kind))


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome", "wait_ms"),
    [
        (200, None, "told", 0),
        (204, "60", "told", 0),
        (301, None, "refused", 0),
        (400, "60", "refused", 0),
        (401, None, "refused", 0),
        (410, None, "gone", 0),
        (429, None, "refused", 0),
        (429, "60", "refused", 60_000),
        (503, "0", "refused", 0),
        (503, "-5", "refused", 0),
        (503, "soon", "refused", 0),
        (503, "9" * 400, "refused", 999_999_999_000),
        (503, "Thu, 01 Jan 2026 00:00:30 GMT", "refused", 30_000),
        (503, "Wed, 31 Dec 2025 00:00:00 GMT", "refused", 0),
        (503, "Thu, 99 Jan 2026 00:00:30 GMT", "refused", 0),
        (500, "60", "refused", 0),
    ],
)
def test_an_answer_means_what_http_says(status: int, retry_after: str | None, outcome: str, wait_ms: int) -> None:
    answer = read_status(status, retry_after, START_MS)

    assert (answer.outcome, answer.status, answer.wait_ms) == (outcome, status, wait_ms)
    assert bool(answer.why) == (outcome != "told")


@given(st.integers(100, 999), st.text(max_size=60))
def test_no_answer_breaks_the_sender(status: int, retry_after: str) -> None:
    answer = read_status(status, retry_after, START_MS)
    assert isinstance(answer, Answer)
    assert answer.wait_ms >= 0
