from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

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
    assert [inbox.take(3).offsets.tolist() for _ in range(2)] == [[5, 6, 7], [8, 9, 10]]
    assert inbox.is_empty


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.sets(st.integers(0, 4)), st.booleans()), min_size=1, max_size=8),
    takes=st.lists(st.integers(1, 9), min_size=1),
)
def test_events_are_taken_in_any_parts_and_none_is_changed(
    small_pipeline: Pipeline, sizes: list[tuple[int, set[int], bool]], takes: list[int]
) -> None:
    inbox = Inbox(cast("BatchApp", Fetching()), cast("LogBounds", None), small_pipeline, 1)
    written: list[tuple[Any, ...]] = []
    for sequence, (size, unreadable, with_headers) in enumerate(sizes, start=1):
        offsets = np.arange(len(written), len(written) + size, dtype=np.int64) * 2
        keys: list[bytes | None] = [b"k%d" % at for at in offsets.tolist()]
        headers = [(("h", b"%d" % at),) for at in offsets.tolist()] if with_headers else None
        why = {place: (f"{sequence}", place) for place in unreadable if place < size}
        batch = RecordBatch(inbox.events.topic, 1, offsets, offsets + 1, keys, [*keys], headers, why)
        inbox.put(Fetched(batch, 1, sequence, 100 * size))
        written += [
            (at, at + 1, key, key, headers[row] if headers else (), why.get(row))
            for row, (at, key) in enumerate(zip(offsets.tolist(), keys, strict=True))
        ]
    read: list[tuple[Any, ...]] = []
    for most in itertools.cycle(takes):
        if inbox.is_empty:
            break
        batch = inbox.take(most)
        assert 0 < len(batch) <= most
        assert len(batch) == most or inbox.is_empty
        columns = zip(batch.offsets.tolist(), batch.timestamps_ms.tolist(), batch.keys, batch.values, strict=True)
        read += [
            (*row, batch.headers[place] if batch.headers else (), batch.unreadable.get(place))
            for place, row in enumerate(columns)
        ]
    assert read == written
    assert (inbox.events_waiting, inbox._waiting_bytes) == (0, 0)


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
        inbox.take(3)
        inbox.regulate(merge)
        paused.append(inbox.events in fetching.paused)
    assert paused == [False, False, True, True, False, False]
