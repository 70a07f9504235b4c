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
        self._free: list[int] = []
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder().decode

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def capacity(self) -> int:
        """One more than the highest code in use so far."""
        return len(self._keys)

    def find(self, columns: list[Column]) -> Ints:
        """The code of each row's key: `UNKNOWN` for a new one, `NULL` where a column is null."""
        return self._find(_rows(columns), columns)

    def find_or_add(self, columns: list[Column]) -> Ints:
        """As `find`, but a new key gets a code."""
        rows = _rows(columns)
        codes = self._find(rows, columns)
        for position in np.flatnonzero(codes == UNKNOWN).tolist():
            codes[position] = self.add(rows[position])
        return codes

    def unknown(self, columns: list[Column]) -> list[Any]:
        """The keys of rows that have no code, each once."""
        rows = _rows(columns)
        return list(dict.fromkeys(rows[at] for at in np.flatnonzero(self._find(rows, columns) == UNKNOWN).tolist()))

    def add(self, key: Any) -> int:
        """The code of a key (one value, or a tuple of several); a new one gets one."""
        code = self._codes.get(key)
        if code is not None:
            return code
        if self._free:
            code = self._free.pop()
            self._keys[code] = key
        else:
            code = len(self._keys)
            self._keys.append(key)
        self._codes[key] = code
        return code

    def add_encoded(self, encoded: bytes) -> int:
        """The code of a key given as bytes."""
        return self.add(self.decode(encoded))

    def has_encoded(self, encoded: bytes) -> bool:
        """Whether a key given as bytes has a code."""
        return self.decode(encoded) in self._codes

    def encode(self, key: Any) -> bytes:
        """A key as bytes that name it in a changelog."""
        return self._encode(key if isinstance(key, tuple) else (key,))

    def decode(self, encoded: bytes) -> Any:
        """The key that was encoded."""
        values = self._decode(encoded)
        return values[0] if len(values) == 1 else tuple(values)

    def encoded(self, code: int) -> bytes:
        """The key of a code, as bytes."""
        return self.encode(self._keys[code])

    def encoded_all(self, codes: Ints) -> list[bytes]:
        """The keys of many codes, as bytes."""
        keys, encode = self._keys, self._encode
        encoded = [keys[code] for code in codes.tolist()]
        if encoded and isinstance(encoded[0], tuple):
            return [encode(key) for key in encoded]
        return [encode((key,)) for key in encoded]

    def remove(self, code: int) -> None:
        """Free a code."""
        del self._codes[self._keys[code]]
        self._keys[code] = None
        self._free.append(code)

    def in_use(self) -> Ints:
        """The codes of all keys."""
        return np.fromiter(self._codes.values(), dtype=np.int64, count=len(self._codes))

    def _find(self, rows: list[Any], columns: list[Column]) -> Ints:
        codes = np.array(list(map(self._codes.get, rows, repeat(UNKNOWN))), dtype=np.int64)
        if (codes < 0).any():  # a key with a null in it never gets a code, so it is among the unknown
            unknown = np.flatnonzero(codes < 0)
            for column in columns:
                values = column[unknown]
                if values.dtype == object:
                    is_null = np.array([value is None for value in values.tolist()], dtype=bool)
                else:
                    is_null = np.isnan(values)
                codes[unknown[is_null]] = NULL
        return codes


def _rows(columns: list[Column]) -> list[Any]:
    if len(columns) == 1:
        rows: list[Any] = columns[0].tolist()
        return rows
    return list(zip(*(column.tolist() for column in columns), strict=True))
