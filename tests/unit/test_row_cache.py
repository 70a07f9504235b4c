"""Rows of tile stores that are not in memory, on their way to disk."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_in_memory import RowsInMemory

import app.core.tiles.row_cache
from app.core.tiles.row_cache import RowCache, Snapshot

NOW_MS = 1_800_000_000_000
Step = tuple[str, str, str, bytes | None]  # what, store, key, row
KINDS = st.sampled_from(["row", "row", "log", "clock", "seal", "commit", "write", "all to disk", "clear"])
steps = st.lists(
    st.tuples(KINDS, st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from([b"1", b"2", b"", None])),
    max_size=30,
)


class PlainRows:
    """What `RowCache` promises, on plain dicts: each transaction is a dict of (kind, store, key)."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, str, str], bytes | None] = {}
        self.sealed: list[dict[tuple[str, str, str], bytes | None]] = []
        self.committed: dict[tuple[str, str, str], bytes | None] = {}
        self.disk: dict[tuple[str, str, str], bytes] = {}

    def take(self, step: Step) -> bool:
        """Follow a step; whether it makes sense now."""
        what, store, key, row = step
        if what == "row":
            self.open[what, store, key] = row or None
        elif what == "log":
            self.open[what, "", store + key] = row
        elif what == "clock":
            self.open[what, store, ""] = row or b"9"
        elif what == "seal":
            self.sealed.append(self.open)
            self.open = {}
        elif what == "commit":
            if not self.sealed:
                return False
            self.committed.update(self.sealed.pop(0))
        elif what == "write":
            both = self.disk | self.committed
            self.disk = {name: row for name, row in both.items() if row is not None}
            self.committed = {}
        else:
            self.open, self.sealed, self.committed, self.disk = {}, [], {}, {}
        return True

    def on_its_way(self) -> dict[tuple[str, str, str], bytes | None]:
        found = dict(self.committed)
        for transaction in [*self.sealed, self.open]:
            found.update(transaction)
        return found


def in_full(step: Step) -> list[Step]:
    """A step, or the many that bring all to disk."""
    if step[0] != "all to disk":
        return [step]
    return [(then, *step[1:]) for then in ("seal", *["commit"] * 10, "write")]


def follow(rows: RowCache, step: Step, at: int) -> None:
    what, store, key, row = step
    if what == "row":
        rows.put_rows(store.encode(), {key.encode(): row})
    elif what == "log":
        rows.put_log([((store + key).encode(), row)])
    elif what == "clock":
        rows.put_clock(store.encode(), row or b"9")
    elif what == "write":
        rows.write(Snapshot("set", 1, at, NOW_MS))
    else:
        {"seal": rows.seal, "commit": rows.commit, "clear": rows.clear}[what]()


@settings(max_examples=60)
@given(steps, st.integers(1, 4))
def test_rows_are_read_as_they_were_noted_and_disk_holds_what_was_committed(found: list[Step], most: int) -> None:
    plain, rows = PlainRows(), RowCache(RowsInMemory(), 1)
    snapshot = None
    for at, step in enumerate(itertools.chain.from_iterable(map(in_full, found))):
        if plain.take(step):
            follow(rows, step, at)
            snapshot = {"write": Snapshot("set", 1, at, NOW_MS), "clear": None}.get(step[0], snapshot)

    coming = plain.on_its_way()
    for store in "ab":
        newest = plain.disk | coming
        assert rows.read_rows(store.encode(), [b"x", b"z", b"y", b"x"]) == [
            newest.get(("row", store, key)) for key in "xzyx"
        ]
        scanned: list[tuple[bytes, bytes]] = []
        pages, after = 0, b""
        is_more = True
        while is_more:
            page, last = rows.scan_rows(store.encode(), after, most)
            scanned, pages = scanned + page, pages + 1
            after, is_more = last or b"", last is not None
        there = sorted(name for name in plain.disk if name[:2] == ("row", store))
        assert scanned == [(name[2].encode(), plain.disk[name]) for name in there if name not in coming]
        assert pages == 1 + len(there) // most
    kept = sorted(plain.disk.items())
    assert rows.read_clocks() == [(name[1].encode(), row) for name, row in kept if name[0] == "clock"]
    assert rows.read_log() == [(name[2].encode(), row) for name, row in kept if name[0] == "log"]
    assert rows.snapshot() == snapshot


def test_each_kind_is_read_from_disk_by_its_own_name_and_page_by_page() -> None:
    rows = RowCache(RowsInMemory(), 1)
    rows.put_rows(b"a", {b"x": b"1", b"xx": b"2", b"y": b"3", b"z": b"4"})
    rows.put_rows(b"b", {b"x": b"5"})
    rows.put_log([(b"l1", b"6"), (b"l2", b"7"), (b"l3", None)])
    rows.put_clock(b"a", b"8")
    rows.put_clock(b"b", b"9")
    assert (rows.read_clocks(), rows.read_log()) == ([], [])
    rows.seal()
    rows.commit()
    rows.write(Snapshot("set", 1, 3, NOW_MS))

    assert rows.read_clocks() == [(b"a", b"8"), (b"b", b"9")]
    assert rows.read_log() == [(b"l1", b"6"), (b"l2", b"7")]
    assert rows.scan_rows(b"a", b"", 3) == ([(b"x", b"1"), (b"xx", b"2"), (b"y", b"3")], b"y")
    assert rows.scan_rows(b"a", b"y", 3) == ([(b"z", b"4")], None)
    assert rows.scan_rows(b"b", b"", 1) == ([(b"x", b"5")], b"x")


def test_what_was_sealed_before_a_clear_is_gone() -> None:
    rows = RowCache(RowsInMemory(), 1)
    rows.put_rows(b"a", {b"x": b"1"})
    rows.seal()
    rows.clear()

    assert rows.read_rows(b"a", [b"x"]) == [None]


def test_rows_are_written_from_a_few_thousand_committed_ones_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.core.tiles.row_cache, "_MOST_WAITING", 3)
    rows = RowCache(RowsInMemory(), 1)
    for expected, key in ((False, b"x"), (False, b"y"), (True, b"z")):
        rows.put_rows(b"a", {key: b"1"})
        rows.seal()
        rows.commit()
        assert rows.wants_write is expected
    rows.write(Snapshot("set", 1, 3, NOW_MS))

    assert not rows.wants_write


def test_a_snapshot_that_cannot_be_read_is_none() -> None:
    disk = RowsInMemory()
    RowCache(disk, 1).write(Snapshot("set", 1, 3, NOW_MS))
    (entry,) = disk.entries
    disk.entries[entry] = b"nonsense"

    assert RowCache(disk, 1).snapshot() is None


def test_all_clocks_and_all_records_of_the_log_are_read_however_many() -> None:
    cache = RowCache(RowsInMemory(), 1)
    names = [b"%04d" % number for number in range(300)]
    for name in names:
        cache.put_clock(name, b"c" + name)
    cache.put_log([(name, b"l" + name) for name in names])
    cache.seal()
    cache.commit()
    cache.write(Snapshot("set", 0, 1, NOW_MS))

    assert cache.read_clocks() == [(name, b"c" + name) for name in names]
    assert cache.read_log() == [(name, b"l" + name) for name in names]
