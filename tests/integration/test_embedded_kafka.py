"""The embedded Kafka, for real: it keeps its data, and each way to fail has its sentence."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from app.adapters.kafka.topics_admin import ensure_topics
from app.adapters.stack.child_process import birth_mark
from app.adapters.stack.embedded_kafka import EmbeddedKafka, answers_as_kafka
from app.exits import StackError
from app.kafka_access import KafkaAccess
from app.settings import Settings
from schemas.topics import Topic, Topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CACHE = Settings.read().cache

#: A run of its own, to be killed; prints the server's process.
RUN = """
import sys, signal
from pathlib import Path
from app.adapters.stack.embedded_kafka import EmbeddedKafka
kafka = EmbeddedKafka(Path(sys.argv[1]), Path(sys.argv[2])).start()
print(kafka.pid, flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka(tmp_path_factory.mktemp("home"), CACHE) as running:
        yield running


async def produce(kafka: KafkaAccess, topic: str, values: list[bytes], transactional_id: str | None = None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.servers, transactional_id=transactional_id)
    await producer.start()
    try:
        if transactional_id:
            await producer.begin_transaction()
        for value in values:
            await producer.send_and_wait(topic, value, partition=0)
        if transactional_id:
            await producer.commit_transaction()
    finally:
        await producer.stop()


async def consume(kafka: KafkaAccess, topic: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.servers, isolation_level="read_committed")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        return [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(count)]
    finally:
        await consumer.stop()


def has_ended(pid: int) -> bool:
    """Whether a process that is not our child ends within a deadline."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        return bool(poll.poll(60_000))
    finally:
        os.close(descriptor)


def test_topics_are_created_once_and_have_leaders(kafka: EmbeddedKafka) -> None:
    topics = Topics("created-once", 3).all()
    assert asyncio.run(ensure_topics(kafka.access, topics)) == [topic.name for topic in topics]
    assert asyncio.run(ensure_topics(kafka.access, topics)) == []
    asyncio.run(produce(kafka.access, "created-once.events", [b"at once"]))


def test_only_missing_topics_are_created(kafka: EmbeddedKafka) -> None:
    first, second = Topic("missing.a", 1), Topic("missing.b", 2)
    asyncio.run(ensure_topics(kafka.access, [first]))
    assert asyncio.run(ensure_topics(kafka.access, [first, second])) == ["missing.b"]


def test_two_who_create_at_once_agree(kafka: EmbeddedKafka) -> None:
    async def both() -> list[list[str]]:
        topics = [Topic(f"race.{n}", 1) for n in range(5)]
        return await asyncio.gather(*(ensure_topics(kafka.access, topics) for _ in range(2)))

    one, other = asyncio.run(both())
    assert sorted(one + other) == [f"race.{n}" for n in range(5)]


def test_another_number_of_partitions_is_refused_and_nothing_is_created(kafka: EmbeddedKafka) -> None:
    asyncio.run(ensure_topics(kafka.access, [Topic("count.events", 3)]))
    wanted = [Topic("count.new", 4), Topic("count.events", 4)]
    with pytest.raises(StackError, match=r"count\.events at .* has 3 partitions but the pipeline says 4"):
        asyncio.run(ensure_topics(kafka.access, wanted))
    assert asyncio.run(ensure_topics(kafka.access, [Topic("count.new", 4)])) == ["count.new"]


def test_another_cleanup_policy_is_refused(kafka: EmbeddedKafka) -> None:
    asyncio.run(ensure_topics(kafka.access, [Topic("policy.state", 1)]))
    compacted = Topic("policy.state", 1, {"cleanup.policy": "compact"})
    with pytest.raises(StackError, match=r"policy\.state .* has cleanup\.policy=delete but needs compact"):
        asyncio.run(ensure_topics(kafka.access, [compacted]))


def test_a_topic_is_never_made_by_naming_it(kafka: EmbeddedKafka) -> None:
    async def ask_twice() -> list[int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.access.servers)
        await admin.start()
        try:
            asked = [await admin.describe_topics(["nobody-made-this"]) for _ in range(2)]
        finally:
            await admin.close()
        return [topic["error_code"] for [topic] in asked]

    unknown = 3  # UNKNOWN_TOPIC_OR_PARTITION; a server that makes it says LEADER_NOT_AVAILABLE, then 0
    assert asyncio.run(ask_twice()) == [unknown, unknown]


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(StackError, match=r"Kafka at 127\.0\.0\.1:1 does not answer .* STREAMGAUGE_KAFKA"):
        asyncio.run(ensure_topics(KafkaAccess("127.0.0.1:1"), [Topic("any", 1)]))


def test_transactions_work_on_the_one_broker(kafka: EmbeddedKafka) -> None:
    asyncio.run(ensure_topics(kafka.access, [Topic("transactions", 1)]))
    asyncio.run(produce(kafka.access, "transactions", [b"a", b"b"], "transactions-0"))
    assert asyncio.run(consume(kafka.access, "transactions", 2)) == [b"a", b"b"]


def test_another_run_in_the_same_home_is_refused_and_named(kafka: EmbeddedKafka) -> None:
    with pytest.raises(StackError, match=rf"Another run \(process {os.getpid()}\) uses the home .*--home"):
        EmbeddedKafka(kafka.home, CACHE).start()
    assert kafka.is_alive()
    assert answers_as_kafka("127.0.0.1", int(kafka.access.servers.split(":")[1]))


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"Port {port} is in use.*--kafka-port"):
            EmbeddedKafka(tmp_path, CACHE, port).start()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StackError, match=r"Cannot write .*file/home.*--home"):
        EmbeddedKafka(tmp_path / "file" / "home", CACHE).start()


def test_a_kafka_that_dies_at_start_is_quoted(tmp_path: Path) -> None:
    home = tmp_path / "a home, with <odd> & 'names'"
    with EmbeddedKafka(home, CACHE):
        pass
    (home / "kafka" / "data" / "meta.properties").write_text("version=1\nnode.id=77\ncluster.id=x\n")
    kafka = EmbeddedKafka(home, CACHE)
    with pytest.raises(StackError, match=r"(?s)Kafka did not start; the end of .*kafka\.log:\n.*77"):
        kafka.start()
    assert kafka.pid is None


def test_a_second_start_goes_on_with_the_data(tmp_path: Path) -> None:
    said: list[str] = []
    with EmbeddedKafka(tmp_path, CACHE, say=said.append) as first:
        asyncio.run(ensure_topics(first.access, [Topic("kept", 1)]))
        asyncio.run(produce(first.access, "kept", [b"1", b"2"]))
        pid, port = first.pid, int(first.access.servers.split(":")[1])
    assert pid is not None
    assert birth_mark(pid) is None
    # Hold the first port, so that the second start must advertise another.
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        with EmbeddedKafka(tmp_path, CACHE, say=said.append) as second:
            assert not second.access.servers.endswith(f":{port}")
            asyncio.run(produce(second.access, "kept", [b"3"]))
            assert asyncio.run(consume(second.access, "kept", 3)) == [b"1", b"2", b"3"]
    assert [sentence for sentence in said if "Download" not in sentence] == []


def test_a_killed_run_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, tmp_path, CACHE], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        first = int(parent.stdout.readline())
        os.kill(first, signal.SIGSTOP)  # so that it outlives its parent: it cannot act on its death signal
        parent.kill()
    try:
        assert birth_mark(first) is not None
        said: list[str] = []
        os.kill(first, signal.SIGCONT)
        with EmbeddedKafka(tmp_path, CACHE, say=said.append) as second:
            assert has_ended(first)
            assert second.is_alive()
            assert json.loads((tmp_path / "kafka" / "process.json").read_text())["pid"] == second.pid
        assert len(said) == 1
        assert said[0].startswith(f"An earlier run in {tmp_path} ")
    finally:
        if birth_mark(first) is not None:
            os.kill(first, signal.SIGKILL)


def test_kafka_ends_by_itself_when_its_parent_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, tmp_path, CACHE], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert has_ended(child)


def test_a_dead_server_is_revived_on_its_port(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path, CACHE) as kafka:
        asyncio.run(ensure_topics(kafka.access, [Topic("revived", 1)]))
        asyncio.run(produce(kafka.access, "revived", [b"before"]))
        before, pid = kafka.access, kafka.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert has_ended(pid)
        kafka.revive()
        assert kafka.access == before
        assert asyncio.run(consume(kafka.access, "revived", 1)) == [b"before"]
