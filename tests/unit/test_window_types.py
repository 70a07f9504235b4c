"""Windows over fields of every type: that a run joins no label, or has no event, changes no value and stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from shared_cluster import PARTITIONS, Cluster, Setting, collect, cut
from shared_logs import MINUTE_MS, NOW_MS, START_MS, Logs, label

from app.core.features.plan import FeaturePlan
from app.core.replay.window_sql import fields_used
from app.pipeline import new_board
from app.replay.drive import PartitionRun, drive_partitions, new_flow
from schemas.pipeline.features import FIELDLESS_AGGREGATES, SHARED_AGGREGATES
from schemas.pipeline.file import load
from schemas.pipeline.spec import Aggregate, FieldType

#: A field of each type, and one that may be null.
FIELDS = {
    f"{kind}{suffix}": f"{kind}{'?' * bool(suffix)}" for kind in get_args(FieldType) for suffix in ("", "_or_null")
}
NUMBERS = [name for name in FIELDS if not name.startswith("string")]
KEYS = [name for name in FIELDS if not name.startswith("float")]

HEAD = """
name = "cards"
partitions = 3

[model]
name = "fraud"

[events]
entity = "card"
id = "id"
time = "at"
earliest = 2020-01-01T00:00:00Z
latest = 2030-01-01T00:00:00Z

[labels]
horizon = "3h"

[events.fields]
id = "string"
card = "string"
at = "int"
"""


def of_aggregate(aggregate: str, of: str) -> list[str]:
    """What it may be of; an empty name: of the events or labels themselves."""
    if aggregate in FIELDLESS_AGGREGATES:
        return [""]
    fields = list(FIELDS) if aggregate == "distinct" else NUMBERS
    return [*fields, "label"] if of == "labels" else fields


def windows() -> list[str]:
    drawn = []
    for of in ("events", "labels"):
        for aggregate in get_args(Aggregate):
            for field in of_aggregate(aggregate, of):
                drawn.append((of, '"card"', aggregate, field, ""))
                if aggregate in SHARED_AGGREGATES:
                    more = ', delay = "10m"'
                    drawn.append((of, '"string_or_null"', aggregate, field, more))
                    drawn.append((of, '"string_or_null"', aggregate, field, more + ", repartition = true"))
        for key in KEYS:
            drawn.append((of, f'"card", "{key}"', "count", "", ""))
            drawn.append((of, f'"{key}"', "count", "", ', delay = "10m"'))
            drawn.append((of, f'"{key}"', "count", "", ', delay = "10m", repartition = true'))
    return [
        f'[[features]]\nname = "w{number}"\ntype = "float"\nwindow = {{ of = "{of}", key = [{key}], size = "2h", hop ='
        f' "10m", aggregate = "{aggregate}"{f", field = {field!r}" if field else ""}{more} }}\n'
        for number, (of, key, aggregate, field, more) in enumerate(drawn)
    ]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    path = tmp_path_factory.mktemp("types") / "cards.toml"
    fields = "".join(f'{name} = "{kind}"\n' for name, kind in FIELDS.items())
    path.write_text(HEAD + fields + "".join(windows()))
    pipeline = load(path)
    assert {field.name for field in fields_used(pipeline)} >= FIELDS.keys()
    return Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))


def event(partition: int, number: int) -> dict[str, Any]:
    values = {"string": "ab"[number % 2], "float": number / 8, "int": number % 3, "bool": number % 2 == 0}
    fields = {name: values[name.removesuffix("_or_null")] for name in FIELDS}
    for name in FIELDS:
        if name.endswith("_or_null") and number % 4 == 1:
            fields[name] = None
    at = START_MS + 7 * number * MINUTE_MS
    return {"id": f"{partition}-{number}", "card": f"c{partition}", "at": at, **fields}


def logs() -> Logs:
    """In partition 0 all is labelled, in 1 some is, in 2 nothing; the last labels come after the last event."""
    made = Logs.empty(PARTITIONS)
    for partition in range(PARTITIONS):
        made.events[partition] = [event(partition, number) for number in range(12)]
        made.labels[partition] = [
            label(f"{partition}-{number}", 7 * number + 30, number % 2)
            for number in range(12)
            if partition == 0 or (partition == 1 and number % 3 == 0)
        ]
    return made


def train(setting: Setting, topics: Logs, size: int) -> dict[tuple[int, int], list[float]]:
    board = new_board(setting.plan, range(PARTITIONS))
    runs = [
        PartitionRun(
            new_flow(setting.pipeline, setting.plan, partition, None, board=board),
            None,
            cut(topics, "events", partition, [size]),
            cut(topics, "labels", partition, [size]),
        )
        for partition in range(PARTITIONS)
    ]
    return collect(drive_partitions(runs, board, NOW_MS), slice(None))


def stream(setting: Setting, topics: Logs, most: int) -> dict[tuple[int, int], list[float]]:
    """Two workers; a crash of both in the middle, so that what waits for labels is restored from the changelog."""
    cluster = Cluster(setting, topics, [0, 1, 1], columns=slice(None))
    for _ in range(4):
        for partition in range(PARTITIONS):
            cluster.receive("labels", partition, 1)
            cluster.receive("events", partition, 1)
            cluster.step(partition, most)
            cluster.commit(partition)
        for worker in (0, 1):
            cluster.hear(worker)
        for partition in range(PARTITIONS):
            cluster.hear_questions(partition, 100)
            cluster.answer(partition)
            cluster.hear_answers(partition, 100)
    cluster.crash(0, 1)
    cluster.crash(1, 0)
    cluster.finish()
    return cluster.rows


def bits(rows: dict[tuple[int, int], list[float]]) -> dict[tuple[int, int], bytes]:
    return {place: np.array(row).tobytes() for place, row in rows.items()}


@pytest.mark.slow
def test_a_window_over_a_field_of_any_type_needs_no_label_in_a_run(setting: Setting) -> None:
    whole = train(setting, logs(), 99)
    assert len(whole) == 36
    # Every window has something to say somewhere, and null never was a value.
    assert np.isfinite(np.array(list(whole.values()))).any(axis=0).all()
    assert bits(train(setting, logs(), 1)) == bits(whole)
    assert bits(stream(setting, logs(), 1)) == bits(whole)


@pytest.mark.slow
def test_windows_of_events_that_have_no_labels_at_all(setting: Setting) -> None:
    topics = logs()
    topics.labels = [[] for _ in range(PARTITIONS)]
    whole = train(setting, topics, 99)
    assert bits(stream(setting, topics, 1)) == bits(whole)
    labels = [f.window is not None and f.window.of == "labels" for f in setting.pipeline.features]
    values = np.array(list(whole.values()))[:, labels]
    assert not np.nan_to_num(values).any()


@pytest.mark.slow
def test_a_training_set_of_a_label_window_over_a_number_is_built(tmp_path: Path) -> None:
    """The shortest file that has it: one window over an amount, and events that come before any label."""
    path = tmp_path / "cards.toml"
    path.write_text(
        HEAD + 'amount = "float"\n[[features]]\nname = "lost"\ntype = "float"\n'
        'window = { of = "labels", key = ["card"], size = "2h", hop = "10m", aggregate = "mean", field = "amount" }\n'
    )
    pipeline = load(path)
    made = Setting(pipeline, FeaturePlan.compile(pipeline, {}, {}))
    topics = Logs.empty(PARTITIONS)
    topics.events[0] = [{**event(0, n), "amount": float(n)} for n in range(4)]
    topics.labels[0] = [label("0-1", 15, 1)]
    rows = train(made, topics, 1)
    assert [row[0] for _, row in sorted(rows.items())][3] == 1.0


#: What windows are over, as fields that a producer fills in (the first), or as features made of fields.
BAND = '[[features]]\nname = "band"\ntype = "category"\nexpression = "string_or_null"\nvalues = ["a"]\n'
LARGE = '[[features]]\nname = "large"\ntype = "bool"\nexpression = "float > 0.9"\n'
LOSS = '[[features]]\nname = "loss"\ntype = "float"\nexpression = "-float_or_null / rest"\n'
REST = '[[features]]\nname = "rest"\ntype = "int"\npython = "own.py:rest"\narguments = ["int_or_null"]\n'
COMPUTED = {"band": BAND, "large": LARGE, "loss": LOSS, "rest": REST}


def with_computed(value: dict[str, Any]) -> dict[str, Any]:
    """The event with what the features above are. 2 is even: the function says -0.0 of it, which is the key 0."""
    text, whole, number = value["string_or_null"], value["int_or_null"], value["float_or_null"]
    rest = None if whole is None else whole % 2
    return {
        **value,
        "band": None if text is None else int(text != "a"),
        "large": value["float"] > 0.9,
        "rest": rest,
        "loss": None if number is None or not rest else -number / rest,
    }


@pytest.mark.slow
def test_a_window_over_a_feature_is_the_window_over_a_field_that_holds_the_same(tmp_path: Path) -> None:
    tables = ""
    for number, (of, key, aggregate, field, more) in enumerate(
        (of, key, aggregate, field, more)
        for of in ("events", "labels")
        for key, more in (
            ('"card"', ""),
            ('"card", "band", "rest"', ""),
            ('"band"', ', delay = "10m"'),
            ('"large", "rest"', ', delay = "10m", repartition = true'),
        )
        for aggregate, field in (
            ("count", ""),
            ("sum", "loss"),
            ("mean", "large"),
            ("max", "loss"),
            ("distinct", "band"),
        )
        if not more or aggregate in SHARED_AGGREGATES
    ):
        named = f", field = {field!r}" if field else ""
        tables += (
            f'[[features]]\nname = "w{number}"\ntype = "float"\nwindow = {{ of = "{of}", key = [{key}], size = "2h",'
            f' hop = "10m", aggregate = "{aggregate}"{named}{more} }}\n'
        )
    tables += '[[features]]\nname = "ratio"\ntype = "float"\nexpression = "loss / w1 + (where(large, w3, rest) + 0)"\n'
    head = HEAD + "".join(f'{name} = "{kind}"\n' for name, kind in FIELDS.items())
    (tmp_path / "own.py").write_text("import numpy as np\n\n\ndef rest(x):\n    return np.copysign(x % 2, 1 - x)\n")
    computed = Setting.write(tmp_path / "cards.toml", head + tables + "".join(COMPUTED.values()))
    fields = 'band = "int?"\nlarge = "bool"\nrest = "int?"\nloss = "float?"\n'
    given = Setting.write(tmp_path / "given.toml", head + fields + tables)
    topics, filled = logs(), logs()
    filled.events = [[with_computed(value) for value in values if value is not None] for values in topics.events]
    whole = train(given, filled, 99)
    width = len(given.pipeline.features)
    assert np.isfinite(np.array(list(whole.values()))).any(axis=0).mean() > 0.9
    for size in (1, 99):
        rows = train(computed, topics, size)
        assert bits({place: row[:width] for place, row in rows.items()}) == bits(whole)
    assert bits({place: row[:width] for place, row in stream(computed, topics, 3).items()}) == bits(whole)
