"""Writing waits for the warehouse, holds little, moves offsets only behind rows; one member of a group has it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faust.types import TP
from memory_warehouse import MemoryWarehouse

from app.adapters.clickhouse.thread import WarehouseThread
from app.adapters.kafka.batch_handler import Fetched
from app.adapters.kafka.exclusive_assignor import ExclusiveAssignor
from app.adapters.kafka.refusals import Refusals, Refused
from app.core.batches import RecordBatch
from app.monitor import block_writer
from app.monitor.block_writer import BlockWriter, Feed, Start
from app.monitor.reign import Plan
from app.monitor.rows import Block
from app.ports import Warehouse, WarehouseError

TP0, TP1 = TP("p.scores", 0), TP("p.scores", 1)


class Recorder:
    """Takes what a `BlockWriter` says and writes: one entry each, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.counted: list[int] = []
        self.feed = Feed(
            lambda tp: self.say("pause", tp), lambda tp: self.say("resume", tp), self.commit, Refusals().take
        )

    def say(self, what: str, about: Any) -> None:
        self.said.append((what, about))

    async def commit(self, offsets: dict[TP, int]) -> bool:
        self.say("commit", offsets)
        return True


class Counting(MemoryWarehouse):
    """Fails the first ``failures`` inserts."""

    def __init__(self, recorder: Recorder, failures: int = 0, *, retryable: bool = True) -> None:
        super().__init__()
        self._recorder = recorder
        self._failures = failures
        self._retryable = retryable

    def insert(self, table: str, columns: Any, token: str | None = None) -> int:  # noqa: ARG002  # the port's signature
        if self._failures:
            self._failures -= 1
            raise WarehouseError("It does not answer.", retryable=self._retryable)
        self._recorder.say("insert", token)
        return len(columns["offset"])


def to_block(batches: Any) -> Block:
    offsets = [offset for batch in batches for offset in batch.offsets.tolist()]
    return Block({"offset": offsets}, len(offsets), Refused(), f"{batches[0].partition}:{offsets[0]}-{offsets[-1]}")


def make_fetch(tp: TP, first: int, n: int, size_bytes: int = 100) -> Fetched:
    offsets = np.arange(first, first + n, dtype=np.int64)
    return Fetched(RecordBatch(tp.topic, tp.partition, offsets, offsets, [None] * n, [None] * n), 1, 1, size_bytes)


def write(
    warehouse: Warehouse,
    recorder: Recorder,
    receive: Callable[[BlockWriter], None],
    first: Start = Start(),  # noqa: B008  # frozen
) -> BlockWriter:
    def plan(_: Warehouse, plans: Sequence[Plan]) -> None:
        recorder.say("plan", [f"{plan.partition}:{plan.first}-{plan.next_offset}" for plan in plans])

    async def run() -> BlockWriter:
        thread = WarehouseThread(warehouse, first_wait_s=0.001, longest_wait_s=0.002)
        starts = {TP0: first, TP1: Start(40)}
        writer = BlockWriter(
            "scores",
            to_block,
            thread,
            recorder.feed,
            starts,
            plan=plan,
            count=recorder.counted.append,
        )
        receive(writer)
        writer.stop()
        try:
            await writer.run()
        finally:
            await thread.close()
        return writer

    return asyncio.run(run())


def test_offsets_are_committed_after_the_rows_of_each_partition_are_in() -> None:
    recorder = Recorder()

    def receive(writer: BlockWriter) -> None:
        writer.receive(make_fetch(TP0, 0, 3))
        writer.receive(make_fetch(TP1, 40, 2))
        writer.receive(make_fetch(TP0, 5, 1))

    writer = write(Counting(recorder), recorder, receive)

    assert recorder.said == [
        ("plan", ["0:0-6", "1:40-42"]),
        ("insert", "0:0-5"),
        ("insert", "1:40-41"),
        ("commit", {TP0: 6, TP1: 42}),
    ]
    assert writer.positions == {TP0: 6, TP1: 42}
    assert recorder.counted == [4, 2]


def tokens(recorder: Recorder) -> list[str]:
    return [token for what, token in recorder.said if what == "insert"]


def test_blocks_end_at_fixed_offsets_whatever_the_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_OFFSETS", 5)
    for cuts in ([(0, 3), (3, 3), (6, 2), (8, 9)], [(0, 17)], [(each, 1) for each in range(17)]):
        recorder = Recorder()

        def receive(writer: BlockWriter, cuts: list[tuple[int, int]] = cuts) -> None:
            for first, n in cuts:
                writer.receive(make_fetch(TP0, first, n))

        writer = write(Counting(recorder), recorder, receive)

        assert tokens(recorder) == ["0:0-4", "0:5-9", "0:10-14", "0:15-16"]
        assert (writer.is_holding(TP0), writer.held_bytes) == (False, 0)


def test_a_block_that_another_began_is_written_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "BLOCK_OFFSETS", 100)
    recorder = Recorder()

    def receive(writer: BlockWriter) -> None:
        writer.receive(make_fetch(TP0, 3, 2))
        writer.receive(make_fetch(TP0, 5, 6))

    write(Counting(recorder), recorder, receive, Start(3, 8))

    assert tokens(recorder) == ["0:3-7", "0:8-10"]


def test_a_block_that_another_began_waits_for_its_rest_and_is_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "HELD_BYTES", 1_000)
    recorder = Recorder()

    writer = write(
        Counting(recorder),
        recorder,
        lambda writer: [writer.receive(make_fetch(TP0, first, 1, 900)) for first in (0, 1, 2)],  # type: ignore[arg-type,return-value]
        Start(0, 8),
    )

    assert recorder.said == []
    assert writer.is_holding(TP0)


def test_rows_that_are_written_again_after_a_loss_have_tokens_of_their_own() -> None:
    recorder = Recorder()

    write(Counting(recorder), recorder, lambda writer: writer.receive(make_fetch(TP0, 0, 3)), Start(attempt=2))

    assert tokens(recorder) == ["0:0-2/2"]


def test_a_partition_that_holds_too_much_is_paused_and_resumed_at_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_writer, "HELD_BYTES", 1_000)
    monkeypatch.setattr(block_writer, "BLOCK_OFFSETS", 1)
    recorder = Recorder()

    def receive(writer: BlockWriter) -> None:
        for first in range(3):
            writer.receive(make_fetch(TP0, first, 1, size_bytes=400))
        writer.receive(make_fetch(TP1, 40, 1, size_bytes=1_000))

    write(Counting(recorder), recorder, receive)

    assert [entry for entry in recorder.said if entry[0] != "plan"] == [
        ("pause", TP0),
        ("insert", "0:0-0"),
        ("insert", "1:40-40"),
        ("insert", "0:1-1"),
        ("resume", TP0),
        ("insert", "0:2-2"),
        ("commit", {TP0: 3, TP1: 41}),
    ]


def test_the_same_block_is_tried_again_until_it_is_in() -> None:
    recorder = Recorder()

    writer = write(Counting(recorder, failures=5), recorder, lambda writer: writer.receive(make_fetch(TP0, 0, 3)))

    assert recorder.said == [("plan", ["0:0-3"]), ("insert", "0:0-2"), ("commit", {TP0: 3})]
    assert not writer.is_holding(TP0)


def test_what_trying_again_cannot_mend_is_an_error_and_moves_no_offset() -> None:
    recorder = Recorder()

    with pytest.raises(WarehouseError):
        write(
            Counting(recorder, failures=1, retryable=False),
            recorder,
            lambda writer: writer.receive(make_fetch(TP0, 0, 3)),
        )

    assert recorder.said == [("plan", ["0:0-3"])]


def test_a_warehouse_says_what_is_wrong_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> list[str]:
        thread = WarehouseThread(Counting(Recorder(), failures=3), first_wait_s=0.001, longest_wait_s=0.001)
        errors: list[str] = []

        def insert(warehouse: Warehouse) -> int:
            errors.append(thread.error)
            return warehouse.insert("scores", {"offset": [1]})

        await thread.call(insert)
        errors.append(thread.error)
        await thread.close()
        return errors

    caplog.set_level("INFO", "streamgauge.warehouse")

    assert asyncio.run(run()) == ["", *["It does not answer."] * 3, ""]
    assert len(caplog.records) == 2  # once when it fails, once when it works again


def test_what_fails_now_and_then_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A call that fails and then goes well, every ten seconds, for two minutes: three times down, three times up."""
    now = 0.0

    async def run() -> int:
        nonlocal now
        thread = WarehouseThread(MemoryWarehouse(), first_wait_s=0, clock=lambda: now)
        for second in range(0, 121, 10):
            now = float(second)
            failures = [WarehouseError(f"In way {second}.", retryable=True)]

            def fail_once(_: Warehouse, failures: list[WarehouseError] = failures) -> None:
                if failures:
                    raise failures.pop()

            await thread.call(fail_once)
        await thread.close()
        return thread.failures

    caplog.set_level("INFO", "streamgauge.warehouse")

    assert asyncio.run(run()) == 13
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"] * 3


def test_giving_up_ends_a_call_that_would_wait_for_ever() -> None:
    async def run() -> None:
        thread = WarehouseThread(Counting(Recorder(), failures=10**9), first_wait_s=3_600)
        waiting = asyncio.create_task(thread.call(lambda warehouse: warehouse.insert("scores", {"offset": [1]})))
        while not thread.error:  # noqa: ASYNC110  # nobody else waits for it
            await asyncio.sleep(0)
        thread.give_up()
        with pytest.raises(WarehouseError):
            await waiting
        await thread.close()

    asyncio.run(run())


def assign(since: dict[str, int]) -> dict[str, dict[str, list[int]]]:
    topics = ["a", "b"]
    members = {member: ExclusiveAssignor(at).metadata(topics) for member, at in since.items()}
    cluster = SimpleNamespace(partitions_for_topic={"a": {1, 0}, "b": {0, 2, 1}}.get)
    answer = ExclusiveAssignor(0).assign(cluster, members)
    return {member: dict(found.assignment) for member, found in answer.items()}


def test_the_member_that_came_first_has_every_partition() -> None:
    everything = {"a": [0, 1], "b": [0, 1, 2]}

    assert assign({"x": 20, "y": 10, "a": 30}) == {"x": {}, "y": everything, "a": {}}
    assert assign({"x": 20}) == {"x": everything}


def test_members_of_one_moment_are_ordered_by_their_ids() -> None:
    assert assign({"x": 9, "b": 9})["x"] == {}
