"""Are labels those of chosen events? What can then be said, and what nobody can know.

Where only events with a positive decision are looked into, or where those are stopped so that nothing comes true of
them, labels come for one side of the threshold alone. Given the score they say what they always say: whether the
calibration holds. Of all events they say nothing: neither how many positives there are, nor how well scores tell them
from the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.core.label_checks import LabelCheck, check_labels, order_weights

if TYPE_CHECKING:
    from app.core.batches import Ints
    from models.reference import Counts, Reference

#: So many labels are missed on a side, at the other side's share, before their absence is no chance.
_MANY = 30.0
#: One side has so many times the other's share of labels, before it is said ...
_UNLIKE = 2.0
#: ... and so many standard errors more.
_SURE = 5.0
#: Fewer labels are not looked at.
_FEWEST = 10
#: A calibration with a smaller p-value is said to be off.
_LEVEL = 0.01


@dataclass(frozen=True)
class Selection:
    """How labels are spread over the two sides of the threshold; (below, at or above) each.

    ``labelled``: events with a label. ``events``: all. ``is_one_sided``: labels come of one side alone, in practice.
    ``check``: of the side with more labels, do they come out as the scores say?
    """

    threshold: float
    labelled: tuple[int, int]
    events: tuple[int, int]
    is_one_sided: bool
    check: LabelCheck

    @property
    def side(self) -> int:
        """The side with the larger share of labels: 0 below, 1 at or above the threshold."""
        below, above = (n / of for n, of in zip(self.labelled, self.events, strict=True))
        return int(above > below)

    def describe(self) -> str:
        """One or two sentences: what is so, what cannot be known, and what can."""
        where = ("below", "at or above")
        n, n_other = self.labelled[self.side], self.labelled[1 - self.side]
        of, of_other = self.events[self.side], self.events[1 - self.side]
        judged = f"The calibration {where[self.side]} it can{' and the precision can' if self.side else ''}: "
        p_value = self.check.p_direction
        holds = self.check.direction if p_value < _LEVEL else "as many positives as the scores say"
        holds = "too few labels to say" if math.isnan(p_value) else f"{holds} (p = {p_value:.2g})"
        if self.is_one_sided:
            others = "none" if not n_other else f"{n_other:,}"
            return (
                f"Labels come only of events scored {where[self.side]} {self.threshold:g} ({n:,} of {of:,}; of the"
                f" {of_other:,} others {others}): the AUC, the recall and the rate of positives of all events cannot be"
                f" known. {judged}{holds}."
            )
        return (
            f"Labels come of {n / of:.0%} of the events scored {where[self.side]} {self.threshold:g} and of"
            f" {n_other / of_other:.1%} of the others: the AUC and the rate of positives of the labelled events are not"
            f" those of all. {judged}{holds}."
        )


def find_selection(reference: Reference, counts: Counts) -> Selection | None:
    """Compare the shares of events with a label on both sides of the threshold; None: nothing sure is amiss.

    Examples
    --------
    See tests/unit/test_label_selection.py: labels at random, by decision, and of few events on one side.
    """
    cells, at = reference.score_cells, reference.threshold_cell
    scored, labels = counts.counts[-2, :cells], counts.outcomes.sum(axis=0)
    # Labels that came twice count once.
    events, labelled = (_by_side(each, at) for each in (np.maximum(scored, labels), labels))
    if not min(events) or sum(labelled) < _FEWEST:
        return None
    shares = [n / of for n, of in zip(labelled, events, strict=True)]
    side = int(shares[1] > shares[0])
    missed = events[1 - side] * shares[side]
    is_one_sided = missed >= _MANY and labelled[1 - side] <= 0.01 * missed
    common = sum(labelled) / sum(events)
    error = math.sqrt(common * (1 - common) * (1 / events[0] + 1 / events[1]))
    is_unlike = shares[side] >= _UNLIKE * shares[1 - side] and shares[side] - shares[1 - side] > _SURE * error
    if not (is_one_sided or (is_unlike and missed >= _MANY)):
        return None
    kept = slice(at, None) if side else slice(0, at)
    outcomes = reference.training.outcomes[:, kept]
    weights = order_weights(outcomes, reference.mean_scores[kept])
    check = check_labels(outcomes, counts.outcomes[:, kept], weights)
    return Selection(reference.threshold, labelled, events, is_one_sided, check)


def say_one_kind(reference: Reference, counts: Counts) -> str:
    """A sentence on labels that are all 0 or all 1, where many of the other kind are due; "" where they are not.

    The window is judged as its labels are: either that has come true, or nobody must miss that labels are not sent.
    """
    n = counts.outcomes.sum(axis=1)
    if min(n) or not max(n):
        return ""
    label = int(n[1] > 0)
    known, outcomes = reference.training.outcomes.sum(axis=0), reference.training.outcomes[1 - label]
    shares = np.where(known > 0, outcomes / np.maximum(known, 1), outcomes.sum() / max(int(known.sum()), 1))
    due = float(counts.outcomes[label] @ shares)
    if due < _MANY:
        return ""
    return (
        f"All {int(n[label]):,} labels are {label}, where their scores promise {due:,.0f} that are {1 - label}: either"
        f" there are none any more, or labels {1 - label} are no longer sent."
    )


def _by_side(of_cells: Ints, threshold_cell: int) -> tuple[int, int]:
    return int(of_cells[:threshold_cell].sum()), int(of_cells[threshold_cell:].sum())
