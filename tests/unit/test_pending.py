from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.core.pending import PendingEvents, Scored

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
