"""Rows "on disk" in a dict, with the writes counted: the fake of `app.adapters.rocks_rows.RocksRows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class RowsInMemory:
    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.writes = 0

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.entries.get(key) for key in keys]

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        self.writes += 1
        for key, value in changes.items():
            if value is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = value

    def scan(self, prefix: bytes, after: bytes, most: int) -> list[tuple[bytes, bytes]]:
        found = sorted((key, value) for key, value in self.entries.items() if key.startswith(prefix) and key > after)
        return found[:most]

    def clear(self) -> None:
        self.entries.clear()
