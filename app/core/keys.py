"""Window keys as small integers: the rows of the tile stores that share a key."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import msgspec
import numpy as np

from app.core.batches import Column, Ints

#: A key that no update has used, and one with a null in it (which no window knows).
UNKNOWN = -1
NULL = -2


class KeyIndex:
    """The codes of the keys over one tuple of event fields. Codes are dense; those of removed keys are used again."""

    def __init__(self) -> None:
        self._codes: dict[Any, int] = {}
        self._keys: list[Any] = []
        self._encoded: list[bytes] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def capacity(self) -> int:
        """One more than the highest code in use so far."""
        return len(self._keys)

    def find(self, columns: list[Column]) -> Ints:
        """The code of each row's key: `UNKNOWN` for a new one, `NULL` where a column is null."""
        codes = np.array(list(map(self._codes.get, _rows(columns), repeat(UNKNOWN))), dtype=np.int64)
        return self._mark_nulls(codes, columns)

    def find_or_add(self, columns: list[Column]) -> Ints:
        """As `find`, but a new key gets a code."""
        codes = self.find(columns)
        if (codes == UNKNOWN).any():
            rows = _rows(columns)
            for position in np.flatnonzero(codes == UNKNOWN).tolist():
                codes[position] = self._add(rows[position])
        return codes

    def add_encoded(self, encoded: bytes) -> int:
        """The code of a key given as the bytes that `encoded` returned."""
        values = msgspec.msgpack.decode(encoded)
        key = values[0] if len(values) == 1 else tuple(values)
        code = self._codes.get(key)
        return self._add(key) if code is None else code

    def encoded(self, code: int) -> bytes:
        return self._encoded[code]

    def remove(self, code: int) -> None:
        del self._codes[self._keys[code]]
        self._keys[code] = None
        self._encoded[code] = b""
        self._free.append(code)

    def in_use(self) -> Ints:
        """The codes of all keys."""
        return np.fromiter(self._codes.values(), dtype=np.int64, count=len(self._codes))

    def _add(self, key: Any) -> int:
        code = self._codes.get(key)
        if code is not None:
            return code
        encoded = msgspec.msgpack.encode(key if isinstance(key, tuple) else (key,))
        if self._free:
            code = self._free.pop()
            self._keys[code], self._encoded[code] = key, encoded
        else:
            code = len(self._keys)
            self._keys.append(key)
            self._encoded.append(encoded)
        self._codes[key] = code
        return code

    @staticmethod
    def _mark_nulls(codes: Ints, columns: list[Column]) -> Ints:
        for column in columns:
            if column.dtype == object:
                is_null = np.fromiter((value is None for value in column.tolist()), dtype=bool, count=len(column))
            else:
                is_null = np.isnan(column)
            if is_null.any():
                codes[is_null] = NULL
        return codes


def _rows(columns: list[Column]) -> list[Any]:
    if len(columns) == 1:
        rows: list[Any] = columns[0].tolist()
        return rows
    return list(zip(*(column.tolist() for column in columns), strict=True))
