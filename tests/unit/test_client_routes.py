"""Which worker a client asks."""

from __future__ import annotations

import json

import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from schemas.partitioning import partition_of
from streamgauge import routes
from streamgauge.routes import Routes


@given(st.binary(max_size=40), st.integers(1, 200))
def test_a_key_has_the_partition_that_kafkas_clients_give_it(key: bytes, partitions: int) -> None:
    everything = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everything, everything)


def test_without_a_map_the_given_addresses_take_turns() -> None:
    known = Routes(["http://a", "http://b", "http://a/"])
    assert [known.choose(b"c0", ()) for _ in range(4)] == ["http://a", "http://b", "http://a", "http://b"]
    assert known.choose(b"c0", {"http://a", "http://b"}) == ""


@pytest.mark.parametrize("header", ["", "rubbish", "[]", "{}", '{"0": "ftp://b"}', '{"0": 1}', '{"x": "http://b"}'])
def test_a_header_that_says_nothing_of_use_changes_nothing(header: str) -> None:
    known = Routes(["http://a"])
    known.learn('{"0": "http://b"}')
    known.learn(header)
    assert known.owner_of(b"c0") == ("" if header == "{}" else "http://b")


def test_a_partition_without_an_owner_is_asked_for_anywhere() -> None:
    known = Routes(["http://a"])
    known.learn(json.dumps({"1": "http://b"}))
    key = next(key for key in (b"c%d" % number for number in range(99)) if partition_of(key, 2) == 0)
    assert known.owner_of(key) == ""
    assert known.choose(key, ()) == "http://a"


def test_who_was_silent_comes_last_and_ever_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(routes.time, "monotonic", lambda: now[0])
    known = Routes(["http://a"])
    known.learn('{"0": "http://b"}')
    lengths = []
    for _ in range(6):
        started = now[0]
        known.note_silence("http://b")
        known.note_silence("http://b")  # another caller of the same moment
        assert known.choose(b"c0", {"http://a"}) == "http://b"  # better than nobody
        while known.choose(b"c0", ()) == "http://a":
            now[0] += 0.5
        lengths.append(now[0] - started)
    assert lengths == [1, 2, 4, 8, 15, 15]
    known.note_silence("http://b")
    known.note_answer("http://b")
    assert known.choose(b"c0", ()) == "http://b"
    known.note_silence("http://b", at_least_s=7)
    now[0] += 6.5
    assert known.choose(b"c0", ()) == "http://a"


def test_addresses_that_are_no_more_are_forgotten() -> None:
    known = Routes(["http://a"])
    for number in range(50):
        known.learn(json.dumps({"0": f"http://b{number}"}))
        known.note_silence(f"http://b{number}")
    assert set(known._silent) <= {"http://a", "http://b48", "http://b49"}
