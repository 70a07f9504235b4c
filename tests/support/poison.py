"""What broken producers write: named inputs, and any number of generated ones, each with the reason it is refused for.

All are for the pipeline of `core_setting`. A named input whose reason is "" is strange, and must be scored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from core_setting import DAY_MS, HOUR_MS, START_MS, event

#: Kafka time stamp of every record, and the clock of the worker that reads it.
STAMP_MS = START_MS + 30 * DAY_MS
_AHEAD_MS = STAMP_MS + DAY_MS


class Poison(NamedTuple):
    """An input. ``stamp_ms``: of its record; ``key``: of its record."""

    name: str
    value: bytes | None
    reason: str
    stamp_ms: int = STAMP_MS
    key: bytes | None = b"key"


def _with(text: str, of: str = "2.5", name: str = "amount") -> bytes:
    """An event with a piece of its JSON put in place of a number."""
    return event(1, START_MS, **{name: 2.5}).replace(of.encode(), text.encode())


def _deep(depth: int, opened: str = "[", closed: str = "]") -> bytes:
    return event(1, START_MS)[:-1] + f', "z": {opened * depth}{closed * depth}}}'.encode()


def _twice(name: str, value: str) -> bytes:
    return event(1, START_MS)[:-1] + f', "{name}": {value}}}'.encode()


def named() -> list[Poison]:
    """Each kind of breakage once, by name."""
    good = event(1, START_MS)
    return [
        Poison("tombstone", None, "tombstone"),
        Poison("tombstone with no key", None, "tombstone", key=None),
        Poison("empty", b"", "empty"),
        Poison("blank", b" \t\r\n ", "not_json"),
        Poison("a NUL byte", b"\x00", "not_json"),
        Poison("NUL bytes between", good.replace(b",", b"\x00,"), "not_json"),
        Poison("a raw NUL in a string", good.replace(b"e1", b"e\x001"), "not_json"),
        Poison("plain words", b"hello", "not_json"),
        Poison("XML", b"<event id='1'/>", "not_json"),
        Poison("Avro with a schema id", b"\x00\x00\x00\x00\x07\x02e1\x04c1", "not_json"),
        Poison("gzip", b"\x1f\x8b\x08\x00" + bytes(40), "not_json"),
        Poison("UTF-16", good.decode().encode("utf-16"), "not_json"),
        Poison("a byte order mark", b"\xef\xbb\xbf" + good, "not_json"),
        Poison("invalid UTF-8", good.replace(b"e1", b"\xff1"), "not_json"),
        Poison("overlong UTF-8", good.replace(b"e1", b"\xc0\xaf"), "not_json"),
        Poison("a lone high surrogate", good.replace(b"e1", b"\\ud800"), "not_json"),
        Poison("a lone low surrogate", good.replace(b"e1", b"\\udfff"), "not_json"),
        Poison("a surrogate as UTF-8", good.replace(b"e1", b"\xed\xa0\x80"), "not_json"),
        Poison("cut short", good[:-1], "not_json"),
        Poison("cut in a string", good[:9], "not_json"),
        Poison("two values", good + good, "not_json"),
        Poison("a comma too many", good[:-1] + b",}", "not_json"),
        Poison("single quotes", good.replace(b'"', b"'"), "not_json"),
        Poison("NaN", _with("NaN"), "not_json"),
        Poison("Infinity", _with("Infinity"), "not_json"),
        Poison("-Infinity", _with("-Infinity"), "not_json"),
        Poison("hexadecimal", _with("0x10"), "not_json"),
        Poison("a leading zero", _with("01"), "not_json"),
        Poison("1e999", _with("1e999"), "wrong_type"),
        Poison("an integer of 400 digits for a float", _with("1" * 400), "wrong_type"),
        Poison("an integer of 100 000 digits", _with("9" * 100_000), "wrong_type"),
        Poison("an integer beyond 64 bits", event(1, START_MS, tries=2**63), "wrong_type"),
        Poison("a time beyond 64 bits", event(1, 10**30), "wrong_type"),
        Poison("a fraction for an integer", event(1, START_MS, tries=1.5), "wrong_type"),
        Poison("a number as a string", event(1, START_MS, amount="2.5"), "wrong_type"),
        Poison("a time as a string", event(1, START_MS, at="2020-09-13T12:00:00Z"), "wrong_type"),
        Poison("a time with a fraction", event(1, START_MS, at=START_MS + 0.5), "wrong_type"),
        Poison("a string as a number", event(1, START_MS, card=7), "wrong_type"),
        Poison("a bool for a number", event(1, START_MS, amount=True), "wrong_type"),
        Poison("a list for a number", event(1, START_MS, amount=[2.5]), "wrong_type"),
        Poison("an object for a string", event(1, START_MS, card={"id": "c1"}), "wrong_type"),
        Poison("null where it may not be", event(1, START_MS, amount=None), "wrong_type"),
        Poison("a null entity", event(1, START_MS, card=None), "wrong_type"),
        Poison("a wrong duplicate after a good one", _twice("amount", '"2.5"'), "wrong_type"),
        Poison("a missing number", event(1, START_MS, amount=...), "missing_field"),
        Poison("a missing time", event(1, START_MS, at=...), "missing_field"),
        Poison("a missing entity", event(1, START_MS, card=...), "missing_field"),
        Poison("names in capitals", good.upper(), "missing_field"),
        Poison("an empty object", b"{}", "missing_field"),
        Poison("wrapped once more", b'{"event": ' + good + b"}", "missing_field"),
        Poison("an empty list", b"[]", "not_an_object"),
        Poison("the event in a list", b"[" + good + b"]", "not_an_object"),
        Poison("the event in a string", json.dumps(good.decode()).encode(), "not_an_object"),
        Poison("null", b"null", "not_an_object"),
        Poison("a number", b"7", "not_an_object"),
        Poison("true", b"true", "not_an_object"),
        Poison("10 000 brackets", b"[" * 10_000, "not_an_object"),
        Poison("10 000 lists deep", _deep(10_000), "not_json"),
        Poison("10 000 objects deep", _deep(10_000, '{"a":', "}").replace(b'":}', b'":0}'), "not_json"),
        Poison("10 MB of rubbish", b"\x00\xff{" * 3_500_000, "not_json"),
        Poison("10 MB without an end", b'{"id": "' + b"x" * 10_000_000, "not_json"),
        Poison("a card of 10 MB", event(1, START_MS, card="c" * 10_000_000), "too_large"),
        Poison("a card of control characters", event(1, START_MS, card="\x01" * 50_000), "too_large"),
        Poison("a shop of 300 KB", event(1, START_MS, shop="s" * 300_000), "too_large"),
        Poison("an empty entity", event(1, START_MS, card=""), "empty_key"),
        Poison("an empty id", event(1, START_MS, id=""), "empty_key"),
        Poison("the year 1970", event(1, 0), "time_too_early"),
        Poison("a negative time", event(1, -1), "time_too_early"),
        Poison("the first of 64 bits", event(1, -(2**63)), "time_too_early"),
        Poison("seconds", event(1, START_MS // 1000), "time_too_early"),
        Poison("microseconds", event(1, START_MS * 1000), "time_too_late"),
        Poison("nanoseconds", event(1, START_MS * 1_000_000), "time_too_late"),
        Poison("the year 2262", event(1, 9_223_372_036_854), "time_too_late"),
        Poison("the last of 64 bits", event(1, 2**63 - 1), "time_too_late"),
        Poison("a day and a millisecond ahead", event(1, _AHEAD_MS + 1), "time_ahead"),
        Poison("no time stamp", event(1, START_MS), "time_ahead", stamp_ms=-1),
        Poison(
            "producer and event in 2029", event(1, STAMP_MS + 3000 * DAY_MS), "clock_ahead", STAMP_MS + 3000 * DAY_MS
        ),
        Poison(
            "a time stamp at the end of 64 bits", event(1, _AHEAD_MS + HOUR_MS + 1), "clock_ahead", stamp_ms=2**63 - 1
        ),
    ]


def strange() -> list[Poison]:
    """What looks bad and is not, with reason "": it must be scored. Amounts are 2.5 and the like."""
    return [
        Poison("no key", event(1, START_MS), "", key=None),
        Poison("a key of another kind", event(1, START_MS), "", key=b"\xff\x00"),
        Poison("1e308", event(1, START_MS, amount=1e308), ""),
        Poison("-1e308", event(1, START_MS, amount=-1e308), ""),
        Poison("the smallest float", event(1, START_MS, amount=5e-324), ""),
        Poison("-0.0", event(1, START_MS, amount=-0.0), ""),
        Poison("an integer for a float", event(1, START_MS, amount=3), ""),
        Poison("the largest integer", event(1, START_MS, tries=2**63 - 1), ""),
        Poison("an escaped NUL in a string", event(1, START_MS, shop="\x00"), ""),
        Poison("an empty shop", event(1, START_MS, shop=""), ""),
        Poison("astral characters", event(1, START_MS, shop="\U0001f4b3" * 9), ""),
        Poison("surplus fields", event(1, START_MS, more={"deep": [1, {"er": None}]}), ""),
        Poison("5 MB that nobody reads", event(1, START_MS, more="x" * 5_000_000), ""),
        Poison("a duplicate field: the last counts", _twice("amount", "2.5"), ""),
        Poison("blanks around", b" \n" + event(1, START_MS) + b"\n", ""),
        Poison("no nullable field", event(1, START_MS, shop=...), ""),
        Poison("exactly max_ahead ahead", event(1, _AHEAD_MS), ""),
    ]


def generated(n: int, seed: int) -> Iterator[Poison]:
    """``n`` inputs that cannot be events, made from good ones by chance: all refused."""
    chance = random.Random(seed)  # noqa: S311  # for tests
    kinds = list(_MAKERS.items())
    for number in range(n):
        (kind, reason), make = kinds[number % len(kinds)]
        yield Poison(f"{kind} {number}", make(chance, number), reason)


def _add_byte(chance: random.Random, number: int) -> bytes:
    good = event(number, START_MS)
    place = good.index(b": ") + 4  # in a value
    return good[:place] + bytes([chance.randrange(0x80, 0x100)]) + good[place:]


def _wrong_type(chance: random.Random, number: int) -> bytes:
    field = chance.choice(["id", "card", "at", "amount", "shop"])
    return event(number, START_MS, **{field: chance.choice([[chance.random()], {"v": number}, bool(number & 1)])})


def _cut(chance: random.Random, number: int) -> bytes:
    good = event(number, START_MS)
    return good[: chance.randrange(1, len(good) - 1)]


def _shape(chance: random.Random, number: int) -> bytes:
    return json.dumps(chance.choice([number, f"w{number}", [number], [[], number]])).encode()


_MAKERS: dict[tuple[str, str], Callable[[random.Random, int], bytes]] = {
    ("cut", "not_json"): _cut,
    ("byte", "not_json"): _add_byte,
    ("noise", "not_json"): lambda chance, _: b"#" + chance.randbytes(chance.randrange(500)),
    ("shape", "not_an_object"): _shape,
    ("type", "wrong_type"): _wrong_type,
    ("missing", "missing_field"): lambda c, n: event(n, START_MS, **{c.choice(["id", "card", "at", "amount"]): ...}),
    ("key", "empty_key"): lambda c, n: event(n, START_MS, **{c.choice(["id", "card"]): ""}),
    ("early", "time_too_early"): lambda c, n: event(n, c.randrange(-(2**63), 10**12)),
    ("late", "time_too_late"): lambda c, n: event(n, c.randrange(2 * 10**12, 2**63)),
    ("ahead", "time_ahead"): lambda c, n: event(n, _AHEAD_MS + c.randrange(1, 1000 * DAY_MS)),
}
