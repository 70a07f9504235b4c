"""Cells of tiles as bytes: what is written of a store is what it holds, and comes back as it was."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.records.columns import MOST_TILE
from app.core.tiles.batch import Updates
from app.core.tiles.cells import EMPTY
from app.core.tiles.codec import TileCodec, UnreadableError
from app.core.tiles.measures import Layout
from app.core.tiles.store import TileStore, WindowRead

PLAIN = Layout((("count", None), ("sum", "amount")), ())
FULL = Layout(
    (("count", None), ("distinct", "shop"), ("sum", "amount"), ("distinct", "town")),
    (("last", "amount"), ("max", "amount")),
)
RING, RETAIN, KEYS = 4, 8, 3

#: Key, tile, shop and town (0: none), amount, whether it has a "last", and what that carries.
UPDATES = st.lists(
    st.tuples(
        st.integers(0, KEYS - 1),
        st.integers(-3, 9),
        st.sampled_from([0, 5, -6]),
        st.sampled_from([0, 7]),
        st.integers(-9, 9),
        st.booleans(),
        st.integers(0, 9),
    ),
    max_size=20,
)
Update = tuple[int, int, int, int, int, bool, int]


def store_of(layout: Layout, found: list[Update]) -> TileStore:
    store = TileStore(layout, ring=RING, retain=RETAIN)
    store.reserve_rows(KEYS)
    n = len(found)
    table = np.array(found, dtype=np.int64).reshape(-1, 7)
    key, tile, shop, town, amount, has_last, carried = table.T
    one = np.ones(n, dtype=np.int64)
    is_full = bool(layout.maxima)
    zeros = np.zeros(n, dtype=np.int64)
    store.process(
        zeros[:0],
        zeros[:0],
        Updates(
            key,
            tile,
            zeros,
            np.stack((one, zeros, amount, zeros) if is_full else (one, amount), axis=1),
            np.stack((np.where(has_last == 1, amount, EMPTY), amount), axis=1)
            if is_full
            else np.zeros((n, 0), dtype=np.int64),
            carried[:, None] if is_full else np.zeros((n, 0), dtype=np.int64),
            np.stack((shop, town), axis=1) if is_full else np.zeros((n, 0), dtype=np.int64),
        ),
        (WindowRead(RING),),
    )
    return store


def parse(row: bytes, layout: Layout) -> list[list[int]]:
    """Cells by the words of `app.core.tiles.codec`: fixed numbers, and as many hashes as the distinct counts say."""
    words, cells = list(struct.unpack(f"<{len(row) // 8}q", row)), []
    while words:
        width = 1 + len(layout.sums) + len(layout.maxima) + layout.carried
        width += sum(words[1 + column] for column, _ in layout.distinct)
        cells.append(words[:width])
        words = words[width:]
    return cells


def cells_of(store: TileStore, found: list[Update]) -> list[list[list[int]]]:
    """What each key's row should hold; values are those seen last in the tile of a cell, by hash."""
    kept = store.cells.read(np.arange(KEYS))
    newest: dict[tuple[int, int, int], int] = {}
    for at, update in enumerate(found):
        clock = max(tile for _, tile, *_ in found[: at + 1])
        for place, value in enumerate(update[2:4]):
            if value and update[1] > clock - RETAIN:
                name = (update[0], place, value)
                newest[name] = max(update[1], newest.get(name, update[1]))
    rows: list[list[list[int]]] = [[] for _ in range(KEYS)]
    for group, tile, sums, maxima, carried in zip(
        *(part.tolist() for part in (kept.group, kept.tiles, kept.sums, kept.maxima, kept.carried)), strict=True
    ):
        hashes = [
            [value for (key, at, value), last in sorted(newest.items()) if (key, at, last) == (group, place, tile)]
            for place in range(len(store.layout.distinct))
        ]
        rows[group].append([tile, *sums, *maxima, *carried, *(value for of in hashes for value in of)])
        assert [sums[column] for column, _ in store.layout.distinct] == [len(of) for of in hashes]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("layout", [PLAIN, FULL], ids=["sums", "all"])
@settings(max_examples=40)
@given(found=UPDATES)
def test_rows_are_their_cells_and_come_back_as_they_were(layout: Layout, found: list[Update]) -> None:
    store = store_of(layout, found)
    codec, every = TileCodec(store), np.array([2, 0, 1])
    rows = codec.encode_rows(every)
    plain = cells_of(store, found)
    assert [parse(row, layout) for row in rows] == [plain[key] for key in every.tolist()]
    for row in rows:
        if row:
            assert codec.tiles_of(row) == [cell[0] for cell in parse(row, layout)]
            assert codec.newest_of(row) == parse(row, layout)[-1][0]
    places = [(key, place) for key in range(KEYS) for place in range(len(plain[key]))][::-1]
    cells = codec.encode_cells(*(np.array([pair[at] for pair in places], dtype=np.int64) for at in (0, 1)))
    assert [parse(cell, layout) for cell in cells] == [[plain[key][place]] for key, place in places]

    again, piece_by_piece = (store_of(layout, []) for _ in range(2))
    held = np.array([key for key, row in zip(every.tolist(), rows, strict=True) if row], dtype=np.int64)
    for _ in range(2):  # what is there already is replaced
        TileCodec(again).insert(held, [row for row in rows if row])
    for (key, _), cell in zip(places[::-1], cells[::-1], strict=True):
        TileCodec(piece_by_piece).insert(np.array([key]), [cell])
    for other in (again, piece_by_piece):
        assert TileCodec(other).encode_rows(every) == rows


def test_a_cell_is_its_tile_sums_maxima_what_they_carry_and_hashes() -> None:
    store = store_of(FULL, [(1, 4, 5, 0, 3, True, 8), (1, 4, -6, 7, 2, True, 9)])

    cell = (4, 2, 2, 5, 1, 3, 3, 8, -6, 5, 7)
    assert TileCodec(store).encode_rows(np.array([0, 1])) == [b"", struct.pack("<11q", *cell)]


CELL = struct.pack("<8q", 4, 1, 1, 5, 0, 3, 3, 8)


@pytest.mark.parametrize(
    "value",
    [b"", CELL, CELL + bytes(4), CELL[:-8], CELL + bytes(16), struct.pack("<8q", 4, 1, -1, 5, 1, 3, 3, 8)],
    ids=["nothing", "a hash less", "half a word", "a number less", "a word more", "less than no value"],
)
@pytest.mark.parametrize("good_first", [False, True])
def test_bytes_that_are_no_cells_are_refused_and_nothing_is_changed(value: bytes, *, good_first: bool) -> None:
    store = store_of(FULL, [])
    values = [CELL + struct.pack("<q", 5)] * good_first + [value]

    with pytest.raises(UnreadableError):
        TileCodec(store).insert(np.arange(len(values)), values)

    assert TileCodec(store).encode_rows(np.arange(KEYS)) == [b""] * KEYS


@pytest.mark.parametrize("value", [b"", bytes(23), bytes(25), bytes(16)])
def test_of_sums_alone_a_value_is_a_number_of_cells_as_wide_as_all(value: bytes) -> None:
    codec = TileCodec(store_of(PLAIN, []))
    with pytest.raises(UnreadableError):
        codec.insert(np.array([0, 1]), [bytes(24), value])


@pytest.mark.parametrize("tile", [MOST_TILE, -MOST_TILE])
def test_a_tile_beyond_all_that_can_be_is_refused(tile: int) -> None:
    codec = TileCodec(store_of(PLAIN, []))
    codec.insert(np.array([0]), [struct.pack("<3q", tile, 1, 1)])
    beyond = struct.pack("<3q", tile + (1 if tile > 0 else -1), 1, 1)
    for values in ([beyond], [beyond, struct.pack("<3q", 5, 1, 1)]):
        with pytest.raises(UnreadableError):
            codec.insert(np.array([1, 2])[: len(values)], values)
    assert codec.encode_rows(np.array([1, 2])) == [b"", b""]
