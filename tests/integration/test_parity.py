"""Served features against the transformation and against SQL, on a log with all that can happen to it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from core_setting import CARD_EVENTS, HOUR_MS, START_MS

from app.adapters.recordings.file import EVENTS, LABELS, SCORES, Recording, RecordingError, RecordingWriter, describe
from app.adapters.recordings.part import RecordingPart
from app.adapters.sources.features import compile_features
from app.core.batches import Floats, RecordBatch
from app.core.replay.bounds import Bound
from app.core.replay.window_sql import unsupported
from app.core.scoring import ActiveModel, ChampionTimeline
from app.replay.offline import run_recording
from app.replay.parity import Parity, run_parity
from models.reference.fit import fit_reference
from models.reference.training_events import TrainingEvents, numeric
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline
from schemas.wire import Score

N_PARTITIONS = 3
AGGREGATES = {
    "count": None,
    "rate": None,
    "time_since_last": None,
    "sum": "amount",
    "mean": "amount",
    "variance": "amount",
    "min": "amount",
    "max": "amount",
    "last": "amount",
    "share": "amount",
    "distinct": "shop",
}
HEAD = """
name = "NAME"
partitions = 3
publish_features = true

[model]
name = "m"

[events.fields]
id = "string"
card = "string"
at = "int"
amount = "float?"
shop = "string?"

[labels]
horizon = "8h"
max_wait = "5s"

[[features]]
name = "plain"
type = "float"
expression = "coalesce(amount, 0) * 0.1"

[[features]]
name = "group"
type = "category"
expression = "shop if amount > 0 else 'none'"
values = ["a", "none"]
"""
#: Features that the event alone decides.
STATELESS = {"plain", "group"}

#: Made of windows: in stages, of an own, a shared and a label window, as text, and by a function that fails at times.
DERIVED = """
[[features]]
name = "twice"
type = "float"
expression = "ratio * 2 - events_sum / 3"

[[features]]
name = "ratio"
type = "float"
expression = "plain / events_mean"

[[features]]
name = "to_shop"
type = "float"
expression = "events_mean / (shared_events_sum / shared_events_n)"

[[features]]
name = "bad_share"
type = "float"
expression = "labels_mean - bad_6h + labels_count / 1000"

[[features]]
name = "word"
type = "category"
expression = "shop if events_count > 3 else 'few'"
values = ["few", "a", "ü"]

[[features]]
name = "level"
type = "float"
python = "parity_own.py:level"
arguments = ["events_count", "shared_bad", "plain"]
"""
OWN = """
def level(count, bad, plain):
    if (count == 7).any():
        raise ValueError("seven")
    return (count > 2) + bad - plain
"""


def window(name: str, of: str, key: str, what: tuple[str, str | None], more: str) -> str:
    aggregate, field = what
    named = f', field = "{field}"' if field else ""
    return f"""
[[features]]
name = "{name}"
type = "float"
window = {{ of = "{of}", key = [{key}], hop = "10m", aggregate = "{aggregate}"{named}{more} }}
"""


def specification(name: str) -> str:
    parts = [HEAD.replace("NAME", name), CARD_EVENTS]
    for of in ("events", "labels"):
        for aggregate, field in AGGREGATES.items():
            parts.append(window(f"{of}_{aggregate}", of, '"card"', (aggregate, field), ', size = "2h"'))
            parts.append(window(f"{of}_{aggregate}_shop", of, '"card", "shop"', (aggregate, field), ', size = "1h"'))
    parts.append(window("bad_6h", "labels", '"card"', ("mean", "label"), ', size = "6h"'))
    for of in ("events", "labels"):
        parts.append(window(f"shared_{of}_n", of, '"shop"', ("count", None), ', size = "3h", delay = "30m"'))
        parts.append(window(f"shared_{of}_sum", of, '"shop"', ("sum", "amount"), ', size = "1h", delay = "1h"'))
    for of in ("events", "labels"):  # over features in place of fields
        parts.append(window(f"{of}_plain", of, '"card"', ("variance", "plain"), ', size = "3h"'))
        parts.append(window(f"{of}_groups", of, '"card"', ("distinct", "group"), ', size = "3h"'))
        parts.append(window(f"{of}_group_n", of, '"card", "group"', ("count", None), ', size = "3h"'))
        parts.append(window(f"shared_{of}_group", of, '"group"', ("mean", "plain"), ', size = "2h", delay = "30m"'))
    parts.append(window("shared_bad", "labels", '"shop"', ("mean", "label"), ', size = "4h", delay = "2h"'))
    return "".join([*parts, DERIVED])


def make_log(seed: int) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """(kind, partition) -> time and value: out of order, late, repeated, unlabelled, labelled twice, without a shop."""
    draw = random.Random(seed)  # noqa: S311  # a log, not a secret
    logs: dict[tuple[str, int], list[tuple[int, bytes]]] = {}
    labels: dict[int, list[tuple[int, bytes]]] = {k: [] for k in range(N_PARTITIONS)}
    for number in range(900):
        card = draw.randrange(9)
        partition = card % N_PARTITIONS
        at = START_MS + number * 90_000 + draw.choice([0, 0, 0, -1, 1]) * draw.randrange(900_000)
        if draw.random() < 0.02:
            at -= draw.randrange(1, 30) * HOUR_MS
        if draw.random() < 0.01:
            at += draw.randrange(1, 4) * HOUR_MS
        at = max(at, START_MS)
        event_id = f"e{number if draw.random() > 0.03 else max(0, number - 5)}"
        event = {
            "id": event_id,
            "card": f"c{card}",
            "at": at,
            "amount": draw.choice([None, 0, -0.5, draw.gauss(0, 1), draw.random() * 1e6, 2**-21, 3 * 2**-21]),
            "shop": draw.choice([None, "a", "b", "ü"]),
        }
        logs.setdefault((EVENTS, partition), []).append((at, json.dumps(event).encode()))
        for _ in range(draw.choice([0, 1, 1, 1, 2])):
            known = at + draw.randrange(-600_000, 12 * HOUR_MS)
            label = {"event_id": event_id, "label": float(draw.random() < 0.4), "label_time_ms": max(known, START_MS)}
            labels[partition].append((known, json.dumps(label).encode()))
    for partition, rows in labels.items():
        logs[LABELS, partition] = sorted(rows, key=lambda row: row[0] + draw.randrange(HOUR_MS))
    return logs


class RowScorer:
    def score(self, matrix: Floats) -> Floats:
        return 1 / (1 + np.exp(-np.nan_to_num(matrix[:, 0])))


def make_model(pipeline: Pipeline) -> ActiveModel:
    rng = np.random.default_rng(3)
    width = len(pipeline.features)
    matrix = rng.normal(size=(50, width))
    labels = (matrix[:, 0] > 0).astype(np.float64)
    columns = [numeric(name) for name in pipeline.feature_names]
    reference = fit_reference(TrainingEvents(matrix, RowScorer().score(matrix), labels), columns, 8, 0.5)
    return ActiveModel("m", "1.0.0", "champion", pipeline.feature_set, 0.5, RowScorer(), reference)


def batch(topic: str, partition: int, rows: list[tuple[int, bytes]]) -> RecordBatch:
    times = np.array([time for time, _ in rows], dtype=np.int64)
    return RecordBatch(
        topic, partition, np.arange(len(rows), dtype=np.int64) * 2, times, [b"k"] * len(rows), [v for _, v in rows]
    )


def record(path: Path, pipeline: Pipeline, scores: list[RecordBatch] | None = None, seed: int = 5) -> Recording:
    with RecordingWriter(path, describe(pipeline, 0)) as writer:
        for (kind, partition), rows in make_log(seed).items():
            writer.add(kind, batch(f"{pipeline.name}.{kind}", partition, rows))
        for of_scores in scores or []:
            writer.add(SCORES, of_scores)
    return Recording(path)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    path = tmp_path_factory.mktemp("parity") / "parity.toml"
    path.write_text(specification("parity"))
    path.with_name("parity_own.py").write_text(OWN)
    return load(path)


@pytest.fixture(scope="module")
def served(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A recording with the scores that a stream gives."""
    folder = tmp_path_factory.mktemp("served")
    timeline = ChampionTimeline([make_model(pipeline)])
    outgoing: dict[int, list[bytes]] = {}
    for step in run_recording(
        pipeline, compile_features(pipeline), record(folder / "log", pipeline), lambda _: timeline
    ):
        outgoing.setdefault(step.partition, []).extend(value or b"" for _, value, _ in step.outgoing_scores)
    scores = [
        batch("scores", partition, [(START_MS, value) for value in values]) for partition, values in outgoing.items()
    ]
    return record(folder / "served", pipeline, scores)


def served_events(served: Recording) -> int:
    """All but those that a function made of windows failed for."""
    return sum(len(batch) for partition in range(N_PARTITIONS) for batch in served.read(SCORES, partition))


def compare(pipeline: Pipeline, recording: Recording, begin: Bound | None = None, **options: Any) -> Parity:
    part = RecordingPart(recording, pipeline, begin or Bound())
    return run_parity(pipeline, part, None, **{"with_sql": True, "url": "", **options})


def test_every_aggregate_has_its_sql(pipeline: Pipeline) -> None:
    assert unsupported(pipeline) == ()


def test_what_was_served_is_what_the_transformation_and_sql_give(pipeline: Pipeline, served: Recording) -> None:
    parity = compare(pipeline, served)
    assert 600 < parity.compared == served_events(served) < 890
    different = [
        (feature.name, feature.different, feature.first[:2])
        for feature in (*parity.transform, *parity.sql)
        if feature.different
    ]
    assert different == []
    assert {feature.name for feature in parity.sql} == {f.name for f in pipeline.features} - STATELESS
    assert all(feature.rows == parity.compared for feature in (*parity.transform, *parity.sql))
    derived = [f.name for f in pipeline.features if f.window is None and f.name not in STATELESS]
    assert [feature.name for feature in parity.sql if feature.tolerance == 0] == ["ratio", "twice", *derived[2:]]


def test_a_part_needs_only_its_warm_up(pipeline: Pipeline, served: Recording) -> None:
    parity = compare(pipeline, served, Bound(time_ms=START_MS + 18 * HOUR_MS))
    assert 0 < parity.compared < 300
    assert parity.is_equal


def test_one_changed_bit_is_found_by_the_transformation_and_more_by_sql(
    pipeline: Pipeline, served: Recording, tmp_path: Path
) -> None:
    scores = list(served.read(SCORES, 1))
    first = msgspec.json.decode(scores[0].values[7] or b"", type=Score)
    first.features["events_sum"] = float(np.nextafter(first.features["events_sum"] or 0.0, 1e9))
    first.features["labels_count"] = (first.features["labels_count"] or 0.0) + 1
    scores[0].values[7] = msgspec.json.encode(first)
    others = [batch for partition in (0, 2) for batch in served.read(SCORES, partition)]
    parity = compare(pipeline, record(tmp_path / "changed", pipeline, [*scores, *others]))
    assert {feature.name: feature.different for feature in parity.transform if feature.different} == {
        "events_sum": 1,
        "labels_count": 1,
    }
    assert {feature.name: feature.different for feature in parity.sql if feature.different} == {"labels_count": 1}
    (row,) = next(feature for feature in parity.sql if feature.different).first
    assert (row.partition, row.offset) == (1, first.source.offset)


def test_what_is_made_of_windows_is_held_against_the_same_made_of_windows_by_sql(
    pipeline: Pipeline, served: Recording, tmp_path: Path
) -> None:
    scores = list(served.read(SCORES, 1))
    values = [msgspec.json.decode(value or b"", type=Score) for value in scores[0].values]
    place = next(at for at, score in enumerate(values) if score.features["ratio"])
    ratio = values[place].features["ratio"]
    assert ratio is not None
    values[place].features["ratio"] = float(np.nextafter(ratio, 1e9))
    values[place + 1].features["word"] = 1.0 - (values[place + 1].features["word"] or 0.0)
    # A window that is wrong by one, and what a function of it would have been.
    last = max(at for at, score in enumerate(values) if score.features["bad_share"] is not None)
    wrong = values[last].features
    wrong["labels_count"] = (wrong["labels_count"] or 0.0) + 1
    wrong["bad_share"] = (wrong["labels_mean"] or 0.0) - (wrong["bad_6h"] or 0.0) + wrong["labels_count"] / 1000
    for row in (place, place + 1, last):
        scores[0].values[row] = msgspec.json.encode(values[row])
    others = [batch for partition in (0, 2) for batch in served.read(SCORES, partition)]
    parity = compare(pipeline, record(tmp_path / "changed", pipeline, [*scores, *others]))
    for features in (parity.transform, parity.sql):
        different = {feature.name: feature.different for feature in features if feature.different}
        assert different == {"ratio": 1, "word": 1, "labels_count": 1, "bad_share": 1}


def test_without_served_features_there_is_nothing_to_compare(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="publish_features = true"):
        compare(pipeline, record(tmp_path / "bare", pipeline))
