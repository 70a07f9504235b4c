"""What a score means: P(label = 1 | score cell), learned from labelled events that the model had not seen.

The map is monotone in the score and coarse where labels are few. Its uncertainty comes with it, because whatever is
estimated by it (`app.core.performance.estimation`) and tested against it (`app.core.performance.label_checks`) inherits
that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from app.core.batches import Floats, Ints
from models.reference.counting import SMALLEST_PROBABILITY

#: A group of cells holds at least a 32nd of the reference's positives or of its negatives (with more than 32 768 of a
#: label, the cube root of them takes the place of 32, or the coarseness would outlast the chance) ...
_GROUPS_PER_LABEL = 32
#: ... and at least so many of them, unless that would leave fewer groups than these.
_FEWEST_LABELS = 10
_FEWEST_GROUPS = 5
#: Events at the overall rate that each group is given beside its own: no probability is ever 0 or 1.
_PRIOR_EVENTS = 0.25


@dataclass(frozen=True, eq=False)
class Calibration:
    """P(y = 1 | cell) over S score cells, and how uncertain it is.

    Parameters
    ----------
    probability
        Per cell; never falling with the score. NaN everywhere when the reference lacks either label.
    by_block, variance
        Cell x block: how much the probability moves with that of each block, and the blocks' variances. A cell without
        labels lies between two blocks, and half of its error is that of either.
    by_gap
        Cell x gap between blocks: how wide a gap the cell lies in; the probability is the middle of it. Monotony leaves
        open where in the gap it is: one unknown for all cells of a gap, taken as uniform.
    slope
        Per cell: how much the probability moves with that of its block; 1 but for what arrival shares have changed.
    threshold_cell
        The first cell with a positive decision.
    losses
        Label x cell: the log loss of an event of that label and cell; None where the mean scores are not known.
    design_effects
        Per measure: how many autocorrelated events count as one; 1 for a measure without.
    costs
        Of a false positive and of a false negative; None: nobody says.
    """

    probability: Floats
    by_block: Floats
    variance: Floats
    by_gap: Floats
    slope: Floats
    threshold_cell: int
    losses: Floats | None
    design_effects: Mapping[str, float]
    costs: tuple[float, float] | None = None

    @property
    def decided(self) -> Floats:
        """Per cell: 1 where the decision is positive, else 0."""
        return (np.arange(len(self.probability)) >= self.threshold_cell).astype(np.float64)

    @property
    def cost_of_cells(self) -> Floats | None:
        """Label x cell: what the decision on such an event costs; None where nobody says."""
        if self.costs is None:
            return None
        of_false_positive, of_false_negative = self.costs
        return np.stack([of_false_positive * self.decided, of_false_negative * (1 - self.decided)])

    def propagated(self, gradients: Floats) -> Floats:
        """The variances of measures due to the errors of this map, from their gradients: measure x cell."""
        moved = np.where(gradients == 0, 0.0, gradients * self.slope)
        variances: Floats = (moved @ self.by_block) ** 2 @ self.variance + ((moved @ self.by_gap) ** 2).sum(axis=1) / 12
        return variances

    def among_arrived(self, arrived: tuple[float, float]) -> Calibration:
        """P(y = 1 | cell, the label is here), when a share ``arrived[y]`` of the labels y is here by now."""
        weight_0, weight_1 = arrived
        if weight_0 == weight_1:
            return self
        negative, positive = (1 - self.probability) * weight_0, self.probability * weight_1
        total = negative + positive
        return replace(self, probability=positive / total, slope=self.slope * weight_0 * weight_1 / total**2)


def fit_calibration(
    reference_outcomes: Ints,
    threshold_cell: int,
    mean_scores: Floats | None = None,
    design_effects: Mapping[str, float] = MappingProxyType({}),
    costs: tuple[float, float] | None = None,
) -> Calibration:
    """Learn P(y = 1 | cell): cells are joined to groups of enough labels, and these made monotone by pooling.

    A group closes when it holds a 32nd of the positives or of the negatives (finer with very many labels), and at least
    10 of that label (with fewer than 50, a fifth of them): fine where positives are, be they rare, and without the
    optimism of pooling single cells, which over-estimates the AUC. No group reaches over the threshold. A cell without
    labels lies between its neighbours (0 and 1 are the neighbours of the outermost), somewhere.

    Parameters
    ----------
    reference_outcomes
        Label (0, 1) x score cell, cells in ascending order of the score: counts of events whose label is known and
        that the model was not fitted on. On its own training rows a model looks better than it is, and so will every
        estimate.
    threshold_cell
        The first cell with a positive decision.
    mean_scores
        Per cell, the mean score of the reference's events in it (NaN for an empty one): what a log loss needs.
    design_effects
        How many autocorrelated events count as one, per measure (`app.core.performance.estimation.design_effects`);
        they widen the bands.

    Examples
    --------
    In the first of two groups 1 of 12 is positive, beside a quarter of an event at the overall rate of 1/2: 1.125 of
    12.25. The cell between them has no labels.

    >>> calibration = fit_calibration(np.array([[11, 0, 1], [1, 0, 11]]), 2)
    >>> (calibration.probability * 12.25).round(6).tolist()
    [1.125, 6.125, 11.125]
    >>> (calibration.by_gap.sum(axis=1) * 12.25).round(6).tolist()
    [0.0, 10.0, 0.0]

    References
    ----------
    M. Ayer et al., "An empirical distribution function for sampling with incomplete information", Ann. Math. Statist.
    26, 1955 (pooling of adjacent violators).
    """
    if reference_outcomes.ndim != 2 or reference_outcomes.shape[0] != 2:
        raise ValueError(f"reference_outcomes is {reference_outcomes.shape}; give label (0, 1) x score cell")
    n_cells = reference_outcomes.shape[1]
    labels = reference_outcomes.sum(axis=0)
    (labelled,) = np.nonzero(labels)
    n_below = int(np.searchsorted(labelled, threshold_cell))
    blocks, rates, variance = _pool(reference_outcomes[:, labelled], n_below)
    cells = np.arange(n_cells)
    nobody = len(rates) - 1  # as block 0 is: certain to be below, or above, all that is known
    before = np.searchsorted(labelled, cells, side="right")
    after = np.searchsorted(labelled, cells, side="left")
    below, above = np.append(0, blocks)[before], np.append(blocks, nobody)[after]
    at_block = np.eye(len(rates))
    is_known = bool(reference_outcomes.any(axis=1).all())
    return Calibration(
        probability=(rates[below] + rates[above]) / 2 if is_known else np.full(n_cells, np.nan),
        by_block=(at_block[below] + at_block[above]) / 2,
        variance=variance,
        by_gap=at_block[below] * (rates[above] - rates[below])[:, None],
        slope=np.ones(n_cells),
        threshold_cell=threshold_cell,
        losses=None if mean_scores is None else _log_losses(mean_scores),
        design_effects=design_effects,
        costs=costs,
    )


def _pool(outcomes: Ints, n_below: int) -> tuple[Ints, Floats, Floats]:
    """The block of each non-empty cell, from 1 on; the rates of blocks 0 to B + 1; and the variances of these rates."""
    groups = _group(outcomes, n_below)
    positives = np.bincount(groups, outcomes[1])
    totals = np.bincount(groups, outcomes.sum(axis=0)).astype(np.float64)
    if not len(totals):
        return np.empty(0, np.int64), np.array([0.0, 1.0]), np.zeros(2)
    overall = positives.sum() / totals.sum()
    starts, rates = _pool_violators(positives + _PRIOR_EVENTS * overall, totals + _PRIOR_EVENTS)
    block_of_group = np.repeat(np.arange(1, len(starts) + 1), np.diff(np.append(starts, len(totals))))
    # Of Jeffreys' posterior, Beta(k + 1/2, n - k + 1/2), so that a block without positives is not certain either.
    n = np.add.reduceat(totals, starts)
    k = np.add.reduceat(positives, starts)
    middle = (k + 0.5) / (n + 1)
    variance = middle * (1 - middle) / (n + 2)
    return block_of_group[groups], np.concatenate([[0.0], rates, [1.0]]), np.concatenate([[0.0], variance, [0.0]])


def _pool_violators(positives: Floats, totals: Floats) -> tuple[Ints, Floats]:
    """Where blocks of groups start, and their rates: neighbours are pooled as long as a rate does not rise."""
    blocks: list[tuple[int, float, float]] = []
    for group in range(len(totals)):
        start, positive, total = group, float(positives[group]), float(totals[group])
        while blocks and blocks[-1][1] * total >= positive * blocks[-1][2]:
            start, more_positive, more = blocks.pop()
            positive, total = positive + more_positive, total + more
        blocks.append((start, positive, total))
    starts, pooled, sizes = zip(*blocks, strict=True)
    return np.array(starts, np.int64), np.array(pooled) / np.array(sizes)


def _group(outcomes: Ints, n_below: int) -> Ints:
    """Number groups of neighbouring cells with enough labels; none reaches over the threshold."""
    enough = [_enough(n) for n in outcomes.sum(axis=1).tolist()]
    below = _group_side(outcomes[:, :n_below], enough)
    above = _group_side(outcomes[:, n_below:], enough)
    return np.concatenate([below, above + (int(below[-1]) + 1 if len(below) else 0)])


def _enough(n_labels: int) -> float:
    """How many labels of one kind make a group, when there are so many in all."""
    share = n_labels / max(_GROUPS_PER_LABEL, math.cbrt(n_labels))
    return max(share, min(_FEWEST_LABELS, n_labels / _FEWEST_GROUPS))


def _group_side(outcomes: Ints, enough: list[float]) -> Ints:
    """Close a group when it has enough of either label; what is left over joins the last one."""
    group, negative, positive = 0, 0, 0
    groups = []
    for more_negative, more_positive in outcomes.T.tolist():
        groups.append(group)
        negative, positive = negative + more_negative, positive + more_positive
        if negative >= enough[0] or positive >= enough[1]:
            group, negative, positive = group + 1, 0, 0
    return np.minimum(np.array(groups, np.int64), max(group - 1, 0))


def _log_losses(mean_scores: Floats) -> Floats:
    """-log(1 - s) and -log(s) of each cell; an empty cell takes the score between its neighbours'."""
    (known,) = np.nonzero(~np.isnan(mean_scores))
    if not len(known):
        return np.full((2, len(mean_scores)), np.nan)
    score = np.interp(np.arange(len(mean_scores)), known, mean_scores[known])
    return -np.log(np.maximum([1 - score, score], SMALLEST_PROBABILITY))
