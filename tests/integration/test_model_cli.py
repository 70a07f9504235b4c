"""``streamgauge model`` on a real Kafka: train, register, list, show, promote, roll back."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner, Result

from app.adapters.kafka.model_announcer import ReadTimeline, announce, announcement_key, read_timeline
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.stack.embedded_kafka import EmbeddedKafka
from app.cli import main, model_train
from app.settings import Settings
from models.versions.registry import Registry
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.topics import Topics
from schemas.wire import ModelUpdate

PIPELINE = """
name = "{name}"
source = "orders.py:records"
partitions = 1

[model]
name = "{name}-returns"
target = "is sent back"

[events]
entity = "customer"
id = "order_id"
time = "ordered_ms"
earliest = 2020-01-01T00:00:00Z
latest = 2030-01-01T00:00:00Z
max_ahead = "1d"

[events.fields]
order_id = "string"
ordered_ms = "int"
customer = "string"
amount = "float"
items = "int"

[labels]
horizon = "48h"
max_wait = "5s"

[[features]]
name = "amount"
type = "float"
expression = "amount"

[[features]]
name = "items"
type = "int"
expression = "items"

[drift]
window = "month"
slice = "1d"
grace = "1h"
bins = 16
tests = [{{ test = "psi", minimum_effect = 0.2 }}]

[performance]
maturity = "24h"

[limits]
consecutive = 10
share = 0.5
of_last = 100
"""

#: An order every four hours of 2023; its label, known an hour later, follows from the amount and some noise.
SOURCE = """
import numpy as np

from schemas.source import SourceRecord

HOUR_MS = 3_600_000
START_MS = 1_672_531_200_000


def records(from_ms=None, to_ms=None, limit=None):
    rng = np.random.default_rng(7)
    n = 2190
    amounts, items = rng.normal(50, 20, n), rng.integers(1, 9, n)
    labels = amounts + rng.normal(0, 10, n) > 50
    found = []
    for number in range(n):
        at_ms, key = START_MS + 4 * number * HOUR_MS, f"c{number % 10}"
        order = {
            "order_id": f"o{number}",
            "ordered_ms": at_ms,
            "customer": key,
            "amount": float(amounts[number]),
            "items": int(items[number]),
        }
        label = {"event_id": f"o{number}", "label": float(labels[number]), "label_time_ms": at_ms + HOUR_MS}
        found.append(SourceRecord("event", key, at_ms, order))
        found.append(SourceRecord("label", key, at_ms + HOUR_MS, label))
    low, high = from_ms or 0, to_ms or 2**62
    yield [record for record in found if low <= record.time_ms < high]
"""

Run = Callable[..., Result]

#: 2023, UTC.
MARCH_MS, APRIL_MS = 1_677_628_800_000, 1_680_307_200_000


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path_factory.mktemp("home"), Settings.read().cache) as running:
        yield running


@pytest.fixture
def pipeline(tmp_path: Path, request: pytest.FixtureRequest) -> Pipeline:
    name = f"p{zlib.crc32(request.node.name.encode())}"
    path = tmp_path / f"{name}.toml"
    path.write_text(PIPELINE.format(name=name), encoding="utf-8")
    (tmp_path / "orders.py").write_text(SOURCE, encoding="utf-8")
    return load(path)


@pytest.fixture
def run(kafka: EmbeddedKafka, pipeline: Pipeline, tmp_path: Path) -> Run:
    def call(*words: str, kafka_at: str = kafka.access.servers) -> Result:
        environment = {
            "STREAMGAUGE_KAFKA": kafka_at,
            "STREAMGAUGE_HOME": str(tmp_path / "home"),
            "STREAMGAUGE_REGISTRY": "",
        }
        return CliRunner().invoke(main, ["model", *words, "--pipeline", str(pipeline.path)], env=environment)

    return call


def said(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def train(run: Run, *words: str) -> dict[str, Any]:
    return said(run("train", "--family", "logistic", "--from", "2023-01-01", "--to", "2023-03-01", "--json", *words))


def timeline_of(kafka: EmbeddedKafka, topics: Topics) -> ReadTimeline:
    return asyncio.run(read_timeline(kafka.access, topics))


def test_a_version_is_trained_registered_and_announced(
    run: Run, kafka: EmbeddedKafka, pipeline: Pipeline, tmp_path: Path
) -> None:
    trained = train(run, "--promote")
    assert trained["version"] == "1.0.0"
    assert trained["metrics"]["auc"] > 0.8
    manifest, _ = Registry(tmp_path / "home" / "registry").load(pipeline.model.name, "1.0.0")
    assert manifest.training.from_ms == 1672531200000
    assert manifest.training.to_ms == MARCH_MS
    timeline = timeline_of(kafka, pipeline.topics).timeline
    assert timeline.champion_at(MARCH_MS - 1) is None  # nothing that it was trained on
    champion = timeline.champion_at(MARCH_MS)
    assert champion is not None
    assert (champion.version, champion.uri, champion.sha256) == ("1.0.0", trained["uri"], trained["sha256"])
    assert trained["announced"]["before"] == [{"until_ms": MARCH_MS, "version": None}]
    assert champion.feature_set == pipeline.feature_set

    async def keys() -> list[bytes | None]:
        return [key async for batch in read_to_end(kafka.access, [pipeline.topics.model_updates]) for key in batch.keys]

    said(run("promote", "1.0.0", "--json"))
    first, second = asyncio.run(keys())
    assert first != second  # compaction keeps each step of the timeline


def test_the_next_version_follows_by_the_bump_and_names_its_parent(run: Run) -> None:
    train(run)
    assert train(run)["version"] == "1.1.0"
    assert train(run, "--bump", "patch")["version"] == "1.1.1"
    assert train(run, "--version", "3.0.0")["version"] == "3.0.0"
    assert said(run("show", "3.0.0", "--json"))["parent"] == "1.1.1"
    taken = run("train", "--family", "logistic", "--from", "2023-01-01", "--to", "2023-03-01", "--version", "3.0.0")
    assert taken.exit_code == 1
    assert "never changes" in taken.output


def test_without_register_nothing_is_stored(run: Run) -> None:
    assert train(run, "--no-register")["uri"] is None
    assert said(run("list", "--json"))["versions"] == []


def test_a_training_says_what_it_does_now_and_keeps_it_out_of_its_answer(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_train, "LINE_EVERY_S", 0.0)
    days = ("--from", "2023-01-01", "--to", "2023-03-01")
    result = run("train", "--family", "logistic", *days, "--no-register", "--json")
    said(result)
    reading, *so_far, read, learnt, delays, note = result.stderr.partition("logistic: ")[0].splitlines()
    assert reading == "Reading the events of the pipeline's source from 2023-01-01T00:00:00Z to 2023-03-01T00:00:00Z …"
    assert so_far
    assert all(re.fullmatch(r"  [\d,]+ events so far, up to 2023-0[12]-\d\d", line) for line in so_far)
    # An order every four hours of 59 days; the label of the last one, of 20:00, is known within them.
    assert read == "354 events read in that time; labels are known up to 2023-02-28 21:00."
    assert learnt == (
        "348 are learnt from. Left out: 6 younger than 24 hours then (performance.maturity), 6 of them with a label; 0"
        " old enough that have none."
    )
    assert delays == (
        "Of the delays: nearly all labels 0 come at about 60 minutes; nearly all labels 1 come at about 60 minutes."
    )
    assert note == (
        "Note: 99 % of the labels come within 60 minutes, and performance.maturity is 24 hours: a shorter one would"
        " judge windows sooner, and let newer events be learnt from."
    )
    assert result.stderr.splitlines()[-5:] == [
        "logistic: fitting on the first 278 of 348 rows …",
        "logistic: scoring the rest as unseen rows, for the reference …",
        "logistic: fitting on all 348 rows …",
        "logistic: making the reference and the golden rows …",
        "Verifying the new version …",
    ]


def test_promote_and_rollback_move_the_champion(run: Run, kafka: EmbeddedKafka, pipeline: Pipeline) -> None:
    for _ in range(3):
        train(run)
    nothing = run("rollback")
    assert nothing.exit_code == 1
    assert "no version has been promoted" in nothing.output
    first = run("promote", "1.0.0", "--score-training-rows").output
    assert re.fullmatch(r"\S+ 1\.0\.0 is champion for all events \(offset 0 of the timeline\)\.\n", first)
    nowhere = run("rollback")
    assert nowhere.exit_code == 1
    assert "1.0.0 is the first that was promoted" in nowhere.output
    later = "2023-04-01T00:00:00Z"
    said(run("promote", "1.1.0", "--valid-from", later, "--why", "better in April", "--json"))
    shown = run("promote", "1.2.0", "--valid-from", "2023-05-01T02:00:00+02:00").output.splitlines()[1:]
    assert shown == [
        "Events before 2023-05-01T00:00:00Z go on with 1.1.0.",
        f"Events before {later} go on with 1.0.0.",
        "Scores that are published already stay as they are.",
    ]

    def versions() -> list[str | None]:
        timeline = timeline_of(kafka, pipeline.topics).timeline
        times = (0, APRIL_MS - 1, APRIL_MS, APRIL_MS + 30 * 86_400_000)
        return [champion and champion.version for champion in map(timeline.champion_at, times)]

    assert versions() == ["1.0.0", "1.0.0", "1.1.0", "1.2.0"]
    assert timeline_of(kafka, pipeline.topics).timeline.updates[1].why == "better in April"
    back = run("rollback").output.splitlines()
    assert back[0].endswith(f"1.1.0 is champion again for events from {later} on (offset 3 of the timeline).")
    assert back[1:] == [
        f"Events before {later} go on with 1.0.0.",
        "Scores that are published already stay as they are.",
    ]
    assert versions() == ["1.0.0", "1.0.0", "1.1.0", "1.1.0"]
    assert said(run("rollback", "--json"))["version"] == "1.0.0"
    assert versions() == ["1.0.0"] * 4
    assert run("rollback").exit_code == 1
    assert said(run("rollback", "--to", "1.2.0", "--json"))["is_rollback"] is False
    assert versions() == ["1.0.0", "1.2.0", "1.2.0", "1.2.0"]
    listed = said(run("list", "--json"))["versions"]
    assert [(row["version"], row["is_champion"]) for row in listed] == [
        ("1.0.0", False),
        ("1.1.0", False),
        ("1.2.0", True),
    ]
    assert len(said(run("show", "1.1.0", "--json"))["timeline"]) == 2


def test_an_older_version_that_is_promoted_again_can_be_rolled_back(
    run: Run, kafka: EmbeddedKafka, pipeline: Pipeline
) -> None:
    for _ in range(3):
        train(run)
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.0.0"):
        said(run("promote", version, "--json"))
    assert said(run("rollback", "--json"))["version"] == "1.2.0"
    assert said(run("rollback", "--to", "1.0.0", "--json"))["is_rollback"] is True
    assert [each.version for each in timeline_of(kafka, pipeline.topics).timeline.champions] == ["1.0.0"]
    already = run("rollback", "--to", "1.0.0")
    assert already.exit_code == 1
    assert "1.0.0 is the champion already" in already.output


def test_a_version_does_not_score_what_it_was_trained_on_unless_asked_to(run: Run, kafka: EmbeddedKafka) -> None:
    train(run)
    refused = run("promote", "1.0.0", "--valid-from", "2023-02-28T23:59:59Z")
    assert refused.exit_code == 1
    assert "was trained on events up to 2023-03-01T00:00:00Z" in refused.output
    assert "--score-training-rows" in refused.output
    assert said(run("promote", "1.0.0", "--json"))["valid_from_ms"] == MARCH_MS
    asked = said(run("promote", "1.0.0", "--valid-from", "2023-02-01", "--score-training-rows", "--json"))
    assert asked["before"] == [{"until_ms": 1_675_209_600_000, "version": None}]
    assert said(run("promote", "1.0.0", "--score-training-rows", "--json"))["valid_from_ms"] is None


def test_a_promotion_says_what_becomes_of_earlier_events(run: Run, pipeline: Pipeline) -> None:
    train(run)
    unscored = run("promote", "1.0.0").output.splitlines()
    assert unscored[0].endswith("1.0.0 is champion for events from 2023-03-01T00:00:00Z on (offset 0 of the timeline).")
    assert unscored[1:] == ["Events before 2023-03-01T00:00:00Z are left unscored."]
    text = pipeline.path.read_text().replace("[model]", "[model]\nscore_from = 2023-06-01T00:00:00Z")
    pipeline.path.write_text(text)
    later = run("promote", "1.0.0", "--valid-from", "2200-01-01").output.splitlines()
    assert later[1:] == [
        "By this machine's clock, no event is that new yet.",
        "Events before 2023-03-01T00:00:00Z are left unscored.",
        "Scores that are published already stay as they are.",
        "The pipeline file leaves all events before 2023-06-01T00:00:00Z unscored (score_from).",
    ]


def test_a_rubbish_record_on_the_timeline_stops_nothing(run: Run, kafka: EmbeddedKafka, pipeline: Pipeline) -> None:
    train(run, "--promote")

    async def spoil() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=kafka.access.servers)
        await producer.start()
        for value in (b"\xff rubbish", b'{"model": 3}', None):
            await producer.send_and_wait(pipeline.topics.model_updates, value, key=b"x", partition=0)
        await producer.stop()

    asyncio.run(spoil())
    train(run, "--promote")
    found = timeline_of(kafka, pipeline.topics)
    assert found.unreadable == (1, 2)
    assert [update.version for update in found.timeline.updates] == ["1.0.0", "1.1.0"]
    assert said(run("rollback", "--json"))["version"] == "1.0.0"


def test_a_version_from_another_folder_is_registered_after_its_gates(run: Run, tmp_path: Path) -> None:
    train(run)
    registry = tmp_path / "home" / "registry"
    bundle = tmp_path / "bundle"
    shutil.move(next(registry.glob("*/1.0.0")), bundle)
    assert said(run("register", str(bundle), "--json"))["version"] == "1.0.0"
    assert said(run("register", str(bundle), "--json"))["is_bit_equal"]
    (bundle / "model.skops").write_bytes(b"another file")
    refused = run("register", str(bundle))
    assert refused.exit_code == 1
    assert "damaged or another file" in refused.output
    (bundle / "model.skops").unlink()
    assert "no manifest.json with its model.skops" in run("register", str(bundle)).output


def test_a_version_of_other_features_is_not_promoted(
    run: Run, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run)
    pipeline.path.write_text(pipeline.path.read_text().replace('expression = "items"', 'expression = "items * 2"'))
    refused = run("promote", "1.0.0")
    assert refused.exit_code == 1
    assert "(feature_set)" in refused.output
    assert not said(run("show", "1.0.0", "--json"))["matches_pipeline"]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["promote", "9.9.9"], 1, "registered versions: none"),
        (["promote", "latest"], 1, "write MAJOR.MINOR.PATCH"),
        (["show", "1.0.0"], 1, "is not registered"),
        (["train", "--from", "2023-03-01", "--to", "2023-01-01"], 2, "--to must be later"),
        (["train", "--from", "March", "--to", "2023-01-01"], 2, "is not a time"),
        (["train", "--from", "2023-01-01", "--to", "2023-03-01", "--version", "2"], 1, "write MAJOR.MINOR.PATCH"),
        (["train", "--from", "2023-01-01", "--to", "2023-03-01", "--no-register", "--promote"], 2, "needs --register"),
        (["train", "--from", "2023-01-01"], 2, "Missing option"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(run: Run, words: list[str], code: int, sentence: str) -> None:
    result = run(*words)
    assert result.exit_code == code, result.output
    assert sentence in result.output


def test_without_kafka_versions_are_listed_and_a_promotion_says_what_to_do(run: Run) -> None:
    train(run)
    assert [row["version"] for row in said(run("list", "--json", kafka_at=""))["versions"]] == ["1.0.0"]
    assert "AUC" in run("list", kafka_at="").output
    assert "golden rows" in run("show", "1.0.0", kafka_at="").output
    refused = run("promote", "1.0.0", kafka_at="")
    assert refused.exit_code == 1
    assert "start `streamgauge up`" in refused.output


def test_updates_are_read_back_in_the_order_in_which_they_were_announced(kafka: EmbeddedKafka) -> None:
    topics = Topics("announced", 3)
    updates = [
        ModelUpdate("m", f"1.{number}.0", "champion", "file:///m", "0" * 64, "f", number, valid_from_ms=number or None)
        for number in range(5)
    ]
    assert timeline_of(kafka, topics).timeline.updates == ()
    offsets = [asyncio.run(announce(kafka.access, topics, update)) for update in updates]
    assert offsets == [0, 1, 2, 3, 4]
    assert timeline_of(kafka, topics).timeline.updates == tuple(updates)
    assert len({announcement_key(update) for update in updates}) == 5
