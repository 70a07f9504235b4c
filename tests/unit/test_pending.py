from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.intake.pending import PendingEvents, Scored
from schemas.refusal import RefusedRecordError

HORIZON_MS = 10
KEYS = st.sampled_from("abcd")
#: ("add", id, hours passed), ("pop", id, 0), ("expire", "", 0), ("drain", "", 0)
ACTIONS = st.lists(
    st.tuples(st.just("add"), KEYS, st.integers(0, 6))
    | st.tuples(st.just("pop"), KEYS, st.just(0))
    | st.tuples(st.sampled_from(["expire", "drain"]), st.just(""), st.just(0)),
    max_size=30,
)


def scored(effective_ms: int, version: str = "1.0.0") -> Scored:
    return Scored(effective_ms, effective_ms - 1, version, 0.25, ("x", None, 1.5), (3, 70_000))


def test_a_label_finds_its_event_once() -> None:
    pending = PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    assert pending.pop("a") == scored(1)
    assert pending.pop("a") is None
    assert pending.pop("b") is None


def test_a_second_event_of_an_id_replaces_the_first_and_waits_as_long_as_any() -> None:
    pending = PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    pending.add("b", scored(2), 0)
    pending.add("a", scored(3, "2.0.0"), 0)
    assert pending.expire(13) == 1  # b alone: 2 < 13 - 10 <= 3
    assert pending.pop("a") == scored(3, "2.0.0")


def test_an_event_waits_for_the_horizon_and_no_longer() -> None:
    pending = PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    assert pending.expire(11) == 0
    assert pending.expire(12) == 1
    assert len(pending) == 0
    assert pending.is_too_old(1, 12)
    assert not pending.is_too_old(1, 11)


def test_an_event_is_restored_with_all_that_was_kept_of_it() -> None:
    pending, again = PendingEvents(HORIZON_MS), PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    again.restore(pending.drain_changes())
    assert again.pop("a") == scored(1)


def test_a_record_that_cannot_be_of_this_partition_is_refused() -> None:
    """It waits from 8, and is of 7; one of its fields is a text, and its segments are 3 and 70 000."""
    pending = PendingEvents(HORIZON_MS)
    pending.add("a", scored(8), 0)
    changes = pending.drain_changes()
    fitting: dict[str, Any] = {
        "texts": (True, False, False), "n_segments": 70_001, "latest_ms": 8, "times_ms": (7, 7),
    }  # fmt: skip  # as few as they are
    again = PendingEvents(HORIZON_MS, **fitting)
    again.restore(changes)
    assert again.get("a") == scored(8)
    strict = {"texts": (False, True, True), "n_segments": 70_000, "latest_ms": 7, "times_ms": (8, 9)}
    for name, value in strict.items():
        with pytest.raises(RefusedRecordError):
            PendingEvents(HORIZON_MS, **{**fitting, name: value}).restore(changes)


def test_what_was_forgotten_is_known_after_a_restart() -> None:
    """Its label is late, and not without an event."""
    pending, again = PendingEvents(HORIZON_MS), PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    pending.expire(12)
    again.restore(pending.drain_changes())
    assert [store.has_forgotten("a", 12, None) for store in (pending, again)] == [True, True]
    assert not again.has_forgotten("b", 12, None)


def test_the_changelog_of_what_is_gone_is_a_tombstone_and_is_written_once() -> None:
    pending = PendingEvents(HORIZON_MS)
    pending.add("a", scored(1), 0)
    pending.pop("a")
    assert pending.drain_changes() == [(b"ea", None)]
    assert pending.drain_changes() == []


def test_without_a_changelog_nothing_is_kept_to_be_drained() -> None:
    pending = PendingEvents(HORIZON_MS, with_changelog=False)
    pending.add("a", scored(1), 0)
    pending.expire(99)
    assert pending.drain_changes() == []


@given(actions=ACTIONS)
def test_what_a_changelog_restores_goes_on_the_same(actions: list[tuple[str, str, int]]) -> None:
    pending, now_ms = PendingEvents(HORIZON_MS), 0
    log: list[tuple[bytes, bytes | None]] = []
    for action, event_id, passed_ms in actions:
        now_ms += passed_ms
        if action == "add":
            pending.add(event_id, scored(now_ms), now_ms - passed_ms)
        elif action == "pop":
            pending.pop(event_id)
        elif action == "expire":
            pending.expire(now_ms)
        else:
            log += pending.drain_changes()
    log += pending.drain_changes()
    compacted = [
        (key, value) for row, (key, value) in enumerate(log) if key not in {later for later, _ in log[row + 1 :]}
    ]
    for kept in (log, compacted):
        again = PendingEvents(HORIZON_MS)
        again.restore([(b"tother", b"store"), *kept])
        assert again.drain_changes() == []
        assert len(again) == len(pending)
        assert [again.expire(now_ms + step) for step in range(HORIZON_MS + 7)] == _expired(log, now_ms)


@given(actions=ACTIONS, asked=st.lists(st.integers(0, 60), min_size=1, max_size=5), with_changelog=st.booleans())
def test_what_waits_what_was_forgotten_and_what_a_changelog_holds_are_those_of_a_plain_table(
    actions: list[tuple[str, str, int]], asked: list[int], *, with_changelog: bool
) -> None:
    """A label may come for three horizons after its event was forgotten: until then it is known as late."""
    pending, now_ms = PendingEvents(HORIZON_MS, with_changelog=with_changelog), 0
    waiting: dict[str, int] = {}
    forgotten: list[tuple[str, int]] = []
    held: dict[bytes, bytes | None] = {}
    for number, (action, event_id, passed_ms) in enumerate(actions):
        before_ms, now_ms = now_ms, now_ms + 3 * passed_ms  # one step may go beyond the horizon
        if action == "add":
            replaced = waiting.pop(event_id, None)
            if replaced is not None and replaced < before_ms - HORIZON_MS:
                forgotten.append((event_id, replaced))
            waiting[event_id] = now_ms
            pending.add(event_id, scored(now_ms), before_ms)
        elif action == "pop":
            at = waiting.pop(event_id, None)
            assert pending.pop(event_id) == (scored(at) if at is not None else None)
        elif action == "expire":
            gone = {old: at for old, at in waiting.items() if at < now_ms - HORIZON_MS}
            waiting = {old: at for old, at in waiting.items() if old not in gone}
            forgotten += gone.items()
            assert pending.expire(now_ms) == len(gone)
        else:
            held |= dict(pending.drain_changes())
        assert list(pending.entries()) == [(old, scored(at)) for old, at in waiting.items()]
        assert [pending.get(each) for each in "abcd"] == [scored(waiting[e]) if e in waiting else None for e in "abcd"]
        watermark_ms = now_ms + asked[number % len(asked)]
        for each in "abcd":
            since_ms = watermark_ms - 4 * HORIZON_MS
            is_known = any(old == each and at >= since_ms for old, at in forgotten)
            assert pending.has_forgotten(each, watermark_ms, None) == (is_known and with_changelog)
            for effective_ms in (since_ms - 1, since_ms):
                is_known_then = is_known or effective_ms >= since_ms
                assert pending.has_forgotten(each, watermark_ms, effective_ms) == (is_known_then and with_changelog)
    held |= dict(pending.drain_changes())
    if not with_changelog:
        assert held == {}
        return
    kept = {key: value for key, value in held.items() if value is not None}
    assert sorted(pending.record_keys()) == sorted(kept)
    assert {
        key[1:].decode(): msgspec.msgpack.decode(value)[0] for key, value in kept.items() if key[:1] == b"e"
    } == waiting
    if forgotten:
        assert any(key[:1] == b"x" for key in kept)


def _expired(log: list[tuple[bytes, bytes | None]], now_ms: int) -> list[int]:
    """By hand: how many of the entries that the whole log leaves expire at each watermark."""
    left = dict(log)
    times = []
    for key, value in left.items():
        if value is not None and key.startswith(b"e"):  # others are of events that were forgotten
            reader = PendingEvents(HORIZON_MS)
            reader.restore([(key, value)])
            entry = reader.pop(key[1:].decode())
            assert entry is not None
            times.append(entry.effective_ms)
    gone = [sum(time < now_ms + step - HORIZON_MS for time in times) for step in range(HORIZON_MS + 7)]
    return [after - before for before, after in zip([0, *gone], gone, strict=False)]
