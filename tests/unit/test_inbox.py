from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
from faust.types import TP

from app.adapters.kafka.batch_app import BatchApp
from app.adapters.kafka.batch_handler import Fetched, SkippedBatchError
from app.adapters.kafka.log_bounds import LogBounds
from app.core.batches import RecordBatch
from app.core.intake.merge import TimeMerge
from app.worker.inbox import INBOX_BYTES, Inbox
from schemas.pipeline.spec import Pipeline


class Fetching:
    """Which partitions are paused."""

    def __init__(self) -> None:
        self.paused: set[TP] = set()

    def pause(self, tps: Iterable[TP]) -> None:
        self.paused |= set(tps)

    def resume(self, tps: Iterable[TP]) -> None:
        self.paused -= set(tps)


def fetch(tp: TP, sequence: int, offset: int = 0, size_bytes: int = 100) -> Fetched:
    offsets = np.arange(offset, offset + 3, dtype=np.int64)
    return Fetched(
        RecordBatch(tp.topic, tp.partition, offsets, offsets, [None] * 3, [b""] * 3), 1, sequence, size_bytes
    )


@pytest.fixture
def fetching() -> Fetching:
    return Fetching()


@pytest.fixture
def inbox(fetching: Fetching, small_pipeline: Pipeline) -> Inbox:
    return Inbox(cast("BatchApp", fetching), cast("LogBounds", None), small_pipeline, 1)


def test_events_wait_in_their_order_and_labels_do_not(inbox: Inbox) -> None:
    assert inbox.put(fetch(inbox.events, 1, 5)) == inbox.events
    assert inbox.put(fetch(inbox.labels, 1, 7)) == inbox.labels
    assert inbox.put(fetch(inbox.events, 2, 8)) == inbox.events
    assert inbox.next_offsets == {inbox.events: 11, inbox.labels: 10}
    assert [int(inbox.take(9).offsets[0]) for _ in range(2)] == [5, 8]
    assert inbox.is_empty


def test_a_fetch_is_taken_in_parts_and_its_bytes_with_it(inbox: Inbox) -> None:
    inbox.put(fetch(inbox.events, 1, 5))
    inbox.put(fetch(inbox.events, 2, 8))
    parts = [inbox.take(most).offsets.tolist() for most in (2, 2, 1, 2)]
    assert parts == [[5, 6], [7], [8], [9, 10]]
    assert (inbox.is_empty, inbox._waiting_bytes) == (True, 0)


def test_a_fetch_that_was_dropped_on_its_way_is_noticed_and_a_new_assignment_counts_anew(inbox: Inbox) -> None:
    inbox.put(fetch(inbox.events, 1))
    with pytest.raises(SkippedBatchError, match="went from fetch 1 to 3"):
        inbox.put(fetch(inbox.events, 3))
    inbox.begin_anew()
    inbox.put(fetch(inbox.events, 1))


def test_events_are_paused_while_many_bytes_wait_and_resumed_at_half_of_them(inbox: Inbox, fetching: Fetching) -> None:
    merge: TimeMerge[Any] = TimeMerge(with_labels=True)
    paused = []
    for sequence in range(1, 4):
        inbox.put(fetch(inbox.events, sequence, size_bytes=INBOX_BYTES // 2))
        inbox.regulate(merge)
        paused.append(inbox.events in fetching.paused)
    for _ in range(3):
        inbox.take(9)
        inbox.regulate(merge)
        paused.append(inbox.events in fetching.paused)
    assert paused == [False, False, True, True, False, False]
