"""Windows shared between partitions: what an event sees follows from the logs alone, however they are read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_cluster import PARTITIONS, Cluster, Setting, act, bits, busy_logs, collect, cut, naive
from shared_logs import NOW_MS, Logs, event, label

from app.pipeline import new_board
from app.replay.drive import PartitionRun, drive, drive_partitions, new_flow


@pytest.fixture(
    scope="module",
    params=["nnnnn", "yyyyy", "nynyy"],
    ids=["all keys in each worker", "keys divided", "some keys divided"],
)
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.read(tmp_path_factory.mktemp("shared"), request.param)


MINUTES = st.integers(0, 300)
NUMBERS = st.integers(0, 5)
SHOPS = st.sampled_from([None, "a", "b"])
AMOUNTS = st.none() | st.integers(-8, 8).map(lambda eighths: eighths / 8)
EVENTS = st.lists(
    st.none() | st.builds(lambda n, *rest: event(f"e{n}", *rest), NUMBERS, MINUTES, SHOPS, AMOUNTS), max_size=12
)
LABELS = st.lists(
    st.none() | st.builds(lambda n, minute, value: label(f"e{n}", minute, value), NUMBERS, MINUTES, st.integers(0, 1)),
    max_size=8,
)
LOGS = st.builds(
    Logs,
    events=st.lists(EVENTS, min_size=PARTITIONS, max_size=PARTITIONS),
    labels=st.lists(LABELS, min_size=PARTITIONS, max_size=PARTITIONS),
)


# -- replays -----------------------------------------------------------------------------------------------------------


def replay(setting: Setting, logs: Logs, sizes: list[int]) -> dict[tuple[int, int], list[float]]:
    board = new_board(setting.plan, range(PARTITIONS))
    runs = [
        PartitionRun(
            new_flow(setting.pipeline, setting.plan, partition, None, board=board),
            None,
            cut(logs, "events", partition, sizes),
            cut(logs, "labels", partition, sizes),
        )
        for partition in range(PARTITIONS)
    ]
    return collect(drive_partitions(runs, board, NOW_MS))


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4)
LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)


@pytest.mark.slow
@LAW
@given(logs=LOGS, sizes=SIZES)
def test_a_replay_gives_what_the_definition_says(setting: Setting, logs: Logs, sizes: list[int]) -> None:
    assert bits(replay(setting, logs, sizes)) == bits(naive(logs))


@pytest.mark.slow
@LAW
@given(logs=LOGS, sizes=SIZES, choices=st.lists(st.integers(0, 2 * PARTITIONS - 1), max_size=40))
def test_batches_may_come_in_any_order(setting: Setting, logs: Logs, sizes: list[int], choices: list[int]) -> None:
    feeds = [cut(logs, kind, partition, sizes) for kind in ("labels", "events") for partition in range(PARTITIONS)]
    batches = [batch for choice in choices if (batch := next(feeds[choice], None)) is not None]
    batches += [batch for feed in feeds for batch in feed]
    steps = drive(setting.pipeline, setting.plan, batches, lambda _: None, NOW_MS)
    assert bits(collect(steps)) == bits(naive(logs))


@pytest.mark.slow
@LAW
@given(seed=st.integers(0, 2**32 - 1))
def test_any_number_of_workers_that_die_at_any_point_give_what_the_definition_says(setting: Setting, seed: int) -> None:
    generator = np.random.default_rng(seed)
    cluster = Cluster(setting, busy_logs(generator), generator.integers(0, 3, size=PARTITIONS).tolist())
    for _ in range(150):
        act(cluster, generator, may_crash=True)
    cluster.finish()
    assert bits(cluster.rows) == bits(naive(cluster.logs))


@pytest.mark.slow
@LAW
@given(seed=st.integers(0, 2**32 - 1), sizes=SIZES)
def test_a_busy_replay_gives_what_the_definition_says(setting: Setting, seed: int, sizes: list[int]) -> None:
    logs = busy_logs(np.random.default_rng(seed))
    found = replay(setting, logs, sizes)
    assert bits(found) == bits(naive(logs))
    assert any(value > 0 for row in found.values() for value in row)
