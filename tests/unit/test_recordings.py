from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.adapters.recordings import file as recordings
from app.adapters.recordings.file import (
    EVENTS,
    LABELS,
    SCORES,
    About,
    Recording,
    RecordingError,
    RecordingWriter,
    describe,
)
from app.adapters.recordings.source import read_in_time
from app.adapters.recordings.versions import read_versions
from app.core.batches import Header, RecordBatch
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.topics import WATERMARK_HEADER

ABOUT = About("flights", "d" * 64, "f" * 12, 4, 1_700_000_000_000)

Row = tuple[bytes | None, bytes | None, tuple[Header, ...]]
BYTES = st.none() | st.binary(max_size=20)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=2).map(tuple)
ROWS = st.lists(st.tuples(BYTES, BYTES, HEADERS), max_size=12)


@pytest.fixture(scope="module")
def flights() -> Pipeline:
    return load("flights")


def batch(topic: str, partition: int, start: int, rows: list[Row]) -> RecordBatch:
    offsets = np.arange(start, start + len(rows), dtype=np.int64) * 2
    headers = [row[2] for row in rows]
    return RecordBatch(
        topic,
        partition,
        offsets,
        offsets + 7,
        [r[0] for r in rows],
        [r[1] for r in rows],
        headers if any(headers) else None,
    )


def unfold(batches: list[RecordBatch]) -> list[tuple[int, int, bytes | None, bytes | None, tuple[Header, ...]]]:
    return [
        (*row, tuple(headers))
        for batch in batches
        for row, headers in zip(
            zip(batch.offsets.tolist(), batch.timestamps_ms.tolist(), batch.keys, batch.values, strict=True),
            batch.headers or [()] * len(batch),
            strict=True,
        )
    ]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    logs=st.dictionaries(st.tuples(st.sampled_from([EVENTS, LABELS, SCORES]), st.integers(0, 2)), ROWS, max_size=4),
    size=st.integers(1, 5),
    group_rows=st.integers(1, 6),
    buffer_bytes=st.sampled_from([1, 300, 10**6]),
)
def test_a_recording_gives_back_each_log_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    logs: dict[tuple[str, int], list[Row]],
    size: int,
    group_rows: int,
    buffer_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("recording") / "r.parquet"
    parts = [
        (kind, batch(f"flights.{kind}", partition, start, rows[start : start + size]))
        for (kind, partition), rows in logs.items()
        for start in range(0, len(rows), size)
    ]
    parts.sort(key=lambda part: int(part[1].offsets[0]))  # logs interleave; each stays in its order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "GROUP_ROWS", group_rows)
        patch.setattr(recordings, "BUFFER_BYTES", buffer_bytes)
        with RecordingWriter(path, ABOUT) as writer:
            for kind, part in parts:
                writer.add(kind, part)
    recording = Recording(path)
    assert recording.about == ABOUT
    for (kind, partition), rows in logs.items():
        read = list(recording.read(kind, partition))
        whole = batch(f"flights.{kind}", partition, 0, rows)
        assert unfold(read) == unfold([whole])
        assert {part.topic for part in read} <= {f"flights.{kind}"}
        assert recording.count(kind, partition) == len(rows)
        assert all(len(part) <= max(group_rows, 1) for part in read)
    assert pq.read_table(path).num_rows == sum(map(len, logs.values()))


def test_a_recording_that_fails_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with pytest.raises(TypeError), RecordingWriter(path, ABOUT) as writer:
        writer.add(EVENTS, batch("flights.events", 0, 0, [(7, b"v", ())]))  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    path.write_bytes(b"precious")
    with pytest.raises(RecordingError, match="exists"):
        RecordingWriter(path, ABOUT)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("content", [b"", b"PAR1 and so on", None])
def test_what_is_no_recording_is_refused_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "other.parquet"
    if content is None:
        pq.write_table(pq.read_table(_empty(tmp_path)), path)  # the columns of a recording, without its footer
    else:
        path.write_bytes(content)
    with pytest.raises(RecordingError, match="streamgauge record"):
        Recording(path)


def _empty(folder: Path) -> Path:
    path = folder / "empty.parquet"
    with RecordingWriter(path, ABOUT):
        pass
    return path


def test_a_recording_of_another_pipeline_is_refused(tmp_path: Path, flights: Pipeline) -> None:
    path = tmp_path / "r.parquet"
    with RecordingWriter(path, About("cards", "", "", 1, 0)):
        pass
    with pytest.raises(RecordingError, match="--pipeline cards"):
        Recording(path).check_fits(flights)


def test_versions_are_read_where_they_change(tmp_path: Path, flights: Pipeline) -> None:
    path = tmp_path / "r.parquet"
    versions = ["1.0.0", "1.0.0", "1.1.0", "1.1.0", "1.0.0"]
    values = [
        json.dumps({"version": v, "source": {"offset": 3 * n}, "event_time_ms": n}).encode()
        for n, v in enumerate(versions)
    ]
    with RecordingWriter(path, describe(flights, 0)) as writer:
        writer.add(SCORES, batch("flights.scores", 1, 0, [(None, value, ()) for value in values]))
    recording = Recording(path)
    read = read_versions(recording, 1, early_before_ms=2)
    assert (read.starts, read.early.tolist()) == ([(0, "1.0.0"), (6, "1.1.0"), (12, "1.0.0")], [0, 3])
    assert read_versions(recording, 0).starts == []


HOUR_MS = 3_600_000
START_MS = 1_360_000_000_000 // HOUR_MS * HOUR_MS


def event(number: int, hours: int) -> bytes:
    fields = {"flight_id": f"f{number}", "scheduled_departure_ms": START_MS + hours * HOUR_MS, "origin": "JFK"}
    return json.dumps({**fields, "dest": "LAX", "carrier": "B6", "flight": 1, "distance": 100}).encode()


def label(number: int, hours: int) -> bytes:
    return json.dumps({"event_id": f"f{number}", "label": 1, "label_time_ms": START_MS + hours * HOUR_MS}).encode()


def test_a_recording_is_sent_again_in_time_order_with_labels_first_and_rubbish_in_its_place(
    tmp_path: Path, flights: Pipeline
) -> None:
    path = tmp_path / "r.parquet"
    mark = ((WATERMARK_HEADER, str(START_MS + 9 * HOUR_MS).encode()),)
    now = START_MS + 100 * HOUR_MS
    logs = {
        (EVENTS, 0): [(b"a", event(0, 0), ()), (b"a", b"rubbish", ()), (b"a", event(1, 5), ())],
        (EVENTS, 2): [(b"b", event(2, 3), ()), (b"b", event(3, 2), ())],
        (LABELS, 0): [(b"a", label(0, 3), ()), (b"a", label(1, 5), ()), (None, None, mark)],
    }
    with RecordingWriter(path, describe(flights, now)) as writer:
        for (kind, partition), rows in logs.items():
            part = batch("", partition, 0, rows)
            part.timestamps_ms = np.full(len(rows), now)
            writer.add(kind, part)
    recording = Recording(path)
    chunks = list(read_in_time(recording, flights, size=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    read = [(r.kind, (r.time_ms - START_MS) // HOUR_MS, r.partition, r.value) for chunk in chunks for r in chunk]
    assert read == [
        ("event", 0, 0, event(0, 0)),
        ("event", 0, 0, b"rubbish"),
        ("label", 3, 0, label(0, 3)),
        ("event", 3, 2, event(2, 3)),
        ("event", 3, 2, event(3, 2)),  # late: it keeps its place in its log
        ("label", 5, 0, label(1, 5)),
        ("event", 5, 0, event(1, 5)),
        ("watermark", 9, 0, None),
    ]
