"""The SQL that docs/pipeline-file.md gives for a shared window, run by the engine, against the core."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from app.adapters.clickhouse.scratch_engine import ScratchEngine
from app.core.batches import RecordBatch
from app.core.features.plan import FeaturePlan
from app.replay.drive import drive
from app.secret import Secret
from schemas.pipeline.file import load

DOCS = Path(__file__).resolve().parents[2] / "docs" / "pipeline-file.md"
PARTITIONS = 3
HOUR_MS = 3_600_000
START_MS = 1_600_000_000_000 // HOUR_MS * HOUR_MS

SPECIFICATION = """
name = "payments"
partitions = 3

[model]
name = "fraud"

[events]
entity = "card"
id = "event_id"
time = "event_time_ms"
earliest = 2020-01-01T00:00:00Z

[events.fields]
event_id = "string"
card = "string"
event_time_ms = "int"
merchant = "string?"

[labels]
horizon = "7d"

[[features]]
name = "merchant_fraud_24h"
type = "float"
WINDOW
"""


def read_docs() -> tuple[str, str]:
    """The window and the SQL of the section."""
    section = DOCS.read_text(encoding="utf-8").partition("### Windows shared between partitions")[2]
    window = re.search(r"^window = .*delay.*$", section, re.MULTILINE)
    sql = re.search(r"```sql\n(.*?)```", section, re.DOTALL)
    assert window is not None
    assert sql is not None
    return window[0], sql[1].replace("SETTINGS join_use_nulls = 1", "")


def test_the_documented_sql_gives_the_values_that_were_served(tmp_path: Path) -> None:
    window, sql = read_docs()
    path = tmp_path / "payments.toml"
    path.write_text(SPECIFICATION.replace("WINDOW", window))
    pipeline = load(path)
    generator = np.random.default_rng(4)
    events: dict[str, list[object]] = {
        name: [] for name in ("partition", "offset", "event_id", "event_time_ms", "merchant")
    }
    labels: dict[str, list[object]] = {
        name: [] for name in ("partition", "offset", "event_id", "label_time_ms", "label")
    }
    batches = []
    for partition in range(PARTITIONS):
        # Three days, now and then out of order.
        times = START_MS + np.sort(generator.integers(0, 72 * HOUR_MS, 300)) - generator.integers(0, HOUR_MS // 2, 300)
        ids = [f"{partition}-{number}" for number in range(300)]
        merchants = [None if choice == 3 else f"m{choice}" for choice in generator.integers(0, 4, 300).tolist()]
        label_times = times + generator.integers(1, 30 * HOUR_MS, 300)
        order = np.argsort(label_times + generator.integers(0, HOUR_MS, 300)).tolist()[:240]
        rows = zip(ids, times.tolist(), merchants, strict=True)
        for offset, row in enumerate(rows):
            for name, value in zip(events, (partition, offset, *row), strict=True):
                events[name].append(value)
        for offset, at in enumerate(order):
            row = partition, offset, ids[at], int(label_times[at]), float(generator.integers(2))
            for name, value in zip(labels, row, strict=True):
                labels[name].append(value)
        values = [
            json.dumps({"event_id": i, "card": "c", "event_time_ms": t, "merchant": m}).encode()
            for i, t, m in zip(ids, times.tolist(), merchants, strict=True)
        ]
        label_values = [
            json.dumps({"event_id": i, "label": value, "label_time_ms": t}).encode()
            for i, t, value in zip(
                *(labels[name][-240:] for name in ("event_id", "label_time_ms", "label")), strict=True
            )
        ]
        for topic, found in ((pipeline.topics.labels, label_values), (pipeline.topics.events, values)):
            n = len(found)
            stamps = np.full(n, START_MS + 200 * HOUR_MS)
            batches.append(RecordBatch(topic, partition, np.arange(n), stamps, [b"k"] * n, list(found)))

    served = {}
    for step in drive(pipeline, FeaturePlan.compile(pipeline, {}, {}), batches, lambda _: None, 0):
        for offset, value in zip(step.events.offsets.tolist(), step.matrix[:, 0].tolist(), strict=True):
            served[step.partition, offset] = value
    with ScratchEngine(Secret("")) as engine:
        engine.run(
            "CREATE TABLE events (partition Int64, offset Int64, event_id String, event_time_ms Int64,"
            " merchant Nullable(String)) ENGINE = Memory"
        )
        engine.run(
            "CREATE TABLE labels (partition Int64, offset Int64, event_id String, label_time_ms Int64, label Float64)"
            " ENGINE = Memory"
        )
        engine.insert("events", events)
        engine.insert("labels", labels)
        partition, offset, value = engine.read_values(
            f"SELECT partition, offset AS seq, merchant_fraud_24h AS value FROM ({sql})"
        )
    computed = dict(zip(zip(partition.tolist(), offset.tolist(), strict=True), value.tolist(), strict=True))

    assert computed.keys() == served.keys()
    places = sorted(served)
    np.testing.assert_allclose([computed[place] for place in places], [served[place] for place in places], rtol=1e-12)
    assert np.isfinite(list(served.values())).sum() > 500
