"""Point-in-time join: what the batch data said about an event when it happened, and nothing that was known later."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np

from app.core.batches import Column, Ints
from schemas.pipeline.expression import Kind
from schemas.pipeline.spec import Lookup, PipelineError


class LookupTable:
    """The data of one lookup, sorted by key and by the time from which each row is known.

    An event at time t joins the newest row of its key that is known at t: its time + known_after <= t, and
    t - its time - known_after < max_age. Of rows of the same key and time the last one counts. Null equals nothing.
    """

    def __init__(
        self, spec: Lookup, codes: dict[Any, int], starts: Ints, known_ms: Ints, columns: dict[str, Column]
    ) -> None:
        self.spec = spec
        self._codes = codes
        self._starts = starts
        self._known_ms = known_ms
        self._columns = columns
        # Row positions by (code, time) as one sorted number; times are ranks, so that it cannot overflow.
        self._times, ranks = np.unique(known_ms, return_inverse=True)
        self._width = len(self._times) + 1
        code_of_row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        self._places = code_of_row * self._width + ranks

    @classmethod
    def build(cls, spec: Lookup, columns: dict[str, Column]) -> LookupTable:
        """Sort the data of a lookup.

        Parameters
        ----------
        spec
            The lookup.
        columns
            Arrays of one length: the key columns, those that ``spec.columns`` names, and ``spec.time`` as int64 ms.
            Texts are object arrays of ``str | None``, numbers float64.

        Raises
        ------
        PipelineError
            When keys repeat in a lookup without time.
        """
        keys = [columns[column] for column in spec.keys]
        has_key = np.array([None not in row for row in zip(*(key.tolist() for key in keys), strict=True)], dtype=bool)
        columns = {name: column[has_key] for name, column in columns.items()}
        rows = _rows([columns[column] for column in spec.keys])
        codes: dict[Any, int] = {}
        code = np.array([codes.setdefault(row, len(codes)) for row in rows], dtype=np.int64)
        if spec.time is None:
            if len(codes) < len(rows):
                twice = rows[int(np.flatnonzero(np.bincount(code)[code] > 1)[0])]
                raise PipelineError(
                    f"lookups.{spec.name}: {', '.join(spec.keys)} = {twice!r} is there twice; make keys unique, or "
                    "name the time column that tells the rows apart."
                )
            known_ms = np.zeros(len(rows), dtype=np.int64)
        else:
            known_ms = columns[spec.time].astype(np.int64) + spec.known_after_ms
        order = np.lexsort((known_ms, code))  # stable: of equal rows the last stays last
        starts = np.searchsorted(code[order], np.arange(len(codes) + 1))
        data = {name: columns[name][order] for name in spec.columns}
        return cls(spec, codes, starts, known_ms[order], data)

    def __len__(self) -> int:
        return len(self._known_ms)

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each column holds."""
        return {name: "text" if column.dtype == object else "number" for name, column in self._columns.items()}

    def join(self, keys: list[Column], event_time_ms: Ints) -> dict[str, Column]:
        """The columns of the lookup for events.

        Parameters
        ----------
        keys
            One array per key column, in the order of ``spec.keys``.
        event_time_ms
            Event times, in any order.

        Returns
        -------
        Arrays of one length with the events; None or NaN where no row is known.
        """
        row = self._find(keys, event_time_ms)
        missing = row < 0
        if not len(self._known_ms):
            return {name: _nothing(column, len(row)) for name, column in self._columns.items()}
        joined = {name: column[row] for name, column in self._columns.items()}  # row -1 is overwritten below
        if missing.any():
            for column in joined.values():
                column[missing] = None if column.dtype == object else np.nan
        return joined

    def _find(self, keys: list[Column], event_time_ms: Ints) -> Ints:
        code = np.array(list(map(self._codes.get, _rows(keys), repeat(-1))), dtype=np.int64)
        if self.spec.time is None:
            return np.where(code >= 0, self._starts[code], -1)
        rank = np.searchsorted(self._times, event_time_ms, side="right")
        row = np.searchsorted(self._places, code * self._width + rank) - 1
        is_known = row >= self._starts[code]  # of an unknown key the row is -1
        if self.spec.max_age_ms is not None and len(self._known_ms):
            is_known &= event_time_ms - self._known_ms[row] < self.spec.max_age_ms
        return np.where(is_known, row, -1)


def _nothing(column: Column, rows: int) -> Column:
    return np.full(rows, None) if column.dtype == object else np.full(rows, np.nan)


def _rows(columns: list[Column]) -> list[Any]:
    if len(columns) == 1:
        rows: list[Any] = columns[0].tolist()
        return rows
    return list(zip(*(column.tolist() for column in columns), strict=True))
