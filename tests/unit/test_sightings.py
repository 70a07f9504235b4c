"""What is known of the values seen with a key is what a plain table of last tiles says."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.tiles import sightings
from app.core.tiles.cells import NEVER
from app.core.tiles.sightings import NO_VALUE, Hasher, Sightings

HASHES = st.sampled_from([-(2**63), -7, -1, 1, 2, 3, 2**62, 2**63 - 1])
#: A row, a value and the tile in which it was seen.
SEEN = st.lists(st.tuples(st.integers(0, 4), HASHES, st.integers(-6, 9)), max_size=25)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def columns(found: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, hashes, tiles = zip(*found, strict=True) if found else ((), (), ())
    return ints(list(rows)), ints(list(hashes)), ints(list(tiles))


def read(store: Sightings, rows: list[int]) -> list[tuple[int, int, int]]:
    group, tiles, hashes = store.read(ints(rows))
    return list(zip(group.tolist(), tiles.tolist(), hashes.tolist(), strict=True))


def written(known: dict[tuple[int, int], int], rows: list[int]) -> list[tuple[int, int, int]]:
    """By hand what `read` says; of one row and tile in any order."""
    return [(rows.index(row), tile, value) for (row, value), tile in known.items() if row in rows]


@pytest.mark.slow
@given(
    batches=st.lists(st.tuples(st.sampled_from(["see", "see", "see", "keep", "clear"]), SEEN), max_size=8),
    least=st.integers(-6, 9),
)
def test_what_was_seen_last_is_that_of_a_plain_table(
    batches: list[tuple[str, list[tuple[int, int, int]]]], least: int
) -> None:
    store, known = Sightings(), dict[tuple[int, int], int]()
    store.reserve_rows(5)
    for action, found in batches:
        rows = sorted({row for row, _, _ in found})
        if action == "see" and found:
            before = []
            for row, value, tile in found:
                before.append(known.get((row, value), NEVER))
                known[row, value] = max(before[-1], tile)
            seen, sighted = store.look(*columns(found))
            store.note(sighted)
            assert seen.tolist() == before
        elif action == "keep":
            kept = [row for row in rows if row != 2]
            store.keep(ints(rows), lambda group, tiles, rows=rows: (tiles >= least) & (ints(rows)[group] != 2))
            known = {
                place: tile
                for place, tile in known.items()
                if place[0] not in rows or (tile >= least and place[0] in kept)
            }
        elif action == "clear":
            store.clear(ints(rows))
            known = {place: tile for place, tile in known.items() if place[0] not in rows}
        for some in ([0, 1, 2, 3, 4], [1, 3], []):
            told = read(store, some)
            assert sorted(told) == sorted(written(known, some))
            assert [row_and_tile for *row_and_tile, _ in told] == sorted(row_and_tile for *row_and_tile, _ in told)


@given(found=SEEN)
def test_what_is_restored_goes_on_the_same_whatever_the_order_in_which_it_was_written(
    found: list[tuple[int, int, int]],
) -> None:
    one, other = Sightings(), Sightings()
    for store in (one, other):
        store.reserve_rows(5)
    one.restore(*columns(found))
    other.restore(*columns(found[::-1]))
    assert read(one, [0, 1, 2, 3, 4]) == read(other, [0, 1, 2, 3, 4])
    latest: dict[tuple[int, int], int] = {}
    for row, value, tile in found:
        latest[row, value] = max(latest.get((row, value), tile), tile)
    assert sorted(read(one, [0, 1, 2, 3, 4])) == sorted(written(latest, [0, 1, 2, 3, 4]))


def test_the_memory_is_at_least_that_of_a_value_and_its_tile() -> None:
    store = Sightings()
    store.reserve_rows(1)
    n = 10_000
    store.note(store.look(ints([0] * n), np.arange(n) + 1, ints([0] * n))[1])
    assert store.state_bytes >= 16 * n


# -- values as numbers -------------------------------------------------------------------------------------------------


def test_numbers_that_differ_have_numbers_that_differ_and_what_is_missing_has_none() -> None:
    values = [0.0, 1.0, -1.0, 0.5, 5e-324, -5e-324, 1.7e308, 2.0**53, 2.0**53 + 2]
    hashes = Hasher().hash(np.array([*values, -0.0, math.nan, math.inf, -math.inf])).tolist()
    assert len(set(hashes[: len(values)]) - {NO_VALUE}) == len(values)
    assert hashes[len(values) :] == [hashes[0], 0, 0, 0]  # 0, as in records of a changelog
    assert Hasher().hash(np.array([0, 1, 3])).tolist() == Hasher().hash(np.array([0.0, 1.0, 3.0])).tolist()


def texts(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=object)


@pytest.mark.parametrize("most", [0, 2, 100])
def test_a_text_has_the_same_number_in_every_process_and_batch_however_many_are_remembered(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(sightings, "_MOST_REMEMBERED", most)
    hasher = Hasher()
    batches = [["a", None, "b"], ["b", "c", "ä"], ["d", "a", None, "a"], ["e", "f", "b", None], ["a", None]]
    of: dict[str | None, int] = {}
    for batch in batches:
        for value, number in zip(batch, hasher.hash(texts(batch)).tolist(), strict=True):
            assert of.setdefault(value, number) == number == Hasher().hash(texts([value])).item()
    assert of[None] == NO_VALUE
    assert hasher.hash(texts([])).dtype == hasher.hash(texts(["a"])).dtype == np.int64
    assert len(set(of.values())) == len(of)
    digest = hashlib.blake2b("ä".encode(), digest_size=8).digest()
    assert of["ä"] == np.frombuffer(digest, "<i8").item()


def test_few_texts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sightings, "_MOST_REMEMBERED", 10)
    hasher = Hasher()
    for number in range(0, 1000, 4):
        hasher.hash(texts([f"v{number + each}" for each in range(4)]))
    assert len(hasher._known) <= 10 + 4 + 1
