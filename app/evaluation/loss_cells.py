"""Cells of a regressor's loss: the leaves of a tree that predicts it, and what the reference lost in each.

One half of the reference tells the tree what the loss depends on; the other half, which it has not seen, says what is
lost in each leaf. Of a window only its events per leaf are needed: counts that add up, over any number of workers.
`app.evaluation.direct_loss` makes an estimate of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.tree import DecisionTreeRegressor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

_MOST_CELLS = 64
#: Events of the half that the tree is fitted on; a leaf of fewer says little about its loss.
_FEWEST_IN_CELL = 100


@dataclass(frozen=True, eq=False)
class LossCells:
    """What is known of a loss.

    Parameters
    ----------
    tree
        Says of each event in which leaf it is.
    leaves
        Their numbers in the tree, ascending.
    loss_sums, loss_squares, counts
        Of the reference's events in each leaf: sum of the losses, of their squares, and how many.
    """

    tree: Any
    leaves: Ints
    loss_sums: Floats
    loss_squares: Floats
    counts: Ints

    @classmethod
    def fit(cls, matrix: Floats, predictions: Floats, losses: Floats, *, seed: int = 0) -> LossCells:
        """Fit the tree on every second event and count the others in its leaves.

        Parameters
        ----------
        matrix, predictions
            Of events that the model was not fitted on, events x features (NaN: missing), and what it predicted.
        losses
            Of each event, such as the absolute or the squared error.
        """
        if not len(matrix) == len(predictions) == len(losses) or len(losses) < 2:
            raise ValueError(
                f"{len(matrix)} rows, {len(predictions)} predictions and {len(losses)} losses do not fit together; "
                "give one of each per event, and two events or more"
            )
        inputs = _inputs(matrix, predictions)
        tree = DecisionTreeRegressor(
            max_leaf_nodes=_MOST_CELLS, min_samples_leaf=min(_FEWEST_IN_CELL, len(losses) // 2), random_state=seed
        ).fit(inputs[::2], losses[::2])
        leaves = np.flatnonzero(tree.tree_.children_left < 0)
        cells, kept = np.searchsorted(leaves, tree.apply(inputs[1::2])), losses[1::2]
        counts = np.bincount(cells, minlength=len(leaves))
        sums = np.bincount(cells, weights=kept, minlength=len(leaves)).astype(np.float64)
        squares = np.bincount(cells, weights=kept**2, minlength=len(leaves)).astype(np.float64)
        return cls(tree, leaves, sums, squares, counts)

    def count(self, matrix: Floats, predictions: Floats) -> Ints:
        """Events per leaf."""
        if not len(matrix):
            return np.zeros(len(self.leaves), np.int64)
        cells = np.searchsorted(self.leaves, self.tree.apply(_inputs(matrix, predictions)))
        return np.bincount(cells, minlength=len(self.leaves))


def _inputs(matrix: Floats, predictions: Floats) -> Floats:
    joined = np.column_stack([matrix, predictions])
    return np.where(np.isfinite(joined), joined, np.nan)
