"""Kafka dies while a worker, a monitor or a command starts: exit code 75 (or 1) and one sentence, never a traceback."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from aiokafka import AIOKafkaConsumer
from chaos_kafka import BreakableKafka, free_port
from chaos_pipeline import Setup, promote, render_toml
from chaos_proxy import Proxy, Weather
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.http.place import HttpPlace
from app.adapters.kafka import answers as kafka_answers
from app.adapters.kafka.answers import while_kafka_answers
from app.adapters.kafka.model_announcer import read_timeline
from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.recordings.recorder import record_topics
from app.exits import EXIT_RETRY, StackError
from app.monitor.monitor import Monitor
from app.worker import start as worker_start
from app.worker.input_offsets import Beginning
from app.worker.worker import Membership
from models.versions.registry import Registry
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

#: What is cut short without Kafka is left as it is, since its process ends; pytest's does not.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

#: Chunks that pass, both ways, before Kafka is gone; a worker is at work after some 150.
STEPS = (0, 8, 20, 25, 35, 45, 60, 90, 120)
DEAD = Weather(refuses=True, reset_share=1.0)


class CutProxy(Proxy):
    """Passes a number of chunks, and then nothing: connections end, and new ones are refused."""

    def __init__(self, kafka: BreakableKafka, cut_after: int, then: Weather) -> None:
        self._left, self._then = cut_after, then
        super().__init__(1, kafka.target)
        self.port = kafka.proxy_port

    @property  # type: ignore[override]  # asked once a chunk and once a connection
    def weather(self) -> Weather:
        self._left -= 1
        return Weather() if self._left >= 0 else self._then

    @weather.setter
    def weather(self, _: Weather) -> None:
        pass


@dataclass(frozen=True)
class Place:
    kafka: BreakableKafka
    pipeline: Pipeline


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("dies")
    path = folder / "cards.toml"
    path.write_text(render_toml("cards", Setup(with_labels=True, partitions=2)))
    pipeline = load(path)
    with BreakableKafka(folder / "kafka", cache, free_port()) as kafka:
        asyncio.run(ensure_topics(kafka.access, pipeline.topics.all()))
        asyncio.run(promote(kafka.access, pipeline, Registry(folder / "registry"), "1.0.0", 1))
        yield Place(kafka, pipeline)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_answers, "SILENCE_S", 2.0)


@pytest.fixture(autouse=True)
def leave_nothing_to_others() -> Iterator[None]:
    """What is left as it is ends here, where it is no surprise, and not in the tests that come after."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    for consumer in filter(lambda each: isinstance(each, AIOKafkaConsumer), gc.get_objects()):
        consumer._closed = True  # Faust keeps the last app that there was


async def start_worker(place: Place) -> tuple[int, str]:
    at = HttpPlace("127.0.0.1", 0, ())
    options: dict[str, Any] = {"beginning": Beginning(), "rows_folder": None}
    return await worker_start.work(place.pipeline, place.kafka.proxied, at, Membership(), None, **options)  # type: ignore[arg-type]  # the trial is made when needed


async def start_monitor(place: Place) -> tuple[int, str]:
    warehouse = WarehouseThread(MemoryWarehouse())
    await warehouse.open(30)
    monitor = Monitor(place.pipeline, place.kafka.proxied, warehouse, lambda: 0)
    try:
        return await monitor.run(), monitor.failure
    finally:
        await warehouse.close()


def run_cut(place: Place, work: Coroutine[Any, Any, Any], cut_after: int, then: Weather = DEAD) -> Any:
    async def run() -> Any:
        async with CutProxy(place.kafka, cut_after, then), asyncio.timeout(120):
            return await work

    return asyncio.run(run())


def check(answer: tuple[int, str], caplog: pytest.LogCaptureFixture) -> None:
    code, why = answer
    assert code == EXIT_RETRY, why
    assert why.startswith("Kafka at 127.0.0.1:"), why
    assert "\n" not in why
    assert not [record for record in caplog.records if record.exc_info and record.name.startswith("streamgauge")]


@pytest.mark.parametrize("cut_after", STEPS)
def test_a_worker_ends_with_one_sentence(place: Place, cut_after: int, caplog: pytest.LogCaptureFixture) -> None:
    check(run_cut(place, start_worker(place), cut_after), caplog)


@pytest.mark.parametrize("cut_after", [0, 8, 20, 30])
def test_a_monitor_ends_with_one_sentence(place: Place, cut_after: int, caplog: pytest.LogCaptureFixture) -> None:
    check(run_cut(place, start_monitor(place), cut_after), caplog)


def test_a_kafka_that_swallows_everything_is_no_better(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    hole = Weather(hole=frozenset({"up", "down"}))
    check(run_cut(place, start_worker(place), 30, hole), caplog)


@pytest.mark.parametrize("cut_after", [0, 4, 8, 12])
def test_commands_end_with_one_sentence(place: Place, tmp_path: Path, cut_after: int) -> None:
    kafka, pipeline = place.kafka.proxied, place.pipeline
    for work in (
        read_timeline(kafka, pipeline.topics),
        record_topics(kafka, pipeline, tmp_path / "all.parquet", 0),
        ensure_topics(kafka, pipeline.topics.all()),
    ):
        with pytest.raises((StackError, click.ClickException)):
            run_cut(place, while_kafka_answers(kafka, work), cut_after)
