"""Rows of tile stores that are not in memory: on disk, or on their way to it.

What is on disk is never ahead of the committed changelog. What a transaction changes waits until it is committed, and
is then written with the position up to which all of the changelog is in there: a snapshot, after which a take-over
reads only what follows. Being behind does no harm: the changelog holds values, not differences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

_ROW = b"r"
_CLOCK = b"c"
_LOG = b"l"
_POSITION = b"p"
_ALL = 2**62

#: About the most rows that wait to be written after their transaction was committed.
_MOST_WAITING = 5_000


class RowsOnDisk(Protocol):
    """A store of bytes by key on disk, of one owner.

    What it holds may be lost as a whole, or be that of an earlier `write`; never a part of one.
    """

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys."""
        ...

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Set and delete (None), all or nothing."""
        ...

    def scan(self, prefix: bytes, after: bytes, most: int) -> list[tuple[bytes, bytes]]:
        """The first entries that begin with a prefix, of keys greater than ``after``, in the order of their keys."""
        ...

    def clear(self) -> None:
        """Delete everything."""
        ...


class Snapshot(msgspec.Struct, frozen=True):
    """What is on disk: everything that the changelog holds before ``position``, written at a time of processing."""

    feature_set: str
    generation: int
    position: int
    written_ms: int


class RowCache:
    """Reads rows through what is not yet on disk.

    Parameters
    ----------
    disk
        Where they go.
    most_keys
        How many keys of each kind whoever reads may keep in memory.
    """

    def __init__(self, disk: RowsOnDisk, most_keys: int) -> None:
        self._disk = disk
        self.most_keys = most_keys
        self._open: dict[bytes, bytes | None] = {}
        self._sealed: deque[dict[bytes, bytes | None]] = deque()
        self._committed: dict[bytes, bytes | None] = {}

    def read_rows(self, name: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of keys of a store."""
        wanted = [_ROW + name + key for key in keys]
        rows: dict[bytes, bytes | None] = {}
        for layer in (self._committed, *self._sealed, self._open):  # the newest goes last
            if layer:
                rows.update((key, layer[key]) for key in wanted if key in layer)
        missing = [key for key in wanted if key not in rows]
        rows.update(zip(missing, self._disk.read(missing) if missing else (), strict=True))
        return [rows[key] for key in wanted]

    def put_rows(self, name: bytes, rows: Mapping[bytes, bytes | None]) -> None:
        """Note rows as they are at the end of the transaction under way; None or b"": none."""
        self._open.update((_ROW + name + key, row or None) for key, row in rows.items())

    def put_log(self, changes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Note other records of the changelog, by what names them there."""
        self._open.update((_LOG + key, value) for key, value in changes)

    def scan_rows(self, name: bytes, after: bytes, most: int) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Rows on disk for which nothing newer is on its way, and the key to go on after (None: that was all)."""
        prefix = _ROW + name
        entries = self._disk.scan(prefix, prefix + after, most)
        layers = (self._committed, *self._sealed, self._open)
        rows = [(key[len(prefix) :], row) for key, row in entries if not any(key in layer for layer in layers)]
        return rows, entries[-1][0][len(prefix) :] if len(entries) == most else None

    def put_clock(self, name: bytes, value: bytes) -> None:
        """Note the newest tile of all operations of a store."""
        self._open[_CLOCK + name] = value

    def read_clocks(self) -> list[tuple[bytes, bytes]]:
        """The clocks on disk, by store."""
        return [(key[1:], value) for key, value in self._disk.scan(_CLOCK, _CLOCK, _ALL)]

    def read_log(self) -> list[tuple[bytes, bytes]]:
        """The other records on disk."""
        return [(key[1:], value) for key, value in self._disk.scan(_LOG, _LOG, _ALL)]

    # -- transactions ------------------------------------------------------------------------------------------------

    def seal(self) -> None:
        """End the transaction under way: what is noted from now on belongs to the next."""
        self._sealed.append(self._open)
        self._open = {}

    def commit(self) -> None:
        """The oldest transaction that was sealed has been committed."""
        self._committed.update(self._sealed.popleft())

    @property
    def wants_write(self) -> bool:
        """Whether enough waits to be written."""
        return len(self._committed) >= _MOST_WAITING

    def write(self, snapshot: Snapshot) -> None:
        """Write what was committed; the changelog before the snapshot's position must hold no more than that."""
        self._disk.write({**self._committed, _POSITION: msgspec.msgpack.encode(snapshot)})
        self._committed = {}

    def snapshot(self) -> Snapshot | None:
        """What is on disk; None for nothing, or nothing that can be used."""
        (written,) = self._disk.read([_POSITION])
        try:
            return None if written is None else msgspec.msgpack.decode(written, type=Snapshot)
        except msgspec.DecodeError:
            return None

    def clear(self) -> None:
        """Forget everything, on disk and on its way to it."""
        self._open, self._committed = {}, {}
        self._sealed.clear()
        self._disk.clear()
