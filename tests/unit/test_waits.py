"""When an event stops waiting for labels or for other partitions: never because somebody is behind.

Times are real, and milliseconds: what counts as waiting in vain is counted in looks, of which a limit has twenty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiokafka.errors import KafkaConnectionError
from faust.types import TP
from shared_cluster import PARTITIONS, Setting
from shared_logs import Logs, event

from app.adapters.kafka.log_bounds import GroupBounds
from app.adapters.patience import Patience
from app.core.batches import LabelBatch
from app.core.intake.merge import TimeMerge
from app.core.shared.board import SharedBoard
from app.flow.step import FlowOutput
from app.pipeline import PartitionPipeline
from app.worker.label_waits import LabelWaits
from app.worker.outbox import Progress, Tally
from app.worker.shared_waits import SharedWaits
from schemas.pipeline.spec import Labels, Shared

LIMIT_MS = 40
EVENTS, LABELS = TP("p.events", 0), TP("p.labels", 0)


async def until(condition: Callable[[], Awaitable[bool]], look_s: float = 0.001) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # what is asked has no event
            await asyncio.sleep(look_s)


async def outlasts(limits: float, waiting: Callable[[], Awaitable[bool]], pause_s: float) -> bool:
    """Whether something goes on for so many times the limit."""
    end = time.monotonic() + limits * LIMIT_MS / 1000
    while time.monotonic() < end:
        if await waiting():
            return False
        await asyncio.sleep(pause_s)
    return True


# -- patience ----------------------------------------------------------------------------------------------------------


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


def test_patience_ends_when_waiting_was_in_vain_for_as_long_as_the_limit() -> None:
    async def run() -> None:
        patience, started = Patience(LIMIT_MS), time.monotonic()
        await until(lambda: patience.is_over("here", yes), patience.look_s)
        assert time.monotonic() - started >= LIMIT_MS / 1000 / 2  # a look counts as two at the most

    asyncio.run(run())


def test_time_in_which_something_is_left_to_do_never_counts() -> None:
    async def run() -> None:
        patience = Patience(LIMIT_MS)
        assert await outlasts(4, lambda: patience.is_over("here", no), patience.look_s)

    asyncio.run(run())


def test_time_counts_anew_when_what_is_waited_for_has_moved() -> None:
    async def run() -> None:
        patience, looks = Patience(LIMIT_MS), 0

        async def look() -> bool:
            nonlocal looks
            looks += 1
            return await patience.is_over(looks // 5, yes)

        assert await outlasts(4, look, patience.look_s)

    asyncio.run(run())


@pytest.mark.slow
def test_a_worker_that_has_no_turn_does_not_lose_its_patience() -> None:
    async def run() -> None:
        patience = Patience(LIMIT_MS)
        assert not await patience.is_over("here", yes)
        time.sleep(5 * LIMIT_MS / 1000)  # noqa: ASYNC251  # the whole process stands still
        assert not await patience.is_over("here", yes)

    asyncio.run(run())


def test_a_broker_that_does_not_answer_is_no_reason_to_stop_waiting() -> None:
    async def run() -> None:
        async def fail() -> bool:
            raise KafkaConnectionError

        patience = Patience(LIMIT_MS)
        assert await outlasts(4, lambda: patience.is_over("here", fail), patience.look_s)

    asyncio.run(run())


# -- labels ------------------------------------------------------------------------------------------------------------


class Inputs:
    """The topics of one partition: an end of the labels, and how far they were received."""

    def __init__(self, end: int) -> None:
        self.events, self.labels = EVENTS, LABELS
        self.end = end
        self.next_offsets = {LABELS: 0}
        self.unreachable: set[TP] = set()

    async def end_offset(self, tp: TP) -> int:
        if tp in self.unreachable:
            raise KafkaConnectionError
        return self.end

    async def has_received(self, tp: TP, end: int) -> bool:
        return self.next_offsets[tp] >= end


def one_held_event() -> Any:
    merge: TimeMerge[str] = TimeMerge(with_labels=True)
    merge.add_labels(LabelBatch(np.array([0]), np.array([5]), ["e"], np.array([1.0]), [b"k"]))
    merge.add_events("events", np.array([9]))
    assert merge.holds_back
    return SimpleNamespace(merge=merge, partition=0)


async def is_released(flow: Any) -> bool:
    return bool(flow.merge._let_go)


def wait_for_labels(inputs: Inputs, flow: Any) -> LabelWaits:
    waits = LabelWaits(flow, Labels(horizon_ms=10, max_wait_ms=LIMIT_MS), inputs, print, print)  # type: ignore[arg-type]
    waits.look(is_ready=True, is_empty=False)
    return waits


@pytest.mark.slow
def test_labels_that_take_long_to_be_read_are_waited_for() -> None:
    async def run() -> None:
        inputs, flow = Inputs(end=20), one_held_event()
        waits = wait_for_labels(inputs, flow)
        for offset in range(20):
            inputs.next_offsets[LABELS] = offset
            await asyncio.sleep(LIMIT_MS / 1000 / 4)
            assert flow.merge.take(1) is None
        inputs.next_offsets[LABELS] = 20
        await asyncio.sleep(LIMIT_MS / 1000)
        assert flow.merge.take(1) is not None
        assert not waits.stale

    asyncio.run(run())


def test_events_go_without_labels_that_cannot_be_read_while_events_can() -> None:
    async def run() -> None:
        inputs, flow = Inputs(end=20), one_held_event()
        inputs.unreachable = {LABELS}
        waits = wait_for_labels(inputs, flow)
        await until(partial(is_released, flow))
        assert list(waits.stale) == [0]
        assert flow.merge.take(1) is not None

    asyncio.run(run())


def test_while_kafka_is_away_nothing_is_said_of_labels() -> None:
    async def run() -> None:
        inputs, flow = Inputs(end=20), one_held_event()
        inputs.unreachable = {LABELS, EVENTS}
        waits = wait_for_labels(inputs, flow)
        await asyncio.sleep(4 * LIMIT_MS / 1000)
        assert flow.merge.take(1) is None
        inputs.unreachable, inputs.next_offsets[LABELS] = set(), 20
        await until(partial(is_released, flow))
        assert not waits.stale

    asyncio.run(run())


# -- other partitions --------------------------------------------------------------------------------------------------


def blocked(folder: Path) -> PartitionPipeline:
    """Partition 0, with events that wait for the others."""
    setting, logs = Setting.read(folder, "nnnnn"), Logs.empty(PARTITIONS)
    logs.events[0] = [event("e1", 10, "a", 1.0), event("e2", 100, "a", 1.0)]
    board = SharedBoard(setting.plan.shared, range(PARTITIONS))
    pipeline = replace(setting.pipeline, labels=None)
    flow = PartitionPipeline(pipeline, setting.plan, 0, outputs=FlowOutput.STATE, board=board)
    flow.receive_events(logs.batch("events", 0, 0, 2))
    assert flow.step(None, 10, 0) is None
    assert flow.shared is not None
    assert flow.shared.is_blocked
    return flow


def wait_for_others(
    flow: PartitionPipeline, bounds: Callable[[int | None], Awaitable[dict[TP, GroupBounds]]]
) -> SharedWaits:
    async def never(_: int) -> None: ...

    waits = SharedWaits(flow, Shared(idle_ms=10_000, max_wait_ms=LIMIT_MS), never, bounds, lambda: None)
    waits.look()
    return waits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("committed", "goes"),
    [(None, False), (4, False), (5, True), (6, True)],
    ids=["none", "behind", "at its end", "past"],
)
def test_only_a_partition_that_has_read_all_there_is_can_be_waited_for_in_vain(
    tmp_path: Path, committed: int | None, *, goes: bool
) -> None:
    async def run() -> None:
        asked = []

        async def bounds(partition: int | None) -> dict[TP, GroupBounds]:
            asked.append(partition)
            return {EVENTS: GroupBounds(committed, 0, 5)}

        flow = blocked(tmp_path)
        waits = wait_for_others(flow, bounds)
        if goes:
            await until(partial(_goes, flow))
        else:
            assert await outlasts(4, partial(_goes, flow), 0.002)
        assert set(asked) == {1}  # the first of those that have not come on
        step = flow.step(None, 10, 0)
        assert (step is not None and step.is_stale) is goes
        await waits.stop()

    asyncio.run(run())


async def _goes(flow: PartitionPipeline) -> bool:
    assert flow.shared is not None
    return not flow.shared.is_blocked


def test_what_came_to_a_log_after_the_wait_began_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def run() -> None:
        end = 5

        async def bounds(_: int | None) -> dict[TP, GroupBounds]:
            nonlocal end
            end += 1
            return {EVENTS: GroupBounds(end - 1, 0, end)}

        flow = blocked(tmp_path)
        waits = wait_for_others(flow, bounds)
        await until(partial(_goes, flow))
        await waits.stop()

    asyncio.run(run())


# -- what counts -------------------------------------------------------------------------------------------------------


def test_nothing_counts_before_it_is_committed_and_a_score_is_stale_once() -> None:
    tally, progress = Tally(), Progress()
    letters = [SimpleNamespace(stage="decode", reason="not_json"), SimpleNamespace(stage="label", reason="not_json")]
    steps = [
        SimpleNamespace(events=[1, 2, 3, 4], n_scored=3, dead_letters=letters, is_stale=True),
        SimpleNamespace(events=[5], n_scored=1, dead_letters=[], is_stale=False),
    ]
    tally.add(steps)  # type: ignore[arg-type]
    assert progress == Progress()
    progress.count(tally, SimpleNamespace(shared_late=7, labels=(3, 2)), 99)  # type: ignore[arg-type]
    assert progress == Progress(
        events=6,
        scored=4,
        unscored=1,
        dead_letters=1,
        stale=3,
        shared_late=7,
        labels=3,
        labels_without_event=2,
        commits=1,
        last_commit_ms=99,
    )
