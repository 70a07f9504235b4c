"""Replays beside a live stream: nothing of it is disturbed, dead letters come back once, a backfill goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from warm_start import run_warm
from worker_bench import N_PARTITIONS, START_MS, Bench, produce

from app.adapters.kafka.letter_sender import LetterSender, read_done, read_letters
from app.adapters.kafka.topic_reader import read_to_end
from app.adapters.recordings.file import EVENTS, LABELS, SCORES, Recording
from app.core.replay.letter_selection import REPLAYED_HEADER
from app.exits import StackError
from app.kafka_access import KafkaAccess

N_EVENTS = 1_500
N_DEAD = N_EVENTS // 50
DEADLINE_S = 240.0


def run(bench: Bench, *words: str, code: int = 0, as_json: bool = True) -> Any:
    """Run a command on the bench's pipeline; its JSON, or all it says."""
    arguments = [*words, "--pipeline", str(bench.pipeline.path), *(["--json"] if as_json else [])]
    done = run_warm(arguments, env=environment(bench), timeout=DEADLINE_S)
    assert done.returncode == code, done.stderr.decode() + done.stdout.decode()
    return json.loads(done.stdout) if as_json else done.stdout.decode() + done.stderr.decode()


def environment(bench: Bench) -> dict[str, str]:
    return {**os.environ, **bench.settings.to_environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def query(bench: Bench, sql: str) -> list[list[Any]]:
    done = run_warm(("query", sql, "--json", "--limit", "10000"), env=environment(bench), timeout=DEADLINE_S)
    done.check_returncode()
    rows: list[list[Any]] = json.loads(done.stdout)["rows"]
    return rows


async def look(bench: Bench) -> dict[str, Any]:
    """All that a reader could disturb: the groups with their members and offsets, and the ends of all topics."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.kafka.servers)
    await admin.start()
    try:
        ours = [group for group, _ in await admin.list_consumer_groups() if bench.pipeline.name in group]
        members = {name: str(await admin.describe_consumer_groups([name])) for name in ours}
        offsets = {name: sorted((await admin.list_consumer_group_offsets(name)).items()) for name in ours}
        names = sorted(topic for topic in await admin.list_topics() if topic.startswith(bench.pipeline.name))
    finally:
        await admin.close()
    consumer = AIOKafkaConsumer(bootstrap_servers=bench.kafka.servers, group_id=None)
    await consumer.start()
    try:
        ends = {}
        for name in names:
            await consumer._client._wait_on_metadata(name)
            tps = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
            ends[name] = sorted((await consumer.end_offsets(tps)).items())
    finally:
        await consumer.stop()
    return {"members": members, "offsets": offsets, "ends": ends}


@pytest.fixture(scope="module")
def scored(kafka: KafkaAccess, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A stream with labels and bad events, scored by a worker; then comes a second version."""
    bench = Bench(kafka, tmp_path_factory.mktemp("replays"), with_labels=True)

    async def fill() -> None:
        await bench.prepare()
        with bench.worker():
            await produce(bench, 0, N_EVENTS, with_labels=True)
            await bench.until_committed(N_EVENTS, DEADLINE_S)
        await bench.promote("2.0.0", seed=2)

    asyncio.run(fill())
    return bench


def at(number: int) -> str:
    """Time of an event, which is that of its record too."""
    seconds, thousandths = divmod(START_MS + number * 40, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{thousandths:03}Z"


def test_replays_leave_no_trace_on_the_live_group_and_its_topics(scored: Bench, tmp_path: Path) -> None:
    with scored.worker():
        asyncio.run(wait_for_rest(scored))
        before = asyncio.run(look(scored))
        check = run(scored, "replay", "--models", "1.0.0", "--check")["check"]
        assert check["equal"] + check["stale"] == N_EVENTS - N_DEAD
        run(scored, "replay", "--models", "2.0.0", "--diff")
        run(scored, "record", str(tmp_path / "all.parquet"))
        run(scored, "replay-dead-letters", "--dry-run")
        after = asyncio.run(look(scored))
        for what, value in before.items():
            assert after[what] == value


async def wait_for_rest(bench: Bench) -> None:
    """Until the worker has joined, and writes nothing more."""
    seen: list[dict[str, Any]] = []

    async def is_at_rest() -> bool:
        seen.append(await look(bench))
        await asyncio.sleep(1)  # what it would write by itself, it writes by then
        has_joined = bench.has_partitions(bench.workers)  # the group still knows the worker that was killed
        return has_joined and "Stable" in str(seen[-1]["members"]) and seen[-1] == await look(bench)

    await bench.until(is_at_rest, DEADLINE_S)


def test_a_recording_of_a_time_is_the_stretch_that_it_names(scored: Bench, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.parquet", tmp_path / "part.parquet"
    run(scored, "record", str(whole))
    counts = run(scored, "record", str(part), "--from", at(500), "--to", at(900))["records"]
    assert (counts[EVENTS], counts[SCORES]) == (400, 392)

    def offsets(path: Path, kind: str) -> list[tuple[int, int]]:
        recording = Recording(path)
        return [
            (k, o) for k in range(N_PARTITIONS) for batch in recording.read(kind, k) for o in batch.offsets.tolist()
        ]

    kept = offsets(part, EVENTS)
    events = Recording(whole)
    expected = [
        (k, offset)
        for k in range(N_PARTITIONS)
        for batch in events.read(EVENTS, k)
        for offset, stamp in zip(batch.offsets.tolist(), batch.timestamps_ms.tolist(), strict=True)
        if START_MS + 500 * 40 <= stamp < START_MS + 900 * 40
    ]
    assert kept == expected
    bounds = {k: [o for p, o in kept if p == k] for k in range(N_PARTITIONS)}
    begin = ",".join(f"{k}:{offsets[0]}" for k, offsets in bounds.items())
    end = ",".join(f"{k}:{offsets[-1] + 1}" for k, offsets in bounds.items())
    by_offset = tmp_path / "by-offset.parquet"
    run(scored, "record", str(by_offset), "--from", begin, "--to", end)
    for kind in (EVENTS, SCORES):
        assert offsets(by_offset, kind) == offsets(part, kind)
    assert offsets(by_offset, LABELS) == offsets(whole, LABELS)
    said = run(scored, "record", str(part), code=1, as_json=False)
    assert "exists" in said


def test_a_replay_of_a_part_of_the_topics_gives_the_served_bits(scored: Bench) -> None:
    result = run(scored, "replay", "--from", at(800), "--to", at(1200), "--models", "1.0.0", "--check")
    assert (result["events"], result["scored"], result["rejected"]) == (392, 392, 8)
    assert result["warm_up_events"] > 0
    assert result["check"]["equal"] + result["check"]["stale"] == 392


def test_the_same_difference_written_twice_is_written_once(scored: Bench, tmp_path: Path) -> None:
    plot = tmp_path / "diff.svg"
    words = ("replay", "--models", "1.0.0,2.0.0", "--diff", "--write", "--plot", str(plot))
    first = run(scored, *words)
    assert first["diff"]["segments"]["all"]["n"] == N_EVENTS - N_DEAD
    assert plot.read_text().startswith("<?xml")
    rows = query(scored, "SELECT * FROM score_diffs ORDER BY ALL")
    assert len(rows) == first["written"]
    assert run(scored, *words)["diff"] == first["diff"]
    assert query(scored, "SELECT * FROM score_diffs ORDER BY ALL") == rows
    for wrong in (("--diff",), ("--models", "1.0.0,2.0.0"), ("--models", "2.0.0", "--diff", "--check"), ("--write",)):
        run(scored, "replay", *wrong, code=2, as_json=False)


def test_a_backfill_goes_on_where_it_was_and_the_same_again_changes_nothing(scored: Bench) -> None:
    part = run(scored, "backfill", "--version", "2.0.0", "--from", at(600), "--to", at(900))
    assert part["written"] == 294
    whole = run(scored, "backfill", "--version", "2.0.0")
    assert whole["held_before"] == 294
    rows = query(scored, "SELECT * FROM backfilled_scores ORDER BY ALL")
    assert len(rows) == N_EVENTS - N_DEAD
    again = run(scored, "backfill", "--version", "2.0.0")
    assert (again["written"], again["held_before"]) == (0, N_EVENTS - N_DEAD)
    assert query(scored, "SELECT * FROM backfilled_scores ORDER BY ALL") == rows
    assert query(scored, "SELECT DISTINCT role, version FROM backfilled_scores") == [["backfill", "2.0.0"]]
    assert query(scored, "SELECT count() FROM scores") == query(scored, "SELECT count() FROM daily_scores") == [[0]]
    replayed = run(scored, "replay", "--models", "2.0.0", "--out", str(scored.folder / "out.jsonl"))
    assert replayed["scored"] == len(rows)
    expected = {
        (row["partition"], row["offset"]): row["score"]
        for row in map(json.loads, (scored.folder / "out.jsonl").read_text().splitlines())
    }
    rows = query(scored, "SELECT partition, offset, score FROM backfilled_scores")
    assert {(partition, offset): score for partition, offset, score in rows} == expected


def test_parity_of_the_stream_is_exact(scored: Bench) -> None:
    result = run(scored, "parity", "--from", at(700))
    assert result["equal"]
    assert result["events"] + result["stale"] == 784
    assert [feature["feature"] for feature in result["sql"]] == ["count_1m", "sum_1m", "bad_5m"]


# -- dead letters ------------------------------------------------------------------------------------------------------


async def returned(bench: Bench) -> Counter[bytes]:
    """How often each record came back to the events topic, by where it was read first."""
    counts: Counter[bytes] = Counter()
    async for batch in read_to_end(bench.kafka, [bench.pipeline.topics.events]):
        for headers in batch.headers or ():
            counts.update(value for name, value in headers if name == REPLAYED_HEADER)
    return counts


def test_dead_letters_come_back_once_whatever_is_killed(kafka: KafkaAccess, tmp_path: Path) -> None:
    """One record a transaction, a kill between two of them, two senders at once, and a run too many."""
    bench = Bench(kafka, tmp_path, with_labels=False)

    async def fill() -> None:
        await bench.prepare()
        with bench.worker():
            await produce(bench, 0, N_EVENTS, with_labels=False)
            await bench.until_committed(N_EVENTS, DEADLINE_S)

    asyncio.run(fill())
    assert run(bench, "replay-dead-letters", "--dry-run")["by_stage_and_reason"] == {"decode/not_json": N_DEAD}
    assert asyncio.run(returned(bench)) == Counter()
    assert run(bench, "replay-dead-letters", "--stage", "label")["sent"] == 0
    words = ["replay-dead-letters", "--transaction", "1", "--pipeline", str(bench.pipeline.path)]
    child = subprocess.Popen([sys.executable, "-P", "-m", "app", *words], env=environment(bench))

    async def some_are_back() -> bool:
        return len(await returned(bench)) >= 3

    asyncio.run(bench.until(some_are_back, DEADLINE_S))
    child.send_signal(signal.SIGKILL)
    child.wait()
    killed_at = len(asyncio.run(returned(bench)))

    async def race() -> None:
        """A sender that another has followed may not commit; the other one has seen all that it committed."""
        first = LetterSender(kafka, bench.pipeline, lambda: 0)
        second = LetterSender(kafka, bench.pipeline, lambda: 0)
        letters, _ = await read_letters(kafka, bench.pipeline)
        async with first:
            done = await read_done(kafka, bench.pipeline)
            left = [letter for letter in letters if letter[0] not in done]
            await first.send(left[:1])
            async with second:
                assert len(await read_done(kafka, bench.pipeline)) == len(done) + 1
                with pytest.raises(StackError, match="Another replay-dead-letters"):
                    await first.send(left[1:])
                await second.send(left[1:2])

    if killed_at < N_DEAD - 2:
        asyncio.run(race())
    last = run(bench, "replay-dead-letters")
    assert last["sent"] + last["sent_before"] == N_DEAD
    assert run(bench, "replay-dead-letters")["sent"] == 0
    counts = asyncio.run(returned(bench))
    assert len(counts) == N_DEAD
    assert set(counts.values()) == {1}
    letters, _ = asyncio.run(read_letters(kafka, bench.pipeline))
    sources = {f"{letter.source.topic}/{letter.source.partition}/{letter.source.offset}" for _, letter in letters}
    assert {place.decode() for place in counts} == sources


def test_what_is_rejected_again_does_not_go_round_by_itself(kafka: KafkaAccess, tmp_path: Path) -> None:
    bench = Bench(kafka, tmp_path, with_labels=False)

    async def fill(start: int, events: int) -> None:
        await produce(bench, start, start + 100, with_labels=False)
        await bench.until_committed(events, DEADLINE_S)

    asyncio.run(bench.prepare())
    with bench.worker():
        asyncio.run(fill(0, 100))
        assert run(bench, "replay-dead-letters")["sent"] == 2

        async def are_rejected_again() -> bool:
            return len(await bench.dead_letters()) == 4

        asyncio.run(bench.until(are_rejected_again, DEADLINE_S))
        again = run(bench, "replay-dead-letters")
        assert (again["sent"], again["sent_before"], again["rejected_again"]) == (0, 2, 2)
        letters = asyncio.run(bench.dead_letters())
        assert sorted(letter.value or b"" for letter in letters) == [b'{"id": "broken", '] * 4
        assert run(bench, "replay-dead-letters", "--again")["sent"] == 2
