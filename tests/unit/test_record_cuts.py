"""A part of a batch says of each of its records and events what the whole says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.batches import EventBatch, LabelBatch, LabelRows, RecordBatch

N = 5


@given(first=st.integers(0, N), last=st.integers(0, N), with_headers=st.booleans())
def test_a_cut_keeps_records_whole(first: int, last: int, *, with_headers: bool) -> None:
    last = max(first, last)
    headers = [(("h", b"%d" % row),) for row in range(N)]
    whole = RecordBatch(
        "t", 3, np.arange(N) * 2, np.arange(N) + 100, [b"k%d" % row for row in range(N)],
        [b"v%d" % row for row in range(N)], headers if with_headers else None, {0: ("a", 1), 2: ("b", 2), 4: ("c", 3)},
    )  # fmt: skip
    part = whole.cut(first, last)
    rows = list(range(first, last))
    assert (part.topic, part.partition, len(part)) == ("t", 3, last - first)
    assert part.offsets.tolist() == [2 * row for row in rows]
    assert part.timestamps_ms.tolist() == [100 + row for row in rows]
    assert (part.keys, part.values) == ([b"k%d" % row for row in rows], [b"v%d" % row for row in rows])
    assert part.headers == ([headers[row] for row in rows] if with_headers else None)
    assert part.unreadable == {row - first: whole.unreadable[row] for row in rows if row in whole.unreadable}
    assert (part is whole) == (rows == list(range(N)))


@pytest.mark.parametrize("rows", [[], [0, 2], [1, 2, 3, 4]])
def test_events_are_taken_whole(rows: list[int]) -> None:
    columns = {"x": np.arange(N) / 2, "s": np.array(["a", None, "c", "d", "e"], dtype=object)}
    names, ids = [f"c{row}" for row in range(N)], [f"e{row}" for row in range(N)]
    taken = EventBatch(np.arange(N) * 3, np.arange(N) + 7, names, ids, columns).take(np.array(rows, dtype=np.int64))
    assert len(taken) == len(rows)
    assert (taken.offsets.tolist(), taken.event_time_ms.tolist()) == (
        [3 * row for row in rows],
        [7 + row for row in rows],
    )
    assert (taken.entity, taken.event_id) == ([f"c{row}" for row in rows], [f"e{row}" for row in rows])
    assert {name: column.tolist() for name, column in taken.columns.items()} == {
        name: [column.tolist()[row] for row in rows] for name, column in columns.items()
    }


def test_as_many_labels_as_there_are_ids_and_as_many_outcomes_as_are_placed() -> None:
    two = np.zeros(2, dtype=np.int64)
    assert len(LabelBatch(two, two, ["a", "b"], np.ones(2), [None, b"k"])) == 2
    assert len(LabelRows(two, two, {})) == 2
