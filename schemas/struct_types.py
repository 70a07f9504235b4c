"""What msgspec must know of a type before two threads may read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


def build_struct_types() -> None:
    """Have msgspec look at all struct types that are imported; for the one thread that there is at the start.

    It looks at a type when it first decodes one, without a lock: a second thread that decodes one of the same type
    meanwhile reads what is half built, and the process ends with a segmentation fault (seen with msgspec 0.22 when two
    models were tried at once).
    """
    for kind in _subclasses(msgspec.Struct):
        msgspec.json.Decoder(kind)


def _subclasses(kind: type) -> Iterator[type[Any]]:
    children: list[type[Any]] = kind.__subclasses__()
    for child in children:
        yield child
        yield from _subclasses(child)
