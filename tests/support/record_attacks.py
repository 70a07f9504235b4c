"""What strangers may write to a topic: good records that are changed by their structure or by their bytes.

Nothing here knows what a record means. A change is made of a seed, so that a failure can be repeated.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

Codec = Literal["json", "packed", "bytes"]
Headers = tuple[tuple[str, bytes], ...]


class Raw(NamedTuple):
    """A record as it lies on a topic."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


_MARK = "@@here@@"
_DEEP = 100_000
_EXTREMES = [0, 1, -1, 2**31, 2**32, 2**53, 2**53 + 1, 2**62, -(2**62), 2**63 - 1, -(2**63), 10**13, 1_700_000_000_000]

#: In place of any part of a record: each as bytes of the codec.
_JSON = [
    *(json.dumps(number).encode() for number in (*_EXTREMES, 2**64, 10**30, -(10**30), 1.5, -0.5, 1e308, True, False)),
    b"null",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-0",
    b"9" * 5_000,
    b'""',
    b'"x"',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"\xff\xfe"',
    b'"' + b"x" * 5_000 + b'"',
    b'"1.0.0"',
    b'"2024-01-01T00:00:00Z"',
    b"[]",
    b"{}",
    b"[[]]",
    b'{"":null}',
    b"[" * _DEEP + b"]" * _DEEP,
    b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
]
_PARTS: tuple[Any, ...] = (None, True, False, "", "x", "\0", "x" * 5_000, "1.0.0", [], {}, [[]])
_PACKED = [
    *(msgspec.msgpack.encode(number) for number in (*_EXTREMES, 2**64 - 1, 1.5, -0.5, float("nan"), float("inf"))),
    *(msgspec.msgpack.encode(part) for part in _PARTS),
    *(msgspec.msgpack.encode(part) for part in (b"", b"\0", bytes(8), bytes(16), b"\xff" * 8, b"\xc1", [b""], [1])),
    b"\xa2\xff\xfe",  # text that is no UTF-8
    b"\xc1",  # no type
    b"\xdb\xff\xff\xff\xff",  # lengths that lie
    b"\xc6\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc7\x0c\xff" + bytes(12),  # a time stamp
    b"\x91" * _DEEP + b"\xc0",
    b"\x81\xa1a" * _DEEP + b"\xc0",
]


def attack(goods: Sequence[Raw], codec: Codec, seed: int) -> Raw:
    """One of the records, changed in one to three ways, as the seed says."""
    rng = random.Random(seed)  # noqa: S311  # to be repeated
    raw = rng.choice(goods)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        part = rng.random()
        if raw.headers and part < 0.6:
            raw = raw._replace(headers=_change_headers(raw.headers, rng))
        elif part < 0.8 or raw.key is None:
            raw = raw._replace(value=_change_value(raw.value, goods, codec, rng))
        elif rng.random() < 0.1:
            raw = raw._replace(key=rng.choice((None, b"", b"\0", rng.choice(goods).key)))
        else:
            raw = raw._replace(key=change_bytes(raw.key or b"", rng.choice(goods).key or b"", rng))
    return raw


def _change_value(value: bytes | None, goods: Sequence[Raw], codec: Codec, rng: random.Random) -> bytes | None:
    if value is None or rng.random() < 0.02:
        return rng.choice((None, b"", rng.choice(goods).value))
    changed = None
    if codec != "bytes" and rng.random() < 0.75:
        changed = _change_structure(value, codec, rng)
    if changed is None and len(value) % 8 == 0 and rng.random() < 0.5:
        changed = _change_column(value, rng)
    return change_bytes(value, rng.choice(goods).value or b"", rng) if changed is None else changed


def _change_headers(headers: Headers, rng: random.Random) -> Headers:
    found = list(headers)
    at = rng.randrange(len(found))
    name, data = found[at]
    match rng.randrange(6):
        case 0:
            del found[at]
        case 1:
            found.append((name, b"again"))
        case 2:
            found[at] = name, None  # type: ignore[assignment]  # Kafka has headers without a value
        case 3:
            found[at] = name, str(rng.choice([*_EXTREMES, 10**40, "٣", "1_0", " 1", "0x1", "-", ""])).encode()
        case 4:
            found[at] = change_text(name, rng), data
        case _:
            found[at] = name, change_bytes(data or b"", b"\xff\xfe", rng)
    return tuple(found)


def change_text(text: str, rng: random.Random) -> str:
    """Another text."""
    return rng.choice(("", text[:-1], text + "x", text * 100, "\0", text.upper()))


# -- by bytes ----------------------------------------------------------------------------------------------------------


def change_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:  # noqa: C901  # a way a line
    """The bytes with some flipped, cut, added or put in place; ``other``: of another record."""
    found = bytearray(data)
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    match rng.randrange(9):
        case 0:
            for _ in range(rng.randrange(1, 9)):
                if found:
                    found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
        case 1:
            del found[at:]
        case 2:
            del found[at:end]
        case 3:
            found[at:at] = found[at:end]
        case 4:
            found[at:at] = rng.randbytes(rng.randrange(1, 20))
        case 5:
            cut = rng.randrange(len(other) + 1)
            found[at:] = other[cut:]
        case 6:
            found[:] = rng.randbytes(rng.randrange(200))
        case 7:
            found[at : at + 8] = struct.pack(rng.choice(("<q", ">q")), rng.choice(_EXTREMES))
        case _:
            found[at:end] = rng.choice((b"\xff", b"\0")) * (end - at)
    return bytes(found)


# -- by structure ------------------------------------------------------------------------------------------------------

_Place = tuple[Any, Any]  # a container, and where in it


def _change_structure(value: bytes, codec: Codec, rng: random.Random) -> bytes | None:
    """The value with one part changed; None when it has no structure."""
    try:
        tree = json.loads(value) if codec == "json" else msgspec.msgpack.decode(value)
    except (ValueError, RecursionError, msgspec.DecodeError, UnicodeError, MemoryError):
        return None
    root = [tree]
    places: list[_Place] = []
    _walk(root, places)
    container, at = rng.choice(places)
    part = container[at]
    fragment: bytes | None = None
    changes = _CHANGES.get(type(part), ())
    if changes and rng.random() < 0.6:
        container[at] = rng.choice(changes)(part, rng)
    elif container is not root and rng.random() < 0.3:
        _rearrange(container, at, rng)
    else:
        container[at] = _MARK
        fragment = rng.choice(_JSON if codec == "json" else _PACKED)
    try:
        encoded = json.dumps(root[0]).encode() if codec == "json" else msgspec.msgpack.encode(root[0])
    except (ValueError, OverflowError, TypeError, RecursionError, UnicodeError):
        return None
    mark = json.dumps(_MARK).encode() if codec == "json" else msgspec.msgpack.encode(_MARK)
    return encoded if fragment is None else encoded.replace(mark, fragment)


def _walk(container: Any, places: list[_Place]) -> None:
    for at in list(container) if isinstance(container, dict) else range(len(container)):
        places.append((container, at))
        if isinstance(container[at], (dict, list)):
            _walk(container[at], places)


def _rearrange(container: Any, at: Any, rng: random.Random) -> None:
    """Leave a part out, add one, or have two change places."""
    way = rng.randrange(3)
    if isinstance(container, dict):
        if way == 0:
            del container[at]
        elif way == 1:
            container[rng.choice(("", "more", str(at) + "x", str(at).upper()))] = container[at]
        else:
            other = rng.choice(list(container))
            container[at], container[other] = container[other], container[at]
    elif way == 0:
        del container[at]
    elif way == 1:
        container.insert(at, container[at])
    else:
        other = rng.randrange(len(container))
        container[at], container[other] = container[other], container[at]


def _change_number(number: int, rng: random.Random) -> int:
    steps = (1, -1, 1_000, 86_400_000, 2**40)
    changed = rng.choice((-number, number * 1_000, number // 1_000, number + rng.choice(steps), number ^ (1 << 40)))
    return max(-(2**63), min(changed, 2**63 - 1))


def _change_column(data: bytes, rng: random.Random) -> bytes:
    """Bytes of numbers, or of a key: one of them another, or more, fewer, or in another order."""
    width = rng.choice((1, 4, 8))
    words = [data[at : at + width] for at in range(0, len(data), width)]
    match rng.randrange(6):
        case 0 if words:
            packed = struct.pack("<q", rng.choice(_EXTREMES))
            words[rng.randrange(len(words))] = packed[:width]
        case 1 if words:
            words[rng.randrange(len(words))] = rng.choice((b"\xff", b"\0", b"\x80")) * width
        case 2:
            words.reverse()
        case 3:
            words += words
        case 4 if words:
            del words[rng.randrange(len(words))]
        case _:
            return change_bytes(data, data, rng)
    return b"".join(words)


def _change_list(parts: list[Any], rng: random.Random) -> list[Any]:
    return rng.choice(([], parts * 2, parts[::-1], parts[1:], parts * 300 if len(parts) < 10 else parts))


_CHANGES: dict[type, tuple[Callable[[Any, random.Random], Any], ...]] = {
    int: (_change_number,),
    bytes: (_change_column,),
    list: (_change_list,),
    str: (change_text,),
    float: (lambda number, rng: rng.choice((-number, number * 1e300, 0.0, 1e-320)),),
}
