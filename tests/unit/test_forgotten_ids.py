"""Ids that are remembered after their events, and the runs of hashes that hold them: against plain lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.core.intake.forgotten_ids
from app.core.intake.forgotten_ids import ForgottenIds
from app.core.records.state import FORGOTTEN_IDS
from app.core.tiles.hash_runs import HashRuns, hash64
from app.core.tiles.stored import Change

HORIZON_MS = 10
KEPT_MS = 4 * HORIZON_MS

#: Per turn: the ids and how much later they are; then an expiry so much later, or a drain.
TURNS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 7)), max_size=6),
        st.none() | st.integers(0, 40),
        st.booleans(),
    ),
    max_size=10,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(TURNS)
def test_an_id_is_remembered_for_three_more_horizons_also_after_a_restart(
    turns: list[tuple[list[tuple[str, int]], int | None, bool]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.core.intake.forgotten_ids, "FORGOTTEN_IDS", 3)
        ids, history, plain = ForgottenIds(HORIZON_MS), list[Change](), list[tuple[int, str]]()
        now_ms = watermark_ms = 0
        for added, expiry, is_drained in turns:
            expired = []
            for name, later in added:
                now_ms += later
                expired.append((now_ms, name))
            for at_ms, name in expired[::2]:
                ids.note(at_ms, name)
            assert all(ids.holds(name, at_ms + KEPT_MS) for at_ms, name in expired[::2])
            ids.add(expired[1::2])
            plain += expired
            if expiry is not None:
                watermark_ms = max(watermark_ms, now_ms + expiry)
                ids.expire(watermark_ms)
            if is_drained:
                history += ids.drain_changes()
        history += ids.drain_changes()
        assert ids.drain_changes() == []
        kept = {key: value for key, value in dict(history).items() if value is not None}
        assert sorted(ids.record_keys()) == sorted(kept)
        assert sum(map(len, kept.values())) <= 16 * (sum(at_ms >= watermark_ms - KEPT_MS for at_ms, _ in plain) + 2)
        again, piece_by_piece = ForgottenIds(HORIZON_MS), ForgottenIds(HORIZON_MS)
        again.restore([(b"eother", b"store"), *kept.items()])
        for change in history:
            piece_by_piece.restore([change])
        for store in (ids, again, piece_by_piece):
            assert sorted(store.record_keys()) == sorted(kept)
            assert store.drain_changes() == []
            for later in (0, 1, 9, KEPT_MS, KEPT_MS + 1):
                at = max(watermark_ms, now_ms) + later
                held = {name for at_ms, name in plain if at_ms >= at - KEPT_MS}
                assert {name for name in "abcdefghi" if store.holds(name, at)} == held
            store.add([(now_ms, "z")])
            changes = dict(store.drain_changes())
            assert changes
            assert all(len(value or b"") <= 16 * 3 for value in changes.values())


def test_a_restored_record_that_grew_counts_each_of_its_ids_once() -> None:
    ids, again = ForgottenIds(HORIZON_MS), ForgottenIds(HORIZON_MS)
    for at_ms in range(5):
        ids.add([(at_ms, f"id{at_ms}")])
        again.restore(ids.drain_changes())

    assert len(again._runs) == 5


@pytest.mark.parametrize("per_ms", [20, 300])
def test_memory_is_bounded_by_what_is_remembered_and_seldom_written_anew(per_ms: int) -> None:
    """Each time costs as much as there is: so an eighth of it is gone then, or more than a record's ids."""
    ids, most, times = ForgottenIds(HORIZON_MS), 0, 0
    kept = (KEPT_MS + 1) * per_ms
    for at_ms in range(100):
        ids.add([(at_ms, f"{at_ms}-{number}") for number in range(per_ms)])
        runs = ids._runs
        ids.expire(at_ms)
        times += ids._runs is not runs
        most = max(most, len(ids._runs))

    gone = 100 * per_ms - kept
    assert most <= kept * 8 // 7 + 3 * FORGOTTEN_IDS
    assert (gone > 3 * FORGOTTEN_IDS) <= times <= gone // max(FORGOTTEN_IDS, kept // 8)
    assert all(ids.holds(f"{at_ms}-7", 99) for at_ms in range(99 - KEPT_MS, 100))


@pytest.mark.slow
def test_what_can_just_be_known_is_kept_in_memory_and_in_the_changelog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.intake.forgotten_ids, "FORGOTTEN_IDS", 3)
    ids, history = ForgottenIds(HORIZON_MS), dict[bytes, bytes | None]()
    for at_ms in range(90):
        ids.add([(at_ms, f"id{at_ms}")])
        ids.expire(at_ms)
        history.update(ids.drain_changes())
        again = ForgottenIds(HORIZON_MS)
        again.restore([change for change in history.items() if change[1] is not None])
        for store in (ids, again):
            known = [store.holds(f"id{of}", at_ms) for of in range(max(0, at_ms - KEPT_MS - 1), at_ms + 1)]
            assert known == [of >= at_ms - KEPT_MS for of in range(max(0, at_ms - KEPT_MS - 1), at_ms + 1)]
        # A record is cleared when the last of its ids is not known any more.
        assert sum(len(value or b"") for value in history.values()) <= 16 * (KEPT_MS + 1 + 2)
        assert all(len(value or b"") <= 16 * 3 for value in history.values())


def test_times_end_where_they_are_said_to() -> None:
    ids = ForgottenIds(HORIZON_MS)
    ids.note(5, "noted")
    assert [ids.holds(name, 5) for name in ("noted", "other")] == [True, False]
    ids.add([(5, "a")])
    assert [ids.holds(name, 5) for name in ("noted", "other", "a")] == [True, False, True]

    assert [ids.is_known(5, at) for at in (5 + KEPT_MS, 6 + KEPT_MS)] == [True, False]
    assert [ids.holds("a", at) for at in (5 + KEPT_MS, 6 + KEPT_MS)] == [True, False]


# -- runs of hashes ----------------------------------------------------------------------------------------------------

#: Values that no float tells apart, too.
VALUES = st.integers(0, 9) | st.integers(2**60, 2**60 + 3)
HASHES = st.integers(-4, 4) | st.integers(2**60, 2**60 + 3)
BATCHES = st.lists(st.lists(st.tuples(HASHES, VALUES), max_size=12), max_size=8)


@pytest.mark.slow
@settings(max_examples=60)
@given(BATCHES)
def test_runs_are_a_bag_of_rows(batches: list[list[tuple[int, int]]]) -> None:
    runs, bare = HashRuns(2), HashRuns()
    for batch in batches:
        table = np.array(batch, dtype=np.int64).reshape(-1, 2)
        runs.add(table[:, 0], np.stack((table[:, 1], -table[:, 1])))
        bare.add(table[:, 0])
        sizes = [len(run.hashes) for run in bare._runs]
        assert all(older >= 4 * newer for older, newer in pairwise(sizes)), "a look-up goes through few runs"
    rows = sorted(row for batch in batches for row in batch)
    asked = [3, -5, 0, 4, 2**60 + 1, 3, -4]

    assert len(runs) == len(bare) == len(rows)
    hashes, (first, second) = runs.rows()
    assert sorted(zip(hashes.tolist(), first.tolist(), strict=True)) == rows
    assert (second == -first).all()
    assert sorted(bare.rows()[0].tolist()) == [hashed for hashed, _ in rows]
    assert bare.rows()[1].shape == (0, len(rows))
    for each in (runs, bare):
        assert each.has(np.array(asked)).tolist() == [hashed in {row[0] for row in rows} for hashed in asked]
    places, columns = runs.find(np.array(asked))
    assert sorted(zip(places.tolist(), columns[0].tolist(), strict=True)) == sorted(
        (place, value) for place, hashed in enumerate(asked) for row, value in rows if row == hashed
    )
    assert (columns[1] == -columns[0]).all()
    places, columns = bare.find(np.array(asked))
    assert len(places) == sum(row[0] == hashed for hashed in asked for row in rows)
    assert columns.shape == (0, len(places))


@pytest.mark.parametrize(("older", "runs"), [(8, 2), (7, 1)])
def test_a_run_is_merged_into_one_that_is_less_than_four_times_as_long(older: int, runs: int) -> None:
    found = HashRuns()
    found.add(np.arange(older))
    found.add(np.arange(2))

    assert len(found._runs) == runs
    assert len(found) == older + 2


def test_the_hash_of_a_text_is_the_same_everywhere() -> None:
    """BLAKE2b with eight bytes, read as a little-endian signed number: records hold it."""
    assert hash64(b"") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little", signed=True)
