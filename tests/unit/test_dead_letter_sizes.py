from __future__ import annotations

import hashlib

import pytest

from schemas.topics import MAX_DEAD_LETTER_BYTES
from schemas.wire import DeadLetter, Source

MOST_WHOLE = MAX_DEAD_LETTER_BYTES - 65_536


def letter(key: bytes | None, value: bytes | None, detail: str = "why") -> DeadLetter:
    return DeadLetter(Source("p.events", 1, 7), "decode", "not_json", detail, key, value, 10, 20)


def back(dead: DeadLetter) -> DeadLetter:
    return DeadLetter.from_record(dead.key, dead.value, dead.to_headers())


@pytest.mark.parametrize(("key", "value"), [(None, None), (b"", b""), (b"k", b"v" * (MOST_WHOLE - 1))])
def test_what_fits_goes_out_as_it_came(key: bytes | None, value: bytes | None) -> None:
    dead = letter(key, value)
    assert dead.fit() is dead
    assert back(dead) == dead


@pytest.mark.parametrize("key", [None, b"k", b"k" * 3_000_000])
def test_what_does_not_fit_keeps_its_beginning_its_size_and_its_digest(key: bytes | None) -> None:
    value = bytes(range(256)) * 9_000
    dead = letter(key, value, "x" * 500).fit()
    assert dead.cut_bytes == len(value) + len(key or b"")
    assert dead.value == value[:65_536]
    assert dead.key == (key[:65_536] if key is not None else None)
    assert hashlib.sha256(value).hexdigest() in dead.detail
    assert len(dead.detail) <= 500
    assert back(dead) == dead
    size = len(dead.key or b"") + len(dead.value) + sum(len(name) + len(data) for name, data in dead.to_headers())
    assert size < 200_000


def test_the_headers_of_the_original_record_count_too() -> None:
    """They are left out, and the record is small again; what it had is said."""
    many = tuple((f"h{number}", b"x" * 1000) for number in range(3000))
    size = sum(len(name) + len(data) for name, data in many)
    dead = DeadLetter(Source("p.events", 1, 7), "decode", "not_json", "why", b"k", b"v", 10, 20, headers=many).fit()
    assert (dead.headers, dead.cut_bytes) == ((), size + 2)
    assert (dead.key, dead.value) == (b"k", b"v")
    some = letter(b"k", b"v")
    some.headers = (("h", b"x" * (MOST_WHOLE - 3)),)
    assert some.fit() is some
    assert back(some) == some


def test_half_a_surrogate_pair_in_a_detail_stops_nothing() -> None:
    assert back(letter(b"k", b"v", "a\ud800b")).detail == "a\\ud800b"
