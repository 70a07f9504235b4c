"""Rows under 64-bit hashes of texts, as sorted runs: 8 bytes a row and column, added and looked up in batches.

Two of n different texts have one hash with a probability of n² / 2^65: of ten million, 3 × 10^-6.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.batches import Ints

#: A run is merged into the next older one unless that is at least this many times as long.
_GROWTH = 4


def hash64(data: bytes) -> int:
    """A number for bytes that is the same in every process: BLAKE2b, 64 bits, signed."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows by ascending hash; ``columns`` [c x n]."""

    hashes: Ints
    columns: Ints

    @classmethod
    def of(cls, hashes: Ints, columns: Ints) -> _Run:
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], columns[:, order])


class HashRuns:
    """A bag of rows: a hash, and ``columns`` integers that go with it."""

    def __init__(self, columns: int = 0) -> None:
        self._n_columns = columns
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run.hashes) for run in self._runs)

    def add(self, hashes: Ints, columns: Ints | None = None) -> None:
        """Add rows; ``columns`` [c x n] (None: there are none)."""
        if not len(hashes):
            return
        run = _Run.of(hashes, np.zeros((0, len(hashes)), dtype=np.int64) if columns is None else columns)
        while self._runs and len(self._runs[-1].hashes) < _GROWTH * len(run.hashes):
            older = self._runs.pop()
            run = _Run.of(
                np.concatenate((older.hashes, run.hashes)), np.concatenate((older.columns, run.columns), axis=1)
            )
        self._runs.append(run)

    def has(self, hashes: Ints) -> NDArray[np.bool_]:
        """Which hashes have a row."""
        is_known = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            places = np.minimum(np.searchsorted(run.hashes, hashes), len(run.hashes) - 1)
            is_known |= run.hashes[places] == hashes
        return is_known

    def find(self, hashes: Ints) -> tuple[Ints, Ints]:
        """Every row of these hashes: the position of its hash among them, and its columns [c x m]."""
        groups, columns = [np.zeros(0, dtype=np.int64)], [np.zeros((self._n_columns, 0), dtype=np.int64)]
        for run in self._runs:
            first = np.searchsorted(run.hashes, hashes)
            counts = np.searchsorted(run.hashes, hashes, side="right") - first
            group = np.repeat(np.arange(len(hashes)), counts)
            if len(group):
                steps = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
                groups.append(group)
                columns.append(run.columns[:, first[group] + steps])
        return np.concatenate(groups), np.concatenate(columns, axis=1)

    def rows(self) -> tuple[Ints, Ints]:
        """All rows: hashes, and columns [c x n]."""
        hashes = [np.zeros(0, dtype=np.int64), *(run.hashes for run in self._runs)]
        columns = [np.zeros((self._n_columns, 0), dtype=np.int64), *(run.columns for run in self._runs)]
        return np.concatenate(hashes), np.concatenate(columns, axis=1)
