"""How a state comes back from its changelog: beside a plain loop that takes one record after the other."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from rows_in_memory import RowsInMemory

import app.core.features.state_log
from app.core.batches import RecordBatch
from app.core.features.state_log import META, TILES, StateReader
from app.core.features.windows import FeatureState, WindowPlan
from app.core.intake.forgotten_ids import PREFIX as FORGOTTEN
from app.core.intake.pending import PREFIX as WAITING
from app.core.intake.pending import PendingEvents
from app.core.intake.sent_once import SentOnce
from app.core.shared.contributor import OPEN, OPEN_VALUE
from app.core.tiles.row_cache import RowCache, Snapshot
from schemas.pipeline.spec import WindowSpec

NOW_MS, HORIZON_MS, LATEST_MS = 1_800_000_000_000, 1_000, 10**6
COUNT = WindowSpec("events", ("card",), 4, 1, "count")
PLAN = WindowPlan.of([COUNT], retain_ms=10)
Change = tuple[bytes, bytes | None]


def reader_of(rows: RowCache | None = None, *, keeps_other: bool = True, needed: tuple[str, ...] = ()) -> StateReader:
    return StateReader(
        "set",
        lambda: FeatureState(PLAN, cache=rows),
        lambda: PendingEvents(HORIZON_MS, latest_ms=LATEST_MS),
        lambda: SentOnce(with_changelog=True),
        latest_ms=LATEST_MS,
        needed=needed,
        keeps_other=keeps_other,
        cache=rows,
    )


def batch(changes: list[tuple[bytes | None, bytes | None]], first: int = 0) -> RecordBatch:
    offsets = np.arange(first, first + len(changes))
    return RecordBatch("p.state", 0, offsets, offsets, [key for key, _ in changes], [value for _, value in changes])


def key_of(kind: bytes, generation: int, name: bytes) -> bytes:
    return kind + generation.to_bytes(4, "big") + name


def meta(generation: int, at: int, **other: Any) -> Change:
    limit = {"consecutive": 0, "ago": []}
    said = {"event_watermark_ms": at, "label_watermark_ms": at, "promised_ms": at, "position": (at, None)}
    said |= {"feature_set": "set", "generation": generation, "pipeline": "p"}
    return META, msgspec.msgpack.encode({**said, "rejected": {"events": limit, "labels": limit}, **other})


def waiting(generation: int, name: str, at: int | None) -> Change:
    value = None if at is None else msgspec.msgpack.encode([at, at, "1.0.0", 0.5, [], []])
    return key_of(WAITING, generation, name.encode()), value


def open_tile(generation: int, name: str, n: int | None) -> Change:
    key = key_of(OPEN, generation, b"abcd" + msgspec.msgpack.encode([name]))
    return key, None if n is None else OPEN_VALUE.pack(3, n, n)


class Naive:
    """What is held after each record, by its key: of the newest generation, in the order of the last writes."""

    def __init__(self) -> None:
        self.generation = 0
        self.held: dict[bytes, bytes] = {}
        self.former: set[bytes] = set()
        self.meta: dict[str, Any] = {}

    def take(self, key: bytes, value: bytes | None) -> None:
        said = msgspec.msgpack.decode(value or b"") if key == META else {}
        number = said["generation"] if said else int.from_bytes(key[1:5], "big")
        if number > self.generation and value is not None:
            self.former |= self.held.keys()
            self.generation, self.held = number, {}
        if said:
            self.meta = said
        elif number == self.generation:
            self.held.pop(key, None)
            if value is not None:
                self.held[key] = value
        elif number < self.generation and value is not None:
            self.former.add(key)


def changelog(chance: np.random.Generator, n: int) -> list[Change]:
    """Some generations, of which records of the one before still come when another has begun."""
    found: list[Change] = []
    generation = 0
    for at in range(n):
        generation += chance.random() < 0.03
        of = max(0, generation - int(chance.random() < 0.1))
        name, is_gone = f"k{chance.integers(6)}", chance.random() < 0.2
        match int(chance.integers(3)):
            case 0:
                found.append(meta(generation, at))
            case 1:
                found.append(waiting(of, name, None if is_gone else at))
            case _:
                found.append(open_tile(of, name, None if is_gone else at))
    return found


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_is_of_the_newest_generation_and_the_rest_is_to_be_cleared(seed: int, size: int) -> None:
    log = changelog(np.random.default_rng(seed), 150)
    naive = Naive()
    for change in log:
        naive.take(*change)
    bare, rows = reader_of(keeps_other=False), RowCache(RowsInMemory(), 1)
    on_disk = reader_of(rows)
    assert on_disk.open_snapshot(0, len(log), NOW_MS) == 0
    plain = reader_of()
    for reader in (plain, bare, on_disk):
        for start in range(0, len(log), size):
            reader.take(batch([*log[start : start + size]], start), NOW_MS)
        assert reader.refused == []
        assert reader.generation.number == naive.generation
        assert reader.meta == naive.meta
        held = {key[:1] + key[5:]: value for key, value in naive.held.items()}
        assert set(reader.pending.record_keys()) == {key for key in held if key[:1] == WAITING}
        assert list(reader.others.items()) == (list(held.items()) if reader is not bare else [])
        kept = naive.held.keys() if reader is not bare else set()
        assert naive.former - set(reader.generation.former) <= {
            key for key in naive.former if reader is bare and key[:1] == OPEN
        }
        assert not kept & set(reader.generation.former)
        restored = reader.finish()
        assert (restored.records, restored.left_aside) == (len(log), "")
    assert rows.snapshot() == Snapshot("set", naive.generation, len(log), NOW_MS)
    # What is on disk is gone on from: nothing is left to read.
    again = reader_of(rows)
    assert again.open_snapshot(0, len(log) + 5, NOW_MS) == len(log)
    assert (again.generation.number, again.meta) == (naive.generation, naive.meta)
    assert sorted(again.others.items()) == sorted(plain.others.items())
    assert set(again.pending.record_keys()) == set(plain.pending.record_keys())


def test_what_cannot_be_read_is_passed_over_with_its_offset_and_the_rest_counts() -> None:
    good = [
        meta(0, 5),
        waiting(0, "a", 5),
        open_tile(0, "b", 1),
        (key_of(FORGOTTEN, 0, bytes(8)), struct.pack("<qq", 7, 3)),
    ]
    bad: list[tuple[bytes | None, bytes | None]] = [
        (None, b"x"),
        (b"q\0\0\0\0x", b"x"),
        (b"e\0\0\0", b"x"),
        (b"o\0\0\0", None),
        (b"", b"x"),
        (META, b"\xc1"),
        (key_of(WAITING, 2**31 + 1, b"x"), b"x"),
        (key_of(WAITING, 0, b"x"), b"rubbish"),
        open_tile(0, "c", 2**62 + 1),
        (key_of(OPEN, 0, b"abcd"), None),
        (key_of(TILES, 0, PLAN.stores[0][0].name + b"\xc1"), b"x"),
    ]
    reader = reader_of()
    mixed = [*good[:2], *bad[:6], good[2], *bad[6:], good[3]]
    reader.take(batch(mixed, first=40))
    assert [offset for offset, _ in reader.refused] == [40 + at for at, change in enumerate(mixed) if change in bad]
    assert [why.reason for _, why in reader.refused[:5]] == ["bad_key"] * 5
    assert set(reader.pending.record_keys()) == {WAITING + b"a", FORGOTTEN + bytes(8)}
    assert len(reader.others) == 3
    # Where to go on was lost with the last record that said so; all else it said stands.
    assert reader.meta["position"] == (None, None)
    assert reader.meta["event_watermark_ms"] == 5
    reader.take(batch([meta(0, 9)]))
    reader.take(batch([bad[7]]))  # of another kind
    assert reader.meta["position"] == [9, None]
    reader.take(batch([meta(0, 8), waiting(0, "z", 9)]))  # an old record that was written again
    assert [offset for offset, _ in reader.refused[-1:]] == [0]
    assert WAITING + b"z" in set(reader.pending.record_keys())


def test_a_record_that_says_too_little_or_too_much_is_not_gone_on_from() -> None:
    reader = reader_of(needed=("shared",))
    reader.take(batch([meta(0, 5), meta(0, LATEST_MS + 1, shared=(1, 2, 3))]))
    assert [offset for offset, _ in reader.refused] == [0, 1]
    assert reader.meta == {}
    reader.take(batch([meta(0, LATEST_MS, shared=(1, 2, 3))]))
    assert reader.meta["shared"] == [1, 2, 3]


def test_what_clears_a_key_of_a_generation_that_was_not_read_begins_none() -> None:
    reader = reader_of()
    reader.take(batch([waiting(0, "a", 5), waiting(1, "b", None), waiting(0, "c", 6)]))
    assert reader.refused == []
    assert reader.generation.number == 0
    assert set(reader.pending.record_keys()) == {WAITING + b"a", WAITING + b"c"}
    reader.take(batch([meta(2, 7), waiting(0, "d", None), waiting(0, "e", 8)]))
    assert set(reader.generation.former) == {waiting(0, name, None)[0] for name in "ace"}


def test_a_state_on_disk_that_is_damaged_is_cleared_and_nothing_of_it_is_left() -> None:
    disk = RowsInMemory()
    rows = RowCache(disk, 1)
    reader = reader_of(rows)
    reader.take(batch([waiting(3, "a", 1), open_tile(3, "b", 2), meta(3, 1)]), NOW_MS)
    assert reader_of(rows).open_snapshot(0, 9, NOW_MS) == 3
    disk.entries[b"l" + WAITING + b"z"] = b"rubbish"
    again = reader_of(rows)
    assert again.open_snapshot(0, 9, NOW_MS) == 0
    assert (again.generation.number, again.meta, again.others, disk.entries) == (0, {}, {}, {})
    assert list(again.pending.record_keys()) == []
    again.take(batch([meta(3, 0)]))  # which is before what was on disk
    assert again.meta["position"] == [0, None]


def test_how_far_a_new_generation_had_come_is_on_disk_also_when_nothing_follows() -> None:
    rows = RowCache(RowsInMemory(), 1)
    reader = reader_of(rows)
    reader.take(batch([waiting(0, "a", 1), meta(0, 1)]), NOW_MS)
    reader.take(batch([meta(1, 5)], 2), NOW_MS)
    again = reader_of(rows)
    assert again.open_snapshot(0, 3, NOW_MS) == 3
    assert again.meta == reader.meta != {}
    assert list(again.pending.record_keys()) == []
    # And that the last record that said it was damaged: an older one says no more where to go on.
    again.take(batch([(META, b"\xc1")], 3), NOW_MS)
    third = reader_of(rows)
    assert third.open_snapshot(0, 4, NOW_MS) == 4
    assert third.meta == {**reader.meta, "position": [None, None]}


def test_a_state_of_another_feature_set_is_cleared_as_far_as_keys_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = [waiting(1, f"w{n}", 5) for n in range(4)] + [open_tile(1, "o", 1), meta(1, 6, feature_set="before")]
    for most in (100, 3):
        monkeypatch.setattr(app.core.features.state_log, "_MOST_REMEMBERED", most)
        rows = RowCache(RowsInMemory(), 1)
        reader = reader_of(rows)
        reader.take(batch([waiting(0, "old", 1), *log]), NOW_MS)
        restored = reader.finish()
        assert "of feature set before and the pipeline's is set" in restored.left_aside
        assert restored.records == len(log) + 1
        assert (reader.generation.number, reader.meta, reader.others) == (2, {}, {})
        assert list(reader.pending.record_keys()) == []
        expected = {key for key, _ in [waiting(0, "old", 1), *log[:-1]]}
        assert len(set(reader.generation.former)) == min(most, len(expected))
        assert set(reader.generation.former) <= expected
        late = [change for n in range(4) for change in (waiting(0, f"late{n}", 3), waiting(0, f"late{n}", None))]
        reader.take(batch([meta(5, 7), *late]))
        assert len(set(reader.generation.former)) == min(most, len(expected) + 4)
        rows = RowCache(RowsInMemory(), 1)
        reader = reader_of(rows)
        reader.take(batch(log), NOW_MS)
        reader.finish()
        assert rows.snapshot() is None  # nothing of it is used again
        assert rows.read_log() == []
