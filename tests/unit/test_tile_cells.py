"""Laws of the cells of tiles: whatever is added and cleared, what is read is what plain dicts hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.tiles.cells import EMPTY, NEVER, Cells, TileCells

ROWS = 4
SUMS, MAXIMA, CARRIED = 2, 2, 1

#: Row, tile, two sums, two maxima and what the first of them carries.
Cell = tuple[int, int, int, int, int, int, int]
NUMBERS = st.integers(-3, 3)
#: Floats as ordered integers are as large: neighbours differ in their last bit.
LARGE = st.integers(2**60 - 2, 2**60 + 2)
CELL = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.integers(-2, 25),
    NUMBERS,
    NUMBERS,
    st.just(EMPTY) | NUMBERS,
    NUMBERS | LARGE,
    st.integers(1, 9),
)
#: What is added at once (of one row and tile, the first), or rows that are cleared.
Turn = list[Cell] | set[int]
TURNS = st.lists(
    st.lists(CELL, min_size=1, max_size=9) | st.sets(st.integers(0, ROWS - 1), min_size=1), min_size=1, max_size=9
)
#: Tiles as they come as a rule: each batch a little later than the one before, a few cells at a time.
IN_ORDER = st.lists(st.lists(CELL, min_size=1, max_size=6), min_size=4, max_size=14).map(
    lambda turns: [[(row, 4 * at + tile % 6, *of) for row, tile, *of in turn] for at, turn in enumerate(turns)]
)
BOUNDS = range(-4, 64)


def cells_of(batch: list[Cell]) -> tuple[np.ndarray, Cells]:
    """Rows, ascending, and the cells of a batch."""
    ordered = sorted({cell[:2]: cell for cell in reversed(batch)}.values())
    rows, group = np.unique([cell[0] for cell in ordered], return_inverse=True)
    table = np.array(ordered, dtype=np.int64).reshape(-1, 7)
    return rows, Cells(group, table[:, 1], table[:, 2:4], table[:, 4:6], table[:, 6:])


@dataclass
class PlainCells:
    """Per row and tile: sums, maxima and what is carried."""

    cells: dict[tuple[int, int], tuple[list[int], list[int], list[int]]] = field(default_factory=dict)

    def add(self, batch: list[Cell]) -> None:
        for row, tile, *sums, largest, other, carried in {cell[:2]: cell for cell in reversed(batch)}.values():
            old = self.cells.get((row, tile), ([0, 0], [EMPTY, EMPTY], [0]))
            self.cells[row, tile] = (
                [a + b for a, b in zip(old[0], sums, strict=True)],
                [max(old[1][0], largest), max(old[1][1], other)],
                [carried] if largest >= old[1][0] else old[2],
            )

    def of(self, row: int) -> list[tuple[int, list[int], list[int], list[int]]]:
        return [(tile, *cell) for (owner, tile), cell in sorted(self.cells.items()) if owner == row]


def fill(turns: list[Turn], ring: int | None) -> tuple[TileCells, PlainCells]:
    cells, plain = TileCells(SUMS, MAXIMA, CARRIED, ring), PlainCells()
    cells.reserve_rows(ROWS)
    for turn in turns:
        if isinstance(turn, set):
            cells.clear(np.array(sorted(turn)))
            plain.cells = {place: cell for place, cell in plain.cells.items() if place[0] not in turn}
            continue
        dropped = cells.add(*cells_of(turn))
        plain.add(turn)
        for row, tile in zip(*(found.tolist() for found in dropped), strict=True):
            assert ring is not None
            assert tile <= max(at for owner, at in plain.cells if owner == row) - ring
            del plain.cells[row, tile]
    return cells, plain


@pytest.mark.slow
@settings(max_examples=40)
@given(TURNS | IN_ORDER, st.sampled_from([None, 3, 8]))
def test_what_is_read_is_what_was_added_and_neither_cleared_nor_dropped(turns: list[Turn], ring: int | None) -> None:
    cells, plain = fill(turns, ring)

    rows = np.array([3, 0, 2, 1])
    read = cells.read(rows)
    expected = [(at, *cell) for at, row in enumerate(rows.tolist()) for cell in plain.of(row)]
    columns = (read.group, read.tiles, read.sums, read.maxima, read.carried)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    held = [plain.of(row) for row in rows.tolist()]
    assert cells.newest(rows).tolist() == [of[-1][0] if of else NEVER for of in held]
    assert cells.totals(rows).tolist() == [[sum(cell[1][k] for cell in of) for k in range(SUMS)] for of in held]
    bounds = np.array(BOUNDS)[:, None] + np.zeros_like(rows)
    upto = cells.count_upto(rows, bounds)
    assert upto.tolist() == [[sum(cell[0] <= bound for cell in of) for of in held] for bound in BOUNDS]
    before = cells.sums_before(rows, upto)
    assert before.tolist() == [
        [[sum(cell[1][k] for cell in of[:count]) for k in range(SUMS)] for of, count in zip(held, line, strict=True)]
        for line in upto.tolist()
    ]


@pytest.mark.slow
@settings(max_examples=40)
@given(TURNS | IN_ORDER, st.sampled_from([None, 3]))
def test_single_cells_and_maxima_of_ranges_are_those_of_the_row(turns: list[Turn], ring: int | None) -> None:
    cells, plain = fill(turns, ring)

    for row in range(ROWS):
        of = plain.of(row)
        tiles = np.array(BOUNDS)
        there, places = cells.has(np.full(len(tiles), row), tiles)
        assert there.tolist() == [tile in {cell[0] for cell in of} for tile in tiles.tolist()]
        at = places[there]
        same = np.full(len(at), row)
        assert cells.tiles_at(same, at).tolist() == [cell[0] for cell in of]
        assert cells.carried_at(same, at, 0).tolist() == [cell[3][0] for cell in of]
        one = cells.read_at(same, at)
        assert (one.group.tolist(), one.tiles.tolist()) == (list(range(len(of))), [cell[0] for cell in of])
        assert list(zip(one.sums.tolist(), one.maxima.tolist(), one.carried.tolist(), strict=True)) == [
            cell[1:] for cell in of
        ]
        step = 1 + len(of) // 12
        low, high = (side.ravel() for side in np.mgrid[0 : len(of) + 1 : step, 0 : len(of) + 1 : step])
        for column in range(MAXIMA):
            assert cells.largest(np.full(len(low), row), low, high, column).tolist() == [
                max((cell[2][column] for cell in of[start:stop]), default=EMPTY)
                for start, stop in zip(low.tolist(), high.tolist(), strict=True)
            ]


def add_tiles(cells: TileCells, row: int, tiles: list[int]) -> tuple[list[int], list[int]]:
    dropped = cells.add(*cells_of([(row, tile, 1, 1, 1, 1, 1) for tile in tiles]))
    return dropped[0].tolist(), dropped[1].tolist()


def test_what_is_as_old_as_the_ring_is_dropped_when_its_row_is_written_anew() -> None:
    cells = TileCells(SUMS, MAXIMA, CARRIED, 4)
    cells.reserve_rows(2)
    add_tiles(cells, 1, [0, 1, 2, 3])

    assert add_tiles(cells, 1, [6, 5, 4, 7]) == ([1] * 4, [0, 1, 2, 3])
    assert cells.read(np.array([1])).tiles.tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("rows", [1, 40, 200])
def test_new_rows_are_empty_and_old_ones_stay(rows: int) -> None:
    cells = TileCells(SUMS, MAXIMA, CARRIED, None)
    cells.reserve_rows(1)
    add_tiles(cells, 0, [7])
    for each in range(1, rows + 1):
        cells.reserve_rows(each)

    assert cells.newest(np.arange(rows)).tolist() == [7] + [NEVER] * (rows - 1)
    cells.reserve_rows(rows - 1)  # which are there
    assert cells.newest(np.array([rows - 1])).tolist() == ([7] if rows == 1 else [NEVER])


def test_memory_grows_by_an_eighth_at_a_time() -> None:
    """So adding n cells moves O(n) of them, and an eighth is the most that lies idle."""
    cells, empty = (TileCells(SUMS, MAXIMA, CARRIED, None) for _ in range(2))
    number_bytes, of_a_row, of_a_cell = 8, SUMS + 2, 1 + SUMS + MAXIMA + CARRIED + MAXIMA
    sizes = []
    for rows in range(1, 1001):
        cells.reserve_rows(rows)
        sizes.append(cells.state_bytes)
        most = max(rows * 9 // 8, rows + 16)
        assert rows <= (sizes[-1] - empty.state_bytes) / (number_bytes * of_a_row) <= most
    assert len(set(sizes)) < 40
    reserved, sizes = cells.state_bytes - empty.state_bytes, []
    for row in range(500):  # each has room for six
        cells.add(*cells_of([(row, tile, 1, 1, 1, 1, 1) for tile in range(4)]))
        sizes.append((cells.state_bytes - reserved) / (number_bytes * of_a_cell))
        assert 6 * (row + 1) <= sizes[-1] <= max(64, 6 * (row + 1) * 9 // 8 + 1)
    assert len(set(sizes)) < 40


def test_a_key_costs_what_it_has_and_room_that_was_given_back_is_used_again() -> None:
    """A row of four cells has room for six, of eight numbers of 8 bytes each, and its own five numbers."""
    cells = TileCells(SUMS, MAXIMA, CARRIED, None)
    cells.reserve_rows(100)
    sizes = []
    for turn in range(6):
        cells.add(*cells_of([(row, turn + step, 1, 1, 1, 1, 1) for row in range(100) for step in range(4)]))
        sizes.append(cells.state_bytes)
        cells.clear(np.arange(100))

    assert 100 * 6 * 8 * 8 <= sizes[0] <= 100 * (6 * 8 * 8 + 5 * 8) * 9 // 8
    assert sizes[1:] == sizes[:-1]


def test_rows_that_grow_take_the_room_that_others_left() -> None:
    cells = TileCells(SUMS, MAXIMA, CARRIED, None)
    cells.reserve_rows(12)
    sizes = []
    for row in range(12):  # one row at a time has any cells, and grows from 1 to 64 of them
        for tile in range(64):
            cells.add(*cells_of([(row, tile, 1, 1, 1, 1, 1)]))
        assert cells.read(np.array([row])).tiles.tolist() == list(range(64))
        sizes.append(cells.state_bytes)
        cells.clear(np.array([row]))

    assert sizes[1:] == sizes[:-1]
