"""Codes of window keys, beside a dictionary; keys and columns of records, up to what can just be."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from app.core.records.columns import most_tile, read_column, read_keys
from app.core.tiles.keys import NULL, UNKNOWN, KeyIndex
from schemas.refusal import RefusedRecordError


def columns_of(rows: list[tuple[Any, ...]]) -> list[np.ndarray]:
    """Texts and numbers as events have them: None, or NaN, for null."""
    shops, towns = ([row[at] for row in rows] for at in (0, 1))
    numbers = [math.nan if town is None else float(town) for town in towns]
    return [np.array(shops, dtype=object), np.array(numbers, dtype=np.float64)]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_each_key_has_one_code_until_it_is_removed_and_codes_stay_dense(seed: int, size: int) -> None:
    chance, index = np.random.default_rng(seed), KeyIndex()
    codes: dict[tuple[Any, ...], int] = {}
    most = 0
    for _ in range(60):
        rows = [
            (
                None if chance.random() < 0.1 else f"s{chance.integers(5)}",
                None if chance.random() < 0.1 else int(chance.integers(4)),
            )[:size]
            for _ in range(int(chance.integers(0, 6)))
        ]
        columns = columns_of([(*row, 0) for row in rows])[:size] if size == 1 else columns_of(rows)
        expected = [NULL if None in row else codes.get(row, UNKNOWN) for row in rows]
        new = list(dict.fromkeys(row for row, code in zip(rows, expected, strict=True) if code == UNKNOWN))
        assert index.find(columns).tolist() == expected
        assert [key if isinstance(key, tuple) else (key,) for key in index.unknown(columns)] == new
        if chance.random() < 0.7:
            found = index.find_or_add(columns).tolist()
            for row, code in zip(rows, found, strict=True):
                assert (code == NULL) == (None in row)
                if None not in row:
                    assert codes.setdefault(row, code) == code
        elif codes:
            gone = list(codes)[int(chance.integers(len(codes)))]
            index.remove(codes.pop(gone))
        most = max(most, len(codes))
        assert len(index) == len(codes)
        assert index.capacity == most
        assert len(set(codes.values())) == len(codes)
        assert sorted(index.in_use().tolist()) == sorted(codes.values())
        assert index.in_use().dtype == np.int64
        encoded = [
            msgspec.msgpack.encode([float(part) if at else part for at, part in enumerate(key)]) for key in codes
        ]
        assert index.encoded_all(np.array(list(codes.values()), dtype=np.int64)) == encoded
        for key, of in zip(codes, encoded, strict=True):
            assert index.encoded(codes[key]) == of
            assert index.has_encoded(of)
            assert index.add_encoded(of) == codes[key]
            assert index.encode(index.decode(of)) == of
        assert not index.has_encoded(msgspec.msgpack.encode(["nowhere", 1.0][:size]))


def test_a_key_read_as_bytes_is_that_of_an_event() -> None:
    index = KeyIndex()
    assert index.add_encoded(msgspec.msgpack.encode(["a"])) == 0
    assert index.add_encoded(msgspec.msgpack.encode(["a", 2.0])) == 1
    assert (index.add("a"), index.add(("a", 2)), index.add("b")) == (0, 1, 2)
    assert index.find([np.array(["b", None, "c"], dtype=object)]).tolist() == [2, NULL, UNKNOWN]
    index.remove(0)
    index.remove(1)
    assert (index.add("x"), index.add("y"), index.add("z")) == (1, 0, 3)


def i8(*values: int) -> bytes:
    return np.array(values, dtype="<i8").tobytes()


def test_a_column_is_so_many_numbers_within_its_bounds() -> None:
    assert read_column(i8(-(2**62), 5, 2**62), 3, "x").tolist() == [-(2**62), 5, 2**62]
    assert read_column(i8(7), 1, "x", 7, 7).tolist() == [7]
    assert read_column(b"", 0, "x").tolist() == []
    assert read_column(i8(2, 3), 2, "x", 2, 3).dtype == np.int64
    for data, n, low, high, reason in (
        (i8(1, 2), 1, 0, 9, "inconsistent"),
        (i8(1)[:7], 1, 0, 9, "inconsistent"),
        (b"", 1, 0, 9, "inconsistent"),
        (i8(1, 2, 4), 3, 2, 9, "out_of_range"),
        (i8(4, 9, 10), 3, 2, 9, "out_of_range"),
    ):
        with pytest.raises(RefusedRecordError) as refused:
            read_column(data, n, "x", low, high)
        assert refused.value.reason == reason
    for beyond in (2**62 + 1, -(2**62) - 1):
        with pytest.raises(RefusedRecordError, match=f"x are from {beyond} to {beyond}"):
            read_column(i8(beyond), 1, "x")


def test_the_last_tile_is_as_long_after_1970_whatever_its_length() -> None:
    assert [most_tile(hop_ms) for hop_ms in (1, 1000, 2**44, 2**44 + 1)] == [2**44, 2**44 // 1000, 1, 0]


def test_keys_of_records_have_as_many_values_as_their_window_has_fields() -> None:
    one, two = (
        [msgspec.msgpack.encode(values) for values in rows] for rows in ([["a"], [1.5]], [["a", 1], [True, "b"]])
    )
    assert read_keys(one, 1) == ["a", 1.5]
    assert read_keys(two, 2) == [("a", 1), (True, "b")]
    assert [type(value) for value in read_keys(two, 2)[0]] == [str, int]  # what names it in a changelog is the same
    assert read_keys([], 1) == read_keys([], 2) == []
    for keys, size in ((one, 2), (two, 1), ([*one, two[0]], 1), ([two[0], one[0]], 2), ([b"\xc1"], 1)):
        with pytest.raises(RefusedRecordError):
            read_keys(keys, size)
