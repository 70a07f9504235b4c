"""Features made of windows on a real broker: trained, streamed, replayed, backfilled and scored from a file alike."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer
from payments import FEATURES, Payments, Row, make_payments, recompute
from warm_start import run_warm
from worker_bench import Bench

from app.adapters.kafka.topics_admin import ensure_topics
from app.kafka_access import KafkaAccess
from schemas.pipeline.file import load

DEADLINE_S = 240.0


class PaymentsBench(Bench):
    """The payments under a name of their own, trained by the command on their own source."""

    def __init__(self, kafka: KafkaAccess, folder: Path, payments: Payments) -> None:
        super().__init__(kafka, folder, with_labels=True)
        self.payments = payments
        self.pipeline = load(payments.write(self.pipeline.path))

    def run(self, *words: str) -> Any:
        words = (*words, "--pipeline", str(self.pipeline.path), "--json")
        done = run_warm(words, env={**os.environ, **self.settings.to_environment()}, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        return json.loads(done.stdout)

    async def stream(self) -> None:
        """All records, with a producer as anyone has, and then a worker."""
        producer = AIOKafkaProducer(bootstrap_servers=self.kafka.servers)
        await producer.start()
        topics = {"event": self.pipeline.topics.events, "label": self.pipeline.topics.labels}
        for kind, key, at, value in self.payments.records():
            await producer.send(topics[kind], json.dumps(value).encode(), key=key.encode(), timestamp_ms=at)
        await producer.stop()
        with self.worker():

            async def is_done() -> bool:
                return len(await self.scores()) + len(await self.dead_letters()) >= len(self.payments.payments)

            await self.until(is_done, DEADLINE_S)


@pytest.fixture(scope="module")
def expected() -> tuple[Payments, dict[str, Row], set[str]]:
    payments = make_payments(seed=3, n=500, minutes=12)
    return payments, *recompute(payments)


@pytest.fixture(scope="module")
def bench(
    kafka: KafkaAccess, tmp_path_factory: pytest.TempPathFactory, expected: tuple[Payments, dict[str, Row], set[str]]
) -> PaymentsBench:
    bench = PaymentsBench(kafka, tmp_path_factory.mktemp("payments"), expected[0])
    asyncio.run(ensure_topics(kafka, bench.pipeline.topics.all()))
    trained = bench.run("model", "train", "--family", "logistic", "--from", "2020-01-01", "--to", "2021-01-01")
    bench.run("model", "promote", "1.0.0", "--score-training-rows")
    assert trained["training"]["labelled_rows"] > 300
    asyncio.run(bench.stream())
    return bench


def test_a_worker_serves_what_plain_loops_give_and_rejects_what_fails_once(
    bench: PaymentsBench, expected: tuple[Payments, dict[str, Row], set[str]]
) -> None:
    _, rows, failed = expected
    scores = asyncio.run(bench.scores())
    assert not any(score.stale for score in scores)
    assert len(scores) == len(rows) - len(failed)
    assert {score.event_id: score.features for score in scores} == {
        name: row for name, row in rows.items() if name not in failed
    }
    letters = asyncio.run(bench.dead_letters())
    assert {(letter.stage, letter.reason) for letter in letters} == {("features", "derived_feature")}
    assert sorted(json.loads(letter.value or b"")["payment_id"] for letter in letters) == sorted(failed)


def test_a_replay_gives_the_same_scores_and_parity_finds_nothing(
    bench: PaymentsBench, expected: tuple[Payments, dict[str, Row], set[str]]
) -> None:
    _, rows, failed = expected
    replayed = bench.run("replay", "--check")
    assert (replayed["check"]["equal"], replayed["rejected"]) == (len(rows) - len(failed), len(failed))
    parity = bench.run("parity")
    assert parity["equal"]
    assert parity["events"] == len(rows) - len(failed)
    assert {found["feature"] for found in parity["sql"]} == set(FEATURES)
    assert {found["rows"] for found in parity["sql"]} == {parity["events"]}


def test_a_backfill_writes_the_same_features(
    bench: PaymentsBench, expected: tuple[Payments, dict[str, Row], set[str]]
) -> None:
    _, rows, failed = expected
    assert bench.run("backfill", "--version", "1.0.0", "--features")["written"] == len(rows) - len(failed)


def test_a_file_is_scored_with_the_same_features(
    bench: PaymentsBench, expected: tuple[Payments, dict[str, Row], set[str]], tmp_path: Path
) -> None:
    payments, rows, failed = expected
    pq.write_table(pa.Table.from_pylist(payments.payments), tmp_path / "payments.parquet")
    labels = [{"event_id": n, "label": float(v), "label_time_ms": at} for n, v, at in payments.labels]
    pq.write_table(pa.Table.from_pylist(labels), tmp_path / "labels.parquet")
    result = bench.run(
        "score",
        str(tmp_path / "payments.parquet"),
        str(tmp_path / "scores.parquet"),
        "--labels",
        str(tmp_path / "labels.parquet"),
        "--features",
    )
    assert (result["scored"], result["rejected"]) == (len(rows) - len(failed), len(failed))
    scored = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert {row["event_id"]: {name: row[name] for name in FEATURES} for row in scored} == {
        name: row for name, row in rows.items() if name not in failed
    }
    rejected = pq.read_table(tmp_path / "scores.rejected.parquet").to_pylist()
    assert {payments.payments[row["row"] - 1]["payment_id"] for row in rejected} == failed
    served = {score.event_id: score.score for score in asyncio.run(bench.scores())}
    assert {row["event_id"]: row["score"] for row in scored} == served
