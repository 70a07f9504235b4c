"""The parts of repartitioned windows: sums by key and tile, records in pieces, terms, and what may be deleted."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_cluster import PARTITIONS, Cluster, Setting, act, bits, busy_logs, naive
from shared_logs import Logs, event

from app.core.batches import Ints
from app.core.shared import tile_sums as repartition_sums
from app.core.shared.asker import Asker
from app.core.shared.tile_sums import TileSums, TooManyKeysError
from schemas.wire import RepartitionRecord


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.read(tmp_path_factory.mktemp("repartition"), "yyyyy")


def ints(*values: int) -> Ints:
    return np.array(values, dtype=np.int64)


def read(cluster: Cluster, partition: int, count: int) -> None:
    """Read events that need not wait for labels."""
    merge = cluster.flows[partition].merge
    cluster.receive("events", partition, count)
    merge.let_go(merge.events_received)


# -- sums ------------------------------------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 30), st.integers(0, 2), st.integers(-9, 9)), min_size=1)


@given(batches=st.lists(ROWS, min_size=1, max_size=8), size=st.integers(1, 12), floor=st.integers(-5, 10))
def test_a_window_is_the_sum_of_its_tiles_however_they_came(
    batches: list[list[tuple[int, int, int, int]]], size: int, floor: int
) -> None:
    sums = TileSums()
    for number, rows in enumerate(batches):
        codes, tiles, counts, totals = np.array(rows, dtype=np.int64).T
        sums.add(codes, tiles, np.stack((counts, totals)))
        if number % 2:
            len(sums)  # settles
    sums.drop_before(floor)
    asked = [(code, newest) for code in range(5) for newest in range(-8, 34)]
    found = sums.read(*np.array(asked, dtype=np.int64).T, size)
    kept = [row for rows in batches for row in rows if row[1] >= floor]
    expected = [
        [
            sum(row[2 + column] for row in kept if row[0] == code and newest - size < row[1] <= newest)
            for column in (0, 1)
        ]
        for code, newest in asked
    ]
    assert found.T.tolist() == expected
    marks = np.ones(4, dtype=bool)
    sums.unmark(marks)
    assert set(np.flatnonzero(~marks).tolist()) == {row[0] for row in kept}


def test_keys_of_one_partition_have_a_stated_bound() -> None:
    with pytest.raises(TooManyKeysError, match="more partitions"):
        TileSums().add(ints(repartition_sums._MOST_KEYS), ints(0), np.ones((2, 1), dtype=np.int64))


# -- records -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_too_much_for_a_record_goes_in_pieces_and_the_times_with_the_last(setting: Setting) -> None:
    plan = setting.plan.shared.repartitioned()
    asker = Asker(plan, "set", 0, 2, 7)
    logs = Logs.empty(PARTITIONS)
    logs.events[0] = [event(f"e{n}", 1, f"a shop with a long name, number {n}", 1.0) for n in range(20_000)]
    whole = Cluster(setting, logs, [0] * PARTITIONS)
    read(whole, 0, 20_000)
    whole.step(0, 1)
    whole.commit(0)
    asked = [msgspec.msgpack.decode(value, type=RepartitionRecord) for _, log in whole.asked for value in log]
    assert sum(len(q.keys) for record in asked for q in record.questions) == 2 * 20_000  # two keys each
    assert max(len(value) for _, log in whole.asked for value in log) < 400_000
    for _, log in whole.asked:
        records = [msgspec.msgpack.decode(value, type=RepartitionRecord) for value in log]
        assert len(records) > 3
        assert [record.sequence for record in records] == list(range(len(records)))
        assert [record.added_ms > 0 for record in records] == [False] * (len(records) - 1) + [True]
    assert asker.drain(5, 4, 3) != []  # times alone go to all
    assert asker.drain(5, 4, 3) == []


def test_all_partitions_hear_the_times_even_when_they_get_nothing_else(setting: Setting) -> None:
    asker = Asker(setting.plan.shared.repartitioned(), "set", 1, 4, 7)
    records = [(to, msgspec.msgpack.decode(value, type=RepartitionRecord)) for to, value in asker.drain(50, 40, 3)]
    assert records == [(to, RepartitionRecord("set", 1, 7, 0, 50, 40, 3, [], [])) for to in range(4)]


# -- terms -------------------------------------------------------------------------------------------------------------


def test_a_state_that_was_lost_is_made_up_for_by_a_new_term(setting: Setting) -> None:
    """The owner adds everything from the committed offsets on again: what it had added ahead of them must go."""
    logs = Logs.empty(PARTITIONS)
    for partition in range(PARTITIONS):
        logs.events[partition] = [event(f"e{n}", 4 * n, "a", 1.0) for n in range(40)]
    cluster = Cluster(setting, logs, [0, 1, 2])
    for partition in range(PARTITIONS):
        read(cluster, partition, 30)
        cluster.step(partition, 1)
        cluster.commit(partition)
    assert cluster.offsets[0] == (0, 0)  # added, asked, and nothing scored
    cluster.state[0].clear()
    cluster.crash(0, 3)
    cluster.finish()
    expected = naive(logs)
    assert bits(cluster.rows) == bits(expected)


# -- events without a key ----------------------------------------------------------------------------------------------


def test_an_event_without_a_key_waits_for_no_answer(setting: Setting) -> None:
    logs = Logs.empty(PARTITIONS)
    logs.events[0] = [event("e0", 1, None, 1.0)]
    logs.events[1] = [event("e1", 500, None, 1.0)]
    cluster = Cluster(setting, logs, [0, 1, 2])
    cluster.finish()
    assert bits(cluster.rows) == bits(naive(logs))
    assert len(cluster.rows) == 2


# -- events that did not wait ------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_events_that_wait_no_longer_lack_their_values_and_those_after_them_have_theirs(
    setting: Setting, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    cluster = Cluster(setting, busy_logs(generator), generator.integers(0, 3, size=PARTITIONS).tolist())
    for _ in range(150):
        act(cluster, generator, may_crash=True)
        partition = int(generator.integers(PARTITIONS))
        shared = cluster.flows[partition].shared
        if shared is not None and shared.is_blocked and generator.random() < 0.2:
            shared.held.let_go(shared.held.received)
            cluster.step(partition, 2)
    cluster.finish()
    expected = naive(cluster.logs)
    assert cluster.rows.keys() == expected.keys()
    for place, row in cluster.rows.items():
        if place not in cluster.stale:
            assert bits({place: row}) == bits({place: expected[place]})
        else:
            assert all(np.isnan(value) or value == other for value, other in zip(row, expected[place], strict=True))


# -- deletion ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_nobody_needs_any_more_is_deleted(setting: Setting) -> None:
    logs = Logs.empty(PARTITIONS)
    for partition in range(PARTITIONS):
        logs.events[partition] = [event(f"e{n}", 5 * n, "ab"[n % 2], 1.0) for n in range(300)]
    cluster = Cluster(setting, logs, [0, 1, 1])
    for start in range(0, 300, 5):
        for partition in range(PARTITIONS):
            read(cluster, partition, 5)
            cluster.step(partition, 10)
            cluster.commit(partition)
        for worker in set(cluster.owners):
            cluster.hear(worker)
        for partition in range(PARTITIONS):
            cluster.hear_questions(partition, 100)
            cluster.answer(partition)
        for partition in range(PARTITIONS):
            cluster.hear_answers(partition, 100)
            cluster.step(partition, 10)
            cluster.delete(partition)
        if start == 200:
            cluster.crash(1, 2)
    # 25 minutes of events a round, and windows reach 3 hours back: some ten rounds are kept.
    assert all(len(log) < PARTITIONS * 20 for _, log in cluster.asked)
    assert all(first > 100 for first, _ in cluster.asked)
    assert any(len(log) < 20 < first for first, log in cluster.answers)
    assert all(answerer.entries() < 2_000 for answerer in cluster.answerers.values())
    cluster.finish()
    assert bits(cluster.rows) == bits(naive(logs))
