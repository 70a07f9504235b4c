"""Categories as models take them: a value that is not in the vocabulary counts as missing.

The feature matrix keeps the two apart (code ``len(values)`` and NaN), because drift tests must. But a model has learnt
nothing of a value that was in no vocabulary. So fitting and scoring look at the matrix through `Vocabularies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]


class Vocabularies:
    """How many values the category of each column has.

    Parameters
    ----------
    sizes
        Per column of the matrix; 0 for a column that is not a category.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._columns = np.flatnonzero(sizes)
        self._sizes = np.array(sizes, dtype=np.float64)[self._columns]

    def __bool__(self) -> bool:
        return len(self._columns) > 0

    def unseen_as_missing(self, matrix: Floats) -> Floats:
        """The matrix with NaN for codes past a vocabulary; the matrix itself, not a copy, where there are none.

        Examples
        --------
        >>> Vocabularies([0, 2]).unseen_as_missing(np.array([[7.0, 1.0], [7.0, 2.0]])).tolist()
        [[7.0, 1.0], [7.0, nan]]
        """
        codes = matrix[:, self._columns]
        unseen = codes >= self._sizes
        if not unseen.any():
            return matrix
        known = matrix.copy()
        known[:, self._columns] = np.where(unseen, np.nan, codes)
        return known
