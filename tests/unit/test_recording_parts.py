"""Laws of running a part of a recording: with its warm-up it gives what the whole gives."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_setting import CARD_EVENTS, MINUTE_MS, START_MS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.adapters.recordings import file as recordings
from app.adapters.recordings.file import EVENTS, LABELS, Recording, RecordingError, RecordingWriter, describe
from app.adapters.recordings.part import RecordingPart, check_bounds, reach_ms
from app.adapters.sources.features import compile_features
from app.core.batches import RecordBatch
from app.core.replay.bounds import Bound
from app.replay.offline import run_recording
from app.replay.part_selector import is_counted
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

SPECIFICATION = """
name = "parts"
partitions = 2

[model]
name = "m"

[events.fields]
id = "string"
card = "string"
at = "int"
shop = "string"

[labels]
horizon = "40m"
max_wait = "5s"

[[features]]
name = "count_10m"
type = "int"
window = { of = "events", key = ["card"], size = "10m", hop = "1m", aggregate = "count" }

[[features]]
name = "bad_30m"
type = "float"
window = { of = "labels", key = ["card"], size = "30m", hop = "2m", aggregate = "mean", field = "label" }

[[features]]
name = "shop_bad_20m"
type = "float"
window = { of = "labels", key = ["shop"], size = "20m", hop = "5m", aggregate = "count", delay = "5m" }
"""

Value = tuple[int, bytes]
Found = dict[tuple[int, int], bytes]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = tmp_path_factory.mktemp("parts") / "parts.toml"
    path.write_text(SPECIFICATION + CARD_EVENTS)
    return load(path)


def make_log(seed: int, gap_ms: int) -> dict[tuple[str, int], list[Value]]:
    draw = random.Random(seed)  # noqa: S311  # a log, not a secret
    logs: dict[tuple[str, int], list[Value]] = {(EVENTS, 0): [], (EVENTS, 1): []}
    at = START_MS
    labels: list[tuple[int, int, bytes]] = []
    for number in range(120):
        at += draw.choice([1, gap_ms, gap_ms, 10 * gap_ms if draw.random() < 0.1 else 1])
        card = draw.randrange(4)
        time_ms = max(START_MS, at - draw.choice([0, 0, 0, draw.randrange(30 * MINUTE_MS)]))
        event = {"id": f"e{number}", "card": f"c{card}", "at": time_ms, "shop": draw.choice("ab")}
        logs[EVENTS, card % 2].append((time_ms, json.dumps(event).encode()))
        for _ in range(draw.choice([0, 1, 2])):
            known = time_ms + draw.randrange(90 * MINUTE_MS)
            label = {"event_id": f"e{number}", "label": float(draw.random() < 0.5), "label_time_ms": known}
            labels.append((known, card % 2, json.dumps(label).encode()))
    for known, partition, value in sorted(labels):
        logs.setdefault((LABELS, partition), []).append((known, value))
    return logs


def write(path: Path, pipeline: Pipeline, logs: dict[tuple[str, int], list[Value]]) -> Recording:
    with RecordingWriter(path, describe(pipeline, 0)) as writer:
        for (kind, partition), rows in logs.items():
            times = np.array([time_ms for time_ms, _ in rows], dtype=np.int64)
            offsets = np.arange(len(rows), dtype=np.int64) * 3
            values: list[Any] = [value for _, value in rows]
            writer.add(kind, RecordBatch(f"parts.{kind}", partition, offsets, times, [b"k"] * len(rows), values))
    return Recording(path)


def features(pipeline: Pipeline, part: RecordingPart) -> Found:
    """The feature vector of each event that counts, by its place."""
    vectors: Found = {}
    for step in run_recording(pipeline, compile_features(pipeline), part, lambda _: None):
        if is_counted(step, part):
            for row, offset in enumerate(step.events.offsets.tolist()):
                assert (step.partition, offset) not in vectors
                vectors[step.partition, offset] = step.matrix[row].tobytes()
    return vectors


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    gap_ms=st.sampled_from([MINUTE_MS // 4, 2 * MINUTE_MS, 25 * MINUTE_MS]),
    share=st.floats(0, 1),
    length=st.floats(0.05, 1),
    group_rows=st.sampled_from([3, 20, 1000]),
)
def test_a_part_with_its_warm_up_gives_the_bits_of_the_whole(  # noqa: PLR0917  # what Hypothesis draws
    pipeline: Pipeline, tmp_path_factory: Any, seed: int, gap_ms: int, share: float, length: float, group_rows: int
) -> None:
    logs = make_log(seed, gap_ms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "GROUP_ROWS", group_rows)
        recording = write(tmp_path_factory.mktemp("r") / "r.parquet", pipeline, logs)
    whole = features(pipeline, RecordingPart(recording, pipeline))
    assert len(whole) == 120
    times = [time_ms for (kind, _), rows in logs.items() if kind == EVENTS for time_ms, _ in rows]
    span = max(times) - START_MS
    begin, end = Bound(START_MS + int(share * span)), Bound(START_MS + int((share + length) * span) + 1)
    part = RecordingPart(recording, pipeline, begin, end)
    vectors = features(pipeline, part)
    assert len(vectors) == part.events
    assert vectors == {place: whole[place] for place in vectors}
    by_offset = Bound(offsets={k: s.first for k, s in part.stretches.items()})
    stops = Bound(offsets={k: s.stop for k, s in part.stretches.items()})
    if vectors:
        assert features(pipeline, RecordingPart(recording, pipeline, by_offset, stops)) == vectors


def test_parts_that_meet_hold_each_event_once(pipeline: Pipeline, tmp_path: Path) -> None:
    recording = write(tmp_path / "r.parquet", pipeline, make_log(3, MINUTE_MS))
    middle = Bound(START_MS + 40 * MINUTE_MS)
    before, after = RecordingPart(recording, pipeline, end=middle), RecordingPart(recording, pipeline, middle)
    assert before.events > 10 < after.events
    first, second = features(pipeline, before), features(pipeline, after)
    assert not set(first) & set(second)
    assert first | second == features(pipeline, RecordingPart(recording, pipeline))


def test_without_a_warm_up_windows_lack_what_came_before(pipeline: Pipeline, tmp_path: Path) -> None:
    recording = write(tmp_path / "r.parquet", pipeline, make_log(3, MINUTE_MS))
    begin = Bound(START_MS + 40 * MINUTE_MS)
    cold, warm = RecordingPart(recording, pipeline, begin, warm_up_ms=0), RecordingPart(recording, pipeline, begin)
    assert cold.warm_events == 0 < warm.warm_events
    assert features(pipeline, cold) != features(pipeline, warm)


def test_windows_reach_back_by_size_hop_and_delay(pipeline: Pipeline) -> None:
    assert reach_ms(pipeline) == 32 * MINUTE_MS  # 30 + 2; the shared one: 20 + 5 + 5


def test_a_part_without_events_is_an_error_that_names_the_bounds(pipeline: Pipeline, tmp_path: Path) -> None:
    recording = write(tmp_path / "r.parquet", pipeline, make_log(3, MINUTE_MS))
    with pytest.raises(RecordingError, match="between --from and --to"):
        check_bounds(RecordingPart(recording, pipeline, Bound(START_MS + 10**12)))
