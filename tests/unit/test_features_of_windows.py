"""Features made of windows: those of payments against plain loops, and any of them however the logs are read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from payments import FEATURES, HOUR_MS, PARTITIONS, START_MS, Payments, Row, make_payments, recompute
from shared_cluster import Cluster, Setting, act, busy_logs, collect, cut, specification
from shared_logs import NOW_MS, Logs

from app.adapters.recordings.file import EVENTS, LABELS, Recording, RecordingWriter, describe
from app.adapters.sources.features import compile_features
from app.adapters.sources.source import Partitioner, cut_batches, cut_with_promises, read_source
from app.core.batches import Floats
from app.flow.step import Step
from app.pipeline import new_board
from app.replay.drive import PartitionRun, drive_partitions, new_flow
from app.replay.offline import run, run_recording
from app.replay.training_set import build_training_set
from schemas.pipeline.file import load
from schemas.pipeline.spec import Pipeline

END_MS = 2**42
DOCS = Path(__file__).resolve().parents[2] / "docs" / "pipeline-file.md"


@pytest.fixture(scope="module")
def payments() -> Payments:
    return make_payments(seed=1, n=400, minutes=12)


@pytest.fixture(scope="module")
def expected(payments: Payments) -> tuple[dict[str, Row], set[str]]:
    return recompute(payments)


@pytest.fixture(scope="module")
def pipeline(payments: Payments, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load(payments.write(tmp_path_factory.mktemp("payments") / "payments.toml"))


def bits(row: Row | Floats | list[float]) -> bytes:
    values = [row[name] for name in FEATURES] if isinstance(row, dict) else row
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64).tobytes()


def check(steps: list[Step], expected: tuple[dict[str, Row], set[str]]) -> None:
    rows, failed = expected
    served = {name: bits(row) for step in steps for name, row in zip(step.events.event_id, step.matrix, strict=True)}
    assert served == {name: bits(row) for name, row in rows.items() if name not in failed}
    letters = [letter for step in steps for letter in step.dead_letters]
    assert {letter.reason for letter in letters} == {"derived_feature"}
    assert len(letters) == len(failed)


def test_the_loops_have_much_to_say(expected: tuple[dict[str, Row], set[str]]) -> None:
    rows, failed = expected
    values = np.array([[np.nan if row[name] is None else row[name] for name in FEATURES] for row in rows.values()])
    known = np.isfinite(values).mean(axis=0)
    assert (known > 0.4).all(), dict(zip(FEATURES, known.tolist(), strict=True))
    assert 3 < len(failed) < 80
    assert set(values[:, FEATURES.index("kind")].tolist()) == {0, 1, 2, 3}
    unusual = values[:, FEATURES.index("unusual")]
    assert set(unusual[np.isfinite(unusual)].tolist()) == {0, 1}


@pytest.mark.slow
def test_a_run_over_the_source_gives_what_plain_loops_give(
    pipeline: Pipeline, expected: tuple[dict[str, Row], set[str]]
) -> None:
    log = cut_with_promises(read_source(pipeline, None, None), pipeline)
    check(list(run(pipeline, compile_features(pipeline), log, None)), expected)


def test_a_replay_gives_what_plain_loops_give(
    pipeline: Pipeline, expected: tuple[dict[str, Row], set[str]], tmp_path: Path
) -> None:
    with RecordingWriter(tmp_path / "day.parquet", describe(pipeline, 0)) as writer:
        for batch in cut_batches(read_source(pipeline, None, None), pipeline):
            writer.add(EVENTS if batch.topic == pipeline.topics.events else LABELS, batch)
    recording = Recording(tmp_path / "day.parquet")
    check(list(run_recording(pipeline, compile_features(pipeline), recording, lambda _: None)), expected)


@pytest.mark.slow
def test_a_training_set_has_the_labelled_payments_that_have_a_vector(
    pipeline: Pipeline, payments: Payments, expected: tuple[dict[str, Row], set[str]]
) -> None:
    rows, failed = expected
    data = build_training_set(pipeline, None, 0, END_MS)
    labels = {name: value for name, value, _ in payments.labels if name not in failed}
    assert dict(zip(data.event_id, data.labels.tolist(), strict=True)) == labels
    for name, row in zip(data.event_id, data.matrix, strict=True):
        assert bits(row) == bits(rows[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 50])
def test_a_stream_whose_workers_die_gives_what_plain_loops_give(
    pipeline: Pipeline, payments: Payments, expected: tuple[dict[str, Row], set[str]], most: int
) -> None:
    logs, names, partition_of = Logs.empty(PARTITIONS), {}, Partitioner(PARTITIONS)
    for kind, key, _, value in payments.records():
        log = (logs.events if kind == "event" else logs.labels)[partition_of(key.encode())]
        if kind == "event":
            names[partition_of(key.encode()), 2 * len(log)] = value["payment_id"]
        log.append(value)
    cluster = Cluster(Setting(pipeline, compile_features(pipeline)), logs, [0, 1, 1], columns=slice(None))
    for number in range(12):
        for partition in range(PARTITIONS):
            cluster.receive("labels", partition, 10)
            cluster.receive("events", partition, 9)
            for _ in range(3):
                cluster.step(partition, most)
            cluster.commit(partition)
            cluster.hear_questions(partition, 100)
            cluster.answer(partition)
            cluster.hear_answers(partition, 100)
        for worker in set(cluster.owners):
            cluster.hear(worker)
        if number % 3 == 2:
            cluster.crash(cluster.owners[number % PARTITIONS], number % 2)
    cluster.finish()
    rows, failed = expected
    served = {names[place]: bits(row) for place, row in cluster.rows.items()}
    assert served == {name: bits(row) for name, row in rows.items() if name not in failed}


def test_the_documented_fraud_features_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8")
    head = re.search(r"^```toml\n(\[events\].*?)```", text, re.MULTILINE | re.DOTALL)
    section = text.partition("### Features made of windows")[2]
    features, rules = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL) for kind in ("toml", "python"))
    assert head is not None
    assert features is not None
    assert rules is not None
    (tmp_path / "fraud_rules.py").write_text(rules[1])
    path = tmp_path / "cards.toml"
    path.write_text('name = "cards"\npartitions = 3\n[model]\nname = "m"\n' + head[1] + features[1])
    # Two of 8 and 12 at noon, then 50 as a travel: mean 10, variance 8. At the travel agency 100 had been spent before.
    noon = START_MS + 12 * HOUR_MS
    logs = Logs.empty(PARTITIONS)
    logs.events[0] = [
        {"payment_id": f"p{number}", "card": card, "at_ms": noon + at, "amount": amount, "merchant": merchant}
        for number, (card, at, amount, merchant) in enumerate(
            [("b", 0, 100.0, "travel"), ("a", 1, 8.0, "fuel"), ("a", 2, 12.0, None), ("a", 3 * HOUR_MS, 50.0, "travel")]
        )
    ]
    rows = replay(Setting.write(path, path.read_text()), logs, 1)
    names = load(path).feature_names
    first, last = (dict(zip(names, rows[0, offset], strict=True)) for offset in (2, 6))
    assert last == {
        "to_usual": 5,
        "burst": 0,
        "z": 40 / np.sqrt(8),
        "card_to_merchant": 10 / 100,
        "is_odd": 1,
        "rules": 0.5 * 40 / np.sqrt(8),
        "amount_mean_7d": 10,
        "amount_variance_7d": 8,
        "count_7d": 2,
        "count_1h": 0,
        "merchant_mean_24h": 100,
    }
    # The first payment of a card: no mean, no share, and a rule that knows nothing.
    assert [first[name] for name in ("count_7d", "count_1h", "rules")] == [0, 0, 0]
    assert np.isnan([first[name] for name in ("to_usual", "burst", "z", "card_to_merchant", "is_odd")]).all()


# -- any features, any windows ---------------------------------------------------------------------------------------

#: How a feature is made of numbers a and b, a text t and the event time; "python" fails where a is 3.
NUMBERS = (
    "{a} / {b}", "{a} - {b}", "{a} * {b} + amount", "minimum({a}, {b})", "coalesce({a}, {b})", "sqrt(abs({a})) / 3",
    "{a} if {t} == 'a' else {b}", "where({a} > {b}, {a}, 2)", "hour(event_time, 'UTC') % 5 + {a}", "{a} // {b}",
    "isnull({a}) + {b}", "({a} > 1 and {b} < 2) + 0.5", "python",
)  # fmt: skip  # one a word
TEXTS = ("{t} if {a} > 0.5 else 'b'", "where({a} < {b}, {t}, 'a')", "coalesce({t}, 'none')")

OWN = """
import numpy as np


def pick(a, b, time):
    if (a == 3).any():
        raise ValueError("three")
    return np.where(time // 60_000 % 2 == 0, a, b + 1)
"""


def draw_features(generator: np.random.Generator) -> str:
    """Features of which each is made of windows, fields and those drawn before it, in any order of the file."""
    tables = specification("".join(generator.choice(["y", "n"], 5))).split("[[features]]")
    head, windows = tables[0], tables[1:]
    numbers = ["tries", "dear", "over0", "over1", *(table.split('"')[1] for table in windows)]
    texts = ["shop", "street"]
    features = list(windows)
    for at in range(int(generator.integers(2, 9))):
        a, b, t = generator.choice(numbers), generator.choice(numbers), generator.choice(texts)
        is_text = generator.random() < 0.2
        how = str(generator.choice(TEXTS if is_text else NUMBERS)).format(a=a, b=b, t=t)
        made = f'expression = "{how}"'
        if how == "python":
            made = f'python = "own.py:pick"\narguments = ["{a}", "{b}", "event_time"]'
        more = '\nvalues = ["a", "b"]' if is_text else ""
        (texts if is_text else numbers).append(f"d{at}")
        features.append(f'\nname = "d{at}"\ntype = "{"category" if is_text else "float"}"\n{made}{more}\n')
    # Features that the event alone decides, and windows over them.
    features.append('\nname = "dear"\ntype = "bool"\nexpression = "amount > 0.25"\n')
    features.append('\nname = "street"\ntype = "category"\nexpression = "shop"\nvalues = ["a"]\n')
    for number, (of, key, more) in enumerate(
        (("events", '"card", "street"', ""), ("labels", '"street"', ', delay = "5m", repartition = true'))
    ):
        window = f'of = "{of}", key = [{key}], size = "1h", hop = "5m", aggregate = "mean", field = "dear"{more}'
        features.append(f'\nname = "over{number}"\ntype = "float"\nwindow = {{ {window} }}\n')
    generator.shuffle(features)
    return "[[features]]".join([head.replace('town = "int?"', 'town = "int?"\ntries = "int?"'), *features])


def replay(setting: Setting, logs: Logs, size: int) -> dict[tuple[int, int], list[float]]:
    board = new_board(setting.plan, range(PARTITIONS))
    runs = [
        PartitionRun(
            new_flow(setting.pipeline, setting.plan, partition, None, board=board),
            None,
            cut(logs, "events", partition, [size]),
            cut(logs, "labels", partition, [size]),
        )
        for partition in range(PARTITIONS)
    ]
    return collect(drive_partitions(runs, board, NOW_MS), slice(None))


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_is_made_of_windows_is_the_same_one_by_one_in_batches_and_after_crashes(
    tmp_path: Path, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    (tmp_path / "own.py").write_text(OWN)
    setting = Setting.write(tmp_path / "cards.toml", draw_features(generator))
    logs = busy_logs(generator)
    one_by_one = {place: bits(row) for place, row in replay(setting, logs, 1).items()}
    assert {place: bits(row) for place, row in replay(setting, logs, 99).items()} == one_by_one
    cluster = Cluster(setting, logs, generator.integers(0, 3, size=PARTITIONS).tolist(), columns=slice(None))
    for _ in range(100):
        act(cluster, generator, may_crash=True)
    cluster.finish()
    assert {place: bits(row) for place, row in cluster.rows.items()} == one_by_one
