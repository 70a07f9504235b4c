"""Whatever is written to the model-update topic, a version that is announced afterwards is taken."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from chaos_pipeline import START_MS, train_version
from worker_bench import Bench

from app.adapters.kafka.topic_reader import read_to_end
from app.kafka_access import KafkaAccess
from app.worker import model_loader
from app.worker.model_loader import ModelLoader
from app.worker.model_shelf import ModelShelf
from app.worker.model_statuses import ModelStatuses
from models.versions.attempts import place_of
from models.versions.registry import Entry, Registry
from schemas.wire import ModelStatus, decode_json

DEEP = b"[" * 200_000 + b"]" * 200_000


class Desk:
    """A shelf in this process, and a producer that writes what it likes."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.failed: list[str] = []
        self.shelf = ModelShelf(bench.pipeline, bench.kafka, "w", lambda: START_MS)

    async def send(self, *values: bytes, key: bytes = b"m|2.0.0") -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bench.kafka.servers)
        await producer.start()
        for value in values:
            await producer.send_and_wait(self.bench.pipeline.topics.model_updates, value, key=key)
        await producer.stop()

    def register(self, version: str) -> Entry:
        trained = train_version(self.bench.pipeline, version, seed=int(version[0]))
        return Registry(self.bench.settings.registry).register(trained.manifest, trained.artifact)

    def announcement(self, entry: Entry, **other: Any) -> dict[str, Any]:
        manifest = entry.manifest
        return {
            "model": "m",
            "version": manifest.version,
            "role": "champion",
            "uri": entry.uri,
            "sha256": manifest.artifact.sha256,
            "feature_set": manifest.feature_set,
            "announced_at_ms": START_MS,
            **other,
        }

    async def announce(self, entry: Entry, **other: Any) -> None:
        await self.send(json.dumps(self.announcement(entry, **other)).encode())

    @property
    def champions(self) -> list[str]:
        return [model.version for model in self.shelf.champions.champions]

    async def statuses(self) -> list[tuple[str, str, str]]:
        statuses = []
        async for batch in read_to_end(self.bench.kafka, [self.bench.pipeline.topics.model_status]):
            statuses += [decode_json(value, ModelStatus) for value in batch.values]
        return [(status.version, status.status, status.uri) for status in statuses]

    async def until(self, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        async def look() -> bool:
            outcome = condition()
            return outcome if isinstance(outcome, bool) else await outcome

        await self.bench.until(look)


@asynccontextmanager
async def desk(kafka: KafkaAccess, folder: Path) -> AsyncIterator[Desk]:
    bench = Bench(kafka, folder, with_labels=False)
    await bench.prepare()
    made = Desk(bench)
    try:
        yield made
    finally:
        await made.shelf.stop()


async def start(desk: Desk) -> None:
    await desk.shelf.start(lambda: None, desk.failed.append)


async def test_records_that_are_no_updates_are_counted_and_the_next_version_is_taken(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    async with desk(kafka, tmp_path) as at:
        entry = at.register("2.0.0")
        good = json.dumps(at.announcement(entry)).encode()
        bad = [
            b"\x00",
            b"{}",
            good.replace(b"2.0.0", b"\xff.0.0", 1),
            good[:-1] + b',"z":' + DEEP + b"}",
            good.replace(b'"champion"', b'"king"'),
            good.replace(str(START_MS).encode(), b"1" * 5_000),
            good.replace(str(START_MS).encode(), str(2**62).encode()),
            good.replace(entry.uri.encode(), b"file:///" + b"a" * 5_000),
            good.replace(b'"2.0.0"', b'"../2.0.0"'),
        ]
        await at.send(*bad)  # before it starts, as after a restart ...
        await start(at)
        assert at.champions == ["1.0.0"]
        await at.send(*bad)  # ... and while it follows
        await at.announce(entry)
        await at.until(lambda: at.champions == ["1.0.0", "2.0.0"])
        topic = at.bench.pipeline.topics.model_updates
        assert at.shelf.refusals.by_topic() == {topic: {"malformed": 6, "out_of_range": 8, "wrong_type": 4}}
        assert at.failed == []


@pytest.mark.parametrize("uri", ["file://[x", "file:///nonexistent/x", "x:y", "file:///a%00b", "file:///dev"])
async def test_a_forged_place_spoils_nothing_for_the_right_one(kafka: KafkaAccess, tmp_path: Path, uri: str) -> None:
    async with desk(kafka, tmp_path) as at:
        entry = at.register("2.0.0")
        await at.announce(entry, uri=uri)
        await start(at)
        assert at.champions == ["1.0.0"]
        await at.until(lambda: _contains(at.statuses(), ("2.0.0", "refused", uri)))
        await at.announce(entry)
        await at.until(lambda: at.champions == ["1.0.0", "2.0.0", "2.0.0"])
        await at.until(lambda: _contains(at.statuses(), ("2.0.0", "loaded", entry.uri)))
        # And after a restart, when both are there from the beginning.
        await at.shelf.stop()
        again = Desk(at.bench)
        await start(again)
        assert again.champions == ["1.0.0", "2.0.0", "2.0.0"]
        await again.shelf.stop()


async def _contains(entries: Awaitable[list[Any]], what: Any) -> bool:
    return what in await entries


@pytest.mark.timeout(120)
async def test_what_comes_late_is_tried_again_by_itself(kafka: KafkaAccess, tmp_path: Path) -> None:
    """A mount that was late, then a file that was copied half, then one that was a pipe."""
    async with desk(kafka, tmp_path) as at:
        entry = at.register("2.0.0")
        aside = tmp_path / "aside"
        entry.path.rename(aside)
        await at.announce(entry)
        await start(at)
        await at.until(lambda: _contains(at.statuses(), ("2.0.0", "refused", entry.uri)))
        entry.path.mkdir()
        shutil.copy(aside / "manifest.json", entry.path)
        os.mkfifo(entry.path / "model.skops")
        await asyncio.sleep(0)
        (entry.path / "model.skops").unlink()
        (entry.path / "model.skops").write_bytes((aside / "model.skops").read_bytes()[:-1])
        await asyncio.sleep(0)
        shutil.copy(aside / "model.skops", entry.path)
        await at.until(lambda: at.champions == ["1.0.0", "2.0.0"])


@pytest.mark.timeout(120)
async def test_a_folder_that_does_not_answer_holds_up_no_version_behind_it(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    find = model_loader.find

    def hang(uri: str) -> Any:
        if uri.endswith("2.0.0"):
            while not released.is_set():
                pass_time()
        return find(uri)

    def pass_time() -> None:
        import time  # noqa: PLC0415  # in a thread of its own, as a mount that is gone would

        time.sleep(0.05)

    monkeypatch.setattr(model_loader, "find", hang)
    monkeypatch.setattr(model_loader, "VERIFY_S", 25.0)
    async with desk(kafka, tmp_path) as at:
        await start(at)
        slow, good = at.register("2.0.0"), at.register("3.0.0")
        await at.announce(slow)
        await at.announce(good)
        await at.until(lambda: at.champions == ["1.0.0", "3.0.0"])
        await at.until(lambda: _contains(at.statuses(), ("2.0.0", "refused", slow.uri)))
        released.set()


async def test_a_flood_of_versions_that_are_not_there_holds_up_none_after_it(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by being tried before it, nor by being told of before the topic is read on."""
    looked: list[str] = []
    original, tell = ModelLoader._look, ModelStatuses._tell

    def look(loader: ModelLoader, attempt: Any, *rest: Any) -> Any:
        looked.append(attempt.update.version)
        time.sleep(0.05)
        return original(loader, attempt, *rest)

    async def tell_slowly(statuses: ModelStatuses, record: ModelStatus) -> None:
        await asyncio.sleep(0.1)
        await tell(statuses, record)

    monkeypatch.setattr(ModelLoader, "_look", look)
    monkeypatch.setattr(ModelStatuses, "_tell", tell_slowly)
    async with desk(kafka, tmp_path) as at:
        await start(at)
        entry = at.register("2.0.0")
        nowhere = {"uri": "file:///nonexistent/x"}
        flood = [at.announcement(entry, version=f"7.0.{number}", **nowhere) for number in range(400)]
        await at.send(*(json.dumps(record).encode() for record in flood))
        await at.announce(entry)
        await at.until(lambda: at.champions == ["1.0.0", "2.0.0"])
        assert len(looked) < 350  # it did not come last
        assert at.failed == []


@pytest.mark.parametrize("other", [{"version": "7.0.{}"}, {"sha256": "{:064x}"}, {"uri": "file:///nowhere/{}"}])
async def test_who_starts_on_a_flooded_topic_looks_at_each_announcement_once_and_reads_what_is_right_alone(
    kafka: KafkaAccess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    looked: list[tuple[str, ...]] = []
    read: list[str] = []
    look, read_artifact = ModelLoader._look, Entry.read_artifact

    def look_and_note(loader: ModelLoader, attempt: Any, *rest: Any) -> Any:
        looked.append(place_of(attempt.update))
        return look(loader, attempt, *rest)

    def read_and_note(entry: Entry) -> bytes:
        if entry.path.is_relative_to(tmp_path):  # a thread of another test may be late
            read.append(entry.manifest.version)
        return read_artifact(entry)

    monkeypatch.setattr(ModelLoader, "_look", look_and_note)
    monkeypatch.setattr(Entry, "read_artifact", read_and_note)
    async with desk(kafka, tmp_path) as at:
        entry = at.register("2.0.0")
        await at.announce(entry)
        forged = ({name: text.format(number) for name, text in other.items()} for number in range(300))
        await at.send(*(json.dumps(at.announcement(entry, **changes)).encode() for changes in forged))
        await start(at)
        assert set(at.champions) == {"1.0.0", "2.0.0"}
        assert len(set(looked)) == 302
        assert len(set(looked[:300])) == 300  # of two that look at a time, one may have begun to look again
        assert sorted(read) == ["1.0.0", "2.0.0"]
