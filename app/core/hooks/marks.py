"""What is settled behind a committed offset: kept as the metadata of the commit, so that a crash repeats little.

One delivery that waits holds the offset of its partition back, while hundreds behind it are told. Without a mark, the
next owner would tell those again.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec

#: Brokers take 4096 bytes by default.
_MOST_CHARACTERS = 3_500


@dataclass(frozen=True)
class Mark:
    """Of one partition of a topic.

    ``read_to``: what hooks to Kafka have to tell of records before it is told. ``end``: what other hooks have to tell
    of records before it is settled, but for the offsets in ``open``, by hook.
    """

    read_to: int = 0
    end: int = 0
    open: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def settles(self, hook: str, offset: int) -> bool:
        """Whether a hook over HTTP has nothing to tell of an offset any more."""
        return offset < self.end and offset not in self.open.get(hook, ())

    def beyond(self, offset: int) -> dict[str, frozenset[int]]:
        """Those of the open offsets that are not before an offset."""
        return {hook: frozenset(each for each in offsets if each >= offset) for hook, offsets in self.open.items()}

    def encode(self, position: int) -> str:
        """The metadata of a commit of this position; as much of it as a broker takes.

        Examples
        --------
        >>> mark = Mark(120, 120, {"crm": frozenset({100, 104})})
        >>> Mark.decode(mark.encode(100), 100) == mark
        True
        """
        end = self.end
        while True:
            gaps = {
                hook: _gaps(position, (each for each in offsets if each < end)) for hook, offsets in self.open.items()
            }
            text = _pack(self.read_to - position, end - position, {hook: each for hook, each in gaps.items() if each})
            if len(text) <= _MOST_CHARACTERS:
                return text
            end = position + (end - position) // 2

    @classmethod
    def decode(cls, text: str, position: int) -> Mark:
        """What `encode` has made; for anything else, a mark that settles nothing."""
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 1 << 20)
            read_to, end, gaps = msgspec.msgpack.decode(packed, type=tuple[int, int, dict[str, list[int]]])
        except (binascii.Error, ValueError, zlib.error, msgspec.MsgspecError):
            return cls()
        found = {hook: frozenset(_sums(position, each)) for hook, each in gaps.items()}
        return cls(position + read_to, position + end, found)


def _pack(read_to: int, end: int, gaps: Mapping[str, list[int]]) -> str:
    return base64.b64encode(zlib.compress(msgspec.msgpack.encode((read_to, end, gaps)))).decode()


def _gaps(position: int, offsets: Iterable[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise([position, *sorted(offsets)])]


def _sums(position: int, gaps: Iterable[int]) -> Iterable[int]:
    for gap in gaps:
        position += gap
        yield position
