"""Records become rows: each record one row or one refusal, and a block's token names its records alone."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.arrow_columns import find_table, to_arrow
from app.core.batches import Header, RecordBatch
from app.core.findings import Findings, MetadataRow, PerformanceRow
from app.core.records.outputs import OutputReader
from app.core.records.rules import RecordRules
from app.monitor.rows import Block, dead_letter_block, findings_columns, findings_records, read_alert, score_block
from schemas.topics import Topics
from schemas.wire import (
    Alert,
    DeadLetter,
    DriftReport,
    Explained,
    Score,
    Source,
    VerdictExample,
    VerdictSegment,
    WindowVerdict,
    decode_json,
    encode_json,
)

READER = OutputReader(RecordRules(Topics("p", 3), "m", 0, 10**13, 0, 0))


def make_batch(
    values: list[bytes | None], first: int = 0, headers: list[tuple[Header, ...]] | None = None
) -> RecordBatch:
    n = len(values)
    offsets = np.arange(first, first + n, dtype=np.int64)
    return RecordBatch("p.scores", 1, offsets, offsets + 1_000, [b"k"] * n, values, headers)


def make_score(number: int, features: dict[str, float | None], role: str = "champion") -> bytes:
    source = Source("p.events", 1, number)
    score = Score(f"e{number}", "c", 5_000, 0.25, False, "m", "1.0.0", role, "f", source, 6_000, features)
    return encode_json(score)


def rows_of(block: Block, table: str) -> list[dict[str, object]]:
    warehouse = MemoryWarehouse()
    assert warehouse.insert(table, block.columns) == block.rows
    return warehouse.read(table)


def test_a_score_becomes_a_row_with_nan_for_a_missing_feature() -> None:
    block = score_block(
        "p", READER, [make_batch([make_score(0, {"a": 1.5, "b": None}), make_score(1, {"a": -2.0, "b": 3.0})])]
    )

    first, second = rows_of(block, "scores")

    assert first["features"]["a"] == 1.5  # type: ignore[index]
    assert math.isnan(first["features"]["b"])  # type: ignore[index]
    assert second["features"] == {"a": -2.0, "b": 3.0}
    assert (first["customer_id"], first["offset"], first["topic"]) == ("c", 0, "p.events")


def test_scores_with_different_features_share_a_block() -> None:
    values: list[bytes | None] = [make_score(0, {"a": 1.0}), make_score(1, {"b": 2.0, "a": 1.0}), make_score(2, {})]

    rows = rows_of(score_block("p", READER, [make_batch(values)]), "scores")

    assert [row["features"] for row in rows] == [{"a": 1.0}, {"b": 2.0, "a": 1.0}, {}]


def test_a_shadow_score_does_not_take_the_place_of_the_published_one() -> None:
    block = score_block("p", READER, [make_batch([make_score(0, {}), make_score(0, {}, role="shadow")])])

    assert [row["shadow"] for row in rows_of(block, "scores")] == ["", "1.0.0"]


def test_what_is_no_score_is_counted_and_left_out() -> None:
    block = score_block("p", READER, [make_batch([b"{", None, b'{"event_id": 1}', b"\xff", make_score(0, {})], 7)])

    assert block.rows == 1
    assert block.refused.counts == {"malformed": 2, "tombstone": 1, "wrong_type": 1}
    assert block.refused.examples["tombstone"] == "partition 1, offset 8: The record has no value."


def test_the_token_is_of_offsets_and_values() -> None:
    batches = [make_batch([b"a", b"b"])], [make_batch([b"a"]), make_batch([b"b"], 1)]
    others = [make_batch([b"a", b"c"])], [make_batch([b"a", b"b"], 7)], [make_batch([b"ab", b""])]

    tokens = {score_block("p", READER, each).token for each in batches}

    assert len(tokens) == 1
    assert not tokens & {score_block("p", READER, each).token for each in others}


def test_a_dead_letter_keeps_its_bytes_and_foreign_records_are_refused() -> None:
    letter = DeadLetter(Source("p.events", 1, 7), "decode", "not_json", "at 0", b"\xff", b"\x00\xfe", 10, 20, "1.0.0")
    batch = make_batch(
        [letter.value, b"x", b"y"], headers=[tuple(letter.to_headers()), (), ((b"a".decode(), b"\xff"),)]
    )
    batch.keys[0] = letter.key

    block = dead_letter_block("p", READER, [batch])

    (row,) = rows_of(block, "dead_letters")
    assert block.refused.counts == {"bad_header": 2}
    assert (row["key"], row["value"], row["offset"], row["stage"]) == (b"\xff", b"\x00\xfe", 7, "decode")


def make_findings() -> Findings:
    report = DriftReport("p", "m", "1.0.0", "all", "a", "psi", 0, 10, 0.3, None, 0.2, 0.3, 5, 6, "DRIFT")
    verdict = WindowVerdict(
        pipeline="p",
        model="m",
        version="1.0.0",
        window_start_ms=0,
        window_end_ms=10,
        kind="score_drift",
        headline="Scores are higher.",
        explained_by=[Explained("a", 0.7, "`a` is higher"), Explained("joint", None, "together")],
        segments=[VerdictSegment("k=v", 0.4, 3, ["a"])],
        example=VerdictExample("the middle value of `a`", "1", "2"),
        advice="watch",
        reason="Not known yet.",
        n_reference=5,
        n_detection=6,
        with_labels=False,
    )
    alert = Alert("id", "p", "r", "info", "raised", "m", "1.0.0", 99, 0, 10, "auc", 0.5, 0.6, "words", "retrain")
    return Findings(
        [MetadataRow("p", "m", "1.0.0", "scoring", "all", "a", "d1", math.nan, 99, 0, 10, 1)],
        [report],
        [PerformanceRow("p", "m", "1.0.0", "all", 0, 10, "auc", 0.7, 0.6, 0.8, 0.7, 0.6, 0.8, 0.7, 0.9, 9, 0.9, 1)],
        [verdict],
        [alert],
    )


def test_findings_fit_their_tables_and_fill_every_required_column() -> None:
    tables = findings_columns(make_findings())

    assert list(tables) == ["model_metadata", "drift_reports", "verdicts", "alerts", "performance"]
    for table, columns in tables.items():
        assert to_arrow(find_table(table), columns).num_rows == 1
    assert findings_columns(Findings()) == {}


def test_a_row_of_an_alert_gives_the_alert_back() -> None:
    whole = Alert("id", "p", "r", "info", "acknowledged", "m", "1.0.0", 99, 0, 10, "auc", 0.5, 0.6, "words", "retrain")
    whole = msgspec.structs.replace(whole, revision=3, since_ms=5, group="g", others=["a", "b"], owner="ann")
    whole = msgspec.structs.replace(whole, runbook="https://x", by="bob", why="mine")
    bare = Alert("id", "p", "r", "info", "raised", "m", "1.0.0", 99, None, None, "verdict", None, None, "words")
    warehouse = MemoryWarehouse()
    warehouse.insert("alerts", findings_columns(Findings(alerts=[whole, bare]))["alerts"])
    assert [read_alert(row) for row in warehouse.read("alerts")] == [whole, bare]


def test_reports_and_alerts_are_told_under_their_keys() -> None:
    findings = make_findings()

    (report, verdict, alert) = findings_records(Topics("p", 3), findings)

    assert report[:2] == ("p.drift", b"m|a")
    assert decode_json(report[2], DriftReport) == findings.reports[0]
    assert verdict[:2] == ("p.verdicts", b"m")
    assert decode_json(verdict[2], WindowVerdict) == findings.verdicts[0]
    assert alert[:2] == ("p.alerts", b"m")
    assert decode_json(alert[2], Alert) == findings.alerts[0]
