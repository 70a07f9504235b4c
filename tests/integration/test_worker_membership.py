"""Who has which partition, and what a worker does when the topics are not what its offsets belong to."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.protocol.admin import DeleteGroupsRequest
from worker_bench import N_PARTITIONS, Bench, check_ledger, produce

from app.kafka_access import KafkaAccess

EXIT_RETRY, EXIT_CONFIG = 75, 78


async def test_a_partition_that_comes_back_goes_on_without_a_restore(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    with bench.worker() as first:
        await processed(bench, 0, 600)
        with bench.worker() as second:
            await bench.until(bench.is_shared)
            await processed(bench, 600, 1_200)
            second.terminate()
            assert second.wait(20) == 0
        await processed(bench, 1_200, 2_000)
        first.terminate()
        assert first.wait(20) == 0
    check_ledger(await bench.scores(), await bench.dead_sources(), 2_000)
    log = (tmp_path / "worker-1.log").read_text()
    new = [int(found) for found in re.findall(r"are ours; (\d+) of them are new here", log)]
    # All; then what it kept of them, so none is new; then back those that the other had.
    assert new[0] == N_PARTITIONS
    assert new[1] == 0
    assert sum(new[2:]) < N_PARTITIONS


async def test_a_named_worker_started_again_has_its_partitions_back_and_no_other_pauses(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    a = ("--instance", "a", "--session-timeout", "60")  # a start takes long where much else runs
    with bench.worker(*a) as first:
        await processed(bench, 0, 300)
        with bench.worker("--instance", "b"):
            await bench.until(bench.is_shared)
            assignments = (tmp_path / "worker-2.log").read_text().count("are ours")
            first.kill()
            first.wait()
            with bench.worker(*a):
                await processed(bench, 300, 1_500)
                assert (tmp_path / "worker-2.log").read_text().count("are ours") == assignments
    check_ledger(await bench.scores(), await bench.dead_sources(), 1_500)


@pytest.mark.parametrize("skip", [False, True], ids=["refuses", "is-told-to-skip"])
async def test_events_that_retention_removed_before_they_were_scored_are_never_passed_over_in_silence(
    kafka: KafkaAccess, tmp_path: Path, skip: bool
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker():
        await processed(bench, 0, 300)
    await produce(bench, 300, 600, with_labels=False)
    await bench.remove_records(150)
    kept = {(k, offset) for k, end in (await bench.ends()).items() for offset in range(150, end)}
    with bench.worker(*(["--skip-removed"] if skip else [])) as process:
        if not skip:
            assert await asyncio.to_thread(process.wait, 60) == EXIT_CONFIG
            said = (tmp_path / "worker-2.log").read_text()
            assert re.search(rf"{bench.pipeline.topics.events}\[\d\]: offsets \d+ to 149 were removed", said)
            assert "--skip-removed" in said
            return
        await bench.until(lambda: has_scored(bench, kept))
    assert "as --skip-removed says" in (tmp_path / "worker-2.log").read_text()


async def test_events_that_retention_removes_before_a_running_worker_reads_them_are_not_passed_over_either(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker() as process:
        await processed(bench, 0, 300)
        process.send_signal(signal.SIGSTOP)
        try:
            await produce(bench, 300, 450, with_labels=False)  # may be in a fetch that was under way
            await produce(bench, 450, 600, with_labels=False)
            await bench.remove_records(190)
        finally:
            process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.wait, 60) == EXIT_RETRY
    assert "Records are gone before they were read" in (tmp_path / "worker-1.log").read_text()
    with bench.worker() as again:
        assert await asyncio.to_thread(again.wait, 60) == EXIT_CONFIG
    assert "to 189 were removed" in (tmp_path / "worker-2.log").read_text()


async def test_a_topic_that_was_made_anew_stops_the_worker(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker():
        await processed(bench, 0, 300)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await admin.start()
    await admin.delete_topics([bench.pipeline.topics.events])
    await admin.close()
    with bench.worker() as process:
        assert await asyncio.to_thread(process.wait, 90) == EXIT_CONFIG
    assert "the topic was made anew" in (tmp_path / "worker-2.log").read_text()


async def test_a_group_whose_offsets_kafka_has_forgotten_goes_on_where_its_state_is(
    kafka: KafkaAccess, tmp_path: Path
) -> None:
    bench = Bench(kafka, tmp_path, with_labels=True)
    await bench.prepare()
    with bench.worker() as process:
        await processed(bench, 0, 300)
        process.terminate()
        assert process.wait(20) == 0
    await forget_group(kafka, f"streamgauge-{bench.pipeline.name}")
    assert await bench.committed() == 0
    with bench.worker():
        await processed(bench, 300, 900)
    check_ledger(await bench.scores(), await bench.dead_sources(), 900)


async def test_a_group_whose_offsets_were_moved_stops_the_worker(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker() as process:
        await processed(bench, 0, 300)
        process.terminate()
        assert process.wait(20) == 0
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.servers, group_id=f"streamgauge-{bench.pipeline.name}", enable_auto_commit=False
    )
    await consumer.start()
    consumer.assign([TopicPartition(bench.pipeline.topics.events, 0)])
    await consumer.commit({TopicPartition(bench.pipeline.topics.events, 0): 7})
    await consumer.stop()
    with bench.worker() as process:
        assert await asyncio.to_thread(process.wait, 90) == EXIT_CONFIG
    assert "the group's offset was moved to 7" in (tmp_path / "worker-2.log").read_text()


async def test_partitions_added_to_a_topic_stop_the_worker(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)
    await bench.prepare()
    with bench.worker():
        await processed(bench, 0, 100)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await admin.start()
    await admin.create_partitions({bench.pipeline.topics.events: NewPartitions(N_PARTITIONS + 1)})
    await admin.close()
    with bench.worker() as process:
        assert await asyncio.to_thread(process.wait, 60) == EXIT_CONFIG
    assert "partitions" in (tmp_path / "worker-2.log").read_text().splitlines()[-1]


async def forget_group(kafka: KafkaAccess, group: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await admin.start()
    node = await admin.find_coordinator(group)
    response = await admin._send_request_to_node(node, DeleteGroupsRequest([group]))
    assert response.results == [(group, 0)]
    await admin.close()


async def processed(bench: Bench, start: int, stop: int) -> None:
    """Produce events start…stop and wait until all up to stop are committed."""
    await produce(bench, start, stop, with_labels=bench.pipeline.labels is not None)
    await bench.until_committed(stop)


async def has_scored(bench: Bench, events: set[tuple[int, int]]) -> bool:
    done = {(score.source.partition, score.source.offset) for score in await bench.scores()}
    return events <= done | set(await bench.dead_sources())
