"""Segments: parts of the events by the values of a column, such as "origin=EWR".

Each column that the pipeline file names under ``[drift] segments`` cuts all events: by the values of a category, by
"unseen" for a value that is none of them and by "missing"; a bool by "true", "false" and "missing". So the segments of
one column add up to all events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schemas.pipeline.spec import MISSING, UNSEEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from schemas.pipeline.spec import Feature, Pipeline

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


class Segments:
    """The segments of a pipeline, by number.

    Every value of every category and bool has a number, whether its column is chosen or not. So numbers depend on the
    feature set alone, and what the state of a partition holds means the same after other columns are chosen.

    Parameters
    ----------
    features
        Of the pipeline, in the order of the matrix.
    chosen
        The names of those that cut.

    Attributes
    ----------
    names
        Of the segments, by number.
    is_chosen
        By number.
    """

    def __init__(self, features: Sequence[Feature], chosen: Sequence[str]) -> None:
        names: list[str] = []
        is_chosen: list[bool] = []
        columns = []
        for column, feature in enumerate(features):
            values = _values(feature)
            if feature.name in chosen:
                columns.append((column, len(names), len(names) + len(values) - 1, feature.type == "bool"))
            names += [f"{feature.name}={value}" for value in values]
            is_chosen += [feature.name in chosen] * len(values)
        self.names = tuple(names)
        self.is_chosen = np.array(is_chosen, dtype=bool)
        self._columns = np.array([column for column, *_ in columns], dtype=np.intp)
        self._first = np.array([first for _, first, _, _ in columns], dtype=np.float64)
        self._missing = np.array([missing for _, _, missing, _ in columns], dtype=np.float64)
        self._is_flag = np.array([is_flag for *_, is_flag in columns], dtype=bool)

    @classmethod
    def of(cls, pipeline: Pipeline) -> Segments:
        return cls(pipeline.features, pipeline.drift.segments)

    def __bool__(self) -> bool:
        return len(self._columns) > 0

    def find(self, matrix: Floats) -> Ints:
        """The segment of each event for each chosen column: columns x events.

        Examples
        --------
        >>> from schemas.pipeline.spec import Feature
        >>> segments = Segments([Feature("kind", "category", values=("a",)), Feature("is_new", "bool")], ["is_new"])
        >>> segments.names
        ('kind=a', 'kind=unseen', 'kind=missing', 'is_new=false', 'is_new=true', 'is_new=missing')
        >>> segments.find(np.array([[0.0, 1.0], [1.0, np.nan]])).tolist()
        [[4, 5]]
        """
        codes = matrix[:, self._columns]
        is_missing = np.isnan(codes)
        codes[self._is_flag & (codes != 0)] = 1.0
        return np.where(is_missing, self._missing, codes + self._first).T.astype(np.int64)

    def split(self, matrix: Floats) -> Iterator[tuple[str, Ints]]:
        """Each segment that has events, with the places of these, column by column.

        Examples
        --------
        >>> from schemas.pipeline.spec import Feature
        >>> segments = Segments([Feature("is_new", "bool")], ["is_new"])
        >>> [(name, places.tolist()) for name, places in segments.split(np.array([[1.0], [0.0], [1.0]]))]
        [('is_new=false', [1]), ('is_new=true', [0, 2])]
        """
        for numbers in self.find(matrix):
            order = np.argsort(numbers, kind="stable")
            there, starts = np.unique(numbers[order], return_index=True)
            parts = np.split(order, starts[1:]) if len(order) else []
            for number, places in zip(there.tolist(), parts, strict=True):
                yield self.names[number], places


def _values(feature: Feature) -> tuple[str, ...]:
    if feature.type == "category":
        return (*feature.values, UNSEEN, MISSING)
    return ("false", "true", MISSING) if feature.type == "bool" else ()
